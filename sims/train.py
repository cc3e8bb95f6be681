"""Where `train` and its settings were in 0.1: both go on working for one version."""

from importlib import import_module
from typing import Any

from graticule.hooks.calls import old_name

_NOW = {
    "train": ("graticule.sims.training.lookup", "train_tables"),
    "Learned": ("graticule.sims.training.lookup", "Learned"),
    "Training": ("graticule.sims.training.settings", "Training"),
}


def __getattr__(name: str) -> Any:
    if name not in _NOW:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, now = _NOW[name]
    old_name(f"graticule.sims.train.{name}", f"{module}.{now}")
    return getattr(import_module(module), now)
