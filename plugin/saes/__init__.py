"""Sparse autoencoders: trained, evaluated and read, as SAELens objects and SAELens folders.

Every name is loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from graticule.hooks.imports import load

if TYPE_CHECKING:
    from graticule.saes.architectures import BrickenTrainingSAEConfig as BrickenTrainingSAEConfig
    from graticule.saes.atoms.recovery import recovery as recovery
    from graticule.saes.evaluation.evaluate import evaluate as evaluate
    from graticule.saes.features.examine import examine as examine
    from graticule.saes.resampling import ResamplingConfig as ResamplingConfig
    from graticule.saes.training.run import Run as Run
    from graticule.saes.training.settings import Optimisation as Optimisation
    from graticule.saes.training.settings import sae_config as sae_config
    from graticule.saes.training.train import train as train
    from graticule.saes.training.trainer import Trainer as Trainer

__all__ = [
    "BrickenTrainingSAEConfig",
    "Optimisation",
    "ResamplingConfig",
    "Run",
    "Trainer",
    "evaluate",
    "examine",
    "recovery",
    "sae_config",
    "train",
]

_HOMES = {
    "BrickenTrainingSAEConfig": "graticule.saes.architectures",
    "Optimisation": "graticule.saes.training.settings",
    "ResamplingConfig": "graticule.saes.resampling",
    "Run": "graticule.saes.training.run",
    "Trainer": "graticule.saes.training.trainer",
    "evaluate": "graticule.saes.evaluation.evaluate",
    "examine": "graticule.saes.features.examine",
    "recovery": "graticule.saes.atoms.recovery",
    "sae_config": "graticule.saes.training.settings",
    "train": "graticule.saes.training.train",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        load("sae_lens")
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value  # a second look-up does not come here
        return value
    from graticule.hooks.messages import did_you_mean

    near = did_you_mean(name, __all__) or f"; it has {', '.join(__all__)}"
    raise AttributeError(f"module 'graticule.saes' has no attribute {name!r}{near}")


def __dir__() -> list[str]:
    return sorted(__all__)
