"""One ridge on the columns of all baselines together: what two of them say only beside each other.

Each member of the surface enters the stack by its own prediction of the target. Where one holds c + u and
another c, neither prediction is u, and no weights of the two make it; a ridge on both columns reads it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int

from graticule.probes.core.bits import bits_gained
from graticule.probes.core.fit import STREAM_BYTES, PointRows, Predictions, Problem
from graticule.probes.core.verdict import JudgeSettings
from graticule.probes.linear.moments import Moments, eigen, rough_middle
from graticule.probes.linear.ridge_cv import RidgeFit, ridge_cv, ridge_cv_stream
from graticule.probes.linear.rows import ArrayRows, RowSource, chunk_rows_for, gather_float64, linear_map
from graticule.probes.surface.confounds import CONFOUNDS, confounder_columns
from graticule.probes.surface.serving import Served
from graticule.probes.surface.strings import OF_TEXTS, SPELLING, TFIDF, StringReader
from graticule.probes.tables.table import Table

JOINT = "joint"
"""The name of the member."""
MOST = 4000
"""Columns, or training rows where they are fewer, up to which every block enters whole."""
MOST_AXES = 1024
"""Of more, the principal axes by which each block enters."""


@dataclass(frozen=True)
class JointRows:
    """Columns of several baselines side by side: each block about its training mean, total variance 1 there.

    So no block rules by its unit or its width. Rows are put together when they are asked for.
    """

    blocks: Mapping[str, RowSource]
    """All rows of each."""
    means: Mapping[str, Float[np.ndarray, " width"]]
    """Of training rows."""
    maps: Mapping[str, float | Float[np.ndarray, "width axis"]]
    """What a block is multiplied by: a number, or axes where it is wide."""
    rows: Int[np.ndarray, " row"]
    """Which rows these are."""
    broad: frozenset[str] = frozenset()
    """Blocks of many columns that mean little by themselves."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, width)."""
        widths = (
            by.shape[1] if isinstance(by, np.ndarray) else self.blocks[name].shape[1]
            for name, by in self.maps.items()
        )
        return len(self.rows), sum(widths)

    @property
    def choices(self) -> list[JointRows]:
        """These, and where some blocks are activations or many features of a text those that are not.

        Where one part of the target lies in a few columns a ridge on hundreds of others beside them loses it.
        """
        few = [name for name in self.maps if name not in self.broad]
        return [self, self.only(few)] if _members(few) > 1 and len(few) < len(self.maps) else [self]

    def only(self, names: Collection[str]) -> JointRows:
        """Some of the blocks."""
        return replace(self, maps={name: by for name, by in self.maps.items() if name in names})

    def part(self, rows: Int[np.ndarray, " some"]) -> JointRows:
        """Some of these rows."""
        return replace(self, rows=self.rows[rows])

    def gather(self, index: Int[np.ndarray, " chunk"]) -> Float32[np.ndarray, "chunk width"]:
        """Of these rows the ones named."""
        parts: list[np.ndarray] = []
        for name, by in self.maps.items():
            values = gather_float64(self.blocks[name], self.rows[index]) - self.means[name]
            parts.append((values @ by if isinstance(by, np.ndarray) else values * by).astype(np.float32))
        return np.concatenate(parts, axis=1)

    def every(self) -> Float32[np.ndarray, "row width"]:
        """All of them."""
        return self.gather(np.arange(len(self.rows)))


def joint_rows(
    features: Mapping[str, Served],
    points: Mapping[str, str],
    table: Table,
    problem: Problem,
    reader: StringReader | None,
) -> JointRows | None:
    """The columns of all members of a surface that are columns.

    Captured baselines, features of one's own, the confounders' additive columns, and of texts what
    `StringReader.columns` has.

    Args:
        features: as they are read (`features_of`).
        points: at which each of them was chosen.
        table: with its confounders.
        problem: Split and rows; means and variances are of its training rows.
        reader: of the texts, where they are read.

    Returns:
        The rows; None where only one member of the surface varies.
    """
    blocks: dict[str, RowSource] = {
        name: PointRows(feature, points[name], rows) for name, (feature, rows) in features.items()
    }
    if table.confounds:
        blocks[CONFOUNDS] = ArrayRows(confounder_columns(table.confounds, problem.source, problem.train))
    if reader is not None:
        blocks |= {name: ArrayRows(columns) for name, columns in reader.columns().items()}
    train, n = problem.train, len(problem.train)
    wide = min(n, sum(block.shape[1] for block in blocks.values())) > MOST
    means: dict[str, np.ndarray] = {}
    maps: dict[str, float | np.ndarray] = {}
    for name, block in blocks.items():
        if not block.shape[1]:
            continue
        shift = rough_middle(block, np.mean)
        sums = Moments.of(block, np.zeros((len(problem.y), 1)), train, shift, chunk_rows_for(block.shape[1]))
        mean = shift + sums.centre(n)
        if (variance := float(np.trace(sums.gram)) / n) <= 0:
            continue
        means[name], maps[name] = mean, variance**-0.5
        if wide and block.shape[1] > MOST_AXES:
            maps[name] = eigen(sums.gram)[1][:, -MOST_AXES:] * variance**-0.5
    broad = {name for name, (feature, _) in features.items() if name not in feature.points}
    made = JointRows(blocks, means, maps, np.arange(len(problem.y)), frozenset({*broad, SPELLING, TFIDF}))
    return made if _members(maps) > 1 else None


def _members(names: Iterable[str]) -> int:
    """How many members of a surface blocks are of: those of the texts are of one."""
    return len({TFIDF if name in OF_TEXTS else name for name in names})


def fit_joint(
    joint: JointRows, problem: Problem, settings: JudgeSettings
) -> tuple[Predictions, dict[str, Any]]:
    """Ridge on all blocks, or on those of few columns: predictions, and the line in the findings.

    Args:
        joint: all rows.
        problem: Targets, split and clusters.
        settings: with the score by which one of the two is chosen, out of fold.

    Returns:
        Predictions of training rows, each without its cluster, and of test rows.
    """
    y = problem.y[problem.train]
    made: list[tuple[float, Predictions, dict[str, Any]]] = []
    for one in joint.choices:
        fit = _fitted(one.part(problem.train), problem)
        test = linear_map(one.part(problem.test), fit.coef, fit.intercept)
        line = {"validation": fit.score, "alpha": fit.alpha, "point": None, "of": list(one.maps)}
        score = bits_gained(y, fit.out_of_fold) if settings.score == "bits" else fit.score
        made.append((score, Predictions(fit.out_of_fold, test), line))
    return max(made, key=lambda one: one[0])[1:]


def _fitted(rows: JointRows, problem: Problem) -> RidgeFit:
    y = problem.y[problem.train]
    how: dict[str, Any] = {"clusters": problem.clusters[problem.train], "names": problem.names}
    if rows.shape[0] * rows.shape[1] * 8 > STREAM_BYTES:
        return ridge_cv_stream(rows, y, **how)
    return ridge_cv(rows.every(), y, **how)
