"""Directions at one point, the angles between them, and what shuffled targets give for both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from graticule.probes.geometry import Metric, RandomVectors, cosine_matrix, degrees
from graticule.probes.scores.significance import benjamini_hochberg

KINDS = ("read", "write")

Pair = tuple[Float[np.ndarray, "width column"], Float[np.ndarray, "width column"]]
"""Read and write directions, a column each."""


# Fits ------------------------------------------------------------------------------------------------
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
    one, other = (_fit(X[rows], y[rows], alpha / 2) for rows in (first[codes], ~first[codes]))
    centred = X - X.mean(axis=0)
    values, axes = np.linalg.eigh(centred.T @ centred)
    values = np.maximum(values, 0.0)
    return PointFits(
        covariance=(axes * (values / len(X))) @ axes.T,
        noise_read=(axes * (values / (values + alpha) ** 2 * len(X))) @ axes.T,
        halves=(one, other),
    )


def noise_fits(X: Float[np.ndarray, "row width"], z: Float[np.ndarray, "row column"], alpha: float) -> Pair:
    """Read and write directions of targets that are fitted one by one, such as noise or shuffled ones."""
    centred = X - X.mean(axis=0)
    moments = centred.T @ (z - z.mean(axis=0))
    return _solve(centred, moments, alpha), moments / len(X)


def shuffled(
    y: Float[np.ndarray, "row target"], n_shuffles: int, rng: np.random.Generator
) -> Float[np.ndarray, "row column"]:
    """The targets' rows in `n_shuffles` random orders, side by side."""
    return np.concatenate([y[rng.permutation(len(y))] for _ in range(n_shuffles)], axis=1)


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


# Angles ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Concept:
    """One target's directions at one point."""

    name: str
    """For tables and figures."""
    read: Float[np.ndarray, " width"]
    """Ridge weights."""
    write: Float[np.ndarray, " width"]
    """Regression of the activations on the target."""
    fits: PointFits
    """What its table's directions at this point are compared with."""
    column: int
    """Its place among the table's targets."""

    def direction(self, kind: str) -> Float[np.ndarray, " width"]:
        """`read` or `write`."""
        return self.read if kind == "read" else self.write

    def chance(self, kind: str) -> Float[np.ndarray, "width width"]:
        """The covariance of this direction had the target been shuffled."""
        return self.fits.noise_read if kind == "read" else self.fits.covariance


def pairs(concepts: Sequence[Concept], metrics: Sequence[Metric]) -> pd.DataFrame:
    """One row per kind, geometry and pair: see `Directions.angles`."""
    lines = [line for metric in metrics for kind in KINDS for line in _pairs(concepts, metric, kind)]
    columns = ["kind", "geometry", "a", "b", "same_table", "cosine", "degrees", "p", "p_bh", "level"]
    return pd.DataFrame(lines, columns=columns)


def _pairs(concepts: Sequence[Concept], metric: Metric, kind: str) -> list[dict[str, Any]]:
    through = metric.of(kind)
    mapped = through @ np.stack([c.direction(kind) for c in concepts], axis=1)
    cosines = cosine_matrix(mapped, mapped)
    angles = degrees(cosines)
    # Concepts of one table share their chance: what a shuffled target of that table looks like.
    chance = {id(c.fits): c.chance(kind) for c in concepts}
    vectors = {key: RandomVectors.of(through @ spread @ through.T) for key, spread in chance.items()}
    p, level = np.ones(cosines.shape), np.zeros(cosines.shape)
    for i in range(len(concepts)):
        for key, drawn in vectors.items():  # the other concept of a pair shuffled, this one as it is
            others = np.array([j for j, c in enumerate(concepts) if id(c.fits) == key and j != i], np.int64)
            if len(others):
                p[i, others] = drawn.tail(cosines[i, others], mapped[:, i])
                level[i, others] = drawn.level(0.05, mapped[:, i])
    p, level = np.maximum(p, p.T), np.maximum(level, level.T)
    both = list(combinations(range(len(concepts)), 2))
    adjusted = benjamini_hochberg(np.array([p[pair] for pair in both]))
    return [
        {
            "kind": kind,
            "geometry": metric.name,
            "a": concepts[i].name,
            "b": concepts[j].name,
            "same_table": concepts[i].fits is concepts[j].fits,
            "cosine": float(cosines[i, j]),
            "degrees": float(angles[i, j]),
            "p": float(p[i, j]),
            "p_bh": float(adjusted[n]),
            "level": float(level[i, j]),
        }
        for n, (i, j) in enumerate(both)
    ]


def alone(concepts: Sequence[Concept], metrics: Sequence[Metric]) -> pd.DataFrame:
    """One row per concept, kind and geometry: see `Directions.alone`."""
    lines: list[dict[str, Any]] = []
    for metric in metrics:
        for concept in concepts:
            across = cosine_matrix(metric.read @ concept.read[:, None], metric.write @ concept.write[:, None])
            for side, kind in enumerate(KINDS):
                one, two = (metric.of(kind) @ half[side][:, [concept.column]] for half in concept.fits.halves)
                lines.append(
                    {
                        "concept": concept.name,
                        "kind": kind,
                        "geometry": metric.name,
                        "split_half": float(cosine_matrix(one, two)[0, 0]),
                        "read_write": float(across[0, 0]),
                    }
                )
    return pd.DataFrame(lines)
