"""Test and retest: the same rows split otherwise."""

import numpy as np
import pytest

import graticule
from graticule.probes.core.findings import Findings
from graticule.probes.core.verdict import NO_BETTER, STRUCTURE
from graticule.probes.generalisation.retest_result import Retest
from graticule.results import load_result
from graticule.sims.planted import planted


def swept(**of) -> Findings:
    world = planted(240, width=8, n_layers=2, surface=0.4, **of)
    return graticule.sweep(
        world.activations, world.table, baselines=world.baselines, n_bootstrap=100, progress=False
    )


@pytest.fixture(scope="module")
def findings() -> Findings:
    return swept(hidden=0.4, seed=1)


@pytest.fixture(scope="module")
def again(findings) -> Retest:
    return graticule.retest(findings, repeats=3, progress=False)


@pytest.mark.slow
def test_a_strong_concept_comes_out_again_on_other_splits(findings, again):
    assert again.label == findings.verdict.label == STRUCTURE
    assert again.agreement == 1
    assert len(again.runs) == 3 and again.runs["seed"].is_unique
    assert again.runs["gain"].nunique() == 3
    shares = again.runs["n_test"] / (again.runs["n_train"] + again.runs["n_test"])
    assert shares.between(0.1, 0.3).all()
    assert (again.cosines["read"] > 0.8).all() and (
        again.cosines["read_least"] <= again.cosines["read"]
    ).all()
    assert again.summary().startswith(
        "100% the same verdict: over 3 other splits the same verdict in 3; gain"
    )


@pytest.mark.slow
def test_clusters_stay_whole_and_the_same_seed_gives_the_same_splits(findings, again):
    problem = findings.problem
    table = findings.inputs.table.with_split(~findings.inputs.table.is_test)
    assert (table.is_test == ~findings.inputs.table.is_test).all()
    assert not np.intersect1d(problem.clusters[problem.train], problem.clusters[problem.test]).size
    twice = graticule.retest(findings, repeats=1, progress=False)
    assert twice.runs.iloc[0].to_dict() == again.runs.iloc[0].to_dict()
    assert np.isnan(twice.cosines["read"]).all()  # one split has no pair
    assert "undefined" in twice.summary()


@pytest.mark.slow
def test_the_line_stands_under_the_verdict_and_is_saved(findings, again, tmp_path):
    told = again.under(findings)
    assert findings.retest is None and "other splits" not in findings.summary()
    assert told.retest in told.summary().splitlines()
    told.save(tmp_path / "findings")
    assert Findings.load(tmp_path / "findings").retest == told.retest
    again.save(tmp_path / "again")
    back = load_result(tmp_path / "again")
    assert isinstance(back, Retest)
    assert back.summary() == again.summary()
    assert again.report(tmp_path / "again.html").exists()


def test_labels_of_rows_are_split_by_the_texts_that_they_are_of():
    world = planted(120, width=6, n_layers=1, surface=0.2, hidden=0.5, seed=2)
    acts, rng = world.activations, np.random.default_rng(0)
    labels = world.table.y[:, 0] + 0.1 * rng.normal(size=acts.n_rows)
    findings = graticule.sweep(acts, labels, split=world.table.is_test, n_bootstrap=50, progress=False)
    again = graticule.retest(findings, repeats=1, progress=False)
    assert again.runs["n_test"].iloc[0] == pytest.approx(world.table.is_test.sum(), abs=12)


@pytest.mark.slow
def test_verdicts_that_differ_are_counted():
    none = swept(hidden=0.0, seed=3)
    again = graticule.retest(none, repeats=2, progress=False)
    assert set(again.runs["label"]) <= {NO_BETTER} | {x for x in again.runs["label"] if "not decided" in x}
    assert 0 <= again.agreement <= 1


@pytest.mark.slow
def test_another_number_of_rows_is_refused(findings):
    with pytest.raises(ValueError, match="is_test has 3 entries for 240 rows"):
        findings.inputs.table.with_split(np.ones(3, bool))
