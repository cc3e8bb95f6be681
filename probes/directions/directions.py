"""The geometry of probes' directions: across layers, among targets, and between concepts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from tqdm.auto import tqdm

from graticule.hooks.artifact import library_versions
from graticule.hooks.calls import came, renamed
from graticule.hooks.doors import FINDINGS, MODEL, door
from graticule.hooks.messages import NotApplicable
from graticule.hooks.points import layer_of
from graticule.hooks.protocols import HookedModel
from graticule.hooks.result import captured_as
from graticule.hooks.rows import PointKey
from graticule.probes.core.findings import Findings
from graticule.probes.directions.angles import (
    KINDS,
    Concept,
    PointFits,
    alone,
    noise_fits,
    pairs,
    point_fits,
    shuffled,
)
from graticule.probes.directions.result import Directions
from graticule.probes.geometry import (
    Metric,
    causal,
    effective_rank,
    euclidean,
    unembedding_covariance,
    whitened,
)
from graticule.probes.linear.ridge import cosines

_SHUFFLES = 20
_LAYERS = [
    *("concept", "kind", "point_a", "point_b", "layer_a", "layer_b"),
    *("cosine", "noise", "noise_low", "noise_high"),
]
_RANKS = [
    *("set", "point", "layer", "kind", "targets"),
    *("effective_rank", "shuffled", "shuffled_low", "shuffled_high"),
]
_SINGULAR = ["set", "point", "kind", "order", "value"]


@renamed(point="hook_name", draws="n_noise")
@door(findings=FINDINGS, model=MODEL)
def directions(
    findings: Findings,
    *others: Findings,
    model: HookedModel | None = None,
    hook_name: PointKey | None = None,
    n_noise: int = 50,
    seed: int = 0,
    progress: bool | None = None,
) -> Directions:
    """Layer × layer cosines, rank and angles of the probes' read and write directions.

    Angles between concepts (all targets of all findings) are taken under three inner products, at
    `hook_name`. A read direction is a functional (it reads a number off an activation, as an unembedding
    row does), a write direction a vector (a change of the activation), and an inner product M on one side is
    M⁻¹ on the other:

    - *euclidean*;
    - *whitened*, by the activations' covariance Σ (the mean over tables): reads aᵀ Σ b, the covariance of
      what the two read; writes aᵀ Σ⁻¹ b;
    - *causal* (Park et al. 2023, arXiv 2311.03658), given `model`: reads aᵀ Cov(γ)⁻¹ b, the paper's form for
      unembeddings, g = Cov^−½ γ; writes aᵀ Cov(γ) b, its form for embeddings, l = Cov^½ λ; see
      `unembedding_covariance`. The paper defines it at the final layer; earlier it is a convention.

    Beside every angle stands chance: the angle that would be had one of the two targets been shuffled over
    the training rows (its direction is then drawn with a known covariance: Σ for write, that of ridge on
    noise for read), exact rather than drawn, and the cosine of each direction with itself from two halves
    of the rows.

    Args:
        findings: The first findings.
        others: Findings of other tables in the same model; a model may stand before them.
        model: Adds the causal inner product.
        hook_name: Where angles are taken; by default the first findings' chosen point.
        n_noise: Noise targets that layers are compared with, each fitted at both; also the shuffled sets of
            targets that ranks are compared with, 20 at most.
        seed: The seed of the halves, the noise and the shuffles.
        progress: Whether to show a bar; by default for large tables.

    Returns:
        Cosines, ranks and angles, with figures and tables.

    Raises:
        PointError: If findings lack `hook_name`.
        ValueError: For findings of different models, widths, or without their activations, and if `model`
            has no unembedding.
    """
    for other in others:
        if not FINDINGS.fits(other):
            raise TypeError(
                f"directions: {came(other)} among the findings; expected {FINDINGS.what}: "
                f"{FINDINGS.write(other)}"
            )
    everyone = (findings, *others)
    if len({f.model for f in everyone}) > 1:
        raise ValueError(
            f"findings of different models ({sorted({f.model for f in everyone})}) share no space"
        )
    at = findings.point_of(hook_name)
    for each in others:
        each.point_of(at)
    names = _names(everyone)
    fits = [_fits_at(f, at, seed) for f in everyone]
    if len({len(f.covariance) for f in fits}) > 1:
        raise ValueError(f"{at} has different widths in these findings: {[len(f.covariance) for f in fits]}")
    metrics = _metrics(fits, model)
    concepts = [
        Concept(name, f.probes[at].read_direction[:, t], f.probes[at].write_direction[:, t], fit, t)
        for f, fit, own in zip(everyone, fits, names, strict=True)
        for t, name in enumerate(own)
    ]
    rng, ranks = np.random.default_rng(seed), _Ranks()
    layers = [
        line
        for f, own in zip(everyone, names, strict=True)
        for line in _across_layers(f, own, len(fits[0].covariance), ranks, n_noise, rng, progress)
    ]
    if len(everyone) > 1:
        ranks.add_together(concepts, len(everyone), at)
    return Directions(
        model=findings.model,
        point=at,
        table_names=tuple(f.table for f in everyone),
        concepts=tuple(c.name for c in concepts),
        geometries=tuple(m.name for m in metrics),
        layer_cosines=pd.DataFrame(layers, columns=_LAYERS),
        ranks=pd.DataFrame(ranks.ranks, columns=_RANKS),
        singular=pd.DataFrame(ranks.singular, columns=_SINGULAR),
        angles=pairs(concepts, metrics),
        alone=alone(concepts, metrics),
        provenance={
            "model": findings.model,
            "tables": [
                {"name": f.table, "digest": f.inputs.table.digest, "point": f.chosen_point} for f in everyone
            ],
            "captured": [captured_as(f.provenance).get("captured") for f in everyone],
            "point": at,
            "seed": seed,
            "settings": {"draws": n_noise, "causal": model is not None},
            "versions": library_versions(),
        },
    )


def _names(everyone: Sequence[Findings]) -> list[list[str]]:
    """Concept names of every table: the targets', with the table's (and its place) where one occurs twice."""
    plain = [name for f in everyone for name in f.target_names]
    longer = [f"{name} ({f.table})" for f in everyone for name in f.target_names]

    def unique(name: str, table: str, place: int) -> str:
        if plain.count(name) == 1:
            return name
        with_table = f"{name} ({table})"
        return with_table if longer.count(with_table) == 1 else f"{name} ({table}, {place})"

    return [[unique(n, f.table, place) for n in f.target_names] for place, f in enumerate(everyone, start=1)]


def _alpha(findings: Findings, point: str) -> float:
    return float(findings.probes[point].weights.alpha_by_target.mean())


def _fits_at(findings: Findings, point: str, seed: int) -> PointFits:
    inputs, problem = findings.inputs, findings.inputs.problem
    train = problem.train
    rows, y, clusters = inputs.rows(point, train), problem.y[train], problem.clusters[train]
    return point_fits(rows, y, clusters, _alpha(findings, point), seed)


def _metrics(fits: Sequence[PointFits], model: HookedModel | None) -> list[Metric]:
    spread = np.mean([f.covariance for f in fits], axis=0)
    metrics = [euclidean(len(spread)), whitened(spread)]
    if model is not None:
        unembedding = unembedding_covariance(model)
        if len(unembedding) != len(spread):
            raise NotApplicable(
                f"the unembedding reads {len(unembedding)} numbers, the directions have {len(spread)}: the "
                "causal inner product is of the residual stream; choose such a point, or leave model= out"
            )
        metrics.append(causal(unembedding))
    return metrics


# Across layers, and ranks ----------------------------------------------------------------------------
class _Ranks:
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
        for order, share in enumerate(values / values.sum(), start=1):
            self.singular.append(
                {"set": name, "point": point, "kind": kind, "order": order, "value": float(share)}
            )

    def add_table(self, findings: Findings, point: str, kind: str, mixed: np.ndarray, z: np.ndarray) -> None:
        """A point's directions per standard deviation of each target, and those of shuffled targets."""
        weights = findings.probes[point].weights
        chance = np.split(mixed, mixed.shape[1] // z.shape[1], axis=1)
        stack = weights.coef / weights.y_scale
        if kind == "write":
            # A probe's write directions are of all targets jointly; those of shuffled ones must be so too.
            joint = np.linalg.pinv(z.T @ z / len(z), rcond=1e-10, hermitian=True)
            stack, chance = weights.write * weights.y_scale, [part @ joint for part in chance]
        self.add(findings.table, point, kind, stack, chance)

    def add_together(self, concepts: Sequence[Concept], tables: int, point: str) -> None:
        """All tables' targets at once; no shuffling spans tables, so there is no chance beside it."""
        for kind in KINDS:
            stack = np.stack([c.direction(kind) for c in concepts], axis=1)
            self.add(f"{tables} tables, unit directions", point, kind, stack / np.linalg.norm(stack, axis=0))


def _across_layers(
    findings: Findings,
    names: Sequence[str],
    width: int,
    ranks: _Ranks,
    n_noise: int,
    rng: np.random.Generator,
    progress: bool | None,
) -> list[dict[str, Any]]:
    """Cosines between all points of a width, beside noise fitted at both; stacks of targets go to `ranks`."""
    inputs, train = findings.inputs, findings.inputs.problem.train
    points = [p for p, probe in findings.probes.items() if len(probe.coef) == width]
    y = inputs.problem.y[train]
    z = (y - y.mean(axis=0)) / y.std(axis=0)
    targets = rng.standard_normal((len(train), n_noise))
    if several := z.shape[1] > 1:
        targets = np.concatenate([targets, shuffled(z, min(n_noise, _SHUFFLES), rng)], axis=1)
    noise: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in KINDS}
    quiet = not (progress if progress is not None else len(train) * len(points) > 50_000)
    for point in tqdm(points, desc="directions", unit="layer", disable=quiet, leave=False):
        fitted = noise_fits(inputs.rows(point, train), targets, _alpha(findings, point))
        for kind, values in zip(KINDS, fitted, strict=True):
            noise[kind][point] = values[:, :n_noise]
            if several:
                ranks.add_table(findings, point, kind, values[:, n_noise:], z)
    return [
        line
        for kind in KINDS
        for i, a in enumerate(points)
        for b in points[i:]
        for line in _between(findings, names, kind, a, b, cosines(noise[kind][a], noise[kind][b]))
    ]


def _between(
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
