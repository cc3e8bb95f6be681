"""What a study is asked to do, what its steps work on, and the steps in their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from graticule.hooks.artifact import fingerprint, sha256
from graticule.hooks.capture_spec import CaptureSpec
from graticule.hooks.coders import load_sae, sae_folder
from graticule.hooks.identity import weight_digest
from graticule.hooks.kinds import FolderKind
from graticule.hooks.limits import check_limits
from graticule.hooks.messages import NotApplicable
from graticule.hooks.names import check_name
from graticule.hooks.saved import SavedResult
from graticule.probes.core.findings import Findings
from graticule.probes.tables.checks import need_column
from graticule.probes.tables.table import Table

Results = Mapping[str, SavedResult]

POPULARITY = ("page_views", "population")
"""Columns that are taken for popularity unless one is named."""


StepNames = str | Sequence[str]
"""Names of steps, one or several."""


@dataclass(frozen=True)
class Settings:
    """What a study does; the defaults fit a small model on two cores."""

    prompts: Mapping[str, str] = field(default_factory=dict[str, str])
    """Name → prompt or template to compare; by default the table's own (`probes.tables.prompts`)."""
    prompt_rows: int = 5000
    """Rows of the table for the comparison of prompts: every prompt is another capture."""
    blocks: tuple[str, ...] | None = None
    """Columns to hold out level by level; None takes the table's blocks."""
    popularity: str | None = None
    """Column with page views, population or the like; None takes `page_views` or `population`."""
    saes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Name → SAELens SAE, for the step on latents."""
    targets: int = 200
    """Synthetic targets of each kind in the calibration."""
    twins: int = 3
    """Untrained twins among the controls."""
    cause_rows: int = 40
    """Test rows on which the model is intervened upon."""
    cause_controls: int = 100
    """Matched control directions."""
    attribution_rows: int = 200
    """Test rows whose readings are taken apart."""
    paper_compat: bool = False
    """Also score as the paper's code does."""
    seed: int = 0
    """Of everything drawn."""

    def __post_init__(self) -> None:
        check_limits(
            prompt_rows=self.prompt_rows,
            synthetic_targets=self.targets,
            twins=self.twins,
            rows=self.cause_rows,
            controls=self.cause_controls,
            seed=self.seed,
        )
        check_limits(rows=self.attribution_rows)

    def check_names(self, table: Table) -> None:
        """Refuse names that no folder can have, and a popularity column that the table does not have.

        Raises:
            BadNameError: for a name that is to be a folder's and cannot be one.
            ColumnError: for a popularity column that is not there.
        """
        for what, names in (
            ("popularity column", () if self.popularity is None else (self.popularity,)),
            ("block column", tuple(table.blocks) if self.blocks is None else self.blocks),
            ("prompt", self.prompts),
            ("SAE", self.saes),
        ):
            for name in names:
                check_name(name, what)
        if self.popularity is not None:
            need_column(table.frame, self.popularity, "popularity")


def digest_of(sae: Any) -> str:
    """A digest of an SAE, given as an object or as the SAELens folder that holds it."""
    if isinstance(sae, str | Path):
        files = sorted(f for f in sae_folder(sae).iterdir() if f.suffix in (".json", ".safetensors"))
        return " ".join(sha256(f)[:16] for f in files)
    return weight_digest(sae)


def loaded(sae: Any) -> Any:
    """An SAE as an object; a folder, a run's too, is read by SAELens."""
    return load_sae(sae).sae if isinstance(sae, str | Path) else sae


@dataclass(frozen=True)
class Context:
    """The model, the table and its findings, and where things are written."""

    model: Any
    """A hooked model."""
    table: Table
    """The table as probed."""
    findings: Findings
    """Of the first step."""
    out: Path
    """The study's folder."""
    settings: Settings
    """What was asked for."""
    made: Mapping[str, Results] = field(default_factory=dict[str, Any])
    """Step → results so far, for steps that go on from others."""
    progress: bool | None = None
    """Progress bars; None decides by size."""

    @property
    def options(self) -> dict[str, Any]:
        """`seed` and `progress`, as most analyses take them."""
        return {"seed": self.settings.seed, "progress": self.progress}

    def captures(self, step: str) -> Path:
        """Where a step keeps activations of its own."""
        return self.out / step / "captures"


@dataclass(frozen=True)
class StudyStep:
    """One part of a study: a page of its own."""

    name: str
    """For `--only` and `--skip`."""
    title: str
    """What it answers, as a heading."""
    run: Callable[[Context], Results]
    """Results by name, in page order; raises `NotApplicable` where there is nothing to do."""
    uses: tuple[str, ...] = ()
    """Settings that it depends on; with the findings they make its fingerprint."""
    skips: Callable[[Context], Mapping[str, str]] | None = None
    """Of a step with one result per column: the columns that it does not apply to, and why."""

    def fingerprint(self, context: Context) -> str:
        """What a result must have been made from to be taken for this step's."""
        settings = {name: getattr(context.settings, name) for name in (*self.uses, "seed")}
        if "saes" in settings:
            settings["saes"] = {name: digest_of(sae) for name, sae in context.settings.saes.items()}
        findings = context.findings.provenance.get("fingerprint")
        return fingerprint({"step": self.name, "findings": findings, **settings})


# The steps ---------------------------------------------------------------------------------------------
def _calibrate(context: Context) -> Results:
    from graticule.probes.calibration.calibrate import calibrate

    calibration = calibrate(context.findings, targets=context.settings.targets, **context.options)
    return {"calibration": calibration}


def _controls(context: Context) -> Results:
    from graticule.probes.controls.controls import controls

    store, seeds = context.captures("controls"), context.settings.twins
    return {
        "controls": controls(context.findings, context.model, seeds=seeds, store=store, **context.options)
    }


def _layers(context: Context) -> Results:
    from graticule.probes.layer_band import layer_band

    return {"band": layer_band(context.findings)}


def _mlp(context: Context) -> Results:
    from graticule.probes.beyond.mlp import mlp

    return {"mlp": mlp(context.findings, progress=context.progress)}


def _pca(context: Context) -> Results:
    from graticule.probes.beyond.pca import pca

    return {"pca": pca(context.findings)}


def _classes(context: Context) -> Results:
    from graticule.probes.beyond.classes import classes

    if context.table.kind == "numeric":
        raise NotApplicable("the target is a number; k-sparse and logistic probes are for classes")
    return {"classes": classes(context.findings, progress=context.progress)}


def _sphere(context: Context) -> Results:
    from graticule.probes.beyond.sphere import sphere

    if not context.table.has_coordinates:
        raise NotApplicable("the target is not a latitude and a longitude")
    return {"sphere": sphere(context.findings)}


def _columns(context: Context) -> tuple[str, ...]:
    """The columns to hold out level by level."""
    named = context.settings.blocks
    return tuple(context.table.blocks) if named is None else named


def _holdouts(context: Context) -> Results:
    from graticule.probes.generalisation.holdouts import holdouts

    columns, skipped = _columns(context), _no_holdouts(context)
    if not columns:
        raise NotApplicable("the table names no blocks; give some with --block-column")
    if len(skipped) == len(set(columns)):
        raise NotApplicable("; ".join(f"{column}: {why}" for column, why in skipped.items()))
    note = "".join(f"; no hold-outs of {column}: {why}" for column, why in skipped.items())
    results: dict[str, SavedResult] = {}
    for column in columns:
        if column not in skipped:
            one = holdouts(context.findings, column, **context.options)
            results[column] = replace(one, note=one.note + note)
    return results


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


def _prompts(context: Context) -> Results:
    from graticule.probes.generalisation.prompts import prompts
    from graticule.probes.generalisation.transfer import transfer

    settings = context.settings
    if context.table.texts is None:
        raise NotApplicable("the table has no texts")
    table = context.table.head(settings.prompt_rows, settings.seed)
    main = CaptureSpec.from_json(context.findings.provenance["activations"])
    options: dict[str, Any] = {"prepend_bos": main.prepend_bos, "include_bos": main.include_bos}
    options |= context.options
    made = prompts(context.model, table, settings.prompts or None, out=context.captures("prompts"), **options)
    return {"prompts": made, "transfer": transfer(made.findings)}


def _popularity(context: Context) -> Results:
    from graticule.probes.generalisation.popularity import popularity

    frame = context.table.frame
    numbers = (c for c in POPULARITY if c in frame and pd.api.types.is_numeric_dtype(frame[c]))
    column = context.settings.popularity or next(numbers, None)
    if column is None:
        raise NotApplicable("no popularity column; name one with --popularity-column")
    return {column: popularity(context.findings, column)}


def _latents(context: Context) -> Results:
    from graticule.probes.latents.latents import latents

    if not context.settings.saes:
        raise NotApplicable("no SAE; name a SAELens folder with --sae")
    saes = {name: loaded(sae) for name, sae in context.settings.saes.items()}
    return {"latents": latents(context.findings, saes, **context.options)}


def _neurons(context: Context) -> Results:
    from graticule.probes.neurons.neurons import neurons

    store = context.captures("neurons")
    return {"neurons": neurons(context.findings, context.model, store=store, **context.options)}


def _attribution(context: Context) -> Results:
    from graticule.probes.attribution.attribute import attribute
    from graticule.probes.attribution.trace import trace

    texts, options = context.table.texts or [""], {"rows": context.settings.attribution_rows}
    results: dict[str, SavedResult] = {
        unit: attribute(context.findings, context.model, unit=unit, **options, **context.options)
        for unit in ("component", "head")
    }
    return {**results, "trace": trace(context.findings, context.model, max(texts[:200], key=len))}


def _directions(context: Context) -> Results:
    from graticule.probes.directions.directions import directions

    return {"directions": directions(context.findings, model=context.model)}


def _erase(context: Context) -> Results:
    from graticule.probes.causes.erase import erase

    return {"erasure": erase(context.findings, context.model, progress=context.progress)}


def _causes(context: Context) -> Results:
    from graticule.probes.causes.causes import causes

    rows, controls = context.settings.cause_rows, context.settings.cause_controls
    made = causes(context.findings, context.model, rows=rows, controls=controls, **context.options)
    return {"causes": made}


def _compat(context: Context) -> Results:
    from graticule.probes.papers.compat import score_paper_compat

    if not context.settings.paper_compat:
        raise NotApplicable("scoring as the paper's code does is off; turn it on with --paper-compat")
    return {"paper_compat": score_paper_compat(context.findings.at())}


STEPS: tuple[StudyStep, ...] = (
    StudyStep("calibrate", "the smallest detectable gain", _calibrate, ("targets",)),
    StudyStep("controls", "how well control features score", _controls, ("twins",)),
    StudyStep("layers", "which layers differ", _layers),
    StudyStep("mlp", "does a nonlinear probe read more", _mlp),
    StudyStep("pca", "how many dimensions hold it", _pca),
    StudyStep("classes", "few neurons, or calibrated classes", _classes),
    StudyStep("sphere", "on the globe, without the wrap of longitude", _sphere),
    StudyStep(
        "holdouts", "does it hold for places and times never seen", _holdouts, ("blocks",), _no_holdouts
    ),
    StudyStep("prompts", "what the prompt does", _prompts, ("prompts", "prompt_rows")),
    StudyStep("popularity", "is it known for the famous only", _popularity, ("popularity",)),
    StudyStep("latents", "in which SAE latents", _latents, ("saes",)),
    StudyStep("neurons", "in which neurons", _neurons),
    StudyStep("attribution", "who writes it", _attribution, ("attribution_rows",)),
    StudyStep("directions", "how its directions lie", _directions),
    StudyStep("erase", "is it gone when erased", _erase),
    StudyStep("causes", "does the model use it", _causes, ("cause_rows", "cause_controls")),
    StudyStep("compat", "the paper's own scoring", _compat, ("paper_compat",)),
)
"""All steps, in the order they run."""

STUDY = FolderKind(
    "study", "study", "study.json", ("probe", "pages", "report.html", *(step.name for step in STEPS))
)
"""The folder of a study, a folder per step."""
