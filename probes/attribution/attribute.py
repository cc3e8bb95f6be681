"""`attribute`: a probe's reading as an exact sum over what was written into the residual stream upstream."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int, Shaped

from graticule.hooks.alignment import by_place
from graticule.hooks.artifact import library_versions
from graticule.hooks.doors import FINDINGS_OR_PROBE, MODEL, door
from graticule.hooks.identity import model_identity
from graticule.hooks.positions import Pos, plain
from graticule.hooks.protocols import HookedModel, dtype_of
from graticule.probes.applicable import NotApplicable
from graticule.probes.attribution.again import (
    Asked,
    Unit,
    asked,
    columns,
    drawn,
    probe_of,
    table_rows,
)
from graticule.probes.attribution.intervals import means_and_shares, shares_of
from graticule.probes.attribution.result import Attribution
from graticule.probes.attribution.running import Apart, Reading, take_apart, top_neurons
from graticule.probes.estimators.ridge import RidgeProbe
from graticule.probes.findings import Findings

_log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest gap between the terms' sum and the reading, in standard deviations of the reading."""


class DecompositionError(ValueError):
    """The terms do not sum to the reading: something is written that is not accounted for."""


@door(model=MODEL, findings=FINDINGS_OR_PROBE)
def attribute(
    model: HookedModel,
    findings: Findings | RidgeProbe,
    texts: str | Sequence[str] | None = None,
    unit: Unit = "component",
    *,
    target: str | int | None = None,
    point: str | None = None,
    pos: Pos | None = None,
    prompt: str | None = None,
    clusters: Shaped[np.ndarray, " text"] | Sequence[int] | None = None,
    rows: int | None = 500,
    top: int = 40,
    draws: int = 1000,
    seed: int = 0,
    progress: bool | None = None,
) -> Attribution:
    """Take the probe's reading `x · w + b` apart into what every upstream part of the model wrote.

    The residual stream is a sum (TransformerLens's residual decomposition), and the probe is linear: the
    reading is the sum of the readings of the embedding, of every attention and MLP output, and the intercept.
    Nothing is frozen or approximated. With norms between sublayer and stream (Gemma 2 and 3), heads and
    neurons are divided by the norm's scale in that very pass. Terms must sum to the reading to 1e-4 of its
    standard deviation; the gap is part of the result.

    **Arguments:**

    - `findings`: a sweep's findings, or a fitted `RidgeProbe` with a `hook_name`.
    - `texts`: what to read; by default test rows of the findings' table.
    - `unit`: `"component"` (attention and MLP of every layer), `"head"`, or `"neuron"`: the `top` neurons,
      chosen on training rows (on `texts` themselves where there are none), and the others of each layer.
    - `target`: one target; all by default. `point`: another point of the findings than the chosen one.
    - `pos`, `prompt`: as the findings were captured, unless given.
    - `clusters`: of `texts`, one a text; resampled together. Every text is its own by default.
    - `rows`: at most so many table rows, whole clusters drawn with `seed`; None is all.
    - `draws`: of the cluster bootstrap.

    **Raises** `DecompositionError` where the terms do not sum to the reading in a float32 or float64 model
    (in half precision the gap is logged), `ValueError` for points outside the residual stream, missing
    weights, or a probe without texts.
    """
    if unit not in get_args(Unit):
        raise ValueError(f"unit={unit!r}: expected 'component', 'head' or 'neuron'")
    probe, name = probe_of(findings, point)
    picked = columns(probe, target)
    reading = Reading(name, probe.coef[:, picked], probe.intercept[picked])
    of = findings if isinstance(findings, Findings) else None
    how = asked(of, prompt, pos)
    read, text_clusters, truth = _inputs(of, texts, clusters, rows, seed)
    known = _reference(of, rows, seed)
    chosen: dict[int, Int[np.ndarray, " neuron"]] | None = None
    if unit == "neuron":
        chosen = top_neurons(model, known or read, how, reading, top, progress)
    apart = take_apart(model, read, how, reading, unit, chosen, progress)
    gap = _check(model, apart, probe.weights.y_scale[picked])
    reference = None
    if texts is not None and known:
        reference = take_apart(model, known, how, reading, unit, chosen, progress).values.mean(axis=0)
    names = tuple(probe.target_names[i] for i in picked)
    units = tuple((probe.units or (None,) * len(probe.target_names))[i] for i in picked)
    y = None if truth is None else truth[apart.source][:, picked]
    identity = model_identity(model)
    return Attribution(
        model=str(identity["name"]),
        table=None if of is None or texts is not None else of.table,
        point=name,
        unit=unit,
        target_names=names,
        units=units,
        terms=_frame(apart, names, text_clusters, y, reference, draws, seed),
        rows=_rows_frame(apart, names, read, y),
        values=apart.values.astype(np.float32),
        intercept=tuple(float(b) for b in reading.intercept),
        gap=gap,
        n_rows=len(apart.reading),
        n_clusters=len(np.unique(text_clusters[apart.source])),
        provenance=_provenance(of, identity, how, rows, top, draws, seed, bool(known)),
    )


def _inputs(
    findings: Findings | None,
    texts: str | Sequence[str] | None,
    clusters: Any,
    rows: int | None,
    seed: int,
) -> tuple[list[str], Int[np.ndarray, " text"], Float[np.ndarray, "text target"] | None]:
    """Texts, their clusters, and the truth where it is known."""
    if texts is not None:
        given = [texts] if isinstance(texts, str) else list(texts)
        codes = np.arange(len(given)) if clusters is None else by_place("clusters", clusters, "texts")
        if len(codes) != len(given):
            raise ValueError(f"{len(codes)} clusters for {len(given)} texts; give one a text")
        return given, np.unique(codes, return_inverse=True)[1].reshape(-1).astype(np.int64), None
    if findings is None:
        raise ValueError("a probe alone has no table: pass texts=, or findings with their material")
    table, known = findings.material.table, table_rows(findings)
    if table.texts is None:
        raise NotApplicable(f"{table.name} has no texts to run the model on: pass texts=")
    index = drawn(known.test, known.clusters, rows, seed)
    return [table.texts[i] for i in index], known.clusters[index], known.y[index]


def _reference(findings: Findings | None, rows: int | None, seed: int) -> list[str]:
    """Training rows to choose neurons on and to compare single texts with; none without a table."""
    if findings is None or findings.made_of is None or findings.made_of.table.texts is None:
        return []
    known, texts = table_rows(findings), findings.made_of.table.texts
    return [texts[i] for i in drawn(known.train, known.clusters, rows, seed)]


def _check(model: HookedModel, apart: Apart, y_scale: Float[np.ndarray, " target"]) -> float:
    """The largest gap in standard deviations of the reading (of the target, for fewer than ten rows)."""
    spread = apart.reading.std(axis=0) if len(apart.reading) >= 10 else y_scale
    gap = float((np.abs(apart.gap).max(axis=0) / np.where(spread > 0, spread, y_scale)).max())
    if gap <= TOLERANCE:
        return gap
    words = f"the terms miss the reading by {gap:.1e} of its standard deviation (at most {TOLERANCE:.0e})"
    if dtype_of(model) in (torch.float16, torch.bfloat16):
        _log.warning("%s: the stream itself is summed in half precision; load it in float32", words)
        return gap
    raise DecompositionError(
        f"{words}: something else writes into the residual stream (an SAE or a hook that edits it?), or a "
        "norm between sublayer and stream is not accounted for"
    )


def _frame(
    apart: Apart,
    names: tuple[str, ...],
    clusters: Int[np.ndarray, " text"],
    y: Float[np.ndarray, "row target"] | None,
    reference: Float[np.ndarray, "term target"] | None,
    draws: int,
    seed: int,
) -> pd.DataFrame:
    mean, share = means_and_shares(apart.values, apart.reading, clusters[apart.source], draws, seed)
    toward = np.full(share.value.shape, np.nan) if y is None else shares_of(apart.values, apart.reading, y)
    against = np.full(share.value.shape, np.nan) if reference is None else reference
    parts = [
        pd.DataFrame(
            {
                "target": name,
                "term": [t.name for t in apart.terms],
                "kind": [t.kind for t in apart.terms],
                "layer": pd.array([t.layer for t in apart.terms], dtype="Int64"),
                "index": pd.array([t.index for t in apart.terms], dtype="Int64"),
                "mean": mean.value[:, t],
                "mean_low": mean.low[:, t],
                "mean_high": mean.high[:, t],
                "sd": apart.values[:, :, t].std(axis=0),
                "share": share.value[:, t],
                "share_low": share.low[:, t],
                "share_high": share.high[:, t],
                "toward_truth": toward[:, t],
                "reference": against[:, t],
            }
        )
        for t, name in enumerate(names)
    ]
    return pd.concat(parts, ignore_index=True)


def _rows_frame(
    apart: Apart, names: tuple[str, ...], texts: Sequence[str], y: Float[np.ndarray, "row target"] | None
) -> pd.DataFrame:
    out: dict[str, Any] = {"text": [texts[i] for i in apart.source]}
    for t, name in enumerate(names):
        out[f"reading_{name}"] = apart.reading[:, t]
        out[f"gap_{name}"] = apart.gap[:, t]
        if y is not None:
            out[f"true_{name}"] = y[:, t]
    return pd.DataFrame(out)


def _provenance(
    findings: Findings | None,
    identity: Mapping[str, Any],
    how: Asked,
    rows: int | None,
    top: int,
    draws: int,
    seed: int,
    trained: bool,
) -> dict[str, Any]:
    made = {} if findings is None else {"table": dict(findings.provenance.get("table", {}))}
    return {
        **made,
        "model": dict(identity),
        "prompt": how.prompt,
        "pos": plain(how.pos),
        "rows": rows,
        "top": top,
        "neurons_chosen_on": "training rows" if trained else "the rows shown",
        "draws": draws,
        "seed": seed,
        "versions": library_versions(),
    }
