"""A few columns out of many: exact forward selection, and predictions that repeat it inside every fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from graticule.probes.scores.metrics import mean_r2
from graticule.probes.scores.verdict import Predictions
from graticule.probes.tables.groups import group_folds

_SPENT = 1e-8  # share of a column's variance below which the chosen ones already span it


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
    variance = squares - n * means**2
    left = variance.copy()
    floor = np.maximum(_SPENT * squares, np.finfo(np.float64).tiny)  # a constant column is all mean
    residual = _standard(y)
    basis = np.zeros((n, 0))
    chosen: list[int] = []
    for _ in range(min(k, X.shape[1])):
        open_ = left > floor
        if not open_.any():
            break
        dots = np.asarray(X.T @ residual)  # the residual sums to 0, so X's mean drops out
        scores = np.where(open_, np.square(dots).sum(axis=1) / np.where(open_, left, 1.0), -1.0)
        best = int(scores.argmax())
        column = _column(X, best) - means[best]
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
    fold = group_folds(clusters, folds, seed)
    held_out = {k: np.zeros(y.shape) for k in ks}
    for f in range(int(fold.max()) + 1):
        inside, outside = np.flatnonzero(fold != f), np.flatnonzero(fold == f)
        if not len(inside):
            inside = outside
        order = forward_selection(X[inside], y[inside], max(ks))
        for k in ks:
            held_out[k][outside] = _least_squares(X, order[:k], inside, y, X, outside)
    order = forward_selection(X, y, max(ks))
    rows, test = np.arange(X.shape[0]), np.arange(X_test.shape[0])
    predictions = {
        k: Predictions(held_out[k], _least_squares(X, order[:k], rows, y, X_test, test)) for k in ks
    }
    return Selected(order, predictions, {k: mean_r2(y, held_out[k]) for k in ks})


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
    fold = group_folds(clusters, folds, seed)
    held_out = np.zeros(y.shape)
    for f in range(int(fold.max()) + 1):
        inside, outside = np.flatnonzero(fold != f), np.flatnonzero(fold == f)
        inside = inside if len(inside) else outside
        held_out[outside] = _least_squares(X, columns, inside, y, X, outside)
    rows, test = np.arange(X.shape[0]), np.arange(X_test.shape[0])
    return Predictions(held_out, _least_squares(X, columns, rows, y, X_test, test))


def _least_squares(
    X: Any, columns: np.ndarray, fit: np.ndarray, y: np.ndarray, Z: Any, wanted: np.ndarray
) -> np.ndarray:
    """Predictions of rows `wanted` of `Z` by least squares on some columns of rows `fit` of `X`."""
    offset = y[fit].mean(axis=0)
    if not len(columns):
        return np.tile(offset, (len(wanted), 1))
    inside, outside = _dense(X, columns)[fit], _dense(Z, columns)[wanted]
    mean, scale = inside.mean(axis=0), inside.std(axis=0)
    per_unit = np.divide(
        1.0, scale, out=np.zeros_like(scale), where=scale > 0
    )  # a constant column has no say
    coef = np.linalg.lstsq((inside - mean) * per_unit, y[fit] - offset, rcond=1e-9)[0]
    return (outside - mean) * per_unit @ coef + offset


def _dense(X: Any, columns: np.ndarray) -> np.ndarray:
    part = X[:, columns]
    return np.asarray(part.toarray() if hasattr(part, "toarray") else part, np.float64)


def _column(X: Any, j: int) -> np.ndarray:
    return _dense(X, np.array([j]))[:, 0]


def _standard(y: np.ndarray) -> np.ndarray:
    scale = y.std(axis=0)
    return (y - y.mean(axis=0)) / np.where(scale > 0, scale, 1.0)
