"""What one table taught, scored on another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import as_installed
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score, roc_auc_score

from graticule import Activations, Findings, Table, judge_on, sweep
from graticule.probes.core.bits import calibrated
from graticule.probes.core.fit import Predictions, Problem
from graticule.probes.core.verdict import NO_BETTER, STRUCTURE
from graticule.probes.generalisation import carried
from graticule.probes.generalisation.carried import CARRIES, LOST, Carried
from graticule.probes.surface.baselines import Baselines, text_digest

POINTS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
MIXING = np.random.default_rng(9).normal(size=(7, 20))


def findings(
    name: str, seed: int, hidden: float = 1.0, texts: list[str] | None = None, kind: str = "numeric", **how
) -> Findings:
    """Of 300 rows: four columns that the embedding shows, one hidden."""
    rng = np.random.default_rng(seed)
    seen, concept = rng.normal(size=(300, 4)), rng.normal(size=(300, 3))
    value = seen[:, 0] + hidden * concept[:, 0] + 0.5 * rng.normal(size=300)
    target = value if kind == "numeric" else np.where(value > 0, "yes", "no")
    frame = pd.DataFrame({"target": target, **({} if texts is None else {"text": texts})})
    table = Table(frame, target="target", name=name, text=None if texts is None else "text", **how)
    late = np.concatenate([seen, concept], axis=1) @ MIXING
    tensors = dict(zip(POINTS, (late * np.r_[np.ones(10), np.zeros(10)], late), strict=True))
    rows = Activations.from_tensors({k: torch.from_numpy(v.astype(np.float32)) for k, v in tensors.items()})
    if texts is not None:
        rows = rows.with_texts(texts)
    beside = {"mean_embedding": Activations.from_tensors({"hook_embed": seen.astype(np.float32)})}
    return sweep(rows, table, baselines=Baselines(text_digest(table), beside, False), progress=False)


@pytest.fixture(scope="module")
def first() -> Findings:
    return findings("first", 0)


@pytest.mark.slow
def test_gain_is_that_of_stacks_fitted_on_the_first_table_alone(first: Findings) -> None:
    second = findings("second", 1)
    row = judge_on(first, second).scored.iloc[0]
    ours, theirs = first.inputs, second.inputs
    y = ours.problem.y[ours.problem.train]
    base = first.baseline_predictions["mean_embedding"].out_of_fold
    probe = first.predictions_at().out_of_fold
    seen = ours.baselines.features["mean_embedding"]["hook_embed"].numpy().astype(float)
    other = theirs.baselines.features["mean_embedding"]["hook_embed"].numpy().astype(float)
    from graticule.probes.linear.ridge_cv import ridge_cv

    fit = ridge_cv(seen[ours.problem.train], y, clusters=ours.problem.clusters[ours.problem.train])
    there = fit.predict(other)
    reads = first.probe.predict(theirs.rows(first.chosen_point))
    surface = LinearRegression().fit(base, y).predict(there)
    both = LinearRegression().fit(np.hstack([base, probe]), y).predict(np.hstack([there, reads]))
    truth = theirs.problem.y
    assert row["surface"] == pytest.approx(r2_score(truth, surface), abs=1e-6)
    assert row["gain"] == pytest.approx(r2_score(truth, both) - r2_score(truth, surface), abs=1e-6)
    assert row["label"] == CARRIES and row["rows"] == 300
    assert 0.9 < row["arrives"] < 1.1


@pytest.mark.slow
def test_another_concept_does_not_carry(first: Findings, tmp_path) -> None:
    carried = judge_on(first, {"turned": findings("second", 2, hidden=-1.0), "same": findings("third", 3)})
    assert list(carried.scored["label"]) == [LOST, CARRIES]
    carried.save(tmp_path / "carried")
    again = Carried.load(tmp_path / "carried")
    assert again.summary() == carried.summary() and "does not carry" in again.summary()
    assert list(again.figures()) and again.provenance["settings"]["others"] == ["turned", "same"]


@pytest.mark.slow
def test_rows_that_both_tables_have_are_left_out() -> None:
    ours = [f"row {i}" for i in range(300)]
    a = findings("first", 0, texts=ours)
    b = findings("second", 1, texts=[f"  ROW {i}!" if i < 40 else f"line {i}" for i in range(300)])
    row = judge_on(a, b).scored.iloc[0]
    assert row["copies_left_out"] == 40 and row["rows"] == 260
    with pytest.raises(ValueError, match="0 rows of the other table, 'second', are left"):
        judge_on(a, findings("second", 1, texts=ours))


@pytest.mark.slow
def test_classes_carry_too() -> None:
    a = findings("first", 0, kind="binary")
    b = findings("second", 3, kind="binary")
    row = judge_on(a, b).scored.iloc[0]
    assert row["label"] == CARRIES and row["arrives"] > 0.8


@pytest.mark.slow
def test_a_classifier_is_scored_as_it_was_calibrated(tmp_path) -> None:
    """AUROC, Brier, recall at the first table's threshold and the shift, against scikit-learn and by hand."""
    a, b = findings("first", 0, kind="binary", hidden=2.0), findings("second", 3, kind="binary", hidden=2.0)
    carried = judge_on(a, b)
    row = carried.scored.iloc[0]
    problem, truth = a.problem, b.inputs.problem.y[:, 0]
    scores = a.probe.predict(b.inputs.rows(a.chosen_point))
    ours = problem.y[problem.train]
    n = len(ours) + len(truth)
    y, is_test = np.concatenate([ours, truth[:, None]]), np.arange(n) >= len(ours)
    joint = Problem(np.arange(n), y, is_test, np.arange(n), problem.names)
    p = calibrated(joint, Predictions(a.predictions_at().out_of_fold, scores))[:, 0]
    assert row["auroc"] == pytest.approx(roc_auc_score(truth, p), abs=1e-6)
    assert row["auroc_low"] < row["auroc"] < row["auroc_high"]
    assert row["brier"] == pytest.approx(np.square(p - truth).mean(), abs=1e-5)
    shifted = 1 / (1 + np.exp(-np.log(p / (1 - p)) - row["shift"]))
    assert shifted.sum() == pytest.approx(truth.sum(), abs=0.05)
    assert 0.5 < row["recall"] <= 1 and 0 <= row["false_positives"] < 0.2
    assert "Brier" in carried.summary() and "false alarms there it catches" in carried.summary()
    carried.save(tmp_path / "carried")
    before = replace(carried, scored=carried.scored.drop(columns=["auroc", "shift", "recall"]))
    assert (
        "AUROC" not in before.summary() and Carried.load(tmp_path / "carried").summary() == carried.summary()
    )


@pytest.mark.slow
def test_near_copies_are_left_out_too() -> None:
    rng = np.random.default_rng(0)
    ours = ["".join(rng.choice([*"abcdefghijklmnop"], 12)) for _ in range(300)]
    others = ["".join(rng.choice([*"abcdefghijklmnop"], 12)) for _ in range(300)]
    others[:30] = [text + "q" for text in ours[:30]]
    row = judge_on(findings("first", 0, texts=ours), findings("second", 1, texts=others)).scored.iloc[0]
    assert row["copies_left_out"] == 30 and row["label"] == CARRIES


@pytest.mark.slow
def test_classes_carry_either_way_round() -> None:
    a, b = (findings(name, seed, kind="binary", hidden=2.0) for name, seed in (("first", 0), ("second", 1)))
    turned = findings("second", 1, kind="binary", hidden=2.0, positive="no")
    assert turned.classes == b.classes[::-1]
    one, other = (judge_on(a, findings_of_b).scored.iloc[0] for findings_of_b in (b, turned))
    assert one["label"] == other["label"] == CARRIES
    columns = ["gain", "low", "own_gain", "own_low"]
    assert np.allclose(one[columns].astype(float), other[columns].astype(float), atol=1e-6)


@pytest.mark.slow
def test_what_does_not_fit_is_refused_in_a_line(first: Findings) -> None:
    with pytest.raises(ValueError, match="binary classes no, yes: make both tables of one kind"):
        judge_on(first, findings("second", 1, kind="binary"))
    with pytest.raises(ValueError, match="others is empty"):
        judge_on(first, {})
    with pytest.raises(ValueError, match="others are the findings themselves"):
        judge_on(first, {"first": first})
    message = "judge_on: others='x': expected findings, or several by name"
    with as_installed(), pytest.raises(TypeError, match=message):
        judge_on(first, "x")  # type: ignore[arg-type]


def test_the_same_rows_without_texts_are_no_other_table(first: Findings) -> None:
    with pytest.raises(
        ValueError, match=r"0 rows of the other table, 'first', are left without .* the first, 'first'"
    ):
        judge_on(first, findings("first", 0))


@pytest.mark.slow
def test_what_adds_nothing_to_any_row_does_not_carry_though_it_has_no_interval(first: Findings) -> None:
    nothing = replace(first.verdict, label=NO_BETTER, gain=0.0, se=0.0, ci95=(float("nan"), float("nan")))
    idle = replace(nothing, label="not decided: the probe's best fit is the training mean")
    gained = replace(first.verdict, label=STRUCTURE)
    assert carried._label(nothing, gained) == carried.LOST
    assert carried._label(idle, gained) == "not shown to carry: the probe's best fit is the training mean"
    assert carried._label(gained, nothing) == carried.AS_MUCH
    assert carried._label(gained, idle) == carried.NOT_BEYOND
