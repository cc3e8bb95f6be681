"""The steps of a study in their order: each asks one question of the findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from graticule.hooks.capture_spec import CaptureSpec
from graticule.hooks.kinds import FolderKind
from graticule.hooks.messages import NotApplicable
from graticule.hooks.saved import SavedResult
from graticule.studies.context import Context, Step
from graticule.studies.settings import loaded

Made = Mapping[str, SavedResult]

POPULARITY = ("page_views", "population")
"""Columns that are taken for popularity unless one is named."""


def _calibrate(context: Context) -> Made:
    from graticule.probes.calibration.calibrate import calibrate

    settings = context.settings
    options: dict[str, Any] = {
        "targets": settings.targets,
        "seed": settings.seed,
        "progress": context.progress,
    }
    return {"calibration": calibrate(context.findings, **options)}


def _controls(context: Context) -> Made:
    from graticule.probes.controls.controls import controls

    settings = context.settings
    seeds, seed = settings.twins, settings.seed
    store = context.out / "controls" / "captures"
    shared: dict[str, Any] = {"store": store, "progress": context.progress}
    made = controls(context.findings, context.model, seeds=seeds, seed=seed, **shared)
    return {"controls": made}


def _layers(context: Context) -> Made:
    from graticule.probes.layer_band import layer_band

    return {"band": layer_band(context.findings)}


def _mlp(context: Context) -> Made:
    from graticule.probes.beyond.mlp import mlp

    return {"mlp": mlp(context.findings, progress=context.progress)}


def _pca(context: Context) -> Made:
    from graticule.probes.beyond.pca import pca

    return {"pca": pca(context.findings)}


def _classes(context: Context) -> Made:
    from graticule.probes.beyond.classes import classes

    if context.table.kind == "numeric":
        raise NotApplicable("the target is a number; k-sparse and logistic probes are for classes")
    return {"classes": classes(context.findings, progress=context.progress)}


def _sphere(context: Context) -> Made:
    from graticule.probes.beyond.sphere import sphere

    if not context.table.has_coordinates:
        raise NotApplicable("the target is not a latitude and a longitude")
    return {"sphere": sphere(context.findings)}


def _columns(context: Context) -> tuple[str, ...]:
    """The columns to hold out level by level."""
    named = context.settings.blocks
    return tuple(context.table.blocks) if named is None else named


def _holdouts(context: Context) -> Made:
    from graticule.probes.generalisation.holdouts import holdouts

    columns, skipped = _columns(context), _no_holdouts(context)
    if not columns:
        raise NotApplicable("the table names no blocks; give some with --block-column")
    if len(skipped) == len(set(columns)):
        raise NotApplicable("; ".join(f"{column}: {why}" for column, why in skipped.items()))
    note = "".join(f"; no hold-outs of {column}: {why}" for column, why in skipped.items())
    made: dict[str, SavedResult] = {}
    for column in columns:
        if column not in skipped:
            shared: dict[str, Any] = {"seed": context.settings.seed, "progress": context.progress}
            one = holdouts(context.findings, column, **shared)
            made[column] = replace(one, note=one.note + note)
    return made


def _no_holdouts(context: Context) -> dict[str, str]:
    """Column → why it cannot be held out level by level."""
    from graticule.probes.generalisation.holdouts import check_blocks

    skipped: dict[str, str] = {}
    for column in _columns(context):
        try:
            check_blocks(context.findings, column)
        except NotApplicable as reason:
            skipped[column] = str(reason)
    return skipped


def _prompts(context: Context) -> Made:
    from graticule.probes.generalisation.prompts import prompts
    from graticule.probes.generalisation.transfer import transfer

    settings = context.settings
    if context.table.texts is None:
        raise NotApplicable("the table has no texts")
    table = context.table.head(settings.prompt_rows, settings.seed)
    out = context.out / "prompts" / "captures"
    asked = settings.prompts or None
    main = CaptureSpec.from_json(context.findings.provenance["activations"])
    made = prompts(
        context.model,
        table,
        asked,
        prepend_bos=main.prepend_bos,
        include_bos=main.include_bos,
        seed=settings.seed,
        out=out,
        progress=context.progress,
    )
    return {"prompts": made, "transfer": transfer(made.findings)}


def _popularity(context: Context) -> Made:
    from graticule.probes.generalisation.popularity import popularity

    frame = context.table.frame
    numbers = (c for c in POPULARITY if c in frame and pd.api.types.is_numeric_dtype(frame[c]))
    column = context.settings.popularity or next(numbers, None)
    if column is None:
        raise NotApplicable("no popularity column; name one with --popularity-column")
    return {column: popularity(context.findings, column)}


def _latents(context: Context) -> Made:
    from graticule.probes.latents.latents import latents

    if not context.settings.saes:
        raise NotApplicable("no SAE; name a SAELens folder with --sae")
    saes = {name: loaded(sae) for name, sae in context.settings.saes.items()}
    seed = context.settings.seed
    return {"latents": latents(context.findings, saes, seed=seed, progress=context.progress)}


def _neurons(context: Context) -> Made:
    from graticule.probes.neurons.neurons import neurons

    shared: dict[str, Any] = {"seed": context.settings.seed, "progress": context.progress}
    store = context.out / "neurons" / "captures"
    return {"neurons": neurons(context.findings, context.model, store=store, **shared)}


def _attribution(context: Context) -> Made:
    from graticule.probes.attribution.attribute import attribute
    from graticule.probes.attribution.trace import trace

    settings, texts = context.settings, context.table.texts or [""]
    shared: dict[str, Any] = {
        "rows": settings.attribution_rows,
        "seed": settings.seed,
        "progress": context.progress,
    }
    found = {u: attribute(context.findings, context.model, unit=u, **shared) for u in ("component", "head")}
    return {**found, "trace": trace(context.findings, context.model, max(texts[:200], key=len))}


def _directions(context: Context) -> Made:
    from graticule.probes.directions.directions import directions

    return {"directions": directions(context.findings, model=context.model)}


def _erase(context: Context) -> Made:
    from graticule.probes.causes.erase import erase

    return {"erasure": erase(context.findings, context.model, progress=context.progress)}


def _causes(context: Context) -> Made:
    from graticule.probes.causes.causes import causes

    settings = context.settings
    rows, seed = settings.cause_rows, settings.seed
    made = causes(context.findings, context.model, rows=rows, controls=settings.cause_controls, seed=seed,
                  progress=context.progress)  # fmt: skip
    return {"causes": made}


def _compat(context: Context) -> Made:
    from graticule.probes.papers.compat import score_paper_compat

    if not context.settings.paper_compat:
        raise NotApplicable("scoring as the paper's code does is off; turn it on with --paper-compat")
    return {"paper_compat": score_paper_compat(context.findings.at())}


STEPS: tuple[Step, ...] = (
    Step("calibrate", "how small a gain would have been seen", _calibrate, ("targets",)),
    Step("controls", "what other things in the probe's place reach", _controls, ("twins",)),
    Step("layers", "which layers differ", _layers),
    Step("mlp", "does a nonlinear probe read more", _mlp),
    Step("pca", "how many dimensions hold it", _pca),
    Step("classes", "few neurons, or calibrated classes", _classes),
    Step("sphere", "on the globe, without the wrap of longitude", _sphere),
    Step("holdouts", "does it hold for places and times never seen", _holdouts, ("blocks",), _no_holdouts),
    Step("prompts", "what the prompt does", _prompts, ("prompts", "prompt_rows")),
    Step("popularity", "is it known for the famous only", _popularity, ("popularity",)),
    Step("latents", "in which SAE latents", _latents, ("saes",)),
    Step("neurons", "in which neurons", _neurons),
    Step("attribution", "who writes it", _attribution, ("attribution_rows",)),
    Step("directions", "how its directions lie", _directions),
    Step("erase", "is it gone when erased", _erase),
    Step("causes", "does the model use it", _causes, ("cause_rows", "cause_controls")),
    Step("compat", "the paper's own scoring", _compat, ("paper_compat",)),
)
"""All steps, in the order they run."""

STUDY = FolderKind(
    "study", "study", "study.json", ("probe", "pages", "report.html", *(step.name for step in STEPS))
)
"""The folder of a study, a folder a step."""
