"""The tables and figures of Jiang et al. (2403.03867v1) again, each beside the numbers that the paper prints
or draws.

What the paper leaves open is a setting with a default: edge probability ½, masks of Bernoulli(½) entries,
initial weights U(±1/√rows), 200,000 updates of fresh samples (`LONG` for ten concepts and more), and where
the concept set is incomplete a half of it and 50 masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from graticule.hooks.artifact import library_versions
from graticule.hooks.doors import FOLDER, door
from graticule.probes.geometry import cosine_matrix
from graticule.sims.contexts import Contexts
from graticule.sims.papers import NAMES, Name
from graticule.sims.papers.setting import Setting
from graticule.sims.papers.simulate import measure, simulate
from graticule.sims.papers.simulation import Simulation
from graticule.sims.training.lookup import train_tables
from graticule.sims.training.settings import Optimizer
from graticule.sims.truth.steering import VIEWS, watch_cosines

LONG = 500_000
"""Updates for ten concepts and more: after 200,000 the loss is still .4 nats above its floor, and cosines .1
below table 3's."""
EPOCH = 180
"""Updates to one of figure 5's epochs: its loss falls at the pace of ours with 150 to 220."""


@dataclass(frozen=True)
class Stated:
    """A row of one of the paper's tables, or points of a figure: unembedding, embedding, mixed."""

    setting: Setting
    """How we run it."""
    means: tuple[float, float, float]
    """Mean cosines."""
    errors: tuple[float, float, float] | None = None
    """Standard errors, where stated; what is read off a figure has none."""


def _tables() -> dict[str, tuple[Stated, ...]]:
    sgd = {
        3: ((0.972, 0.982, 0.980), (0.006, 0.005, 0.005)),
        4: ((0.975, 0.971, 0.973), (0.005, 0.005, 0.005)),
        5: ((0.988, 0.981, 0.984), (0.004, 0.004, 0.004)),
        6: ((0.997, 0.985, 0.990), (0.000, 0.002, 0.001)),
        7: ((0.995, 0.972, 0.981), (0.001, 0.004, 0.003)),
    }
    adam = {
        3: ((0.910, 0.923, 0.926), (0.015, 0.013, 0.012)),
        4: ((0.972, 0.959, 0.965), (0.005, 0.005, 0.005)),
        5: ((0.985, 0.970, 0.975), (0.004, 0.004, 0.004)),
        6: ((0.996, 0.977, 0.983), (0.001, 0.002, 0.001)),
        7: ((0.966, 0.918, 0.929), (0.012, 0.016, 0.015)),
    }

    def incomplete(concepts: int, dim: int | None = None) -> Setting:
        return Setting(concepts, dim=dim, masks=50, vector_share=0.5, steps=LONG)

    return {
        "1": tuple(Stated(Setting(m), *row) for m, row in sgd.items()),
        "2": tuple(Stated(Setting(m, optimizer="adam"), *row) for m, row in adam.items()),
        "3": (
            Stated(Setting(10, masks=50, steps=LONG), (0.974, 0.946, 0.959), (0.009, 0.014, 0.011)),
            Stated(Setting(10, masks=100, steps=LONG), (0.957, 0.915, 0.934), (0.011, 0.013, 0.011)),
        ),
        "4": (
            Stated(incomplete(10), (0.951, 0.777, 0.855), (0.011, 0.010, 0.011)),
            Stated(incomplete(12), (0.896, 0.551, 0.696), (0.011, 0.008, 0.011)),
        ),
        "figure6": (
            Stated(Setting(7, dim=5), (0.895, 0.733, 0.798)),
            Stated(Setting(7, dim=6), (0.951, 0.814, 0.870)),
            Stated(Setting(7), (0.995, 0.972, 0.981), (0.001, 0.004, 0.003)),
            Stated(incomplete(10, dim=8), (0.897, 0.587, 0.717)),
            Stated(incomplete(10, dim=9), (0.954, 0.705, 0.811)),
            Stated(incomplete(10), (0.951, 0.777, 0.855), (0.011, 0.010, 0.011)),
        ),
    }


TABLES = _tables()
"""Table 1 to 4 and figure 6: their rows."""

LOSS = {0: 4.85, 100: 4.25, 200: 3.25, 300: 2.75, 500: 2.47, 4900: 2.3}
"""Figure 5: epoch → loss in nats, ±.03."""
COSINE = {
    "unembedding": {100: 0.55, 200: 0.75, 300: 0.84, 500: 0.90, 1000: 0.94, 4900: 0.995},
    "embedding": {4900: 0.97},
    "mixed": {4900: 0.98},
}
"""Figure 5: view → epoch → cosine, ±.03."""

ORTHOGONALITY = {
    "least within a concept": 0.87,
    "mean within a concept": 0.95,
    "most within a concept": 0.98,
    "least across concepts": -0.04,
    "most across concepts": 0.07,
}
"""Figure 7a (ten concepts), ±.02."""

PANELS = {
    "only the first concept known": [(1, 0, 0)],
    "the first two known": [(1, 1, 0)],
    "all contexts": None,
}
"""Figure 2: panel → the masks trained on; None: every mask."""
_PARALLEL = {  # figure 2: cosines of g(110) − g(100) with two others
    "the first two known": {"with g(111) − g(101)": 1.0, "with g(010) − g(000)": np.nan},
    "all contexts": {"with g(111) − g(101)": 1.0, "with g(010) − g(000)": 1.0},
}

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

    Args:
        name: Which one.
        runs: In place of the paper's number; figure 2 is one run.
        steps: In place of ours (200,000; 500,000 for ten concepts and more; figure 5's 4,900 epochs as
            882,000).
        seed: Of the first run.
        optimizer: In place of the stated one: `"population"` takes the exact gradient in a fraction of the
            updates, those that make as much learning rate × updates as `steps` of SGD do (`Setting.by`).
        concepts: Keeps the rows with so many concepts.
        out: As in `simulate`.
        progress: Whether bars are drawn; None: where it takes long.

    Raises:
        ValueError: For another name, `concepts` that no row has, or `runs` of figure 2's one scatter.
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
        return _scatter(Setting(3).asked(steps, optimizer), seed, progress)
    if name == "figure5":
        setting = Setting(7, steps=EPOCH * max(LOSS)).asked(steps, optimizer)
        simulation = simulate(setting, n_points=_points(setting), **how)
        return replace(simulation, name=name, paper=_curve_lines(simulation.curves, setting))
    if name == "orthogonality":
        simulation = simulate(Setting(10, masks=50, steps=LONG).asked(steps, optimizer), **how)
        return replace(simulation, name=name, paper=_across_lines(simulation.heat))
    rows = [row for row in TABLES[name] if concepts is None or row.setting.concepts in concepts]
    if not rows:
        raise ValueError(f"no row of {name} has {list(concepts or ())} concepts")
    asked = [replace(row, setting=row.setting.asked(steps, optimizer)) for row in rows]
    simulation = simulate([row.setting for row in asked], **how)
    return replace(simulation, name=name, paper=_table_lines(simulation.settings, asked))


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
            lines.append(_line(f"epoch {when}, update {ceil(when * epoch)}", what, ours, paper))
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
    simulation = simulate(settings, nulls=0, n_points=10, **how)
    ratio = simulation.settings["dim"] / simulation.settings["concepts"]
    provenance = {
        **simulation.provenance,
        "versions": library_versions(),
        "settings": [s.described() for s in settings],
    }
    return replace(
        simulation, name="scales", settings=simulation.settings.assign(ratio=ratio), provenance=provenance
    )


def _scatter(setting: Setting, seed: int, progress: bool | None) -> Simulation:
    """Figure 2: one world, where its eight tokens end up, trained on some contexts and on all.

    `points` holds the coordinates. `paper` holds the cosines of g(110) − g(100) with g(111) − g(101), which
    flips the same concept beside the same first one, and with g(010) − g(000), which flips it beside the
    other: with the first two concepts known, the paper finds the former parallel and the latter not.
    """
    world = setting.contexts(seed).world
    parts: dict[str, list[pd.DataFrame]] = {}
    paper: list[dict[str, object]] = []
    for panel, masks in PANELS.items():
        contexts = Contexts.complete(world) if masks is None else Contexts.of(world, masks)
        training = setting.training((seed,), (1.0,), 40)
        learned = train_tables([contexts], training, watch=watch_cosines([contexts]), progress=progress)
        for name, table in measure(setting, learned, nulls=0, label=panel).items():
            parts.setdefault(name, []).append(table)
        g = learned.g[0].double().numpy()
        parts.setdefault("points", []).append(_coordinates(panel, world.vectors, g))
        if panel in _PARALLEL:
            paper += _cosine_lines(panel, g)
    return Simulation(
        name="figure2",
        paper=pd.DataFrame(paper),
        provenance={"seed": seed, "setting": setting.described(), "versions": library_versions()},
        **{name: pd.concat(tables, ignore_index=True) for name, tables in parts.items()},
    )


def _coordinates(panel: str, vectors: np.ndarray, g: np.ndarray) -> pd.DataFrame:
    columns: dict[str, object] = {"setting": panel, "token": ["".join(map(str, v)) for v in vectors]}
    columns |= {f"c{i + 1}": vectors[:, i] for i in range(3)}
    return pd.DataFrame({**columns, **{axis: g[:, k] for k, axis in enumerate("xyz")}})


def _cosine_lines(panel: str, g: np.ndarray) -> list[dict[str, object]]:
    base = g[0b110] - g[0b100]
    others = {"with g(111) − g(101)": g[0b111] - g[0b101], "with g(010) − g(000)": g[0b010] - g[0b000]}
    return [
        _line(panel, what, float(cosine_matrix(base[:, None], other[:, None])[0, 0]), _PARALLEL[panel][what])
        for what, other in others.items()
    ]
