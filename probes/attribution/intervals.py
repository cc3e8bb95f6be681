"""Means and shares of variance of the terms of a reading, with a bootstrap over clusters of rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

_LEVEL = (0.025, 0.975)


@dataclass(frozen=True)
class Spread:
    """An estimate and its 95% interval, a line a term and a column a target."""

    value: Float[np.ndarray, "term target"]
    """Over all rows."""
    low: Float[np.ndarray, "term target"]
    """2.5th percentile over resamples; NaN where there are fewer than three clusters."""
    high: Float[np.ndarray, "term target"]
    """97.5th percentile."""


def means_and_shares(
    terms: Float[np.ndarray, "row term target"],
    reading: Float[np.ndarray, "row target"],
    clusters: Int[np.ndarray, " row"],
    draws: int = 1000,
    seed: int = 0,
) -> tuple[Spread, Spread]:
    """Mean of each term, and its share of the reading's variance, `Cov(term, reading) / Var(reading)`.

    As the terms sum to the reading but for its intercept, the shares sum to 1; a term that works against the
    others has a negative one. Whole clusters are resampled. Shares are NaN where the reading does not vary.
    """
    centre = terms.mean(axis=0)
    codes = np.unique(clusters, return_inverse=True)[1].reshape(-1)
    size = int(codes.max()) + 1
    t, r = terms - centre, reading - reading.mean(axis=0)
    sums = {
        "t": _by_cluster(t, codes, size),
        "r": _by_cluster(r, codes, size),
        "tr": _by_cluster(t * r[:, None], codes, size),
        "rr": _by_cluster(r * r, codes, size),
    }
    n = np.bincount(codes, minlength=size).astype(np.float64)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(size, np.full(size, 1 / size), draws).astype(np.float64)
    whole = _estimates(np.ones((1, size)), n, sums)
    drawn = _estimates(weights, n, sums)
    few = size < 3
    return (
        _spread(whole[0] + centre, drawn[0] + centre, few),
        _spread(whole[1], drawn[1], few),
    )


def shares_of(
    terms: Float[np.ndarray, "row term target"],
    reading: Float[np.ndarray, "row target"],
    towards: Float[np.ndarray, "row target"],
) -> Float[np.ndarray, "term target"]:
    """`Cov(term, towards) / Cov(reading, towards)`: how much of the reading's agreement with the truth each
    term brings. They sum to 1."""
    t, r = terms - terms.mean(axis=0), reading - reading.mean(axis=0)
    y = towards - towards.mean(axis=0)
    total = (r * y).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total != 0, np.einsum("rkt,rt->kt", t, y) / total, np.nan)


def _by_cluster(values: np.ndarray, codes: np.ndarray, size: int) -> np.ndarray:
    out = np.zeros((size, *values.shape[1:]))
    np.add.at(out, codes, values)
    return out


def _estimates(
    weights: np.ndarray, n: np.ndarray, sums: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    rows = weights @ n
    mean = {k: np.tensordot(weights, v, 1) / rows.reshape(-1, *[1] * (v.ndim - 1)) for k, v in sums.items()}
    covariance = mean["tr"] - mean["t"] * mean["r"][:, None]
    variance = (mean["rr"] - mean["r"] ** 2)[:, None]
    varies = variance > 1e-12 * sums["rr"].sum(axis=0) / n.sum()
    return mean["t"], np.where(varies, covariance / np.where(varies, variance, 1.0), np.nan)


def _spread(value: np.ndarray, drawn: np.ndarray, few: bool) -> Spread:
    if few:
        nothing = np.full(value.shape[1:], np.nan)
        return Spread(value[0], nothing, nothing)
    undefined = np.isnan(drawn).all(axis=0)
    low, high = np.nanquantile(np.where(undefined, 0.0, drawn), _LEVEL, axis=0)
    return Spread(value[0], np.where(undefined, np.nan, low), np.where(undefined, np.nan, high))
