"""Scores of rows and blocks that were held out, and their intervals over blocks: pure functions of arrays.

The block is what a hold-out generalises over, so intervals of figures over blocks resample blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from graticule.hooks.imports import load
from graticule.probes.core.resample import defined_mean, interval, resamples
from graticule.probes.papers.compat import compat_proximity_error
from graticule.probes.scores.geo import proximity_error, proximity_error_1d

Draws = Float[np.ndarray, "draw block"]


Statistic = Callable[[Draws], Float[np.ndarray, " draw"]]
"""A figure over blocks, of how often each block is taken in a draw."""


def resampled(statistic: Statistic, n_blocks: int, draws: int, seed: int) -> tuple[float, float]:
    """95% interval of a statistic over resamples of the blocks."""
    return interval(np.concatenate([statistic(weights) for weights in resamples(n_blocks, draws, seed)]))


def weighted_mean(weights: Draws, values: Float[np.ndarray, " block"]) -> Float[np.ndarray, " draw"]:
    """Mean over the blocks that have a value."""
    present = np.isfinite(values)
    number = weights[:, present].sum(axis=1)
    total = weights[:, present] @ values[present]
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def weighted_median(weights: Draws, values: Float[np.ndarray, " block"]) -> Float[np.ndarray, " draw"]:
    """Median over the blocks that have a value."""
    present = np.flatnonzero(np.isfinite(values))
    if not len(present):
        return np.full(len(weights), np.nan)
    order = present[np.argsort(values[present], kind="stable")]
    cumulated = np.cumsum(weights[:, order], axis=1)
    half = cumulated[:, -1:] / 2
    low = (cumulated >= half).argmax(axis=1)
    high = (cumulated > half).argmax(axis=1)
    return np.where(half[:, 0] > 0, (values[order][low] + values[order][high]) / 2, np.nan)


@dataclass(frozen=True)
class Squares:
    """Sums of squares by block and target, of which every pooled R² is made."""

    error: Float[np.ndarray, "block target"]
    """(y − ŷ)²."""
    from_mean: Float[np.ndarray, "block target"]
    """(y − m)², with m the mean that the block's fit was given: what no activations at all would do."""

    @classmethod
    def of(
        cls,
        y: Float[np.ndarray, "row target"],
        pred: Float[np.ndarray, "row target"],
        mean: Float[np.ndarray, "row target"],
        code: Int[np.ndarray, " row"],
        n_blocks: int,
    ) -> Squares:
        """`mean` is the training mean that belongs to each row."""
        return cls(_sums((y - pred) ** 2, code, n_blocks), _sums((y - mean) ** 2, code, n_blocks))

    def r2(self, weights: Draws | None = None) -> Float[np.ndarray, " draw"]:
        """Pooled R² against the training means, mean over targets: 0 for predicting those means."""
        weights = np.ones((1, len(self.error))) if weights is None else weights
        return 1 - defined_mean(_ratio(weights @ self.error, weights @ self.from_mean))

    def by_block(self) -> Float[np.ndarray, " block"]:
        """The same for each block by itself."""
        return 1 - defined_mean(_ratio(self.error, self.from_mean))


@dataclass(frozen=True)
class Centroids:
    """Where each block's centre is, and where it was put by a fit that never saw the block."""

    true: Float[np.ndarray, "block target"]
    """Mean of the block's true targets."""
    predicted: Float[np.ndarray, "block target"]
    """Mean of its predictions."""
    mean: Float[np.ndarray, "block target"]
    """Mean target of the rows that the block's fit was given."""

    @property
    def cosine(self) -> Float[np.ndarray, " block"]:
        """Cosine of the angle between c_true − m and c_pred − m; with one target the sign, −1 or 1."""
        a, b = self.true - self.mean, self.predicted - self.mean
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        return np.clip(_ratio((a * b).sum(axis=1), norms), -1.0, 1.0)

    @property
    def angle(self) -> Float[np.ndarray, " block"]:
        """That angle in degrees; 90 on average where the direction is chance."""
        return np.degrees(np.arccos(self.cosine))

    @property
    def ratio(self) -> Float[np.ndarray, " block"]:
        """|c_pred − m| / |c_true − m|: 0 stays at the training mean, 1 goes all the way."""
        a, b = (np.linalg.norm(c - self.mean, axis=1) for c in (self.true, self.predicted))
        return _ratio(b, a)


def centroids(
    y: Float[np.ndarray, "row target"],
    pred: Float[np.ndarray, "row target"],
    code: Int[np.ndarray, " row"],
    mean: Float[np.ndarray, "block target"],
) -> Centroids:
    """Centroids of rows whose block is `code`."""
    size = np.bincount(code, minlength=len(mean))[:, None]
    return Centroids(_sums(y, code, len(mean)) / size, _sums(pred, code, len(mean)) / size, mean)


def within_correlation(
    y: Float[np.ndarray, "row target"],
    pred: Float[np.ndarray, "row target"],
    code: Int[np.ndarray, " row"],
    n_blocks: int,
) -> Statistic:
    """Correlation of y and ŷ once every block's own means are taken off, mean over targets; 0 is chance."""
    middle = centroids(y, pred, code, np.zeros((n_blocks, y.shape[1])))
    a, b = y - middle.true[code], pred - middle.predicted[code]
    products = [_sums(v, code, n_blocks) for v in (a * b, a * a, b * b)]

    def statistic(weights: Draws) -> Float[np.ndarray, " draw"]:
        both, first, second = (weights @ p for p in products)
        return defined_mean(_ratio(both, np.sqrt(first) * np.sqrt(second)))

    return statistic


def sign_test(cosine: Float[np.ndarray, " block"]) -> float:
    """Two-sided p of as many blocks on the right side of the training mean, if each side had chance 1/2."""
    load("scipy.stats")
    from scipy.stats import binomtest

    sides = cosine[np.isfinite(cosine) & (cosine != 0)]
    return float(binomtest(int((sides > 0).sum()), len(sides)).pvalue) if len(sides) else float("nan")


def proximity(
    true: Float[np.ndarray, "row axis"],
    pred: Float[np.ndarray, "row axis"],
    among: Float[np.ndarray, "other axis"],
    paper_compat: bool = False,
) -> Float[np.ndarray, " row"]:
    """Combined proximity error; axes are (latitude, longitude), or one of any unit.

    With `paper_compat` as the paper's code has it: longitude read as latitude, and no ties.
    """
    if paper_compat:
        return compat_proximity_error(true, pred, among)
    if true.shape[1] == 1:
        return proximity_error_1d(true[:, 0], pred[:, 0], among[:, 0])
    return proximity_error(true, pred, among)


def block_means(
    values: Float[np.ndarray, " row"], code: Int[np.ndarray, " row"], n_blocks: int
) -> Float[np.ndarray, " block"]:
    """Mean over the rows of each block that have a value."""
    present = np.isfinite(values)
    number = np.bincount(code[present], minlength=n_blocks)
    return _ratio(np.bincount(code[present], values[present], minlength=n_blocks), number)


def block_medians(
    values: Float[np.ndarray, " row"], code: Int[np.ndarray, " row"], n_blocks: int
) -> Float[np.ndarray, " block"]:
    """Median over the rows of each block that have a value."""
    own = [values[(code == i) & np.isfinite(values)] for i in range(n_blocks)]
    return np.array([np.median(v) if len(v) else np.nan for v in own])


def mean_intervals(
    values: Float[np.ndarray, " row"],
    code: Int[np.ndarray, " row"],
    clusters: Int[np.ndarray, " row"],
    n_blocks: int,
    draws: int,
    seed: int,
) -> Float[np.ndarray, "block 2"]:
    """95% interval of each block's mean, by a bootstrap over its clusters."""
    out = np.full((n_blocks, 2), np.nan)
    for block in range(n_blocks):
        rows = np.flatnonzero((code == block) & np.isfinite(values))
        if len(rows) < 2:
            continue
        _, label = np.unique(clusters[rows], return_inverse=True)
        total, size = np.bincount(label, values[rows]), np.bincount(label).astype(np.float64)

        def statistic(weights: Draws, total: np.ndarray = total, size: np.ndarray = size) -> np.ndarray:
            return (weights @ total) / (weights @ size)

        out[block] = resampled(statistic, len(size), draws, seed)
    return out


def _sums(values: Float[np.ndarray, "row target"], code: np.ndarray, n_blocks: int) -> np.ndarray:
    return np.stack([np.bincount(code, column, minlength=n_blocks) for column in values.T], axis=1)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)
