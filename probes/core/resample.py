"""Paired bootstrap of R² over clusters of rows, with every fit held fixed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from graticule.hooks.values import finite

_CHUNK_CELLS = 1 << 22  # cluster weights held at once (32 MiB)


@dataclass(frozen=True)
class ClusterSums:
    """All that R² of any resample of whole clusters depends on."""

    names: tuple[str, ...]
    """Predictors, in the order of ``sse``."""
    n: Float[np.ndarray, " cluster"]
    """Rows of each cluster."""
    y: Float[np.ndarray, "cluster target"]
    """Sums of y, measured from the overall mean so that years do not cancel away the digits."""
    yy: Float[np.ndarray, "cluster target"]
    """Sums of y², measured likewise."""
    sse: Float[np.ndarray, "predictor cluster target"]
    """Sums of squared errors of each predictor."""


def cluster_sums(
    y: Float[np.ndarray, "row target"],
    predictions: Mapping[str, Float[np.ndarray, "row target"]],
    clusters: Int[np.ndarray, " row"],
) -> ClusterSums:
    """Sums over the rows of each cluster (any integer labels), for :func:`resampled_r2`.

    **Raises** ValueError where shapes differ or there is no row or no predictor.
    """
    if len(y) == 0 or not predictions:
        raise ValueError("the bootstrap needs at least one row and one predictor")
    for name, pred in predictions.items():
        if pred.shape != y.shape:
            raise ValueError(f"predictions of {name!r} have shape {pred.shape}, y has {y.shape}")
        finite(f"predictions of {name!r}", pred, lambda row: f"in row {row} of those scored")
    _, codes = np.unique(clusters, return_inverse=True)
    centred = y - y.mean(axis=0)
    return ClusterSums(
        names=tuple(predictions),
        n=np.bincount(codes).astype(np.float64),
        y=_by_cluster(centred, codes),
        yy=_by_cluster(np.square(centred), codes),
        sse=np.stack([_by_cluster(np.square(y - pred), codes) for pred in predictions.values()]),
    )


def weighted_r2(
    sums: ClusterSums, weights: Float[np.ndarray, "draw cluster"]
) -> Float[np.ndarray, "draw predictor target"]:
    """R² of every predictor and target when cluster c is taken ``weights[:, c]`` times.

    NaN where the resampled target is constant.
    """
    size = (weights @ sums.n)[:, None]
    squares = weights @ sums.yy
    total = squares - np.square(weights @ sums.y) / size
    # below this the difference is rounding: the resample holds one value only
    varied = total > 1e-12 * np.maximum(squares, sums.yy.sum(axis=0) / sums.n.sum())
    error = np.stack([weights @ sse for sse in sums.sse], axis=1)
    return np.where(varied[:, None, :], 1 - error / np.where(varied, total, 1.0)[:, None, :], np.nan)


def resampled_r2(sums: ClusterSums, draws: int = 2000, seed: int = 0) -> Float[np.ndarray, "draw predictor"]:
    """Mean R² over targets of every predictor, in ``draws`` resamples of the clusters with replacement.

    The same resamples serve all predictors, so differences of columns are paired. A target that is
    constant in a resample is left out of that resample's mean, for all predictors alike.
    """
    out = np.empty((draws, len(sums.names)))
    start = 0
    for weights in resamples(len(sums.n), draws, seed):
        values, count = weighted_r2(sums, weights), len(weights)
        out[start : start + count] = defined_mean(values)
        start += count
    return out


def defined_mean(values: Float[np.ndarray, "*part target"]) -> Float[np.ndarray, "*part"]:
    """Mean over the targets that are not NaN; NaN where all are."""
    defined = ~np.isnan(values)
    number = defined.sum(axis=-1)
    total = np.where(defined, values, 0.0).sum(axis=-1)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def resamples(
    size: int, draws: int = 2000, seed: int = 0, picked: Int[np.ndarray, " sample"] | None = None
) -> Iterator[Float[np.ndarray, "draw cluster"]]:
    """How often each of ``size`` clusters is taken in each of ``draws`` resamples, some draws at a time.

    With ``picked``, labels of clusters (with repeats), the resamples are of that sample and not of all.
    """
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK_CELLS // size)
    of = size if picked is None else len(picked)
    for start in range(0, draws, step):
        # drawn one by one, so that the draws do not depend on how many are held at once
        drawn = (rng.integers(0, of, of) for _ in range(min(step, draws - start)))
        counts = (np.bincount(d if picked is None else picked[d], minlength=size) for d in drawn)
        yield np.stack(list(counts)).astype(np.float64)


def resampled_by_target(
    sums: ClusterSums, draws: int = 2000, seed: int = 0, picked: Int[np.ndarray, " sample"] | None = None
) -> Float[np.ndarray, "draw predictor target"]:
    """:func:`resampled_r2` for every target by itself, in the same resamples (of :func:`resamples`)."""
    return np.concatenate([weighted_r2(sums, w) for w in resamples(len(sums.n), draws, seed, picked)])


def interval(samples: Float[np.ndarray, " draw"], level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the draws in which the score was defined; NaN, NaN if there is none."""
    defined = samples[~np.isnan(samples)]
    if len(defined) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def effective_clusters(sizes: Float[np.ndarray, " cluster"] | Int[np.ndarray, " cluster"]) -> float:
    """(Σn)²/Σn²: how many clusters of equal size would vary as much as these do."""
    sizes = sizes.astype(np.float64)
    return float(sizes.sum() ** 2 / np.square(sizes).sum()) if len(sizes) else 0.0


def _by_cluster(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    return np.stack([np.bincount(codes, weights=column) for column in values.T], axis=1)


def wilson(found: int, of: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95% interval of a rate (JASA 1927): good near 0 and 1 and for small counts. NaN for none."""
    if of == 0:
        return float("nan"), float("nan")
    rate = found / of
    centre = (rate + z**2 / (2 * of)) / (1 + z**2 / of)
    half = z / (1 + z**2 / of) * float(np.sqrt(rate * (1 - rate) / of + z**2 / (4 * of**2)))
    return max(0.0, centre - half), min(1.0, centre + half)
