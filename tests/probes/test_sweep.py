"""Sweeps on worlds whose truth is planted, and on the whole path with a tiny model."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.metrics import r2_score

from graticule import Activations, Findings, Store, Table, baselines, capture, probe, sweep
from graticule.hooks.artifact import ArtifactError
from graticule.probes.core.fit import chosen, fit_points
from graticule.probes.core.inputs import problem_of
from graticule.probes.core.verdict import BETTER_BY_LITTLE, MISSING, NO_BETTER, STRUCTURE
from graticule.probes.linear.ridge import cosines
from graticule.probes.surface.baselines import Baselines
from graticule.probes.surface.strings import StringReader, fit_strings
from graticule.sims.planted import planted


@pytest.fixture(scope="module")
def world():
    return planted(surface=0.4, hidden=0.3, n_targets=2)


@pytest.fixture(scope="module")
def findings(world):
    return sweep(world.activations, world.table, baselines=world.baselines, progress=False)


@pytest.mark.slow
def test_what_is_planted_is_found(world, findings):
    """The surface can explain .4 of the variance and the hidden part adds .3: the verdict says so."""
    verdict = findings.verdict
    assert verdict.label == STRUCTURE
    assert 0.28 < verdict.surface < 0.43  # at best .4; 1,500 rows do not pin down sixty words
    assert verdict.ci95[0] <= 0.3 <= verdict.ci95[1]
    assert verdict.gain == pytest.approx(0.3, abs=0.05)
    assert findings.chosen_layer in (2, 3)  # the hidden part is written from the middle layer on
    assert abs(findings.baselines["shuffled"]["test"]["r2"]) < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_where_the_string_says_it_all_nothing_is_found(seed):
    world = planted(surface=0.6, hidden=0.0, seed=seed)
    verdict = sweep(world.activations, world.table, baselines=world.baselines, progress=False).verdict
    assert verdict.label in (NO_BETTER, BETTER_BY_LITTLE)
    assert verdict.gain < 0.01


@pytest.mark.slow
def test_the_twin_in_the_probes_place_finds_nothing(findings):
    check = findings.checks["twin_0 in the probe's place"]
    assert check.label == NO_BETTER
    assert check.ci95[1] < 0.01


@pytest.mark.slow
def test_every_score_is_scikit_learns(world, findings):
    y, test = world.table.y, world.table.is_test
    for line in findings.layer_scores:
        X = world.activations[line["point"]].double().numpy()
        oracle = Ridge(line["alpha"]).fit(X[~test], y[~test])
        assert line["test"]["r2"] == pytest.approx(r2_score(y[test], oracle.predict(X[test])), abs=1e-9)
        grid = findings.probes[line["point"]].alphas
        spread = y[~test].std(0)
        best = RidgeCV(grid).fit(X[~test], (y[~test] - y[~test].mean(0)) / spread)
        assert best.alpha_ == pytest.approx(line["alpha"])
    best = max(findings.layer_scores, key=lambda line: line["validation"])
    assert best["point"] == findings.chosen_point
    assert [line["exploratory"] for line in findings.layer_scores].count(False) == 1


@pytest.mark.slow
def test_the_verdict_is_the_difference_of_two_refitted_stacks(world, findings):
    """Gain and surface once more, from scikit-learn's least squares on out-of-fold predictions."""
    from sklearn.linear_model import LinearRegression

    table = world.table
    problem = problem_of(world.activations, table)
    train, test = problem.train, problem.test
    parts = list(fit_strings(StringReader.of(table, problem), False)[0].values())
    for feature in world.baselines.features.values():
        parts.append(chosen(fit_points(feature, problem)).predictions)
    parts.append(findings.baseline_predictions["joint"])  # its oracle stands in test_joint
    full = [*parts, chosen(fit_points(world.activations, problem)).predictions]

    def stacked(predictions):
        scores = []
        for t in range(2):
            fold = np.stack([p.out_of_fold[:, t] for p in predictions], 1)
            held = np.stack([p.test[:, t] for p in predictions], 1)
            model = LinearRegression().fit(fold, table.y[train, t])
            scores.append(r2_score(table.y[test, t], model.predict(held)))
        return np.mean(scores)

    assert findings.verdict.surface == pytest.approx(stacked(parts), abs=1e-9)
    assert findings.verdict.gain == pytest.approx(stacked(full) - stacked(parts), abs=1e-9)


@pytest.mark.slow
def test_test_rows_never_reach_the_choice(world):
    """Other targets on the test rows change test scores alone: layer, strength and weights stay."""
    table = world.table
    y = table.y.copy()
    y[table.is_test] = np.random.default_rng(1).normal(size=y[table.is_test].shape) * 50
    one = sweep(world.activations, table, baselines=world.baselines, progress=False)
    other = sweep(world.activations, table.with_target(y), baselines=world.baselines, progress=False)
    assert one.chosen_point == other.chosen_point
    for point in one.probes:
        assert np.array_equal(one.probes[point].coef, other.probes[point].coef)
        assert one.probes[point].alpha == other.probes[point].alpha
    assert one.verdict.strongest_baseline == other.verdict.strongest_baseline
    assert one.verdict.score != other.verdict.score


@pytest.mark.slow
def test_two_directions(world, findings):
    """The write direction of the hidden part is recovered once the words are taken out of the target."""
    table = world.table
    pure = planted(surface=0.0, hidden=0.9, n_targets=2)
    found = sweep(pure.activations, pure.table, baselines=pure.baselines, progress=False)
    assert cosines(found.probe.write_direction, pure.write).min() > 0.9
    read = found.probe.read_direction
    assert read.shape == (32, 2)
    test = pure.table.is_test
    X = pure.activations[found.chosen_point].double().numpy()
    assert np.allclose(X[test] @ read + found.probe.intercept, found.probe.predict(X[test]))
    assert cosines(found.probe.read_direction, found.probe.write_direction).max() < 0.95
    assert table.target_names == findings.probe.target_names


@pytest.mark.slow
def test_without_model_baselines_nothing_is_decided(world):
    for given in (None, baselines(None, world.table)):
        found = sweep(world.activations, world.table, baselines=given, progress=False)
        assert found.verdict.label == MISSING
        assert set(found.baselines) == {"tfidf", "spelling", "trees", "shuffled"}


@pytest.mark.slow
def test_targets_as_arrays_and_columns(world):
    table = world.table
    rows = pd.DataFrame({"value": table.y[:, 0], "held": table.is_test, "pair": np.arange(len(table)) // 2})
    acts = Activations.from_tensors(dict(world.activations), rows=rows)
    by_table = sweep(acts, Table(rows, target="value", split="held", cluster="pair"), progress=False)
    by_column = sweep(acts, "value", split="held", cluster="pair", progress=False)
    by_array = sweep(
        acts, table.y[:, 0], split=table.is_test, cluster=rows["pair"].to_numpy(), progress=False
    )
    assert by_column.layers["test_r2"].to_list() == by_table.layers["test_r2"].to_list()
    assert by_array.layers["test_r2"].to_list() == by_table.layers["test_r2"].to_list()
    assert by_column.verdict.clusters == by_table.verdict.clusters


@pytest.mark.slow
def test_several_rows_a_text_share_its_cluster_and_its_baselines(tiny, names):
    frame = pd.DataFrame({"name": names * 2, "size": [float(len(n)) for n in names] * 2})
    table = Table(frame, text="name", target="size")
    acts = capture(tiny, table.texts, pos="entity")
    found = sweep(acts, table, baselines=baselines(tiny, table, pos="entity"), progress=False)
    assert found.verdict.clusters < len(names)
    assert len(found.predictions) == acts.n_rows
    for cluster, part in found.predictions.groupby("cluster"):
        assert part["split"].nunique() == 1, cluster


@pytest.mark.slow
def test_texts_that_are_the_same_tokens_share_a_cluster(tiny):
    """Letters that the tokenizer does not know all become one token: to the model these are one text."""
    unknown = [f"{a}{b}" for a in "ÄÖÜßéèñ" for b in "ÄÖÜßéèñ"]
    frame = pd.DataFrame({"name": ["rome", "oslo", "lima", *unknown], "y": np.arange(52.0)})
    table = Table(frame, text="name", target="y")
    assert len(np.unique(table.clusters)) == 52
    acts = capture(tiny, table.texts)
    assert acts.rows["same_tokens_as"].nunique() == 4
    found = sweep(acts, table, progress=False)
    assert found.predictions["cluster"].nunique() == 4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["binary", "categorical"])
def test_classes(world, kind):
    y = world.table.y[:, 0]
    labels = np.where(y > 0, "north", "south") if kind == "binary" else pd.qcut(y, 3, labels=["a", "b", "c"])
    frame = world.table.frame.assign(label=np.asarray(labels, dtype=object))
    table = Table(frame, text="text", target="label", split="is_test", name="labels")
    found = sweep(world.activations, table, baselines=world.baselines, progress=False)
    assert found.kind == kind
    assert found.verdict.label == STRUCTURE
    scores = found.layer_scores[-1]["test"]
    assert 0.6 < scores["auroc"] <= 1
    assert scores["accuracy"] > 1 / len(table.classes)
    assert len(found.figures()) == 2


@pytest.mark.slow
def test_saved_loaded_and_shown(findings, tmp_path):
    findings.save(tmp_path)
    back = Findings.load(tmp_path)
    assert back.to_json() == findings.to_json()
    assert back.summary() == findings.summary()
    pd.testing.assert_frame_equal(back.predictions, findings.predictions)
    pd.testing.assert_frame_equal(back.layers, findings.layers)
    assert list(back.baselines) == list(findings.baselines)
    point = findings.chosen_point
    assert np.array_equal(back.probes[point].coef, findings.probes[point].coef)
    first, second = findings.report(tmp_path / "a.html"), back.report(tmp_path / "b.html")
    assert first.read_bytes() == second.read_bytes()
    assert findings.verdict.label in findings._repr_html_()
    (tmp_path / "predictions.parquet").write_bytes(b"no")
    with pytest.raises(ArtifactError, match="damaged"):
        Findings.load(tmp_path)


@pytest.mark.slow
def test_findings_json_has_what_is_promised(findings, tmp_path):
    findings.save(tmp_path)
    found = json.loads((tmp_path / "findings.json").read_text())
    assert {"model", "table", "layers", "chosen_layer", "baselines", "verdict", "provenance"} <= set(found)
    layer = found["layers"][0]
    assert {"layer", "point", "alpha", "validation", "test"} <= set(layer)
    assert {"r2", "r2_by_target", "spearman", "pearson"} <= set(layer["test"])
    assert "r2" in found["baselines"]["tfidf"]["test"]
    assert {
        *("metric", "gain", "ci95", "margin", "margin_ci95", "strongest_baseline", "surface", "min_gain"),
        *("clusters", "effective_clusters", "words"),
    } <= set(found["verdict"])


def test_what_does_not_fit_together_is_refused(world, tiny, names):
    short = capture(tiny, names[:10])
    with pytest.raises(ValueError, match="3 entries for 10"):
        sweep(short, np.arange(3.0))
    with pytest.raises(ValueError, match="brings its own split"):
        sweep(world.activations, world.table, split="is_test")
    with pytest.raises(ValueError, match="come from 2000 texts"):
        sweep(world.activations, world.table.head(500))
    with pytest.raises(ValueError, match="other texts"):
        sweep(world.activations, world.table, baselines=planted(seed=5).baselines)
    with pytest.raises(ValueError, match="no texts"):
        baselines(tiny, Table(pd.DataFrame({"y": np.arange(20.0)}), target="y"))


@pytest.fixture
def sized(names):
    """Names and how long they are: in the embeddings already, so no structure beyond them."""
    distinct = list(dict.fromkeys(names))
    frame = pd.DataFrame({"name": distinct, "letters": [float(len(n)) for n in distinct]})
    return Table(frame, text="name", target="letters", name="sized")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hooked", "bridge"])
def test_the_whole_path_resumes_step_by_step(load_tiny, sized, tmp_path, kind, monkeypatch):
    model = load_tiny("llama", kind)
    how = {"progress": False, "crossfit": None if kind == "hooked" else False}
    in_memory = probe(model, sized, **how)
    on_disk = probe(model, sized, out=tmp_path / "run", **how)
    assert on_disk.to_json()["layers"] == in_memory.to_json()["layers"]
    assert on_disk.verdict == in_memory.verdict
    assert {"tfidf", "mean_embedding", "last_embedding", "block_0", "twin_0"} <= set(on_disk.baselines)
    assert Store(tmp_path / "run" / "activations").n_rows == len(sized)
    made = (tmp_path / "run" / "findings.json").stat().st_mtime_ns
    monkeypatch.setattr(type(model), "forward", lambda *a, **k: pytest.fail("the model ran again"))
    again = probe(model, sized, out=tmp_path / "run", **how)
    assert (tmp_path / "run" / "findings.json").stat().st_mtime_ns == made
    assert again.to_json() == on_disk.to_json()
    refitted = probe(model, sized, out=tmp_path / "run", min_gain=0.5, **how)  # stores are reused
    assert refitted.verdict.min_gain == 0.5


@pytest.mark.slow
def test_baselines_are_what_their_names_say(tiny, sized, tmp_path):
    prompt = "where is the city of "
    made = baselines(tiny, sized, twins=2, prompt=prompt, store=tmp_path / "b")
    head = len(tiny.to_tokens(prompt)[0])
    for i, text in enumerate(sized.texts[:6]):
        tokens = tiny.to_tokens(prompt + text)
        own = tiny.embed(tokens)[0, head:].detach()
        assert torch.allclose(made.features["mean_embedding"]["hook_embed"][i], own.mean(0), atol=1e-6)
        assert torch.allclose(made.features["last_embedding"]["hook_embed"][i], own[-1], atol=1e-6)
    whole = capture(tiny, sized.texts, prompt=prompt)
    assert torch.allclose(made.features["block_0"]["resid_post", 0], whole["resid_post", 0], atol=1e-5)
    assert made.twins == ("twin_0", "twin_1")
    assert not torch.allclose(
        made.features["twin_0"]["resid_post", 2], made.features["twin_1"]["resid_post", 2]
    )
    back = Baselines.load(tmp_path / "b")
    assert set(back.features) == set(made.features)
    back.check(sized)
