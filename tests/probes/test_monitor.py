"""Alarms: thresholds of training rows, applied to test rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import brier_score_loss

from graticule import Activations, Table, monitor, sweep
from graticule.probes.beyond.monitor import Monitor, threshold_at
from graticule.probes.core.bits import calibrated

N = 1000


@pytest.fixture(scope="module")
def findings():
    rng = np.random.default_rng(0)
    truth = rng.random(N) < 0.2
    x = rng.normal(size=(N, 8))
    x[:, 0] += 3 * truth
    frame = pd.DataFrame({"name": [f"text {k}" for k in range(N)], "lie": np.where(truth, "lie", "honest")})
    rows = pd.DataFrame({"source": np.arange(N), "text": frame["name"]})
    activations = Activations({"blocks.0.hook_resid_post": torch.tensor(x)}, rows)
    return sweep(activations, Table(frame, text="name", target="lie", positive="lie"))


def test_a_threshold_is_the_lowest_that_lets_no_more_through() -> None:
    scores = np.random.default_rng(1).permutation(100) / 100
    for rate, allowed in ((0.01, 1), (0.05, 5), (0.055, 5), (0.29, 29)):
        threshold = threshold_at(rate, scores)
        assert (scores > threshold).sum() == allowed
        assert (scores >= threshold).sum() == allowed + 1
    assert np.isnan(threshold_at(0.009, scores))


def test_alarms_are_those_of_thresholds_on_training_rows(findings) -> None:
    result = monitor(findings, false_positive_rates=(0.02, 0.1))
    problem, predictions = findings.problem, findings.predictions_at()
    p, was = calibrated(problem, predictions)[:, 0], problem.y[problem.test][:, 0] > 0.5
    for line in result.alarms.itertuples():
        alarm = p > line.threshold
        assert line.recall == pytest.approx(alarm[was].mean())
        assert line.false_positives == pytest.approx(alarm[~was].mean())
        assert line.precision == pytest.approx(was[alarm].mean())
        assert line.false_positives_low < line.asked < line.false_positives_high
        assert line.recall_low < line.recall < line.recall_high
    assert result.alarms["recall"].is_monotonic_increasing
    assert result.scores["probe"].brier == pytest.approx(brier_score_loss(was, p))
    assert result.positive == "lie" and "of 'lie' above a probability of" in result.summary()


def test_a_rate_given_twice_is_told_once(findings) -> None:
    assert monitor(findings, false_positive_rates=[0.1, 0.1, 0.02]).alarms["asked"].tolist() == [0.1, 0.02]


def test_too_few_rows_of_the_other_class_set_no_threshold(findings) -> None:
    result = monitor(findings, false_positive_rates=0.0001)
    assert np.isnan(result.alarms["threshold"]).all()
    assert "no threshold, which takes 10000 training rows of the other class" in result.summary()


@pytest.mark.slow
def test_what_is_no_monitor_is_refused(findings) -> None:
    with pytest.raises(ValueError, match=r"false_positive_rates=1\.5: expected shares above 0 and below 1"):
        monitor(findings, false_positive_rates=1.5)
    numbers = Table(findings.inputs.table.frame.assign(z=np.arange(N) * 0.5), text="name", target="z")
    with pytest.raises(ValueError, match="no target of two classes"):
        monitor(sweep(findings.inputs.activations, numbers))


def test_it_comes_back_from_disk(findings, tmp_path) -> None:
    result = monitor(findings)
    result.save(tmp_path / "m")
    again = Monitor.load(tmp_path / "m")
    assert again.summary() == result.summary()
    pd.testing.assert_frame_equal(again.alarms, result.alarms)
    assert set(result.tables())
    (figure,) = result.figures().values()
    assert figure.layout.xaxis.title.text == "probability of lie"
    assert figure.layout.yaxis.title.text == "share of lie"
