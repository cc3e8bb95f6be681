"""Latents of SAEs made by hand on a planted world: what is put into a latent is what must be found."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import r2_score, roc_auc_score

from graticule import Table, sweep
from graticule.hooks.latents import encode
from graticule.hooks.points import PointError
from graticule.probes.core.verdict import NO_BETTER, STRUCTURE
from graticule.probes.latents.latents import latents
from graticule.probes.latents.predictors import all_latents, fixed, forward_selection, matched, select
from graticule.probes.latents.result import (
    ALL,
    COORDINATES,
    DENSE,
    ERROR,
    LATENTS,
    NOT_OF_THE_SAE,
    RANDOM,
    RECONSTRUCTION,
    UNTRAINED,
    LatentFindings,
)
from graticule.probes.latents.untrained import LEVEL, chance_of, turned
from graticule.sims.planted import planted

from ..helpers import misread_axes

WIDTH, D_SAE, POINT = 32, 200, "blocks.1.hook_resid_post"
KS = (1, 2, 5)


@pytest.fixture(scope="module")
def world():
    return planted(n_rows=1200, n_layers=2, surface=0.4, hidden=0.4, n_targets=2)


@pytest.fixture(scope="module")
def findings(world):
    return sweep(world.activations, world.table, baselines=world.baselines, progress=False)


def hand_made(world, concepts=True, loss=False, point=POINT):
    """A standard SAE: two latents a target read its hidden part and write it, the rest are random.

    With `loss`, those four write nothing, and the rest neither reads nor writes where the concepts are.
    """
    from sae_lens.saes.sae import SAEMetadata
    from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig

    cfg = StandardSAEConfig(d_in=WIDTH, d_sae=D_SAE, metadata=SAEMetadata(hook_name=point))
    sae = StandardSAE(cfg)
    rng = np.random.default_rng(5)
    decoder = rng.normal(size=(D_SAE, WIDTH))
    encoder = decoder.T * 0.2
    bias = np.full(D_SAE, -1.0)
    if concepts:
        X = world.activations[POINT].double().numpy()
        train = ~world.table.is_test
        for t in range(2):
            unsaid = _hidden(world)[:, t]
            reads = LinearRegression().fit(X[train], unsaid[train])
            for sign in (1, -1):
                j = 2 * t + (sign < 0)
                encoder[:, j], bias[j] = sign * reads.coef_, sign * reads.intercept_
                decoder[j] = sign * world.write[:, t]
    if loss:
        basis = np.linalg.qr(world.write)[0]
        decoder -= decoder @ basis @ basis.T
        encoder[:, 4:] -= basis @ basis.T @ encoder[:, 4:]
        decoder[:4] = 0
    with torch.no_grad():
        sae.W_dec.copy_(
            torch.from_numpy(decoder / np.maximum(np.linalg.norm(decoder, axis=1, keepdims=True), 1e-9))
        )
        sae.W_enc.copy_(torch.from_numpy(encoder))
        sae.b_enc.copy_(torch.from_numpy(bias))
    return sae


def _hidden(world):
    """The hidden part of each target, up to noise: the activations along its write direction, words out."""
    X = world.activations[POINT].double().numpy()
    words = world.baselines.features["mean_embedding"]["hook_embed"].double().numpy()
    rest = X - LinearRegression().fit(words, X).predict(words)
    return rest @ np.linalg.pinv(world.write).T


@pytest.fixture(scope="module")
def found(world, findings):
    return latents(findings, hand_made(world), ks=KS, progress=False)


@pytest.mark.slow
def test_the_latents_that_carry_the_concept_are_found(world, findings, found):
    assert set(found.selected["latent"][:4]) <= {0, 1, 2, 3}
    for t, target in enumerate(found.target_names):
        best = found.top[found.top["target"] == target].iloc[0]
        assert best["latent"] in (2 * t, 2 * t + 1)
        assert best["p_bh_test"] < 1e-6
        assert best["p_max_write"] < 0.01
        assert abs(best["cos_write"]) > 0.8
    line = found.predictor(LATENTS, 5)
    assert line["words"] == STRUCTURE
    assert line["gain"] == pytest.approx(found.predictor(DENSE)["gain"], abs=0.06)
    assert found.predictor(LATENTS, 1)["gain"] > found.predictor(RANDOM, 1)["high"] + 0.03
    assert found.predictor(LATENTS, 5)["gain"] > found.predictor(RANDOM, 5)["high"] + 0.1
    assert found.predictor(COORDINATES, 1)["score"] < found.predictor(LATENTS, 2)["score"]


@pytest.mark.slow
def test_latents_of_a_random_sae_say_that_they_speak_of_the_activations(findings, world):
    random = latents(findings, hand_made(world, concepts=False), ks=(20,), n_random=1, top=1, progress=False)
    line, untrained = random.predictor(LATENTS, 20), random.predictor(UNTRAINED, 20)
    assert line["words"] == NOT_OF_THE_SAE
    assert line["low"] > 0 and line["p"] > 0.01
    assert untrained["low"] < line["gain"] < untrained["high"] + 0.1
    assert random.summary().startswith(NOT_OF_THE_SAE)
    assert "of untrained SAEs" in random.summary()


def test_a_turned_sae_is_as_sparse_and_left_as_it_was(world):
    sae = hand_made(world, concepts=False)
    own = encode(world.activations, sae)
    other = turned(own, np.arange(600), np.random.default_rng(0))
    assert other.values.shape == own.values.shape
    assert other.l0 == pytest.approx(own.l0, rel=0.08)
    assert (encode(world.activations, sae).values != own.values).nnz == 0
    same = np.corrcoef(own.frequency, other.frequency)[0, 1]
    assert abs(same) < 0.5  # which latents are active is another matter


def test_the_chance_of_a_gain_is_that_of_a_prediction_interval():
    rng = np.random.default_rng(0)
    gains = rng.normal(size=(4000, 6))
    p = np.array([chance_of(float(g[0]), g[1:].tolist()) for g in gains])
    assert (p <= 0.05).mean() == pytest.approx(0.05, abs=0.012)
    assert chance_of(0.2, [0.0, 0.0, 0.0]) == 0 and chance_of(0.0, [0.0, 0.0]) == 1
    assert np.isnan(chance_of(0.2, [0.1]))


@pytest.mark.slow
def test_where_no_latent_carries_it_few_lie_beyond_chance(world, findings):
    blind = latents(findings, hand_made(world, concepts=False), ks=(1,), progress=False)
    for kind in ("read", "write"):
        p = blind.cosines[f"p_{kind}"].to_numpy()
        assert (p < 0.05).mean() == pytest.approx(0.05, abs=0.04)
        assert blind.cosines[f"p_max_{kind}"].min() > 0.01
        assert (blind.cosines[f"p_bh_{kind}"] < 0.05).sum() == 0


@pytest.mark.slow
def test_what_the_sae_loses_is_in_the_error_term(world, findings):
    lossy = latents(findings, hand_made(world, loss=True), ks=(2,), progress=False)
    assert lossy.predictor(RECONSTRUCTION)["words"] == NO_BETTER
    assert lossy.predictor(ERROR)["gain"] > 0.75 * lossy.predictor(DENSE)["gain"]
    assert lossy.predictor(LATENTS, 2)["gain"] > 0.1  # the latents know; their decoder does not write it


@pytest.mark.slow
def test_the_dense_arm_is_the_sweeps_own_probe(findings, found):
    problem = findings.inputs.problem
    test = findings.probes[POINT].predict(findings.inputs.rows(POINT, problem.test))
    assert np.allclose(found.at(DENSE).predictions, test)
    if findings.chosen_point == POINT:
        assert found.predictor(DENSE)["gain"] == findings.verdict.gain
    line = next(s for s in findings.layer_scores if s["point"] == POINT)
    assert found.predictor(DENSE)["validation"] == pytest.approx(line["validation"])
    assert found.predictor(DENSE)["score"] == pytest.approx(line["test"]["r2"])


def test_forward_selection_is_brute_force(world):
    rng = np.random.default_rng(0)
    import scipy.sparse as sp

    X = rng.normal(size=(200, 12)) + 3
    X[:, 4] = 0.0
    X[:, 7] = X[:, 2] * 2 - 1  # a copy of another adds nothing
    X[rng.random(X.shape) < 0.4] = 0
    X[:, 7] = X[:, 2] * 2
    y = X[:, [2, 9]] @ rng.normal(size=(2, 2)) + X[:, [5]] + rng.normal(size=(200, 2))
    taken: list[int] = []
    for _ in range(5):
        gains = {
            j: np.mean(r2_score(y, LinearRegression().fit(X[:, [*taken, j]], y).predict(X[:, [*taken, j]])))
            for j in range(12)
            if j not in taken and not (j == 7 and 2 in taken) and not (j == 2 and 7 in taken)
        }
        taken.append(max(gains, key=gains.get))
    for held in (X, sp.csr_matrix(X)):
        chosen = forward_selection(held, y, 5)
        assert [min(j, 2) if j == 7 else j for j in chosen] == [min(j, 2) if j == 7 else j for j in taken]
    assert len(forward_selection(X, y, 50)) == 10  # neither the constant nor the copy


def test_selection_is_repeated_inside_every_fold():
    """Noise targets on many columns: selected once on all rows, out-of-fold R² would be well above 0."""
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(150, 800)), rng.normal(size=(150, 1))
    clusters = np.arange(150) // 2
    honest = select(X, X[:10], y, clusters, (1, 5))
    leaky = fixed(X, X[:10], y, clusters, honest.chosen)
    assert r2_score(y, leaky.out_of_fold) > 0.15
    assert honest.validation[5] < 0.02
    assert honest.validation[5] == pytest.approx(r2_score(y, honest.predictions[5].out_of_fold))
    plain = LinearRegression().fit(X[:, honest.chosen[:1]], y).predict(X[:10, honest.chosen[:1]])
    assert np.allclose(honest.predictions[1].test, plain)


@pytest.mark.slow
def test_test_rows_never_reach_the_choice(world, findings):
    y = world.table.y.copy()
    y[world.table.is_test] = np.random.default_rng(1).normal(size=y[world.table.is_test].shape) * 50
    other = sweep(world.activations, world.table.with_target(y), baselines=world.baselines, progress=False)
    sae = hand_made(world)
    one, two = (latents(f, sae, ks=(2,), progress=False) for f in (findings, other))
    assert one.selected["latent"].tolist() == two.selected["latent"].tolist()
    assert one.top["latent"].tolist() == two.top["latent"].tolist()
    assert one.predictors["validation"].tolist() == two.predictors["validation"].tolist()
    assert np.array_equal(one.predictions, two.predictions)


@pytest.mark.slow
def test_a_folder_or_a_run_is_judged_as_the_sae_it_holds(world, findings, tmp_path):
    sae = hand_made(world)
    sae.save_model(tmp_path / "sae")
    given = {"progress": False, "n_random": 1}
    one = latents(findings, sae, ks=(1,), **given)
    for there in (str(tmp_path / "sae"), tmp_path, {one.saes["sae"].iloc[0]: tmp_path}):
        again = latents(findings, there, ks=(1,), **given)
        assert np.allclose(again.predictions, one.predictions, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("sparse", [False, True])
def test_all_latents_are_ridge_on_what_each_writes(world, findings, sparse, monkeypatch):
    if sparse:
        monkeypatch.setattr("graticule.probes.latents.predictors._DENSE_LATENTS", 0)
    sae = hand_made(world)
    with torch.no_grad():
        sae.W_dec[7] *= 10  # a latent in other units, which changes nothing it writes
        sae.W_enc[:, 7] /= 10
        sae.b_enc[7] /= 10
    problem = findings.inputs.problem
    held = encode(world.activations, sae)
    predictions, validation = all_latents(held, problem, None if sparse else (50.0,))
    X = held.values.toarray().astype(float) * np.linalg.norm(held.decoder, axis=1)
    X, X_test = X[problem.train], X[problem.test]
    y = problem.y[problem.train]
    if sparse:
        from graticule.probes.latents.predictors import _STRENGTHS

        strengths = _STRENGTHS * np.square(X - X.mean(0)).sum()
        fits = [Ridge(a).fit(X, y).predict(X_test) for a in strengths]
        nearest = min(np.abs(f - predictions.test).max() for f in fits)
        assert nearest < 1e-3 * y.std()
    else:
        assert np.allclose(predictions.test, Ridge(50.0).fit(X, y).predict(X_test))
    assert validation == pytest.approx(np.mean(r2_score(y, predictions.out_of_fold)), abs=1e-9)
    plain = all_latents(encode(world.activations, hand_made(world)), problem, None if sparse else (50.0,))[0]
    assert np.allclose(plain.test, predictions.test, atol=1e-3)


def test_random_latents_are_as_active_as_the_chosen():
    active = np.r_[np.zeros(50, int), np.arange(1, 951)]
    rng = np.random.default_rng(0)
    chosen = np.array([60, 500, 999])
    for _ in range(20):
        drawn = matched(active, chosen, rng)
        assert len(set(drawn)) == 3
        assert not set(drawn) & set(chosen)
        assert (active[drawn] > 0).all()
        assert np.abs(active[drawn] - active[chosen]).max() <= 101


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["binary", "categorical"])
def test_classes(world, kind):
    y = world.table.y[:, 0]
    labels = np.where(y > 0, "n", "s") if kind == "binary" else pd.qcut(y, 3, labels=["a", "b", "c"])
    frame = world.table.frame.assign(label=np.asarray(labels, dtype=object))
    table = Table(frame, text="text", target="label", split="is_test", name="labels")
    acts = world.activations.select(points=POINT)
    findings = sweep(acts, table, baselines=world.baselines, progress=False)
    found = latents(findings, hand_made(world), ks=(2,), n_untrained=24, progress=False)
    two, untrained = found.predictor(LATENTS, 2), found.predictor(UNTRAINED, 2)
    assert two["low"] > 0 and two["gain"] > untrained["gain"]
    assert two["words"] == (STRUCTURE if two["p"] < LEVEL else NOT_OF_THE_SAE)
    assert kind == "categorical" or two["words"] == STRUCTURE
    assert found.unit == "bits" and "R²" not in found.summary().splitlines()[0]
    best = found.top.iloc[0]
    test = table.is_test
    activation = encode(acts, hand_made(world)).values[:, [int(best["latent"])]].toarray()[test, 0]
    assert best["test_auroc"] == pytest.approx(roc_auc_score(table.y[test, 0] > 0.5, activation))
    assert "test AUROC" in found.tables()["Latents chosen on training rows, scored on test rows"]
    assert len(found.figures()) >= 4


@pytest.mark.slow
def test_several_saes_saved_and_shown(world, findings, tmp_path):
    from sae_lens.saes.sae import SAEMetadata
    from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

    torch.manual_seed(0)
    early = "blocks.0.hook_resid_post"
    topk = TopKSAE(TopKSAEConfig(d_in=WIDTH, d_sae=64, k=4, metadata=SAEMetadata(hook_name=early)))
    found = latents(
        findings, {"early": topk, "late": hand_made(world)}, ks=KS, null="activations", progress=False
    )
    assert found.chosen_sae == "late"
    assert found.saes.set_index("sae").loc["early", "l0"] <= 4
    assert found.predictor(LATENTS, 5, "early")["score"] < found.predictor(LATENTS, 5)["score"]
    found.save(tmp_path / "latents")
    back = LatentFindings.load(tmp_path / "latents")
    assert back.summary() == found.summary()
    assert found.summary().startswith(STRUCTURE)
    assert back.to_json() == found.to_json()
    for name, figure in found.figures().items():
        assert misread_axes(figure) == []
        assert back.figures()[name].to_json() == figure.to_json()
    assert np.array_equal(back.at(ALL, sae="early").predictions, found.at(ALL, sae="early").predictions)
    assert STRUCTURE in found.report(tmp_path / "page.html").read_text()
    again = latents(
        findings, {"early": topk, "late": hand_made(world)}, ks=KS, null="activations", progress=False
    )
    pd.testing.assert_frame_equal(again.predictors, found.predictors)
    assert (tmp_path / "latents" / "arms.parquet").exists()  # as it was called
    with pytest.warns(DeprecationWarning, match="LatentFindings.arms is the old name of predictors"):
        assert back.arms is back.predictors
    with pytest.warns(DeprecationWarning, match="LatentFindings.arm is the old name of predictor"):
        assert back.arm(DENSE)["gain"] == back.predictor(DENSE)["gain"]
    with pytest.warns(DeprecationWarning, match=r"at\(arm=\) is the old name of name="):
        assert np.array_equal(back.at(arm=DENSE).predictions, back.at(DENSE).predictions)


@pytest.mark.slow
def test_what_does_not_fit_is_refused(world, findings, found):
    with pytest.raises(PointError, match="was not captured"):
        latents(findings, hand_made(world, point="blocks.9.hook_resid_post"))
    with pytest.raises(ValueError, match="ks=0: expected a whole number of at least 1"):
        latents(findings, hand_made(world), ks=(0, 1))
    with pytest.raises(ValueError, match="at least one SAE"):
        latents(findings, {})
    with pytest.raises(KeyError, match="no arm 'latents' with k=3"):
        found.at(LATENTS, 3)
    from sae_lens.saes.transcoder import Transcoder, TranscoderConfig

    other = Transcoder(TranscoderConfig(d_in=WIDTH, d_sae=8, d_out=WIDTH, apply_b_dec_to_input=False))
    with pytest.raises(ValueError, match="is a transcoder"):
        latents(findings, other, hook_name=POINT)


@pytest.mark.slow
def test_more_latents_than_there_are_is_told(world, findings, found, caplog):
    """Two latents that fire: k=5 is of these two, and is not called five."""
    sae = hand_made(world)
    with torch.no_grad():
        sae.b_enc[2:] = -1e6
    few = latents(findings, sae, ks=(1, 5), n_random=1, progress=False)
    assert len(few.selected) == 2
    assert (
        "2 latents are all that add anything on training rows; what is said of k=5 is of these" in caplog.text
    )
    assert (
        "2 latents of" in few.summary() and "(5 were asked for, and no other adds anything)" in few.summary()
    )
    assert "0 other latents are ever active: random ones are so many at most" in caplog.text
    assert "were asked for" not in found.summary()
