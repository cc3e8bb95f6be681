"""Does the probe know blocks that it never saw? Countries, states, centuries, kinds of entity, any column."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from graticule.hooks.artifact import library_versions
from graticule.hooks.doors import BY, FINDINGS, door
from graticule.hooks.messages import NotApplicable, UnknownNameError
from graticule.probes.core.findings import Findings
from graticule.probes.generalisation.block_scores import (
    Centroids,
    Squares,
    centroids,
    mean_intervals,
    sign_test,
)
from graticule.probes.generalisation.held_out import (
    Blocks,
    By,
    ProbeWithout,
    baselines_without,
    find_blocks,
    probe_without,
    probes_without,
)
from graticule.probes.generalisation.holdout_scores import (
    block_table,
    layer_table,
    predictor_table,
    score_rows,
    score_table,
)
from graticule.probes.generalisation.holdouts_result import Holdouts
from graticule.probes.scores.in_words import FEW, with_interval


@door(findings=FINDINGS, by=BY)
def holdouts(
    findings: Findings,
    by: By,
    *,
    values: Sequence[Any] | None = None,
    minimum: int = 10,
    point: str | None = None,
    layers: bool = False,
    alpha: float | None = None,
    skip_majority: bool = False,
    strings: bool | None = None,
    paper_compat: bool = False,
    draws: int = 2000,
    seed: int = 0,
    progress: bool | None = None,
) -> Holdouts:
    """Hold out each block in turn: train on every row outside it, test rows too, and predict it.

    As Gurnee & Tegmark, section 4 and appendix: *nominal* is the probe of the table's own split on the
    block's test rows, both are scored by the *combined* proximity error (rank among all predictions of the
    same fit, training ones in-sample), the mean over blocks unweighted. Proximity can look good where R² is
    far below 0, so beside it stand R² against the training mean, the error, the direction in which the
    block's centre was moved (θ = ∠(c_true − m, c_pred − m), m the mean training target) and how far, each
    with its level of chance. All refits come from one Gram matrix per layer, see `leave_blocks_out`. Rows
    that share a cluster with a block go out with it.

    Args:
        findings: with their inputs.
        by: a column of the table, or one label per table row.
        values: names the blocks; by default all with `minimum` test rows are held out.
        minimum: test rows that a block needs.
        point: where the probe reads; the chosen point by default.
        layers: whether every other point is held out too, exploratory.
        alpha: the strength of all fits, nominal too (the paper fixed 3000 and more); by default the one
            chosen on training rows.
        skip_majority: whether the largest block stays in (the paper's entity types).
        strings: whether TF-IDF is refitted too, one sparse solve per block; by default where that is quick.
        paper_compat: adds the paper's own scoring, so named.
        draws: resamples of the blocks; the intervals of means over blocks take 1,000 at most.
        seed: of the resamples.
        progress: whether a bar is drawn; by default where it takes long.

    Returns:
        Scores in and out with their levels of chance, by block, predictor and layer.

    Raises:
        KeyError: An unknown column or point.
        ValueError: As `find_blocks`, for a target that is constant outside a block, and for findings without
            their inputs.
    """
    swept, point = findings.inputs, point or findings.chosen_point
    if point not in findings.probes:
        raise UnknownNameError(f"no probe at {point!r}: {', '.join(findings.probes)}")
    table, problem = swept.table, swept.problem
    blocks = check_blocks(findings, by, values=values, minimum=minimum, skip_majority=skip_majority)
    probe = probe_without(findings, point, blocks, alpha)
    rows = score_rows(swept, point, blocks, probe, paper_compat, progress)
    code, m = blocks.code, probe.fits.y_mean
    y = problem.y[blocks.every]
    baselines, left_out = baselines_without(findings, blocks, strings, progress)
    predictors = {"probe": probe.held_out, **baselines}
    squares = {name: Squares.of(y, pred, m[code], code, len(m)) for name, pred in predictors.items()}
    centres = {name: centroids(y, pred, code, m) for name, pred in predictors.items()}
    clusters = problem.clusters[blocks.every]
    few = min(draws, 1000)
    intervals = mean_intervals(rows.levels["held_out"], code, clusters, len(m), few, seed)
    own = squares["probe"], centres["probe"]
    scores = score_table(rows, probe.held_out, *own, draws, seed)
    note = blocks.note
    if left_out:
        note += f"; {', '.join(left_out)} was not refitted (pass strings=True)"
    if together := sum(len(x) for x in blocks.mates):
        note += f"; {together} rows outside went out with their cluster"
    return Holdouts(
        model=findings.model,
        table=findings.table,
        by=blocks.by,
        numeric=blocks.numeric,
        kind=table.kind,
        target_names=table.target_names,
        units=table.units,
        point=point,
        alpha=probe.alpha,
        measure=rows.measure,
        verdict=_answer(blocks, scores, centres["probe"]),
        scores=scores,
        blocks=block_table(blocks, rows, *own, intervals, table.target_names),
        rivals=predictor_table(squares, centres, draws, seed),
        layers=layer_table(problem, blocks, probes_without(findings, blocks, progress) if layers else ()),
        predictions=_predictions(findings, blocks, probe),
        note=note,
        paper_compat=paper_compat,
        provenance={
            "findings": dict(findings.provenance),
            "settings": {
                "by": blocks.by, "values": None if values is None else [str(v) for v in values],
                "minimum": minimum, "point": point, "alpha": alpha, "skip_majority": skip_majority,
                "paper_compat": paper_compat, "draws": draws, "seed": seed,
            },
            "refitted_for_want_of_digits": probe.fits.refitted,
            "versions": library_versions(),
            "made_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        },
    )  # fmt: skip


def check_blocks(
    findings: Findings,
    by: By,
    *,
    values: Sequence[Any] | None = None,
    minimum: int = 10,
    skip_majority: bool = False,
) -> Blocks:
    """The blocks that `holdouts` of the same arguments holds out; it raises what this raises.

    Raises:
        NotApplicable: Fewer than two blocks, or a block without which there is nothing to learn.
    """
    table, problem = findings.inputs.table, findings.inputs.problem
    blocks = find_blocks(table, problem, by, values=values, minimum=minimum, skip_majority=skip_majority)
    for name, gone in zip(blocks.names, blocks.taken_out, strict=True):
        if (np.ptp(np.delete(problem.y, gone, axis=0), axis=0) == 0).all():
            raise NotApplicable(
                f"without {blocks.by} {name!r} the target is constant ({', '.join(problem.names)}): "
                "there is nothing to learn; leave this block out with values="
            )
    return blocks


def _answer(blocks: Blocks, scores: pd.DataFrame, centres: Centroids) -> str:
    """Does it know blocks that it never saw? By pooled R² against the training means."""
    row = scores[scores["measure"] == "R²"].iloc[0]
    how = "worse" if row["high"] < 0 else "better"
    label = f"a {blocks.by} never seen is placed {how} than by the training mean"
    if not (row["low"] > 0 or row["high"] < 0):
        label = f"not decided whether {label}"
    if centres.true.shape[1] == 1:
        right, p = np.nanmean(centres.cosine > 0), sign_test(centres.cosine)
        side = f"{right:.0%} of the blocks on their side of the mean (chance 50%, p {p:.2g})"
    else:
        side = f"blocks moved at {np.nanmedian(centres.angle):.0f}° to where they lie (chance 90°)"
    return f"{label}: R² {with_interval(row['held_out'], (row['low'], row['high']), FEW)}; {side}"


def _predictions(findings: Findings, blocks: Blocks, probe: ProbeWithout) -> pd.DataFrame:
    swept = findings.inputs
    problem, table, every = swept.problem, swept.table, blocks.every
    out = pd.DataFrame({"source": table.source_rows[problem.source[every]]})
    if table.texts is not None:
        out["text"] = [table.texts[i] for i in problem.source[every]]
    out["block"] = np.array(blocks.names, dtype=object)[blocks.code]
    out["split"] = np.where(problem.is_test[every], "test", "train")
    for t, name in enumerate(table.target_names):
        out[f"true_{name}"] = problem.y[every, t]
        out[f"pred_{name}"] = probe.held_out[:, t]
        out[f"nominal_{name}"] = np.where(problem.is_test[every], probe.nominal[every, t], np.nan)
    return out
