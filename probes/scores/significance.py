"""When two numbers differ: equal but for rounding, p-values by rank and by interval, many tests at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.hooks.imports import load
from graticule.hooks.values import finite

_ROUNDING = 1e-10  # of scores of order 1, through least squares whose columns are nearly copies
_REACH = 1e-6  # of a statistic's own size: some are made in single precision


# Two numbers -----------------------------------------------------------------------------------------
def score_difference(a: Float[np.ndarray, ...], b: Float[np.ndarray, ...]) -> Float[np.ndarray, ...]:
    """`a − b` of scores, exactly 0 where they differ by rounding alone."""
    gap = a - b
    return np.where(np.abs(gap) <= _ROUNDING * np.maximum(1.0, np.abs(b)), 0.0, gap)


def share_reaching(
    null: Float[np.ndarray, "draw ..."], observed: float | Float[np.ndarray, ...]
) -> Float[np.ndarray, ...]:
    """One-sided p by rank among draws: `(1 + draws at least as large) / (1 + draws)`.

    A draw that falls short of `observed` by rounding alone ties with it, and so counts.

    Args:
        null: One draw per row.
        observed: the statistic, of the shape of one draw.

    Returns:
        p of each statistic; NaN where it is undefined, or where a draw is.
    """
    value = np.asarray(observed, np.float64)
    size = np.maximum(np.abs(null), np.abs(value))
    reached = (null >= value - _REACH * size).sum(axis=0)
    undefined = np.isnan(value) | np.isnan(null).any(axis=0)
    return np.where(undefined, np.nan, (1 + reached) / (1 + len(null)))


def ranks(values: Float[np.ndarray, "row ..."]) -> Float[np.ndarray, "row ..."]:
    """Mean ranks of every column; neighbours that differ by rounding alone share theirs.

    Args:
        values: numbers.

    Returns:
        Ranks from 1.

    Raises:
        NonFiniteError: for NaN, which would be ranked the best of all, or an infinity.
    """
    load("scipy.stats")
    from scipy.stats import rankdata

    finite("what is ranked", values, lambda row: f"in row {row}")
    order = np.argsort(values, axis=0, kind="stable")
    ascending = np.take_along_axis(values, order, axis=0)
    slack = 1e-12 * np.abs(ascending).max(axis=0, initial=0.0)
    steps = np.diff(ascending, axis=0, prepend=ascending[:1]) > slack
    groups = np.empty(values.shape, np.int64)
    np.put_along_axis(groups, order, np.cumsum(steps, axis=0), axis=0)
    return np.asarray(rankdata(groups, axis=0), np.float64)


# Many tests ------------------------------------------------------------------------------------------
def holm(p: Sequence[float] | Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Adjusted p-values that keep the chance of *any* false finding below their level (Holm 1979).

    Whatever the dependence between the tests. NaN stays NaN and is not counted as a test.

    Raises:
        ValueError: For values outside [0, 1].
    """
    values, defined = _checked(p)
    given = values[defined]
    order = np.argsort(given, kind="stable")
    steps = np.arange(len(given), 0, -1) * given[order]
    adjusted = np.empty(len(given))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    values[defined] = adjusted
    return values


def benjamini_hochberg(p: Sequence[float] | Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Adjusted p-values (q) that keep the expected share of false findings below their level (1995).

    For independent or positively dependent tests. NaN stays NaN and is not counted as a test.

    Raises:
        ValueError: For values outside [0, 1].
    """
    return _false_discovery(p, "bh")


def benjamini_yekutieli(p: Sequence[float] | Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """As `benjamini_hochberg`, whatever the dependence between the tests (2001): less is named.

    Raises:
        ValueError: For values outside [0, 1].
    """
    return _false_discovery(p, "by")


def _false_discovery(
    p: Sequence[float] | Float[np.ndarray, " test"], method: Literal["bh", "by"]
) -> Float[np.ndarray, " test"]:
    values, defined = _checked(p)
    load("scipy.stats")
    from scipy.stats import false_discovery_control

    if defined.any():
        values[defined] = false_discovery_control(values[defined], method=method)
    return values


def bootstrap_p(samples: Float[np.ndarray, " draw"], null: float = 0.0, two_sided: bool = True) -> float:
    """p-value of `null` by inverting the percentile interval: the level at which the interval just meets it.

    Twice the share of draws on the null's side of it (once, for the one-sided alternative that the quantity
    is larger), with one added to numerator and denominator so that it is never 0. Undefined draws are left
    out; NaN if all are. Samples are of scores of order 1: one that is `null` but for rounding counts on both
    sides.
    """
    defined = samples[~np.isnan(samples)]
    if not len(defined):
        return float("nan")
    from_null = score_difference(defined, np.full(len(defined), null))
    below = (1 + int((from_null <= 0).sum())) / (1 + len(defined))
    above = (1 + int((from_null >= 0).sum())) / (1 + len(defined))
    return min(1.0, 2 * min(below, above)) if two_sided else below


def max_t_band(
    estimates: Float[np.ndarray, " part"], samples: Float[np.ndarray, "draw part"], level: float = 0.95
) -> tuple[Float[np.ndarray, " part"], Float[np.ndarray, " part"]]:
    """Limits that hold every part at once with probability `level`, from one set of resamples.

    Each part's deviation from its estimate is measured in its own standard error, and the largest of a
    resample is what the band must hold (Romano & Wolf, Econometrica 2005): where parts rise and fall together
    the band is narrower than Bonferroni's. Draws with an undefined part are left out.

    Raises:
        ValueError: If no draw is defined.
    """
    defined = samples[~np.isnan(samples).any(axis=1)]
    if not len(defined):
        raise ValueError("no resample defines every part, so there is no band")
    spread = defined.std(axis=0)
    safe = np.where(spread > 0, spread, 1.0)
    largest = (np.abs(defined - estimates) / safe).max(axis=1)
    reach = float(np.quantile(largest, level)) * spread
    return estimates - reach, estimates + reach


def adjusted_table(p: Mapping[str, float]) -> pd.DataFrame:
    """`name`, raw `p`, `holm` and `benjamini_hochberg`, the smallest first."""
    raw = np.array(list(p.values()), np.float64)
    table = pd.DataFrame(
        {"name": list(p), "p": raw, "holm": holm(raw), "benjamini_hochberg": benjamini_hochberg(raw)}
    )
    return table.sort_values("p", kind="stable", ignore_index=True)


def _checked(p: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = np.array(p, np.float64)
    defined = ~np.isnan(values)
    bad = values[defined & ~((values >= 0) & (values <= 1))]
    if values.ndim != 1 or len(bad):
        raise ValueError(f"p is {bad[:3].tolist() or values.shape}: expected a list of values from 0 to 1")
    return values, defined
