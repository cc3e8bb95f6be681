"""graticule: which concepts a language model represents linearly, where, and how far to believe it.

The face of the package. Every name is loaded on first use, so that importing graticule loads
neither TransformerLens nor SAELens.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graticule.hooks.activations import Activations as Activations
    from graticule.hooks.capture import capture as capture
    from graticule.hooks.record import record as record
    from graticule.hooks.store import Store as Store
    from graticule.models import load_model as load_model
    from graticule.probes.estimators.ridge import RidgeProbe as RidgeProbe
    from graticule.probes.findings import Findings as Findings
    from graticule.probes.probe import probe as probe
    from graticule.probes.surface.baselines import baselines as baselines
    from graticule.probes.sweep import sweep as sweep
    from graticule.probes.tables.table import Table as Table

__all__ = [
    "Activations",
    "Findings",
    "RidgeProbe",
    "Store",
    "Table",
    "baselines",
    "capture",
    "load_model",
    "probe",
    "record",
    "sweep",
]

_HOMES = {
    "Activations": "graticule.hooks.activations",
    "Findings": "graticule.probes.findings",
    "RidgeProbe": "graticule.probes.estimators.ridge",
    "Store": "graticule.hooks.store",
    "Table": "graticule.probes.tables.table",
    "baselines": "graticule.probes.surface.baselines",
    "capture": "graticule.hooks.capture",
    "load_model": "graticule.models",
    "probe": "graticule.probes.probe",
    "record": "graticule.hooks.record",
    "sweep": "graticule.probes.sweep",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value  # a second look-up does not come here
        return value
    raise AttributeError(f"module 'graticule' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
