"""Strengths of L2 penalties: default grids on the scale of the data, and what a grid leaves out."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped

from graticule.hooks.values import unmasked
from graticule.probes.linear.rows import RowSource, gather_float64

_log = logging.getLogger(__name__)

N_DEFAULT_ALPHAS = 24
N_LOGISTIC = 8
EDGE_TOLERANCE = 1e-3
"""Validation R² that does not matter at the edge of a grid."""

_PRESENT = 1e-13
_LEAST = 1e-12
_SAMPLE = 512


def default_alphas(
    eigenvalues: Float[np.ndarray, " rank"], n_alphas: int = N_DEFAULT_ALPHAS, *, rounding: float = 0.0
) -> Float[np.ndarray, " alpha"]:
    """A geometric grid of strengths on the scale of the data's own `eigenvalues` (of the centred X'X).

    `n_alphas` run from a thousandth of the 5th percentile of the non-zero eigenvalues, where next to nothing
    is shrunk, to the larger of ten times the largest and a thousand times the median, where everything is. So
    they suit activations of order 1 and a residual stream of 4.5e4 alike, and both ends are needed:
    a few massive directions can lift the largest eigenvalue many decades above the rest. Where a few axes
    are far smaller, as of a column in another unit, more strengths at the same spacing go on below
    (`_continued`). No end is under 1e-12 of the largest eigenvalue, below which float64 cannot tell an
    eigenvalue from 0.
    """
    largest = float(eigenvalues.max())
    present = eigenvalues[eigenvalues > _PRESENT * largest]
    if largest <= 0 or not len(present):
        return np.geomspace(1e-3, 1e3, n_alphas)
    low = max(1e-3 * float(np.quantile(present, 0.05)), _LEAST * largest)
    high = max(10 * largest, 1e3 * float(np.median(present)))
    return _continued(np.geomspace(low, high, n_alphas), eigenvalues, rounding)


def default_strengths(
    values: Float[np.ndarray, " rank"], *, rounding: float = 0.0
) -> Float[np.ndarray, " alpha"]:
    """Of logistic regression: eight strengths, from shrinking next to nothing to shrinking nearly everything,
    on the data's scale, and more below where a few axes are far smaller; `values` descend."""
    low = max(0.01 * float(np.quantile(values, 0.25)), 1e-7 * float(values[0]))
    grid = np.geomspace(low, max(float(values[0]), 1e3 * low), N_LOGISTIC)
    return _continued(grid, values, rounding)


def _continued(
    grid: Float[np.ndarray, " some"], eigenvalues: Float[np.ndarray, " rank"], rounding: float
) -> Float[np.ndarray, " alpha"]:
    """The grid, and below it, where it shrinks the smallest axis by over a tenth, more at its spacing.

    They reach a hundredth of the smallest eigenvalue above the floor, and do not go under the floor: what
    rounding of the activations may put along an axis, or 1e-12 of the largest eigenvalue.
    """
    floor = max(rounding, _LEAST * float(eigenvalues.max()))
    above = eigenvalues[eigenvalues > floor]
    if len(grid) < 2 or not len(above) or grid[0] <= 0.1 * above.min():
        return grid
    step, wanted = grid[1] / grid[0], 0.01 * float(above.min())
    more = min(*(np.log(grid[0] / np.array([wanted / step, floor])) // np.log(step)))
    return np.concatenate([grid[0] * step ** -np.arange(more, 0.0, -1.0), grid]) if more > 0 else grid


def rounding_of(source: RowSource) -> float:
    """The most that rounding of activations puts along an axis, a sum of squares as the eigenvalues of X'X.

    With n rows of `width` columns, each number rounded by u of itself at most, it is below u²(n + width)
    times the mean square of the largest column. The unit u is that of the coarsest of bfloat16, float16 and
    float32 that holds all numbers of some rows as they are, whatever type they are kept in.
    """
    n, width = source.shape
    rows = gather_float64(source, np.unique(np.linspace(0, n - 1, _SAMPLE).astype(int)))
    values = torch.from_numpy(rows)
    types = (torch.bfloat16, torch.float16, torch.float32)
    eps = next((torch.finfo(t).eps for t in types if torch.equal(values.to(t).double(), values)), 2.0**-52)
    return (eps / 2) ** 2 * (n + width) * float(np.square(rows).mean(axis=0).max())


def axes_unread(eigenvalues: Float[np.ndarray, " rank"], alpha: float) -> int:
    """How many axes that vary a strength shrinks by more than half."""
    return int(((eigenvalues > _PRESENT * eigenvalues.max()) & (eigenvalues < alpha)).sum())


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
        _log.info(
            "ridge strength %.3g for %s is the %s end of the grid %.3g to %.3g; widen `alphas`",
            alphas[at],
            names[column] if curves.shape[1] == len(names) else "all targets",
            "lower" if at == 0 else "upper",
            alphas[0],
            alphas[-1],
        )
    return hit
