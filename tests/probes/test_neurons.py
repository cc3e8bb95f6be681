"""Neuron searches: their nulls against brute force, and planted neurons."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import as_installed
from scipy.stats import kstest, spearmanr

from graticule import Table, baselines, capture, sweep
from graticule.hooks.weights import mlp_weights
from graticule.probes.neurons.cosines import probe_points, weight_cosines
from graticule.probes.neurons.neurons import neurons
from graticule.probes.neurons.result import NOT_SPECIAL, SPECIAL, Neurons, Search, counted_together
from graticule.probes.neurons.rotations import (
    Turns,
    activation_form,
    best_over_layers,
    haar,
    ratios,
    search_layer,
    unturned,
    weight_form,
)


@pytest.mark.parametrize("n", [200, 12])
def test_rotated_correlations_are_those_of_rotated_activations(n):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 16)) @ rng.normal(size=(16, 16)) + 3
    y = x[:, :2] @ rng.normal(size=(2, 2)) + rng.normal(size=(n, 2))
    form, vectors, turns = activation_form(x, y), haar(16, rng), Turns.draw(16, 5, rng)
    got = ratios(form, vectors, turns)
    for r in range(5):
        columns = [unturned(vectors, turns.take(slice(r, r + 1)), np.array([j]))[:, 0] for j in range(16)]
        z = np.stack(columns, axis=1)
        np.testing.assert_allclose(z.T @ z, np.eye(16), atol=1e-5)  # a rotation of the basis
        rotated = x @ form.axes @ z
        for j in range(16):
            for t in range(2):
                expected = np.corrcoef(rotated[:, j], y[:, t])[0, 1]
                assert got[r, j, t] == pytest.approx(expected, abs=1e-4)
    again = ratios(form, vectors, turns.take(slice(3, 5)))
    np.testing.assert_array_equal(again, got[3:])


def test_null_weights_have_the_covariance_of_the_weights():
    """Cosines drawn through the form are distributed as those of vectors that are built."""
    rng = np.random.default_rng(0)
    weights = (rng.normal(size=(12, 12)) * np.arange(1, 13)) @ rng.normal(size=(12, 400))
    toward = rng.normal(size=(12, 1))
    form = weight_form(weights, toward)
    normal = rng.standard_normal((12, 400), dtype=np.float32)
    got = ratios(form, normal, Turns.draw(12, 50, rng)).ravel()
    built = np.linalg.cholesky(weights @ weights.T / 400) @ rng.normal(size=(12, 20000))
    expected = (toward[:, 0] / np.linalg.norm(toward)) @ (built / np.linalg.norm(built, axis=0))
    quantiles = np.linspace(0.02, 0.98, 25)
    np.testing.assert_allclose(np.quantile(got, quantiles), np.quantile(expected, quantiles), atol=0.03)


def world(rng, n=400, width=24, carrier="basis"):
    """Activations whose target lies along a neuron, along a dense direction, or nowhere."""
    x = rng.normal(size=(n, width))
    dense = rng.normal(size=width)
    signal = {"basis": x[:, 5], "dense": x @ dense / np.linalg.norm(dense), "nowhere": rng.normal(size=n)}
    y = signal[carrier] + rng.normal(size=n)
    return x[: n // 2], x[n // 2 :], y[: n // 2, None], y[n // 2 :, None]


def p_of(rng, **kwargs):
    train, test, y_train, y_test = world(rng, **kwargs)
    found = search_layer(3, train, test, y_train, y_test, rotations=199, permutations=10, seed=1)
    best = int(np.abs(found.train[:, 0]).argmax())
    rotated = best_over_layers([found])[:, 0]
    return best, (1 + (rotated >= abs(found.test[best, 0])).sum()) / 200, found


@pytest.mark.slow
@pytest.mark.parametrize("carrier", ["nowhere", "dense"])
def test_on_a_basis_that_is_not_special_p_is_uniform(carrier):
    """Isotropic activations look alike in every basis: p over 120 worlds passes for uniform."""
    rng = np.random.default_rng(7)
    p = np.array([p_of(rng, carrier=carrier)[1] for _ in range(120)])
    assert kstest(p, "uniform").pvalue > 0.01
    assert (p <= 0.05).mean() <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 120)


def test_large_neurons_make_no_basis_special():
    """What is rotated is in each neuron's own unit: the search is the same whatever the scales are."""
    rng = np.random.default_rng(4)
    train, test, y_train, y_test = world(rng, carrier="dense")
    scales = np.where(np.arange(24) < 4, 100.0, 1.0)
    scales[9] = 0.0  # a dead one
    plain, scaled = (
        search_layer(0, a, b, y_train, y_test, rotations=50, permutations=3, seed=1)
        for a, b in ((train * (scales > 0), test * (scales > 0)), (train * scales, test * scales))
    )
    for part in ("train", "test", "p", "rotated_train", "rotated_test", "permuted"):
        np.testing.assert_allclose(getattr(plain, part), getattr(scaled, part), atol=1e-6)


def test_several_targets_are_counted():
    one = Search("y", 0, 1, 0.5, 0.5, 0.5, 0.2, 0.3, 0.004, 0.1, 0.2)
    alone, several = counted_together([one])[0], counted_together([one, *[replace(one, p=0.9)] * 9])[0]
    assert alone.p_adjusted == 0.004 and alone.label == SPECIAL
    assert several.p_adjusted == pytest.approx(0.04) and several.label == NOT_SPECIAL
    assert replace(one, p=0.04).label == SPECIAL  # as earlier versions said it


def test_a_planted_neuron_is_found_and_a_dense_direction_is_not():
    rng = np.random.default_rng(0)
    for _ in range(5):
        best, p, found = p_of(rng, carrier="basis")
        assert best == 5 and p <= 0.01
        assert found.p[5, 0] == found.p.min() < 1e-3
        assert found.permuted.shape == (10, 1) and found.permuted.max() < found.train[5, 0]


@pytest.fixture(scope="module")
def swept(load_tiny, names):
    """A target that one neuron of a tiny model carries."""
    model = load_tiny("llama", "hooked")
    rng = np.random.default_rng(0)
    texts = [f"{' '.join(rng.permutation(n.split()))} {i}" for i, n in enumerate(names * 6)]
    acts = capture(model, texts, points=["resid_post", "mlp_post"])
    carried = acts["blocks.1.mlp.hook_post"][:, 7].double().numpy()
    y = (carried - carried.mean()) / carried.std() + 0.3 * rng.normal(size=len(texts))
    kind = rng.choice(["city", "river"], len(texts))
    frame = pd.DataFrame({"text": texts, "y": y, "kind": kind, "is_test": rng.random(len(y)) < 0.3})
    table = Table(frame, text="text", target="y", split="is_test", blocks="kind", name="carried")
    stream = acts.select(points=[p for p in acts.points if "resid" in p])
    stream.provenance["prompt"], stream.provenance["pos"] = "", "'last'"
    return (
        model,
        sweep(stream, table, baselines=baselines(model, table, progress=False), progress=False),
        acts,
    )


@pytest.fixture(scope="module")
def found(swept):
    model, findings, _ = swept
    return neurons(findings, model, layers="all", top=8, rotations=199, progress=False)


@pytest.mark.slow
def test_the_neuron_that_carries_the_target(swept, found):
    _, findings, acts = swept
    best = found.searches[0]
    assert (best.layer, best.neuron) == (1, 7)
    assert best.label == SPECIAL and best.p <= 0.01
    with pytest.warns(DeprecationWarning, match="Search.words is the old name of label"):
        assert best.words == SPECIAL
    assert found.n_neurons == 3 * 48
    test = findings.inputs.problem.is_test
    y = findings.inputs.table.y[:, 0]
    for _, line in found.best.iterrows():
        h = acts[f"blocks.{line['layer']}.mlp.hook_post"][:, int(line["neuron"])].double().numpy()
        assert line["r_train"] == pytest.approx(np.corrcoef(h[~test], y[~test])[0, 1], abs=1e-5)
        assert line["r_test"] == pytest.approx(np.corrcoef(h[test], y[test])[0, 1], abs=1e-5)
        # ties broken by float rounding of another batch move a rank
        assert line["spearman_test"] == pytest.approx(spearmanr(h[test], y[test]).statistic, abs=1e-3)
        for kind in ("city", "river"):
            rows = test & (findings.inputs.table.blocks["kind"] == kind).to_numpy()
            assert line[f"by_{kind}"] == pytest.approx(spearmanr(h[rows], y[rows]).statistic, abs=1e-3)
    assert (found.best["p_bh"] >= found.best["p"]).all()
    assert found.best["r_train"].abs().is_monotonic_decreasing


@pytest.mark.slow
def test_cosines_are_those_of_the_stored_weights(swept, found):
    model, findings, _ = swept
    assert probe_points(findings.probes, 1) == ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
    assert probe_points(findings.probes, 0) == (None, "blocks.0.hook_resid_post")
    mlps = [model.blocks[layer].mlp for layer in range(3)]
    for _, line in found.weights.iterrows():
        layer, n = int(line["layer"]), int(line["neuron"])
        weight = {"in": mlps[layer].W_in[:, n], "gate": mlps[layer].W_gate[:, n], "out": mlps[layer].W_out[n]}
        into = line["weight"] != "out"
        probe = findings.probes[f"blocks.{layer - 1 if into else layer}.hook_resid_post"]
        toward = torch.from_numpy(getattr(probe, f"{line['direction']}_direction")[:, 0])
        expected = torch.cosine_similarity(weight[line["weight"]].detach().double(), toward, dim=0)
        assert line["cosine"] == pytest.approx(float(expected), abs=1e-6)
    assert found.weights["cosine"].abs().is_monotonic_decreasing
    own = found.histogram.groupby(["direction", "weight"])[["neurons", "null"]].sum()
    np.testing.assert_allclose(own.to_numpy(), 1)


def test_weights_of_no_concept_pass_no_test(load_tiny):
    """Random weights against a random direction: adjusted p stay large."""
    from graticule.probes.linear.ridge import RidgeProbe

    model, rng = load_tiny("gpt2", "hooked"), np.random.default_rng(0)
    point = "blocks.1.hook_resid_post"
    probe = RidgeProbe(point, ["t"]).fit(rng.normal(size=(90, 32)), rng.normal(size=90))
    got = weight_cosines(model, {point: probe}, [0, 1, 2], ["t"], always=point, n_random=100)
    assert set(got.table["weight"]) == {"in", "out"}  # no gate in GPT-2
    assert got.table["p_bh"].min() > 0.05
    assert got.table["p_max"].min() > 0.05
    assert abs(np.mean(got.table["p"]) - 0.5) < 0.03


@pytest.mark.slow
def test_bridge_and_folded_norms(load_tiny, swept):
    hooked, findings, _ = swept
    bridge = load_tiny("llama", "bridge")
    for fold in (False, True):
        tables = [
            weight_cosines(m, findings.probes, [1, 2], ["y"], fold_norm=fold, n_random=20).table
            for m in (hooked, bridge)
        ]
        np.testing.assert_allclose(tables[0]["cosine"], tables[1]["cosine"], atol=1e-5)
    gain = hooked.blocks[1].ln2.w.detach().double()
    weight = hooked.blocks[1].mlp.W_gate[:, 4].detach().double() * gain
    toward = torch.from_numpy(findings.probes["blocks.0.hook_resid_post"].read_direction[:, 0])
    table = tables[0]
    line = table.query("layer == 1 and neuron == 4 and weight == 'gate' and direction == 'read'")
    assert float(line["cosine"].iloc[0]) == pytest.approx(
        float(torch.cosine_similarity(weight, toward, dim=0)), abs=1e-6
    )


@pytest.mark.slow
def test_round_trip_figures_and_store(swept, found, tmp_path):
    model, findings, _ = swept
    found.save(tmp_path / "neurons")
    back = Neurons.load(tmp_path / "neurons")
    assert back.summary() == found.summary()
    assert back.searches == found.searches
    pd.testing.assert_frame_equal(back.best, found.best)
    assert len(back.figures()) == 3 and len(back.tables()) == 2
    settings = {"layers": [1], "top": 4, "rotations": 50, "rows": 200}
    here = neurons(findings, model, **settings)
    assert here.n_train + here.n_test <= 200
    stored = neurons(findings, model, **settings, store=tmp_path / "store")
    assert stored.summary() == here.summary()
    np.testing.assert_array_equal(stored.rotated, here.rotated)


@pytest.mark.slow
def test_where_no_neuron_stands_out(swept):
    model, findings, acts = swept
    table = findings.inputs.table
    hidden = acts["blocks.1.mlp.hook_post"].double().numpy()
    hidden = hidden - hidden.mean(0)
    values, axes = np.linalg.eigh(hidden.T @ hidden)
    spread = hidden @ axes @ (np.ones(48) / np.sqrt(np.maximum(values, 1e-9)))  # along no neuron
    other = table.with_target(spread / spread.std())
    of = sweep(findings.inputs.activations, other, baselines=findings.inputs.baselines, progress=False)
    got = neurons(of, model, layers=[1], top=3, rotations=199)
    assert got.searches[0].label == NOT_SPECIAL


@pytest.mark.slow
def test_refusals(swept):
    model, findings, _ = swept
    with pytest.raises(KeyError, match="kind"):
        neurons(findings, model, block="century")
    with pytest.raises(ValueError, match="rotations=0: expected"):
        neurons(findings, model, rotations=0)
    with pytest.raises(ValueError, match="no probe reads or writes"):
        weight_cosines(model, {}, [0, 1], ["y"])
    with pytest.raises(ValueError, match="without their activations"):
        neurons(replace(findings, swept=None), model)


def test_experts_are_named_as_what_is_missing(tiny):
    class Experts(torch.nn.Module):
        """A model whose MLPs are no single matrix."""

        cfg, hook_dict, hooks = tiny.cfg, tiny.hook_dict, tiny.hooks
        blocks = torch.nn.ModuleList([torch.nn.ModuleDict({"mlp": torch.nn.ModuleDict()})])

    with as_installed(), pytest.raises(ValueError, match="has no W_out"):
        mlp_weights(Experts(), 0)
