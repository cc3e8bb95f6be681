"""Resampling of dead latents, as Bricken et al. 2023 do it (appendix "Neuron resampling").

At a few set steps every latent that did not fire for a while is pointed at an input that the autoencoder
reconstructs badly:

1. dead: it fired on no row of the last `window` steps;
2. the loss of each of a large random sample of inputs is computed;
3. an input's chance is proportional to the square of its loss;
4. each dead latent draws an input; its decoder row becomes that input at unit norm;
5. its encoder column becomes the same direction at `encoder_scale` times the alive latents' mean encoder
   norm, its bias zero;
6. Adam's moments of every entry that changed become zero.

The loss jumps at these steps and falls again; resampling too often diverges, as the authors warn.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Shaped
from sae_lens import JumpReLUTrainingSAE, StandardTrainingSAE, TrainingSAE
from torch import Tensor
from torch.optim import Optimizer

from graticule.hooks.saved import decode
from graticule.saes.architectures import BrickenTrainingSAE

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResamplingConfig:
    """When and how dead latents are resampled; the defaults are the paper's."""

    steps: tuple[int, ...] = (25_000, 50_000, 75_000, 100_000)
    """After how many finished steps."""
    window: int = 12_500
    """A latent is dead that fired in none of this many steps before."""
    sample_size: int = 819_200
    """Inputs whose loss is computed: the rows that `Resampler.resample` is to be given."""
    encoder_scale: float = 0.2
    """Norm of a new encoder column, in mean norms of alive ones."""
    subtract_bias: bool = False
    """Take directions from the input less the decoder's bias. Not in the paper, whose activations are ReLU
    outputs; where activations have a large mean, new latents would else all point along it."""
    batch_size: int = 8192
    """Inputs evaluated at once."""
    seed: int = 0
    """Of the draws; with the step it determines them, so that a resumed run draws the same."""

    def __post_init__(self) -> None:
        if any(step < 1 for step in self.steps):
            raise ValueError(f"steps={self.steps}: counts of finished steps, from 1 on")
        for name in ("window", "sample_size", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least 1")
        if self.encoder_scale <= 0:
            raise ValueError(f"encoder_scale={self.encoder_scale}: expected a positive number")


@dataclass(frozen=True)
class ResampleRecord:
    """What one resampling did."""

    step: int
    """After how many finished steps."""
    dead_before: int
    """Latents that were dead, all of which were resampled."""
    latents: tuple[int, ...]
    """Which they were."""
    inputs: tuple[int, ...]
    """For each, the row of the sample that it now points at."""
    sample_size: int
    """Rows that the inputs were drawn from."""
    mean_loss: float
    """Their mean loss before; NaN where nothing was dead and no loss was computed."""
    encoder_norm: float
    """Norm of the new encoder columns; NaN where nothing was dead."""


class Resampler:
    """Watches which latents fire, and resamples the dead ones when it is time.

    A step's number is that of steps finished with it: the first is 1. Call `observe` after every step, and
    where `due` says so `resample`, after the optimiser's step.
    """

    def __init__(self, config: ResamplingConfig | None = None) -> None:
        self.config = config or ResamplingConfig()
        self.records: list[ResampleRecord] = []
        self._last_fired: Tensor | None = None

    @torch.no_grad()
    def observe(self, step: int, fired: Shaped[Tensor, " d_sae"]) -> None:
        """Note which latents fired in this step: those whose count is above zero."""
        if self._last_fired is None:
            self._last_fired = torch.zeros(len(fired), dtype=torch.int64, device=fired.device)
        self._last_fired.masked_fill_(fired > 0, step)

    def due(self, step: int) -> bool:
        """Whether to resample once this many steps are finished."""
        return step in self.config.steps

    def dead(self, step: int) -> Shaped[Tensor, " d_sae"]:
        """Which latents fired in none of the last `window` steps, or, earlier on, not since the start.

        Raises:
            ValueError: before anything was observed.
        """
        if self._last_fired is None:
            raise ValueError("no step was observed yet: call observe(step, fired) after every step")
        return self._last_fired <= max(step - self.config.window, 0)

    @torch.no_grad()
    def resample(
        self,
        sae: TrainingSAE[Any],
        optimizer: Optimizer,
        rows: Float[Tensor, "row d_in"],
        step: int,
        coefficients: Mapping[str, float] | None = None,
    ) -> ResampleRecord:
        """Point every dead latent at one of `rows`: a random sample of inputs, as the SAE sees them.

        Their losses are the training loss of each row alone, with `coefficients` by SAELens's names (their
        final values if not given). Resampled latents count as having fired at `step`.

        Raises:
            ValueError: without rows, where losses are not finite, or before anything was observed.
        """
        dead = self.dead(step).nonzero().squeeze(1).to(sae.W_dec.device)
        record = ResampleRecord(step, len(dead), (), (), len(rows), float("nan"), float("nan"))
        if len(dead):
            losses = sae_row_losses(sae, rows, self.config.batch_size, coefficients)
            inputs = self._draw(losses, len(dead), step)
            scale = self._alive_norm(sae, dead) * self.config.encoder_scale
            directions = rows[inputs.to(rows.device)].to(sae.W_dec)
            if self.config.subtract_bias:
                directions = directions - sae.b_dec
            directions = directions / directions.norm(dim=1, keepdim=True).clamp_min(1e-12)
            _point(sae, optimizer, dead, directions, scale)
            assert self._last_fired is not None  # `dead` has raised otherwise
            self._last_fired[dead.to(self._last_fired.device)] = step
            record = replace(
                record,
                latents=tuple(dead.tolist()),
                inputs=tuple(inputs.tolist()),
                mean_loss=float(losses.mean()),
                encoder_norm=float(scale),
            )
        self.records.append(record)
        _log.info("step %d: %d dead latents resampled", step, len(dead))
        return record

    def _draw(self, losses: Tensor, count: int, step: int) -> Tensor:
        """Rows drawn independently, each with a chance proportional to its squared loss."""
        reached = losses.double().cpu().square().cumsum(0)
        if not len(reached) or not bool(reached[-1].isfinite()):
            raise ValueError(
                f"{len(losses)} sampled inputs with a sum of squared losses that is "
                f"{'nothing' if not len(reached) else float(reached[-1])}: give rows with finite losses"
            )
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)
        at = torch.rand(count, generator=generator, dtype=torch.float64) * reached[-1]
        return torch.searchsorted(reached, at, right=True).clamp_max(len(reached) - 1)

    def _alive_norm(self, sae: TrainingSAE[Any], dead: Tensor) -> Tensor:
        norms = sae.W_enc.norm(dim=0)
        alive = torch.ones_like(norms, dtype=torch.bool)
        alive[dead] = False
        return norms[alive].mean() if bool(alive.any()) else norms.mean()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: the steps at which latents last fired, and the records."""
        state: dict[str, Any] = {"records": [asdict(record) for record in self.records]}
        if self._last_fired is not None:
            state["last_fired"] = self._last_fired.clone()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`; its lists may come from JSON."""
        self.records = [decode(record, ResampleRecord) for record in state["records"]]
        last = state.get("last_fired")
        self._last_fired = None if last is None else last.clone()


@torch.no_grad()
def sae_row_losses(
    sae: TrainingSAE[Any],
    rows: Float[Tensor, "row d_in"],
    batch_size: int = 8192,
    coefficients: Mapping[str, float] | None = None,
) -> Float[Tensor, " row"]:
    """The training loss of each row alone, without auxiliary terms that are not a row's own.

    `bricken`: mean squared error plus λ‖f‖₁. `standard`: SAELens's summed squared error and penalty. Other
    architectures: the summed squared error. Squares of losses are compared within one SAE only, so the
    conventions need not agree.
    """
    losses: list[Tensor] = []
    for part in rows.split(batch_size):
        x = part.to(device=sae.device, dtype=sae.dtype)
        acts = sae.encode(x)
        loss = sae.mse_loss_fn(sae.decode(acts), x).sum(-1)
        if isinstance(sae, BrickenTrainingSAE):
            loss = loss + _l1(sae, coefficients) * acts.sum(-1)
        elif isinstance(sae, StandardTrainingSAE):
            penalty = (acts * sae.W_dec.norm(dim=1)).norm(p=sae.cfg.lp_norm, dim=-1)
            loss = loss + _l1(sae, coefficients) * penalty
        losses.append(loss)
    return torch.cat(losses) if losses else rows.new_zeros(0)


def _l1(sae: StandardTrainingSAE | BrickenTrainingSAE, given: Mapping[str, float] | None) -> float:
    return (given or {}).get("l1", sae.cfg.l1_coefficient)


def _point(
    sae: TrainingSAE[Any], optimizer: Optimizer, dead: Tensor, directions: Tensor, norm: Tensor
) -> None:
    """Set the dead latents' weights, and Adam's moments of them to zero."""
    sae.W_dec[dead] = directions
    sae.W_enc[:, dead] = (directions * norm).t()
    _forget(optimizer, sae.W_dec, (dead,))
    _forget(optimizer, sae.W_enc, (slice(None), dead))
    threshold = sae.cfg.jumprelu_init_threshold if isinstance(sae, JumpReLUTrainingSAE) else 0.0
    starts = dict.fromkeys(("b_enc", "b_gate", "b_mag", "r_mag"), 0.0)
    for name, start in {**starts, "threshold": threshold}.items():
        parameter = getattr(sae, name, None)
        if isinstance(parameter, torch.nn.Parameter):
            parameter[dead] = start
            _forget(optimizer, parameter, (dead,))


def _forget(optimizer: Optimizer, parameter: Tensor, where: tuple[Any, ...]) -> None:
    for value in optimizer.state.get(parameter, {}).values():
        if isinstance(value, Tensor) and value.shape == parameter.shape:  # the moments, not the step count
            value[where] = 0
