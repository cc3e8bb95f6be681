"""The geometry of probes' directions: across layers, among targets, and between concepts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from graticule.hooks.artifact import library_versions
from graticule.hooks.doors import FINDINGS, MODEL, door
from graticule.hooks.points import PointError
from graticule.hooks.protocols import HookedModel
from graticule.probes.applicable import NotApplicable
from graticule.probes.directions.angles import Concept, alone, pairs
from graticule.probes.directions.findings import Directions
from graticule.probes.directions.fits import PointFits, point_fits
from graticule.probes.directions.layers import (
    LAYER_COLUMNS,
    RANK_COLUMNS,
    SINGULAR_COLUMNS,
    Ranks,
    across_layers,
)
from graticule.probes.findings import Findings
from graticule.probes.geometry import Metric, causal, euclidean, whitened
from graticule.probes.unembedding import unembedding_covariance


@door(findings=FINDINGS, model=MODEL)
def directions(
    findings: Findings,
    *others: Findings,
    model: HookedModel | None = None,
    point: str | None = None,
    draws: int = 50,
    seed: int = 0,
    progress: bool | None = None,
) -> Directions:
    """Layer × layer cosines, rank and angles of the probes' read and write directions.

    Angles between concepts (all targets of all findings) are taken at `point`, by default the first findings'
    chosen one, under three inner products. A read direction is a functional (it reads a number off an
    activation, as an unembedding row does), a write direction a vector (a change of the activation), and an
    inner product M on one side is M⁻¹ on the other:

    - *euclidean*;
    - *whitened*, by the activations' covariance Σ (the mean over tables): reads aᵀ Σ b, the covariance of
      what the two read; writes aᵀ Σ⁻¹ b;
    - *causal* (Park et al. 2023, arXiv 2311.03658), given `model`: reads aᵀ Cov(γ)⁻¹ b, the paper's form for
      unembeddings, g = Cov^−½ γ; writes aᵀ Cov(γ) b, its form for embeddings, l = Cov^½ λ; see
      `unembedding_covariance`. The paper defines it at the final layer; earlier it is a convention.

    Beside every angle stands chance: the angle that would be had one of the two targets been shuffled over
    the training rows (its direction is then drawn with a known covariance: Σ for write, that of ridge on
    noise for read), exact rather than drawn, and the cosine of each direction with itself from two halves
    of the rows. Layers are compared with a noise target that is fitted at both (`draws` of them), ranks
    with those of targets shuffled together (`draws`, 20 at most).

    **Raises** `PointError` if findings lack `point`, `ValueError` for findings of different models, widths,
    or without their activations, and if `model` has no unembedding.
    """
    everyone = (findings, *others)
    if len({f.model for f in everyone}) > 1:
        raise ValueError(
            f"findings of different models ({sorted({f.model for f in everyone})}) share no space"
        )
    at = point or findings.chosen_point
    for each in everyone:
        if at not in each.probes:
            raise PointError(
                f"{at} was not swept for {each.table}; it has {', '.join(list(each.probes)[:3])}, …"
            )
    names = _names(everyone)
    fits = [_fits_at(f, at, seed) for f in everyone]
    if len({len(f.covariance) for f in fits}) > 1:
        raise ValueError(f"{at} has different widths in these findings: {[len(f.covariance) for f in fits]}")
    metrics = _metrics(fits, model)
    concepts = [
        Concept(name, f.table, f.probes[at].read_direction[:, t], f.probes[at].write_direction[:, t], fit, t)
        for f, fit, held in zip(everyone, fits, names, strict=True)
        for t, name in enumerate(held)
    ]
    rng = np.random.default_rng(seed)
    ranks, width = Ranks(), len(fits[0].covariance)
    layers = [
        line
        for f, held in zip(everyone, names, strict=True)
        for line in across_layers(f, held, width, ranks, draws=draws, rng=rng, progress=progress)
    ]
    if len(everyone) > 1:
        ranks.add_together(concepts, len(everyone), at)
    return Directions(
        model=findings.model,
        point=at,
        table_names=tuple(f.table for f in everyone),
        concepts=tuple(c.name for c in concepts),
        geometries=tuple(m.name for m in metrics),
        layer_cosines=pd.DataFrame(layers, columns=LAYER_COLUMNS),
        ranks=pd.DataFrame(ranks.ranks, columns=RANK_COLUMNS),
        singular=pd.DataFrame(ranks.singular, columns=SINGULAR_COLUMNS),
        angles=pairs(concepts, metrics),
        alone=alone(concepts, metrics),
        provenance={
            "model": findings.model,
            "tables": [
                {"name": f.table, "digest": f.material.table.digest, "point": f.chosen_point}
                for f in everyone
            ],
            "point": at,
            "seed": seed,
            "settings": {"draws": draws, "causal": model is not None},
            "versions": library_versions(),
        },
    )


def _names(everyone: Sequence[Findings]) -> list[list[str]]:
    """Concept names of every table: the targets', with the table's (and its place) where one occurs twice."""
    plain = [name for f in everyone for name in f.target_names]
    longer = [f"{name} ({f.table})" for f in everyone for name in f.target_names]
    return [
        [
            n
            if plain.count(n) == 1
            else f"{n} ({f.table})"
            if longer.count(f"{n} ({f.table})") == 1
            else f"{n} ({f.table}, {place})"
            for n in f.target_names
        ]
        for place, f in enumerate(everyone, start=1)
    ]


def _fits_at(findings: Findings, point: str, seed: int) -> PointFits:
    material = findings.material
    train = material.problem.train
    alpha = float(findings.probes[point].weights.alpha_by_target.mean())
    return point_fits(
        material.rows(point, train), material.problem.y[train], material.problem.clusters[train], alpha, seed
    )


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
