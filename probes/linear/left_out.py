"""Ridge without each of many parts of a few rows: one eigendecomposition serves all parts and strengths.

With an intercept that is not penalised, ridge on all rows leaves the errors Gy, where G = α(K + α)⁻¹ of the
products K between centred rows, without the direction of the constant. Without the rows F, the errors of F
are G_FF⁻¹(Gy)_F (Golub, Heath & Wahba 1979, in blocks), and G of the rows that are left is the Schur
complement G_TT − G_TF G_FF⁻¹ G_FT, whose own blocks give the errors without F and a cluster. Nothing is
fitted twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from graticule.probes.linear.moments import eigen
from graticule.probes.linear.strengths import check_alphas, default_alphas

N_ALPHAS = 12
"""Strengths of the default grid: every second of `ridge_cv`'s."""


@dataclass(frozen=True)
class PartFit:
    """A ridge on the rows outside a part, its strength chosen there."""

    alpha: float
    """The strength."""
    out_of_fold: Float[np.ndarray, "rest target"]
    """What is said of the rows it learned from, each without its cluster."""
    test: Float[np.ndarray, "part target"]
    """What is said of the part."""
    validation: float
    """Out-of-fold R² on the rest, mean over the targets that vary there."""


def row_products_of(X: Float[np.ndarray, "row width"]) -> Float[np.ndarray, "row row"]:
    """XX' of centred rows."""
    centred = X - X.mean(axis=0)
    return centred @ centred.T


def fits_without(
    products: Float[np.ndarray, "row row"],
    y: Float[np.ndarray, "row target"],
    clusters: Int[np.ndarray, " row"],
    parts: Sequence[Int[np.ndarray, " _"]],
    alphas: Sequence[float] | None = None,
    *,
    rounding: float = 0.0,
) -> list[PartFit]:
    """`ridge_cv` on the rows outside each part, at strengths that are the same for all parts.

    Every third strength is scored, and from the best of these all that lead up to a better one.

    Args:
        products: XX', centred or not.
        y: Targets.
        clusters: Rows of one are held out together; no part takes one apart.
        parts: Rows that are left out together.
        alphas: Strengths; by default a grid on the scale of all rows, whose targets it does not see.
        rounding: Of the rows (`rounding_of`): how far that grid reaches down.

    Returns:
        A fit a part.
    """
    makers = _Makers(products, y, alphas, rounding)
    return [_without(makers, y, clusters, part) for part in parts]


class _Makers:
    """G and Gy at each strength of a grid, made when asked for."""

    def __init__(
        self, products: np.ndarray, y: np.ndarray, alphas: Sequence[float] | None, rounding: float
    ) -> None:
        n = len(products)
        middle = products.mean(axis=0)
        kernel = products - middle - middle[:, None] + middle.mean()
        # the constant is made the largest eigenvector by far, and left out
        kernel += (2 * np.trace(kernel) + 1e-300) / n
        values, vectors = eigen(np.ascontiguousarray((kernel + kernel.T) / 2))
        self._values, self._vectors, self._y = values[:-1], np.ascontiguousarray(vectors[:, :-1]), y
        asked = check_alphas(alphas)
        grid = default_alphas(self._values, N_ALPHAS, rounding=rounding) if asked is None else asked
        # which is scored first: those above stay the same, however many stand below the default ones
        self.first = (1 + len(grid) - N_ALPHAS) % 3 if asked is None else min(1, len(grid) // 3)
        self.grid = grid
        self._made: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def at(self, place: int) -> tuple[Float[np.ndarray, "row row"], Float[np.ndarray, "row target"]]:
        """Of one strength."""
        if place not in self._made:
            alpha = self.grid[place]
            left = (self._vectors * (alpha / (self._values + alpha))) @ self._vectors.T
            self._made[place] = left, left @ self._y
        return self._made[place]


def _without(makers: _Makers, y: np.ndarray, clusters: np.ndarray, part: np.ndarray) -> PartFit:
    """The fit on the rows outside one part."""
    rest, last = np.setdiff1d(np.arange(len(y)), part), len(makers.grid) - 1
    mean, scale = y[rest].mean(axis=0), y[rest].std(axis=0)
    varied = np.ptp(y[rest], axis=0) > 0
    groups = _by_size(clusters[rest])
    scored: dict[int, tuple[float, np.ndarray, np.ndarray]] = {}

    def score(place: int) -> float:
        if place not in scored:
            held_out, of_part = _errors(*makers.at(place), rest, part, groups)
            squares = np.square(held_out[:, varied] / scale[varied]).mean() if varied.any() else 1.0
            value = float(1 - squares) if np.isfinite(squares) else -np.inf
            scored[place] = value, held_out, of_part
        return scored[place][0]

    best = max(range(makers.first, last + 1, 3), key=score)
    while (top := max([p for p in (best, best - 1, best + 1) if 0 <= p <= last], key=score)) != best:
        best = top
    value, held_out, of_part = scored[best]
    out_of_fold = np.where(varied, y[rest] - held_out, mean)
    return PartFit(float(makers.grid[best]), out_of_fold, np.where(varied, y[part] - of_part, mean), value)


def _by_size(clusters: np.ndarray) -> list[Int[np.ndarray, "cluster size"]]:
    """Places of the rows of each cluster, clusters of one size together."""
    _, codes, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    order = np.argsort(codes, kind="stable")
    return [order[sizes[codes[order]] == size].reshape(-1, size) for size in np.unique(sizes)]


def _errors(
    left: np.ndarray,
    errors: np.ndarray,
    rest: np.ndarray,
    part: np.ndarray,
    groups: Sequence[np.ndarray],
) -> tuple[Float[np.ndarray, "rest target"], Float[np.ndarray, "part target"]]:
    """Of the rows that are left, each without its cluster as well, and of the part."""
    own = left[part]
    across = own[:, rest]
    solved = np.linalg.solve(own[:, part], np.concatenate([across, errors[part]], axis=1))
    weights, of_part = solved[:, : len(rest)], solved[:, len(rest) :]
    of_rest = errors[rest] - across.T @ of_part
    out = np.empty_like(of_rest)
    for rows in groups:
        whole = rest[rows]
        if rows.shape[1] == 1:
            one, alone = whole[:, 0], rows[:, 0]
            block = left[one, one] - np.einsum("fc,fc->c", across[:, alone], weights[:, alone])
            out[alone] = of_rest[alone] / block[:, None]
        else:
            block = left[whole[:, :, None], whole[:, None, :]]
            block = block - across[:, rows].transpose(1, 2, 0) @ weights[:, rows].transpose(1, 0, 2)
            out[rows] = np.linalg.solve(block, of_rest[rows])
    return out, of_part
