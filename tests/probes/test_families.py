"""Many findings together: their p-values, and which of them stand when all tests are counted."""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import graticule
from graticule.cli import main
from graticule.probes.core.findings import Findings
from graticule.probes.core.verdict import NO_BETTER, NOT_DECIDED, STRUCTURE
from graticule.probes.families.family import adjusted_members, judge_family
from graticule.probes.families.gain_tests import GainTest, findings_test, max_t, studentised
from graticule.probes.families.result import Family
from graticule.probes.scores.significance import benjamini_yekutieli
from graticule.report import table_view
from graticule.results import load_result
from graticule.sims.planted import planted
from tests.helpers import as_installed


@pytest.fixture(scope="module")
def several() -> dict[str, Findings]:
    """Two concepts that the activations hold and three that they do not."""
    out = {}
    for seed in range(5):
        hidden = 0.3 if seed < 2 else 0.0
        world = planted(300, width=8, n_layers=1, surface=0.4, hidden=hidden, n_targets=1, seed=seed)
        out[f"concept {seed}"] = graticule.sweep(
            world.activations, world.table, baselines=world.baselines, n_bootstrap=200, progress=False
        )
    return out


@pytest.fixture(scope="module")
def family(several) -> Family:
    return judge_family(several, n_bootstrap=300, progress=False)


@pytest.fixture
def family_of_small_gains() -> Family:
    members = pd.DataFrame(
        {"name": ["a", "b"], "model": "m", "table": ["a", "b"], "point": "p", "gain": [1.4e-8, -6e-4]}
    ).assign(
        unit="bits",
        low=-1e-8,
        high=1e-8,
        p=[0.2, 0.9],
        rows=["x", "y"],
        alone=NO_BETTER,
        label=NO_BETTER,
        named=False,
    )
    return Family(members.assign(q_bh=1.0, q_by=1.0, p_max=1.0, bonferroni=1.0), "max-t", 0.05, {})


@pytest.mark.slow
def test_the_parts_of_the_clusters_are_the_gain_and_its_p_is_that_of_the_verdicts_interval(several):
    for findings in several.values():
        test, verdict = findings_test(findings), findings.verdict
        assert test.gain == pytest.approx(verdict.gain, abs=1e-12)
        assert len(test.parts) == verdict.clusters
        assert (test.p < 0.025) == (verdict.ci95[0] > 0)


def test_clusters_alike_are_tested_by_students_t():
    parts = np.random.default_rng(3).normal(0.2, 1, 30)
    expected = stats.ttest_1samp(parts, 0, alternative="greater")
    test = GainTest.of_parts(parts)
    assert test.p == pytest.approx(expected.pvalue)
    assert test.t == pytest.approx(expected.statistic)
    assert GainTest.of_parts(np.zeros(9)).p == 0.5
    assert np.isnan(GainTest.of_parts(np.ones(1)).p)
    assert np.isnan(GainTest.of_parts(np.full(4, np.nan)).t)


def test_the_largest_of_many_is_that_of_all_sign_turns():
    rng = np.random.default_rng(0)
    parts = rng.normal(0.3, 1, (8, 4))
    tests = [GainTest.of_parts(column, "same") for column in parts.T]
    observed = np.array([test.t for test in tests])
    every = np.array(list(product((-1.0, 1.0), repeat=8)))
    turned = studentised(every @ parts, np.broadcast_to(np.square(parts).sum(axis=0), (256, 4)), 8)
    order, exact = np.argsort(-observed), np.empty(4)
    for n, index in enumerate(order):
        exact[index] = (turned[:, order[n:]].max(axis=1) >= observed[index] - 1e-9).mean()
    exact[order] = np.maximum.accumulate(exact[order])
    np.testing.assert_allclose(max_t(tests, 20_000, 1), exact, atol=0.012)
    refused = np.array([False, True, False, False])
    assert max_t(tests, 500, 1, refused)[1] == 1


def test_sign_turns_are_shared_by_tests_of_the_same_rows_alone():
    part = np.random.default_rng(1).normal(0.4, 1, 40)
    same = max_t([GainTest.of_parts(part, "one") for _ in range(30)], 4000, 0)
    apart = max_t([GainTest.of_parts(part, str(n)) for n in range(30)], 4000, 0)
    np.testing.assert_allclose(same, same[0])  # copies of one test are one test
    assert same[0] == pytest.approx(GainTest.of_parts(part).p, abs=0.02)
    assert apart.min() > 2 * same[0]


@pytest.mark.slow
def test_order_and_company_change_nothing_that_they_should_not(several, family):
    turned = judge_family(dict(reversed(several.items())), n_bootstrap=300, progress=False)
    left, right = (one.members.set_index("name").sort_index() for one in (family, turned))
    for column in ("p", "q_bh", "q_by", "bonferroni", "alone", "label"):
        assert left[column].tolist() == right[column].tolist(), column
    alone = judge_family({"concept 0": several["concept 0"]}, progress=False).members.iloc[0]
    assert alone["q_bh"] == alone["q_by"] == alone["bonferroni"] == alone["p"]


@pytest.mark.slow
def test_what_stands_is_named_and_the_number_of_tests_is_counted(several, family):
    assert set(family.named) == {"concept 0", "concept 1"}
    assert all(family.label(name) == STRUCTURE for name in family.named)
    others = [name for name in several if name not in family.named]
    assert [family.label(name) for name in others] == [several[name].verdict.label for name in others]
    first = family.summary().splitlines()[0]
    assert first == f"2 of 5 findings named {STRUCTURE}, with 5 tests counted"
    with pytest.raises(KeyError, match="no finding 'nought'"):
        family.label("nought")


def test_structure_alone_is_not_decided_where_the_family_is_large():
    rng = np.random.default_rng(2)
    weak = rng.normal(size=50)
    weak = weak - weak.mean() + 2.2 * weak.std(ddof=1) / np.sqrt(50)
    tests = [GainTest.of_parts(weak, "r"), *(GainTest.of_parts(rng.normal(size=50), "r") for _ in range(99))]
    lines = pd.DataFrame({"name": range(100), "alone": [STRUCTURE] + ["no better than the baselines"] * 99})
    for method in ("benjamini-hochberg", "benjamini-yekutieli", "max-t"):
        weakest = adjusted_members(lines, tests, method, 0.05, 200, 0).set_index("name").loc[0]
        assert not weakest["named"]
        assert weakest["label"].startswith("not decided: one of 100 tests, adjusted p ")
    assert adjusted_members(lines[:1], tests[:1], "max-t", 0.05, 200, 0)["named"].all()


def test_yekutieli_is_hochberg_times_the_harmonic_number():
    p = np.array([0.001, 0.02, 0.03, np.nan, 0.9])
    q = benjamini_yekutieli(p)
    assert q[0] == pytest.approx(0.001 * 4 * (1 + 1 / 2 + 1 / 3 + 1 / 4))
    assert np.isnan(q[3])


@pytest.mark.slow
def test_a_family_is_saved_drawn_and_laid_out(family, tmp_path):
    family.save(tmp_path / "family")
    back = load_result(tmp_path / "family")
    assert isinstance(back, Family)
    assert back.summary() == family.summary()
    assert back.named == family.named
    assert family.report(tmp_path / "family.html").exists()
    assert len(family.figures()) == 2
    (table,) = family.tables().values()
    assert list(table["finding"]) == list(family.members["name"])


@pytest.mark.slow
def test_a_family_says_where_the_baselines_leave_too_little(several, family):
    at = several["concept 0"]
    assert family.title == f"5 findings of {at.model} on {at.table}"
    (table,) = family.tables().values()
    assert {"gain, R²", "surface, R²", "probe alone, R²", "baselines leave, R²"} < set(table)
    assert "no evidence" not in family.summary()
    left = family.members.set_index("name")["left"]["concept 3"]
    verdict = several["concept 3"].verdict
    assert left == 1 - verdict.surface
    full = replace(verdict, surface=1 - verdict.min_gain / 2)
    assert full.saturated and not verdict.saturated and not replace(full, label=STRUCTURE).saturated
    of_full = judge_family(
        {**several, "concept 3": replace(several["concept 3"], verdict=full)}, progress=False
    )
    assert of_full.members["saturated"].sum() == 1
    second = of_full.summary().splitlines()[1]
    assert second.startswith("in 1 of 5 the baselines leave less than could be called structure: no evidence")
    assert of_full.in_banner == 2


@pytest.mark.slow
def test_a_saturated_surface_stands_under_the_label_and_in_the_banner(several, tmp_path):
    one = several["concept 3"]
    assert one.in_banner == 1
    full = replace(one, verdict=replace(one.verdict, surface=1 - one.verdict.min_gain / 2))
    second = full.summary().splitlines()[1]
    assert second.startswith("the baselines leave 0.005 R², less than a gain that counts")
    assert "cluster=" in second
    page = full.report(tmp_path / "page.html").read_text(encoding="utf-8")
    banner = page.split('<p class="verdict">')[1].split("</p>")[0]
    assert "<span>the baselines leave 0.005 R²" in banner
    assert page.count("the baselines leave 0.005 R²") == 1


def test_where_the_baselines_leave_little_no_better_is_little_evidence(several):
    left = replace(several["concept 3"].verdict, label=NO_BETTER, surface=0.95)
    assert left.summary().splitlines()[1].startswith("the baselines leave 0.050 of 1.000 R²: that nothing")
    assert "little evidence" not in replace(left, surface=0.85).summary()
    assert "little evidence" not in replace(left, label=NOT_DECIDED).summary()


def test_rows_of_a_family_are_counted_once_and_gains_written_with_fixed_decimals(family_of_small_gains):
    (table,) = family_of_small_gains.tables().values()
    view = table_view(table, "Findings.")
    assert family_of_small_gains.title == "2 findings of m on 2 tables"
    gains = [row[[name for name, _ in view.columns].index("gain, bits")] for row in view.rows]
    alike = replace(family_of_small_gains, members=family_of_small_gains.members.assign(rows=["x", "x"]))
    assert alike.title == "2 findings of m on the same rows"
    assert gains == ["0.000", "−0.001"]


def test_an_undefined_gain_has_no_chance_on_a_page(family_of_small_gains):
    members = family_of_small_gains.members.assign(p=[2e-7, np.nan], q_bh=[4e-7, np.nan])
    (table,) = replace(family_of_small_gains, members=members).tables().values()
    assert list(table["p"]) == ["2e-07", ""] and list(table["q (Benjamini-Hochberg)"]) == ["4e-07", ""]


@pytest.mark.slow
def test_folders_are_read_one_after_another_and_findings_without_names_get_some(several, family, tmp_path):
    for name in list(several)[:2]:
        several[name].save(tmp_path / name)
    read = judge_family({name: tmp_path / name for name in list(several)[:2]}, progress=False)
    assert read.members["p"].tolist() == family.members["p"][:2].tolist()
    unnamed = judge_family(list(several.values()), progress=False)
    assert unnamed.members["name"].is_unique


@pytest.mark.slow
def test_what_is_no_family_is_refused_in_one_line(several):
    one = several["concept 0"]
    with as_installed():
        with pytest.raises(TypeError, match="expected several of them"):
            judge_family(one)
        with pytest.raises(TypeError, match="'b' is 3; expected findings"):
            judge_family({"a": one, "b": 3})
        with pytest.raises(ValueError, match="no findings"):
            judge_family([])
        with pytest.raises(ValueError, match="method='bonferoni'"):
            judge_family([one], method="bonferoni")
        with pytest.raises(ValueError, match="level=0"):
            judge_family([one], level=0)


@pytest.mark.slow
def test_the_command_reads_folders_of_findings_and_writes_a_page(several, tmp_path, capsys):
    for name in list(several)[:3]:
        several[name].save(tmp_path / "runs" / name)
    out = tmp_path / "together"
    assert main(["family", str(tmp_path / "runs"), "--out", str(out)]) == 0
    assert "of 3 findings named" in capsys.readouterr().out
    assert (out / "report.html").exists()
    assert isinstance(load_result(out / "family"), Family)
    assert main(["family", str(tmp_path / "runs"), "--out", str(out)]) == 0  # the same family once more
    capsys.readouterr()
    assert main(["family", str(tmp_path / "runs" / "concept 0"), "--out", str(out)]) == 2  # another family
    assert "choose another folder" in capsys.readouterr().err
    assert "of 3 findings named" in load_result(out / "family").summary()
    assert main(["family", str(out), "--out", str(tmp_path / "other")]) == 2
    assert "holds no findings" in capsys.readouterr().err
    assert main(["family", str(tmp_path / "runs"), "--method", "none", "--out", str(out)]) == 2
    assert "--method 'none': expected benjamini-hochberg" in capsys.readouterr().err
