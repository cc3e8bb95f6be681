"""`attribute`: a probe's reading as an exact sum over what was written into the residual stream upstream."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int, Shaped

from graticule.hooks.alignment import by_place
from graticule.hooks.artifact import library_versions
from graticule.hooks.calls import renamed
from graticule.hooks.capture_spec import Pos, pos_to_data
from graticule.hooks.doors import FINDINGS_OR_PROBE, MODEL, door
from graticule.hooks.identity import model_identity
from graticule.hooks.messages import NotApplicable
from graticule.hooks.protocols import HookedModel, dtype_of
from graticule.hooks.result import captured_as, contents_digest
from graticule.hooks.rows import PointKey
from graticule.probes.attribution.result import Attribution
from graticule.probes.attribution.trace import TableRows, columns, probe_of
from graticule.probes.attribution.writes import Apart, NeuronsByLayer, ProbeReading, Unit
from graticule.probes.core.findings import Findings
from graticule.probes.core.replay import replay_spec
from graticule.probes.linear.ridge import RidgeProbe

_log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest gap between the terms' sum and the reading, in standard deviations of the reading."""


class DecompositionError(ValueError):
    """The terms do not sum to the reading: something is written that is not accounted for."""


@renamed("texts", "unit", point="hook_name", draws="n_bootstrap")
@door(model=MODEL, findings=FINDINGS_OR_PROBE)
def attribute(
    findings: Findings | RidgeProbe,
    model: HookedModel,
    *,
    texts: str | Sequence[str] | None = None,
    unit: Unit = "component",
    target: str | int | None = None,
    hook_name: PointKey | None = None,
    pos: Pos | None = None,
    prompt: str | None = None,
    clusters: Shaped[np.ndarray, " text"] | Sequence[int] | None = None,
    rows: int | None = 500,
    top: int = 40,
    n_bootstrap: int = 1000,
    seed: int = 0,
    progress: bool | None = None,
) -> Attribution:
    """Take the probe's reading `x · w + b` apart into what every upstream part of the model wrote.

    The residual stream is a sum (TransformerLens's residual decomposition), and the probe is linear: the
    reading is the sum of the readings of the embedding, of every attention and MLP output, and the intercept.
    Nothing is frozen or approximated. With norms between sublayer and stream (Gemma 2 and 3), heads and
    neurons are divided by the norm's scale in that very pass. Terms must sum to the reading to 1e-4 of its
    standard deviation; the gap is part of the result.

    Args:
        findings: A sweep's findings, or a fitted `RidgeProbe` with a `hook_name`.
        model: What reads.
        texts: What to read; by default test rows of the findings' table.
        unit: `"component"` (attention and MLP of every layer), `"head"`, or `"neuron"`: the `top` neurons,
            chosen on training rows (on `texts` where there are none), and the others of each layer.
        target: One target; all by default.
        hook_name: Another point of the findings than the chosen one.
        pos: As the findings were captured, unless given.
        prompt: As the findings were captured, unless given.
        clusters: Of `texts`, one per text; resampled together. Every text is its own by default.
        rows: At most so many table rows, whole clusters drawn with `seed`; None is all.
        top: Neurons that are a term each.
        n_bootstrap: Of the cluster bootstrap.
        seed: The seed of rows and bootstrap.
        progress: Whether to show a bar; by default for many texts.

    Returns:
        Every term in every row, with means, shares of variance and their intervals.

    Raises:
        DecompositionError: Where the terms do not sum to the reading in a float32 or float64 model (in half
            precision the gap is logged).
        ValueError: For points outside the residual stream, missing weights, a probe without texts, or
            findings whose activations are of other tokens than their texts give here.
    """
    if unit not in get_args(Unit):
        raise ValueError(f"unit={unit!r}: expected 'component', 'head' or 'neuron'")
    probe, name = probe_of(findings, hook_name)
    picked = columns(probe, target)
    of = findings if isinstance(findings, Findings) else None
    spec = replay_spec(of, model, prompt, pos)
    reading = ProbeReading(model, spec, name, probe.coef[:, picked], probe.intercept[picked], progress)
    read, text_clusters, truth = _inputs(of, texts, clusters, rows, seed)
    training = _training_texts(of, rows, seed)
    chosen: NeuronsByLayer | None = None
    if unit == "neuron":
        chosen = reading.top_neurons(training or read, top)
    apart = reading.take_apart(read, unit, chosen)
    gap = _check(model, apart, probe.weights.y_scale[picked])
    reference = None
    if texts is not None and training:
        reference = reading.take_apart(training, unit, chosen).values.mean(axis=0)
    names = tuple(probe.target_names[i] for i in picked)
    units = probe.units or (None,) * len(probe.target_names)
    y = None if truth is None else truth[apart.source][:, picked]
    row_clusters = text_clusters[apart.source]
    identity = model_identity(model)
    return Attribution(
        model=str(identity["name"]),
        table=None if of is None or texts is not None else of.table,
        point=name,
        unit=unit,
        target_names=names,
        units=tuple(units[i] for i in picked),
        terms=_terms(apart, names, row_clusters, y, reference, n_bootstrap, seed),
        rows=_rows(apart, names, read, y),
        values=apart.values.astype(np.float32),
        intercept=tuple(float(b) for b in reading.intercept),
        gap=gap,
        n_rows=len(apart.reading),
        n_clusters=len(np.unique(row_clusters)),
        provenance={
            **({} if of is None else {"table": dict(of.provenance.get("table", {}))}),
            **({} if of is None else captured_as(of.provenance)),
            "model": dict(identity),
            "inputs": contents_digest(read),
            "prompt": spec.prompt or "",
            "pos": pos_to_data(spec.pos),
            "rows": rows,
            "top": top,
            "neurons_chosen_on": "training rows" if training else "the rows shown",
            "draws": n_bootstrap,
            "seed": seed,
            "versions": library_versions(),
        },
    )


def _inputs(
    findings: Findings | None,
    texts: str | Sequence[str] | None,
    clusters: Any,
    limit: int | None,
    seed: int,
) -> tuple[list[str], Int[np.ndarray, " text"], Float[np.ndarray, "text target"] | None]:
    """Texts, their clusters, and the truth where it is known."""
    if texts is not None:
        given = [texts] if isinstance(texts, str) else list(texts)
        codes = np.arange(len(given)) if clusters is None else by_place("clusters", clusters, "texts")
        if len(codes) != len(given):
            raise ValueError(f"{len(codes)} clusters for {len(given)} texts; give one per text")
        return given, np.unique(codes, return_inverse=True)[1].reshape(-1).astype(np.int64), None
    if clusters is not None:
        raise ValueError("clusters= are those of texts=: give both, or neither")
    if findings is None:
        raise ValueError("a probe alone has no table: pass texts=, or findings with their inputs")
    rows = TableRows.of(findings)
    if rows.texts is None:
        raise NotApplicable(f"{findings.inputs.table.name} has no texts to run the model on: pass texts=")
    index = rows.draw(rows.test, limit, seed)
    return [rows.texts[i] for i in index], rows.clusters[index], rows.y[index]


def _training_texts(findings: Findings | None, limit: int | None, seed: int) -> list[str]:
    """Training rows to choose neurons on and to compare single texts with; none without a table."""
    if findings is None or findings.swept is None or findings.swept.table.texts is None:
        return []
    rows, texts = TableRows.of(findings), findings.swept.table.texts
    return [texts[i] for i in rows.draw(rows.train, limit, seed)]


def _check(model: HookedModel, apart: Apart, y_scale: Float[np.ndarray, " target"]) -> float:
    """The largest gap in standard deviations of the reading (of the target, for fewer than ten rows)."""
    spread = apart.reading.std(axis=0) if len(apart.reading) >= 10 else y_scale
    gap = float((np.abs(apart.gap).max(axis=0) / np.where(spread > 0, spread, y_scale)).max())
    if gap <= TOLERANCE:
        return gap
    message = f"the terms miss the reading by {gap:.1e} of its standard deviation (at most {TOLERANCE:.0e})"
    if dtype_of(model) in (torch.float16, torch.bfloat16):
        _log.warning("%s: the stream itself is summed in half precision; load it in float32", message)
        return gap
    raise DecompositionError(
        f"{message}: something else writes into the residual stream (an SAE or a hook that edits it?), or a "
        "norm between sublayer and stream is not accounted for"
    )


def _terms(
    apart: Apart,
    names: tuple[str, ...],
    clusters: Int[np.ndarray, " row"],
    y: Float[np.ndarray, "row target"] | None,
    reference: Float[np.ndarray, "term target"] | None,
    n_bootstrap: int,
    seed: int,
) -> pd.DataFrame:
    """`Attribution.terms`."""
    mean, share = means_and_shares(apart.values, apart.reading, clusters, n_bootstrap, seed)
    unknown = np.full(share.value.shape, np.nan)
    by_target = {
        "mean": mean.value,
        "mean_low": mean.low,
        "mean_high": mean.high,
        "sd": np.stack([apart.values[:, :, t].std(axis=0) for t in range(len(names))], axis=1),
        "share": share.value,
        "share_low": share.low,
        "share_high": share.high,
        "toward_truth": unknown if y is None else _shares_toward(apart.values, apart.reading, y),
        "reference": unknown if reference is None else reference,
    }
    fixed = {
        "term": [t.name for t in apart.terms],
        "kind": [t.kind for t in apart.terms],
        "layer": pd.array([t.layer for t in apart.terms], dtype="Int64"),
        "index": pd.array([t.index for t in apart.terms], dtype="Int64"),
    }
    parts = [
        pd.DataFrame({"target": name, **fixed, **{key: values[:, t] for key, values in by_target.items()}})
        for t, name in enumerate(names)
    ]
    return pd.concat(parts, ignore_index=True)


def _rows(
    apart: Apart, names: tuple[str, ...], texts: Sequence[str], y: Float[np.ndarray, "row target"] | None
) -> pd.DataFrame:
    """`Attribution.rows`."""
    out: dict[str, Any] = {"text": [texts[i] for i in apart.source]}
    for t, name in enumerate(names):
        out[f"reading_{name}"] = apart.reading[:, t]
        out[f"gap_{name}"] = apart.gap[:, t]
        if y is not None:
            out[f"true_{name}"] = y[:, t]
    return pd.DataFrame(out)


# Means and shares of variance ------------------------------------------------------------------------
@dataclass(frozen=True)
class Spread:
    """An estimate and its 95% interval, a row per term and a column per target."""

    value: Float[np.ndarray, "term target"]
    """Over all rows."""
    low: Float[np.ndarray, "term target"]
    """2.5th percentile over resamples; NaN where there are fewer than three clusters."""
    high: Float[np.ndarray, "term target"]
    """97.5th percentile."""


def means_and_shares(
    terms: Float[np.ndarray, "row term target"],
    reading: Float[np.ndarray, "row target"],
    clusters: Int[np.ndarray, " row"],
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> tuple[Spread, Spread]:
    """Mean of each term, and its share of the reading's variance, `Cov(term, reading) / Var(reading)`.

    As the terms sum to the reading but for its intercept, the shares sum to 1; a term that works against the
    others has a negative one. Whole clusters are resampled. Shares are NaN where the reading does not vary.
    """
    centre = terms.mean(axis=0)
    codes = np.unique(clusters, return_inverse=True)[1].reshape(-1)
    size = int(codes.max()) + 1
    t, r = terms - centre, reading - reading.mean(axis=0)
    by_row = {"n": np.ones(len(t)), "t": t, "r": r, "tr": t * r[:, None], "rr": r * r}
    sums = {name: _by_cluster(values, codes, size) for name, values in by_row.items()}
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(size, np.full(size, 1 / size), n_bootstrap).astype(np.float64)
    whole, drawn = _estimates(np.ones((1, size)), sums), _estimates(weights, sums)
    few = size < 3
    return _spread(whole[0] + centre, drawn[0] + centre, few), _spread(whole[1], drawn[1], few)


def _shares_toward(
    terms: Float[np.ndarray, "row term target"],
    reading: Float[np.ndarray, "row target"],
    truth: Float[np.ndarray, "row target"],
) -> Float[np.ndarray, "term target"]:
    """`Cov(term, truth) / Cov(reading, truth)`: how much of the reading's agreement with the truth each term
    brings. They sum to 1."""
    t, r = terms - terms.mean(axis=0), reading - reading.mean(axis=0)
    y = truth - truth.mean(axis=0)
    total = (r * y).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total != 0, np.einsum("rkt,rt->kt", t, y) / total, np.nan)


def _by_cluster(values: np.ndarray, codes: np.ndarray, size: int) -> np.ndarray:
    out = np.zeros((size, *values.shape[1:]))
    np.add.at(out, codes, values)
    return out


def _estimates(weights: np.ndarray, sums: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Means of the centred terms, and shares, `[draw, term, target]`."""
    n = weights @ sums["n"]
    mean = {k: np.tensordot(weights, v, 1) / n.reshape(-1, *[1] * (v.ndim - 1)) for k, v in sums.items()}
    covariance = mean["tr"] - mean["t"] * mean["r"][:, None]
    variance = (mean["rr"] - mean["r"] ** 2)[:, None]
    varies = variance > 1e-12 * sums["rr"].sum(axis=0) / sums["n"].sum()
    return mean["t"], np.where(varies, covariance / np.where(varies, variance, 1.0), np.nan)


def _spread(value: np.ndarray, drawn: np.ndarray, few: bool) -> Spread:
    if few:
        nothing = np.full(value.shape[1:], np.nan)
        return Spread(value[0], nothing, nothing)
    undefined = np.isnan(drawn).all(axis=0)
    low, high = np.nanquantile(np.where(undefined, 0.0, drawn), (0.025, 0.975), axis=0)
    return Spread(value[0], np.where(undefined, np.nan, low), np.where(undefined, np.nan, high))
