"""What a verdict owes to rows next to each other in the table: the gain without the stretch around each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

from graticule.hooks.rows import Rows
from graticule.probes.core.fit import PointFit, PointRows, Predictions, Problem
from graticule.probes.core.neighbours import BYTES, LEVELS, gains_moved, values_of
from graticule.probes.linear.refits import leave_blocks_out
from graticule.probes.scores.metrics import spearman

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
        problem: Targets, split and clusters; `source` says where in the table a row stands.
        best: The fit at the chosen point.
        baselines: What it is stacked with.
        classes: Whether the targets are classes.

    Returns:
        Of the gain without as many rows by chance; not a number where a target rises or falls with the order
        (Spearman's correlation beyond .9, so that a stretch is a range of the target), or rows are under 50
        or too many to look at.
    """
    place = _places(problem, classes)
    train, test = problem.train, problem.test
    n, width = len(train), activations.widths[best.point]
    if place is None or n < _FEWEST or n * width * 8 > BYTES:
        return float("nan")
    X, Z = (values_of(PointRows(activations, best.point, rows)) for rows in (train, test))
    orders = (np.random.default_rng(0).permutation(place), place)
    stretches = [_stretches(one[train], one[test]) for one in orders]
    rests = [rest for parts in stretches for rest, _ in parts]
    (fits,) = leave_blocks_out(X, problem.y[train], rests, [best.fit.alpha])
    left, block = list[float](), 0
    for parts in stretches:
        moved = np.zeros_like(best.test)
        for _, within in parts:
            moved[within] = fits.predict(block, Z[within]) - best.test[within]
            block += 1
        left.append(gains_moved(problem, best, baselines, np.arange(len(test)), moved)[1])
    by_chance, share = left
    return share / by_chance if by_chance > 0 else float("nan")


def _stretches(
    train: Float[np.ndarray, " train"], test: Float[np.ndarray, " test"]
) -> list[tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]]:
    """Training rows in and beside each stretch, and the test rows in it; of places in the table."""
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for start in np.arange(_STRETCHES) / _STRETCHES:
        end = start + 1 / _STRETCHES
        around = np.flatnonzero((train >= start - _BESIDE) & (train < end + _BESIDE))
        within = np.flatnonzero((test >= start) & (test < end))
        if len(around) and len(within):
            parts.append((around, within))
    return parts


def _places(problem: Problem, classes: bool) -> Float[np.ndarray, " row"] | None:
    """Of each row in its table, from 0 to 1, within its class if there are classes; None of sorted tables."""
    y, order = problem.y, np.argsort(np.argsort(problem.source, kind="stable"), kind="stable")
    _, level, sizes = np.unique(y, axis=0, return_inverse=True, return_counts=True)
    if classes or len(sizes) <= LEVELS:
        place = np.empty(len(y))
        for k, size in enumerate(sizes):
            rows = np.flatnonzero(level.reshape(-1) == k)
            place[rows[np.argsort(order[rows])]] = (np.arange(size) + 0.5) / size
        return place
    along = np.tile(order[:, None].astype(np.float64), y.shape[1])
    return None if (np.abs(spearman(y, along)) > _SORTED).any() else (order + 0.5) / len(y)
