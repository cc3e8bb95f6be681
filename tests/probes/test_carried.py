"""What one table taught, scored on another."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from graticule import Activations, Findings, Table, judge_on, sweep
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


def test_another_concept_does_not_carry(first: Findings, tmp_path) -> None:
    carried = judge_on(first, {"turned": findings("second", 2, hidden=-1.0), "same": findings("third", 3)})
    assert list(carried.scored["label"]) == [LOST, CARRIES]
    carried.save(tmp_path / "carried")
    again = Carried.load(tmp_path / "carried")
    assert again.summary() == carried.summary() and "does not carry" in again.summary()
    assert list(again.figures()) and again.provenance["settings"]["others"] == ["turned", "same"]


def test_rows_that_both_tables_have_are_left_out() -> None:
    ours = [f"row {i}" for i in range(300)]
    a = findings("first", 0, texts=ours)
    b = findings("second", 1, texts=[f"  ROW {i}!" if i < 40 else f"line {i}" for i in range(300)])
    row = judge_on(a, b).scored.iloc[0]
    assert row["copies_left_out"] == 40 and row["rows"] == 260
    with pytest.raises(ValueError, match="0 rows of 'second' are left"):
        judge_on(a, findings("second", 1, texts=ours))


def test_classes_carry_too() -> None:
    a = findings("first", 0, kind="binary")
    b = findings("second", 3, kind="binary")
    row = judge_on(a, b).scored.iloc[0]
    assert row["label"] == CARRIES and row["arrives"] > 0.8


def test_classes_carry_either_way_round() -> None:
    a, b = (findings(name, seed, kind="binary", hidden=2.0) for name, seed in (("first", 0), ("second", 1)))
    turned = findings("second", 1, kind="binary", hidden=2.0, positive="no")
    assert turned.classes == b.classes[::-1]
    one, other = (judge_on(a, findings_of_b).scored.iloc[0] for findings_of_b in (b, turned))
    assert one["label"] == other["label"] == CARRIES
    columns = ["gain", "low", "own_gain", "own_low"]
    assert np.allclose(one[columns].astype(float), other[columns].astype(float), atol=1e-6)


def test_what_does_not_fit_is_refused_in_a_line(first: Findings) -> None:
    with pytest.raises(ValueError, match="binary classes no, yes: make both tables of one kind"):
        judge_on(first, findings("second", 1, kind="binary"))
    with pytest.raises(ValueError, match="others is empty"):
        judge_on(first, {})
