"""All layers against one target and its baselines: scores, the chosen layer, directions, the verdict."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Shaped

from graticule.hooks.alignment import BY_PLACE, BY_TOKENS, DIGEST, by_tokens
from graticule.hooks.artifact import library_versions
from graticule.hooks.calls import renamed
from graticule.hooks.doors import ACTIVATIONS, BASELINES, FINDINGS, TARGET, door
from graticule.hooks.limits import check_several
from graticule.hooks.rows import Rows
from graticule.probes.core.among_alike import alike_of_test
from graticule.probes.core.assembly import (
    CROSSFIT,
    GAINED,
    Dealt,
    layer_score,
    predictions_frame,
    split_class_scores,
)
from graticule.probes.core.bits import SHARE_OF_ENTROPY
from graticule.probes.core.choice import choose_point
from graticule.probes.core.confounding import confounding
from graticule.probes.core.crossfit import cross_fitted
from graticule.probes.core.crossfit_verdict import (
    crossfit_class_scores,
    crossfit_verdict,
    rows_gained,
    to_be_dealt,
)
from graticule.probes.core.doubts import doubted
from graticule.probes.core.findings import Findings
from graticule.probes.core.findings_display import ON_TRUST
from graticule.probes.core.fit import PointRows, Problem, fit_points
from graticule.probes.core.inputs import OF_ROWS, SweepInputs, Target, problem_of, table_of
from graticule.probes.core.judge import judge_predictions
from graticule.probes.core.logit_stack import entropy_bits
from graticule.probes.core.members import ALL_ROWS, member_scores
from graticule.probes.core.surface_of import fitted_before
from graticule.probes.core.verdict import R2_GAIN, JudgeSettings, Score, Verdict
from graticule.probes.linear.ridge import RidgeProbe
from graticule.probes.surface.baselines import Baselines, text_digest
from graticule.probes.surface.fitted import ANY_PROMPT, check_pair, fit_baselines, fit_shuffled, with_bits
from graticule.probes.surface.joint import JOINT
from graticule.probes.tables.table import Table

_log = logging.getLogger(__name__)

_OWN_COLUMNS = ("source", "text", "split", "cluster", "position", "token", "error_km", GAINED)
"""Columns of predictions, beside those of targets and blocks."""


@renamed("baselines", draws="n_bootstrap")
@door(activations=ACTIVATIONS, target=TARGET, baselines=BASELINES, surface_of=FINDINGS)
def sweep(
    activations: Rows,
    target: Target,
    *,
    baselines: Baselines | None = None,
    split: str | Shaped[np.ndarray, " row"] | pd.Series | None = None,
    cluster: str | Shaped[np.ndarray, " row"] | pd.Series | None = None,
    alphas: Sequence[float] | None = None,
    score: Score | None = None,
    min_gain: float | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
    crossfit: bool | None = None,
    surface_of: Findings | None = None,
    progress: bool | None = None,
) -> Findings:
    """Probe every point of `activations` for `target`, and say whether it knows more than the baselines.

    Strength is chosen by exact out-of-fold error on training rows, the layer by what its probe adds there to
    the stacked baselines (`choice`); the verdict scores the test rows once, at the chosen layer (Gurnee &
    Tegmark section 3, with the selection their code left to the test rows moved into the training rows).
    Other layers' test scores are stored as exploratory. Where the split was drawn here and its test part
    would be small, every row is tested instead, by fits that chose and learned without its fold.

    Args:
        activations: rows of a model, in memory or on disk.
        target: a `Table` whose row i is input text i; or a column of `activations.rows`, or an array with one
            entry per activation row.
        baselines: from `graticule.baselines(model, table)`. Without them only TF-IDF of the texts (where
            there are texts) stands against the probe, and the verdict is left open.
        split: of a target that is no table: a column, or booleans, True for test.
        cluster: of a target that is no table: rows of one cluster are held out together. `auto` presumes
            them: rows that are nearly the same, in their activations at the last point or their letters.
        alphas: ridge strengths; by default a wide grid relative to the activations' scale.
        score: what the gain is measured in: by default bits a row (log-loss of calibrated probabilities) for
            yes-or-no and categories, R² for numbers; `"r2"` judges classes by R² of 0 and 1, the Brier skill.
        min_gain: the smallest gain called structure; by default .01 of R², or a hundredth of the entropy of
            the labels (of training rows, or of all rows where all are tested).
        n_bootstrap: How often clusters are resampled by what goes on from here; the gain needs no resamples.
        seed: The seed of the resamples and of the shuffled targets.
        crossfit: whether every row is tested, by fits without its fold, and the verdict is of all rows; False
            keeps to the one test part. By default it is where the split was drawn by graticule and its test
            part is small.
        surface_of: findings of the same table and baselines (of another prompt, say), whose fitted baselines
            are taken over where rows and clusters are the same, instead of fitting them once more. Those of
            another target, of other baselines or confounders are refused.
        progress: whether a bar is drawn; by default where it takes long.

    Raises:
        ValueError: Rows and target do not fit together, the baselines are of another table, model, prompt,
            position or layers, `surface_of` does not fit, or targets are NaN, infinite or constant.
    """
    check_several("alphas", "alpha", alphas)
    strengths = None if alphas is None else tuple(float(a) for a in alphas)
    JudgeSettings(
        strengths, min_gain, n_bootstrap, seed, score or "r2", crossfit
    )  # out of range: refused at the door
    table, activations, source, pairing = table_of(activations, target, split, cluster)
    if baselines is None:
        baselines = Baselines(text_digest(table), {}, table.strings is not None)
    else:
        _check_baselines(baselines, table)
    on_trust = check_pair(baselines, activations)  # another tokenizer is told as such
    pairing = _by_tokens(activations, baselines, table, pairing)
    if len(texts_read := np.unique(source)) < len(table):
        _log.warning(
            "sweep: the activations are of %d of the %d rows of table %r: what is found is of these alone",
            len(texts_read),
            len(table),
            table.name,
        )
    _check_blocks(table)
    problem = problem_of(activations, table, source)
    if len(problem.train) < 3 or len(problem.test) < 2:
        raise ValueError(
            f"{len(problem.train)} training and {len(problem.test)} test rows among the activations; "
            "at least 3 and 2 are needed"
        )
    _check_varied(activations, problem)
    dealt_anew = to_be_dealt(table, problem, baselines, crossfit)
    judged_by = _settings(
        JudgeSettings(strengths, min_gain, n_bootstrap, seed, crossfit=crossfit),
        score,
        table,
        problem.y if dealt_anew else problem.y[problem.train],
    )
    fits = fit_points(activations, problem, alphas=alphas, progress=progress)
    fits = with_bits(fits, problem, judged_by)
    fitted = None if surface_of is None else fitted_before(surface_of, baselines, table, problem, judged_by)
    predictions, rows = fitted or fit_baselines(baselines, activations, table, problem, judged_by, progress)
    inputs = SweepInputs(activations, table, baselines, problem, predictions, judged_by)
    choice = choose_point(fits, predictions, problem, inputs.model_baselines, judged_by.score)
    best = choice.best
    result = judge_predictions(
        problem, best.predictions, predictions, judged_by, model_baselines=inputs.model_baselines
    )
    checks: dict[str, Verdict] = {}
    for twin in baselines.twins:
        width = max(baselines.features[twin].widths.values())
        checks[f"{twin} in the probe's place"] = inputs.judge(predictions[twin], [twin, JOINT], width=width)
    rows["shuffled"] = fit_shuffled(inputs, best)
    of_split, class_scores, dealt, made = None, split_class_scores(inputs, best), None, None
    if dealt_anew:
        made, of_split = cross_fitted(inputs, seed=seed, progress=progress), result
        class_scores = crossfit_class_scores(made, problem)
        dealt = Dealt(made.predictions["probe"].mean(axis=0), rows_gained(made, problem))
        result = crossfit_verdict(made, inputs, result)
        for name, scores in member_scores(made.members, made.predictions["mean"], problem.y).items():
            rows[name][ALL_ROWS] = scores
    result, gates = doubted(result, checks, best, fits, inputs, rows)
    beside = confounding(result, gates, best, inputs, made)
    of_split = None if of_split is None else alike_of_test(of_split, gates, inputs, best)
    return Findings(
        model=_model_name(activations),
        table=table.name,
        kind=table.kind,
        target_names=table.target_names,
        units=table.units,
        classes=table.classes,
        block_names=tuple(table.blocks),
        split_note=_split_note(table, problem),
        layer_scores=tuple(layer_score(i, f, choice, problem, table) for i, f in enumerate(fits)),
        chosen_point=best.point,
        baselines=rows,
        verdict=beside.verdict,
        checks=checks,
        probes={f.point: RidgeProbe.from_fit(f.fit, f.point, table.target_names, table.units) for f in fits},
        predictions=predictions_frame(inputs, best, dealt),
        provenance={
            **_provenance(activations, table, baselines, seed),
            "pairing": pairing,
            **({ON_TRUST: True} if on_trust else {}),
        },
        baseline_predictions=predictions,
        point_predictions={f.point: f.predictions for f in fits},
        table_rows=problem.source,
        settings=judged_by,
        class_scores=class_scores,
        split_verdict=of_split,
        gates=gates,
        confounders=beside.lines,
        residualised=beside.rest,
        swept=replace(inputs, gates=gates),
    )


def _settings(asked: JudgeSettings, score: Score | None, table: Table, labels: np.ndarray) -> JudgeSettings:
    """What was asked for with the score that suits the target, and the smallest gain in it by these labels.

    Raises:
        ValueError: Bits are asked of numbers.
    """
    if score == "bits" and table.kind == "numeric":
        raise ValueError(
            f"sweep: score='bits' is for classes, and {table.target_names[0]!r} holds numbers: leave it out, "
            "or make the table with kind='categorical'"
        )
    chosen_score = score or ("r2" if table.kind == "numeric" else "bits")
    default = R2_GAIN
    if chosen_score == "bits":
        default = SHARE_OF_ENTROPY * entropy_bits(labels)
    least = default if asked.min_gain is None else asked.min_gain
    return replace(asked, score=chosen_score, min_gain=least)


def _by_tokens(activations: Rows, baselines: Baselines, table: Table, pairing: str) -> str:
    """How rows are paired, where a baseline read the table's texts: their tokens are compared as well.

    Raises:
        AlignmentError: For rows in another order than the table's.
    """
    if baselines.provenance.get(ANY_PROMPT):  # of other tokens than rows under a prompt, by themselves
        return pairing
    for feature in baselines.features.values():
        same = DIGEST in feature.rows and by_tokens(activations.rows, feature.rows, table.name)
        if same and pairing == BY_PLACE:
            return BY_TOKENS
    return pairing


def _check_baselines(baselines: Baselines, table: Table) -> None:
    """Raises:
    ValueError: For baselines of other texts than the table's, or where it has none.
    """
    try:
        baselines.check(table)
    except ValueError:
        if table.name != OF_ROWS or table.strings is not None:
            raise
        raise ValueError(
            "these baselines are of a Table's texts, and this target is one entry per activation row: for a "
            "label per token make the table, graticule.token_table(model, texts, labels), and "
            "graticule.baselines(model, table)"
        ) from None


def _check_blocks(table: Table) -> None:
    """Raises:
    ValueError: For a block whose name is one of the columns that findings have themselves.
    """
    parts = ("true_", "pred_", "surface_", CROSSFIT)
    of_targets = {f"{part}{name}" for part in parts for name in table.target_names}
    if taken := [name for name in table.blocks if name in of_targets or name in _OWN_COLUMNS]:
        raise ValueError(
            f"sweep: block {taken[0]!r} of table {table.name!r} has the name of a column that findings have "
            f"themselves: rename it, frame.rename(columns={{{taken[0]!r}: {'own_' + taken[0]!r}}})"
        )


def _check_varied(activations: Rows, problem: Problem) -> None:
    """Raises:
    ValueError: Where no point tells one training row from another.
    """
    for point in activations.points:
        rows = PointRows(activations, point, problem.train)
        for some in (np.arange(min(256, rows.shape[0])), np.arange(rows.shape[0])):
            if np.ptp(rows.gather(some), axis=0).any():
                return
    raise ValueError(
        f"the activations are the same on all {len(problem.train)} training rows, at every point: nothing "
        "can be read out of them; capture at a token that differs, pos='last'"
    )


# What is said of them ---------------------------------------------------------------------------------
def _split_note(table: Table, problem: Problem) -> str:
    """The table's own note, or one of the rows that there are where they are others than the table's."""
    if len(problem.source) == len(table) == len(np.unique(problem.source)):
        return table.split_note
    origin, _, _ = table.split_note.rpartition(": ")
    straddling = np.intersect1d(problem.clusters[problem.train], problem.clusters[problem.test])
    texts = len(np.unique(problem.source))
    share = f"{texts} of the table's {len(table)} rows" if texts < len(table) else f"{texts} texts"
    return (
        f"{origin}: {len(problem.train)} training and {len(problem.test)} test rows, of {share}; "
        f"{len(straddling)} clusters straddle it"
    )


def _model_name(activations: Rows) -> str:
    made: Mapping[str, Any] = activations.provenance
    return str(made.get("model", {}).get("name", made.get("captured_by", "activations")))


def _provenance(activations: Rows, table: Table, baselines: Baselines, seed: int) -> dict[str, Any]:
    return {
        "activations": activations.provenance,
        "baselines": dict(baselines.provenance),
        "table": {"name": table.name, "digest": table.digest, "rows": len(table), "split": table.split_note},
        "seed": seed,
        "versions": library_versions(),
        "made_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
