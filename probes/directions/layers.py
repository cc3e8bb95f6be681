"""Directions of the same targets at every layer, and how many dimensions several targets take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm.auto import tqdm

from graticule.hooks.points import layer_of
from graticule.probes.directions.angles import KINDS, Concept
from graticule.probes.directions.fits import noise_fits, shuffled
from graticule.probes.estimators.ridge import cosines
from graticule.probes.findings import Findings
from graticule.probes.geometry import effective_rank

_SHUFFLES = 20
LAYER_COLUMNS = [
    "concept", "kind", "point_a", "point_b", "layer_a", "layer_b", "cosine", "noise",
    "noise_low", "noise_high",
]  # fmt: skip
RANK_COLUMNS = [
    "set", "point", "layer", "kind", "targets", "effective_rank", "shuffled", "shuffled_low", "shuffled_high",
]  # fmt: skip
SINGULAR_COLUMNS = ["set", "point", "kind", "order", "value"]


class Ranks:
    """Singular values of stacks of directions, gathered as they come."""

    def __init__(self) -> None:
        self.ranks: list[dict[str, Any]] = []
        self.singular: list[dict[str, Any]] = []

    def add(
        self,
        name: str,
        point: str,
        kind: str,
        stack: Float[np.ndarray, "width target"],
        chance: Sequence[Float[np.ndarray, "width target"]] = (),
    ) -> None:
        """One stack, and stacks of shuffled targets."""
        values = np.linalg.svd(stack, compute_uv=False)
        ranks = [effective_rank(np.linalg.svd(s, compute_uv=False)) for s in chance] or [float("nan")]
        line: dict[str, Any] = {"set": name, "point": point, "layer": layer_of(point), "kind": kind}
        line |= {"targets": stack.shape[1], "effective_rank": effective_rank(values)}
        line |= {"shuffled": float(np.mean(ranks)), "shuffled_low": min(ranks), "shuffled_high": max(ranks)}
        self.ranks.append(line)
        for i, share in enumerate(values / values.sum()):
            held = {"set": name, "point": point, "kind": kind, "order": i + 1, "value": float(share)}
            self.singular.append(held)

    def add_together(self, concepts: Sequence[Concept], tables: int, point: str) -> None:
        """All tables' targets at once; no shuffling spans tables, so there is no chance beside it."""
        for kind in KINDS:
            held = np.stack([c.direction(kind) for c in concepts], axis=1)
            self.add(f"{tables} tables, unit directions", point, kind, held / np.linalg.norm(held, axis=0))


def across_layers(
    findings: Findings,
    names: Sequence[str],
    width: int,
    ranks: Ranks,
    *,
    draws: int,
    rng: np.random.Generator,
    progress: bool | None = None,
) -> list[dict[str, Any]]:
    """Cosines between all points of a width, beside noise fitted at both; stacks of targets go to `ranks`."""
    material = findings.material
    train = material.problem.train
    points = [p for p, probe in findings.probes.items() if len(probe.coef) == width]
    y = material.problem.y[train]
    z = (y - y.mean(axis=0)) / y.std(axis=0)
    several = z.shape[1] > 1
    targets = rng.standard_normal((len(train), draws))
    if several:
        targets = np.concatenate([targets, shuffled(z, min(draws, _SHUFFLES), rng)], axis=1)
    noise: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in KINDS}
    quiet = not (progress if progress is not None else len(train) * len(points) > 50_000)
    for point in tqdm(points, desc="directions", unit="layer", disable=quiet, leave=False):
        alpha = float(findings.probes[point].weights.alpha_by_target.mean())
        fitted = noise_fits(material.rows(point, train), targets, alpha)
        for kind, values in zip(KINDS, fitted, strict=True):
            noise[kind][point] = values[:, :draws]
            if several:
                _add_targets(findings, point, kind, values[:, draws:], z, ranks)
    return [
        line
        for kind in KINDS
        for i, a in enumerate(points)
        for b in points[i:]
        for line in _pair(findings, names, kind, a, b, cosines(noise[kind][a], noise[kind][b]))
    ]


def _pair(
    findings: Findings, names: Sequence[str], kind: str, a: str, b: str, noise: np.ndarray
) -> list[dict[str, Any]]:
    low, high = np.quantile(noise, [0.025, 0.975])
    one, two = (getattr(findings.probes[p], f"{kind}_direction") for p in (a, b))
    where: dict[str, Any] = {"point_a": a, "point_b": b, "layer_a": layer_of(a), "layer_b": layer_of(b)}
    chance = {"noise": float(noise.mean()), "noise_low": float(low), "noise_high": float(high)}
    return [
        {"concept": name, "kind": kind, **where, "cosine": float(cosine), **chance}
        for name, cosine in zip(names, cosines(one, two), strict=True)
    ]


def _add_targets(
    findings: Findings, point: str, kind: str, mixed: np.ndarray, z: np.ndarray, ranks: Ranks
) -> None:
    """The stack of a point's directions per standard deviation of each target, and of shuffled targets."""
    weights = findings.probes[point].weights
    parts = np.split(mixed, mixed.shape[1] // z.shape[1], axis=1)
    if kind == "read":
        ranks.add(findings.table, point, kind, weights.coef / weights.y_scale, parts)
        return
    # A probe's write directions are of all targets jointly; those of shuffled targets must be so too.
    joint = np.linalg.pinv(z.T @ z / len(z), rcond=1e-10, hermitian=True)
    ranks.add(findings.table, point, kind, weights.write * weights.y_scale, [p @ joint for p in parts])
