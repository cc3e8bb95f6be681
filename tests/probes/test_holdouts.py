"""Hold-outs of blocks on worlds whose truth is known, and against honest refits."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from graticule import Activations, Table, sweep
from graticule.probes.generalisation.holdout_scores import (
    Centroids,
    RowScores,
    Squares,
    sign_test,
    weighted_median,
    within_correlation,
)
from graticule.probes.generalisation.holdouts import Holdouts, _grand_r2, holdouts
from graticule.probes.scores.geo import proximity_error
from graticule.probes.surface.baselines import Baselines, text_digest
from graticule.sims.planted import planted

LANDS = ("Avalon", "Brigadoon", "Cockaigne", "Dilmun", "Elysium", "Fiddler's Green")


def globe(linear: bool, seed: int = 0, per_land: int = 90, width: int = 24):
    """Places in six lands. `linear`: activations hold the coordinates; else only which land it is."""
    rng = np.random.default_rng(seed)
    centres = np.stack([rng.uniform(-50, 60, 6), rng.uniform(-120, 120, 6)], axis=1)
    land = np.repeat(np.arange(6), per_land)
    y = centres[land] + rng.normal(size=(len(land), 2)) * [4, 6]
    write = rng.normal(size=(2, width))
    own = rng.normal(size=(6, width))
    x = (y / [30, 60]) @ write if linear else own[land]
    x = x + 0.1 * rng.normal(size=x.shape)
    frame = pd.DataFrame(
        {
            "name": [f"place {i}" for i in range(len(land))],
            "lat": y[:, 0],
            "lon": y[:, 1],
            "land": np.array(LANDS)[land],
            "half": np.where(np.arange(len(land)) % 7 < 3, "x", "y"),
            "is_test": rng.random(len(land)) < 0.3,
        }
    )
    table = Table(
        frame, text="name", target=["lat", "lon"], units=["lat", "lon"], split="is_test", blocks="land",
        name="globe",
    )  # fmt: skip
    activations = Activations.from_tensors(
        {"blocks.0.hook_resid_post": torch.from_numpy(x.astype(np.float32))}
    )
    noise = rng.normal(size=(len(land), 4)).astype(np.float32)
    features = {"mean_embedding": Activations.from_tensors({"hook_embed": noise})}
    base = Baselines(text_digest(table), features, True, {})
    return sweep(activations, table, baselines=base, progress=False)


@pytest.fixture(scope="module")
def linear():
    return globe(linear=True)


@pytest.fixture(scope="module")
def found(linear):
    return holdouts(linear, "land", layers=True, paper_compat=True)


@pytest.mark.slow
def test_lands_that_are_held_linearly_are_found_though_never_seen(found):
    assert found.verdict.startswith("a land never seen is placed better")
    assert found.score("R²")["low"] > 0.5
    assert found.score("centroid angle (°), median")["high"] < 20
    assert found.score("proximity error")["held_out"] < 0.1
    with pytest.warns(DeprecationWarning, match=r"Holdouts\.rivals is the old name of predictors"):
        assert found.rivals is found.predictors
    surface = found.predictors.set_index("predictor").loc["surface"]
    assert surface["r2"] < 0.2 < surface["adds_low"]
    assert {"tfidf", "mean_embedding"} <= set(found.predictors["predictor"])


@pytest.mark.slow
def test_lands_that_are_known_by_name_only_are_not_found_once_held_out():
    """Six labels tell the probe all about seen lands and nothing about unseen ones."""
    got = holdouts(globe(linear=False), "land")
    assert got.score("R²")["nominal"] > 0.8
    assert got.score("R²")["held_out"] < 0.1
    assert not got.verdict.startswith("a land never seen is placed better")
    assert got.score("proximity error")["held_out"] > got.score("proximity error")["nominal"] + 0.1


@pytest.mark.slow
def test_every_figure_is_that_of_honest_refits(linear, found):
    """Scikit-learn's Ridge without each land, and the paper's definitions written out."""
    table, point = linear.inputs.table, linear.chosen_point
    X, y = linear.inputs.rows(point), table.y
    alpha, error, total = linear.probe.alpha, np.zeros(2), np.zeros(2)
    nominal = linear.probe.predict(X)
    for line in found.blocks.to_dict("records"):
        inside = (table.blocks["land"] == line["block"]).to_numpy()
        fit = Ridge(alpha).fit(X[~inside], y[~inside])
        pred, m = fit.predict(X), y[~inside].mean(axis=0)
        shown = found.predictions[found.predictions["block"] == line["block"]]
        assert np.allclose(shown[["pred_lat", "pred_lon"]], pred[inside], rtol=1e-7)
        combined = proximity_error(y, pred)[inside].mean()
        assert line["held_out"] == pytest.approx(combined, abs=1e-12)
        tested = inside & table.is_test
        assert line["nominal"] == pytest.approx(proximity_error(y, nominal)[tested].mean(), abs=1e-12)
        assert line["held_out_low"] <= line["held_out"] <= line["held_out_high"]
        a, b = y[inside].mean(axis=0) - m, pred[inside].mean(axis=0) - m
        cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        assert line["cosine"] == pytest.approx(cosine) and line["angle"] == pytest.approx(
            np.degrees(np.arccos(cosine))
        )
        assert line["ratio"] == pytest.approx(np.linalg.norm(b) / np.linalg.norm(a))
        flat = pred.copy()
        flat[inside] = m
        assert line["mean_level"] == pytest.approx(proximity_error(y, flat)[inside].mean(), abs=1e-12)
        error += ((y - pred)[inside] ** 2).sum(axis=0)
        total += ((y - m)[inside] ** 2).sum(axis=0)
    assert found.score("R²")["held_out"] == pytest.approx((1 - error / total).mean())
    assert found.score("proximity error")["held_out"] == pytest.approx(found.blocks["held_out"].mean())
    assert found.layers["held_out_r2"].iloc[0] == pytest.approx(found.score("R²")["held_out"])


@pytest.mark.slow
def test_paper_compat_is_named_and_off_by_default(linear, found):
    assert "paper_compat" in found.summary()
    assert (
        found.score("paper_compat proximity error")["held_out"] != found.score("proximity error")["held_out"]
    )
    plain = holdouts(linear, "land", alpha=3000.0)
    assert plain.alpha == 3000.0 and "paper_compat" not in plain.summary()
    assert not any("paper_compat" in str(m) for m in plain.scores["measure"])


@pytest.mark.slow
def test_figures_tables_saving(found, tmp_path):
    from graticule.probes.plots.style import note_of

    figures = found.figures()
    assert len(figures) == 3
    assert any("largest of 6 blocks" in note_of(f) for f in figures.values())
    assert [len(t) for t in found.tables().values()] == [len(found.scores), len(found.predictors), 6, 1]
    found.save(tmp_path / "held")
    read = Holdouts.load(tmp_path / "held")
    assert read.summary() == found.summary() and read.blocks.equals(found.blocks)
    assert found.to_json()["scores"][0]["measure"] == "proximity error"


@pytest.mark.slow
def test_same_seed_same_result(linear, found):
    again = holdouts(linear, "land", layers=True, paper_compat=True)
    assert again.scores.equals(found.scores) and again.blocks.equals(found.blocks)


@pytest.mark.slow
def test_numbers_are_sorted_and_signs_tested():
    world = planted(surface=0.3, hidden=0.5)
    findings = sweep(world.activations, world.table, baselines=world.baselines, progress=False)
    bins = np.digitize(world.table.y[:, 0], [-1.0, 0.0, 1.0]) * 100.0
    bins[:5] = np.nan
    got = holdouts(findings, pd.Series(bins, name="century"))
    assert got.by == "century" and list(got.blocks["block"]) == ["0", "100", "200", "300"]
    assert got.numeric and "5 rows without century" in got.note
    assert got.score("blocks on their side of the mean")["held_out"] == 1.0
    assert "coin" in got.summary() and len(got.figures()) == 2
    assert got.predictors["predictor"].iloc[0] == "probe" and len(got.predictors) == 8


@pytest.mark.slow
def test_rows_that_share_a_cluster_with_a_block_go_out_with_it():
    """Every place has a copy in another land: learning from it would give the answer away."""
    rng = np.random.default_rng(0)
    n = 240
    key = np.arange(n) // 2
    x = rng.normal(size=(n // 2, 200))[key] + 1e-3 * rng.normal(size=(n, 200))
    y = rng.normal(size=n // 2)[key]
    land = np.array(["a", "b"])[np.arange(n) % 2]
    frame = pd.DataFrame({"t": [f"r{i}" for i in range(n)], "y": y, "pair": key, "land": land})
    table = Table(frame, text="t", target="y", cluster="pair", blocks="land")
    activations = Activations.from_tensors({"blocks.0.hook_resid_post": torch.from_numpy(x)})
    with pytest.raises(ValueError, match="nothing is left"):
        holdouts(sweep(activations, table, progress=False), "land")
    frame["land"] = np.where(key < 40, land, "rest")
    got = holdouts(sweep(activations, Table(frame, text="t", target="y", cluster="pair", blocks="land"),
                         progress=False), "land", minimum=3, values=["a", "b"])  # fmt: skip
    assert list(got.blocks["cluster_mates"]) == [40, 40]
    assert "80 rows outside went out" in got.note
    assert got.score("R²")["held_out"] < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["binary", "categorical"])
def test_classes_are_scored_by_accuracy(kind):
    rng = np.random.default_rng(3)
    n = 400
    x = rng.normal(size=(n, 8))
    label = x[:, 0] > 0 if kind == "binary" else np.array(["p", "q", "r"])[np.digitize(x[:, 0], [-0.5, 0.5])]
    frame = pd.DataFrame({"t": [f"r{i}" for i in range(n)], "c": label, "g": rng.integers(0, 3, n)})
    activations = Activations.from_tensors({"blocks.0.hook_resid_post": torch.from_numpy(x)})
    got = holdouts(sweep(activations, Table(frame, text="t", target="c"), progress=False), "g")
    assert got.measure == "accuracy"
    assert got.score("accuracy")["held_out"] > got.score("accuracy")["chance"] + 0.1
    assert got.score("AUROC, pooled")["held_out"] > 0.8
    assert len(got.figures()) == 1 and "AUROC" in got.summary()


@pytest.mark.slow
def test_the_majority_is_never_held_out_if_so_asked(linear):
    labels = np.array(["city"] * 300 + ["river"] * 120 + ["hill"] * 120)
    got = holdouts(linear, labels, skip_majority=True)
    assert sorted(got.blocks["block"]) == ["hill", "river"]
    assert "city, is never held out" in got.note


@pytest.mark.slow
def test_wrong_calls_say_what_to_do(linear):
    for call, error, words in (
        (lambda: holdouts(linear, "lnad"), KeyError, "did you mean 'land'"),
        (lambda: holdouts(linear, np.zeros(540)), ValueError, "1 blocks"),
        (lambda: holdouts(linear, np.zeros(3)), ValueError, "3 labels for the 540 rows"),
        (lambda: holdouts(linear, "land", values=["Avalom", "Dilmun"]), ValueError, "mean 'Avalon'"),
        (lambda: holdouts(linear, "land", minimum=1000), ValueError, "lower minimum="),
        (lambda: holdouts(linear, "land", values=["Avalon"] * 2), ValueError, "'Avalon' twice: name every"),
        (lambda: holdouts(linear, [1, "1", 2] * 180, values=["1", 2]), ValueError, "as text and as a number"),
        (lambda: holdouts(linear, "land", hook_name="nowhere"), KeyError, "no probe"),
    ):
        with pytest.raises(error, match=words):
            call()


def test_scores_of_blocks_by_hand():
    centres = Centroids(
        np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]),
        np.array([[0.0, 3.0], [0.0, 1.0], [-1.0, -1.0]]),
        np.zeros((3, 2)),
    )
    assert np.allclose(centres.angle, [90, 0, 180]) and np.allclose(centres.ratio, [3, 0.5, 1])
    weights = np.array([[1.0, 1.0, 1.0], [2.0, 0.0, 1.0], [0.0, 0.0, 4.0]])
    expected = [np.median([90, 0, 180]), np.median([90, 90, 180]), 180]
    assert np.allclose(weighted_median(weights, centres.angle), expected)
    assert sign_test(np.ones(10)) == pytest.approx(2 / 1024)
    rng = np.random.default_rng(0)
    y, code = rng.normal(size=(60, 1)), np.repeat([0, 1, 2], 20)
    squares = Squares.of(y, y * 0.5, np.zeros((60, 1)), code, 3)
    assert squares.r2()[0] == pytest.approx(0.75) and np.allclose(squares.by_block(), 0.75)
    shifted = y + 10 * code[:, None]
    assert within_correlation(shifted, y, code, 3)(np.ones((1, 3)))[0] == pytest.approx(1.0)


def test_a_resample_in_which_nothing_varies_has_no_r2() -> None:
    """One value a block: of the same block twice there is no R², and 0 was counted for it."""
    y, code = np.repeat([0.0, 1.0], 3)[:, None], np.repeat([0, 1], 3)
    predicted = y + np.array([0.1, -0.1, 0.2, 0.0, 0.1, -0.2])[:, None]
    none = np.full(6, np.nan)
    rows = RowScores("accuracy", y, code, 2, none > 0, y, y.mean(axis=0), {"held_out": none}, {}, "")
    both, first, twice = _grand_r2(rows, predicted)(np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]]))
    assert both == pytest.approx(r2_score(y, predicted))
    assert np.isnan([first, twice]).all()
