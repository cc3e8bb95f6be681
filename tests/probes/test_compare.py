"""Two predictors of the same rows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import t as student
from sklearn.metrics import r2_score

from graticule import Findings, sweep
from graticule.probes.compare import FIRST, NEITHER, SECOND, Comparison, compare
from graticule.probes.core.inputs import Predicted
from graticule.sims.planted import planted


def predicted(
    name: str, noise: float, rng: np.random.Generator, rows: int = 400, copies: int = 1
) -> Predicted:
    y = np.random.default_rng(7).normal(size=(rows, 2)) * [1, 30]
    guess = y + noise * rng.normal(size=y.shape) * [1, 30]
    each = np.repeat(np.arange(rows), copies)
    source = np.arange(len(each))
    return Predicted(name, ("a", "b"), (None, "year"), source, each, y[each], guess[each])


def test_scores_differences_and_words() -> None:
    rng = np.random.default_rng(0)
    good, poor = predicted("good", 0.3, rng), predicted("poor", 0.6, rng)
    found = compare(good, poor)
    assert found.score_a == pytest.approx(r2_score(good.y, good.predictions))
    assert found.difference == pytest.approx(found.score_a - found.score_b)
    assert found.label == FIRST and found.p < 0.01
    with pytest.warns(DeprecationWarning, match=r"Comparison\.words is the old name of label"):
        assert found.words == FIRST
    back = compare(poor, good)
    assert back.label == SECOND
    assert back.ci95 == pytest.approx((-found.ci95[1], -found.ci95[0]))
    assert found.ci95[0] < found.difference < found.ci95[1]
    assert (found.by_target["p_holm"] >= found.by_target["p"]).all()
    assert np.allclose(found.by_target["difference"].mean(), found.difference)


def test_the_interval_is_the_brute_force_one() -> None:
    rng = np.random.default_rng(1)
    a, b = predicted("a", 0.5, rng, rows=60), predicted("b", 0.55, rng, rows=60)
    found = compare(a, b)
    without = []
    for row in range(60):
        y, one, other = (np.delete(v, row, axis=0) for v in (a.y, a.predictions, b.predictions))
        without.append(r2_score(y, one) - r2_score(y, other))
    se = np.sqrt(59 / 60 * np.square(np.array(without) - found.difference).sum())
    reach = (found.ci95[1] - found.ci95[0]) / 2
    assert sum(found.ci95) / 2 == pytest.approx(found.difference)
    assert reach == pytest.approx(student.ppf(0.975, 58) * se, rel=0.01)
    assert found.p == pytest.approx(2 * student.sf(found.difference / se, 58), rel=0.05)


@pytest.mark.slow
def test_equal_predictors_seldom_differ() -> None:
    p = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        pair = predicted("a", 0.5, rng, rows=150), predicted("b", 0.5, rng, rows=150)
        p.append(compare(*pair, n_bootstrap=100).p)
    assert np.mean(np.array(p) < 0.05) < 0.14
    assert 0.4 < np.mean(p) < 0.6


def test_dependent_rows_widen_the_interval() -> None:
    one, four = (
        compare(
            predicted("a", 0.5, np.random.default_rng(1), copies=c),
            predicted("b", 0.6, np.random.default_rng(2), copies=c),
        )
        for c in (1, 4)
    )
    assert one.ci95 == pytest.approx(four.ci95)  # four copies of a row tell nothing new
    assert four.rows == 4 * four.clusters


def test_rows_in_another_order_are_aligned() -> None:
    rng = np.random.default_rng(4)
    a, b = predicted("a", 0.3, rng), predicted("b", 0.5, rng)
    order = rng.permutation(400)
    rows = {f: getattr(b, f)[order] for f in ("source", "clusters", "y", "predictions")}
    assert compare(a, dataclasses.replace(b, **rows)).ci95 == compare(a, b).ci95


def test_what_cannot_be_compared_is_refused() -> None:
    rng = np.random.default_rng(5)
    a, b = predicted("a", 0.3, rng), predicted("b", 0.5, rng)
    with pytest.raises(ValueError, match=r"of targets \('a', 'b'\), b of \('a', 'c'\)"):
        compare(a, dataclasses.replace(b, target_names=("a", "c")))
    with pytest.raises(ValueError, match="400 table rows are tested in a alone, 400 in b"):
        compare(a, dataclasses.replace(b, source=b.source + 1000))
    moved = b.y.copy()
    moved[17, 0] += 1
    with pytest.raises(ValueError, match="table row 17"):
        compare(a, dataclasses.replace(b, y=moved))


@pytest.fixture(scope="module")
def findings() -> Findings:
    world = planted(n_rows=500, width=12, surface=0.4, hidden=0.3)
    return sweep(world.activations, world.table, baselines=world.baselines, n_bootstrap=200, progress=False)


@pytest.mark.slow
def test_layers_of_findings(findings: Findings, tmp_path) -> None:
    found = compare(findings, findings.at("blocks.0.hook_resid_post"), n_bootstrap=300)
    assert found.label == FIRST
    assert found.score_a == pytest.approx(findings.verdict.score, abs=1e-9)
    assert compare(findings, findings).label == NEITHER
    found.save(tmp_path / "c")
    back = Comparison.load(tmp_path / "c")
    assert back.summary() == found.summary()
    assert "the first is better" in back.summary().splitlines()[0]
    assert len(back.figures()) == len(back.tables()) == 1
