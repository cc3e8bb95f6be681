"""Ridge of many targets on a sparse matrix by way of the products between all its rows.

The products K = X̄ X̄ᵀ of the centred rows cost rows² numbers and a Cholesky factor a strength, however many
targets there are: where targets are many that is less than an iteration's work for every one of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

logger = logging.getLogger(__name__)

_FEW_ROWS = 5000
_MANY_TARGETS = 64
_MORE_TARGETS = 256  # for a factor of many rows to pay
_BLOCK_ROWS = 1024
_LOOKED_AT = 16  # targets whose residuals say whether single precision was enough
_REFINEMENTS = 5
_SOLVED_AT_ONCE = 512
_MOST_BYTES = 1 << 30


def is_small(n_rows: int, n_targets: int) -> bool:
    """Whether the matrix of products is worth its while and small: many targets on few rows."""
    return n_rows <= _FEW_ROWS and n_targets >= _MANY_TARGETS


def fits(n_rows: int, n_targets: int) -> bool:
    """Whether :func:`product_duals` is worth its while and takes a gibibyte at most."""
    return n_targets >= _MORE_TARGETS and 4 * n_rows**2 <= _MOST_BYTES


def gram(X: Any) -> Float[np.ndarray, "row row"]:
    """Products between the centred rows of a sparse matrix."""
    products = (X @ X.T).toarray()
    products -= products.mean(axis=0)
    products -= products.mean(axis=1, keepdims=True)
    return (products + products.T) / 2


def kernel_smoothers(
    X: Any, wanted: Any, alphas: Float[np.ndarray, " alpha"], dtype: type[np.floating[Any]] = np.float64
) -> Iterator[Float[np.ndarray, "wanted row"]]:
    """For each strength the matrix S with which ridge on the sparse ``X`` predicts: ``ȳ + S (y − ȳ)``.

    S depends on no target, so that what it costs (a Cholesky factor of the products between all rows) is
    paid once for all of them.
    """
    from scipy.linalg import cho_factor, cho_solve

    matrix = X.astype(np.float64).tocsr()
    between = (wanted @ matrix.T).toarray() - matrix @ np.asarray(X.mean(axis=0)).ravel()
    between = np.asfortranarray(between.T, dtype)
    products = gram(matrix).astype(dtype)
    diagonal = products.diagonal().copy()
    for alpha in alphas:
        np.fill_diagonal(products, diagonal + dtype(alpha))
        factor = cho_factor(products, lower=True, check_finite=False)
        yield np.ascontiguousarray(cho_solve(factor, between, check_finite=False).T)


def kernel_predictions(
    X: Any,
    wanted: Any,
    y: Float[np.ndarray, "row target"],
    alphas: Float[np.ndarray, " alpha"],
) -> Float[np.ndarray, "alpha wanted target"]:
    """What ridge of ``y`` on the sparse ``X`` says of other rows, through products between rows."""
    offset = y.mean(axis=0)
    return np.stack([smoother @ (y - offset) + offset for smoother in kernel_smoothers(X, wanted, alphas)])


def product_duals(
    X: Any,
    y: Float[np.ndarray, "row target"],
    alphas: Float[np.ndarray, " alpha"],
    tol: float = 1e-4,
) -> Iterator[Float32[np.ndarray, "row target"]]:
    """For each strength the a of ``(K + alpha) a = y − ȳ``, as `dual_ridge` has it, for very many rows.

    In single precision and one array of rows² numbers: K stays above the diagonal while each strength's
    Cholesky factor is made below it. Where residuals are above ``tol`` · |y − ȳ| the solution is refined with
    the same factor, the residual in double precision.

    **Raises** `numpy.linalg.LinAlgError` where K + alpha is not positive definite in single precision.
    """
    matrix = X.astype(np.float64).tocsr()
    transposed = matrix.T.tocsr()
    centred = np.asfortranarray(y - y.mean(axis=0), np.float32)
    products = _products(matrix)
    diagonal = products.diagonal().copy()
    for i, alpha in enumerate(alphas):
        if i:
            _mirror(products)
        np.fill_diagonal(products, diagonal + np.float32(alpha))
        try:
            factor_lower(products)
        except np.linalg.LinAlgError as error:
            raise np.linalg.LinAlgError(f"alpha={alpha:g} is too weak for single precision") from error
        solution = solve_lower(products, centred)
        yield _refined(products, matrix, transposed, centred, float(alpha), solution, tol)


def _products(X: Any) -> np.ndarray:
    """K in single precision, columns one after the other as LAPACK wants them."""
    matrix = X.astype(np.float32).tocsr()
    transposed = matrix.T.tocsr()
    means = np.asarray(X.mean(axis=0)).ravel().astype(np.float64)
    along = X @ means
    square = float(means @ means)
    out = np.empty((X.shape[0], X.shape[0]), np.float32, order="F")
    for start in range(0, X.shape[0], _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        block = (matrix[rows] @ transposed).toarray()
        block -= (along[rows, None] - square).astype(np.float32)
        block -= along.astype(np.float32)
        out.T[rows] = block  # K is symmetric: rows of its transpose are its columns
    return out


def _mirror(products: np.ndarray) -> None:
    """Below the diagonal what is above it."""
    n = len(products)
    for start in range(0, n, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, n)
        products[stop:, start:stop] = products[start:stop, stop:].T
        corner = np.triu(products[start:stop, start:stop], 1)
        products[start:stop, start:stop] = corner + corner.T


def _refined(
    factor: np.ndarray, X: Any, transposed: Any, y: np.ndarray, alpha: float, solution: np.ndarray, tol: float
) -> np.ndarray:
    """The solution, refined until the residuals of some of its columns are below the tolerance."""

    def residual(columns: np.ndarray, a: np.ndarray) -> np.ndarray:
        wide = a.astype(np.float64)  # K a is far longer than what is left of y
        image = X @ (transposed @ (wide - wide.mean(axis=0)))
        return columns - (image - image.mean(axis=0)) - alpha * wide

    some = np.linspace(0, y.shape[1] - 1, min(_LOOKED_AT, y.shape[1])).astype(int)
    lengths = np.linalg.norm(y[:, some], axis=0)
    left = lengths
    for attempt in range(_REFINEMENTS):
        left = np.linalg.norm(residual(y[:, some], solution[:, some]), axis=0)
        if (left <= tol * lengths).all() or attempt == _REFINEMENTS - 1:
            break
        for start in range(0, y.shape[1], _SOLVED_AT_ONCE):
            part = slice(start, start + _SOLVED_AT_ONCE)
            rest = np.asfortranarray(residual(y[:, part], solution[:, part]), np.float32)
            solution[:, part] += solve_lower(factor, rest)
    if (left > tol * lengths).any():
        worst = float((left / lengths).max())
        logger.warning("ridge at strength %g: residuals stay at %.1e of the target", alpha, worst)
    return solution


BLOCK = 2048


def factor_lower(matrix: Float32[np.ndarray, "n n"], block: int = BLOCK) -> None:
    """Put L of ``matrix = L Lᵀ`` into its lower triangle; what is above the diagonal stays as it is.

    Only the lower triangle is read. ``matrix`` is held column after column (Fortran order).

    **Raises** `numpy.linalg.LinAlgError` where it is not positive definite in single precision.
    """
    from scipy.linalg import blas, lapack  # made at import, out of a checker's sight

    routines: Any = lapack
    products: Any = blas
    n = len(matrix)
    for start in range(0, n, block):
        stop = min(start + block, n)
        done = matrix[start:stop, :start]
        corner = np.asfortranarray(matrix[start:stop, start:stop] - done @ done.T)
        factor, failed = routines.spotrf(corner, lower=1, clean=1, overwrite_a=1)
        if failed:
            raise np.linalg.LinAlgError(f"row {start + int(failed) - 1}: not positive definite")
        above = np.triu(matrix[start:stop, start:stop], 1)
        matrix[start:stop, start:stop] = factor + above
        if stop < n:
            below = np.asfortranarray(matrix[stop:, start:stop] - matrix[stop:, :start] @ done.T)
            # X Lᵀ = below
            matrix[stop:, start:stop] = products.strsm(
                1.0, factor, below, side=1, lower=1, trans_a=1, overwrite_b=1
            )


def solve_lower(
    matrix: Float32[np.ndarray, "n n"], right: Float32[np.ndarray, "n column"], block: int = BLOCK
) -> Float32[np.ndarray, "n column"]:
    """X of ``L Lᵀ X = right``, L in the lower triangle as `factor_lower` leaves it."""
    from scipy.linalg import solve_triangular

    n = len(matrix)
    out = np.array(right, np.float32, order="F")
    starts = list(range(0, n, block))
    for start in starts:
        stop = min(start + block, n)
        rest = out[start:stop] - matrix[start:stop, :start] @ out[:start]
        out[start:stop] = solve_triangular(
            matrix[start:stop, start:stop], rest, lower=True, check_finite=False
        )
    for start in reversed(starts):
        stop = min(start + block, n)
        rest = out[start:stop] - matrix[stop:, start:stop].T @ out[stop:]
        out[start:stop] = solve_triangular(
            matrix[start:stop, start:stop], rest, lower=True, trans=1, check_finite=False
        )
    return out
