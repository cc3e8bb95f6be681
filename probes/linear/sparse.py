"""Ridge on a sparse matrix for a whole grid of strengths at once, without making it dense."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from graticule.probes.linear.moments import side_by_side

logger = logging.getLogger(__name__)

_CHUNK_CELLS = 1 << 24  # numbers in the solutions of one chunk of targets: 128 MiB
_CHUNK_TARGETS = 64  # so that the vectors of a chunk are not far from the processor
_ALONG_TARGETS = 8  # from so many targets, vectors lie along targets
_SINGLE_FROM = 1e-5  # a tolerance that single precision reaches


def sparse_ridge(
    X: Any,
    y: Float[np.ndarray, "row target"],
    alphas: Sequence[float] | Float[np.ndarray, " alpha"],
    *,
    tol: float = 1e-6,
) -> tuple[Float[np.ndarray, "alpha feature target"], Float[np.ndarray, "alpha target"]]:
    """Coefficients and intercepts of ``min |y − X w − b|² + alpha |w|²`` for every strength.

    ``X`` is a SciPy sparse matrix [row, feature]; the intercept is not penalised. The result has
    alpha · feature · target numbers: for many targets use :func:`dual_ridge` and keep what is needed of it.

    Raises:
        ValueError: Strengths are not positive, or shapes do not fit.
    """
    means, offset = np.asarray(X.mean(axis=0)).ravel(), y.mean(axis=0)
    coefs = np.stack([np.asarray(X.T @ dual) for dual in dual_ridge(X, y, alphas, tol=tol)])
    return coefs, offset - means @ coefs


def dual_ridge(
    X: Any,
    y: Float[np.ndarray, "row target"],
    alphas: Sequence[float] | Float[np.ndarray, " alpha"],
    *,
    tol: float = 1e-6,
    max_iter: int = 5000,
) -> Float[np.ndarray, "alpha row target"]:
    """Solutions a of ``(K + alpha) a = y − ȳ`` with K = X̄ X̄ᵀ of the centred rows; then ``w = Xᵀ a``.

    Each column of a sums to zero, so ``X̄ᵀ a = Xᵀ a`` and only a product's column mean need be taken off:
    X itself is never centred. All strengths share one Krylov space (shifts do not change it), so
    conjugate gradients at the smallest strength carry the others along (Jegerlehner, hep-lat/9612014); with
    many targets on few rows a Cholesky factor a strength is cheaper. Residuals end below ``tol`` · |y − ȳ|,
    and so do the errors of the fitted values, as K (K + alpha)⁻¹ lengthens nothing: in units of the target's
    standard deviation their root mean square is at most ``tol``. From ``tol`` 1e-5 up the work is done in
    single precision.
    """
    strengths = np.asarray(alphas, np.float64)
    if strengths.ndim != 1 or len(strengths) == 0 or not (strengths > 0).all():
        raise ValueError(f"alphas must be positive numbers, at least one; got {alphas!r}")
    if X.shape[0] != len(y) or len(y) == 0:
        raise ValueError(f"X has {X.shape[0]} rows and y has {len(y)}: both need the same rows, at least one")
    centred = (y - y.mean(axis=0)).astype(np.float64)
    if is_small(*y.shape):
        return _dense_dual(X.astype(np.float64).tocsr(), centred, strengths)
    dtype = np.float32 if tol >= _SINGLE_FROM else np.float64
    matrix = X.astype(dtype).tocsr()
    transposed = matrix.T.tocsr()
    out = np.empty((len(strengths), *y.shape), dtype)
    step = max(1, min(_CHUNK_TARGETS, _CHUNK_CELLS // (len(strengths) * len(y))))

    def solve(start: int) -> None:
        part = slice(start, start + step)
        columns = centred[:, part].astype(dtype)
        out[:, :, part] = _shifted_cg(matrix, transposed, columns, strengths, tol, max_iter)

    side_by_side(solve, range(0, y.shape[1], step))
    return out


def _dense_dual(X: Any, y: np.ndarray, alphas: np.ndarray) -> np.ndarray:
    from scipy.linalg import cho_factor, cho_solve

    products = gram(X)
    eye = np.eye(len(products))
    factors = (cho_factor(products + alpha * eye, check_finite=False) for alpha in alphas)
    return np.stack([cho_solve(factor, y, check_finite=False) for factor in factors])


def _shifted_cg(
    X: Any, transposed: Any, y: np.ndarray, alphas: np.ndarray, tol: float, max_iter: int
) -> np.ndarray:
    """Conjugate gradients on (K + min alpha) a = y; every other strength by its own short recurrence.

    The residual at shift s is ζ_s times the common one, which gives its step lengths for free and says
    when it has converged (larger strengths do so earlier, and are then left alone). Vectors are indexed
    [target, row]; in memory a few targets lie along rows, where numpy's loops are long, and many targets
    along targets, as the sparse products want them. Returns [alpha, row, target].
    """
    few = y.shape[1] < _ALONG_TARGETS
    b = np.ascontiguousarray(y.T) if few else np.ascontiguousarray(y).T
    shifts, least = (alphas - alphas.min())[:, None], float(alphas.min())
    solution = np.zeros((len(alphas), *b.shape), y.dtype)
    if not few:
        solution = np.zeros((len(alphas), *y.shape), y.dtype).transpose(0, 2, 1)
    direction = np.empty_like(solution)
    direction[:] = b
    zeta, zeta_before = np.ones((len(alphas), len(b))), np.ones((len(alphas), len(b)))
    residual, search, spare = b.copy("K"), b.copy("K"), np.empty_like(b)
    step_before, ratio = np.ones(len(b)), np.zeros(len(b))
    square = _dot(b, b)
    goal = tol**2 * square
    unsolved = np.tile(square > 0, (len(alphas), 1))

    def wide(scalars: np.ndarray) -> np.ndarray:
        return scalars.astype(y.dtype)[:, None]

    for _ in range(max_iter):
        unsolved &= zeta**2 * square > goal
        going = unsolved.any(axis=0)
        if not going.any():
            return solution.transpose(0, 2, 1)
        image = np.asarray(X @ (transposed @ np.ascontiguousarray(search.T))).T
        image -= image.mean(axis=1, keepdims=True)
        np.multiply(search, least, out=spare)
        image += spare
        step = np.where(going, square / np.where(going, _dot(search, image), 1.0), 0.0)
        image *= wide(step)
        residual -= image
        square_next = _dot(residual, residual)
        ratio_next = np.where(going, square_next / np.where(going, square, 1.0), 0.0)
        below = step * ratio * (zeta_before - zeta) + zeta_before * step_before * (1 + shifts * step)
        growth = np.where(unsolved, zeta_before * step_before / np.where(unsolved, below, 1.0), 0.0)
        zeta_before, zeta = np.where(unsolved, zeta, 1.0), np.where(unsolved, zeta * growth, 1.0)
        for i in np.flatnonzero(unsolved.any(axis=1)):
            np.multiply(direction[i], wide(step * growth[i]), out=spare)
            solution[i] += spare
            direction[i] *= wide(ratio_next * growth[i] ** 2)
            np.multiply(residual, wide(np.where(unsolved[i], zeta[i], 0.0)), out=spare)
            direction[i] += spare
        search *= wide(ratio_next)
        search += residual
        square, ratio, step_before = square_next, ratio_next, np.where(going, step, 1.0)
    left = int((unsolved & (zeta**2 * square > goal)).any(axis=0).sum())
    logger.warning(
        "sparse ridge stopped after %d iterations with %d of %d targets above the tolerance %g (alpha %g)",
        max_iter, left, len(b), tol, alphas.min(),
    )  # fmt: skip
    return solution.transpose(0, 2, 1)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("tn,tn->t", a, b).astype(np.float64)


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


def duals_fit_in_memory(n_rows: int, n_targets: int) -> bool:
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

    Raises:
        LinAlgError: K + alpha is not positive definite in single precision.
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

    Raises:
        LinAlgError: It is not positive definite in single precision.
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
