"""What a verdict owes to training rows that lie next to test rows: the gain without each row's neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from graticule.hooks.imports import load
from graticule.hooks.rows import Rows
from graticule.probes.core.fit import PointFit, PointRows, Predictions, Problem, stack
from graticule.probes.linear.moments import fewer_rows
from graticule.probes.linear.rows import chunk_rows_for, chunks
from graticule.probes.scores.metrics import mean_r2

LEAST_SHARE = 0.25
"""A gain that keeps less than this share of itself without the neighbours of every row rests on them."""
LEAST_OF_CLASSES = 0.5
"""The same without the rows of every class that are most alike."""
MOST_NEIGHBOURS = 30
_MOST_ALIKE = 300
_ROWS_ALIKE = 20_000
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
    """Training rows left out for each, at most: those that weigh most in what the probe says of it, or those
    most like it in what the probe does not read, whichever tell more against the gain."""
    looked_at: int
    """Test rows."""
    least: float
    """The share of a gain that must be left for it not to rest on them."""
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
    that was read goes with them.

    Large clusters have more rows than weigh most. Those are sought once more, in activations less what
    targets (of classes, their means) and the probe's predictions say of them linearly: a class, or the
    target, makes nobody alike there, and of independent rows any are left out. Of numbers a tenth of the rows
    is, of classes a quarter of each, 300 at most. Strength and stack are those of the verdict.

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
    parts = _parts(y, classes)
    rows, others = (values_of(PointRows(activations, best.point, which)) for which in (train, every[test]))
    kernel = _Kernel.of(rows, others, best.fit.alpha)
    centred = y - y.mean(axis=0)
    fitted, predicted = kernel.fitted(centred)
    residual = centred - fitted
    looks = [(kernel, [(np.arange(n), _count(parts))], LEAST_SHARE)]
    if n <= _ROWS_ALIKE:
        aims = np.concatenate([y, fitted], axis=1), np.concatenate([y_test, predicted], axis=1)
        least = LEAST_OF_CLASSES if len(parts) > 1 else LEAST_SHARE
        looks.append((_Kernel.of_rest((rows, others), aims), _most_alike(parts), least))
    moved = [np.empty_like(y_test) for _ in looks]
    nearest, is_close, closeness = (np.empty(len(test), t) for t in (np.int64, bool, np.float64))
    for row in range(len(test)):
        weights = kernel.weights(row)
        for look, (metric, left_out, _) in enumerate(looks):
            like = -metric.weights(row)
            near = np.concatenate([of[np.argpartition(like[of], most - 1)[:most]] for of, most in left_out])
            own = np.eye(len(near)) - kernel.between(near) - 1 / n
            moved[look][row] = -(weights[near] + 1 / n) @ np.linalg.solve(own, residual[near])
        nearest[row] = weights.argmax()
        closeness[row] = weights[nearest[row]] / max(-float(weights.min()), np.finfo(np.float64).tiny)
        is_close[row] = closeness[row] > _NEARER
    apart = np.abs((y_test - y[nearest]) / y.std(axis=0)).mean(axis=1)
    anyone = np.abs((y_test - np.roll(y_test, len(y_test) // 2, axis=0)) / y.std(axis=0)).mean(axis=1)
    is_close &= apart <= _ALIKE * np.median(anyone)
    order = np.flatnonzero(is_close)[np.argsort(-closeness[is_close], kind="stable")]
    gains = [gains_moved(problem, best, baselines, test, one) for one in moved]
    tells = [without - least * gain for (gain, without), (_, _, least) in zip(gains, looks, strict=True)]
    look = int(np.argmin(tells))
    _, left_out, least = looks[look]
    count = sum(most for _, most in left_out)
    return WithoutNeighbours(*gains[look], count, len(test), least, every[test[order]], train[nearest[order]])


def _parts(y: Float[np.ndarray, "train target"], classes: bool) -> list[Int[np.ndarray, " _"]]:
    """Rows of each class, or of each level of few; all rows of numbers."""
    _, level, sizes = np.unique(y, axis=0, return_inverse=True, return_counts=True)
    if not classes and len(sizes) > LEVELS:
        return [np.arange(len(y))]
    return [np.flatnonzero(level.reshape(-1) == k) for k in range(len(sizes))]


def _count(parts: Sequence[Int[np.ndarray, " _"]]) -> int:
    """How many neighbours are left out: a tenth of the rows at most, and of classes a quarter of one."""
    sizes = np.array([len(part) for part in parts])
    most = min(MOST_NEIGHBOURS, max(2, int(sizes.sum()) // _SHARE_OF_ROWS))
    if len(parts) == 1:
        return most
    return max(1, min(most, int(np.median(np.repeat(sizes, sizes))) // _SHARE_OF_CLASS))


def _most_alike(parts: Sequence[Int[np.ndarray, " _"]]) -> list[tuple[Int[np.ndarray, " _"], int]]:
    """Of each part, how many rows that are alike are left out."""
    share = 1 / (_SHARE_OF_CLASS if len(parts) > 1 else _SHARE_OF_ROWS)
    share = min(share, _MOST_ALIKE / sum(len(part) for part in parts))
    return [(part, int(share * len(part))) for part in parts]


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

    @classmethod
    def of_rest(cls, rows: tuple[np.ndarray, np.ndarray], aims: tuple[np.ndarray, np.ndarray]) -> _Kernel:
        """Of rows' directions, less what others say of them linearly, at the strength of the directions that
        they vary along."""
        mean, aimed = rows[0].mean(axis=0), aims[0].mean(axis=0)
        slope = np.linalg.lstsq(aims[0] - aimed, rows[0] - mean, rcond=None)[0]
        rest, others = (x - mean - (one - aimed) @ slope for x, one in zip(rows, aims, strict=True))
        gram = rest @ rest.T if fewer_rows(rest.shape) else rest.T @ rest
        nothing = 1e-12 * float(np.square(rows[0] - mean).sum())
        made = cls.of(rest, others, float(np.square(gram).sum() / (np.trace(gram) + nothing)) + nothing)
        length = np.linalg.norm(made.train, axis=1, keepdims=True)
        return cls(made.train / np.where(length > 0, length, 1.0), made.test)

    def fitted(self, y: Float[np.ndarray, "train target"]) -> tuple[np.ndarray, np.ndarray]:
        """Of centred targets, on the training rows and on the others."""
        coef = self.train.T @ y
        return self.train @ coef, self.test @ coef

    def weights(self, row: int) -> Float[np.ndarray, " train"]:
        """Of every training row in the prediction of a test row."""
        return self.train @ self.test[row]

    def between(self, rows: Int[np.ndarray, " some"]) -> Float[np.ndarray, "some some"]:
        """Of training rows in each other's."""
        return self.train[rows] @ self.train[rows].T
