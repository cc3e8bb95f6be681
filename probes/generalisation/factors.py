"""Ridges from sums of products, by Cholesky factors that say when their digits run out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from graticule.probes.estimators.ridge_rows import ArrayRows
from graticule.probes.estimators.solvers import ridge_fit

LOSS = 1e-8
"""Relative rounding that a solution may carry, by the estimated condition of its matrix."""
_SAMPLE_FOR_SHIFT = 512


@dataclass(frozen=True)
class Sums:
    """What a ridge is made of: sums over some rows, which add up over sets of rows."""

    gram: Float[np.ndarray, "width width"]
    """X'X in Fortran's order, so that LAPACK does not copy it; only the lower triangle is read."""
    x: Float[np.ndarray, " width"]
    """Sum of the activations."""
    xy: Float[np.ndarray, "width target"]
    """X'y."""

    @classmethod
    def none(cls, width: int, n_targets: int) -> Sums:
        """Of no rows."""
        return cls(np.zeros((width, width), order="F"), np.zeros(width), np.zeros((width, n_targets)))

    def add(self, rows: Float[np.ndarray, "row width"], y: Float[np.ndarray, "row target"]) -> None:
        """Take some rows in, in place."""
        # numpy's product lets other threads run meanwhile, where SciPy's dsyrk does not
        mine, product = self.gram, rows.T @ rows
        mine += product.T  # symmetric, and so in the same order
        self.x[:] += rows.sum(axis=0)
        self.xy[:] += rows.T @ y

    def merge(self, other: Sums) -> None:
        """Take in the rows of another, in place."""
        for mine, theirs in ((self.gram, other.gram), (self.x, other.x), (self.xy, other.xy)):
            mine += theirs

    def without(self, other: Sums) -> Sums:
        """A new one, of the rows that are not in the other."""
        return Sums(self.gram - other.gram, self.x - other.x, self.xy - other.xy)

    def copy(self) -> Sums:
        """Another of the same rows."""
        return Sums(self.gram.copy(order="F"), self.x.copy(), self.xy.copy())


@dataclass(frozen=True)
class Solved:
    """A ridge from sums, with the factor that solved it."""

    factor: Float[np.ndarray, "width width"]
    """Cholesky factor of D (G + α) D."""
    scale: Float[np.ndarray, " width"]
    """D: ones, or where digits are short what makes the diagonal 1: badly scaled columns then cost none."""
    x_mean: Float[np.ndarray, " width"]
    y_mean: Float[np.ndarray, " target"]
    coef: Float[np.ndarray, "width target"]

    @classmethod
    def of(
        cls,
        sums: Sums,
        y_sum: Float[np.ndarray, " target"],
        n: int,
        alpha: float,
        lost: float,
    ) -> Solved | None:
        """From the sums of `n` rows, whose Gram is overwritten.

        None where rounding, `lost` times that of a number of order 1, could reach the digits wanted.
        """
        from scipy.linalg import blas  # its routines are made at import, out of a checker's sight

        x_mean, y_mean = sums.x / n, y_sum / n
        matrix = blas.dsyr(-1.0 / n, sums.x, lower=1, a=sums.gram, overwrite_a=1)  # pyright: ignore[reportAttributeAccessIssue]
        width = len(matrix)
        matrix[np.arange(width), np.arange(width)] += alpha
        diagonal = matrix.diagonal().copy()
        if not (diagonal > 0).all():
            return None
        # no eigenvalue is below alpha: mostly that bounds the condition well enough
        rounding = np.finfo(np.float64).eps * lost
        doubtful = rounding * width * float(diagonal.max()) > LOSS * alpha
        scale, norm = np.ones(width), 0.0
        if doubtful:
            scale = diagonal**-0.5
            matrix *= scale
            matrix *= scale[:, None]
            norm = float(_column_sums(np.tril(matrix)).max())
        factor = cholesky(matrix, overwrite=True)
        if factor is None or (doubtful and rounding > LOSS * _reciprocal_condition(factor, norm)):
            return None
        right = (sums.xy - np.outer(sums.x, y_mean)) * scale[:, None]
        return cls(factor, scale, x_mean, y_mean, scale[:, None] * solve(factor, right))

    def whiten(self, columns: Float[np.ndarray, "width _"]) -> Float[np.ndarray, "width _"]:
        """L⁻¹ D of some columns: their products are those of (G + α)⁻¹."""
        from scipy.linalg import solve_triangular

        return np.asarray(
            solve_triangular(self.factor, columns * self.scale[:, None], lower=True, check_finite=False)
        )

    def unwhiten(self, columns: Float[np.ndarray, "width _"]) -> Float[np.ndarray, "width _"]:
        """D L⁻ᵀ of some columns."""
        from scipy.linalg import solve_triangular

        solved = solve_triangular(self.factor, columns, lower=True, trans=1, check_finite=False)
        return np.asarray(solved) * self.scale[:, None]


def refit(
    rows: Float[np.ndarray, "row width"], y: Float[np.ndarray, "row target"], alpha: float
) -> tuple[np.ndarray, np.ndarray]:
    """Weights and intercept from the rows themselves; a target that is constant there has no weights."""
    coef, intercept = np.zeros((rows.shape[1], y.shape[1])), y.mean(axis=0)
    varied = np.ptp(y, axis=0) > 0
    if varied.any() and len(rows) > 2:
        fit = ridge_fit(rows, y[:, varied], alpha)
        coef[:, varied], intercept[varied] = fit.coef, fit.intercept
    return coef, intercept


def middle_of(source: ArrayRows) -> Float[np.ndarray, " width"]:
    """The median of some rows: what sums are taken about, so that neither means nor outliers cost digits."""
    rows = source.gather(np.unique(np.linspace(0, source.shape[0] - 1, _SAMPLE_FOR_SHIFT).astype(int)))
    middle = np.median(rows, axis=0)
    return np.where(np.isfinite(middle), middle, 0.0)


def cholesky(matrix: Float[np.ndarray, "k k"], overwrite: bool = False) -> Float[np.ndarray, "k k"] | None:
    """The lower factor (what stands above is of no meaning), or None where there is none."""
    from scipy.linalg import lapack

    factor, info = lapack.dpotrf(matrix, lower=1, clean=0, overwrite_a=int(overwrite))  # pyright: ignore[reportAttributeAccessIssue]
    return np.asarray(factor) if info == 0 else None


def solve(factor: Float[np.ndarray, "k k"], right: Float[np.ndarray, "k _"]) -> Float[np.ndarray, "k _"]:
    """The inverse of what was factored, times some columns."""
    from scipy.linalg import cho_solve

    return np.asarray(cho_solve((factor, True), right, check_finite=False))


def _column_sums(lower: Float[np.ndarray, "k k"]) -> Float[np.ndarray, " k"]:
    """Absolute column sums of the symmetric matrix that has this lower triangle, and ones on its diagonal."""
    size = np.abs(lower)
    return size.sum(axis=0) + size.sum(axis=1) - 1.0


def _reciprocal_condition(factor: Float[np.ndarray, "k k"], norm: float) -> float:
    """LAPACK's estimate, in the 1-norm."""
    from scipy.linalg import lapack

    return float(lapack.dpocon(factor, norm, uplo="L")[0])  # pyright: ignore[reportAttributeAccessIssue]
