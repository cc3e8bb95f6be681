"""The grid of ridge strengths: a default on the data's own scale, its check, and choices at its edge."""

import logging
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped

from graticule.hooks.values import unmasked

logger = logging.getLogger(__name__)

N_DEFAULT_ALPHAS = 24
EDGE_TOLERANCE = 1e-3
"""Validation R² that does not matter at the edge of a grid."""

_PRESENT = 1e-13


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
    alphas: Shaped[np.ndarray, "..."] | Sequence[float] | None,
) -> Float[np.ndarray, " alpha"] | None:
    """The grid ascending without repeats. **Raises** `ValueError` unless all strengths are positive."""
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
