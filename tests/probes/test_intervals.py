"""The interval of the gain from few clusters, what leaves it undecided, and what stands beside it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_1samp

from graticule.hooks.artifact import json_ready
from graticule.hooks.saved import decode
from graticule.probes.core import resample
from graticule.probes.core.detection import detection, power_curve
from graticule.probes.core.findings_figures import power_figures
from graticule.probes.core.fit import Predictions
from graticule.probes.core.intervals import (
    Estimates,
    mean_of,
    mean_r2_estimate,
    r2_estimates,
    ratio,
)
from graticule.probes.core.labels import BETTER_BY_LITTLE, NO_BETTER, NOT_DECIDED, STRUCTURE
from graticule.probes.core.power import RowsNeeded, design_effect
from graticule.probes.core.resample import cluster_sums
from graticule.probes.core.selection import unselected_gain
from graticule.probes.core.undecided import RULED, largest_share
from graticule.probes.core.verdict import Verdict, verdict
from graticule.probes.scores.metrics import mean_r2, spearman


def judge(
    y: np.ndarray, probe: np.ndarray, surface: np.ndarray, n: int, clusters: np.ndarray | None = None
) -> Verdict:
    """The verdict on rows n and later."""
    test = np.arange(len(y) - n) if clusters is None else clusters
    made = {name: Predictions(v[:n], v[n:]) for name, v in (("probe", probe), ("embedding", surface))}
    return verdict(
        y[:n],
        y[n:],
        made["probe"],
        {"embedding": made["embedding"]},
        test_clusters=test,
        target_names=["t"],
        model_baselines=["embedding"],
        min_gain=0.01,
        n_bootstrap=100,
        seed=0,
    )[0]


def world(n: int, gain: float, seed: int, surface: float = 0.3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    s, h, e = np.random.default_rng(seed).normal(size=(3, n, 1))
    y = np.sqrt(surface) * s + np.sqrt(gain) * h + np.sqrt(1 - surface - gain) * e
    return y, np.sqrt(surface) * s + np.sqrt(gain) * h, np.sqrt(surface) * s


# The interval ----------------------------------------------------------------------------------------
def test_the_mean_of_independent_rows_has_the_t_interval_of_scipy() -> None:
    values = np.random.default_rng(0).normal(0.2, size=30)
    found, oracle = mean_of(values, np.arange(30)), ttest_1samp(values, 0)
    assert found.ci95 == pytest.approx(tuple(oracle.confidence_interval()))
    assert float(found.p()) == pytest.approx(oracle.pvalue)
    assert float(found.p(two_sided=False)) == pytest.approx(oracle.pvalue / 2)
    assert float(found.df) == pytest.approx(29)


def test_left_out_clusters_by_brute_force() -> None:
    rng = np.random.default_rng(1)
    y = rng.normal(size=(70, 2))
    a, b = y + rng.normal(size=y.shape), y + 1.2 * rng.normal(size=y.shape)
    clusters = rng.integers(0, 8, 70)
    sums = cluster_sums(y, {"a": a, "b": b}, clusters)
    for names, figure in (
        (("a", "b"), lambda k: mean_r2(y[k], a[k]) - mean_r2(y[k], b[k])),
        (("b",), lambda k: mean_r2(y[k], b[k])),
    ):
        found, whole = mean_r2_estimate(sums, *names), figure(np.arange(70))
        apart = [figure(np.flatnonzero(clusters != c)) - whole for c in range(8)]
        assert float(found.value) == pytest.approx(whole)
        assert float(found.se) == pytest.approx(np.sqrt(7 / 8 * np.square(apart).sum()))
    each = r2_estimates(sums, "a", "b")
    assert each.value.mean() == pytest.approx(float(mean_r2_estimate(sums, "a", "b").value))


def test_the_degrees_of_freedom_are_those_of_the_matrices() -> None:
    """tr(QW)² / tr(QWQW) written out, of clusters of unequal size and weight."""
    rng = np.random.default_rng(2)
    sizes = rng.integers(1, 30, 9)
    clusters = np.repeat(np.arange(9), sizes)
    below = rng.random(len(clusters))
    found = ratio(rng.normal(size=len(clusters)), below, clusters)
    h = np.bincount(clusters, weights=below) / below.sum()
    reach = np.eye(9) - np.outer(h, np.ones(9))
    q = reach.T @ np.diag(1 / (1 - h) ** 2) @ reach @ np.diag(sizes)
    assert float(found.df) == pytest.approx(np.trace(q) ** 2 / np.trace(q @ q))
    assert float(found.df) < 8
    equal = mean_of(rng.normal(size=60), np.repeat(np.arange(6), 10))
    assert float(equal.df) == pytest.approx(5)


def test_many_at_once_are_those_one_at_a_time() -> None:
    rng = np.random.default_rng(3)
    above, below, clusters = rng.normal(size=(50, 3)), rng.random((50, 3)), rng.integers(0, 7, 50)
    every = ratio(above, below, clusters)
    for t in range(3):
        alone = ratio(above[:, t], below[:, t], clusters)
        assert (every.low[t], every.high[t]) == pytest.approx(alone.ci95)


def test_a_single_cluster_has_no_interval_and_a_difference_has_welchs() -> None:
    alone = mean_of(np.arange(5.0), np.zeros(5, int))
    assert np.isnan(alone.ci95).all() and np.isnan(alone.p())
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=12), rng.normal(1, 3, size=20)
    apart = mean_of(a, np.arange(12)) - mean_of(b, np.arange(20))
    v, w = a.var(ddof=1) / 12, b.var(ddof=1) / 20
    assert float(apart.df) == pytest.approx((v + w) ** 2 / (v**2 / 11 + w**2 / 19))
    nothing = Estimates(np.array(0.0), np.array(0.0), np.array(3.0))
    assert nothing.ci95 == (0, 0) and float(nothing.p()) == 1


@pytest.mark.parametrize("clusters", [3, 5, 10])
def test_few_clusters_are_covered(clusters: int) -> None:
    """Clusters of 20 rows that hang together: the gain of the predictors themselves, in closed form."""
    rng, covered = np.random.default_rng(clusters), 0
    for _ in range(200):
        code = np.repeat(np.arange(clusters), 20)
        s, h, e = np.sqrt(0.5) * (rng.normal(size=(3, clusters))[:, code] + rng.normal(size=(3, len(code))))
        y = np.sqrt(0.3) * s + np.sqrt(0.1) * h + np.sqrt(0.6) * e
        surface, full = np.sqrt(0.3) * s, np.sqrt(0.3) * s + np.sqrt(0.1) * h
        sums = cluster_sums(y[:, None], {"s": surface[:, None], "f": full[:, None]}, code)
        low, high = mean_r2_estimate(sums, "f", "s").ci95
        covered += low <= 0.1 <= high
    assert covered / 200 >= 0.91


# What leaves it undecided ----------------------------------------------------------------------------
@pytest.mark.parametrize("gain", [0.0, 0.5])
def test_fewer_than_ten_rows_or_three_clusters_decide_nothing(gain: float) -> None:
    for seed in range(20):
        y, probe, surface = world(109, gain, seed)
        found = judge(y, probe, surface, 100)
        assert found.label == f"{NOT_DECIDED}: 9 test rows, and 10 are needed"
        y, probe, surface = world(160, gain, seed)
        found = judge(y, probe, surface, 100, np.repeat([0, 1], 30))
        assert found.label.startswith(f"{NOT_DECIDED}: 2.0 effective clusters")
        assert "what it would take: about" in "\n".join(detection(found, None, None, "60 test rows"))


def test_a_probe_that_says_the_same_of_every_row_decides_nothing() -> None:
    y, _, surface = world(400, 0.0, 0)
    for constant in (0.0, 1.5):
        assert judge(y, np.full_like(y, constant), surface, 200).label.startswith(NOT_DECIDED)


def test_a_surface_far_below_zero_is_no_floor() -> None:
    y, _, surface = world(400, 0.0, 1)
    surface[200:] *= -6
    found = judge(y, surface, surface, 200)
    assert found.surface < -2
    assert found.label.startswith(f"{NOT_DECIDED}: the baselines predict the test rows far worse")


def test_rows_that_rule_the_squares_decide_nothing_and_ranks_stand_beside() -> None:
    y, probe, surface = world(900, 0.2, 2)
    plain = judge(y, probe, surface, 600)
    assert plain.label == STRUCTURE and plain.by_rank is None and plain.largest_share < 0.15
    heavy = [np.exp(3 * v) for v in (y, probe, surface)]
    found = judge(heavy[0], heavy[1], heavy[2], 600)
    assert found.label.startswith(f"{NOT_DECIDED}: the largest 1% of test rows hold")
    assert found.largest_share > RULED and found.by_rank is not None
    assert found.by_rank.ci95[0] > 0.05
    # ranks are what they were before the targets were stretched
    assert found.by_rank.surface == pytest.approx(spearman(y[600:], surface[600:])[0] ** 2, abs=0.05)
    assert "in ranks among the training rows" in found.summary()
    assert decode(json_ready(found), Verdict) == found


def test_the_share_of_the_largest_rows() -> None:
    rng = np.random.default_rng(5)
    y = np.column_stack([rng.normal(size=1000), np.exp(1.5 * rng.normal(size=1000)), rng.random(1000) < 0.01])
    shares = largest_share(y * [1, 1e100, 1])
    squares = np.sort(np.square(y[:, 0] - y[:, 0].mean()))
    assert shares[0] == pytest.approx(squares[-10:].sum() / squares.sum())
    assert shares[1] > 0.5 and shares[2] == 0
    assert not largest_share(y[:39]).any()


def test_a_small_gain_that_is_sure_has_its_own_words() -> None:
    y, probe, surface = world(60_000, 0.004, 6, surface=0.9)
    found = judge(y, probe, surface, 20_000)
    assert found.label == BETTER_BY_LITTLE
    assert found.gain_of_rest == pytest.approx(0.004 / 0.1, rel=0.15)
    assert f"{found.gain_of_rest:.1%} of what they leave" in found.summary()


# What stands beside it -------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_gain_without_its_selection_is_median_unbiased() -> None:
    """Of those that pass, half of the corrected gains are above the true one, at any true gain."""
    rng, se, df = np.random.default_rng(7), 0.02, 60.0
    bar = student.ppf(0.975, df) * se
    for true in (0.02, 0.05, 0.09):
        measured = true + se * rng.standard_t(df, size=6000)
        passing = measured[measured > bar][:300]
        corrected = np.array([unselected_gain(float(g), se, df, 0.01) for g in passing])
        assert (corrected <= passing + 1e-12).all()
        assert np.mean(corrected > true) == pytest.approx(0.5, abs=0.1)
        assert np.mean(passing) - true > np.abs(np.median(corrected) - true)
    assert unselected_gain(0.5, 0.001, 60.0, 0.01) == pytest.approx(0.5)


@pytest.mark.parametrize(("surface", "gain", "rows"), [(0.3, 0.05, 400), (0.6, 0.02, 300)])
def test_power_is_that_of_simulated_worlds(surface: float, gain: float, rows: int) -> None:
    found = 0
    for seed in range(300):
        y, full, own = world(rows, gain, seed, surface)
        sums = cluster_sums(y, {"f": full, "s": own}, np.arange(rows))
        found += mean_r2_estimate(sums, "f", "s").ci95[0] > 0
    needs = RowsNeeded(surface, 1.0, 1.0)
    assert needs.power(gain, float(rows)) == pytest.approx(found / 300, abs=0.09)
    assert needs.power(gain, float(needs.rows(gain))) == pytest.approx(0.8, abs=0.01)
    assert needs.gain(float(needs.rows(gain))) == pytest.approx(gain, rel=0.03)
    curve = needs.curve([gain], [100, 400, 1600])
    assert curve["power"].is_monotonic_increasing


def test_the_design_effect_of_whole_and_of_independent_clusters() -> None:
    rng = np.random.default_rng(8)
    clusters = np.repeat(np.arange(200), 5)
    whole, apart = rng.normal(size=(200, 1))[clusters], rng.normal(size=(1000, 1))
    assert design_effect(whole, whole, clusters) == pytest.approx(5)
    assert design_effect(apart, whole, clusters) == pytest.approx(1, abs=0.3)
    assert design_effect(apart, apart, np.arange(1000)) == 1


def test_what_is_said_of_detection_agrees_with_the_verdict() -> None:
    y, probe, surface = world(500, 0.1, 9)
    found = judge(y, probe, surface, 250)
    assert found.label == STRUCTURE
    (line,) = detection(found, found.gain / 2, 0.2, "")
    assert "would have been seen 80% of the time" in line
    (line,) = detection(found, found.gain * 2, 0.2, "")
    assert "was seen" in line and "missed more often" in line
    y, _, surface = world(4000, 0.0, 10)
    none = judge(y, surface + 1e-3 * np.random.default_rng(0).normal(size=y.shape), surface, 2000)
    assert none.label == NO_BETTER
    for limit in (0.05, float("nan")):
        (line,) = detection(none, limit, 0.2, "")
        assert "left open" in line and "by its interval not above" in line
    y, probe, surface = world(190, 0.05, 12)
    few = judge(y, probe, surface, 150)
    assert few.label == NOT_DECIDED
    (line,) = detection(few, None, None, "")
    assert line.startswith("what it would take: about") and "one of 0.05" in line
    assert power_curve(found) is None and not power_figures(found)
    curve = power_curve(few)
    assert curve is not None and curve["power"].between(0, 1).all()
    (figure,) = power_figures(few).values()
    assert len(figure.data) >= curve["gain"].nunique()


def test_resamples_are_those_drawn_one_by_one(monkeypatch):
    for size, labels in ((7, None), (50, None), (9, np.array([0, 8, 8, 3, 3]))):
        rng, drawn = np.random.default_rng(5), np.arange(size) if labels is None else labels
        picks = [drawn[rng.integers(0, len(drawn), len(drawn))] for _ in range(31)]
        expected = np.stack([np.bincount(pick, minlength=size) for pick in picks])
        for cells in (1 << 20, 4 * size):  # all at once, four at a time
            monkeypatch.setattr(resample, "_CHUNK_CELLS", cells)
            assert np.array_equal(np.concatenate(list(resample.resamples(size, 31, 5, labels))), expected)
