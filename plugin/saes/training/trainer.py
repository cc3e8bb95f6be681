"""One SAE in training: SAELens's trainer with a faster step, optional clipping, resampling of dead latents, a
history, and a state that holds no pickle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float
from sae_lens import SAETrainer, TrainingSAE
from sae_lens.config import SAETrainerConfig
from sae_lens.training.activation_scaler import ActivationWhitening
from sae_lens.training.optim import get_lr_scheduler
from torch import Tensor

from graticule.hooks.streams.base import Stream
from graticule.saes.architectures import BiasStart, start_bias
from graticule.saes.resampling import Resampler
from graticule.saes.steps.fast import fast_step, make_optimizer
from graticule.saes.steps.step import StepOutput
from graticule.saes.training.run import History

_COUNTERS = ("n_training_steps", "n_training_samples", "n_frac_active_samples", "started_fine_tuning")
_COUNTS = ("act_freq_scores", "n_forward_passes_since_fired")


class DivergedError(ValueError):
    """The loss is no longer a number."""


class Trainer(SAETrainer[Any, Any]):
    """One SAE's optimiser, schedules, statistics and history: SAELens's `SAETrainer`, with a public `step`.

    The loss, its gradients and the update are SAELens's to rounding; only the way they are computed differs
    (`graticule.saes.steps`). Norm clipping, built into SAELens's step at 1, is a setting.
    """

    def __init__(
        self,
        cfg: SAETrainerConfig,
        sae: TrainingSAE[Any],
        data_provider: Iterator[Tensor] | None = None,
        *,
        clip_grad_norm: float = 1.0,
        compute_dtype: torch.dtype | None = None,
        b_dec_init_method: BiasStart = "geometric_median",
        resampler: Resampler | None = None,
        name: str = "",
    ) -> None:
        """A trainer of `sae` on `cfg.device`.

        Args:
            cfg: SAELens's settings.
            sae: the SAE, whose metadata names its hook point.
            data_provider: only serves SAELens's own `fit`.
            clip_grad_norm: the norm that gradients are clipped to; 0 leaves them.
            compute_dtype: dtype of the dense products, None for the SAE's own.
            b_dec_init_method: what `first_look` starts the decoder's bias at.
            resampler: brings dead latents back in `advance`, where that is asked for.
            name: of one SAE among several.
        """
        if cfg.lr_end is None:
            cfg.lr_end = cfg.lr / 10  # SAELens's runner sets it, its trainer only asserts that somebody did
        super().__init__(cfg, sae.to(cfg.device), data_provider or iter(()))
        self.clip_grad_norm = clip_grad_norm
        self.b_dec_init_method: BiasStart = b_dec_init_method
        self.resampler, self.name = resampler, name
        self.history = History()
        self.optimizer = make_optimizer(sae, cfg.lr, (cfg.adam_beta1, cfg.adam_beta2))
        self.lr_scheduler = get_lr_scheduler(
            cfg.lr_scheduler_name,
            lr=cfg.lr,
            optimizer=self.optimizer,
            warm_up_steps=cfg.lr_warm_up_steps,
            decay_steps=cfg.lr_decay_steps,
            training_steps=cfg.total_training_steps,
            lr_end=cfg.lr_end,
            num_cycles=cfg.n_restart_cycles,
        )
        self._forward_backward = fast_step(
            sae, compute_dtype=compute_dtype, dead_feature_window=cfg.dead_feature_window
        )
        self._finite = torch.ones((), dtype=torch.bool, device=cfg.device)

    @property
    def point(self) -> str:
        """The hook point that the SAE is trained at."""
        return str(self.sae.cfg.metadata.hook_name)

    # A step ------------------------------------------------------------------------------------------
    def advance(self, batch: Float[Tensor, "row d_in"], stream: Stream, seed: int) -> StepOutput:
        """One step, counted, and a resampling where it is due, from rows that `stream` draws with `seed`."""
        output: StepOutput = self.step(batch)
        self.n_training_steps += 1
        if self.resampler is not None:
            self.resampler.observe(self.n_training_steps, output.fired)
            if self.resampler.due(self.n_training_steps):
                self._resample(self.resampler, stream, seed)
        return output

    def _resample(self, resampler: Resampler, stream: Stream, seed: int) -> None:
        step = self.n_training_steps
        rows = stream.sample(resampler.config.sample_size, seed + step)[self.point]
        rows = self.activation_scaler(rows.to(self.sae.device, self.sae.dtype))
        record = resampler.resample(self.sae, self.optimizer, rows, step, self.get_coefficients())
        latents = torch.tensor(record.latents, dtype=torch.int64, device=self.cfg.device)
        silent: Any = self.n_forward_passes_since_fired
        silent.index_fill_(0, latents, 0)
        self.history.events.append({"event": "resampled", **asdict(record)})

    def step(self, batch: Float[Tensor, "row d_in"]) -> Any:
        """One update on rows as the stream gives them; returns a `StepOutput`."""
        # a stream in half precision is scaled in the SAE's own
        return super().step(batch.to(self.sae.device, self.sae.dtype))

    def _train_step(self, sae: TrainingSAE[Any], sae_in: Tensor) -> Any:
        """One update on a scaled batch, in SAELens's order; returns a `StepOutput`."""
        sae.train()
        output = self._forward_backward(sae_in, self.n_forward_passes_since_fired, self.get_coefficients())
        self._count(output, len(sae_in))
        if self.clip_grad_norm:
            torch.nn.utils.clip_grad_norm_(sae.parameters(), self.clip_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.lr_scheduler.step()
        for scheduler in self.coefficient_schedulers.values():
            scheduler.step()
        return output

    @torch.no_grad()
    def _count(self, output: StepOutput, rows: int) -> None:
        self.n_forward_passes_since_fired += 1
        self.n_forward_passes_since_fired.masked_fill_(output.fired > 0, 0)  # waits for no device
        self.act_freq_scores += output.fired.to(self.act_freq_scores.dtype)
        self.n_frac_active_samples += rows
        self._finite &= output.loss.isfinite()

    def check_finite(self, weights: bool = False) -> None:
        """Wait for the device, and see whether every loss so far was a number.

        Raises:
            DivergedError: if one was not, or with `weights` if a weight is none.
        """
        what = "" if bool(self._finite) else "loss"
        if not what and weights and not all(bool(p.isfinite().all()) for p in self.sae.parameters()):
            what = "SAE"
        if what:
            lr = self.optimizer.param_groups[0]["lr"]
            raise DivergedError(f"the {what} is no longer finite at step {self.n_training_steps} (lr {lr:g})")

    def maybe_reset_sparsity(self) -> dict[str, Any]:
        """As SAELens's, but its histograms are drawn only where they are logged."""
        if self.cfg.logger.log_to_wandb:
            return super().maybe_reset_sparsity()
        if self.n_training_steps and self.n_training_steps % self.cfg.feature_sampling_window == 0:
            self._reset_running_sparsity_stats()
        return {}

    # Before and after the steps ----------------------------------------------------------------------
    @torch.no_grad()
    def first_look(self, rows: Tensor) -> None:
        """Estimate norms from `rows` `[row, d_in]`, and start the decoder's bias at their centre.

        Raises:
            ValueError: where rows have another width than the SAE reads.
        """
        if rows.ndim != 2 or rows.shape[1] != self.sae.cfg.d_in:
            raise ValueError(
                f"{self.point}: the stream gives rows {tuple(rows.shape)}, the SAE reads "
                f"[row, {self.sae.cfg.d_in}]"
            )
        rows = rows.to(self.sae.device, self.sae.dtype)
        self.estimate_scale(rows)
        start_bias(self.sae, self.activation_scaler(rows), self.b_dec_init_method)

    def estimate_scale(self, rows: Float[Tensor, "row d_in"]) -> None:
        """Estimate what `normalize_activations` asks for from `rows`, with SAELens's own estimators."""
        kind = self.sae.cfg.normalize_activations
        given: dict[str, Any] = {
            "d_in": self.sae.cfg.d_in,
            "data_provider": iter([rows]),
            "n_batches_for_norm_estimate": 1,
        }
        if kind == "expected_average_only_in" and self.activation_scaler.scaling_factor is None:
            self.activation_scaler.estimate_scaling_factor(**given)
        elif kind == "covariance_whitening" and self.activation_scaler.whitening is None:
            self.activation_scaler.estimate_whitening(**given)

    def finish(self, stream_factor: float = 1.0) -> None:
        """Fold all scaling into the weights; `stream_factor` is what the stream has multiplied its rows with
        itself. The end of this trainer."""
        self.unbias_threshold()
        self.fold_scale()
        if stream_factor != 1.0:
            self.sae.fold_activation_norm_scaling_factor(stream_factor)
        self.set_final_sae_metadata()

    def unbias_threshold(self) -> None:
        """Take out what is left of the 0 that BatchTopK's running mean of thresholds starts at, as Adam does
        with its moments. SAELens leaves it: after 64 steps at its rate of .01 half of the threshold is
        missing, and the saved SAE lets many times k latents fire."""
        sae: Any = self.sae
        rate = getattr(sae.cfg, "topk_threshold_lr", None)
        if rate and self.n_training_steps:
            sae.topk_threshold = sae.topk_threshold / (1 - (1 - rate) ** self.n_training_steps)

    def fold_scale(self) -> None:
        """Fold the scaling into the weights, as `fit` does at its end."""
        scaler = self.activation_scaler
        if scaler.scaling_factor is not None:
            self.sae.fold_activation_norm_scaling_factor(scaler.scaling_factor)
            scaler.scaling_factor = None
        if scaler.whitening is not None:
            white = scaler.whitening
            self.sae.fold_activation_whitening(
                mean=white.mean, whitening_matrix=white.matrix, unwhitening_matrix=white.inverse_matrix
            )
            scaler.whitening = None

    # State -------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        white = self.activation_scaler.whitening
        return {
            "sae": dict(self.sae.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "coefficients": {n: s.state_dict() for n, s in self.coefficient_schedulers.items()},
            "scaling_factor": self.activation_scaler.scaling_factor,
            "whitening": None if white is None else [white.mean, white.matrix, white.inverse_matrix],
            **{name: getattr(self, name) for name in (*_COUNTERS, *_COUNTS)},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, to the bit on the same device and versions."""
        self.sae.load_state_dict(state["sae"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.lr_scheduler.load_state_dict(state["lr_scheduler"])
        for name, scheduler in state["coefficients"].items():
            self.coefficient_schedulers[name].load_state_dict(scheduler)
        self.activation_scaler.scaling_factor = state["scaling_factor"]
        if state["whitening"] is not None:
            self.activation_scaler.whitening = ActivationWhitening(*state["whitening"])
        for name in _COUNTERS:
            setattr(self, name, state[name])
        for name in _COUNTS:
            setattr(self, name, state[name].to(self.cfg.device))

    def whole_state(self) -> dict[str, Any]:
        """The same with what was logged and when latents last fired: this SAE's part of a checkpoint."""
        return {
            "trainer": self.state_dict(),
            "history": self.history.state_dict(),
            "resampler": None if self.resampler is None else self.resampler.state_dict(),
        }

    def load_whole_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a `whole_state`."""
        self.load_state_dict(state["trainer"])
        self.history.load_state_dict(state["history"])
        if self.resampler is not None:
            device = self.cfg.device  # a checkpoint's tensors are on the CPU
            resampler = state["resampler"].items()
            self.resampler.load_state_dict(
                {k: v.to(device) if isinstance(v, Tensor) else v for k, v in resampler}
            )

    def line(self, output: StepOutput) -> dict[str, float]:
        """What the history keeps of a step: loss and its terms, L0, explained variance, dead latents;
        learning rate and coefficients as SAELens logs them, after the schedulers' step."""
        values: dict[str, Any] = {
            "step": self.n_training_steps,
            "tokens": self.n_training_samples,
            "loss": output.loss,
            **output.losses,
            "l0": output.l0,
            "explained_variance": output.explained_variance,
            "dead": self.dead_neurons.sum(),
            "lr": self.optimizer.param_groups[0]["lr"],
            **{f"{name}_coefficient": value for name, value in self.get_coefficients().items()},
        }
        return {name: float(value) for name, value in values.items()}
