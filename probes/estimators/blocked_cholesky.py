"""A Cholesky factor made block by block in the matrix's own lower triangle, for tens of thousands of rows.

OpenBLAS's threaded `potrf` overruns its buffers on matrices of some 30,000 rows and ends the process
(OpenBLAS #2562); here it only sees blocks, and the rest is matrix products.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float32

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
