"""Does the probe know blocks that it never saw? Countries, states, centuries, kinds of entity, any column."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.hooks.artifact import library_versions
from graticule.hooks.calls import renamed
from graticule.hooks.doors import BY, FINDINGS, door
from graticule.hooks.messages import NotApplicable
from graticule.hooks.rows import PointKey
from graticule.probes.core.findings import Findings
from graticule.probes.core.resample import cluster_sums, defined_mean, resampled_interval, weighted_r2
from graticule.probes.generalisation.blocks import (
    Blocks,
    By,
    ProbeWithout,
    baselines_without,
    find_blocks,
    probe_without,
    probes_without,
)
from graticule.probes.generalisation.holdout_scores import (
    Centroids,
    Draws,
    RowScores,
    Squares,
    Statistic,
    centroids,
    mean_intervals,
    score_rows,
    sign_test,
    weighted_mean,
    weighted_median,
    within_correlation,
)
from graticule.probes.generalisation.holdouts_result import (
    Holdouts,
    block_table,
    held_out_layer_table,
    predictor_table,
)
from graticule.probes.scores.metrics import FEW, auroc, mean, mean_r2, with_interval

_NAN = float("nan")


@renamed(point="hook_name", draws="n_bootstrap")
@door(findings=FINDINGS, by=BY)
def holdouts(
    findings: Findings,
    by: By,
    *,
    values: Sequence[Any] | None = None,
    minimum: int = 10,
    hook_name: PointKey | None = None,
    layers: bool = False,
    alpha: float | None = None,
    skip_majority: bool = False,
    strings: bool | None = None,
    paper_compat: bool = False,
    n_bootstrap: int = 2000,
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
        findings: Findings with their inputs, as a sweep or `with_inputs` returns them.
        by: a column of the table, or one label per table row.
        values: names the blocks; by default all with `minimum` test rows are held out.
        minimum: test rows that a block needs.
        hook_name: where the probe reads; the chosen point by default.
        layers: whether every other point is held out too, exploratory.
        alpha: the strength of all fits, nominal too (the paper fixed 3000 and more); by default the one
            chosen on training rows.
        skip_majority: whether the largest block stays in (the paper's entity types).
        strings: whether TF-IDF is refitted too, one sparse solve per block; by default where that is quick.
        paper_compat: adds the paper's own scoring, so named.
        n_bootstrap: How often the blocks are resampled for the intervals; those of means over blocks take
            1,000 at most.
        seed: The seed of the resamples.
        progress: whether a bar is drawn; by default where it takes long.

    Returns:
        Scores in and out with their levels of chance, by block, predictor and layer.

    Raises:
        KeyError: An unknown column or point.
        ValueError: As `find_blocks`, for a target that is constant outside a block, and for findings without
            their inputs.
    """
    swept, hook_name = findings.inputs, findings.point_of(hook_name)
    table, problem = swept.table, swept.problem
    blocks = check_blocks(findings, by, values=values, minimum=minimum, skip_majority=skip_majority)
    probe = probe_without(findings, hook_name, blocks, alpha)
    rows = score_rows(swept, hook_name, blocks, probe, paper_compat, progress)
    code, m = blocks.code, probe.fits.y_mean
    y = problem.y[blocks.every]
    baselines, left_out = baselines_without(findings, blocks, strings, progress)
    predictors = {"probe": probe.held_out, **baselines}
    squares = {name: Squares.of(y, pred, m[code], code, len(m)) for name, pred in predictors.items()}
    centres = {name: centroids(y, pred, code, m) for name, pred in predictors.items()}
    clusters = problem.clusters[blocks.every]
    few = min(n_bootstrap, 1000)
    intervals = mean_intervals(rows.levels["held_out"], code, clusters, len(m), few, seed)
    own = squares["probe"], centres["probe"]
    scores = score_table(rows, probe.held_out, *own, n_bootstrap, seed)
    others = probes_without(findings, blocks, progress) if layers else ()
    note = blocks.note
    if left_out:
        note += f"; {', '.join(left_out)} was not refitted (pass strings=True)"
    if findings.inputs.table.confounds:
        note += "; the surface is without confounders, which are not refitted"
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
        point=hook_name,
        alpha=probe.alpha,
        measure=rows.measure,
        verdict=_answer(blocks, scores, centres["probe"]),
        scores=scores,
        blocks=block_table(blocks, rows, *own, intervals, table.target_names),
        predictors=predictor_table(squares, centres, n_bootstrap, seed),
        layers=held_out_layer_table(problem, blocks, others),
        predictions=_predictions(findings, blocks, probe),
        note=note,
        paper_compat=paper_compat,
        provenance={
            "findings": dict(findings.provenance),
            "judged_in": findings.verdict.metric,
            "settings": {
                "by": blocks.by, "values": None if values is None else [str(v) for v in values],
                "minimum": minimum, "point": hook_name, "alpha": alpha, "skip_majority": skip_majority,
                "paper_compat": paper_compat, "draws": n_bootstrap, "seed": seed,
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


# Tables ----------------------------------------------------------------------------------------------
def score_table(
    rows: RowScores,
    predicted: Float[np.ndarray, "held target"],
    squares: Squares,
    centres: Centroids,
    n_bootstrap: int,
    seed: int,
) -> pd.DataFrame:
    """One row per figure, each with its interval over resampled blocks and its level of chance."""
    n, test, measure = rows.n_blocks, rows.test, rows.measure
    whole = np.ones((1, n))
    table: list[dict[str, Any]] = []

    def add(name: str, nominal: float, statistic: Statistic, chance: float, chance_is: str) -> None:
        low, high = resampled_interval(statistic, n, n_bootstrap, seed)
        held_out = float(statistic(whole)[0])
        table.append(
            {"measure": name, "nominal": nominal, "held_out": held_out, "low": low, "high": high,
             "chance": chance, "chance_is": chance_is}
        )  # fmt: skip

    def add_mean(name: str, nominal: float, values: np.ndarray, chance: float, chance_is: str) -> None:
        add(name, nominal, partial(weighted_mean, values=values), chance, chance_is)

    def add_median(name: str, values: np.ndarray, chance: float, chance_is: str) -> None:
        add(name, _NAN, partial(weighted_median, values=values), chance, chance_is)

    def level(name: str) -> float:
        return float(np.nanmean(rows.by_block(name)))

    if measure == "proximity error":
        others = f"({level('mean'):z.3f} for the training mean, {level('other_row'):z.3f} with another row of"
        chance_is = f"for shuffled predictions {others} the block)"
        add_mean(measure, level("nominal"), rows.by_block("held_out"), 0.5, chance_is)
        rise = rows.on_test_rows(rows.levels["held_out"] - rows.levels["nominal"])
        add_mean(f"{measure}, rise on the same test rows", _NAN, rise, 0.0, "for no loss")
    else:
        floor = level("mean")
        add_mean(measure, level("nominal"), rows.by_block("held_out"), floor, "for the training mean")
    if "held_out_paper_compat" in rows.levels:
        papers = rows.by_block("held_out_paper_compat")
        nominal = level("nominal_paper_compat")
        add_mean("paper_compat proximity error", nominal, papers, 0.5, "for shuffled predictions")
    add("R²", _nominal_r2(rows), squares.r2, 0.0, "for the training mean of each fit")
    add(
        "R² against the mean of the scored rows",
        mean_r2(rows.y[test], rows.nominal_prediction[test]),
        _grand_r2(rows, predicted),
        mean_r2(rows.y, centres.mean[rows.code]),
        "for the training mean of each fit",
    )
    if rows.error:
        median = {name: rows.error_by_block(name) for name in rows.error}
        nominal, floor = float(np.nanmean(median["nominal"])), float(np.nanmean(median["mean"]))
        name = f"median error ({rows.error_unit}), mean over blocks"
        add_mean(name, nominal, median["held_out"], floor, "for the training mean")
    if centres.true.shape[1] == 1:
        right = np.where(np.isfinite(centres.cosine), centres.cosine > 0, np.nan)
        add_mean("blocks on their side of the mean", _NAN, right, 0.5, "for a coin")
    else:
        add_median("centroid angle (°), median", centres.angle, 90.0, "by chance")
        add_mean("centroid cosine, mean", _NAN, centres.cosine, 0.0, "by chance")
    moved = "for the training mean, 1 all the way"
    add_median("centroid distance moved, median", centres.ratio, 0.0, moved)
    inside = within_correlation(rows.y, predicted, rows.code, n)
    before = within_correlation(rows.y[test], rows.nominal_prediction[test], rows.code[test], n)
    add("correlation within blocks", float(before(whole)[0]), inside, 0.0, "by chance")
    if measure == "accuracy":
        held_out = mean(auroc(rows.y, predicted))
        nominal = mean(auroc(rows.y[test], rows.nominal_prediction[test]))
        table.append(
            {"measure": "AUROC, pooled", "nominal": nominal, "held_out": held_out, "low": _NAN,
             "high": _NAN, "chance": 0.5, "chance_is": "by chance"}
        )  # fmt: skip
    return pd.DataFrame(table)


def _nominal_r2(rows: RowScores) -> float:
    """Pooled R² of the nominal fit on the blocks' test rows, against the mean of its training rows."""
    test = rows.test
    one_block = np.zeros(int(test.sum()), np.int64)
    mean_rows = np.tile(rows.train_mean, (len(one_block), 1))
    squares = Squares.of(rows.y[test], rows.nominal_prediction[test], mean_rows, one_block, 1)
    return float(squares.r2()[0])


def _grand_r2(rows: RowScores, predicted: np.ndarray) -> Statistic:
    """R² against the mean of the scored rows, as scikit-learn's; NaN where no target varies in a resample."""
    sums = cluster_sums(rows.y, {"probe": predicted}, rows.code)
    assert len(sums.n) == rows.n_blocks

    def statistic(weights: Draws) -> np.ndarray:
        return defined_mean(weighted_r2(sums, weights)[:, 0])

    return statistic
