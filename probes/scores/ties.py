"""What is equal but for rounding counts as equal, wherever something is compared, ranked or counted."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from graticule.hooks.imports import load
from graticule.hooks.values import finite

_ROUNDING = 1e-10  # of scores of order 1, through least squares whose columns are nearly copies
_REACH = 1e-6  # of a statistic's own size: some are made in single precision


def difference(a: Float[np.ndarray, ...], b: Float[np.ndarray, ...]) -> Float[np.ndarray, ...]:
    """`a − b` of scores, exactly 0 where they differ by rounding alone."""
    gap = a - b
    return np.where(np.abs(gap) <= _ROUNDING * np.maximum(1.0, np.abs(b)), 0.0, gap)


def share_reaching(
    null: Float[np.ndarray, "draw ..."], observed: float | Float[np.ndarray, ...]
) -> Float[np.ndarray, ...]:
    """One-sided p by rank among draws: `(1 + draws at least as large) / (1 + draws)`.

    A draw that falls short of `observed` by rounding alone ties with it, and so counts.

    Args:
        null: a draw a row.
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
