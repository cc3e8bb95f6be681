"""Capture, baselines and sweep in one call, with every step kept on disk where a folder is given."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from graticule.hooks.artifact import (
    ArtifactError,
    fingerprint,
    frame_digest,
    json_ready,
)
from graticule.hooks.calls import renamed
from graticule.hooks.capture import capture
from graticule.hooks.capture_spec import CaptureSpec, Pos, check_pos, pos_to_data
from graticule.hooks.doors import MODEL, TABLE, door
from graticule.hooks.identity import check_unhooked, model_identity
from graticule.hooks.kinds import ForeignFolderError, differences, listing, working_folder
from graticule.hooks.names import inside
from graticule.hooks.points import LayerSpec, PointSpec, resolve
from graticule.hooks.protocols import HookedModel
from graticule.hooks.replacing import recover
from graticule.hooks.rows import Rows
from graticule.hooks.store import Store, damage_of
from graticule.hooks.tokens import tokenize
from graticule.hooks.values import dtype_name, dtype_named
from graticule.probes.core.findings import FINDINGS, Findings
from graticule.probes.core.sweep import sweep
from graticule.probes.core.verdict import R2_GAIN, Score
from graticule.probes.surface.baselines import Baselines, baselines
from graticule.probes.tables.table import Table
from graticule.probes.tables.tokens import places_of

_log = logging.getLogger(__name__)


@renamed(draws="n_bootstrap")
@door(model=MODEL, table=TABLE)
def probe(
    model: HookedModel,
    table: Table,
    *,
    points: PointSpec = "resid_post",
    layers: LayerSpec = "all",
    pos: Pos = "last",
    prompt: str = "",
    dtype: torch.dtype | str | None = None,
    prepend_bos: bool | None = None,
    include_bos: bool | None = None,
    twins: int = 1,
    twin: Literal["permuted", "fresh"] = "permuted",
    score: Score | None = None,
    min_gain: float | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
    crossfit: bool | None = None,
    out: Path | str | None = None,
    progress: bool | None = None,
) -> Findings:
    """Does `model` know the target of `table`, beyond what the strings tell, and where?

    The three steps, `capture`, `baselines` and `sweep`, with one set of points, positions and prompt, and of
    special tokens.

    With `out`, activations and baselines are stores in `out/activations` and `out/baselines`, and the
    findings are saved in `out`. Called again, a step whose artefact is complete and was made from the same
    model, table and settings is not run again; a killed run goes on where it was. Findings that ask something
    else (another table, target, prompt, or a seed that other twins are made by) are never replaced; the same
    ones judged by other settings are.

    Args:
        model: what reads.
        table: texts and their target.
        points: hook points, as in `graticule.hooks.points.resolve`.
        layers: of `points` that name no layer.
        pos: which tokens become rows.
        prompt: text before every input, or a template with one slot `{}`.
        dtype: of the activations, as for `graticule.capture`.
        prepend_bos: whether rows get special tokens.
        include_bos: whether these may be rows.
        twins: untrained twins, 0 to leave them out.
        twin: How untrained twins are made: `"permuted"` shuffles the entries of every weight of the model, so
            that their distribution stays and what was learned is lost; `"fresh"` draws new weights.
        score: what the gain is measured in: by default bits a row for yes-or-no and categories, R² for
            numbers.
        min_gain: the smallest gain called structure; by default .01 of R², or a hundredth of the entropy of
            the training labels.
        n_bootstrap: How often clusters are resampled by what goes on from here; the gain needs no resamples.
        seed: The seed of twins and resamples.
        crossfit: whether every row is tested, as `sweep` takes it.
        out: the folder of the findings and of what they are made from.
        progress: whether a bar is drawn; by default where it takes long.

    Raises:
        FileExistsError: `out` holds something else, or another process writes there.
        ValueError: The table has no texts; and whatever the three steps raise.
    """
    if table.inputs is None:
        raise ValueError(
            f"table {table.name!r} has no texts; give text= when making it, or sweep activations"
        )
    check_pos(pos)
    pos = places_of(table, pos)
    stored_as = dtype_named(dtype, auto=True)
    spec = CaptureSpec(
        model=model_identity(model),
        prompt=prompt,
        positions=pos_to_data(pos),
        points=resolve(model, points, layers),
        dtype=None if stored_as is None else dtype_name(stored_as),
        prepend_bos=prepend_bos,
        include_bos=include_bos,
    )
    judging: dict[str, Any] = {"twins": twins, "twin": twin, "draws": n_bootstrap, "seed": seed}
    judging |= judged_in(table.kind, score, min_gain)
    if table.split_is_drawn or crossfit is not None:
        judging["crossfit"] = crossfit
    if out is None:
        return _probe(model, table, None, spec, judging, progress)
    with working_folder(out, FINDINGS, "probing into") as folder:
        return _probe(model, table, folder, spec, judging, progress)


def _probe(
    model: HookedModel,
    table: Table,
    folder: Path | None,
    spec: CaptureSpec,
    judging: Mapping[str, Any],
    progress: bool | None,
) -> Findings:
    texts = table.inputs or ()  # there are some: checked at the door
    if folder is not None:
        check_unhooked(model, folder)
        rows = tokenize(model, list(texts), spec.prompt or "", spec.prepend_bos)
        spec = replace(spec, inputs=rows.digest())  # an edited tokenizer shows
    asked = {**spec.to_json(), "table": table.digest, **asked_of(table)}
    made_from = {**asked, **judging, "twin": repr(judging["twin"])}
    saved = None if folder is None else findings_of(folder, made_from)
    if folder is not None and saved is not None:
        whole = _with_material(saved, table, folder, judging["twins"])
        if whole is not None:
            return whole
    _log.info("capturing %d texts at %d points", len(texts), len(spec.points))
    place: dict[str, Any] = {} if folder is None else {"store": folder / "activations"}
    acts: Rows = capture(model, texts, **spec.arguments(progress=progress), **place)
    beside = baselines(
        model,
        table,
        twins=judging["twins"],
        twin=judging["twin"],
        seed=judging["seed"],
        store=None if folder is None else folder / "baselines",
        **spec.arguments(progress=progress),
    )
    if saved is not None:  # what lies beside them was damaged, and is whole again
        return saved.with_inputs(acts, table, beside)
    verdict = {"n_bootstrap": judging["draws"], "seed": judging["seed"], "min_gain": judging["min_gain"]}
    verdict["score"], verdict["crossfit"] = judging.get("score"), judging.get("crossfit")
    findings = sweep(acts, table, baselines=beside, **verdict, progress=progress)
    findings = replace(findings, provenance={**findings.provenance, **marked(made_from)})
    if folder is not None:
        findings.save(folder, overwrite=True)  # what lay there was compared by `findings_of`
    return findings


def _with_material(findings: Findings, table: Table, folder: Path, twins: int) -> Findings | None:
    """Finished findings with what lies beside them; None, and a warning, where that is damaged."""
    names = (
        "mean_embedding",
        "last_embedding",
        "token_embedding",
        "block_0",
        *(f"twin_{i}" for i in range(twins)),
    )
    stores = [folder / "activations", *(inside(folder / "baselines", name) for name in names)]
    damaged = [reason for store in stores if store.is_dir() and (reason := damage_of(store))]
    if not damaged:
        try:
            beside = Baselines.load(folder / "baselines")
            if beside.provenance.get("model") != findings.provenance["baselines"].get("model"):
                raise ArtifactError(f"{folder / 'baselines'} tells of another model than the findings do")
            return findings.with_inputs(Store(folder / "activations"), table, beside)
        except ValueError as error:  # the fingerprint says that all of it was made together
            damaged = [str(error)]
    for reason in damaged:
        _log.warning("%s holds finished findings; captured again beside them: %s", folder, reason)
    return None


JUDGING = ("score", "min_gain", "draws", "seed", "twins", "twin", "alphas", "crossfit")
"""Settings by which the same question may be judged anew in the same folder."""
_OF_TWINS = ("seed", "twin")
"""Those of which twins are made: where there are any in the folder, others would be needed."""


def judged_in(kind: str, score: Score | None, min_gain: float | None) -> dict[str, Any]:
    """What the gain is measured in and must be, as a request says it: numbers as they always were."""
    if kind == "numeric":
        return {"min_gain": R2_GAIN if min_gain is None else min_gain, **({"score": score} if score else {})}
    return {"score": score or "bits", "min_gain": min_gain}


def asked_of(table: Table) -> dict[str, Any]:
    """What findings are of besides the rows that a table's digest holds: names, units, every column."""
    return {
        "targets": table.target_names,
        "units": table.units,
        "classes": table.classes,
        "columns": {str(name): frame_digest(table.frame[[name]]) for name in table.frame},
        **({"confounds": tuple(table.confounds)} if table.confounds else {}),
    }


def _as_data(before: Mapping[str, Any], made_from: Mapping[str, Any]) -> dict[str, Any]:
    """A saved request as data: 0.1 wrote some of its values as Python does, so that they are compared as
    `made_from` would have been written."""
    dtype = str(before.get("dtype", ""))
    if not dtype.startswith(("None", "'", "torch.")):
        return dict(before)
    request = {**before, "dtype": dtype.strip("'").removeprefix("torch.")}
    if request["dtype"] in ("None", "auto"):
        del request["dtype"]
    if "pos" in before:
        request["pos"] = CaptureSpec.from_json(before).positions
    worded = [name for name in ("prompt", "alphas") if before.get(name) == repr(made_from.get(name))]
    return request | {name: made_from[name] for name in worded}


def marked(made_from: Mapping[str, Any]) -> dict[str, Any]:
    """What findings say of what they were made from, for `findings_of`."""
    return {"fingerprint": fingerprint(made_from), "request": json_ready(made_from)}


def findings_of(folder: Path, made_from: Mapping[str, Any]) -> Findings | None:
    """Whole findings that `folder` holds of the very same run, if there are any.

    Findings that ask the same and are judged otherwise, or were made by another version, count as none; this
    is told.

    Raises:
        ForeignFolderError: For findings that ask something else.
    """
    if not (folder / "findings.json").exists():
        recover(folder)
    if not (folder / "findings.json").exists():
        return None
    try:
        findings, whole = Findings.load_with_seal(folder)
    except ArtifactError as error:
        _log.warning("findings in %s are made again: %s", folder, error)
        return None
    made, request = findings.provenance.get("fingerprint"), findings.provenance.get("request")
    before = None if request is None else _as_data(request, made_from)
    same = made == fingerprint(made_from) or (
        request is not None and made == fingerprint(request) and before == json_ready(made_from)
    )
    if same and not whole:
        _log.warning("findings in %s are made again: their findings.json is not as it was written", folder)
        return None
    if same:
        _log.info("%s holds these very findings; nothing is run again", folder)
        return findings
    if before is None:
        _log.warning("findings in %s are made again: whether they ask the same cannot be told", folder)
        return None
    differing = differences(before, made_from)
    judging = [name for name in JUDGING if not (name in _OF_TWINS and before.get("twins"))]
    if others := [d for d in differing if d.split(":")[0] not in judging]:
        raise ForeignFolderError(
            f"{folder} holds findings that ask something else ({listing(others)}); choose another folder, or "
            "remove it"
        )
    why = listing(differing) or "another version made them"
    _log.warning("findings in %s are made again: %s", folder, why)
    return None
