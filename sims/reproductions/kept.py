"""Settings that are done, on disk: what a killed simulation goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from graticule.hooks.artifact import ArtifactError, fingerprint
from graticule.hooks.names import user_path
from graticule.sims.reproductions.result import Simulation
from graticule.sims.reproductions.setting import Setting

TABLES = ("settings", "concepts", "curves", "heat", "edges")
"""What is measured of a setting."""


class Kept:
    """Measured settings in a folder, each a `Simulation` of its own; without a folder, none."""

    def __init__(self, out: Path | str | None, **how: Any) -> None:
        """`how` is what was asked for beside the settings: runs, seed, nulls, points."""
        self._out, self._how = None if out is None else user_path(out), how

    def get(self, setting: Setting) -> dict[str, pd.DataFrame] | None:
        """The tables of a setting that is done; None if it is not."""
        if self._out is None:
            return None
        try:
            found = Simulation.load(self._place(setting))
        except ArtifactError:
            return None
        return {name: getattr(found, name) for name in TABLES}

    def put(self, setting: Setting, tables: Mapping[str, pd.DataFrame]) -> None:
        """Keep the tables of a setting, all of them or none."""
        if self._out is not None:
            told = {"setting": setting.described(), **self._how}
            place = self._place(setting)
            none = pd.DataFrame()
            Simulation(name="", points=none, paper=none, provenance=told, **tables).save(place)

    def _place(self, setting: Setting) -> Path:
        assert self._out is not None
        return self._out / fingerprint({"setting": setting.described(), **self._how})
