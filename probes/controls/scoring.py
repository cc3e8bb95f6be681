"""Scores with their bootstrap samples: any number of (truth, prediction) pairs over the same resamples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from graticule.probes.scores.bootstrap import cluster_sums, defined_mean, interval, resamples, weighted_r2
from graticule.probes.scores.metrics import mean_r2

Pair = tuple[Float[np.ndarray, "row target"], Float[np.ndarray, "row target"]]
"""Truth and prediction of the same rows."""


@dataclass(frozen=True)
class Sampled:
    """A score, and what it would have been in every resample of the clusters."""

    value: float
    """On the rows themselves."""
    samples: Float[np.ndarray, " draw"]
    """NaN where the score is undefined."""

    def __sub__(self, other: Sampled) -> Sampled:
        """A difference over the same resamples, so a paired one."""
        return Sampled(self.value - other.value, self.samples - other.samples)

    @property
    def ci95(self) -> tuple[float, float]:
        """Percentile interval; NaN, NaN where no resample says anything."""
        return interval(self.samples)


def average(scores: Sequence[Sampled]) -> Sampled:
    """The mean of scores over the same resamples, such as those of several seeds."""
    value = float(np.mean([s.value for s in scores]))
    return Sampled(value, np.mean([s.samples for s in scores], axis=0))


def sampled_r2(
    pairs: Mapping[str, Pair], clusters: Int[np.ndarray, " row"], draws: int, seed: int
) -> dict[str, Sampled]:
    """Mean R² over targets of every pair, in `draws` resamples of whole clusters, the same for all pairs.

    Unlike `resampled_r2` the truth may differ between pairs: a probe on its target beside a probe on a
    control target. The draws are those of `resampled_r2` with this seed. With one cluster nothing is
    resampled, and all samples are NaN.
    """
    sizes = [truth.shape[1] for truth, _ in pairs.values()]
    ends = np.cumsum([0, *sizes])
    truth = np.concatenate([pair[0] for pair in pairs.values()], axis=1)
    predicted = np.concatenate([pair[1] for pair in pairs.values()], axis=1)
    sums = cluster_sums(truth, {"all": predicted}, clusters)
    parts = [weighted_r2(sums, weights)[:, 0] for weights in resamples(len(sums.n), draws, seed)]
    by_target = np.concatenate(parts)
    found: dict[str, Sampled] = {}
    for i, (name, (y, pred)) in enumerate(pairs.items()):
        samples = defined_mean(by_target[:, ends[i] : ends[i + 1]])
        found[name] = Sampled(mean_r2(y, pred), samples if len(sums.n) > 1 else np.full(draws, np.nan))
    return found
