"""The paper's own scoring, and the combined proximity error."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from graticule.probes.core.inputs import Predicted
from graticule.probes.papers.compat import PaperCompat, compat_proximity_error, score_paper_compat
from graticule.probes.scores.geo import (
    haversine_km,
    proximity_counts,
    proximity_error,
    proximity_error_1d,
    unit_sphere,
)


def american(n: int = 4000, seed: int = 0) -> np.ndarray:
    """Places spread over the box of the lower 48 states, thinner towards the west, as the table's are."""
    rng = np.random.default_rng(seed)
    lon = -68 - 56 * rng.beta(1.3, 2.2, n)
    return np.stack([rng.normal(38.5, 4.9, n).clip(25, 49), lon], axis=1)


def noisy(true: np.ndarray, r2: float, seed: int = 1) -> np.ndarray:
    """What a linear probe of this R² says: shrunk, with Gaussian errors that the truth does not predict."""
    rng = np.random.default_rng(seed)
    error = rng.normal(size=true.shape) * true.std(axis=0) * np.sqrt(r2 * (1 - r2))
    return true.mean(axis=0) + r2 * (true - true.mean(axis=0)) + error


def as_predicted(true, pred, units=("lat", "lon")) -> Predicted:
    n = len(true)
    names = tuple(f"target {i}" for i in range(true.shape[1]))
    return Predicted("test", names, units, np.arange(n), np.arange(n), true, pred)


def test_swapped_axes_distort_american_errors() -> None:
    """Longitudes about −90 become a pole: at R² .8 the error is .190 where it should be .115."""
    true = american()
    pred = noisy(true, 0.8)
    right, theirs = proximity_error(true, pred).mean(), compat_proximity_error(true, pred).mean()
    assert right == pytest.approx(0.13, abs=0.03)
    assert 1.4 < theirs / right < 2.0


@pytest.mark.skipif("GRATICULE_SPACE_TIME" not in os.environ, reason="needs the paper's tables")
@pytest.mark.parametrize(
    ("name", "r2", "right", "theirs"), [("us_place", 0.8, 0.115, 0.190), ("world_place", 0.9, 0.098, 0.113)]
)
def test_the_effect_on_the_papers_tables(name: str, r2: float, right: float, theirs: float) -> None:
    rows = pd.read_csv(Path(os.environ["GRATICULE_SPACE_TIME"]) / f"{name}.csv")
    true = rows.loc[rows["is_test"], ["latitude", "longitude"]].to_numpy(np.float64)
    pred = noisy(true, r2)
    assert proximity_error(true, pred).mean() == pytest.approx(right, abs=0.03)
    assert compat_proximity_error(true, pred).mean() == pytest.approx(theirs, abs=0.03)


def test_a_constant_scores_nothing_there_and_a_half_here() -> None:
    true = american(500)
    constant = np.tile([[40.0, -90.0]], (500, 1))
    assert compat_proximity_error(true, constant).max() == 0
    assert proximity_error(true, constant).mean() == pytest.approx(0.5, abs=0.002)
    years = true[:, :1]
    assert compat_proximity_error(years, np.full((500, 1), 40.0)).max() == 0


def test_strict_and_swapped_is_the_brute_force_one() -> None:
    true = american(300)
    pred = noisy(true, 0.7)
    pred[:50] = pred[50:100]
    n = len(true)
    swapped = [np.repeat(true[:, i], n) for i in (1, 0)] + [np.tile(pred[:, i], n) for i in (1, 0)]
    km = haversine_km(*swapped).reshape(n, n)
    own = np.diag(km)[:, None]
    expected = ((km < own) & (np.abs(km - own) > 1e-7)).mean(axis=1)
    assert np.allclose(compat_proximity_error(true, pred), expected, atol=1e-12)


def test_both_scorings_side_by_side(tmp_path: Path) -> None:
    true = american(800)
    found = score_paper_compat(as_predicted(true, noisy(true, 0.8)))
    scores = found.scores.set_index("score")
    km = haversine_km(true[:, 1], true[:, 0], noisy(true, 0.8)[:, 1], noisy(true, 0.8)[:, 0])
    assert scores.loc["haversine MAE (km)", "paper_compat"] == pytest.approx(km.mean())
    assert (scores["paper_compat"] != scores["graticule"]).all()
    assert found.summary().startswith("paper_compat") and "paper_compat" in next(iter(found.tables()))
    found.save(tmp_path / "compat")
    assert PaperCompat.load(tmp_path / "compat").scores.equals(found.scores)
    year = score_paper_compat(as_predicted(true[:, :1], true[:, :1] + 1, ("year",)))
    assert len(year.scores) == 1
    with pytest.raises(ValueError, match="coordinates or one number"):
        score_paper_compat(as_predicted(true, true, (None, None)))


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_rank_among_all_predictions(scale: float) -> None:
    """The combined error: some rows, all predictions; each row's own counts once."""
    rng = np.random.default_rng(0)
    true = [40, -74] + scale * (american(700) - [40, -74])
    pred = true + scale * rng.normal(0, 4, true.shape)
    pred[:100] = pred[100:200]  # ties between equal predictions
    some = rng.permutation(700)[:90]
    whole = proximity_error(true, pred)
    assert np.array_equal(proximity_error(true[some], pred[some], pred), whole[some])
    line = proximity_error_1d(true[:, 0], pred[:, 0])
    assert np.array_equal(proximity_error_1d(true[some, 0], pred[some, 0], pred[:, 0]), line[some])
    with pytest.raises(ValueError, match="not in among"):
        proximity_error(true[:5], pred[:5] + 1e-3 * scale, pred)
    with pytest.raises(ValueError, match="not in among"):
        proximity_error_1d(true[:5, 0], pred[:5, 0] + 1e-9, pred[:, 0])


@pytest.mark.parametrize(("scale", "n"), [(1.0, 500), (1e-2, 500), (1e-5, 500), (1.0, 3000)])
def test_counts_are_those_of_float64_whatever_the_scale(scale: float, n: int) -> None:
    """From a continent to a street: what float32 cannot tell apart is told in float64, exactly."""
    rng = np.random.default_rng(n)
    true = [48.85, 2.35] + scale * rng.normal(0, 8, (n, 2))
    pred = true + scale * rng.normal(0, 8, (n, 2))
    pred[: n // 4] = pred[n // 4 : 2 * (n // 4)]
    pred[-3] = [-48.85, -177.65]  # one prediction on the other side of the Earth coarsens float32
    places, guesses = unit_sphere(true[:, 0], true[:, 1]), unit_sphere(pred[:, 0], pred[:, 1])
    dot = sum(places[:, None, i] * guesses[None, :, i] for i in range(3))
    own = np.diag(dot)[:, None]
    closer, ties = proximity_counts(true, pred)
    assert np.array_equal(closer, (dot > own).sum(axis=1))
    assert np.array_equal(ties, (dot == own).sum(axis=1) - 1)
