"""Error by popularity, on worlds where the hidden part is known for well known rows only."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

from graticule import Table, sweep
from graticule.hooks.activations import Activations
from graticule.probes.generalisation.popularity import Popularity, _correlations, popularity
from graticule.probes.surface.baselines import Baselines, text_digest
from graticule.probes.tables.checks import ColumnError


def _findings(known_part, units=(None,), views=None, n=1500, seed=0):
    """Activations hold the target with noise that shrinks with popularity, or with none of it."""
    rng = np.random.default_rng(seed)
    views = np.exp(rng.normal(9, 1.5, n)) if views is None else views
    rank = np.argsort(np.argsort(np.nan_to_num(views))) / n
    y = rng.normal(size=(n, len(units))) * 20
    noise = 30 * (1 - rank) if known_part else np.full(n, 20.0)
    seen = y + noise[:, None] * rng.normal(size=y.shape)
    X = np.concatenate([seen, rng.normal(size=(n, 6))], axis=1)
    names = [f"y{i}" for i in range(len(units))]
    frame = pd.DataFrame(y, columns=names).assign(
        text=[f"name {i}" for i in range(n)], page_views=views, is_test=rng.random(n) < 0.4, words="no number"
    )
    table = Table(frame, text="text", target=names, units=list(units), split="is_test", name="known")
    weak = Activations.from_tensors({"hook_embed": torch.from_numpy(rng.normal(size=(n, 3)))})
    beside = Baselines(text_digest(table), {"mean_embedding": weak}, False, {})
    activations = Activations.from_tensors({"blocks.0.hook_resid_post": torch.from_numpy(X)})
    return sweep(activations, table, baselines=beside, n_bootstrap=50, progress=False)


@pytest.fixture(scope="module")
def judged():
    findings = _findings(known_part=True)
    return findings, popularity(findings, "page_views", n_bootstrap=500)


def test_errors_fall_with_popularity(judged):
    _, result = judged
    probe = result.strata["probe"].to_numpy()
    assert (np.diff(probe) < 0).all()
    assert probe[0] > 1.5 * probe[-1]
    surface = result.strata["surface"].to_numpy()
    assert np.ptp(surface) < 0.35 * surface.mean()  # the strings know nothing of anyone
    rho = result.spearman.set_index("error")
    assert rho.loc["probe", "high"] < -0.05
    assert abs(rho.loc["surface", "rho"]) < 0.12
    assert rho.loc["saved", "low"] > 0.1


def test_strata_and_correlations_by_hand(judged):
    findings, result = judged
    rows = findings.predictions[findings.predictions["split"] == "test"]
    error = (rows["true_y0"] - rows["pred_y0"]).abs().to_numpy()
    views = findings.inputs.table.frame["page_views"].to_numpy()[rows["source"]]
    assert result.strata["rows"].sum() == len(rows) == result.rows
    assert result.strata["rows"].max() - result.strata["rows"].min() <= 2
    fifth = views <= np.quantile(views, 0.2)
    assert result.strata.loc[0, "probe"] == pytest.approx(error[fifth].mean())
    assert result.strata.loc[0, "low_value"] == pytest.approx(views.min())
    expected = spearmanr(error, views).statistic
    line = result.spearman.set_index("error").loc["probe"]
    assert line["rho"] == pytest.approx(expected)
    assert line["low"] < expected < line["high"]
    saved = result.strata["surface"] - result.strata["probe"]
    assert result.strata["saved"].to_numpy() == pytest.approx(saved.to_numpy())


def test_where_nothing_depends_on_popularity_nothing_is_seen():
    result = popularity(_findings(known_part=False, seed=4), "page_views", n_bootstrap=500)
    line = result.spearman.set_index("error").loc["probe"]
    assert line["low"] < 0 < line["high"]


def test_ties_and_missing_values():
    rng = np.random.default_rng(1)
    views = rng.choice([1.0, 1.0, 1.0, 2.0, 2.0, 5.0, np.nan], 1500)
    result = popularity(_findings(known_part=False, views=views), "page_views", n_bootstrap=50)
    assert result.strata["low_value"].tolist() == result.strata["high_value"].tolist() == [1, 2, 5]
    assert 130 > result.missing > 50
    assert "without page_views left out" in result.summary()
    one = _findings(known_part=False, views=np.full(1500, 7.0))
    with pytest.raises(ValueError, match="no strata"):
        popularity(one, "page_views")


@pytest.mark.slow
def test_units_of_the_error():
    places = popularity(_findings(True, units=("lat", "lon")), "page_views", strata=3, n_bootstrap=50)
    assert places.unit == "km"
    assert places.strata["probe"].max() < 20_100
    assert len(places.strata) == 3
    two = popularity(_findings(True, units=("kg", "year")), "page_views", n_bootstrap=50)
    assert two.unit == "sd"
    assert two.strata["surface"].mean() == pytest.approx(np.sqrt(2 / np.pi), rel=0.1)  # E|z|


def test_saved_and_drawn(judged, tmp_path):
    _, result = judged
    result.save(tmp_path / "popularity")
    loaded = Popularity.load(tmp_path / "popularity")
    assert loaded.summary() == result.summary()
    pd.testing.assert_frame_equal(loaded.strata, result.strata)
    figure = next(iter(loaded.figures().values()))
    assert figure.layout.xaxis.type == "log"
    assert len(next(iter(loaded.tables().values()))) == 5


def test_columns_that_cannot_serve(judged):
    findings, _ = judged
    with pytest.raises(ColumnError, match="page_views"):
        popularity(findings, "page_view")
    with pytest.raises(ValueError, match="holds no numbers"):
        popularity(findings, "words")
    with pytest.raises(ValueError, match="strata=1"):
        popularity(findings, "page_views", strata=1)
    with pytest.raises(KeyError, match=r"blocks\.5"):
        popularity(findings, "page_views", hook_name="blocks.5.hook_resid_post")
    with pytest.raises(ValueError, match="with_inputs"):
        popularity(replace(findings, swept=None), "page_views")


def test_resamples_without_an_error_say_nothing_of_the_correlation():
    values, errors = np.arange(36.0), np.zeros((36, 3))
    errors[[3, 20]] = 1.0
    correlations = _correlations(values, errors, np.arange(36), 500, 0)
    assert correlations[["rho", "low", "high"]].abs().to_numpy().max() <= 1
