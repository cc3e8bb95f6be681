"""How fast and how carefully: the settings of a training run, and what they are where none is given."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from sae_lens.config import LoggingConfig, SAETrainerConfig

from graticule.hooks.limits import LIMITS, check_limits
from graticule.hooks.processor import auto_dtype, described, tell_if_slow
from graticule.saes.architectures import BiasStart
from graticule.saes.resampling import ResamplingConfig

_log = logging.getLogger(__name__)

Schedule = Literal["constant", "cosineannealing", "cosineannealingwarmrestarts"]
"""SAELens's `lr_scheduler_name`."""

_PAPER = "bricken"
_LR = {_PAPER: 1e-4}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Optimisation:
    """The optimiser's settings, under SAELens's names; None is the architecture's default."""

    lr: float | None = None
    """Learning rate of Adam: 3e-4, SAELens's default; 1e-4 for `bricken`, whose paper gives none."""
    lr_end: float | None = None
    """Where an annealing schedule ends: `lr` / 10, as SAELens's runner has it."""
    lr_scheduler_name: Schedule = "constant"
    """The schedule between warm-up and decay."""
    lr_warm_up_steps: int | None = None
    """Steps from 0 to `lr`: a twentieth of the run, at most 1,000; none for `bricken`."""
    lr_decay_steps: int | None = None
    """Last steps, down to 0: a fifth of the run; none for `bricken`."""
    n_restart_cycles: int = 1
    """Cycles of `cosineannealingwarmrestarts`."""
    sparsity_warm_up_steps: int | None = None
    """Steps from 0 to the whole L1 or L0 coefficient, where the config names none itself: a twentieth of the
    run; none for `bricken`."""
    adam_beta1: float = 0.9
    """Adam's decay of the mean gradient."""
    adam_beta2: float = 0.999
    """Adam's decay of the mean squared gradient."""
    clip_grad_norm: float | None = None
    """Norm that gradients are clipped to, 0 for none: 1, which SAELens has built in; 0 for `bricken`."""
    b_dec_init_method: BiasStart = "geometric_median"
    """What the decoder's bias starts at, where it is subtracted from the input: the geometric median of the
    first rows, as in the paper, their `mean`, or `zeros`, as SAELens has it. Residual streams have a mean
    many times as long as what varies; from zeros most latents die while they learn it."""
    dead_feature_window: int | None = None
    """Steps without firing after which a latent counts as dead: 1,000, SAELens's default, or a quarter of a
    shorter run; 12,500 or a quarter for `bricken`, the paper's."""
    feature_sampling_window: int = 2000
    """Steps over which firing frequencies are counted, SAELens's default."""

    def resolved(self, architecture: str, steps: int) -> Optimisation:
        """Every None as its default, for a run of `steps` steps.

        **Raises** `ValueError` for a rate, a schedule or a window that cannot be.
        """
        paper = architecture == _PAPER
        lr = _LR.get(architecture, 3e-4) if self.lr is None else self.lr
        window = 12_500 if paper else 1_000
        defaults = {
            "lr_end": lr / 10,
            "lr_warm_up_steps": 0 if paper else min(1_000, steps // 20),
            "lr_decay_steps": 0 if paper else steps // 5,
            "sparsity_warm_up_steps": 0 if paper else steps // 20,
            "clip_grad_norm": 0.0 if paper else 1.0,
            "dead_feature_window": min(window, max(1, steps // 4)),
        }
        missing = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        out = dataclasses.replace(self, lr=lr, **missing)
        out._check(steps)
        return out

    def _check(self, steps: int) -> None:
        check_limits(**{name: value for name, value in vars(self).items() if name in LIMITS})
        busy = (self.lr_warm_up_steps or 0) + (self.lr_decay_steps or 0)
        if self.lr_scheduler_name not in ("constant", "cosineannealing", "cosineannealingwarmrestarts"):
            raise ValueError(
                f"lr_scheduler_name={self.lr_scheduler_name!r}: expected constant, cosineannealing or "
                "cosineannealingwarmrestarts"
            )
        if self.b_dec_init_method not in get_args(BiasStart):
            raise ValueError(
                f"b_dec_init_method={self.b_dec_init_method!r}: expected {', '.join(get_args(BiasStart))}"
            )
        if busy > steps:
            raise ValueError(
                f"warm-up and decay take {busy} steps, the run has {steps}: lower lr_warm_up_steps or "
                "lr_decay_steps, or train on more tokens"
            )
        if self.lr_scheduler_name != "constant" and self.lr_decay_steps and self.lr_end == 0:
            raise ValueError("lr_end=0 leaves nothing to decay: give lr_decay_steps=0, or an lr_end above 0")

    def trainer_config(
        self, n_tokens: int, batch_size: int, device: str, logger: LoggingConfig | None
    ) -> SAETrainerConfig:
        """These settings (resolved ones) as SAELens's own trainer config."""
        names = {f.name for f in dataclasses.fields(SAETrainerConfig)}
        given: dict[str, Any] = {k: v for k, v in dataclasses.asdict(self).items() if k in names}
        return SAETrainerConfig(
            total_training_samples=n_tokens,
            train_batch_size_samples=batch_size,
            device=device,
            logger=logger or LoggingConfig(log_to_wandb=False),
            **given,
        )


OPTIMISATION = frozenset(field.name for field in dataclasses.fields(Optimisation))
"""Names of the optimiser's settings."""


def split_settings(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What of a config's mapping is the optimiser's, and the rest."""
    ours = {name: value for name, value in given.items() if name in OPTIMISATION}
    return ours, {name: value for name, value in given.items() if name not in OPTIMISATION}


def resampling_plan(
    architecture: str, given: ResamplingConfig | Mapping[str, Any] | str | None, steps: int, seed: int
) -> ResamplingConfig | None:
    """The resampling of a run of `steps` steps: `given`, or by `"default"` the paper's for `bricken` and none
    for others. The paper resamples in the first tenth of a long run; a short one gets the same four in its
    first half, a latent being dead after half the time between them.

    **Raises** `ValueError` for another word, or for a field that `ResamplingConfig` does not have.
    """
    if given is None or isinstance(given, ResamplingConfig):
        return given
    if isinstance(given, str):
        if given != "default":
            raise ValueError(f"resampling={given!r}: expected 'default', None or a ResamplingConfig")
        if architecture != _PAPER or steps < 8:
            return None
        if steps >= 200_000:
            return ResamplingConfig(seed=seed)
        every = steps // 8
        return ResamplingConfig(
            steps=tuple(every * i for i in range(1, 5)), window=max(1, every // 2), seed=seed
        )
    known = {field.name for field in dataclasses.fields(ResamplingConfig)}
    if set(given) - known:
        unknown = ", ".join(sorted(set(given) - known))
        raise ValueError(f"resampling has no setting {unknown}; it has {', '.join(sorted(known))}")
    settings: dict[str, Any] = {"seed": seed, **given}
    return ResamplingConfig(**settings)


def compute_type(name: str | torch.dtype | None, device: str = "cpu") -> torch.dtype | None:
    """The dtype of dense products on `device`; None for the SAE's own. `"auto"` is what is faster there.

    Warns where bfloat16 is slower than float32 on this machine.

    **Raises** `ValueError` for another name.
    """
    kind = name
    if isinstance(name, str):
        if name != "auto" and name not in _DTYPES:
            raise ValueError(f"compute_dtype={name!r}: expected {', '.join(_DTYPES)} or auto")
        kind = auto_dtype(device) if name == "auto" else _DTYPES[name]
        if name == "auto":
            _log.info("computing in %s on %s", str(kind).removeprefix("torch."), described(device))
    if kind is None or kind == torch.float32:
        return None
    assert isinstance(kind, torch.dtype)
    tell_if_slow(kind, device, "training")
    return kind
