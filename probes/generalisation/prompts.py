"""All prompts of a table in one run: how much of what a model knows depends on how it is asked."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from graticule.hooks.artifact import json_ready, library_versions
from graticule.hooks.calls import renamed
from graticule.hooks.capture import capture
from graticule.hooks.capture_spec import CaptureSpec
from graticule.hooks.doors import MODEL, TABLE, door
from graticule.hooks.identity import model_identity
from graticule.hooks.locks import only_here
from graticule.hooks.messages import NotApplicable
from graticule.hooks.names import inside, user_path
from graticule.hooks.points import LayerSpec, PointSpec, resolve
from graticule.hooks.protocols import HookedModel
from graticule.hooks.rows import Rows
from graticule.hooks.token_digests import RewrittenTexts
from graticule.hooks.tokens import tokenize
from graticule.hooks.values import dtype_name, dtype_named
from graticule.probes.compare import compare
from graticule.probes.core.findings import Findings
from graticule.probes.core.inputs import problem_of
from graticule.probes.core.sweep import sweep
from graticule.probes.core.verdict import Score
from graticule.probes.generalisation.prompts_result import Prompts
from graticule.probes.probe import asked_of, findings_of, judged_in, marked
from graticule.probes.scores.significance import holm
from graticule.probes.surface.baselines import baselines
from graticule.probes.surface.fitted import ANY_PROMPT
from graticule.probes.tables.prompts import Prompt, read_prompts
from graticule.probes.tables.table import Table

_log = logging.getLogger(__name__)


@renamed(draws="n_bootstrap")
@door(model=MODEL, table=TABLE)
def prompts(
    model: HookedModel,
    table: Table,
    prompts: Mapping[str, str | Prompt] | Sequence[str | Prompt] | None = None,
    *,
    points: PointSpec = "resid_post",
    layers: LayerSpec = "all",
    dtype: torch.dtype | str | None = None,
    prepend_bos: bool | None = None,
    include_bos: bool | None = None,
    reference: str | None = None,
    twins: int = 1,
    alphas: Sequence[float] | None = None,
    score: Score | None = None,
    min_gain: float | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
    out: Path | str | None = None,
    progress: bool | None = None,
) -> Prompts:
    """Probe a table under several prompts, against one surface, and compare them pair by pair.

    Gurnee & Tegmark, section 3.3. Each prompt's shared tokens are computed once, the activation is that of
    the entity's last token. What is not the prompt's is done once: the baselines (strings, embeddings,
    block 0 and the untrained twins) are captured from the bare names and fitted once, so that every prompt
    stands against the very same surface. A twin of its own for every prompt is `graticule.probe(prompt=…)`.

    Args:
        model: what reads the prompts.
        table: its texts are the entities.
        prompts: names of the table's own prompts (`prompts_of`), templates with one slot `{}` or prefixes,
            `Prompt`s, or a mapping of names to these; by default those of the table's own that this
            vocabulary can tell rows apart by (random ids need some to draw from, capitals to be known);
            others are left out, with a warning.
        points: hook points, as in `graticule.hooks.points.resolve`.
        layers: of `points` that name no layer.
        dtype: of the activations, as for `graticule.capture`.
        prepend_bos: whether texts get special tokens, as for `graticule.capture`, under every prompt.
        include_bos: whether these tokens may be rows.
        reference: the prompt to compare with; by default `empty`, or else the first.
        twins: untrained twins of the bare names, 0 to leave them out.
        alphas: ridge strengths to choose from.
        score: what the gain is measured in: by default bits a row for yes-or-no and categories, R² for
            numbers.
        min_gain: the smallest gain called structure; by default .01 of R², or a hundredth of the entropy of
            the training labels.
        n_bootstrap: How often the clusters are resampled for the intervals.
        seed: The seed of twins and resamples.
        out: a folder that keeps activations and findings of every prompt in `out/PROMPT`, the baselines in
            `out/baselines`, and goes on after a kill. Without it all prompts' activations are in memory.
        progress: whether a bar is drawn; by default where it takes long.

    Returns:
        Every prompt's verdict, and the differences between prompts.

    Raises:
        ValueError: The table has no texts, a template has no slot or several, names repeat, prompts do not
            suit the entities, the reference is unknown; and what `capture`, `baselines` and `sweep` raise.
    """
    folder = None if out is None else user_path(out)
    if table.texts is None:
        raise ValueError(f"table {table.name!r} has no texts; give text= when making it")
    by_name = read_prompts(prompts, table.name)
    if reference is None:
        reference = "empty" if "empty" in by_name else next(iter(by_name))
    if reference not in by_name:
        raise ValueError(f"reference {reference!r} is none of the prompts: {', '.join(by_name)}")
    for prompt in by_name.values():  # cheap mistakes first: every prompt's texts before any long work
        prompt.texts(table.texts)
    for name, prompt in list(by_name.items()):
        try:
            _check_rows(model, prompt, table.texts, prepend_bos)
        except NotApplicable as reason:
            if prompts is not None or name == reference:
                raise
            _log.warning("prompt %r is left out: %s", name, reason)
            del by_name[name]
    stored_as = dtype_named(dtype, auto=True)
    spec = CaptureSpec(
        model=model_identity(model),
        points=resolve(model, points, layers),
        dtype=None if stored_as is None else dtype_name(stored_as),
        prepend_bos=prepend_bos,
        include_bos=include_bos,
    )
    judging = {"alphas": alphas, "twins": twins, "draws": n_bootstrap, "seed": seed}
    judging |= judged_in(table.kind, score, min_gain)
    with nullcontext() if folder is None else only_here(folder, "probing prompts into"):
        findings = _findings(model, table, by_name, folder, spec, judging, progress)
    return _result(findings, by_name, reference, n_bootstrap, seed)


def _check_rows(model: HookedModel, prompt: Prompt, texts: Sequence[str], prepend_bos: bool | None) -> None:
    """Raise `NotApplicable` where there is no random id to draw, or all texts are the same tokens."""
    inputs, template, _ = prompt.inputs(model, texts, prepend_bos)
    if prompt.random_ids:
        return
    if len({row.tobytes() for row in tokenize(model, inputs, template, prepend_bos).ids}) == 1:
        raise NotApplicable(
            f"all {len(texts)} texts are the same tokens under prompt {prompt.name!r} ({prompt.words}): "
            "nothing tells one row from another"
        )


def _findings(
    model: HookedModel,
    table: Table,
    by_name: Mapping[str, Prompt],
    folder: Path | None,
    spec: CaptureSpec,
    judging: Mapping[str, Any],
    progress: bool | None,
) -> dict[str, Findings]:
    """Prompt → its findings, those in the folder as they are; no other process writes into it."""
    alphas, min_gain, draws, seed = (judging[name] for name in ("alphas", "min_gain", "draws", "seed"))
    captured: dict[str, Rows] = {}
    texts = RewrittenTexts(table.texts or ())
    for name, prompt in by_name.items():
        inputs, template, pos = prompt.inputs(model, table.texts or (), spec.prepend_bos)
        place: dict[str, Any] = {} if folder is None else {"store": inside(folder, name, "activations")}
        _log.info("capturing %d texts under prompt %r", len(table), name)
        how = spec.arguments(prompt=template, pos=pos, progress=progress)
        captured[name] = capture(model, inputs, texts=texts, **how, **place)
    linked = _linked(table, captured)
    beside = baselines(
        model,
        table,
        twins=judging["twins"],
        seed=seed,
        store=None if folder is None else folder / "baselines",
        **spec.arguments(pos="entity_last", progress=progress),
    )
    beside = replace(beside, provenance={**beside.provenance, ANY_PROMPT: True})
    request_of_all = {**spec.to_json(), "table": linked.digest, **asked_of(linked), **judging}
    findings: dict[str, Findings] = {}
    for name, prompt in by_name.items():
        request = {**request_of_all, "prompt": asdict(prompt)}
        saved = None if folder is None else findings_of(inside(folder, name), request)
        if saved is not None:
            findings[name] = saved.with_inputs(captured[name], linked, beside)
            continue
        swept = sweep(
            captured[name],
            linked,
            baselines=beside,
            alphas=alphas,
            score=judging.get("score"),
            min_gain=min_gain,
            n_bootstrap=draws,
            seed=seed,
            surface_of=next(iter(findings.values()), None),
            progress=progress,
        )
        findings[name] = replace(swept, provenance={**swept.provenance, **marked(request), "prompt": name})
        if folder is not None:
            findings[name].save(inside(folder, name), overwrite=True)  # it was compared above
    return findings


def _linked(table: Table, captured: Mapping[str, Rows]) -> Table:
    """The table, with rows linked that any prompt makes the same tokens: all prompts share one problem."""
    each = [problem_of(rows, table).clusters for rows in captured.values()]
    if all(np.array_equal(each[0], other) for other in each[1:]):
        return table
    for clusters in each:
        table = table.with_clusters(clusters)
    return table


# The result ------------------------------------------------------------------------------------------
def _result(
    findings: dict[str, Findings], by_name: Mapping[str, Prompt], reference: str, n_bootstrap: int, seed: int
) -> Prompts:
    first = findings[reference]
    chosen = pd.DataFrame([_chosen_row(name, f) for name, f in findings.items()])
    provenance: dict[str, Any] = {
        k: v for k, v in first.provenance.items() if k not in ("activations", "made_at")
    }
    return Prompts(
        model=first.model,
        table=first.table,
        target_names=first.target_names,
        reference=reference,
        surface=tuple(sorted(first.baseline_predictions)),
        words={name: prompt.words for name, prompt in by_name.items()},
        verdicts={name: f.verdict for name, f in findings.items()},
        chosen=chosen.merge(_differences(findings, reference, n_bootstrap, seed), on="prompt", how="left"),
        layers=pd.concat([_layer_rows(name, f) for name, f in findings.items()], ignore_index=True),
        provenance=json_ready(
            {
                **provenance,
                "prompts": {name: asdict(prompt) for name, prompt in by_name.items()},
                "draws": n_bootstrap,
                "versions": library_versions(),
            }
        ),
        findings=findings,
    )


def _chosen_row(name: str, findings: Findings) -> dict[str, Any]:
    verdict, by_squares = findings.verdict, findings.verdict_in_r2
    in_bits: dict[str, float] = {}
    scores = next(s for s in findings.layer_scores if s["point"] == findings.chosen_point)
    if verdict.metric == "bits":
        in_bits = {"test_bits": verdict.score, "surface_bits": verdict.surface}
        in_bits["validation_bits"] = float(scores["validation_bits"])
    lengths = findings.inputs.activations.rows["position"] + 1
    return {
        "prompt": name,
        "tokens": float(lengths.median()),
        "layer": findings.chosen_layer,
        "point": findings.chosen_point,
        "validation": float(scores["validation"]),
        "test_r2": float(by_squares.score),
        "surface": float(by_squares.surface),
        "gain": float(verdict.gain),
        "low": float(verdict.ci95[0]),
        "high": float(verdict.ci95[1]),
        "verdict": verdict.label,
        **in_bits,
    }


def _layer_rows(name: str, findings: Findings) -> pd.DataFrame:
    columns = ["layer", "point", "depth", "validation", "test_r2"]
    if findings.verdict.metric == "bits":
        columns += ["validation_bits", "test_bits"]
    rows = findings.layers[columns]
    return rows.assign(prompt=name, chosen=rows["point"] == findings.chosen_point)


def _differences(
    findings: Mapping[str, Findings], reference: str, n_bootstrap: int, seed: int
) -> pd.DataFrame:
    """Every prompt's test score minus the reference's, paired by clusters, with Holm over the prompts."""
    columns = ["prompt", "difference", "diff_low", "diff_high", "p"]
    rows = []
    for name in findings:
        if name != reference:
            pair = compare(findings[name], findings[reference], n_bootstrap=n_bootstrap, seed=seed)
            rows.append([name, pair.difference, *pair.ci95, pair.p])
    frame = pd.DataFrame(rows, columns=columns)
    adjusted = holm(frame["p"].to_numpy(np.float64)) if rows else np.zeros(0)
    return frame.assign(p_holm=adjusted).astype(dict.fromkeys((*columns[1:], "p_holm"), float))
