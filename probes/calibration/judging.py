"""The verdict on many targets at once, whether its interval covers the gain, and the gain that it detects.

Stacks, gains, intervals and labels are those of `scores.verdict`, one target at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float, Int

from graticule.probes.calibration.components import Chosen
from graticule.probes.core.fit import stack_design
from graticule.probes.core.intervals import Estimates, jackknife, r2_estimates
from graticule.probes.core.labels import (
    MISSING,
    NO_BETTER_THAN_BEST,
    NO_BETTER_THAN_MEAN,
    STRUCTURE,
    label_of,
    standing,
)
from graticule.probes.core.resample import ClusterSums, cluster_sums, effective_clusters, weighted_r2
from graticule.probes.core.undecided import largest_share
from graticule.probes.scores.significance import score_difference

_BYTES = 1 << 25


@dataclass(frozen=True)
class BitSums:
    """What resamples of clusters need where gains are means of one number a row: bits."""

    n: Float[np.ndarray, " cluster"]
    """Rows of each cluster."""
    gained: Float[np.ndarray, "cluster target"]
    """Sums over the rows of each cluster."""

    @classmethod
    def of(cls, gained: Float[np.ndarray, "target test"], clusters: Int[np.ndarray, " test"]) -> BitSums:
        """Of bits gained on every row."""
        _, codes = np.unique(clusters, return_inverse=True)
        sums = np.stack([np.bincount(codes, weights=own) for own in gained], axis=1)
        return cls(np.bincount(codes).astype(np.float64), sums)

    def gains(self) -> Estimates:
        """The mean of every target with its error, as `mean_of` has it."""
        size, total = self.n.sum(), self.gained.sum(axis=0)
        leverage = np.broadcast_to((self.n / size)[:, None], self.gained.shape)
        left_out = (total - self.gained) / np.maximum(size - self.n, 1.0)[:, None]
        return jackknife(total / size, left_out, leverage, self.n)


@dataclass(frozen=True)
class Judged:
    """Verdicts on synthetic targets."""

    surface: Float[np.ndarray, " target"]
    """R² of the stacked baselines on test rows, or the bits a row that they save."""
    gain: Float[np.ndarray, " target"]
    """What the probe adds to it."""
    low: Float[np.ndarray, " target"]
    """Lower end of the gain's 95% interval."""
    high: Float[np.ndarray, " target"]
    """Its upper end."""
    words: tuple[str, ...]
    """The verdicts."""
    sums: ClusterSums | BitSums
    """What resamples of the test rows need: predictors `surface` and `full`, or what they differ by."""

    def replaced(self, index: Int[np.ndarray, " some"], others: Judged) -> Judged:
        """These with the verdicts on some targets taken from `others`; `sums` stays."""
        figures: dict[str, Any] = {}
        for name in ("surface", "gain", "low", "high"):
            figures[name] = getattr(self, name).copy()
            figures[name][index] = getattr(others, name)
        words = list(self.words)
        for i, word in zip(index, others.words, strict=True):
            words[i] = word
        return replace(self, **figures, words=tuple(words))


def stacks(
    y: Float[np.ndarray, "target train"],
    baselines: Mapping[str, Chosen],
    probe: Chosen | None,
) -> dict[str, Float[np.ndarray, "target test"]]:
    """Test predictions of the stack of `baselines`, of the stack with `probe` added, and of the strongest.

    The very least squares of `scores.verdict.stack`, from one QR per target: the first columns' factor is the
    factor of the first columns.
    """
    predictors = [*baselines.values(), *([] if probe is None else [probe])]
    step = max(1, _BYTES // (8 * (len(predictors) + 1) * y.shape[1]))
    names = ["surface"] if probe is None else ["surface", "full"]
    out = {name: np.empty((len(y), predictors[0].test.shape[1])) for name in (*names, "best")}
    for start in range(0, len(y), step):
        part = slice(start, start + step)
        columns = np.stack([p.train[part] for p in predictors], axis=2)
        tests = np.stack([p.test[part] for p in predictors], axis=2)
        parts = stack_design(columns, y[part])
        offset = y[part].mean(axis=1)
        augmented = np.concatenate([parts.design, parts.right[:, :, None]], axis=2)
        factor = cast("np.ndarray", np.linalg.qr(augmented, mode="r"))
        for name, k in zip(names, (len(baselines), len(predictors)), strict=False):
            weights = _least_squares(factor[:, :k, :k], factor[:, :k, -1]) * parts.per_unit[:, :k]
            intercept = offset - (parts.centre[:, :k] * weights).sum(axis=1)
            out[name][part] = np.einsum("tnk,tk->tn", tests[:, :, :k], weights) + intercept[:, None]
        errors = np.square(columns[:, :, : len(baselines)] - y[part][:, :, None]).sum(axis=1)
        out["best"][part] = tests[np.arange(len(tests)), :, errors.argmin(axis=1)]
    return out


def _least_squares(factor: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solutions of least norm from triangular factors, singular values below 1e-9 of the largest as zero."""
    if factor.shape[1] == 0:
        return np.zeros(right.shape)
    u, s, vt = np.linalg.svd(factor, full_matrices=False)  # fewer rows than predictors: not square
    large = s > 1e-9 * s[:, :1]
    turned = np.einsum("tij,ti->tj", u, right) * np.where(large, 1 / np.where(large, s, 1.0), 0.0)
    return np.einsum("tij,ti->tj", vt, turned)


def judge_many(
    y_test: Float[np.ndarray, "target test"],
    stacked: Mapping[str, Float[np.ndarray, "target test"]],
    clusters: Int[np.ndarray, " test"],
    *,
    min_gain: float,
    model_baselines: bool,
    means: Float[np.ndarray, " target"],
) -> Judged:
    """Gains, their intervals and labels, all targets at once: those of `verdict`.

    Args:
        y_test: Targets of the test rows.
        stacked: What the stacks `surface` and `full` and the strongest baseline, `best`, predict of them.
        clusters: of the test rows.
        min_gain: the smallest gain called structure.
        model_baselines: whether a baseline reads the model.
        means: of the targets over training rows.

    Returns:
        A verdict a target.
    """
    predictions = {name: stacked[name].T for name in ("surface", "full")}
    sums = cluster_sums(y_test.T, predictions, clusters)
    surface, full = _scores(sums)
    gain = score_difference(full, surface)
    added = _gains(sums)
    low, high = added.low, added.high
    constant = np.tile(means, (y_test.shape[1], 1))
    beside = {**predictions, "mean": constant, "best": stacked["best"].T}
    every = cluster_sums(y_test.T, beside, clusters)
    better = {
        name: (over.value >= min_gain) & (over.low > 0)
        for name in ("mean", "best")
        for over in [r2_estimates(every, "full", name)]
    }
    shares, effective = largest_share(y_test.T), effective_clusters(sums.n)

    def words(t: int) -> str:
        label = label_of(float(gain[t]), (float(low[t]), float(high[t])), min_gain, model_baselines)
        if label == MISSING:
            return label
        if label == STRUCTURE and not (better["mean"][t] and better["best"][t]):
            label = NO_BETTER_THAN_BEST if better["mean"][t] else NO_BETTER_THAN_MEAN
        return standing(
            label, y_test.shape[1], effective, shares[t : t + 1], float(surface[t]), ["the target"]
        )

    labels = tuple(words(t) for t in range(len(gain)))
    return Judged(surface, gain, low, high, labels, sums)


def _scores(sums: ClusterSums) -> Float[np.ndarray, "predictor target"]:
    """R² on the rows themselves."""
    return weighted_r2(sums, np.ones((1, len(sums.n))))[0]


def _gains(sums: ClusterSums | BitSums) -> Estimates:
    """The gain of every target."""
    if isinstance(sums, BitSums):
        return sums.gains()
    return r2_estimates(sums, "full", "surface")


# Coverage --------------------------------------------------------------------------------------------
# Whether the interval of the gain holds what it is an interval of: the fitted predictors' own gain. Both ways
# take clusters as independent of each other, as the interval does: they see whether so many clusters, as
# unequal and as skewed as these, are enough for it. Dependence *between* clusters is
# invisible to them, and a matter of how the table's clusters are made.
def held_aside(sums: ClusterSums | BitSums, seed: int, groups: int = 20) -> Bool[np.ndarray, " target"]:
    """Whether an interval from half of the test clusters agrees with the gain on the half held aside.

    The gain on the other half is the truth with an error of its own, known in the same way: the 95%
    interval of the two halves' difference must hold 0 (95% of the time, if the intervals are right). Each
    group of targets has its own halves.
    """
    out = np.zeros(_count(sums), bool)
    for g, targets in _groups(len(out), groups):
        order = np.random.default_rng([seed, 1, g]).permutation(len(sums.n))
        half = len(order) // 2
        one, other = (_gains(_take(sums, index, targets)) for index in (order[:half], order[half:]))
        apart = one - other
        out[targets] = (apart.low <= 0) & (apart.high >= 0)
    return out


def resampled(sums: ClusterSums | BitSums, seed: int, groups: int = 20) -> Bool[np.ndarray, " target"]:
    """Whether the interval holds the truth where all test clusters are the population.

    As many clusters as there are come out of that population, with replacement; the interval is computed from
    them as it would be from any test rows; the truth is the gain on the whole population, exactly. Each group
    of targets has its own sample.
    """
    whole = _gains(sums).value
    size, out = len(sums.n), np.zeros(_count(sums), bool)
    for g, targets in _groups(len(out), groups):
        picked = np.random.default_rng([seed, 2, g]).integers(0, size, size)
        sampled = _gains(_take(sums, picked, targets))
        gain = whole[targets]
        out[targets] = (sampled.low <= gain) & (gain <= sampled.high)
    return out


def _groups(count: int, groups: int) -> Iterator[tuple[int, Int[np.ndarray, " _"]]]:
    """Targets dealt into numbered groups in turn, so that every kind is in every group."""
    return ((g, np.arange(g, count, groups)) for g in range(min(groups, count)))


def _count(sums: ClusterSums | BitSums) -> int:
    return (sums.gained if isinstance(sums, BitSums) else sums.y).shape[1]


def _take(
    sums: ClusterSums | BitSums, clusters: Int[np.ndarray, " _"], targets: Int[np.ndarray, " _"]
) -> ClusterSums | BitSums:
    cells = np.ix_(clusters, targets)
    if isinstance(sums, BitSums):
        return BitSums(sums.n[clusters], sums.gained[cells])
    sse: Float[np.ndarray, "predictor cluster target"] = np.stack([s[cells] for s in sums.sse])
    return ClusterSums(sums.names, sums.n[clusters], sums.y[cells], sums.yy[cells], sse)


# The limit of detection ------------------------------------------------------------------------------
def monotone(
    rates: Float[np.ndarray, " gain"], counts: Float[np.ndarray, " gain"]
) -> Float[np.ndarray, " gain"]:
    """Least-squares fit that never falls, by pooling adjacent violators (Ayer et al. 1955)."""
    pools: list[tuple[float, float, int]] = []
    for rate, count in zip(rates, counts, strict=True):
        pools.append((float(rate), float(count), 1))
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            (a, n, k), (b, m, j) = pools[-2:]
            pools[-2:] = [((a * n + b * m) / (n + m), n + m, k + j)]
    return np.concatenate([np.full(k, rate) for rate, _, k in pools])


def limit_of_detection(
    gains: Float[np.ndarray, " gain"],
    rates: Float[np.ndarray, " gain"],
    counts: Float[np.ndarray, " gain"],
    wanted: float = 0.8,
) -> tuple[float, bool]:
    """The gain that is found with probability `wanted`, and whether that is only an upper bound.

    A monotone fit of the rates, interpolated in the logarithm of the gain. The smallest gain tried, as an
    upper bound, where even that is found so often; NaN where no gain tried is.
    """
    fitted = monotone(rates, counts)
    if fitted[0] >= wanted:
        return float(gains[0]), True
    above = np.flatnonzero(fitted >= wanted)
    if not len(above):
        return float("nan"), False
    at = int(above[0])
    share = (wanted - fitted[at - 1]) / (fitted[at] - fitted[at - 1])
    logs = np.log(gains)
    return float(np.exp(logs[at - 1] + share * (logs[at] - logs[at - 1]))), False
