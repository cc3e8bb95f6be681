"""SAELens's training configs by name: what a command line or a notebook says, as the object trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from sae_lens import TrainingSAEConfig
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY, get_sae_training_class
from sae_lens.saes.sae import SAEMetadata

from graticule.hooks.limits import check_limits
from graticule.saes.architectures import ARCHITECTURE as BRICKEN

ALIASES = {"matryoshka": "matryoshka_batchtopk"}
"""Short names of architectures."""
EXPANSION = 8
"""Latents a dimension where `d_sae` is not given."""
_L1 = ("l1_coefficient", "l0_coefficient")
_WARM_UPS = ("l1_warm_up_steps", "l0_warm_up_steps")


def architectures() -> tuple[str, ...]:
    """The names that `sae_config` understands."""
    return tuple(dict.fromkeys([BRICKEN, *sorted(SAE_TRAINING_CLASS_REGISTRY), *ALIASES]))


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

    Arguments:
        architecture: `bricken`, `topk`, `batchtopk`, `jumprelu`, `standard`, `gated`, `matryoshka`, or any
            other name in SAELens's registry of training classes.
        d_in: width of the hook point.
        d_sae: number of latents; 8 × `d_in` by default.
        k: latents a row (`topk`), or a row on average (`batchtopk`, `matryoshka`).
        l1: weight of the sparsity penalty (`l1_coefficient`; for `jumprelu` `l0_coefficient`).
        fields: any other field of that config class.

    Matryoshka's widths are d_sae / 8, / 4, / 2 and d_sae unless given.

    **Raises** `ValueError` for an unknown architecture, for `k` or `l1` where it has none, or for a field
    that the class does not have.
    """
    name = ALIASES.get(architecture, architecture)
    if name not in SAE_TRAINING_CLASS_REGISTRY:
        raise ValueError(f"architecture {architecture!r}: expected one of {', '.join(architectures())}")
    kind = get_sae_training_class(name)[1]
    known = {field.name for field in dataclasses.fields(kind)}
    check_limits(d_sae=d_sae, k=k, l1=l1)
    width = EXPANSION * d_in if d_sae is None else d_sae
    given: dict[str, Any] = dict(fields) | {"d_in": d_in, "d_sae": width}
    if k is not None:
        given["k"] = int(k) if k == int(k) else k
    if l1 is not None:
        given[next((field for field in _L1 if field in known), "l1")] = l1
    unknown = sorted(set(given) - known)
    if unknown:
        has = ", ".join(sorted(known - {"d_in", "metadata"}))
        raise ValueError(f"architecture {architecture!r} has no setting {', '.join(unknown)}; it has {has}")
    if "matryoshka_widths" in known and not given.get("matryoshka_widths"):
        given["matryoshka_widths"] = sorted({w for w in (width // 8, width // 4, width // 2, width) if w})
    if name in ("topk", "abstopk") and not isinstance(given.get("k", 1), int):
        raise ValueError(f"k={given['k']}: {name} keeps a whole number of latents a row")
    return kind(**given)


def _checked(config: TrainingSAEConfig) -> TrainingSAEConfig:
    """The config, if its numbers can be.

    Raises:
        ValueError: for a number out of its range, or more active latents than there are.
    """
    names = ("d_sae", "k", "l1_coefficient", "l0_coefficient", *_WARM_UPS)
    check_limits(**{name: getattr(config, name, None) for name in names})
    if (k := getattr(config, "k", None)) is not None and k > config.d_sae:
        raise ValueError(f"k={k}: at most the {config.d_sae} latents (d_sae) can be active a row")
    return config


def as_config(given: Any, d_in: int) -> TrainingSAEConfig:
    """A SAELens training config, an architecture's name, or a mapping of `sae_config`'s arguments, for a
    point of width `d_in`.

    **Raises** `ValueError` if a config was made for another width, or as `sae_config` does; `TypeError` for
    anything else.
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
    held = {k: v for k, v in config.metadata.items() if not k.startswith("training_architecture")}
    changes: dict[str, Any] = {"metadata": SAEMetadata(**{**held, **metadata}), "device": device}
    if str(metadata["hook_name"]).endswith("hook_z"):
        changes["reshape_activations"] = "hook_z"  # streams flatten heads, a model's hook does not
    return dataclasses.replace(config, **changes)
