"""Intervals from few clusters: the jackknife that leaves out a cluster at a time, and Student's t.

A percentile interval of resampled clusters is too narrow where clusters are few, unequal, or where a few hold
most of the squares: it takes the spread that it sees for the spread that there is. Leaving a cluster out
instead shows what each one does to the estimate, the more so the more it weighs (as the residuals of a
regression divided by one minus their leverage, MacKinnon & White 1985), and the number of degrees of freedom
is that of the variance so estimated (Satterthwaite 1946; Bell & McCaffrey 2002), which unequal clusters have
less of. One rule for any number of clusters: with many of them it is the interval that resampling gives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from graticule.hooks.imports import load
from graticule.probes.core.resample import ClusterSums, defined_mean
from graticule.probes.scores.significance import score_difference


@dataclass(frozen=True)
class Estimates:
    """Estimates with their standard errors, of one figure (no axes) or of many at once."""

    value: Float[np.ndarray, "*part"]
    """On the rows themselves."""
    se: Float[np.ndarray, "*part"]
    """Standard errors over clusters, all fits fixed; NaN where a single cluster holds all there is."""
    df: Float[np.ndarray, "*part"]
    """Degrees of freedom of the standard errors."""

    def reach(self, level: float = 0.95) -> Float[np.ndarray, "*part"]:
        """Half the width of the interval."""
        return np.asarray(_quantile((1 + level) / 2, self.df) * self.se)

    @property
    def low(self) -> Float[np.ndarray, "*part"]:
        """The lower ends of the 95% intervals."""
        return np.asarray(self.value - self.reach())

    @property
    def high(self) -> Float[np.ndarray, "*part"]:
        """Their upper ends."""
        return np.asarray(self.value + self.reach())

    @property
    def ci95(self) -> tuple[float, float]:
        """The 95% interval of a single figure."""
        return float(self.low), float(self.high)

    def p(self, null: float = 0.0, two_sided: bool = True) -> Float[np.ndarray, "*part"]:
        """p-values of `null`: the level at which the interval just meets it.

        Args:
            null: What is tested.
            two_sided: or else against the alternative that the figure is larger.

        Returns:
            1 where there is neither a difference nor an error; NaN where an estimate is.
        """
        load("scipy.stats")
        from scipy.stats import t as student

        apart = score_difference(self.value, np.full(np.shape(self.value), null))
        with np.errstate(divide="ignore", invalid="ignore"):
            times = np.where((apart == 0) & (self.se == 0), 0.0, apart / self.se)
        one = student.sf(np.abs(times) if two_sided else times, np.maximum(self.df, 1.0))
        return np.asarray(np.minimum(1.0, 2 * one if two_sided else one))

    def __sub__(self, other: Estimates) -> Estimates:
        """The difference of two that share no cluster (Welch 1947); pairs of the same rows are `ratio`."""
        variances = np.square(self.se), np.square(other.se)
        whole = variances[0] + variances[1]
        parts = np.square(variances[0]) / self.df + np.square(variances[1]) / other.df
        df = np.where(whole > 0, np.square(whole) / np.where(parts > 0, parts, 1.0), self.df + other.df)
        apart = np.asarray(self.value - other.value)
        return Estimates(apart, np.asarray(np.sqrt(whole)), np.asarray(df))


def ratio(
    numerator: Float[np.ndarray, "row ..."],
    denominator: Float[np.ndarray, "row ..."],
    clusters: Int[np.ndarray, " row"],
) -> Estimates:
    """A sum over rows divided by another sum over the same rows, with its error over clusters.

    Args:
        numerator: What each row adds above.
        denominator: What each row adds below; not negative.
        clusters: Dependent rows share a label.

    Returns:
        The ratio, of each column by itself.
    """
    above, below, sizes = _totals(numerator, clusters), _totals(denominator, clusters), _sizes(clusters)
    over, under = np.asarray(above.sum(axis=0)), np.asarray(below.sum(axis=0))
    rest = under - below
    left_out = _divided(over - above, np.where(rest > 1e-12 * under, rest, 0.0))
    leverage = _divided(below, np.broadcast_to(under, below.shape))
    return jackknife(_divided(over, under), left_out, leverage, sizes)


def mean_of(values: Float[np.ndarray, "row ..."], clusters: Int[np.ndarray, " row"]) -> Estimates:
    """The mean of one number a row, such as a paired difference of losses, with its error over clusters.

    Of a statistic that is smooth but no mean: give the statistic plus its influence values.

    Args:
        values: one number a row, of one figure or of several.
        clusters: Dependent rows share a label.

    Returns:
        The mean of each column.
    """
    return ratio(values, np.ones_like(values), clusters)


def jackknife(
    value: Float[np.ndarray, "*part"],
    left_out: Float[np.ndarray, "cluster ..."],
    leverage: Float[np.ndarray, "cluster ..."],
    sizes: Float[np.ndarray, " cluster"],
) -> Estimates:
    """Standard errors and degrees of freedom from what an estimate is without each of the clusters.

    Args:
        value: The estimates on all clusters.
        left_out: The same without cluster c; NaN where nothing is left that varies.
        leverage: The share of each cluster in what the estimates are divided by.
        sizes: Rows of each cluster: the variance of what it adds is taken to grow with them.

    Returns:
        The estimates with their errors.
    """
    count = len(sizes)
    apart = score_difference(np.broadcast_to(value, left_out.shape), left_out)
    if count < 2:
        return Estimates(value, np.full_like(value, np.nan), np.ones_like(value))
    squares = (count - 1) / count * np.square(apart).sum(axis=0)
    return Estimates(value, np.asarray(np.sqrt(squares)), _degrees(leverage, sizes))


def _degrees(
    leverage: Float[np.ndarray, "cluster ..."], sizes: Float[np.ndarray, " cluster"]
) -> Float[np.ndarray, "*part"]:
    """2 E(s²)² / Var(s²) of s² = Σ r² / (1 − h)², of residuals r = e − h Σe, e of a variance that is ∝ size.

    With Q = A − b1ᵀ − 1bᵀ + (hᵀb) 11ᵀ, A = diag (1 − h)⁻² and b = Ah, it is tr(QW)² / tr(QWQW), both in
    closed form. Equal clusters have one less than there are.
    """
    w = (sizes / sizes.mean()).reshape(-1, *(1,) * (leverage.ndim - 1))
    h = np.clip(leverage, 0.0, 1 - 1e-6)
    a = 1 / np.square(1 - h)
    b = a * h
    q, of_w, of_b = (h * b).sum(axis=0), w.sum(axis=0), (b * w).sum(axis=0)
    trace = (a * w).sum(axis=0) - 2 * of_b + q * of_w
    pairs = np.square(q * of_w) + 2 * (b * b * w).sum(axis=0) * of_w + 2 * of_b**2 - 4 * q * of_b * of_w
    own = (np.square(w) * (2 * a * (q - 2 * b) + np.square(a))).sum(axis=0)
    return np.asarray(np.maximum(1.0, np.square(trace) / (pairs + own)))


# R² --------------------------------------------------------------------------------------------------
def r2_estimates(sums: ClusterSums, first: str, second: str | None = None) -> Estimates:
    """R² of a predictor, or the difference of two predictors of the same rows, of every target.

    Args:
        sums: of the clusters of test rows.
        first: The predictor.
        second: what is subtracted; None is nothing.

    Returns:
        One estimate a target; NaN where it is constant.
    """
    value, left_out, leverage = _r2(sums, first, second)
    return jackknife(value, left_out, leverage, sums.n)


def mean_r2_estimate(sums: ClusterSums, first: str, second: str | None = None) -> Estimates:
    """The same of the mean over the targets that vary.

    Args:
        sums: of the clusters of test rows.
        first: The predictor.
        second: what is subtracted; None is nothing.

    Returns:
        A single estimate.
    """
    value, left_out, leverage = _r2(sums, first, second)
    mean = np.asarray(defined_mean(value))
    return jackknife(mean, defined_mean(left_out), defined_mean(leverage), sums.n)


def _r2(sums: ClusterSums, first: str, second: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The figure of each target, without each cluster, and the share of each cluster in the squares."""
    gap = -sums.sse[sums.names.index(first)]
    if second is not None:
        gap = sums.sse[sums.names.index(second)] + gap
    size, total, squares = sums.n.sum(), sums.y.sum(axis=0), sums.yy.sum(axis=0)
    whole = _varied(squares - np.square(total) / size, squares)
    left = (size - sums.n)[:, None]
    others = squares - sums.yy
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = _varied(others - np.square(total - sums.y) / left, squares)
    offset = 1.0 if second is None else 0.0
    value = offset + gap.sum(axis=0) / whole
    if second is not None:  # two that say the same differ by rounding
        value = score_difference(value, np.zeros_like(value))
    without = offset + (gap.sum(axis=0) - gap) / rest
    return value, without, 1 - rest / whole


def _varied(total: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Sums of squares; NaN where they are rounding: there is one value only."""
    return np.where(total > 1e-12 * squares, total, np.nan)


def _totals(values: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    _, codes = np.unique(clusters, return_inverse=True)
    columns = values.reshape(len(values), -1).T
    totals = np.stack([np.bincount(codes, weights=column) for column in columns], axis=1)
    return totals.reshape(-1, *values.shape[1:])


def _sizes(clusters: np.ndarray) -> Float[np.ndarray, " cluster"]:
    return np.unique(clusters, return_counts=True)[1].astype(np.float64)


def _divided(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """NaN where nothing is below."""
    return np.asarray(np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan))


def _quantile(probability: float, df: np.ndarray) -> np.ndarray:
    load("scipy.stats")
    from scipy.stats import t as student

    return np.asarray(student.ppf(probability, df))
