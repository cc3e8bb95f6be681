"""Scores against scikit-learn, SciPy and brute force."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from graticule.hooks.values import NonFiniteError
from graticule.probes.core.resample import cluster_sums
from graticule.probes.scores import metrics
from graticule.probes.scores.geo import haversine_km, proximity_error, proximity_error_1d, unit_sphere
from graticule.probes.scores.metrics import number_text, signed, with_interval


@dataclass(frozen=True)
class Targets:
    kind: str
    target_names: tuple[str, ...]
    units: tuple[str | None, ...]


def places(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.stack([rng.uniform(-85, 85, n), rng.uniform(-180, 180, n)], axis=1)


def brute_proximity(distance: np.ndarray) -> np.ndarray:
    """Distance [true row, predicted row] to errors, ties to 1e-6 of the unit."""
    own = np.diag(distance)[:, None]
    ties = np.abs(distance - own) < 1e-6
    return ((distance < own) & ~ties).mean(axis=1) + (ties.sum(axis=1) - 1) / 2 / len(distance)


def haversine_matrix(true: np.ndarray, pred: np.ndarray) -> np.ndarray:
    n = len(true)
    at = [np.repeat(true[:, i], n) for i in (0, 1)] + [np.tile(pred[:, i], n) for i in (0, 1)]
    return haversine_km(*at).reshape(n, n)


@pytest.mark.parametrize("n", [2, 60, 701])
def test_proximity_error_is_the_brute_force_one(n: int) -> None:
    rng = np.random.default_rng(n)
    true = places(rng, n)
    pred = true + rng.normal(0, 25, true.shape)  # some over the pole, some past the date line
    pred[: n // 3] = pred[n // 3 : n // 3 * 2]  # ties between equal predictions
    assert np.allclose(proximity_error(true, pred), brute_proximity(haversine_matrix(true, pred)), atol=1e-12)


def test_proximity_error_of_constant_perfect_and_shuffled_predictions() -> None:
    rng = np.random.default_rng(0)
    true = places(rng, 2000)
    constant = np.tile([[41.3, 2.2]], (2000, 1))
    assert np.allclose(proximity_error(true, constant), 1999 / 4000)
    assert proximity_error(true, true).max() == 0
    assert proximity_error(true, rng.permutation(true)).mean() == pytest.approx(0.5, abs=0.02)
    assert np.allclose(proximity_error_1d(true[:, 0], constant[:, 0]), 1999 / 4000)


def test_proximity_error_reads_latitude_first() -> None:
    """Swapped columns take longitude -90 for a pole, which the paper's code did."""
    rng = np.random.default_rng(1)
    true = np.stack([rng.uniform(25, 49, 1500), rng.uniform(-120, -70, 1500)], axis=1)
    pred = true + rng.normal(0, 1, true.shape) * [3.0, 6.0]
    right = proximity_error(true, pred).mean()
    assert proximity_error(true[:, ::-1].copy(), pred[:, ::-1].copy()).mean() > 1.3 * right


def test_proximity_error_on_a_line_with_ties() -> None:
    rng = np.random.default_rng(2)
    true, pred = rng.integers(0, 30, 400).astype(float), rng.integers(0, 30, 400).astype(float)
    brute = brute_proximity(np.abs(true[:, None] - pred))
    assert np.allclose(proximity_error_1d(true, pred), brute, atol=1e-12)
    assert proximity_error_1d(true, true + 0.0).max() > 0  # equal years are ties, not wins
    assert np.allclose(proximity_error_1d(true, true), brute_proximity(np.abs(true[:, None] - true)))


def test_proximity_error_refuses_nan() -> None:
    true = places(np.random.default_rng(0), 5)
    pred = true.copy()
    pred[3, 1] = np.nan
    with pytest.raises(ValueError, match="row 3"):
        proximity_error(true, pred)


def test_haversine_degree_and_chord() -> None:
    one = haversine_km(np.array([10.0]), np.array([50.0]), np.array([11.0]), np.array([50.0]))
    assert one[0] == pytest.approx(111.19, abs=0.005)
    rng = np.random.default_rng(3)
    a, b = places(rng, 500), places(rng, 500) * 1.3  # also angles out of the usual range
    chord = np.linalg.norm(unit_sphere(a[:, 0], a[:, 1]) - unit_sphere(b[:, 0], b[:, 1]), axis=1)
    km = haversine_km(a[:, 0], a[:, 1], b[:, 0], b[:, 1])
    assert np.allclose(km, 2 * 6371 * np.arcsin(np.minimum(chord / 2, 1)), rtol=1e-6)


def test_numeric_scores_match_scikit_learn_and_scipy() -> None:
    from scipy import stats
    from sklearn.metrics import mean_absolute_error, r2_score

    rng = np.random.default_rng(4)
    y = rng.normal(1900, 50, (300, 2)).round()  # ties
    pred = y + rng.normal(0, 60, y.shape)
    assert np.allclose(metrics.r2(y, pred), r2_score(y, pred, multioutput="raw_values"), rtol=1e-12)
    assert metrics.mean_r2(y, pred) == pytest.approx(r2_score(y, pred), rel=1e-12)
    assert np.allclose(metrics.mae(y, pred), mean_absolute_error(y, pred, multioutput="raw_values"))
    for i in range(2):
        assert metrics.spearman(y, pred)[i] == pytest.approx(stats.spearmanr(y[:, i], pred[:, i]).statistic)
        assert metrics.pearson(y, pred)[i] == pytest.approx(stats.pearsonr(y[:, i], pred[:, i]).statistic)


def test_category_scores_match_scikit_learn() -> None:
    from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

    rng = np.random.default_rng(5)
    label = rng.integers(0, 4, 400)
    y = np.eye(4)[label]
    scores = (y + rng.normal(0, 0.8, y.shape)).round(1)  # ties
    assert metrics.auroc(y, scores).mean() == pytest.approx(roc_auc_score(y, scores, average="macro"))
    assert metrics.accuracy(y, scores) == accuracy_score(label, scores.argmax(axis=1))
    p = metrics.probabilities(scores)
    assert np.allclose(p.sum(axis=1), 1) and p.min() > 0
    assert metrics.log_loss(y, scores) == pytest.approx(log_loss(label, p))
    binary, one = y[:, :1], scores[:, :1]
    assert metrics.auroc(binary, one)[0] == pytest.approx(roc_auc_score(binary[:, 0], one[:, 0]))
    assert metrics.accuracy(binary, one) == accuracy_score(binary[:, 0] > 0, one[:, 0] > 0.5)
    assert metrics.log_loss(binary, one) == pytest.approx(
        log_loss(binary[:, 0].astype(int), metrics.probabilities(one))
    )


def test_undefined_scores_are_nan_and_left_out_of_means() -> None:
    y = np.stack([np.ones(20), np.arange(20.0)], axis=1)
    pred = y + 0.5
    assert np.isnan(metrics.r2(y, pred)[0])
    assert metrics.mean_r2(y, pred) == metrics.r2(y, pred)[1]
    assert np.isnan(metrics.auroc(y[:, :1], pred[:, :1])[0])
    assert np.isnan(metrics.spearman(y, np.zeros_like(y))).all()


def test_score_has_the_entries_of_each_kind() -> None:
    rng = np.random.default_rng(6)
    y = places(rng, 200)
    pred = y + rng.normal(0, 5, y.shape)
    found = metrics.score(y, pred, Targets("numeric", ("lat", "lon"), ("lat", "lon")))
    swapped = metrics.score(
        y[:, ::-1].copy(), pred[:, ::-1].copy(), Targets("numeric", ("lon", "lat"), ("lon", "lat"))
    )
    assert found["haversine_km"] == pytest.approx(swapped["haversine_km"])
    assert found["proximity_error"] == swapped["proximity_error"] < 0.05
    assert found["haversine_km"] >= 111.19 * found["mae"]["lat"]
    assert found["r2_by_target"].keys() == {"lat", "lon"}
    plain = metrics.score(y[:, :1], pred[:, :1], Targets("numeric", ("year",), ("year",)))
    assert "haversine_km" not in plain and 0 < plain["proximity_error"] < 0.5
    flag = (y[:, :1] > 0).astype(float)
    category = metrics.score(flag, flag * 0.8 + 0.1, Targets("binary", ("flag",), (None,)))
    assert (category["auroc"], category["accuracy"]) == (1.0, 1.0)
    assert category["log_loss"] == pytest.approx(-np.log(0.9))
    with pytest.raises(ValueError, match="2 columns"):
        metrics.score(y, pred, Targets("numeric", ("a",), (None,)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    "name", ["r2", "mean_r2", "pearson", "spearman", "mae", "auroc", "accuracy", "log_loss"]
)
def test_predictions_that_are_no_numbers_have_no_score(name, bad):
    """They would be the first class, or a target that is left out of the mean."""
    y = np.tile([[1.0, 0.0], [0.0, 1.0]], (4, 1))
    pred = y + 0.1
    assert np.isfinite(getattr(metrics, name)(y, pred)).all()
    for broken in ((y, np.where(np.arange(8)[:, None] == 3, bad, pred)), (np.where(pred > 1, bad, y), pred)):
        with pytest.raises(NonFiniteError, match="non-finite entries, the first in row"):
            getattr(metrics, name)(*broken)
    with pytest.raises(NonFiniteError, match="predictions: 2 non-finite entries, the first in row 3"):
        metrics.score(
            y,
            np.where(np.arange(8)[:, None] == 3, bad, pred),
            Targets("categorical", ("a", "b"), (None, None)),
        )
    with pytest.raises(NonFiniteError, match="predictions of 'probe': 2 non-finite"):
        cluster_sums(y, {"probe": np.where(np.arange(8)[:, None] == 3, bad, pred)}, np.arange(8))


def test_what_rounds_to_nothing_has_no_minus() -> None:
    assert (number_text(-1e-5), signed(-1e-5, "1 row")) == ("0.000", "+0.000")
    assert with_interval(-1e-5, (-0.01, 1e-9), "1 row", 2) == "+0.00 [-0.01, +0.00]"
