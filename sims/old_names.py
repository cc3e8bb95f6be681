"""Rooms of 0.1 that are one now: their modules and names go on working for one version, with a warning."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from graticule.hooks.calls import old_name

NOW = "graticule.sims.papers"
_MODULES = (
    *("simulate", "simulation", "reproduce", "setting", "curves", "figures"),
    *("theorems", "tables", "log_odds", "products", "oracle", "descents"),
)


def give_old_modules(old: str, moved: Mapping[str, str | None]) -> Callable[[str], Any]:
    """Make the modules of an old room importable, and warn of its name.

    Args:
        old: The room's name.
        moved: Old module → where it is now; None for one whose names are in several, which the room gives.

    Returns:
        The room's `__getattr__`: its modules, and every public name that was in them.
    """
    old_name(old, NOW)
    modules = {
        name: import_module(f"{NOW}.{now}") if now else sys.modules[old] for name, now in moved.items()
    }
    for name, module in modules.items():
        sys.modules[f"{old}.{name}"] = module

    def attribute(name: str) -> Any:
        if name in modules:
            return modules[name]
        for module in () if name.startswith("_") else map(import_module, (f"{NOW}.{m}" for m in _MODULES)):
            if name in vars(module):
                return vars(module)[name]
        raise AttributeError(f"module {old!r} has no attribute {name!r}")

    return attribute
