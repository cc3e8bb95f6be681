"""Capture, baselines and sweep in one call, with every step kept on disk where a folder is given."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from graticule.hooks.artifact import ArtifactError, fingerprint
from graticule.hooks.capture import capture
from graticule.hooks.doors import MODEL, TABLE, door
from graticule.hooks.identity import model_identity
from graticule.hooks.points import LayerSpec, PointSpec, resolve
from graticule.hooks.positions import Pos
from graticule.hooks.protocols import HookedModel
from graticule.hooks.store import Store
from graticule.probes.findings import Findings
from graticule.probes.surface.baselines import Baselines, baselines
from graticule.probes.sweep import sweep
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
    twins: int = 1,
    twin: Literal["permuted", "fresh"] = "permuted",
    min_gain: float = 0.01,
    draws: int = 2000,
    seed: int = 0,
    out: Path | str | None = None,
    progress: bool | None = None,
) -> Findings:
    """Does `model` know the target of `table`, beyond what the strings tell, and where?

    The three steps, `capture`, `baselines` and `sweep`, with one set of points, positions and prompt.

    With `out`, activations and baselines are stores in `out/activations` and `out/baselines`, and the
    findings are saved in `out`. Called again, a step whose artefact is complete and was made from the same
    model, table and settings is not run again; a killed run goes on where it was.

    **Raises** `ValueError` if the table has no texts, and whatever the three steps raise.
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
        "progress": progress,
    }
    folder = None if out is None else Path(out)
    names = resolve(model, points, layers)
    made_from = {
        "model": model_identity(model),
        "table": table.digest,
        "points": names,
        **{k: repr(v) for k, v in (("pos", pos), ("prompt", prompt), ("dtype", dtype), ("twin", twin))},
        "twins": twins,
        "min_gain": min_gain,
        "draws": draws,
        "seed": seed,
    }
    mark = fingerprint(made_from)
    found = None if folder is None else findings_of(folder, mark)
    if folder is not None and found is not None:
        kept = Store(folder / "activations"), table, Baselines.load(folder / "baselines")
        return found.with_material(*kept)
    _log.info("capturing %d texts at %d points", len(table), len(names))
    acts = capture(model, table.texts, store=folder / "activations", **settings) if folder else None
    acts = acts if acts is not None else capture(model, table.texts, **settings)
    beside = baselines(
        model,
        table,
        twins,
        twin=twin,
        seed=seed,
        store=None if folder is None else folder / "baselines",
        **settings,
    )
    findings = sweep(acts, table, beside, min_gain=min_gain, draws=draws, seed=seed, progress=progress)
    findings = replace(findings, provenance={**findings.provenance, "fingerprint": mark})
    if folder is not None:
        findings.save(folder)
    return findings


def findings_of(folder: Path, mark: str) -> Findings | None:
    """Whole findings that `folder` holds of the very same run, by its fingerprint, if there are any."""
    if not (folder / "findings.json").exists():
        return None
    try:
        found = Findings.load(folder)
    except (ArtifactError, KeyError) as error:
        _log.info("findings in %s are made again: %s", folder, error)
        return None
    if found.provenance.get("fingerprint") != mark:
        return None
    _log.info("%s holds these very findings; nothing is run again", folder)
    return found
