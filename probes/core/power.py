"""How many test rows a gain needs to be seen: a power curve in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from graticule.hooks.imports import load
from graticule.probes.core.resample import effective_clusters

SEEN = 0.8
"""How often a gain is to be seen that is called visible."""


@dataclass(frozen=True)
class RowsNeeded:
    """What test rows show of a gain, given what the surface leaves and how dependent the rows are.

    With a hidden part h of variance G (the target's is 1), a surface that leaves 1 − S and a stack that has
    learned h, a row adds d = h² + 2he to the gain, of variance V = 4G(1 − S − G) + 2G² where all is normal,
    and to the error of the ratio V(1 − 2G) + 2G². Rows of a cluster count for less by the `design_effect`.
    """

    surface: float
    """R² of the stacked baselines."""
    rows_per_cluster: float
    """Rows of an effective cluster."""
    design: float
    """The design effect, 1 or more; that of folds that share rows as well."""
    noise: float | None = None
    """In bits, where the other fields are in bits as well: the variance of what a row adds beyond that of a
    true gain, times the rows that it was seen on, since more rows learn better; None in R²."""
    per_bit: float = 2 / np.log(2)
    """In bits, the variance of a row's bits for each bit of gain."""

    def power(self, gain: float, rows: float) -> float:
        """How often the interval of a true gain lies above 0.

        Args:
            gain: true, of these fitted predictors.
            rows: of the test part.

        Returns:
            A probability.
        """
        df = max(1.0, rows / self.rows_per_cluster - 1)
        load("scipy.stats")
        from scipy.stats import nct
        from scipy.stats import t as student

        return float(nct.sf(student.ppf(0.975, df), df, gain / self.se(gain, rows)))

    def se(self, gain: float, rows: float) -> float:
        """The standard error of the gain.

        Args:
            gain: true, of these fitted predictors.
            rows: of the test part.

        Returns:
            In R².
        """
        if self.noise is not None:
            return float(np.sqrt((self.per_bit * gain + self.noise / rows) * self.design / rows))
        left = max(1 - self.surface, gain)
        of_row = 4 * gain * (left - gain) + 2 * gain**2
        of_ratio = max(of_row * (1 - 2 * gain) + 2 * gain**2, 1e-12)
        return float(np.sqrt(of_ratio * self.design / rows))

    def rows(self, gain: float, power: float = SEEN) -> int:
        """How many test rows show a gain with the probability `power`.

        Args:
            gain: true, above 0.
            power: how often.

        Returns:
            Rows; those of two clusters at least.
        """
        low, high = 2 * self.rows_per_cluster, 1e9
        while high / low > 1.01:
            middle = float(np.sqrt(low * high))
            low, high = (low, middle) if self.power(gain, middle) >= power else (middle, high)
        return int(np.ceil(high))

    def gain(self, rows: float, power: float = SEEN) -> float:
        """The smallest gain that so many test rows show; NaN where they show none.

        Args:
            rows: of the test part.
            power: how often.

        Returns:
            In R².
        """
        most = max(1e-6, min(1.0, 1 - self.surface))
        low, high = 1e-6, most
        if self.power(most, rows) < power:
            return float("nan")
        while high / low > 1.01:
            middle = float(np.sqrt(low * high))
            low, high = (low, middle) if self.power(middle, rows) >= power else (middle, high)
        return high

    def curve(self, gains: Sequence[float], rows: Sequence[int]) -> pd.DataFrame:
        """Power by gain and rows.

        Args:
            gains: true gains.
            rows: of the test part.

        Returns:
            One line a pair: `gain`, `rows`, `power`.
        """
        lines = [{"gain": g, "rows": n, "power": self.power(g, float(n))} for g in gains for n in rows]
        return pd.DataFrame(lines)


def bits_variance(variance: float, gain: float) -> tuple[float, float]:
    """What a row's bits vary by: for each bit of gain, and beyond the gain.

    The logarithm of the ratio of two likelihoods of which one is right has a variance of about twice its mean
    where the mean is small (in nats); what is more comes from fits that are not right. Where the mean is not
    small the variance is less.

    Args:
        variance: of the bits that rows add.
        gain: their mean.

    Returns:
        Bits, 2 / ln 2 at most; squared bits, 1e-9 at least.
    """
    most = 2 / float(np.log(2))
    per_bit = most if gain <= 0 else min(most, variance / gain)
    return per_bit, max(variance - per_bit * max(gain, 0.0), 1e-9)


def design_of_means(values: Float[np.ndarray, " row"], clusters: Int[np.ndarray, " row"]) -> float:
    """Of how many rows an independent one would say as much of a mean.

    Args:
        values: of the rows.
        clusters: of them.

    Returns:
        1 or more, and never more than rows in an effective cluster.
    """
    _, codes, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    sums = np.bincount(codes, weights=values - values.mean())
    alone = float(np.square(values - values.mean()).sum())
    most = len(values) / effective_clusters(sizes)
    return float(np.clip(np.square(sums).sum() / alone, 1.0, most)) if alone > 0 else most


def design_effect(
    errors: Float[np.ndarray, "row target"],
    added: Float[np.ndarray, "row target"],
    clusters: Int[np.ndarray, " row"],
) -> float:
    """Of how many test rows an independent one would say as much.

    What a row adds to the gain is twice the product of the surface's error and of what the probe adds, less a
    square: it is as correlated within clusters as both together.

    Args:
        errors: of the surface.
        added: by the probe to the surface.
        clusters: of the rows.

    Returns:
        1 + (m − 1) ρ ρ', with m rows in an effective cluster, 1 or more.
    """
    per = len(clusters) / effective_clusters(np.unique(clusters, return_counts=True)[1])
    return 1 + (per - 1) * _within(errors, clusters) * _within(added, clusters)


def _within(values: Float[np.ndarray, "row target"], clusters: Int[np.ndarray, " row"]) -> float:
    """The correlation of rows of a cluster, by analysis of variance, mean over columns; 1 if none tells."""
    _, codes, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    count, unit = len(sizes), values.std(axis=0)
    if count < 2 or count == len(codes) or not (unit > 0).any():
        return 1.0
    scaled = (values - values.mean(axis=0))[:, unit > 0] / unit[unit > 0]
    means = np.stack([np.bincount(codes, weights=column) / sizes for column in scaled.T], axis=1)
    between = (sizes[:, None] * np.square(means)).sum(axis=0) / (count - 1)
    within = np.square(scaled - means[codes]).sum(axis=0) / (len(codes) - count)
    each = (len(codes) - np.square(sizes).sum() / len(codes)) / (count - 1)
    return float(np.clip((between - within) / (between + (each - 1) * within), 0.0, 1.0).mean())
