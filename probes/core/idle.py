"""Predictors that are still the training mean, and what such rows would have shown."""

from __future__ import annotations

import numpy as np

from graticule.probes.core.fit import Predictions, Problem
from graticule.probes.core.resample import effective_clusters

STILL = 1e-2
"""Predictions that vary by less than this share of the target's standard deviation are a constant."""


def still(predictions: Predictions, problem: Problem) -> bool:
    """Whether predictions of test rows hardly vary, for any target: the fit is the training mean.

    Args:
        predictions: of whatever is judged.
        problem: with the targets' own spread.

    Returns:
        True where the rows say nothing about what it reads.
    """
    unit = problem.y[problem.train].std(axis=0)
    return bool((predictions.test.std(axis=0) < STILL * unit).all())


def least_seen(problem: Problem, width: int, metric: str = "r2") -> float:
    """About the smallest share of the variance, spread over all directions, that leave-one-out would see.

    Among n rows and k directions the squared correlations with pure luck add up to k / n, give or take
    √(2k) / n: twice that stands out. In bits a small share ρ² is ρ² / (2 ln 2).

    Args:
        problem: with its training rows and clusters.
        width: Directions.
        metric: of the verdict.

    Returns:
        A share of the target's variance, or bits.
    """
    n = effective_clusters(np.bincount(problem.clusters[problem.train]))
    share = 2 * float(np.sqrt(2 * min(width, n))) / n
    return share / (2 * np.log(2)) if metric == "bits" else share
