"""Adjusted p-values against SciPy and brute force; the simultaneous band by simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control

from graticule import Findings, sweep
from graticule.probes.compare import gain_estimate, gain_p, gain_samples, holm_verdicts
from graticule.probes.core.resample import interval
from graticule.probes.layer_band import LayerBand, layer_band
from graticule.probes.scores.significance import (
    adjusted_table,
    benjamini_hochberg,
    bootstrap_p,
    holm,
    max_t_band,
)
from graticule.sims.planted import planted


@pytest.fixture(scope="module")
def findings() -> Findings:
    world = planted(n_rows=500, width=12, surface=0.4, hidden=0.2, n_targets=2)
    return sweep(world.activations, world.table, baselines=world.baselines, n_bootstrap=300, progress=False)


def test_benjamini_hochberg_is_scipys() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 400):
        p = rng.random(size) ** 3
        assert np.allclose(benjamini_hochberg(p), false_discovery_control(p))
    with_gap = benjamini_hochberg([0.01, float("nan"), 0.04])
    assert np.isnan(with_gap[1]) and np.allclose(with_gap[[0, 2]], false_discovery_control([0.01, 0.04]))


def test_holm_is_the_closure_of_bonferroni() -> None:
    """Brute force: a test's adjusted p is the largest Bonferroni p of any set of tests that holds it."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        p = rng.random(6) ** 2
        sets = [s for k in range(1, 7) for s in itertools.combinations(range(6), k)]
        brute = [max(min(1.0, len(s) * min(p[list(s)])) for s in sets if i in s) for i in range(6)]
        assert np.allclose(holm(p), brute)
    assert np.isnan(holm([0.5, float("nan")])[1]) and holm([0.5, float("nan")])[0] == 0.5


def test_p_values_out_of_range_are_refused() -> None:
    for adjust in (holm, benjamini_hochberg):
        with pytest.raises(ValueError, match=r"1\.5"):
            adjust([0.1, 1.5])
        assert len(adjust(np.zeros(0))) == 0


def test_bootstrap_p_and_the_interval_agree() -> None:
    """p is below .05 just where the 95% percentile interval leaves 0 out; under the null it is uniform."""
    rng = np.random.default_rng(2)
    low = []
    for shift in np.linspace(-3, 3, 61):
        samples = rng.normal(shift, 1, 999)
        ends = interval(samples)
        p = bootstrap_p(samples)
        if abs(p - 0.05) > 0.004:
            assert (p < 0.05) == (ends[0] > 0 or ends[1] < 0)
        low.append(bootstrap_p(rng.normal(rng.normal(), 1, 999)))
    assert bootstrap_p(np.full(99, 2.0)) == pytest.approx(0.02)
    assert bootstrap_p(np.full(99, 2.0), two_sided=False) == pytest.approx(0.01)
    assert np.isnan(bootstrap_p(np.full(5, np.nan)))
    assert 0.3 < np.mean(low) < 0.7


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_the_band_holds_all_parts_at_once(shared: float) -> None:
    """Means of twelve parts, independent or rising and falling together; Bonferroni would be wider then."""
    rng = np.random.default_rng(3)
    held, reach = 0, []
    for _ in range(300):
        common = rng.normal(size=(80, 1))
        rows = np.sqrt(shared) * common + np.sqrt(1 - shared) * rng.normal(size=(80, 12))
        weights = rng.multinomial(80, np.full(80, 1 / 80), size=400) / 80
        low, high = max_t_band(rows.mean(axis=0), weights @ rows)
        held += bool((low <= 0).all() and (high >= 0).all())
        reach.append(float((high - low).mean()) / 2 * np.sqrt(80))
    assert 0.9 <= held / 300 <= 0.985
    bonferroni = 2.865
    assert np.mean(reach) < (bonferroni + 0.1 if shared == 0 else bonferroni - 0.2)


def test_the_band_leaves_out_undefined_draws() -> None:
    samples = np.random.default_rng(4).normal(size=(200, 3))
    holed = np.concatenate([samples, np.full((5, 3), np.nan)])
    assert np.allclose(max_t_band(np.zeros(3), samples), max_t_band(np.zeros(3), holed))
    with pytest.raises(ValueError, match="no resample"):
        max_t_band(np.zeros(3), np.full((5, 3), np.nan))


@pytest.mark.slow
def test_the_p_of_a_gain_is_that_of_its_interval(findings: Findings) -> None:
    samples = gain_samples(findings, n_bootstrap=300)
    with pytest.warns(DeprecationWarning, match=r"gain_samples\(draws=\) is the old name of n_bootstrap="):
        np.testing.assert_array_equal(gain_samples(findings, draws=300), samples)
    assert interval(samples) == pytest.approx(findings.verdict.ci95, abs=0.02)
    assert gain_estimate(findings).ci95 == findings.verdict.ci95
    assert gain_p(findings, n_bootstrap=300) == pytest.approx(float(gain_estimate(findings).p()) / 2)


@pytest.mark.slow
def test_the_verdicts_of_a_study(findings: Findings) -> None:
    table = holm_verdicts({"weak": 0.03, "found": findings, "idle": 0.4}, n_bootstrap=300)
    assert table["name"].to_list() == ["found", "weak", "idle"]
    assert np.allclose(table["holm"], holm(table["p"].to_numpy()))
    assert table["words"][0] == findings.verdict.label and table["words"][1] == ""
    assert table.columns.to_list() == ["name", "p", "holm", "benjamini_hochberg", "gain", "words"]
    assert "gain" not in holm_verdicts({"a": 0.1})
    pd.testing.assert_frame_equal(adjusted_table({"a": 0.1}), holm_verdicts({"a": 0.1}))
    with pytest.raises(ValueError, match="no verdicts"):
        holm_verdicts({})


@pytest.mark.slow
@pytest.mark.parametrize("what", ["score", "gain"])
def test_layers_at_once(findings: Findings, what, tmp_path) -> None:
    band = layer_band(findings, what, n_bootstrap=300)
    rows = band.layers.set_index("point")
    chosen = rows.loc[findings.chosen_point]
    truth = findings.verdict.gain if what == "gain" else findings.verdict.score
    assert chosen["estimate"] == pytest.approx(truth, abs=1e-9)
    if what == "gain":
        alone = (chosen["low_alone"], chosen["high_alone"])
        assert alone == pytest.approx(findings.verdict.ci95, abs=1e-9)
    wider = (rows["high"] - rows["low"]) / (rows["high_alone"] - rows["low_alone"])
    assert (wider > 1).all()
    band.save(tmp_path / what)
    back = LayerBand.load(tmp_path / what)
    assert back.summary() == band.summary()
    assert len(back.figures()) == len(back.tables()) == 1


@pytest.mark.slow
def test_another_kind_of_band_is_refused(findings: Findings) -> None:
    from helpers import as_installed

    with as_installed(), pytest.raises(ValueError, match="'margin'"):
        layer_band(findings, "margin")  # type: ignore[arg-type]
