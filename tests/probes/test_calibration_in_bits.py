"""Calibration of yes-or-no findings: the batched verdict in bits is the plain one, and so is its unit."""

from __future__ import annotations

import numpy as np
import pytest

from graticule import Table, calibrate, sweep
from graticule.probes.calibration.components import Chosen
from graticule.probes.calibration.in_bits import judge_bits, known_bits, logit_stacks
from graticule.probes.calibration.judging import held_aside, resampled
from graticule.probes.calibration.result import HIDDEN, NOISE, Calibration
from graticule.probes.core.bits import bits_verdict
from graticule.probes.core.fit import Predictions, Problem
from graticule.probes.core.labels import NO_BETTER_THAN_BEST
from graticule.probes.core.verdict import STRUCTURE
from graticule.probes.surface.baselines import Baselines, text_digest
from graticule.sims.planted import planted


@pytest.mark.parametrize("members", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_many_verdicts_in_bits_are_those_one_at_a_time(members: int) -> None:
    """Of many members and few rows a stack with the probe beats that without it, and not its best member."""
    rng = np.random.default_rng(0)
    n, n_test, count = (120, 60, 5) if members == 2 else (30, 120, 20)
    y = (rng.normal(size=(count, n + n_test)) > 0.6).astype(float)
    y[-1] = rng.random(n + n_test) < 0.03  # hardly varies
    clusters = np.repeat(np.arange((n + n_test) // 2), 2)
    strengths = {f"b{i}": 0.2 for i in range(1, members)} | {"a": 0.5, "p": 1.0}
    if members > 2:
        strengths |= {"a": 1.5}
    scores = {name: y * strength + rng.normal(size=y.shape) for name, strength in strengths.items()}
    chosen = {k: Chosen(np.ones(count), s[:, :n], s[:, n:]) for k, s in scores.items()}
    probe = chosen["p"]
    beside = {k: one for k, one in chosen.items() if k != "p"}
    centred = y - y[:, :n].mean(axis=1, keepdims=True)
    stacked = logit_stacks(centred[:, :n], beside, probe)
    judged = judge_bits(
        centred[:, :n], centred[:, n:], stacked, clusters[n:], min_gain=None, model_baselines=True
    )
    for t in range(count):
        rows = np.arange(n + n_test)
        problem = Problem(rows, y[t][:, None], rows >= n, clusters, ("y",))
        given = {k: Predictions(s[t, :n, None], s[t, n:, None]) for k, s in scores.items()}
        probe_of = given.pop("p")
        one = bits_verdict(problem, probe_of, given, model_baselines=["a"], min_gain=None)
        assert judged.words[t] == one.label
        assert (judged.gain[t], judged.surface[t]) == pytest.approx((one.gain, one.surface))
        assert (judged.low[t], judged.high[t]) == pytest.approx(one.ci95)
    assert members == 2 or judged.words.count(NO_BETTER_THAN_BEST) > 0
    again = judged.sums.gains()
    assert again.value == pytest.approx(judged.gain) and again.low == pytest.approx(judged.low)
    assert held_aside(judged.sums, 0).dtype == resampled(judged.sums, 0).dtype == bool


def test_what_a_known_part_would_add_is_what_it_adds() -> None:
    rng = np.random.default_rng(1)
    hidden = rng.normal(size=(1, 40_000))
    y = (rng.random(hidden.shape) < 1 / (1 + np.exp(-hidden))).astype(float)
    p = 1 / (1 + np.exp(-hidden))
    expected = 1 + float((p * np.log2(p) + (1 - p) * np.log2(1 - p)).mean())
    assert known_bits(y - y.mean(), np.full(y.shape, 0.5), hidden)[0] == pytest.approx(expected, abs=0.005)
    assert known_bits(y - y.mean(), np.full(y.shape, 0.5), np.zeros(y.shape))[0] == 0


@pytest.fixture(scope="module")
def calibrated():
    world = planted(n_rows=400, width=12, seed=2, n_layers=2, surface=0.3, hidden=0.4)
    frame = world.table.frame.copy()
    frame["yes"] = np.where(frame["target"] > frame["target"].quantile(0.6), "high", "low")
    table = Table(frame, text="text", target="yes", split="is_test", positive="high")
    beside = Baselines(text_digest(table), world.baselines.features, True)
    findings = sweep(world.activations, table, baselines=beside, progress=False)
    return findings, calibrate(findings, targets=10, gains=(0.02, 0.2, 0.4), strengths=6, seed=1)


@pytest.mark.slow
def test_a_verdict_in_bits_is_calibrated_in_bits(calibrated, tmp_path) -> None:
    findings, calibration = calibrated
    assert findings.verdict.metric == calibration.metric == "bits"
    assert calibration.gain == findings.verdict.gain
    assert calibration.min_gain == pytest.approx(findings.verdict.min_gain)
    assert 0 < calibration.limit_of_detection < 1
    text = calibration.summary()
    assert "R²" not in text and "bits would have been seen 80% of the time" in text
    assert "bits would have been seen" in findings.summary() or "bits to be seen" in findings.summary()
    assert calibration.rate(NOISE)[0] == 0
    rates = calibration.rates[calibration.rates["kind"] == HIDDEN]
    assert (rates["known"] > rates["gain"]).all() and rates["known"].is_monotonic_increasing
    assert (calibration.targets["words"] == STRUCTURE).any()
    calibration.save(tmp_path / "c")
    assert Calibration.load(tmp_path / "c").summary() == text
    assert any("surface bits" in table for table in calibration.tables().values())
    assert calibration.figures()
