"""The settings of a training run: the SAE's config by name, how fast and how carefully, and the defaults."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from sae_lens import TrainingSAEConfig
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY, get_sae_training_class
from sae_lens.saes.sae import SAEMetadata

from graticule.hooks.limits import LIMITS, check_limits
from graticule.hooks.processor import auto_dtype, described, tell_if_slow
from graticule.saes.architectures import ARCHITECTURE, BiasStart
from graticule.saes.resampling import ResamplingConfig

_log = logging.getLogger(__name__)

Schedule = Literal["constant", "cosineannealing", "cosineannealingwarmrestarts"]
"""SAELens's `lr_scheduler_name`."""
ALIASES = {"matryoshka": "matryoshka_batchtopk"}
"""Short names of architectures."""
EXPANSION = 8
"""Latents per dimension where `d_sae` is not given."""
_L1 = ("l1_coefficient", "l0_coefficient")
_WARM_UPS = ("l1_warm_up_steps", "l0_warm_up_steps")
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

        Raises:
            ValueError: for a rate, a schedule or a window that cannot be.
        """
        paper = architecture == ARCHITECTURE
        lr = (1e-4 if paper else 3e-4) if self.lr is None else self.lr
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
        if self.lr_scheduler_name not in get_args(Schedule):
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


def resampling_plan(
    architecture: str, given: ResamplingConfig | Mapping[str, Any] | str | None, steps: int, seed: int
) -> ResamplingConfig | None:
    """The resampling of a run of `steps` steps: `given`, or by `"default"` the paper's for `bricken` and none
    for others. The paper resamples in the first tenth of a long run; a short one gets the same four in its
    first half, a latent being dead after half the time between them.

    Raises:
        ValueError: for another word, or for a field that `ResamplingConfig` does not have.
    """
    if given is None or isinstance(given, ResamplingConfig):
        return given
    if isinstance(given, str):
        if given != "default":
            raise ValueError(f"resampling={given!r}: expected 'default', None or a ResamplingConfig")
        if architecture != ARCHITECTURE or steps < 8:
            return None
        if steps >= 200_000:
            return ResamplingConfig(seed=seed)
        every = steps // 8
        return ResamplingConfig(
            steps=tuple(every * i for i in range(1, 5)), window=max(1, every // 2), seed=seed
        )
    names = {field.name for field in dataclasses.fields(ResamplingConfig)}
    if set(given) - names:
        unknown = ", ".join(sorted(set(given) - names))
        raise ValueError(f"resampling has no setting {unknown}; it has {', '.join(sorted(names))}")
    settings: dict[str, Any] = {"seed": seed, **given}
    return ResamplingConfig(**settings)


def compute_type(name: str | torch.dtype | None, device: str = "cpu") -> torch.dtype | None:
    """The dtype of dense products on `device`; None for the SAE's own. `"auto"` is what is faster there.

    Warns where bfloat16 is slower than float32 on this machine.

    Raises:
        ValueError: for another name.
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


# The SAE's config --------------------------------------------------------------------------------------
def architectures() -> tuple[str, ...]:
    """The names that `sae_config` understands."""
    return tuple(dict.fromkeys([ARCHITECTURE, *sorted(SAE_TRAINING_CLASS_REGISTRY), *ALIASES]))


def sae_config(
    architecture: str,
    d_in: int,
    d_sae: int | None = None,
    *,
    k: float | int | None = None,
    l1: float | int | None = None,
    **fields: Any,
) -> TrainingSAEConfig:
    """The training config of an architecture, SAELens's own class.

    Args:
        architecture: `bricken`, `topk`, `batchtopk`, `jumprelu`, `standard`, `gated`, `matryoshka`, or any
            other name in SAELens's registry of training classes.
        d_in: width of the hook point.
        d_sae: number of latents; 8 × `d_in` by default.
        k: latents per row (`topk`), or per row on average (`batchtopk`, `matryoshka`).
        l1: weight of the sparsity penalty (`l1_coefficient`; for `jumprelu` `l0_coefficient`).
        fields: any other field of that config class.

    Matryoshka's widths are d_sae / 8, / 4, / 2 and d_sae unless given.

    Raises:
        ValueError: for an unknown architecture, for `k` or `l1` where it has none, or for a field that the
            class does not have.
    """
    name = ALIASES.get(architecture, architecture)
    if name not in SAE_TRAINING_CLASS_REGISTRY:
        raise ValueError(f"architecture {architecture!r}: expected one of {', '.join(architectures())}")
    kind = get_sae_training_class(name)[1]
    names = {field.name for field in dataclasses.fields(kind)}
    check_limits(d_sae=d_sae, k=k, l1=l1)
    width = EXPANSION * d_in if d_sae is None else d_sae
    given: dict[str, Any] = dict(fields) | {"d_in": d_in, "d_sae": width}
    if k is not None:
        given["k"] = int(k) if k == int(k) else k
    if l1 is not None:
        given[next((field for field in _L1 if field in names), "l1")] = l1
    if unknown := sorted(set(given) - names):
        has = ", ".join(sorted(names - {"d_in", "metadata"}))
        raise ValueError(f"architecture {architecture!r} has no setting {', '.join(unknown)}; it has {has}")
    if "matryoshka_widths" in names and not given.get("matryoshka_widths"):
        given["matryoshka_widths"] = sorted({w for w in (width // 8, width // 4, width // 2, width) if w})
    if name in ("topk", "abstopk") and not isinstance(given.get("k", 1), int):
        raise ValueError(f"k={given['k']}: {name} keeps a whole number of latents a row")
    return kind(**given)


def _checked(config: TrainingSAEConfig) -> TrainingSAEConfig:
    """The config, if its numbers can be."""
    names = ("d_sae", "k", "l1_coefficient", "l0_coefficient", *_WARM_UPS)
    check_limits(**{name: getattr(config, name, None) for name in names})
    if (k := getattr(config, "k", None)) is not None and k > config.d_sae:
        raise ValueError(f"k={k}: at most the {config.d_sae} latents (d_sae) can be active a row")
    return config


def as_config(given: Any, d_in: int) -> TrainingSAEConfig:
    """A SAELens training config, an architecture's name, or a mapping of `sae_config`'s arguments, for a
    point of width `d_in`.

    Raises:
        ValueError: for a config of another width, or with a number out of its range, and as `sae_config`.
        TypeError: for anything else.
    """
    if isinstance(given, TrainingSAEConfig):
        if given.d_in != d_in:
            raise ValueError(f"the config's d_in is {given.d_in}, the hook point is {d_in} wide")
        return _checked(given)
    if isinstance(given, str):
        return _checked(sae_config(given, d_in))
    if isinstance(given, Mapping):
        settings = {str(key): value for key, value in given.items()}
        if "architecture" not in settings:
            raise ValueError(f"a config without 'architecture': {', '.join(settings)}")
        if settings.pop("d_in", d_in) != d_in:
            raise ValueError(f"the config's d_in is {given['d_in']}, the hook point is {d_in} wide")
        return _checked(sae_config(settings.pop("architecture"), d_in, **settings))
    raise TypeError(
        f"config is a {type(given).__name__}: give a SAELens TrainingSAEConfig, an architecture's name, or "
        "a mapping like {'architecture': 'topk', 'd_sae': 4096, 'k': 32}"
    )


def warmed_up(config: TrainingSAEConfig, steps: int) -> TrainingSAEConfig:
    """The config with its sparsity penalty warmed up over `steps`, where it has one that is not warmed up."""
    cold = {name: steps for name in _WARM_UPS if getattr(config, name, None) == 0}
    return dataclasses.replace(config, **cold) if cold else config


def with_metadata(config: TrainingSAEConfig, metadata: Mapping[str, Any], device: str) -> TrainingSAEConfig:
    """A copy of the config that says what it is trained on; the caller's own is left as it is."""
    own = {k: v for k, v in config.metadata.items() if not k.startswith("training_architecture")}
    changes: dict[str, Any] = {"metadata": SAEMetadata(**{**own, **metadata}), "device": device}
    if str(metadata["hook_name"]).endswith("hook_z"):
        changes["reshape_activations"] = "hook_z"  # streams flatten heads, a model's hook does not
    return dataclasses.replace(config, **changes)
