"""What two baselines say only beside each other: one ridge on the columns of all of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

from graticule import Activations, Findings, Table, holdouts, judge_on, sweep
from graticule.probes.calibration.instrument import Instrument
from graticule.probes.core.crossfit import cross_fitted, one_fold
from graticule.probes.core.verdict import NO_BETTER, STRUCTURE
from graticule.probes.generalisation.carried import CARRIES
from graticule.probes.surface import joint as joint_module
from graticule.probes.surface.baselines import Baselines
from graticule.probes.surface.joint import JOINT, fit_joint, joint_rows
from graticule.probes.surface.serving import features_of
from graticule.probes.surface.strings import StringReader
from graticule.probes.tables.groups import group_folds

ROWS = 400
TURN = np.linalg.qr(np.random.default_rng(99).normal(size=(17, 17)))[0]


def suppressed(seed: int = 0, hidden: float = 0.0, rows: int = ROWS, **kwargs) -> Findings:
    """`one` holds c + u, `two` c, the activations both and what is hidden; u is the target."""
    rng = np.random.default_rng(seed)
    u, c, own, noise = (
        rng.normal(size=rows),
        rng.normal(size=rows),
        rng.normal(size=rows),
        rng.normal(size=(rows, 14)),
    )
    one, two = np.c_[c + u, noise[:, :7]], np.c_[c, noise[:, 7:]]
    y = u + hidden * own + 0.7 * rng.normal(size=rows)
    frame = pd.DataFrame({"y": y, "c": c, "part": np.arange(rows) % 5, "pair": np.arange(rows) // 2})
    confounds = kwargs.pop("confounds", ())
    table = Table(
        frame, target="y", confounds=confounds, blocks=["part"], cluster=kwargs.pop("cluster", None)
    )
    x = Activations.from_tensors({"resid": (np.c_[one, two, own] @ TURN).astype(np.float32)})
    beside = Baselines.of(table, {"one": one} if confounds else {"one": one, "two": two})
    return sweep(x, table, baselines=beside, progress=False, **{"crossfit": False, **kwargs})


@pytest.mark.slow
@pytest.mark.parametrize("confounds", [(), ("c",)])
def test_what_two_baselines_say_together_is_no_structure(confounds) -> None:
    findings = suppressed(confounds=confounds)
    without = findings.inputs.judge(findings.predictions_at(), [JOINT])
    assert without.label == STRUCTURE and without.gain > 0.2
    assert findings.verdict.label != STRUCTURE and abs(findings.verdict.gain) < 0.02
    line = findings.baselines[JOINT]
    assert line["adds"] == pytest.approx(without.gain, abs=0.05) and line["point"] is None
    assert f"joint, the columns of all of them together, adds {line['adds']:.3f} R²" in findings.summary()


@pytest.mark.slow
def test_what_is_hidden_beside_them_is_structure() -> None:
    assert suppressed(hidden=0.8).verdict.label == STRUCTURE


@pytest.mark.slow
def test_it_is_scikit_learns_ridge_on_blocks_of_one_variance() -> None:
    findings = suppressed(cluster="pair")
    problem, line = findings.problem, findings.baselines[JOINT]
    train, test = problem.train, problem.test
    blocks = []
    for name in ("one", "two"):
        x = findings.inputs.baselines.features[name][name].numpy().astype(np.float64)
        x = (x - x[train].mean(axis=0)) / x[train].std(axis=0)
        blocks.append(x / np.sqrt(x.shape[1]))
    X, y = np.concatenate(blocks, axis=1), problem.y[:, 0]
    ridge = Ridge(alpha=line["alpha"])
    made = findings.baseline_predictions[JOINT]
    folds = cross_val_predict(
        ridge, X[train], y[train], groups=problem.clusters[train], cv=LeaveOneGroupOut()
    )
    np.testing.assert_allclose(made.out_of_fold[:, 0], folds, atol=1e-4)
    np.testing.assert_allclose(made.test[:, 0], ridge.fit(X[train], y[train]).predict(X[test]), atol=1e-4)


@pytest.mark.slow
def test_folds_that_share_fits_read_it_as_each_by_itself() -> None:
    inputs = suppressed(rows=150).inputs
    made = cross_fitted(inputs, n_repeats=1, seed=4, progress=False)
    fold = group_folds(inputs.problem.clusters, 5, 4 * 7919)
    each = np.empty_like(inputs.problem.y)
    for k in range(5):
        part = replace(inputs.problem, is_test=fold == k)
        each[fold == k] = one_fold(inputs, part).predicted["surface"]
    shared = made.predictions["surface"][0]
    assert np.corrcoef(shared[:, 0], each[:, 0])[0, 1] > 0.99
    assert made.level(inputs.problem, "surface") > 0.55


def test_wide_blocks_enter_by_their_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = suppressed()
    inputs = findings.inputs
    served = features_of(inputs.baselines, inputs.activations, inputs.problem)
    points = {"one": "one", "two": "two"}
    monkeypatch.setattr(joint_module, "MOST", 10)
    monkeypatch.setattr(joint_module, "MOST_AXES", 8)  # all there are: a rotation
    rows = joint_rows(served, points, inputs.table, inputs.problem, None)
    assert rows is not None and rows.shape == (ROWS, 16)
    turned, _ = fit_joint(rows, inputs.problem, inputs.settings)
    np.testing.assert_allclose(turned.test, findings.baseline_predictions[JOINT].test, atol=1e-4)
    monkeypatch.setattr(joint_module, "MOST_AXES", 3)
    rows = joint_rows(served, points, inputs.table, inputs.problem, None)
    assert rows is not None and rows.shape == (ROWS, 6)


@pytest.mark.slow
def test_it_goes_wherever_the_surface_goes(tmp_path) -> None:
    findings, other = suppressed(), suppressed(1)
    assert judge_on(findings, other, progress=False).scored["label"][0] != CARRIES
    held = holdouts(findings, by="part", progress=False)
    assert JOINT in set(held.predictors["predictor"])
    instrument = Instrument.of(findings)
    assert JOINT in instrument.baselines
    y = findings.problem.y[np.r_[findings.problem.train, findings.problem.test]].T
    y = y - y[:, : instrument.n_train].mean()
    answers = instrument.answers(y, JOINT)
    test = findings.baseline_predictions[JOINT].test[:, 0] - findings.problem.y[findings.problem.train].mean()
    assert min(float(np.abs(one[0] - test).max()) for one in answers.test) < 0.01
    findings.save(tmp_path / "f")
    back = Findings.load(tmp_path / "f").with_inputs(
        findings.inputs.activations, findings.inputs.table, baselines=findings.inputs.baselines
    )
    assert np.array_equal(back.baseline_predictions[JOINT].test, findings.baseline_predictions[JOINT].test)


@pytest.mark.slow
def test_the_texts_count_once_and_their_few_columns_by_themselves() -> None:
    rng = np.random.default_rng(3)
    texts = [
        " ".join(rng.choice(["alpha", "beta", "gamma"], k)) + f" {i}"
        for i, k in enumerate(rng.integers(2, 9, 60))
    ]
    table = Table(pd.DataFrame({"t": texts, "y": rng.normal(size=60)}), text="t", target="y")
    x = Activations.from_tensors({"resid": rng.normal(size=(60, 4)).astype(np.float32)}, texts=table.texts)
    alone = sweep(x, table, crossfit=False, progress=False)
    assert JOINT not in alone.baselines
    inputs = alone.inputs
    served = features_of(Baselines.of(table, {"own": rng.normal(size=(60, 3))}), x, inputs.problem)
    reader = StringReader.of(table, inputs.problem)
    rows = joint_rows(served, {"own": "own"}, table, inputs.problem, reader)
    assert rows is not None
    assert [list(one.maps) for one in rows.choices] == [
        ["own", "built_in", "spelling", "tfidf"],
        ["own", "built_in"],
    ]
    train = rows.part(inputs.problem.train).every()
    np.testing.assert_allclose(train.var(axis=0).sum(), 4, rtol=1e-4)


@pytest.mark.parametrize("units", [(1.0, 1.0, 1.0), (1e6, 1e3, 1.0)])
def test_no_unit_of_a_column_of_ones_own_moves_the_verdict(units) -> None:
    rng = np.random.default_rng(5)
    z = rng.normal(size=(ROWS, 3))
    table = Table(pd.DataFrame({"y": z[:, 2] + rng.normal(size=ROWS)}), target="y")
    x = Activations.from_tensors({"resid": np.c_[z, rng.normal(size=(ROWS, 5))].astype(np.float32)})
    own = np.c_[z * np.array(units), np.ones(ROWS)]
    findings = sweep(x, table, baselines=Baselines.of(table, {"own": own}), crossfit=False, progress=False)
    assert findings.verdict.label == NO_BETTER
    assert findings.baselines["own"]["validation"] == pytest.approx(0.47, abs=0.05)
    own[7, 1] = np.nan
    with pytest.raises(ValueError, match="row 7"):
        sweep(x, table, baselines=Baselines.of(table, {"own": own}), crossfit=False, progress=False)
