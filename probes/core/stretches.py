"""What a verdict owes to rows next to each other in the table: the gain without the stretch around each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from graticule.hooks.rows import Rows
from graticule.probes.core.fit import PointFit, PointRows, Predictions, Problem
from graticule.probes.core.neighbours import BYTES, LEVELS, gains_moved, values_of
from graticule.probes.linear.ridge_cv import ridge_fit

LEAST_SHARE = 0.5
"""A gain rests on the stretch around every row if less than this is left without it, of what is left without
as many rows by chance."""
_STRETCHES = 10
_BESIDE = 0.05
_SORTED = 0.9
_FEWEST = 50


def without_stretches(
    activations: Rows,
    problem: Problem,
    best: PointFit,
    baselines: Mapping[str, Predictions],
    *,
    classes: bool = False,
) -> float:
    """The share of a gain that is left where each test row is read by a probe without the rows around it.

    A table whose rows come in an order (documents in time, rows of one source after another) may hold series
    in its activations and its target that have nothing in common but the order: rows next to each other are
    alike in both, and a split row by row lets the one tell of the other. The table is cut into ten stretches;
    the test rows of each are read by a ridge of the verdict's strength that has seen neither that stretch nor
    half of one on either side; beside it stands a gain without as many rows by chance. Of classes, rows are
    counted within each class, so that a table that is sorted by class loses a tenth of each. Strength and
    stack are those of the verdict.

    Args:
        activations: What was swept.
        problem: Targets, split and clusters; its rows stand in the table's order.
        best: The fit at the chosen point.
        baselines: What it is stacked with.
        classes: Whether the targets are classes.

    Returns:
        Of the gain without as many rows by chance; not a number where a target rises or falls with the order
        (Spearman's correlation beyond .9, so that a stretch is a range of the target), or rows are under 50
        or too many to look at.
    """
    place = _places(problem.y, classes)
    train, test = problem.train, problem.test
    n, width = len(train), activations.widths[best.point]
    if place is None or n < _FEWEST or n * width * 8 > BYTES:
        return float("nan")
    X, Z = (values_of(PointRows(activations, best.point, rows)) for rows in (train, test))
    y, alpha = problem.y[train], best.fit.alpha
    plain = ridge_fit(X, y, alpha).predict(Z)

    def left(place: Float[np.ndarray, " row"]) -> float:
        moved = -plain
        for start in np.arange(_STRETCHES) / _STRETCHES:
            low, high = start - _BESIDE, start + 1 / _STRETCHES + _BESIDE
            within = (place[test] >= start) & (place[test] < start + 1 / _STRETCHES)
            rest = (place[train] < low) | (place[train] >= high)
            if within.any():
                moved[within] += ridge_fit(X[rest], y[rest], alpha).predict(Z[within])
        return gains_moved(problem, best, baselines, np.arange(len(test)), moved)[1]

    by_chance = left(np.random.default_rng(0).permutation(place))
    return left(place) / by_chance if by_chance > 0 else float("nan")


def _places(y: Float[np.ndarray, "row target"], classes: bool) -> Float[np.ndarray, " row"] | None:
    """Of each row in the table, from 0 to 1, within its class if there are classes; None of sorted tables."""
    _, level, sizes = np.unique(y, axis=0, return_inverse=True, return_counts=True)
    if classes or len(sizes) <= LEVELS:
        place = np.empty(len(y))
        for k, size in enumerate(sizes):
            place[level.reshape(-1) == k] = (np.arange(size) + 0.5) / size
        return place
    order = np.arange(len(y))
    ranks = np.argsort(np.argsort(y, axis=0, kind="stable"), axis=0)
    follows = [abs(float(np.corrcoef(order, rank)[0, 1])) for rank in ranks.T]
    return None if max(follows) > _SORTED else (order + 0.5) / len(y)
