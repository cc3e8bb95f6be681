"""SAE latents as predictors of a sweep's target, against the very surface that its probe stands against."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from jaxtyping import Float
from tqdm.auto import tqdm

from graticule.hooks.artifact import library_versions
from graticule.hooks.coders import SparseCoder, architecture, describe, writes_elsewhere
from graticule.hooks.doors import FINDINGS, door
from graticule.hooks.latents import Latents, encode
from graticule.hooks.points import layer_of
from graticule.hooks.sae_folders import load_sae
from graticule.probes.estimators.solvers import RidgeFit
from graticule.probes.findings import Findings
from graticule.probes.geometry import RandomVectors, covariance
from graticule.probes.latents.arms import all_latents, dense_arm
from graticule.probes.latents.findings import (
    ALL,
    DENSE,
    ERROR,
    LATENTS,
    RECONSTRUCTION,
    LatentFindings,
)
from graticule.probes.latents.judged import Judged, Settings, few_columns
from graticule.probes.latents.top import decoder_cosines, scatter_rows, top_latents, univariate
from graticule.probes.layers import Problem
from graticule.probes.material import Material

_log = logging.getLogger(__name__)

_COVARIANCE_ROWS = 20_000


@door(findings=FINDINGS)
def latents(
    findings: Findings,
    saes: Any,
    ks: int | Sequence[int] = (1, 2, 5, 20),
    *,
    point: str | None = None,
    top: int = 20,
    null: Literal["decoder", "activations"] = "decoder",
    draws: int = 5,
    folds: int = 5,
    seed: int = 0,
    progress: bool | None = None,
) -> LatentFindings:
    """What SAE latents hold of the findings' target: a few, all, what the SAE keeps and what it loses.

    At each SAE's own hook point, through the same surface and verdict as the sweep's probe:

    - *dense probe*: the sweep's ridge there;
    - *k latents*: least squares on the k latents of a forward selection on training rows. The out-of-fold
      predictions that the stack is fitted on come from a group k-fold which *chooses the latents anew* in
      every fold; k latents of a larger k are its first ones;
    - *k coordinates*: the same of the activations' own coordinates; *random latents*: for each
      chosen one another that is active about as often, mean and range of `draws`;
    - *all latents*: sparse ridge, its strength chosen in the same folds;
    - *reconstruction* and *error term*: the sweep's ridge on what the SAE gives back and on the rest.

    Single latents are ranked by correlation on training rows and scored on test rows; what they write is
    compared with the dense probe's two directions against vectors drawn with the covariance (about zero) of
    the SAE's decoder, or with that of the activations (`null`), the largest of as many as there are latents.

    **Arguments:** `saes` one SAELens SAE, its folder or a run, or several by name; `point` overrides the
    hook point that the SAE names; `ks` how many latents; `top` how many are listed a target.

    **Raises** `PointError` if an SAE's point was not swept, `ValueError` for another width, a transcoder, or
    `ks` that are not positive.
    """
    material, ks = findings.material, (ks,) if isinstance(ks, int) else ks
    several = cast("Mapping[str, Any]", saes) if isinstance(saes, Mapping) else {"": saes}
    loaded = {name: load_sae(one).sae for name, one in several.items()}
    named = {name or _name(sae): sae for name, sae in loaded.items()}
    counts = tuple(sorted(set(ks)))
    if not counts or counts[0] < 1 or not named:
        raise ValueError(
            f"ks={tuple(ks)} and {len(named)} SAEs: give at least one SAE and positive numbers of latents"
        )
    for name, sae in named.items():
        if (other := writes_elsewhere(sae)) is not None:
            raise ValueError(
                f"{name} is a transcoder (it writes to {other}): only SAEs that reconstruct what they read "
                "are judged here; activations.encode(sae) gives its latents"
            )
    settings = Settings(counts, top, null, draws, folds, seed)
    parts: list[_Part] = []
    quiet = not (progress if progress is not None else len(material.problem.y) * len(named) > 5000)
    with tqdm(total=len(named) * 5, desc="latents", disable=quiet, leave=False) as bar:
        for name, sae in named.items():
            encoded = encode(material.activations, sae, point, progress=progress)
            parts.append(_one(name, encoded, material, settings, bar.update))
    return _findings(findings, parts, settings, {n: describe(s) for n, s in named.items()})


def _name(sae: SparseCoder) -> str:
    return f"{architecture(sae)} SAE, {int(sae.cfg.d_sae):,} latents"


@dataclass(frozen=True)
class _Part:
    """One SAE's share of the tables."""

    sae: dict[str, Any]
    arms: list[dict[str, Any]]
    predictions: list[Float[np.ndarray, "test target"]]
    top: list[pd.DataFrame]
    selected: list[int]
    cosines: list[pd.DataFrame]
    levels: list[dict[str, Any]]
    scatter: list[pd.DataFrame]


def _one(name: str, held: Latents, material: Material, settings: Settings, step: Callable[[], Any]) -> _Part:
    problem = material.problem
    width = int(held.sae.cfg.d_in)
    judged = Judged(name, material)
    dense, predictions = dense_arm(held.inputs, width, problem, material.alphas)
    judged.add(DENSE, predictions, dense.score)
    step()
    chosen = few_columns(held, judged, settings)
    step()
    whole, validation = all_latents(held, problem, material.alphas, folds=settings.folds, seed=settings.seed)
    judged.add(ALL, whole, validation, width=int(held.sae.cfg.d_sae))
    step()
    kept, predictions = dense_arm(held.reconstruction, width, problem, material.alphas)
    judged.add(RECONSTRUCTION, predictions, kept.score)
    lost, predictions = dense_arm(held.error, width, problem, material.alphas)
    judged.add(ERROR, predictions, lost.score)
    step()
    described = describe(held.sae)
    sae = {
        "sae": name,
        "point": held.point,
        "layer": layer_of(held.point),
        "architecture": described["architecture"],
        "d_sae": described["d_sae"],
        "l0": held.l0,
        "alive": float((held.frequency > 0).mean()),
        "explained_variance": _explained(held, problem),
    }
    single = _single(name, held, dense, material, settings)
    step()
    return _Part(sae, judged.lines, judged.tests, selected=chosen.chosen.tolist(), **single)


def _single(
    name: str, held: Latents, dense: RidgeFit, material: Material, settings: Settings
) -> dict[str, Any]:
    """Top latents, cosines and scatters, a target after another."""
    problem, names = material.problem, material.table.target_names
    train = problem.train
    correlations = univariate(held.values[train].astype(np.float64), problem.y[train])
    decoder = held.decoder
    if settings.null == "decoder":
        spread = covariance(decoder, centred=False)
    else:
        spread = covariance(held.inputs(train[:: max(1, len(train) // _COVARIANCE_ROWS)]))
    chance = RandomVectors.of(spread)
    out: dict[str, list[Any]] = {"top": [], "cosines": [], "levels": [], "scatter": []}
    for t, target in enumerate(names):
        directions = {"read": dense.coef[:, t], "write": dense.write[:, t]}
        found = decoder_cosines(decoder, directions, chance)
        best = top_latents(
            held,
            problem,
            t,
            correlations[:, t],
            found.table,
            count=settings.top,
            classes=material.table.kind != "numeric",
        )
        label = {"sae": name, "target": target}
        out["top"].append(best.assign(**label))
        out["cosines"].append(found.table.assign(**label))
        out["levels"] += [{**label, "direction": kind, "level": v} for kind, v in found.levels.items()]
        if len(best):
            first = int(best["latent"].iloc[0])
            out["scatter"].append(scatter_rows(held, problem, t, first).assign(**label, latent=first))
    return out


def _explained(held: Latents, problem: Problem) -> float:
    """1 − |x − x̂|² / |x − x̄|² over the test rows."""
    index = problem.test
    lost = total = 0.0
    mean = held.inputs(index).mean(axis=0)
    for part in np.array_split(index, max(1, len(index) // 4096)):
        lost += float(np.square(held.error(part)).sum())
        total += float(np.square(held.inputs(part) - mean).sum())
    return 1 - lost / total if total > 0 else float("nan")


def _findings(
    findings: Findings, parts: list[_Part], settings: Settings, saes: Mapping[str, Any]
) -> LatentFindings:
    material = findings.material
    problem, table = material.problem, material.table
    arms = pd.DataFrame([line for p in parts for line in p.arms])
    most = arms[(arms["arm"] == LATENTS) & (arms["k"] == max(settings.ks))]
    chosen = str(most["sae"].iloc[int(most["validation"].to_numpy().argmax())])
    steps = [
        {"sae": p.sae["sae"], "order": i + 1, "latent": latent}
        for p in parts
        for i, latent in enumerate(p.selected)
    ]
    return LatentFindings(
        model=findings.model,
        table=findings.table,
        kind=findings.kind,
        target_names=findings.target_names,
        units=findings.units,
        ks=settings.ks,
        chosen_sae=chosen,
        saes=pd.DataFrame([p.sae for p in parts]),
        arms=arms,
        top=_joined([t for p in parts for t in p.top]),
        selected=pd.DataFrame(steps, columns=["sae", "order", "latent"]),
        cosines=_joined([c for p in parts for c in p.cosines]),
        levels=pd.DataFrame([line for p in parts for line in p.levels]),
        scatter=_joined([s for p in parts for s in p.scatter]),
        predictions=np.stack([test for p in parts for test in p.predictions]),
        y=problem.y[problem.test],
        source=problem.source[problem.test],
        clusters=problem.clusters[problem.test],
        provenance={
            "model": findings.model,
            "table": {"name": table.name, "digest": table.digest},
            "saes": saes,
            "seed": settings.seed,
            "settings": {
                "ks": settings.ks,
                "null": settings.null,
                "draws": settings.draws,
                "folds": settings.folds,
            },
            "versions": library_versions(),
        },
    )


def _joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"sae": [], "target": []})
