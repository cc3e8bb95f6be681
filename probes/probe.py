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
    is_as_sealed,
    json_ready,
    read_json,
)
from graticule.hooks.capture import capture
from graticule.hooks.doors import MODEL, TABLE, door
from graticule.hooks.identity import check_unhooked, model_identity
from graticule.hooks.kinds import ForeignFolderError, working_folder
from graticule.hooks.mending import damage_of
from graticule.hooks.names import inside
from graticule.hooks.points import LayerSpec, PointSpec, resolve
from graticule.hooks.positions import Pos
from graticule.hooks.protocols import HookedModel
from graticule.hooks.replacing import recover
from graticule.hooks.requests import differences, told
from graticule.hooks.store import Store
from graticule.hooks.tokens import tokenize
from graticule.probes.core.findings import FINDINGS, Findings
from graticule.probes.core.sweep import sweep
from graticule.probes.surface.baselines import Baselines, baselines
from graticule.probes.tables.table import Table

_log = logging.getLogger(__name__)


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
    min_gain: float = 0.01,
    draws: int = 2000,
    seed: int = 0,
    out: Path | str | None = None,
    progress: bool | None = None,
) -> Findings:
    """Does `model` know the target of `table`, beyond what the strings tell, and where?

    The three steps, `capture`, `baselines` and `sweep`, with one set of points, positions and prompt, and of
    special tokens: `prepend_bos` says whether rows get any, `include_bos` whether these may be rows.

    With `out`, activations and baselines are stores in `out/activations` and `out/baselines`, and the
    findings are saved in `out`. Called again, a step whose artefact is complete and was made from the same
    model, table and settings is not run again; a killed run goes on where it was. Findings that ask something
    else (another table, target, prompt, or a seed that other twins are made by) are never replaced; the same
    ones judged by other settings are.

    **Raises** `FileExistsError` if `out` holds something else or another process writes there, `ValueError`
    if the table has no texts, and whatever the three steps raise.
    """
    if table.texts is None:
        raise ValueError(
            f"table {table.name!r} has no texts; give text= when making it, or sweep activations"
        )
    settings: dict[str, Any] = {
        "points": points,
        "layers": layers,
        "pos": pos,
        "prompt": prompt,
        "dtype": dtype,
        "prepend_bos": prepend_bos,
        "include_bos": include_bos,
        "progress": progress,
    }
    if out is None:
        return _probe(model, table, None, settings, twins, twin, min_gain, draws, seed)
    with working_folder(out, FINDINGS, "probing into") as folder:
        return _probe(model, table, folder, settings, twins, twin, min_gain, draws, seed)


def _probe(
    model: HookedModel,
    table: Table,
    folder: Path | None,
    settings: Mapping[str, Any],
    twins: int,
    twin: Literal["permuted", "fresh"],
    min_gain: float,
    draws: int,
    seed: int,
) -> Findings:
    names = resolve(model, settings["points"], settings["layers"])
    made_from = {
        "model": model_identity(model),
        "table": table.digest,
        **asked_of(table),
        "points": names,
        **{k: repr(settings[k]) for k in ("pos", "prompt", "dtype")},
        **{k: settings[k] for k in ("prepend_bos", "include_bos") if settings[k] is not None},
        "twin": repr(twin),
        "twins": twins,
        "min_gain": min_gain,
        "draws": draws,
        "seed": seed,
    }
    if folder is not None:
        check_unhooked(model, folder)
        made_from["inputs"] = inputs_of(model, table, settings)
    found = None if folder is None else findings_of(folder, made_from)
    if folder is not None and found is not None and (whole := _with_material(found, table, folder, twins)):
        return whole
    _log.info("capturing %d texts at %d points", len(table), len(names))
    texts = table.texts or ()  # there are some: checked at the door
    acts = capture(model, texts, store=folder / "activations", **settings) if folder else None
    acts = acts if acts is not None else capture(model, texts, **settings)
    beside = baselines(
        model,
        table,
        twins,
        twin=twin,
        seed=seed,
        store=None if folder is None else folder / "baselines",
        **settings,
    )
    if found is not None:  # what lies beside them was damaged, and is whole again
        return found.with_inputs(acts, table, beside)
    findings = sweep(acts, table, beside, min_gain=min_gain, draws=draws, seed=seed,
                     progress=settings["progress"])  # fmt: skip
    findings = replace(findings, provenance={**findings.provenance, **marked(made_from)})
    if folder is not None:
        findings.save(folder, overwrite=True)  # what lay there was compared by `findings_of`
    return findings


def _with_material(found: Findings, table: Table, folder: Path, twins: int) -> Findings | None:
    """Finished findings with what lies beside them; None, and a warning, where that is damaged."""
    names = ("mean_embedding", "last_embedding", "block_0", *(f"twin_{i}" for i in range(twins)))
    stores = [folder / "activations", *(inside(folder / "baselines", name) for name in names)]
    damaged = [told for store in stores if store.is_dir() and (told := damage_of(store))]
    if not damaged:
        try:
            beside = Baselines.load(folder / "baselines")
            if beside.provenance.get("model") != found.provenance["baselines"].get("model"):
                raise ArtifactError(f"{folder / 'baselines'} tells of another model than the findings do")
            return found.with_inputs(Store(folder / "activations"), table, beside)
        except ValueError as error:  # the fingerprint says that all of it was made together
            damaged = [str(error)]
    for told in damaged:
        _log.warning("%s holds finished findings; captured again beside them: %s", folder, told)
    return None


JUDGING = ("min_gain", "draws", "seed", "twins", "twin", "alphas")
"""Settings by which the same question may be judged anew in the same folder."""
_OF_TWINS = ("seed", "twin")
"""Those of which twins are made: where there are any in the folder, others would be needed."""


def asked_of(table: Table) -> dict[str, Any]:
    """What findings are of besides the rows that a table's digest holds: names, units, every column."""
    return {
        "targets": table.target_names,
        "units": table.units,
        "classes": table.classes,
        "columns": {str(name): frame_digest(table.frame[[name]]) for name in table.frame},
    }


def inputs_of(model: HookedModel, table: Table, settings: Mapping[str, Any]) -> str:
    """A digest of the token rows that `capture` makes of the table's texts: an edited tokenizer shows."""
    return tokenize(model, list(table.texts or ()), settings["prompt"], settings["prepend_bos"]).digest()


def marked(made_from: Mapping[str, Any]) -> dict[str, Any]:
    """What findings say of what they were made from, for `findings_of`."""
    return {"fingerprint": fingerprint(made_from), "request": json_ready(made_from)}


def findings_of(folder: Path, made_from: Mapping[str, Any]) -> Findings | None:
    """Whole findings that `folder` holds of the very same run, if there are any.

    Findings that ask the same and are judged otherwise, or were made by another version, count as none; this
    is told.

    **Raises** `ForeignFolderError` for findings that ask something else.
    """
    if not (folder / "findings.json").exists():
        recover(folder)
    if not (folder / "findings.json").exists():
        return None
    try:
        found = Findings.load(folder)
        whole = is_as_sealed(read_json(folder / "findings.json"))
    except ArtifactError as error:
        _log.warning("findings in %s are made again: %s", folder, error)
        return None
    if found.provenance.get("fingerprint") == fingerprint(made_from) and not whole:
        _log.warning("findings in %s are made again: their findings.json is not as it was written", folder)
        return None
    if found.provenance.get("fingerprint") == fingerprint(made_from):
        _log.info("%s holds these very findings; nothing is run again", folder)
        return found
    before = found.provenance.get("request")
    if before is None:
        _log.warning("findings in %s are made again: whether they ask the same cannot be told", folder)
        return None
    differing = differences(before, made_from)
    judging = [name for name in JUDGING if not (name in _OF_TWINS and before.get("twins"))]
    if others := [d for d in differing if d.split(":")[0] not in judging]:
        raise ForeignFolderError(
            f"{folder} holds findings that ask something else ({told(others)}); choose another folder, or "
            "remove it"
        )
    why = told(differing) or "another version made them"
    _log.warning("findings in %s are made again: %s", folder, why)
    return None
