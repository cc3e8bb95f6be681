"""Resampling, every fit held fixed: whole clusters of rows, paired R², means, and vectors within sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int

from graticule.hooks.imports import load
from graticule.hooks.values import finite
from graticule.probes.scores.metrics import FEW, mean_r2, with_interval

_CHUNK_CELLS = 1 << 22  # cluster weights held at once (32 MiB)

Pair = tuple[Float[np.ndarray, "row target"], Float[np.ndarray, "row target"]]
"""Truth and prediction of the same rows."""


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

    Raises:
        ValueError: Where shapes differ or there is no row or no predictor.
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


def resampled_r2(sums: ClusterSums, n_bootstrap: int, seed: int) -> Float[np.ndarray, "draw predictor"]:
    """Mean R² over targets of every predictor, in ``n_bootstrap`` resamples of the clusters with replacement.

    The same resamples serve all predictors, so differences of columns are paired. A target that is
    constant in a resample is left out of that resample's mean, for all predictors alike.
    """
    out = np.empty((n_bootstrap, len(sums.names)))
    start = 0
    for weights in resamples(len(sums.n), n_bootstrap, seed):
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
    size: int, n_bootstrap: int, seed: int, picked: Int[np.ndarray, " sample"] | None = None
) -> Iterator[Float[np.ndarray, "draw cluster"]]:
    """How often each of ``size`` clusters is taken in each resample, some of the resamples at a time.

    With ``picked``, labels of clusters (with repeats), the resamples are of that sample and not of all.
    """
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK_CELLS // size)
    of = size if picked is None else len(picked)
    for start in range(0, n_bootstrap, step):
        count = min(step, n_bootstrap - start)
        drawn = rng.integers(0, of, (count, of))  # one stream, however many are held at once
        places = (drawn if picked is None else picked[drawn]) + size * np.arange(count)[:, None]
        counts = np.bincount(places.ravel(), minlength=count * size)
        yield counts.reshape(count, size).astype(np.float64)


def resampled_by_target(
    sums: ClusterSums, n_bootstrap: int, seed: int, picked: Int[np.ndarray, " sample"] | None = None
) -> Float[np.ndarray, "draw predictor target"]:
    """:func:`resampled_r2` for every target by itself, in the same resamples (of :func:`resamples`)."""
    return np.concatenate([weighted_r2(sums, w) for w in resamples(len(sums.n), n_bootstrap, seed, picked)])


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


def wilson(count: int, of: int) -> tuple[float, float]:
    """Wilson's 95% interval of a rate (JASA 1927): good near 0 and 1 and for small counts. NaN for none."""
    if of == 0:
        return float("nan"), float("nan")
    load("scipy.stats")
    from scipy.stats import binomtest

    ends = binomtest(count, of).proportion_ci(method="wilson")
    return float(ends.low), float(ends.high)


# One score of several predictors ---------------------------------------------------------------------
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
    pairs: Mapping[str, Pair], clusters: Int[np.ndarray, " row"], n_bootstrap: int, seed: int
) -> dict[str, Sampled]:
    """Mean R² over targets of every pair, in resamples of whole clusters, the same for all pairs.

    Unlike `resampled_r2` the truth may differ between pairs: a probe on its target beside a probe on a
    control target. The draws are those of `resampled_r2` with this seed. With one cluster nothing is
    resampled, and all samples are NaN.
    """
    ends = np.cumsum([0, *(truth.shape[1] for truth, _ in pairs.values())])
    truth, predicted = (np.concatenate([pair[side] for pair in pairs.values()], axis=1) for side in (0, 1))
    sums = cluster_sums(truth, {"all": predicted}, clusters)
    parts = [weighted_r2(sums, weights)[:, 0] for weights in resamples(len(sums.n), n_bootstrap, seed)]
    by_target = np.concatenate(parts)
    scores: dict[str, Sampled] = {}
    for i, (name, (y, pred)) in enumerate(pairs.items()):
        samples = defined_mean(by_target[:, ends[i] : ends[i + 1]])
        scores[name] = Sampled(mean_r2(y, pred), samples if len(sums.n) > 1 else np.full(n_bootstrap, np.nan))
    return scores


@dataclass(frozen=True)
class Difference:
    """One score of two predictors of the same test rows, compared pair by pair."""

    score: str
    """What is compared, with its unit: `R²`, `mean km`."""
    first: float
    """The first predictor's."""
    second: float
    """The second's."""
    difference: float
    """First minus second."""
    ci95: tuple[float, float]
    """Of the difference: paired bootstrap over clusters of test rows, fits fixed."""

    @property
    def text(self) -> str:
        """The difference and its interval."""
        digits = 3 if self.score.startswith("R") else 1
        return with_interval(self.difference, self.ci95, FEW, digits)


# Any statistic ---------------------------------------------------------------------------------------
def cluster_weights(
    clusters: Int[np.ndarray, " row"], n_bootstrap: int, seed: int
) -> tuple[Float[np.ndarray, "draw cluster"], Int[np.ndarray, " row"]]:
    """How often each cluster is taken in every resample with replacement, and the cluster of each row."""
    _, codes = np.unique(clusters, return_inverse=True)
    return np.concatenate(list(resamples(int(codes.max()) + 1, n_bootstrap, seed))), codes


def resampled_sums(
    columns: Float[np.ndarray, "row column"], clusters: Int[np.ndarray, " row"], n_bootstrap: int, seed: int
) -> Float[np.ndarray, "draw column"]:
    """Sums of columns over resamples of whole clusters: of all that a mean or a correlation is made of."""
    _, codes = np.unique(clusters, return_inverse=True)
    sums = _by_cluster(columns, codes)
    return np.concatenate([weights @ sums for weights in resamples(len(sums), n_bootstrap, seed)])


def mean_difference(
    score: str,
    first: Float[np.ndarray, " row"],
    second: Float[np.ndarray, " row"],
    clusters: Int[np.ndarray, " row"],
    n_bootstrap: int,
    seed: int,
) -> Difference:
    """The mean of one number a row (an error), compared by paired bootstrap over clusters."""
    columns = np.column_stack([first - second, np.ones(len(first))])
    total, size = resampled_sums(columns, clusters, n_bootstrap, seed).T
    a, b = float(first.mean()), float(second.mean())
    return Difference(score, a, b, a - b, interval(total / size))


def resampled_interval(
    statistic: Callable[[Float[np.ndarray, "draw cluster"]], Float[np.ndarray, " draw"]],
    size: int,
    n_bootstrap: int,
    seed: int,
) -> tuple[float, float]:
    """95% interval of a figure that is a function of how often each of `size` clusters is taken."""
    return interval(np.concatenate([statistic(weights) for weights in resamples(size, n_bootstrap, seed)]))


def weights_within(
    sizes: Int[np.ndarray, " set"], n_bootstrap: int, rng: np.random.Generator
) -> Float32[np.ndarray, "n draw"]:
    """How often a bootstrap draws each vector, from within its own set."""
    parts = [rng.multinomial(int(n), np.full(int(n), 1 / n), size=n_bootstrap).T for n in sizes]
    return np.concatenate(parts).astype(np.float32)
