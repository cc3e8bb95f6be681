"""Predictors side by side: ridge on rows made from activations, ridge on every latent, and a gain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from graticule.hooks.imports import load
from graticule.hooks.latents import Latents
from graticule.probes.estimators.solvers import RidgeFit, ridge_cv, ridge_cv_stream
from graticule.probes.estimators.sparse_ridge import dual_ridge
from graticule.probes.layers import Problem
from graticule.probes.material import Material
from graticule.probes.scores.metrics import mean_r2
from graticule.probes.scores.verdict import Predictions, stack
from graticule.probes.tables.groups import group_folds

_STREAM_BYTES = 4 * 2**30
_STRENGTHS = np.geomspace(1.0, 1e-5, 11)  # of all latents, relative to their summed variance
_AT_ONCE = 4
_DENSE_LATENTS = 2048


@dataclass(frozen=True)
class Derived:
    """Rows made from a row's activation when they are asked for: a `RowSource`."""

    make: Callable[[Int[np.ndarray, " row"]], Float[np.ndarray, "row width"]]
    """Rows of activations, by index, to float64 values."""
    index: Int[np.ndarray, " row"]
    """Which rows of the activations these are."""
    width: int
    """Columns of what `make` gives."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, width)."""
        return len(self.index), self.width

    def gather(self, index: Int[np.ndarray, " chunk"]) -> Float[np.ndarray, "chunk width"]:
        """Rows by their place among `self.index`."""
        return self.make(self.index[index])


def dense_arm(
    make: Callable[[Int[np.ndarray, " row"]], Float[np.ndarray, "row width"]],
    width: int,
    problem: Problem,
    alphas: Sequence[float] | None,
) -> tuple[RidgeFit, Predictions]:
    """The sweep's own ridge on rows that `make` gives: strength and out-of-fold predictions as there."""
    train, y = problem.train, problem.y[problem.train]
    settings: dict[str, Any] = {
        "alphas": alphas,
        "clusters": problem.clusters[train],
        "names": problem.names,
    }
    if len(train) * width * 8 > _STREAM_BYTES:
        fit = ridge_cv_stream(Derived(make, train, width), y, **settings)
    else:
        fit = ridge_cv(make(train), y, **settings)
    test = np.concatenate([fit.predict(make(part)) for part in np.array_split(problem.test, 8) if len(part)])
    return fit, Predictions(fit.out_of_fold, test)


def all_latents(
    latents: Latents,
    problem: Problem,
    alphas: Sequence[float] | None = None,
    *,
    folds: int = 5,
    seed: int = 0,
) -> tuple[Predictions, float]:
    """Ridge on every latent, and its out-of-fold R².

    Each latent counts by what it writes (activation times the length of its decoder vector), so that
    rescaling a latent and its decoder, which changes nothing in the SAE, changes nothing here. Up to 2,048
    latents that are ever active on training rows are the sweep's own ridge; more stay sparse, and the
    strength is chosen in a group k-fold over the clusters of the training rows, the strong ones tried first.
    """
    load("scipy.sparse")
    import scipy.sparse as sp

    train, y = problem.train, problem.y[problem.train]
    active = np.bincount(latents.values[train].indices, minlength=latents.shape[1])
    living = np.flatnonzero(active)
    lengths = np.linalg.norm(latents.decoder[living], axis=1)
    scaled = sp.csr_matrix(latents.values[:, living] @ sp.diags_array(lengths))
    total = _total_variance(scaled[train])
    if not total > 0:  # no latent tells two rows apart
        mean = y.mean(axis=0)
        flat = Predictions(np.tile(mean, (len(train), 1)), np.tile(mean, (len(problem.test), 1)))
        return flat, 0.0
    if len(living) <= _DENSE_LATENTS:
        fit, predictions = dense_arm(lambda index: scaled[index].toarray(), len(living), problem, alphas)
        return predictions, fit.score
    fold = group_folds(problem.clusters[train], folds, seed)
    return _sparse_cv(scaled[train], y, scaled[problem.test], fold, total * _STRENGTHS)


def _total_variance(X: Any) -> float:
    means = np.asarray(X.mean(axis=0)).ravel()
    return float(X.multiply(X).sum() - X.shape[0] * (means**2).sum())


def _sparse_cv(
    X: Any, y: np.ndarray, X_test: Any, fold: np.ndarray, strengths: np.ndarray
) -> tuple[Predictions, float]:
    """Sparse ridge with its strength chosen in a k-fold; `strengths` descend."""
    centre, scale = y.mean(axis=0), y.std(axis=0)
    z = (y - centre) / scale
    held_out = np.zeros((len(strengths), *z.shape))
    scores = np.full(len(strengths), -np.inf)
    for start in range(0, len(strengths), _AT_ONCE):
        part = slice(start, min(start + _AT_ONCE, len(strengths)))
        for f in range(int(fold.max()) + 1):
            inside, outside = np.flatnonzero(fold != f), np.flatnonzero(fold == f)
            if len(inside):
                held_out[part, outside] = _sparse_fit(X[inside], z[inside], strengths[part], X[outside])
        scores[part] = [mean_r2(z, values) for values in held_out[part]]
        if scores.argmax() < part.stop - 1:
            break  # weaker strengths would only be worse
    best = int(scores.argmax())
    test = _sparse_fit(X, z, strengths[best : best + 1], X_test)[0]
    return Predictions(held_out[best] * scale + centre, test * scale + centre), float(scores[best])


def _sparse_fit(X: Any, y: np.ndarray, strengths: np.ndarray, Z: Any) -> np.ndarray:
    """Predictions `[alpha, row, target]` of the rows of `Z`."""
    means, offset = np.asarray(X.mean(axis=0)).ravel(), y.mean(axis=0)
    coefs = [np.asarray(X.T @ dual) for dual in dual_ridge(X, y, strengths, tol=1e-4)]
    return np.stack([np.asarray(Z @ coef) + (offset - means @ coef) for coef in coefs])


def gain_of(material: Material, predictions: Predictions) -> float:
    """What the predictions add to the surface on test rows: the verdict's gain, without its interval."""
    problem = material.problem
    y_train, y_test = problem.y[problem.train], problem.y[problem.test]
    folds = {name: p.out_of_fold for name, p in material.rivals.items()}
    tests = {name: p.test for name, p in material.rivals.items()}
    full = stack({**folds, "probe": predictions.out_of_fold}, y_train)
    with_it = full.predict({**tests, "probe": predictions.test})
    return mean_r2(y_test, with_it) - mean_r2(y_test, material.surface().test)
