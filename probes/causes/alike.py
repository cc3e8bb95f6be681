"""Targets made like the probed one, and readers of later layers on rows that no direction was fitted on.

A direction and a later reader that were fitted to the same rows share their luck: what block after block does
to the one is then read by the other, though the target is noise. So later layers are read by probes of the
*test* rows, and beside the target stand others that go through the very same fits: a random direction of the
activations, as readable as the target is out of fold, and the target itself dealt among clusters for the
rest. Of a target that cannot be read at all they are plain shuffles, among which its effect has any rank
with the same chance; of one that can, they say what these layers do to any direction that is as readable.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from graticule.probes.core.inputs import SweepInputs
from graticule.probes.linear.leace import Covariance
from graticule.probes.linear.ridge_cv import ridge_cv, ridge_fit

MOST_ROWS = 20_000
"""Test rows that a later reader is fitted on."""


def some_rows(rows: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
    """At most `limit` of the rows, drawn and in order."""
    return rows if len(rows) <= limit else np.sort(rng.choice(rows, limit, replace=False))


Part = tuple[Float[np.ndarray, "_ width"], Float[np.ndarray, " _"], Int[np.ndarray, " _"]]
"""Activations of some rows, a target, and clusters."""


@dataclass(frozen=True)
class LaterReader:
    """A probe of a later point, fitted on test rows."""

    point: str
    """The later point."""
    rows: Int[np.ndarray, " row"]
    """Activation rows that it was fitted on."""
    X: Float[np.ndarray, "row width"]
    """Their activations at the point."""
    coef: Float[np.ndarray, "width target"]
    """What it reads of all targets, in standard deviations."""
    alpha: float
    """Its strength."""

    @classmethod
    def fit(cls, inputs: SweepInputs, point: str, rng: np.random.Generator) -> LaterReader | None:
        """The reader of a point; None where the test rows are too few, of one cluster, or of one value."""
        problem = inputs.problem
        rows = some_rows(problem.test, MOST_ROWS, rng)
        X = inputs.rows(point, rows)
        try:
            fit = ridge_cv(X, problem.y[rows], clusters=problem.clusters[rows], names=problem.names)
        except ValueError:
            return None
        return cls(point, rows, X, fit.coef / fit.y_scale, float(fit.alpha_by_target.mean()))

    def alike(self, targets: Float[np.ndarray, "row target"]) -> Float[np.ndarray, "width target"]:
        """What readers of other targets read at the same strength, in standard deviations."""
        fit = ridge_fit(self.X, targets, self.alpha)
        return fit.coef / fit.y_scale


@dataclass(frozen=True)
class AlikeTargets:
    """Targets as readable as one of a probe's."""

    train: Float[np.ndarray, "train target"]
    """On the training rows that directions are fitted on."""
    later: Float[np.ndarray, "test target"] | None
    """On the rows of the later reader; None where there is none."""


def alike_targets(
    count: int, moments: Covariance, own: Part, later: Part | None, readable: float, rng: np.random.Generator
) -> AlikeTargets:
    """Targets whose share `readable` is a random linear function of the activations, every direction of the
    whitened space equally likely, and whose rest is the target itself dealt among clusters.

    Args:
        count: How many.
        moments: Of the activations of `own`.
        own: The training rows.
        later: The rows of the later reader, their activations at the same point.
        readable: Share of the variance; what is below 0 counts as 0.
        rng: Draws.

    Returns:
        The targets on both sets of rows.
    """
    share = float(np.clip(readable, 0.0, 1.0))
    axes = rng.normal(size=(len(moments.values), count))
    axes = (moments.vectors / np.sqrt(moments.values)) @ (axes / np.linalg.norm(axes, axis=0))

    def made(part: Part) -> np.ndarray:
        rows, y, clusters = part
        unit = (y - y.mean()) / max(float(y.std()), 1e-300)
        dealt = np.stack([dealt_by_cluster(unit, clusters, rng) for _ in range(count)], axis=1)
        return np.sqrt(share) * ((rows - moments.mean) @ axes) + np.sqrt(1 - share) * dealt

    return AlikeTargets(made(own), None if later is None else made(later))


def dealt_by_cluster(
    y: Float[np.ndarray, " row"], clusters: Int[np.ndarray, " row"], rng: np.random.Generator
) -> Float[np.ndarray, " row"]:
    """A shuffle that leaves clusters together: each gets the values of another, over and over where that one
    is smaller. Rows that are clusters of their own are dealt one by one, and so are all where one value alone
    would be left."""
    _, codes, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    plain = y[rng.permutation(len(y))]
    if len(sizes) == len(y):
        return plain
    order, mixed = np.argsort(codes, kind="stable"), np.lexsort((rng.random(len(y)), codes))
    starts = np.cumsum(sizes) - sizes
    place, giver = np.arange(len(y)) - starts[codes[order]], rng.permutation(len(sizes))[codes[order]]
    out = np.empty_like(y)
    out[order] = y[mixed[starts[giver] + place % sizes[giver]]]
    return out if np.ptp(out) > 0 else plain
