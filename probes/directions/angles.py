"""Angles between concepts under several inner products, each beside what shuffled targets give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.probes.directions.fits import PointFits
from graticule.probes.geometry import Metric, RandomVectors, cosine_matrix, degrees
from graticule.probes.scores.multiplicity import benjamini_hochberg

KINDS = ("read", "write")


@dataclass(frozen=True)
class Concept:
    """One target's directions at one point."""

    name: str
    """For tables and figures."""
    table: str
    """Where it comes from."""
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
    """A line a kind, geometry and pair: see `Directions.angles`."""
    lines: list[dict[str, Any]] = []
    for metric in metrics:
        for kind in KINDS:
            lines += _pairs(concepts, metric, kind)
    columns = ["kind", "geometry", "a", "b", "same_table", "cosine", "degrees", "p", "p_bh", "level"]
    return pd.DataFrame(lines, columns=columns)


def _pairs(concepts: Sequence[Concept], metric: Metric, kind: str) -> list[dict[str, Any]]:
    through = metric.of(kind)
    seen = through @ np.stack([c.direction(kind) for c in concepts], axis=1)
    cosines = cosine_matrix(seen, seen)
    angles = degrees(cosines)
    # Concepts of one table share their chance: what a shuffled target of that table looks like.
    chance: dict[int, RandomVectors] = {}
    for concept in concepts:
        if id(concept.fits) not in chance:
            chance[id(concept.fits)] = RandomVectors.of(through @ concept.chance(kind) @ through.T)
    p, level = np.ones(cosines.shape), np.zeros(cosines.shape)
    for i in range(len(concepts)):
        for key, vectors in chance.items():  # the other concept of a pair shuffled, this one as it is
            of = np.array([j for j, c in enumerate(concepts) if id(c.fits) == key and j != i], np.int64)
            if len(of):
                p[i, of] = vectors.tail(cosines[i, of], seen[:, i])
                level[i, of] = vectors.level(0.05, seen[:, i])
    both = list(combinations(range(len(concepts)), 2))
    larger = np.array([max(p[i, j], p[j, i]) for i, j in both])
    return [
        {
            "kind": kind,
            "geometry": metric.name,
            "a": concepts[i].name,
            "b": concepts[j].name,
            "same_table": concepts[i].fits is concepts[j].fits,
            "cosine": float(cosines[i, j]),
            "degrees": float(angles[i, j]),
            "p": float(larger[n]),
            "p_bh": float(adjusted),
            "level": float(max(level[i, j], level[j, i])),
        }
        for n, ((i, j), adjusted) in enumerate(zip(both, benjamini_hochberg(larger), strict=True))
    ]


def alone(concepts: Sequence[Concept], metrics: Sequence[Metric]) -> pd.DataFrame:
    """A line a concept, kind and geometry: see `Directions.alone`."""
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
