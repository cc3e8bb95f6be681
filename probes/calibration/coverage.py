"""Whether the interval of the gain holds what it is an interval of: the fitted predictors' own gain.

Both ways take clusters as independent of each other, as the interval does: they see whether so many clusters,
as unequal and as skewed as these, are enough for a percentile interval. Dependence *between* clusters is
invisible to them, and a matter of how the table's clusters are made.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from graticule.probes.calibration.judging import gain_samples, limits, whole
from graticule.probes.scores.bootstrap import ClusterSums


def held_aside(sums: ClusterSums, draws: int, seed: int, groups: int = 20) -> Bool[np.ndarray, " target"]:
    """Whether an interval from half of the test clusters agrees with the gain on the half held aside.

    The gain on the other half is the truth with an error of its own, known by the same bootstrap: the 95%
    interval of the two halves' difference must hold 0 (95% of the time, if the intervals are right). Each
    group of targets has its own halves.
    """
    out = np.zeros(sums.y.shape[1], bool)
    for g, targets in enumerate(_groups(len(out), groups)):
        order = np.random.default_rng([seed, 1, g]).permutation(len(sums.n))
        half = len(order) // 2
        samples = [
            gain_samples(_take(sums, index, targets), draws, seed + 7919 * (2 * g + k + 1))
            for k, index in enumerate((order[:half], order[half:]))
        ]
        low, high = limits(samples[0] - samples[1])
        out[targets] = (low <= 0) & (high >= 0)
    return out


def resampled(sums: ClusterSums, draws: int, seed: int, groups: int = 20) -> Bool[np.ndarray, " target"]:
    """Whether the interval holds the truth where all test clusters are the population.

    As many clusters as there are come out of that population, with replacement; the interval is computed from
    them as it would be from any test rows; the truth is the gain on the whole population, exactly. Each group
    of targets has its own sample.
    """
    truth = whole(sums)
    out = np.zeros(sums.y.shape[1], bool)
    for g, targets in enumerate(_groups(len(out), groups)):
        size = len(sums.n)
        picked = np.random.default_rng([seed, 2, g]).integers(0, size, size)
        part = _take(sums, np.arange(size), targets)
        samples = gain_samples(part, draws, seed + 7919 * (g + 1), picked)
        low, high = limits(samples)
        gain = truth[1, targets] - truth[0, targets]
        out[targets] = (low <= gain) & (gain <= high)
    return out


def _groups(count: int, groups: int) -> list[Int[np.ndarray, " _"]]:
    """Targets dealt into groups in turn, so that every kind is in every group."""
    return [np.arange(g, count, groups) for g in range(min(groups, count))]


def _take(sums: ClusterSums, clusters: Int[np.ndarray, " _"], targets: Int[np.ndarray, " _"]) -> ClusterSums:
    cells = np.ix_(clusters, targets)
    sse: Float[np.ndarray, "predictor cluster target"] = np.stack([s[cells] for s in sums.sse])
    return ClusterSums(sums.names, sums.n[clusters], sums.y[cells], sums.yy[cells], sse)
