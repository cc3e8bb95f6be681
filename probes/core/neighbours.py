"""What a verdict owes to training rows that lie next to test rows: the gain without each row's neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from graticule.hooks.imports import load
from graticule.hooks.rows import Rows
from graticule.probes.core.fit import PointFit, PointRows, Predictions, Problem, stack
from graticule.probes.linear.moments import fewer_rows
from graticule.probes.linear.rows import chunk_rows_for, chunks
from graticule.probes.scores.metrics import mean_r2
from graticule.probes.tables.alike import alike_rows

LEAST_SHARE = 0.25
"""A gain that keeps less than this share of itself without the neighbours of every row rests on them."""
MOST_NEIGHBOURS = 30
_MOST_ALIKE = 300
_ROWS_ALIKE = 5000
_SHARE_OF_ROWS = 10
_SHARE_OF_CLASS = 4
LEVELS = 12
"""Targets of no more different values are classes, or as good as."""
_TEST_ROWS = 1000
BYTES = 4 << 30
"""Training rows of more, in float64, are not looked at."""
_NEARER = 1.5
_ALIKE = 0.25


@dataclass(frozen=True)
class WithoutNeighbours:
    """A gain, and what is left of it where each test row is read without the training rows next to it."""

    gain: float
    """Of the stack with the probe over the stack of the baselines, on the test rows looked at."""
    without: float
    """The same where each is read by a probe that was fitted without its neighbours."""
    neighbours: int
    """Training rows left out for each: those that weigh most in what the probe says of it. Of a row that more
    are alike with (`alike_rows`), as of a large cluster that nobody declared, all of these are."""
    looked_at: int
    """Test rows."""
    close: Int[np.ndarray, " pair"]
    """Test rows that are nearer to a training row of nearly the same target than any lies on the other side,
    the closest first."""
    beside: Int[np.ndarray, " pair"]
    """The training row nearest to each."""

    @property
    def share(self) -> float:
        """How much of the gain is left."""
        return self.without / self.gain if self.gain > 0 else float("nan")


def without_neighbours(
    activations: Rows,
    problem: Problem,
    best: PointFit,
    baselines: Mapping[str, Predictions],
    *,
    classes: bool = False,
) -> WithoutNeighbours | None:
    """The gain once more, each test row read by a probe that has not seen its nearest training rows.

    A ridge says of a row x the mean plus Σⱼ h(x, xⱼ)(yⱼ − ȳ), with h(x, xⱼ) = (x − x̄)'(X'X + αI)⁻¹(xⱼ − x̄):
    the rows with the largest h lie next to x as the ridge sees it, in no unit. Without them, N, it says
    ŷ(x) − h(x, N)(I − H(N, N))⁻¹(y(N) − ŷ(N)), exactly (1/n added to h for the intercept). Where the target
    is linear in the activations, the rows left out are a few of many that say the same, those on the other
    side of the mean as much as any. Where rows depend on each other without being declared a cluster, all
    that was read goes with them, also where they are more than that: all that are alike are left out.
    Strength and stack are those of the verdict.

    Args:
        activations: What was swept.
        problem: Targets, split and clusters.
        best: The fit at the chosen point.
        baselines: What it is stacked with.
        classes: Whether the targets are classes: fewer neighbours are left out than a class has rows.

    Returns:
        Both gains, and which rows are close; None where the training rows are too many to look at.
    """
    train, every = problem.train, problem.test
    n, width = len(train), activations.widths[best.point]
    if n * width * 8 > BYTES:
        return None
    test = np.unique(np.linspace(0, len(every) - 1, min(len(every), _TEST_ROWS)).astype(np.int64))
    y, y_test = problem.y[train], problem.y[every[test]]
    count, most_alike = _count(y, classes)
    rows, others = (values_of(PointRows(activations, best.point, which)) for which in (train, every[test]))
    kernel, alike = _Kernel.of(rows, others, best.fit.alpha), _alike(rows, others)
    centred = y - y.mean(axis=0)
    residual = centred - kernel.fitted(centred)
    moved = np.empty_like(y_test)
    nearest, is_close, closeness = (np.empty(len(test), t) for t in (np.int64, bool, np.float64))
    for row in range(len(test)):
        weights = kernel.weights(row)
        first = np.where(alike[row], np.inf, weights)
        most = max(count, min(int(alike[row].sum()), most_alike))
        near = np.argpartition(-first, most - 1)[:most]
        own = kernel.between(near) + 1 / n
        moved[row] = -(weights[near] + 1 / n) @ np.linalg.solve(np.eye(most) - own, residual[near])
        nearest[row] = near[weights[near].argmax()]
        closeness[row] = weights[nearest[row]] / max(-float(weights.min()), np.finfo(np.float64).tiny)
        is_close[row] = closeness[row] > _NEARER
    gain, without = gains_moved(problem, best, baselines, test, moved)
    apart = np.abs((y_test - y[nearest]) / y.std(axis=0)).mean(axis=1)
    anyone = np.abs((y_test - np.roll(y_test, len(y_test) // 2, axis=0)) / y.std(axis=0)).mean(axis=1)
    is_close &= apart <= _ALIKE * np.median(anyone)
    order = np.flatnonzero(is_close)[np.argsort(-closeness[is_close], kind="stable")]
    return WithoutNeighbours(gain, without, count, len(test), every[test[order]], train[nearest[order]])


def _count(y: Float[np.ndarray, "train target"], classes: bool) -> tuple[int, int]:
    """How many neighbours are left out, a tenth of the rows at most and of a level of few a quarter; and how
    many that are alike."""
    most = min(MOST_NEIGHBOURS, max(2, len(y) // _SHARE_OF_ROWS))
    _, level, sizes = np.unique(y, axis=0, return_inverse=True, return_counts=True)
    if not classes and len(sizes) > LEVELS:
        return most, min(_MOST_ALIKE, len(y) // 4)
    most = max(1, min(most, int(np.median(sizes[level.reshape(-1)])) // _SHARE_OF_CLASS))
    return most, most  # rows of a class may well be alike


def _alike(
    train: Float[np.ndarray, "train width"], test: Float[np.ndarray, "some width"]
) -> Bool[np.ndarray, "some train"]:
    """Whether training rows are presumed to be of a test row's cluster; of many rows none is."""
    n = len(train)
    if n + len(test) > _ROWS_ALIKE:
        return np.zeros((len(test), n), bool)
    cluster = alike_rows(np.concatenate([train, test]))
    return cluster[n:, None] == cluster[None, :n]


def values_of(rows: PointRows) -> Float[np.ndarray, "row width"]:
    """In float64."""
    (n, width), values = rows.shape, np.empty(rows.shape)
    for index in chunks(np.arange(n), chunk_rows_for(width)):
        values[index] = rows.gather(index)
    return values


def gains_moved(
    problem: Problem,
    best: PointFit,
    baselines: Mapping[str, Predictions],
    test: Int[np.ndarray, " some"],
    moved: Float[np.ndarray, "some target"],
) -> tuple[float, float]:
    """The gain on some test rows, and where the probe's predictions have moved."""
    y, everything = problem.y[problem.train], {**baselines, "probe": best.predictions}
    folds = {name: one.out_of_fold for name, one in everything.items()}
    tests = {name: one.test[test] for name, one in everything.items()}
    y_test = problem.y[problem.test[test]]
    surface = stack({name: folds[name] for name in baselines}, y).predict(tests, len(test))
    whole = stack(folds, y)
    full = whole.predict(tests)
    below = mean_r2(y_test, surface)
    return mean_r2(y_test, full) - below, mean_r2(y_test, full + whole.coef[-1] * moved) - below


@dataclass(frozen=True)
class _Kernel:
    """What training rows weigh in a ridge's predictions: inner products of rows in its own metric."""

    train: Float[np.ndarray, "train rank"]
    test: Float[np.ndarray, "some rank"]

    @classmethod
    def of(
        cls, train: Float[np.ndarray, "train width"], test: Float[np.ndarray, "some width"], alpha: float
    ) -> _Kernel:
        """With rows centred on the training rows' mean."""
        load("scipy.linalg")
        from scipy.linalg import solve_triangular

        mean = train.mean(axis=0)
        rows, others = train - mean, test - mean
        if fewer_rows(train.shape):  # the same in the training rows' own span
            left, spread, right = np.linalg.svd(rows, full_matrices=False)
            shrunken = np.sqrt(np.square(spread) + alpha)
            return cls(left * (spread / shrunken), others @ (right.T / shrunken))
        gram = rows.T @ rows
        gram[np.diag_indices_from(gram)] += alpha
        lower = np.linalg.cholesky(gram)
        return cls(
            *(np.ascontiguousarray(solve_triangular(lower, x.T, lower=True).T) for x in (rows, others))
        )

    def fitted(self, y: Float[np.ndarray, "train target"]) -> Float[np.ndarray, "train target"]:
        """Of centred targets, on the training rows."""
        return self.train @ (self.train.T @ y)

    def weights(self, row: int) -> Float[np.ndarray, " train"]:
        """Of every training row in the prediction of a test row."""
        return self.train @ self.test[row]

    def between(self, rows: Int[np.ndarray, " some"]) -> Float[np.ndarray, "some some"]:
        """Of training rows in each other's."""
        return self.train[rows] @ self.train[rows].T
