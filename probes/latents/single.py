"""Single latents: which go with a target, and whether what they write lies along the probe's directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.hooks.imports import load
from graticule.hooks.latents import Latents
from graticule.hooks.values import finite
from graticule.probes.core.fit import Problem
from graticule.probes.geometry import RandomVectors, cosine_matrix, largest_of
from graticule.probes.scores.metrics import auroc, pearson, r2, spearman
from graticule.probes.scores.significance import benjamini_hochberg


@dataclass(frozen=True)
class DecoderCosines:
    """Decoder cosines to the two directions of one target, beside decoders drawn at random."""

    table: pd.DataFrame
    """One row per latent with a decoder: `latent`; for both directions `cos_`, `p_`, `p_max_`, `p_bh_`."""
    levels: dict[str, float]
    """Direction → the |cos| below which the largest of all random decoders stays with probability .95."""


def decoder_cosines(
    decoder: Float[np.ndarray, "d_sae width"],
    directions: dict[str, Float[np.ndarray, " width"]],
    chance: RandomVectors,
) -> DecoderCosines:
    """Cosine of every decoder vector with both directions, against vectors drawn at random.

    `p_` is the chance of one such vector (two-sided), `p_max_` that of the largest of as many as there are
    latents, `p_bh_` Benjamini-Hochberg adjusted over the latents. The chances are exact, not drawn.
    """
    finite("decoder vectors", decoder, lambda i: f"of latent {i}", "are the SAE's weights numbers?")
    living = np.flatnonzero(np.linalg.norm(decoder, axis=1) > 0)
    out: dict[str, Any] = {"latent": living}
    levels: dict[str, float] = {}
    for kind, direction in directions.items():
        cosines = cosine_matrix(decoder[living].T, direction[:, None])[:, 0]
        if not np.isfinite(cosines).all():  # a direction of length 0: nothing was fitted
            out |= {f"{name}_{kind}": np.full(len(living), np.nan) for name in ("cos", "p", "p_max", "p_bh")}
            levels[kind] = float("nan")
            continue
        p = chance.tail(cosines, direction)
        out[f"cos_{kind}"], out[f"p_{kind}"] = cosines, p
        out[f"p_max_{kind}"], out[f"p_bh_{kind}"] = largest_of(p, len(p)), benjamini_hochberg(p)
        levels[kind] = chance.level(-np.expm1(np.log(0.95) / len(p)), direction)
    return DecoderCosines(pd.DataFrame(out), levels)


def univariate(X: Any, y: Float[np.ndarray, "row target"]) -> Float[np.ndarray, "column target"]:
    """Pearson correlation of every sparse column with every target; NaN for columns that never change."""
    n = X.shape[0]
    means = np.asarray(X.mean(axis=0)).ravel()
    squares = np.asarray(X.multiply(X).sum(axis=0)).ravel()
    spread = squares - n * means**2
    varied = spread > 1e-10 * np.maximum(squares, np.finfo(np.float64).tiny)
    z = (y - y.mean(axis=0)) / y.std(axis=0)
    dots = np.asarray(X.T @ z) / np.sqrt(n * np.where(varied, spread, np.nan))[:, None]
    return np.where(varied[:, None], dots, np.nan)


def top_latents(
    latents: Latents,
    problem: Problem,
    target: int,
    correlations: Float[np.ndarray, " d_sae"],
    cosines: pd.DataFrame,
    *,
    count: int,
    classes: bool,
) -> pd.DataFrame:
    """The latents that go with a target best on training rows, scored on test rows.

    `train_r2` is the squared correlation on training rows, by which they are ranked; `test_r2` is that of the
    line fitted there. `p_test` is of the correlation on test rows, with as many degrees of freedom as there
    are clusters, and `p_bh_test` is adjusted over the latents listed (they were chosen on other rows).
    """
    alive = np.flatnonzero(np.isfinite(correlations))
    order = alive[np.argsort(-(correlations[alive] ** 2), kind="stable")][:count]
    train, test = problem.train, problem.test
    y, y_test = problem.y[train, target], problem.y[test, target]
    inside, outside = latents.dense(order, train), latents.dense(order, test)
    truth = np.tile(y_test[:, None], (1, len(order)))
    slope = correlations[order] * y.std() / inside.std(axis=0)
    fitted = y.mean() + (outside - inside.mean(axis=0)) * slope
    r = pearson(truth, outside)
    p = _correlation_p(r, len(np.unique(problem.clusters[test])))
    out: dict[str, Any] = {
        "latent": order,
        "train_r": correlations[order],
        "train_r2": correlations[order] ** 2,
        "test_r2": r2(truth, fitted),
        "test_spearman": spearman(truth, outside),
    }
    if classes:
        out["test_auroc"] = auroc(truth, outside)
    out |= {"frequency": (inside != 0).mean(axis=0), "p_test": p, "p_bh_test": benjamini_hochberg(p)}
    return pd.DataFrame(out).merge(cosines, on="latent", how="left")


def _correlation_p(r: Float[np.ndarray, " value"], n: int) -> Float[np.ndarray, " value"]:
    load("scipy.stats")
    from scipy.stats import t

    free = max(n - 2, 1)
    inside = np.clip(r, -1 + 1e-12, 1 - 1e-12)
    return np.asarray(2 * t.sf(np.abs(inside) * np.sqrt(free / (1 - inside**2)), free))


def scatter_rows(latents: Latents, problem: Problem, target: int, latent: int) -> pd.DataFrame:
    """The test rows of one latent: `source`, `activation`, `value` of the target."""
    test = problem.test
    activation = latents.dense(np.array([latent]), test)[:, 0]
    value = problem.y[test, target]
    return pd.DataFrame({"source": problem.source[test], "activation": activation, "value": value})
