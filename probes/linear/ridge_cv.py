"""Ridge regression in closed form, its strength chosen out of fold: pure functions.

The loss is |y − Xw − b|² + α |w|² with the intercept b unpenalised and the features unscaled (Gurnee &
Tegmark 2023, section 3); α is on sklearn's scale. Everything is computed in float64, from one
eigendecomposition for a whole grid of strengths and any number of targets.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from graticule.hooks.values import finite, unmasked
from graticule.probes.linear.rows import (
    RowSource,
    StandardTargets,
    as_rows,
    as_targets,
    chunk_rows_for,
    linear_map,
)
from graticule.probes.linear.spectrum import (
    GramSpectrum,
    HoldoutPlan,
    Spectrum,
    out_of_fold,
    plan_holdout,
    spectrum_of,
)

logger = logging.getLogger(__name__)

N_DEFAULT_ALPHAS = 24
EDGE_TOLERANCE = 1e-3
"""Validation R² that does not matter at the edge of a grid."""

_PRESENT = 1e-13

_ERRORS_IN_MEMORY = 1 << 25
_OVERFLOW = "squares of these rows or targets overflow: divide them by a constant"


@dataclass(frozen=True)
class RidgeWeights:
    """A fitted ridge: ŷ = X @ coef + intercept."""

    alpha_by_target: Float[np.ndarray, " target"]
    """Strength of each target; all the same unless each target chose its own."""
    coef: Float[np.ndarray, "width target"]
    """Target units per activation unit: how to *read* the target."""
    intercept: Float[np.ndarray, " target"]
    """Target units."""
    write: Float[np.ndarray, "width target"]
    """Activation units per target unit: least squares of the activations on all targets jointly, how the
    model *writes* a target while the others stay as they are. With one target it is Cov(x, y) / Var(y), the
    pattern of Haufe et al. (2014). Collinear targets, such as one-hot columns, get the smallest solution."""
    x_mean: Float[np.ndarray, " width"]
    """Mean activation of the training rows."""
    y_mean: Float[np.ndarray, " target"]
    """Mean target of the training rows."""
    y_scale: Float[np.ndarray, " target"]
    """Standard deviation (ddof 0) of the targets over the training rows."""
    n_rows: int
    """Training rows."""

    @property
    def alpha(self) -> float:
        """The one strength of all targets; raises `ValueError` if each target chose its own."""
        alphas = np.unique(self.alpha_by_target)
        if len(alphas) > 1:
            raise ValueError(f"the targets chose {len(alphas)} different strengths: read alpha_by_target")
        return float(alphas[0])

    def predict(self, X: Shaped[np.ndarray, ...] | Shaped[Tensor, ...]) -> Float[np.ndarray, "row target"]:
        """Predictions in target units; raises `ValueError` if `X` is not `[row, width]` of this width."""
        rows = as_rows(X)
        if rows.shape[1] != len(self.coef):
            raise ValueError(f"X has width {rows.shape[1]}, this ridge was fitted on width {len(self.coef)}")
        return linear_map(rows, self.coef, self.intercept)


@dataclass(frozen=True)
class RidgeFit(RidgeWeights):
    """A ridge whose strength was chosen by its out-of-fold error on the training rows."""

    alphas: Float[np.ndarray, " alpha"]
    """The grid, ascending."""
    validation: Float[np.ndarray, " alpha"]
    """Out-of-fold R² at each strength, mean over targets."""
    validation_by_target: Float[np.ndarray, "alpha target"]
    """Out-of-fold R² at each strength."""
    out_of_fold: Float[np.ndarray, "row target"]
    """Out-of-fold predictions of the training rows at the chosen strength, in target units."""
    alpha_at_edge: bool
    """A chosen strength is the grid's smallest or largest, and a wider grid might do better."""
    scheme: str
    """What was held out, in words: "leave-one-out", "leave-one-cluster-out", …"""

    @property
    def score(self) -> float:
        """Out-of-fold R² at the chosen strength, mean over targets."""
        chosen = np.searchsorted(self.alphas, self.alpha_by_target)
        return float(self.validation_by_target[chosen, np.arange(len(chosen))].mean())


def ridge_cv(
    X: Shaped[np.ndarray, ...] | Shaped[Tensor, ...],
    y: Shaped[np.ndarray, ...] | Shaped[Tensor, ...],
    *,
    alphas: Shaped[np.ndarray, ...] | Sequence[float] | None = None,
    clusters: Shaped[np.ndarray, ...] | None = None,
    per_target: bool = False,
    names: Sequence[str] = (),
) -> RidgeFit:
    """Ridge of `y` on `X` with the strength chosen by exact leave-one-out (Golub, Heath & Wahba 1979).

    Args:
        X: `[row, width]`, any real dtype.
        y: `[row]` or `[row, target]`.
        alphas: The grid; by default `default_alphas`, relative to the data's scale.
        clusters: `[row]`, labels of rows that are not independent and are held out together, exactly;
            clusters above 500 rows are dealt, whole, into at most ten folds and held out by exact refits.
        per_target: Each target chooses its own strength; otherwise the mean over targets of the standardised
            out-of-fold error chooses one.
        names: Of the targets, for messages.

    Raises:
        ValueError: Shapes that disagree, fewer than three rows, NaN or infinity (names the first rows), a
            constant target (names it), strengths that are not positive, all rows in one cluster.
    """
    source = as_rows(X)
    targets = as_targets(y, source.shape[0], names)
    plan = plan_holdout(source.shape[0], clusters)
    grid = check_alphas(alphas)
    chunk_rows = chunk_rows_for(source.shape[1])
    return _choose(
        spectrum_of(source, targets.standard, chunk_rows), targets, plan, grid, per_target, chunk_rows
    )


def ridge_cv_stream(
    source: RowSource,
    y: Shaped[np.ndarray, ...] | Shaped[Tensor, ...],
    *,
    alphas: Shaped[np.ndarray, ...] | Sequence[float] | None = None,
    clusters: Shaped[np.ndarray, ...] | None = None,
    per_target: bool = False,
    names: Sequence[str] = (),
    chunk_rows: int | None = None,
) -> RidgeFit:
    """`ridge_cv` on rows that are fetched: never more than `chunk_rows` of them, or one cluster, are held.

    Two passes over `source`: one in row order for means and X'X, one in chunks of whole clusters, the rows
    sorted by cluster, for the out-of-fold errors. Large clusters (above 500 rows) are fetched once more, and
    so is everything where rows × strengths × targets would not fit in 256 MB. X'X is `width` × `width` also
    where there are fewer rows than that.

    Raises:
        ValueError: As `ridge_cv`, and if `source` does not give what its shape says.
    """
    targets = as_targets(y, source.shape[0], names)
    plan = plan_holdout(source.shape[0], clusters)
    grid = check_alphas(alphas)
    step = chunk_rows_for(source.shape[1]) if chunk_rows is None else chunk_rows
    if step < 1:
        raise ValueError(f"chunk_rows is {step}, expected at least 1")
    return _choose(GramSpectrum.of(source, targets.standard, step), targets, plan, grid, per_target, step)


def ridge_fit(
    X: Shaped[np.ndarray, ...] | Shaped[Tensor, ...],
    y: Shaped[np.ndarray, ...] | Shaped[Tensor, ...],
    alpha: float,
    *,
    names: Sequence[str] = (),
) -> RidgeWeights:
    """Ridge of `y` on `X` at a fixed strength, in closed form; raises as `ridge_cv`."""
    source = as_rows(X)
    targets = as_targets(y, source.shape[0], names)
    grid = check_alphas([alpha])
    assert grid is not None
    spectrum = spectrum_of(source, targets.standard, chunk_rows_for(source.shape[1]))
    return RidgeWeights(**_weights(spectrum, targets, np.repeat(grid, len(targets.mean))))


def _choose(
    spectrum: Spectrum,
    targets: StandardTargets,
    plan: HoldoutPlan,
    grid: Float[np.ndarray, " alpha"] | None,
    per_target: bool,
    chunk_rows: int,
) -> RidgeFit:
    """Score the grid out of fold, choose, and put the fit into the targets' units."""
    alphas = default_alphas(spectrum.eigenvalues) if grid is None else grid
    y = targets.standard
    n, n_targets = y.shape
    squares = np.zeros((len(alphas), n_targets))
    all_errors = np.empty((n, len(alphas), n_targets)) if n * squares.size <= _ERRORS_IN_MEMORY else None
    for index, errors in out_of_fold(spectrum, y, alphas, plan, chunk_rows):
        squares += np.einsum("ijk,ijk->jk", errors, errors)
        if all_errors is not None:
            all_errors[index] = errors
    by_target = 1.0 - squares / n
    finite("out-of-fold R²", by_target, lambda i: f"at strength {alphas[i]:.3g}", _OVERFLOW)
    validation = by_target.mean(axis=1)
    chosen = by_target.argmax(axis=0) if per_target else np.repeat(validation.argmax(), n_targets)
    columns = np.arange(n_targets)
    if all_errors is not None:
        errors_at_chosen = all_errors[:, chosen, columns]
    else:
        errors_at_chosen = np.empty((n, n_targets))
        used, place = np.unique(chosen, return_inverse=True)
        for index, errors in out_of_fold(spectrum, y, alphas[used], plan, chunk_rows):
            errors_at_chosen[index] = errors[:, place, columns]
    curves = by_target if per_target else validation[:, None]
    return RidgeFit(
        **_weights(spectrum, targets, alphas[chosen]),
        alphas=alphas,
        validation=validation,
        validation_by_target=by_target,
        out_of_fold=targets.mean + targets.scale * (y - errors_at_chosen),
        alpha_at_edge=at_edge(alphas, curves, chosen[: curves.shape[1]], spectrum.eigenvalues, targets.names),
        scheme=plan.scheme,
    )


def _weights(
    spectrum: Spectrum, targets: StandardTargets, alphas: Float[np.ndarray, " target"]
) -> dict[str, Any]:
    """The fields of `RidgeWeights`, in the targets' units."""
    coef = spectrum.coef(alphas) * targets.scale
    covariance = targets.standard.T @ targets.standard
    # Targets may be collinear (one-hot columns sum to one): the pseudo-inverse gives the smallest answer.
    write = spectrum.x_dot_y @ np.linalg.pinv(covariance, rcond=1e-10, hermitian=True) / targets.scale
    return {
        "alpha_by_target": alphas,
        "coef": coef,
        "intercept": targets.mean - spectrum.x_mean @ coef,
        "write": write,
        "x_mean": spectrum.x_mean,
        "y_mean": targets.mean,
        "y_scale": targets.scale,
        "n_rows": len(targets.standard),
    }


# Strengths ---------------------------------------------------------------------------------------
def default_alphas(
    eigenvalues: Float[np.ndarray, " rank"], n_alphas: int = N_DEFAULT_ALPHAS
) -> Float[np.ndarray, " alpha"]:
    """A geometric grid of strengths on the scale of the data's own `eigenvalues` (of the centred X'X).

    It runs from a thousandth of the 5th percentile of the non-zero eigenvalues, where nothing is shrunk, to
    the larger of ten times the largest and a thousand times the median, where everything is. Being relative
    it suits activations of order 1 and a residual stream of 4.5e4 alike, and both ends are needed: a few
    massive directions can lift the largest eigenvalue many decades above the rest. The lower end is not
    under 1e-10 of the largest eigenvalue, below which float64 cannot tell an eigenvalue from 0.
    """
    largest = float(eigenvalues.max())
    present = eigenvalues[eigenvalues > _PRESENT * largest]
    if largest <= 0 or not len(present):
        return np.geomspace(1e-3, 1e3, n_alphas)
    low = max(1e-3 * float(np.quantile(present, 0.05)), 1e-12 * largest)
    high = max(10 * largest, 1e3 * float(np.median(present)))
    return np.geomspace(low, high, n_alphas)


def check_alphas(
    alphas: Shaped[np.ndarray, ...] | Sequence[float] | None,
) -> Float[np.ndarray, " alpha"] | None:
    """The grid ascending without repeats; raises `ValueError` unless all strengths are positive."""
    if alphas is None:
        return None
    grid = np.asarray(unmasked("alphas", alphas), dtype=np.float64)
    if grid.ndim != 1 or not len(grid) or not np.isfinite(grid).all() or (grid <= 0).any():
        raise ValueError(f"alphas is {alphas}, expected a list of positive, finite strengths")
    return np.unique(grid)


def at_edge(
    alphas: Float[np.ndarray, " alpha"],
    curves: Float[np.ndarray, "alpha curve"],
    chosen: Int[np.ndarray, " curve"],
    eigenvalues: Float[np.ndarray, " rank"],
    names: Sequence[str],
) -> bool:
    """Whether a choice lies on the grid's edge and a wider grid might do better; each such choice is logged.

    `curves` are validation R². Harmless are a lower end that shrinks next to nothing and where the curve has
    levelled off, and an upper end that shrinks everything, where nothing is predicted either: the mean is
    then the right answer and no strength is too large. A flat curve alone is no such sign, as a curve is
    flat far below its maximum too.
    """
    present = eigenvalues[eigenvalues > _PRESENT * eigenvalues.max()]
    last = len(alphas) - 1
    hit = False
    for column, at in enumerate(chosen):
        if last == 0 or at not in (0, last):
            continue
        curve = curves[:, column]
        if at == 0:
            idle = bool(len(present)) and float((alphas[0] / (present + alphas[0])).mean()) < 0.1
            harmless = idle and curve[0] - curve[1] < EDGE_TOLERANCE
        else:
            harmless = bool((10 * present <= alphas[-1] * 1.001).all()) and curve[-1] < EDGE_TOLERANCE
        if harmless:
            continue
        hit = True
        logger.info(
            "ridge strength %.3g for %s is the %s end of the grid %.3g to %.3g; widen `alphas`",
            alphas[at],
            names[column] if curves.shape[1] == len(names) else "all targets",
            "lower" if at == 0 else "upper",
            alphas[0],
            alphas[-1],
        )
    return hit
