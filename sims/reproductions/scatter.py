"""Figure 2: where the eight tokens of three concepts end up, trained on some contexts and on all."""

from __future__ import annotations

import numpy as np
import pandas as pd

from graticule.hooks.artifact import library_versions
from graticule.probes.geometry import cosine_matrix
from graticule.sims.contexts import Contexts
from graticule.sims.reproductions.result import Simulation
from graticule.sims.reproductions.setting import Setting
from graticule.sims.reproductions.simulate import measured
from graticule.sims.train import train
from graticule.sims.truth.steering import watch_cosines

SHOWN = {
    "only the first concept known": [(1, 0, 0)],
    "the first two known": [(1, 1, 0)],
    "all contexts": None,
}
"""Panel → the masks trained on; None: every mask."""
_EXPECTED = {
    # what the paper's panels show, as cosines of g(110) − g(100) with two others
    "the first two known": {"with g(111) − g(101)": 1.0, "with g(010) − g(000)": np.nan},
    "all contexts": {"with g(111) − g(101)": 1.0, "with g(010) − g(000)": 1.0},
}


def scatter(setting: Setting | None = None, seed: int = 0, progress: bool | None = None) -> Simulation:
    """One world of three concepts, three tables of unembeddings.

    `points` holds the coordinates. `paper` holds the cosines of g(110) − g(100) with g(111) − g(101), which
    flips the same concept beside the same first one, and with g(010) − g(000), which flips it beside the
    other: with the first two concepts known, the paper finds the former parallel and the latter not.
    `setting` fixes how they train (by default SGD at the paper's rate).
    """
    setting = setting or Setting(3)
    world = setting.contexts(seed).world
    parts: dict[str, list[pd.DataFrame]] = {}
    paper: list[dict[str, object]] = []
    for panel, masks in SHOWN.items():
        contexts = Contexts.complete(world) if masks is None else Contexts.of(world, masks)
        how = setting.training((seed,), (1.0,), 40)
        learned = train([contexts], how, watch=watch_cosines([contexts]), progress=progress)
        for name, table in measured(setting, learned, nulls=0, label=panel).items():
            parts.setdefault(name, []).append(table)
        g = learned.g[0].double().numpy()
        parts.setdefault("points", []).append(_points(panel, world.vectors, g))
        if panel in _EXPECTED:
            paper += _cosine_lines(panel, g)
    return Simulation(
        name="figure2",
        paper=pd.DataFrame(paper),
        provenance={"seed": seed, "setting": setting.described(), "versions": library_versions()},
        **{name: pd.concat(tables, ignore_index=True) for name, tables in parts.items()},
    )


def _points(panel: str, vectors: np.ndarray, g: np.ndarray) -> pd.DataFrame:
    columns: dict[str, object] = {"setting": panel, "token": ["".join(map(str, v)) for v in vectors]}
    columns |= {f"c{i + 1}": vectors[:, i] for i in range(3)}
    return pd.DataFrame({**columns, **{axis: g[:, k] for k, axis in enumerate("xyz")}})


def _cosine_lines(panel: str, g: np.ndarray) -> list[dict[str, object]]:
    base = g[0b110] - g[0b100]
    others = {"with g(111) − g(101)": g[0b111] - g[0b101], "with g(010) − g(000)": g[0b010] - g[0b000]}
    lines: list[dict[str, object]] = []
    for what, other in others.items():
        ours = float(cosine_matrix(base[:, None], other[:, None])[0, 0])
        paper = _EXPECTED[panel][what]
        line: dict[str, object] = {"setting": panel, "what": what, "ours": ours, "ours_se": np.nan}
        lines.append(line | {"paper": paper, "paper_se": np.nan, "difference": ours - paper})
    return lines
