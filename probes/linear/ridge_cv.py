"""Ridge regression in closed form, its strength chosen out of fold: pure functions.

The loss is |y − Xw − b|² + α |w|² with the intercept b unpenalised and the features unscaled (Gurnee &
Tegmark 2023, section 3); α is on sklearn's scale. Everything is computed in float64, from one
eigendecomposition for a whole grid of strengths and any number of targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from torch import Tensor

from graticule.hooks.values import finite
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
from graticule.probes.linear.strengths import at_edge, axes_unread, check_alphas, default_alphas, rounding_of

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
    axes_unread: int
    """Principal axes of the training rows that vary, and that the smallest strength shrinks by over half."""
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
    spectrum = spectrum_of(source, targets.standard, chunk_rows)
    return _choose(source, spectrum, targets, plan, grid, per_target, chunk_rows)


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
    spectrum = GramSpectrum.of(source, targets.standard, step)
    return _choose(source, spectrum, targets, plan, grid, per_target, step)


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
    source: RowSource,
    spectrum: Spectrum,
    targets: StandardTargets,
    plan: HoldoutPlan,
    grid: Float[np.ndarray, " alpha"] | None,
    per_target: bool,
    chunk_rows: int,
) -> RidgeFit:
    """Score the grid out of fold, choose, and put the fit into the targets' units."""
    if grid is None:
        grid = default_alphas(spectrum.eigenvalues, rounding=rounding_of(source))
    alphas = grid
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
        axes_unread=axes_unread(spectrum.eigenvalues, float(alphas[0])),
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
