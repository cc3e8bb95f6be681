"""Ridge on a sparse matrix for a whole grid of strengths at once, without making it dense."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from graticule.probes.linear.row_products import gram, is_small

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
    max_iter: int = 5000,
) -> tuple[Float[np.ndarray, "alpha feature target"], Float[np.ndarray, "alpha target"]]:
    """Coefficients and intercepts of ``min |y − X w − b|² + alpha |w|²`` for every strength.

    ``X`` is a SciPy sparse matrix [row, feature]; the intercept is not penalised. The result has
    alpha · feature · target numbers: for many targets use :func:`dual_ridge` and keep what is needed of it.

    **Raises** ValueError for strengths that are not positive or shapes that do not fit.
    """
    means, offset = np.asarray(X.mean(axis=0)).ravel(), y.mean(axis=0)
    duals = dual_ridge(X, y, alphas, tol=tol, max_iter=max_iter)
    coefs = np.stack([np.asarray(X.T @ dual) for dual in duals])
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

    starts = range(0, y.shape[1], step)
    with ThreadPoolExecutor(max(1, min(torch.get_num_threads(), len(starts)))) as pool:
        list(pool.map(solve, starts))
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
