"""What every probe beyond ridge takes from findings, and how two of them are compared row by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from graticule.hooks.artifact import library_versions
from graticule.hooks.messages import UnknownNameError
from graticule.probes.core.findings import Findings
from graticule.probes.core.resample import interval, resamples
from graticule.probes.scores.in_words import FEW, with_interval

Interval = tuple[float, float]
"""Ends of a 95% interval."""


@dataclass(frozen=True)
class Difference:
    """One score of two predictors of the same test rows, compared pair by pair."""

    score: str
    """What is compared, with its unit: `R²`, `mean km`."""
    first: float
    """The first predictor's."""
    second: float
    """The second's."""
    difference: float
    """First minus second."""
    ci95: Interval
    """Of the difference: paired bootstrap over clusters of test rows, fits fixed."""

    @property
    def text(self) -> str:
        """The difference and its interval."""
        digits = 3 if self.score.startswith("R") else 1
        return with_interval(self.difference, self.ci95, FEW, digits)


def point_of(findings: Findings, point: str | None) -> str:
    """`point`, or the chosen one. Raises `KeyError` if it was not swept."""
    if point is not None and point not in findings.probes:
        raise UnknownNameError(f"{point} was not swept; these findings hold {', '.join(findings.probes)}")
    return point or findings.chosen_point


def cluster_weights(
    clusters: Int[np.ndarray, " row"], draws: int, seed: int
) -> tuple[Float[np.ndarray, "draw cluster"], Int[np.ndarray, " row"]]:
    """How often each cluster is taken in every resample with replacement, and the cluster of each row."""
    _, codes = np.unique(clusters, return_inverse=True)
    return np.concatenate(list(resamples(int(codes.max()) + 1, draws, seed))), codes


def mean_difference(
    score: str,
    first: Float[np.ndarray, " row"],
    second: Float[np.ndarray, " row"],
    clusters: Int[np.ndarray, " row"],
    draws: int,
    seed: int,
) -> Difference:
    """The mean of one number a row (an error), compared by paired bootstrap over clusters."""
    weights, codes = cluster_weights(clusters, draws, seed)
    sums = np.bincount(codes, weights=first - second)
    drawn = (weights @ sums) / (weights @ np.bincount(codes).astype(np.float64))
    a, b = float(first.mean()), float(second.mean())
    return Difference(score, a, b, a - b, interval(drawn))


def provenance_of(findings: Findings, **settings: Any) -> dict[str, Any]:
    """The model and table of the findings, what was asked for, and versions."""
    activations: Mapping[str, Any] = findings.provenance.get("activations", {})
    return {
        "model": activations.get("model", {"name": findings.model}),
        "table": findings.provenance.get("table", {"name": findings.table}),
        "findings_point": findings.chosen_point,
        "settings": settings,
        "versions": library_versions(),
    }
