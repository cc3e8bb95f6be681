"""Probes beyond ridge on worlds whose truth is planted."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from graticule import Activations, Table, sweep
from graticule.probes.beyond.classes import FEW, LOGISTIC, RANDOM, SHUFFLED, ClassProbes, classes
from graticule.probes.beyond.mlp import MLPFindings, mlp
from graticule.probes.beyond.pca import PCACurve, pca
from graticule.probes.beyond.sphere import Sphere, sphere, to_degrees
from graticule.probes.core.verdict import NO_BETTER, STRUCTURE
from graticule.probes.scores.geo import haversine_km, unit_sphere
from graticule.sims.planted import planted


@pytest.fixture(scope="module")
def world():
    return planted(surface=0.4, hidden=0.3, n_targets=2)


@pytest.fixture(scope="module")
def findings(world):
    return sweep(world.activations, world.table, baselines=world.baselines, progress=False)


def again(result, folder):
    """Saved, loaded, and the same; figures can be drawn and tables have rows."""
    result.save(folder)
    back = type(result).load(folder)
    assert back.to_json() == result.to_json()
    assert back.summary() == result.summary()
    assert all(len(table) for table in back.tables().values())
    for figure in back.figures().values():
        assert figure.layout.xaxis.title.text or figure.layout.yaxis.title.text
    return back


class TestMLP:
    @pytest.fixture(scope="class")
    @classmethod
    def bent(cls, world):
        """The hidden part of the first target enters by its square: a line cannot read it."""
        rng = np.random.default_rng(0)
        hidden = rng.uniform(-(3**0.5), 3**0.5, size=len(world.table))
        y = 0.6 * world.table.y[:, :1] + 0.8 * (hidden[:, None] ** 2 - 1) / 0.8**0.5
        tensors = {}
        for point in world.activations.points:
            x = world.activations[point].clone()
            x[:, 0] = torch.from_numpy(hidden).float()
            tensors[point] = x
        table = world.table.with_target(y, ["bent"])
        return sweep(Activations.from_tensors(tensors), table, baselines=world.baselines, progress=False)

    @pytest.fixture(scope="class")
    @classmethod
    def found(cls, bent):
        points = list(bent.probes)[-2:]
        return mlp(bent, points=points, hidden=64, learning_rate=0.005, seeds=2, batch=128, progress=False)

    @pytest.mark.slow
    def test_what_bends_is_a_nonlinearity_gain(self, found):
        assert found.nonlinearity.ci95[0] > 0.2
        assert found.verdict.label == STRUCTURE
        assert "reads more than the ridge" in found.summary()

    @pytest.mark.slow
    def test_scores_are_those_of_its_predictions(self, found, bent):
        problem = bent.inputs.problem
        y = problem.y[problem.test]
        line = found.layers[(found.layers["point"] == found.chosen_point) & (found.layers["seed"] == 0)].iloc[
            0
        ]
        assert line["test_r2"] == pytest.approx(r2_score(y, found.test))
        assert not line["exploratory"] and found.layers["exploratory"].sum() == len(found.layers) - 1
        first = found.layers[found.layers["seed"] == 0]
        assert first.loc[first["validation"].idxmax(), "point"] == found.chosen_point
        assert found.nonlinearity.first == pytest.approx(r2_score(y, found.ridge_point_test))
        assert found.nonlinearity.second == pytest.approx(
            bent.layers.set_index("point").loc[bent.chosen_point, "test_r2"]
        )
        assert set(found.layers["seed"]) == {0, 1}

    @pytest.mark.slow
    def test_it_comes_back_from_disk(self, found, tmp_path):
        back = again(found, tmp_path / "mlp")
        assert isinstance(back, MLPFindings) and np.array_equal(back.test, found.test)

    @pytest.mark.slow
    def test_where_the_string_says_it_all_the_mlp_finds_nothing_either(self):
        world = planted(surface=0.6, hidden=0.0)
        found = sweep(world.activations, world.table, baselines=world.baselines, progress=False)
        judged = mlp(found, points=[found.chosen_point], hidden=32, decays=[0.1], progress=False)
        assert judged.verdict.label == NO_BETTER

    @pytest.mark.slow
    def test_what_cannot_be_is_refused(self, findings):
        with pytest.raises(KeyError, match="was not swept"):
            mlp(findings, points=["blocks.9.hook_resid_post"])
        with pytest.raises(ValueError, match="seeds=0"):
            mlp(findings, seeds=0)


class TestPCA:
    @pytest.fixture(scope="class")
    @classmethod
    def found(cls, findings):
        return pca(findings, ks=(1, 4, 16, 64))

    @pytest.mark.slow
    def test_every_k_is_scikit_learns(self, found, findings):
        swept = findings.inputs
        problem = swept.problem
        X, y = swept.rows(found.point), problem.y
        assert found.curve["k"].tolist() == [1, 4, 16, 32]
        for _, line in found.curve.iterrows():
            oracle = PCA(int(line["k"])).fit(X[problem.train])
            Z = oracle.transform(X)
            ridge = Ridge(line["alpha"]).fit(Z[problem.train], y[problem.train])
            assert line["test_r2"] == pytest.approx(
                r2_score(y[problem.test], ridge.predict(Z[problem.test])), abs=1e-8
            )
            assert line["explained"] == pytest.approx(oracle.explained_variance_ratio_.sum())
            assert line["low"] < line["test_r2"] < line["high"]

    @pytest.mark.slow
    def test_all_components_are_the_ridge_itself(self, found, findings):
        scores = findings.layers.set_index("point").loc[found.point]
        assert found.full["test_r2"] == pytest.approx(scores["test_r2"], abs=1e-6)
        assert found.full["validation"] == pytest.approx(scores["validation"], abs=1e-6)

    @pytest.mark.slow
    def test_the_k_needed_is_chosen_on_training_rows(self, found, findings):
        enough = found.curve[found.curve["validation"] >= 0.9 * found.full["validation"]]
        assert found.needed == enough["k"].min()
        assert pca(findings, ks=(1, 4, 16), share=1.0).needed == 32

    def test_more_columns_than_rows(self):
        from graticule.probes.beyond.pca import components

        X = np.random.default_rng(0).normal(size=(20, 50))
        made, oracle = components(X), PCA().fit(X)
        assert made.vectors.shape == (50, 19)
        np.testing.assert_allclose(np.abs(made.vectors.T @ oracle.components_[:19].T), np.eye(19), atol=1e-8)
        np.testing.assert_allclose(made.variance * 20 / 19, oracle.explained_variance_[:19])

    @pytest.mark.slow
    def test_it_comes_back_from_disk(self, found, tmp_path):
        assert isinstance(again(found, tmp_path / "pca"), PCACurve)

    @pytest.mark.slow
    def test_what_cannot_be_is_refused(self, findings):
        with pytest.raises(ValueError, match="share=0"):
            pca(findings, share=0.0)
        with pytest.raises(ValueError, match="at least 1"):
            pca(findings, ks=(0, 2))


class TestSphere:
    @pytest.fixture(scope="class")
    @classmethod
    def globe(cls):
        """Places all round the globe; activations hold x, y and z, so longitude jumps at the date line."""
        rng = np.random.default_rng(0)
        places = rng.normal(size=(1200, 3))
        places /= np.linalg.norm(places, axis=1, keepdims=True)
        degrees = to_degrees(places)
        X = places @ rng.normal(size=(3, 16)) + 0.15 * rng.normal(size=(1200, 16))
        frame = pd.DataFrame(
            {"lat": degrees[:, 0], "lon": degrees[:, 1], "half": np.where(degrees[:, 0] > 0, "n", "s")}
        )
        table = Table(frame, target=["lat", "lon"], units=["lat", "lon"], blocks="half", name="globe")
        acts = Activations.from_tensors({"blocks.0.hook_resid_post": torch.from_numpy(X).float()})
        return sweep(acts, table, progress=False)

    def test_the_wrap_is_gone(self, globe, tmp_path):
        found = sphere(globe)
        assert found.difference.ci95[1] < -500
        assert (
            found.edge_difference is not None
            and found.edge_difference.difference < 2 * found.difference.difference
        )
        assert min(found.r2.values()) > 0.8
        near = np.abs(found.predictions["true_lon"]) > 150
        assert found.edge_rows == near.sum()
        km = haversine_km(
            *(found.predictions[c].to_numpy() for c in ("true_lat", "true_lon", "pred_lat", "pred_lon"))
        )
        assert km.mean() == pytest.approx(found.difference.first)
        assert found.scores["mean_km"].iloc[1] == pytest.approx(globe.layer_scores[0]["test"]["haversine_km"])
        assert km[near].mean() == pytest.approx(found.scores["edge_mean_km"].iloc[0])
        assert found.bands["rows"].sum() == len(found.predictions)
        assert isinstance(again(found, tmp_path / "sphere"), Sphere)

    def test_degrees_and_vectors_are_inverse(self):
        rng = np.random.default_rng(0)
        lat, lon = rng.uniform(-90, 90, 50), rng.uniform(-180, 180, 50)
        np.testing.assert_allclose(to_degrees(7.0 * unit_sphere(lat, lon)), np.stack([lat, lon], axis=1))

    @pytest.mark.slow
    def test_it_needs_places(self, findings):
        with pytest.raises(ValueError, match="one lat and one lon"):
            sphere(findings)


class TestClasses:
    @pytest.fixture(scope="class", params=["binary", "categorical"])
    @classmethod
    def labelled(cls, request, world):
        y = world.table.y[:, 0]
        labels = (
            np.where(y > 0, "north", "south") if request.param == "binary" else pd.qcut(y, 3, labels=[*"abc"])
        )
        frame = world.table.frame.assign(label=np.asarray(labels, dtype=object))
        table = Table(frame, text="text", target="label", split="is_test", name="labels")
        return sweep(world.activations, table, baselines=world.baselines, progress=False)

    @pytest.fixture(scope="class")
    @classmethod
    def found(cls, labelled):
        return classes(labelled, ks=(1, 4, 16), repeats=3, n_bootstrap=200, progress=False)

    @pytest.mark.slow
    def test_arms_stand_in_the_right_order(self, found):
        dense = found.at(LOGISTIC)
        assert found.verdict.label == STRUCTURE
        assert dense["auroc"] > 0.75 and dense["ece"] < 0.1
        assert found.at(FEW, 1)["auroc"] < found.at(FEW, 16)["auroc"] < dense["auroc"] + 0.02
        assert found.at(FEW, 1)["auroc"] > found.at(RANDOM, 1)["auroc"]
        assert abs(found.at(SHUFFLED)["auroc"] - 0.5) < 0.08
        assert dense["auroc_low"] < dense["auroc"] < dense["auroc_high"]
        assert found.needed in (4, 16, None)
        with pytest.raises(KeyError, match="no arm"):
            found.at(FEW, 3)

    @pytest.mark.slow
    def test_scores_are_those_of_its_probabilities(self, found, labelled):
        from sklearn.metrics import roc_auc_score

        problem = labelled.inputs.problem
        y, p = problem.y[problem.test], found.probabilities
        assert found.at(LOGISTIC)["auroc"] == pytest.approx(roc_auc_score(y, p))
        bins = found.reliability[found.reliability["arm"] == LOGISTIC]
        error = (bins["rows"] * (bins["confidence"] - bins["frequency"]).abs()).sum() / len(p)
        assert found.at(LOGISTIC)["ece"] == pytest.approx(error)

    @pytest.mark.slow
    def test_it_comes_back_from_disk(self, found, tmp_path):
        back = again(found, tmp_path / "classes")
        assert isinstance(back, ClassProbes)
        with pytest.warns(DeprecationWarning, match="name="):
            assert back.at(arm=back.scores["arm"][0], k=0).equals(back.at(back.scores["arm"][0]))

    @pytest.mark.slow
    def test_numbers_are_refused(self, findings):
        with pytest.raises(ValueError, match="numbers as targets"):
            classes(findings)

    def test_a_width_below_the_largest_k(self):
        """By default as many coordinates as tell rows apart; what is asked for by ks= is refused."""
        rng = np.random.default_rng(0)
        X = np.pad(rng.normal(size=(90, 7)), ((0, 0), (0, 2)))  # two that say nothing
        X[:, 6] = X[:, 4] + X[:, 5]
        labels = np.where(X[:, 0] + X[:, 1] > 0, "north", "south")
        acts = Activations.from_tensors({"blocks.0.hook_resid_post": torch.from_numpy(X)})
        narrow = sweep(acts, pd.Series(labels), split=np.arange(90) % 3 == 0, n_bootstrap=50, progress=False)
        few = {"repeats": 1, "n_bootstrap": 20, "progress": False}
        found = classes(narrow, **few)
        assert sorted(set(found.scores["k"])) == [0, 1, 2, 5, 7]
        assert sorted(found.coordinates["coordinate"]) == list(range(7))
        assert set(classes(narrow, select="omp", **few).scores["k"]) == {0, 1, 2, 5, 6}
        with pytest.raises(ValueError, match=r"ks=8: .*hook_resid_post has 7 coordinates.*at most 7"):
            classes(narrow, ks=(1, 8), **few)
        with pytest.raises(ValueError, match=r"ks=7: .* 6 coordinates to choose from .*at most 6"):
            classes(narrow, ks=7, select="omp", **few)
