"""Ridge directions at one point in closed form: of the targets, of halves of the rows, and of pure noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

Pair = tuple[Float[np.ndarray, "width column"], Float[np.ndarray, "width column"]]
"""Read and write directions, a column each."""


@dataclass(frozen=True)
class PointFits:
    """All that the directions of one table at one point are compared with."""

    covariance: Float[np.ndarray, "width width"]
    """Of the training rows' activations."""
    noise_read: Float[np.ndarray, "width width"]
    """Covariance of the read direction that a shuffled target gives: (G + α)⁻¹ G (G + α)⁻¹, with G the
    scatter matrix of the rows; that of its write direction is the activations' own."""
    halves: tuple[Pair, Pair]
    """Directions fitted on two halves of the training rows' clusters."""


def point_fits(
    X: Float[np.ndarray, "row width"],
    y: Float[np.ndarray, "row target"],
    clusters: Int[np.ndarray, " row"],
    alpha: float,
    seed: int,
) -> PointFits:
    """Everything that needs the rows of one point, in one pass over them.

    The halves are fitted at half of `alpha`, the same shrinkage for half the rows.
    """
    labels, codes = np.unique(clusters, return_inverse=True)
    first = np.random.default_rng(seed).permutation(len(labels)) < len(labels) / 2
    parts = [np.flatnonzero(first[codes] == side) for side in (True, False)]
    halves = tuple(_fit(X[i], y[i], alpha / 2) for i in parts)
    centred = X - X.mean(axis=0)
    values, axes = np.linalg.eigh(centred.T @ centred)
    values = np.maximum(values, 0.0)
    return PointFits(
        covariance=(axes * (values / len(X))) @ axes.T,
        noise_read=(axes * (values / (values + alpha) ** 2 * len(X))) @ axes.T,
        halves=(halves[0], halves[1]),
    )


def noise_fits(X: Float[np.ndarray, "row width"], z: Float[np.ndarray, "row column"], alpha: float) -> Pair:
    """Read and write directions of targets that are fitted one by one, such as noise or shuffled ones."""
    centred = X - X.mean(axis=0)
    moments = centred.T @ (z - z.mean(axis=0))
    return _solve(centred, moments, alpha), moments / len(X)


def shuffled(
    y: Float[np.ndarray, "row target"], draws: int, rng: np.random.Generator
) -> Float[np.ndarray, "row column"]:
    """The targets' rows in `draws` random orders, side by side."""
    return np.concatenate([y[rng.permutation(len(y))] for _ in range(draws)], axis=1)


def _fit(X: np.ndarray, y: np.ndarray, alpha: float) -> Pair:
    """As `ridge_fit`, whose directions these are up to the targets' units."""
    centred, z = X - X.mean(axis=0), y - y.mean(axis=0)
    scale = z.std(axis=0)
    z = z / np.where(scale > 0, scale, 1.0)
    moments = centred.T @ z
    return _solve(centred, moments, alpha), moments @ np.linalg.pinv(z.T @ z, rcond=1e-10, hermitian=True)


def _solve(centred: np.ndarray, moments: np.ndarray, alpha: float) -> np.ndarray:
    from scipy.linalg import cho_factor, cho_solve

    gram = centred.T @ centred
    gram[np.diag_indices_from(gram)] += alpha
    return np.asarray(cho_solve(cho_factor(gram), moments))
