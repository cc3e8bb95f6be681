"""The verdict on many targets at once: the stacks, the gains and their intervals, as `verdict` has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
from jaxtyping import Float, Int

from graticule.probes.calibration.components import Chosen
from graticule.probes.scores.bootstrap import ClusterSums, cluster_sums, resamples, weighted_r2
from graticule.probes.scores.ties import difference
from graticule.probes.scores.verdict import stack_design, words

_BYTES = 1 << 25


@dataclass(frozen=True)
class Judged:
    """Verdicts on synthetic targets."""

    surface: Float[np.ndarray, " target"]
    """R² of the stacked baselines on test rows."""
    gain: Float[np.ndarray, " target"]
    """What the probe adds to it."""
    low: Float[np.ndarray, " target"]
    """Lower end of the gain's 95% interval."""
    high: Float[np.ndarray, " target"]
    """Its upper end."""
    words: tuple[str, ...]
    """The verdicts."""
    sums: ClusterSums
    """What resamples of the test rows need: predictors `surface` and `full`."""


def stacks(
    y: Float[np.ndarray, "target train"],
    baselines: Mapping[str, Chosen],
    probe: Chosen | None,
) -> dict[str, Float[np.ndarray, "target test"]]:
    """Test predictions of the stack of `baselines`, and of the stack with `probe` added, for every target.

    The very least squares of `scores.verdict.stack`, from one QR a target: the first columns' factor is the
    factor of the first columns.
    """
    held = [*baselines.values(), *([] if probe is None else [probe])]
    step = max(1, _BYTES // (8 * (len(held) + 1) * y.shape[1]))
    names = ["surface"] if probe is None else ["surface", "full"]
    out = {name: np.empty((len(y), held[0].test.shape[1])) for name in names}
    for start in range(0, len(y), step):
        part = slice(start, start + step)
        columns = np.stack([c.train[part] for c in held], axis=2)
        tests = np.stack([c.test[part] for c in held], axis=2)
        parts = stack_design(columns, y[part])
        offset = y[part].mean(axis=1)
        augmented = np.concatenate([parts.design, parts.right[:, :, None]], axis=2)
        factor = cast("np.ndarray", np.linalg.qr(augmented, mode="r"))
        for name, k in zip(names, (len(baselines), len(held)), strict=False):
            weights = _least_squares(factor[:, :k, :k], factor[:, :k, -1]) * parts.per_unit[:, :k]
            intercept = offset - (parts.centre[:, :k] * weights).sum(axis=1)
            out[name][part] = np.einsum("tnk,tk->tn", tests[:, :, :k], weights) + intercept[:, None]
    return out


def _least_squares(factor: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solutions of least norm from triangular factors, singular values below 1e-9 of the largest as zero."""
    if factor.shape[1] == 0:
        return np.zeros(right.shape)
    u, s, vt = np.linalg.svd(factor, full_matrices=False)  # fewer rows than predictors: not square
    kept = s > 1e-9 * s[:, :1]
    turned = np.einsum("tij,ti->tj", u, right) * np.where(kept, 1 / np.where(kept, s, 1.0), 0.0)
    return np.einsum("tij,ti->tj", vt, turned)


def judge(
    y_test: Float[np.ndarray, "target test"],
    stacked: Mapping[str, Float[np.ndarray, "target test"]],
    clusters: Int[np.ndarray, " test"],
    *,
    min_gain: float = 0.01,
    model_baselines: bool = True,
    draws: int = 2000,
    seed: int = 0,
) -> Judged:
    """Gains, their intervals and words, all targets in one set of resamples: those of `verdict`."""
    sums = cluster_sums(y_test.T, {name: stacked[name].T for name in ("surface", "full")}, clusters)
    point = whole(sums)
    gain = difference(point[1], point[0])
    samples = gain_samples(sums, draws, seed)
    low, high = limits(samples)
    said = tuple(
        words(float(g), (float(a), float(b)), min_gain, model_baselines)
        for g, a, b in zip(gain, low, high, strict=True)
    )
    return Judged(point[0], gain, low, high, said, sums)


def whole(sums: ClusterSums) -> Float[np.ndarray, "predictor target"]:
    """R² on the rows themselves."""
    return weighted_r2(sums, np.ones((1, len(sums.n))))[0]


def limits(samples: Float[np.ndarray, "draw target"]) -> Float[np.ndarray, "2 target"]:
    """The 95% percentile intervals, of the draws in which a score was defined."""
    quantile = np.nanquantile if np.isnan(samples).any() else np.quantile
    return quantile(samples, [0.025, 0.975], axis=0)


def gain_samples(
    sums: ClusterSums, draws: int, seed: int, picked: Int[np.ndarray, " sample"] | None = None
) -> Float[np.ndarray, "draw target"]:
    """The gain in resamples; `picked` as in `scores.bootstrap.resamples`."""
    values = (weighted_r2(sums, weights) for weights in resamples(len(sums.n), draws, seed, picked))
    return np.concatenate([difference(value[:, 1], value[:, 0]) for value in values])
