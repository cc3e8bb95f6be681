"""Every row tested."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from graticule import Activations, Findings, Table, cross_fit, sweep
from graticule.probes.core.crossfit import cross_fitted
from graticule.probes.core.labels import STRUCTURE
from graticule.probes.generalisation.crossfitted import CrossFitted
from graticule.probes.linear.ridge_cv import ridge_cv
from graticule.probes.surface.baselines import Baselines, text_digest
from graticule.probes.tables.groups import group_folds

POINTS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")


def findings(
    rows: int = 120, hidden: float = 1.0, kind: str = "numeric", copies: int = 1, seed: int = 0
) -> Findings:
    """The second layer alone holds the hidden part; every row stands there `copies` times."""
    rng = np.random.default_rng(seed)
    seen, concept = rng.normal(size=(rows, 3)), rng.normal(size=(rows, 2))
    value = seen[:, 0] + hidden * concept[:, 0] + 0.5 * rng.normal(size=rows)
    early = np.concatenate([seen, rng.normal(size=(rows, 2))], axis=1)
    late = np.concatenate([seen, concept], axis=1)
    target = value if kind == "numeric" else np.where(value > 0, "yes", "no")
    frame = pd.DataFrame({"target": target, "group": np.arange(rows)}).loc[np.repeat(np.arange(rows), copies)]
    table = Table(frame.reset_index(drop=True), target="target", cluster="group", name="small")
    tensors = {
        name: torch.from_numpy(np.repeat(x, copies, axis=0).astype(np.float32))
        for name, x in zip(POINTS, (early, late), strict=True)
    }
    embedding = Activations.from_tensors({"hook_embed": np.repeat(seen, copies, axis=0).astype(np.float32)})
    beside = Baselines(text_digest(table), {"mean_embedding": embedding}, False)
    return sweep(Activations.from_tensors(tensors), table, baselines=beside, progress=False)


def test_predictions_are_those_of_fits_without_the_fold() -> None:
    swept = findings()
    inputs, problem = swept.inputs, swept.inputs.problem
    made = cross_fitted(inputs, n_folds=4, n_repeats=2, seed=3)
    fold = group_folds(problem.clusters, 4, 7919 * 3 + 1)
    train, test = np.flatnonzero(fold != 2), np.flatnonzero(fold == 2)
    y, c = problem.y[train], problem.clusters[train]
    seen = inputs.baselines.features["mean_embedding"]["hook_embed"].numpy().astype(float)
    late = inputs.activations[POINTS[1]].numpy().astype(float)
    base, probe = ridge_cv(seen[train], y, clusters=c), ridge_cv(late[train], y, clusters=c)
    surface = LinearRegression().fit(base.out_of_fold, y).predict(base.predict(seen[test]))
    both = LinearRegression().fit(np.hstack([base.out_of_fold, probe.out_of_fold]), y)
    full = both.predict(np.hstack([base.predict(seen[test]), probe.predict(late[test])]))
    assert np.allclose(made.predictions["surface"][1, test], surface, atol=1e-6)
    assert np.allclose(made.predictions["full"][1, test], full, atol=1e-6)
    assert set(made.points) == {POINTS[1]} and len(made.points) == 8


def test_gain_is_that_of_all_rows_and_its_interval_half_as_wide_again(tmp_path) -> None:
    swept = findings()
    got = cross_fit(swept, n_repeats=1)
    made, problem = cross_fitted(swept.inputs, n_repeats=1), swept.inputs.problem
    r2 = {name: r2_score(problem.y, made.predictions[name][0]) for name in ("full", "surface")}
    assert got.gain == pytest.approx(r2["full"] - r2["surface"])
    squares = {n: np.square(problem.y - made.predictions[n][0])[:, 0] for n in ("full", "surface")}
    total = np.square(problem.y - problem.y.mean())[:, 0]
    influence = (squares["surface"] - squares["full"] - got.gain * total) / total.mean()
    error = 1.5 * influence.std(ddof=1) / np.sqrt(len(total))
    assert (got.ci95[1] - got.ci95[0]) / 2 == pytest.approx(1.98 * error, rel=0.05)
    assert got.label == STRUCTURE and got.rows == 120 and got.folds == 5
    got.save(tmp_path / "c")
    again = CrossFitted.load(tmp_path / "c")
    assert again.summary() == got.summary() and "5 folds dealt 1 times" in again.summary()
    assert list(again.figures()) and again.points.iloc[0]["point"] == POINTS[1]


def test_copies_of_a_row_tell_nothing_new() -> None:
    one, three = (cross_fit(findings(copies=c), n_repeats=1) for c in (1, 3))
    widths = [r.ci95[1] - r.ci95[0] for r in (one, three)]
    assert widths[1] > 0.7 * widths[0] and three.clusters == one.clusters == 120


def test_classes_are_judged_in_bits() -> None:
    got = cross_fit(findings(rows=200, hidden=2.0, kind="binary"), n_repeats=1)
    assert got.metric == "bits" and got.label == STRUCTURE and 0 < got.gain < 1
    assert "bits a row" in got.summary()


def test_nothing_is_found_where_nothing_is() -> None:
    labels = [cross_fit(findings(rows=80, hidden=0.0, seed=s), n_repeats=1).label for s in range(12)]
    assert labels.count(STRUCTURE) <= 1


def test_what_cannot_be_dealt_is_refused() -> None:
    with pytest.raises(ValueError, match="n_folds=1"):
        cross_fit(findings(), n_folds=1)
