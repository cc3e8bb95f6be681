"""The tables and figures of Jiang et al. again, each beside the paper's numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from graticule.hooks.artifact import library_versions
from graticule.hooks.doors import FOLDER, door
from graticule.sims.reproductions.names import NAMES, Name
from graticule.sims.reproductions.paper import COSINE, EPOCH, LONG, LOSS, ORTHOGONALITY, TABLES, Stated
from graticule.sims.reproductions.result import Simulation
from graticule.sims.reproductions.scatter import scatter
from graticule.sims.reproductions.setting import Setting
from graticule.sims.reproductions.simulate import simulate
from graticule.sims.train import Optimizer
from graticule.sims.truth.steering import VIEWS

RATIOS = (0.5, 0.75, 1.0, 2.0, 4.0)
"""d / m of `scales`; dimensions are rounded up."""
SCALES = (1.0, 0.1, 0.01)
"""Initial scales of `scales`."""
SCALE_RUNS = 5
"""Seeds of `scales`, where they are not given."""
_OF_ONE = {"figure2": 3, "figure5": 7, "orthogonality": 10}  # concepts


@door(out=FOLDER.or_none())
def reproduce(
    name: Name,
    *,
    runs: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    optimizer: Optimizer | None = None,
    concepts: int | Sequence[int] | None = None,
    out: Path | str | None = None,
    progress: bool | None = None,
) -> Simulation:
    """One of the paper's tables or figures, ours side by side with the paper's.

    Tables `1` to `4`, `figure2` (scatter for three concepts), `figure5` (curves), `figure6` (smaller
    dimensions), `orthogonality` (figure 7a), and `scales`, which the paper has not: dimension over concepts ×
    initial scale × optimiser.

    **Arguments:** `runs` and `steps` in place of the paper's and ours (200,000; 500,000 for ten concepts and
    more; figure 5's 4,900 epochs as 882,000); `optimizer` in place of the stated one: `"population"` takes
    the exact gradient in a fraction of the updates, those that make as much learning rate × updates as
    `steps` of SGD do (`Setting.by`); `concepts` keeps the
    rows with so many concepts; `out` is `simulate`'s.

    **Raises** `ValueError` for another name, `concepts` that no row has, or `runs` of figure 2's one scatter.
    """
    if name not in NAMES:
        raise ValueError(f"name={name!r}: expected one of {', '.join(map(repr, NAMES))}")
    concepts = [concepts] if isinstance(concepts, int) else concepts
    if name in _OF_ONE and concepts is not None and set(concepts) != {_OF_ONE[name]}:
        raise ValueError(f"{name} is of {_OF_ONE[name]} concepts, not of {list(concepts)}")
    if name == "figure2" and runs not in (None, 1):
        raise ValueError(f"figure2 is the scatter of one run, not of {runs}; another seed= gives another")
    how: dict[str, Any] = {"runs": runs, "seed": seed, "out": out, "progress": progress}
    if name == "scales":
        how["runs"] = SCALE_RUNS if runs is None else runs
        return _scales(steps, optimizer, concepts or (5, 7), how)
    if name == "figure2":
        return scatter(Setting(3).asked(steps, optimizer), seed, progress)
    if name == "figure5":
        setting = Setting(7, steps=EPOCH * max(LOSS)).asked(steps, optimizer)
        found = simulate(setting, points=_points(setting), **how)
        return replace(found, name=name, paper=_curve_lines(found.curves, setting))
    if name == "orthogonality":
        found = simulate(Setting(10, masks=50, steps=LONG).asked(steps, optimizer), **how)
        return replace(found, name=name, paper=_across_lines(found.heat))
    rows = [row for row in TABLES[name] if concepts is None or row.setting.concepts in concepts]
    if not rows:
        raise ValueError(f"no row of {name} has {list(concepts or ())} concepts")
    asked = [replace(row, setting=row.setting.asked(steps, optimizer)) for row in rows]
    found = simulate([row.setting for row in asked], **how)
    return replace(found, name=name, paper=_table_lines(found.settings, asked))


def _table_lines(settings: pd.DataFrame, rows: Sequence[Stated]) -> pd.DataFrame:
    lines = [
        _line(
            row.setting.name,
            view,
            float(ours[view]),
            row.means[k],
            float(ours[f"{view}_se"]),
            row.errors[k] if row.errors else np.nan,
        )
        for row, (_, ours) in zip(rows, settings.iterrows(), strict=True)
        for k, view in enumerate(VIEWS)
    ]
    return pd.DataFrame(lines)


def _points(setting: Setting) -> int:
    """Points on figure 5's curves: one every 100 epochs, 40 at least."""
    return max(40, round(setting.steps * setting.rate / (0.1 * EPOCH * 100)))


def _curve_lines(curves: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """Loss and cosines where figure 5 can be read; an epoch is as many updates as make its rate × updates."""
    epoch = EPOCH * 0.1 / setting.rate
    at = curves["step"].to_numpy() / epoch
    lines: list[dict[str, object]] = []
    for what, stated in {"loss": LOSS, **COSINE}.items():
        for when, paper in stated.items():
            reached = when <= at[-1] * 1.001
            ours = float(np.interp(when, at, curves[what])) if reached else np.nan
            told = f"epoch {when}, update {ceil(when * epoch)}"
            lines.append(_line(told, what, ours, paper))
    return pd.DataFrame(lines)


def _across_lines(heat: pd.DataFrame) -> pd.DataFrame:
    rows = heat[heat["view"] == "unembedding"]
    within, across = rows[rows["i"] == rows["j"]]["mean"], rows[rows["i"] != rows["j"]]["mean"]
    ours = {
        "least within a concept": within.min(),
        "mean within a concept": within.mean(),
        "most within a concept": within.max(),
        "least across concepts": across.min(),
        "most across concepts": across.max(),
    }
    setting = str(heat["setting"].iloc[0])
    return pd.DataFrame([_line(setting, what, float(ours[what]), ORTHOGONALITY[what]) for what in ours])


def _line(
    setting: str, what: str, ours: float, paper: float, se: float = np.nan, paper_se: float = np.nan
) -> dict[str, object]:
    line: dict[str, object] = {"setting": setting, "what": what, "ours": ours, "ours_se": se}
    return line | {"paper": paper, "paper_se": paper_se, "difference": ours - paper}


def _scales(
    steps: int | None, optimizer: Optimizer | None, concepts: Sequence[int], how: Mapping[str, Any]
) -> Simulation:
    kinds: Sequence[Optimizer] = ("sgd", "adam", "population") if optimizer is None else (optimizer,)
    settings = [
        Setting(m, dim=ceil(ratio * m), scale=scale).asked(steps, kind)
        for m, kind, ratio, scale in product(concepts, kinds, RATIOS, SCALES)
    ]
    settings = list(dict.fromkeys(settings))  # few concepts: two ratios round up to one dimension
    found = simulate(settings, nulls=0, points=10, **how)
    ratio = found.settings["dim"] / found.settings["concepts"]
    provenance = {
        **found.provenance,
        "versions": library_versions(),
        "settings": [s.described() for s in settings],
    }
    return replace(found, name="scales", settings=found.settings.assign(ratio=ratio), provenance=provenance)
