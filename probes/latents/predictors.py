"""Predictors beside the dense probe: ridge on rows made from activations, on every latent, a few columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from graticule.hooks.imports import load
from graticule.hooks.latents import Latents
from graticule.probes.core.fit import Predictions, Problem
from graticule.probes.linear.ridge_cv import RidgeFit, ridge_cv, ridge_cv_stream
from graticule.probes.linear.sparse import sparse_ridge
from graticule.probes.scores.metrics import mean_r2
from graticule.probes.tables.groups import group_folds

_STREAM_BYTES = 4 * 2**30
_STRENGTHS = np.geomspace(1.0, 1e-5, 11)  # of all latents, relative to their summed variance
_AT_ONCE = 4
_DENSE_LATENTS = 2048
_SPENT = 1e-8  # share of a column's variance below which the chosen ones already span it
_NEIGHBOURS = 50

MakeRows = Callable[[Int[np.ndarray, " row"]], Float[np.ndarray, "row width"]]
"""Rows of activations, by index, to float64 values."""


# Ridge on many columns --------------------------------------------------------------------------------
@dataclass(frozen=True)
class Derived:
    """Rows made from the activations of `index` when they are asked for: a `RowSource`."""

    make: MakeRows
    index: Int[np.ndarray, " row"]
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, width)."""
        return len(self.index), self.width

    def gather(self, index: Int[np.ndarray, " chunk"]) -> Float[np.ndarray, "chunk width"]:
        """Rows by their place among `self.index`."""
        return self.make(self.index[index])


def dense_ridge(
    make: MakeRows, width: int, problem: Problem, alphas: Sequence[float] | None
) -> tuple[RidgeFit, Predictions]:
    """The sweep's own ridge on rows that `make` gives: strength and out-of-fold predictions as there."""
    train = problem.train
    y, clusters = problem.y[train], problem.clusters[train]
    if len(train) * width * 8 > _STREAM_BYTES:
        rows = Derived(make, train, width)
        fit = ridge_cv_stream(rows, y, alphas=alphas, clusters=clusters, names=problem.names)
    else:
        fit = ridge_cv(make(train), y, alphas=alphas, clusters=clusters, names=problem.names)
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
    living = np.flatnonzero(np.bincount(latents.values[train].indices, minlength=latents.shape[1]))
    lengths = np.linalg.norm(latents.decoder[living], axis=1)
    scaled = sp.csr_matrix(latents.values[:, living] @ sp.diags_array(lengths))
    X: Any = scaled[train]
    means = np.asarray(X.mean(axis=0)).ravel()
    total = float(X.multiply(X).sum() - X.shape[0] * (means**2).sum())
    if not total > 0:  # no latent tells two rows apart
        mean = y.mean(axis=0)
        return Predictions(np.tile(mean, (len(train), 1)), np.tile(mean, (len(problem.test), 1))), 0.0
    if len(living) <= _DENSE_LATENTS:
        fit, predictions = dense_ridge(lambda index: scaled[index].toarray(), len(living), problem, alphas)
        return predictions, fit.score
    fold = group_folds(problem.clusters[train], folds, seed)
    return _sparse_cv(X, y, scaled[problem.test], fold, total * _STRENGTHS)


def _sparse_cv(
    X: Any, y: np.ndarray, X_test: Any, fold: np.ndarray, strengths: np.ndarray
) -> tuple[Predictions, float]:
    """Sparse ridge with its strength chosen in a k-fold; `strengths` descend."""
    centre, scale = y.mean(axis=0), y.std(axis=0)
    z = (y - centre) / scale
    out_of_fold = np.zeros((len(strengths), *z.shape))
    scores = np.full(len(strengths), -np.inf)
    for start in range(0, len(strengths), _AT_ONCE):
        part = slice(start, min(start + _AT_ONCE, len(strengths)))
        for f in range(int(fold.max()) + 1):
            inside, outside = np.flatnonzero(fold != f), np.flatnonzero(fold == f)
            if len(inside):
                out_of_fold[part, outside] = _sparse_fit(X[inside], z[inside], strengths[part], X[outside])
        scores[part] = [mean_r2(z, values) for values in out_of_fold[part]]
        if scores.argmax() < part.stop - 1:
            break  # weaker strengths would only be worse
    best = int(scores.argmax())
    test = _sparse_fit(X, z, strengths[best : best + 1], X_test)[0]
    return Predictions(out_of_fold[best] * scale + centre, test * scale + centre), float(scores[best])


def _sparse_fit(X: Any, y: np.ndarray, strengths: np.ndarray, Z: Any) -> np.ndarray:
    """Predictions `[alpha, row, target]` of the rows of `Z`."""
    fits = zip(*sparse_ridge(X, y, strengths, tol=1e-4), strict=True)
    return np.stack([np.asarray(Z @ coef) + intercept for coef, intercept in fits])


# Least squares on a few columns -----------------------------------------------------------------------
@dataclass(frozen=True)
class Selected:
    """The first k columns of a forward selection, for several k."""

    chosen: Int[np.ndarray, " order"]
    """Columns in the order of their choice, on all training rows."""
    predictions: Mapping[int, Predictions]
    """k → predictions: out of fold with the selection repeated inside every fold, and on test rows."""
    validation: Mapping[int, float]
    """k → out-of-fold R², mean over targets."""


def forward_selection(X: Any, y: Float[np.ndarray, "row target"], k: int) -> Int[np.ndarray, " order"]:
    """The columns that raise the R² (summed over targets) of least squares the most, one after another.

    Orthogonal least squares (Chen, Billings & Luo 1989): a candidate is scored by the part of it that the
    chosen ones do not span. The first is the best single column. `X` is `[row, column]`, dense or SciPy
    sparse, and never centred or made dense; fewer than `k` come back where no column adds anything.
    """
    n = X.shape[0]
    means = np.asarray(X.mean(axis=0)).ravel()
    squares = np.asarray((X.multiply(X) if hasattr(X, "multiply") else X * X).sum(axis=0)).ravel()
    left = squares - n * means**2
    floor = np.maximum(_SPENT * squares, np.finfo(np.float64).tiny)  # a constant column is all mean
    scale = y.std(axis=0)
    residual = (y - y.mean(axis=0)) / np.where(scale > 0, scale, 1.0)
    basis = np.zeros((n, 0))
    chosen: list[int] = []
    for _ in range(min(k, X.shape[1])):
        open_ = left > floor
        if not open_.any():
            break
        dots = np.asarray(X.T @ residual)  # the residual sums to 0, so X's mean drops out
        scores = np.where(open_, np.square(dots).sum(axis=1) / np.where(open_, left, 1.0), -1.0)
        best = int(scores.argmax())
        column = _dense(X, [best])[:, 0] - means[best]
        for _ in range(2):
            column -= basis @ (basis.T @ column)
        unit = column / np.linalg.norm(column)
        basis = np.column_stack([basis, unit])
        residual = residual - np.outer(unit, unit @ residual)
        left = left - np.square(np.asarray(X.T @ unit)).ravel()
        left[best] = 0.0
        chosen.append(best)
    return np.array(chosen, np.int64)


def select(
    X: Any,
    X_test: Any,
    y: Float[np.ndarray, "row target"],
    clusters: Int[np.ndarray, " row"],
    ks: Sequence[int],
    *,
    folds: int = 5,
    seed: int = 0,
) -> Selected:
    """Forward selection on training rows for every k, each k's columns being the first of the largest's.

    Out-of-fold predictions come from a group k-fold over `clusters` in which the columns are *chosen anew* on
    the rows outside the fold, so that the stack which judges the gain does not see selected-in values.
    """

    def choose(rows: Any) -> np.ndarray:
        return forward_selection(X[rows], y[rows], max(ks))

    return _cross_fitted(X, X_test, y, group_folds(clusters, folds, seed), ks, choose)


def fixed(
    X: Any,
    X_test: Any,
    y: Float[np.ndarray, "row target"],
    clusters: Int[np.ndarray, " row"],
    columns: Int[np.ndarray, " column"],
    *,
    folds: int = 5,
    seed: int = 0,
) -> Predictions:
    """Least squares on columns that were not chosen by the target: out of fold, and on test rows."""
    k, fold = len(columns), group_folds(clusters, folds, seed)
    return _cross_fitted(X, X_test, y, fold, (k,), lambda _: columns).predictions[k]


def _cross_fitted(
    X: Any,
    X_test: Any,
    y: np.ndarray,
    fold: np.ndarray,
    ks: Sequence[int],
    choose: Callable[[Any], np.ndarray],
) -> Selected:
    """Least squares on the first k of the columns that `choose` gives for the rows that are fitted."""
    out_of_fold = {k: np.zeros(y.shape) for k in ks}
    for f in range(int(fold.max()) + 1):
        inside, outside = np.flatnonzero(fold != f), np.flatnonzero(fold == f)
        inside = inside if len(inside) else outside
        order = choose(inside)
        for k in ks:
            out_of_fold[k][outside] = _least_squares(X, order[:k], inside, y, X, outside)
    order, rows, test = choose(slice(None)), np.arange(X.shape[0]), np.arange(X_test.shape[0])
    fits = {k: _least_squares(X, order[:k], rows, y, X_test, test) for k in ks}
    predictions = {k: Predictions(out_of_fold[k], fits[k]) for k in ks}
    return Selected(order, predictions, {k: mean_r2(y, out_of_fold[k]) for k in ks})


def _least_squares(
    X: Any, columns: np.ndarray, fit: np.ndarray, y: np.ndarray, Z: Any, wanted: np.ndarray
) -> np.ndarray:
    """Predictions of rows `wanted` of `Z` by least squares on some columns of rows `fit` of `X`."""
    offset = y[fit].mean(axis=0)
    if not len(columns):
        return np.tile(offset, (len(wanted), 1))
    inside, outside = _dense(X, columns)[fit], _dense(Z, columns)[wanted]
    mean, scale = inside.mean(axis=0), inside.std(axis=0)
    # a constant column has no say
    per_unit = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
    coef = np.linalg.lstsq((inside - mean) * per_unit, y[fit] - offset, rcond=1e-9)[0]
    return (outside - mean) * per_unit @ coef + offset


def _dense(X: Any, columns: Sequence[int] | np.ndarray) -> np.ndarray:
    part = X[:, np.asarray(columns)]
    return np.asarray(part.toarray() if hasattr(part, "toarray") else part, np.float64)


def matched(
    active: Int[np.ndarray, " d_sae"], chosen: Int[np.ndarray, " k"], rng: np.random.Generator
) -> Int[np.ndarray, " drawn"]:
    """For each chosen latent another one, drawn among the hundred that are active about as often; fewer where
    there are not as many others."""
    living = np.flatnonzero(active)
    order = living[np.argsort(active[living], kind="stable")]
    others = order[~np.isin(order, chosen)]
    drawn: list[int] = []
    for latent in chosen:
        at = int(np.searchsorted(active[others], active[latent]))
        near = others[max(0, at - _NEIGHBOURS) : at + _NEIGHBOURS]
        near = near[~np.isin(near, drawn)]
        if len(near):
            drawn.append(int(rng.choice(near)))
    return np.array(drawn, np.int64)
