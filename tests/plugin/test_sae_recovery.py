"""Recovery of true atoms: planted dictionaries, brute force, and SAELens's own trainer on a sparse world."""

import numpy as np
import pytest
import torch

from graticule.saes.features.recovered import BASELINES, SaeRecovery
from graticule.saes.features.recovery import best_cosines, best_thresholds, recovery, tell, untrained
from graticule.saes.features.truth import Truth, dense_truth, learned_truth, sparse_truth
from graticule.sims.contexts import Contexts
from graticule.sims.learners import lookup_model
from graticule.sims.truth.rows import lookup_rows
from graticule.sims.world import World

from ..helpers import misread_axes

pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'utils' module has been deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:HookedTransformer:DeprecationWarning"),
]


def trained(truth, d_sae, k, steps=1200, batch=256, lr=3e-3):
    """SAELens's own trainer on the world's rows."""
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    rows = torch.from_numpy(truth.rows)
    drawn = torch.Generator().manual_seed(0)

    def provider():
        while True:
            yield rows[torch.randint(len(rows), (batch,), generator=drawn)]

    torch.manual_seed(0)
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=truth.d_in, d_sae=d_sae, k=k))
    config = SAETrainerConfig(
        n_checkpoints=0,
        checkpoint_path=None,
        save_final_checkpoint=False,
        total_training_samples=steps * batch,
        device="cpu",
        autocast=False,
        lr=lr,
        lr_end=lr / 10,
        lr_scheduler_name="constant",
        lr_warm_up_steps=0,
        adam_beta1=0.9,
        adam_beta2=0.999,
        lr_decay_steps=steps // 3,
        n_restart_cycles=1,
        train_batch_size_samples=batch,
        dead_feature_window=300,
        feature_sampling_window=2000,
        logger=LoggingConfig(log_to_wandb=False),
    )
    SAETrainer(cfg=config, sae=sae, data_provider=provider()).fit()
    return sae


def planted_sae(truth, bias=-0.3):
    """An SAE whose latents are the atoms."""
    from sae_lens import StandardSAE, StandardSAEConfig

    sae = StandardSAE(StandardSAEConfig(d_in=truth.d_in, d_sae=len(truth.atoms)))
    unit = truth.atoms / np.linalg.norm(truth.atoms, axis=1, keepdims=True)
    with torch.no_grad():
        sae.W_dec.copy_(torch.from_numpy(unit))
        sae.W_enc.copy_(sae.W_dec.T)
        sae.b_enc.fill_(bias)
    return sae


@pytest.fixture(scope="module")
def sparse():
    return sparse_truth(64, 16, 6000, firing=0.03)


@pytest.fixture(scope="module")
def dense():
    return dense_truth(Contexts.complete(World.random(7, seed=1)), n=6000)


@pytest.fixture(scope="module")
def both(sparse, dense):
    first = recovery({"TopK": trained(sparse, 64, 2, steps=1000)}, sparse)
    return first.beside(recovery({"TopK": trained(dense, 32, 2, steps=300)}, dense))


@pytest.mark.slow
def test_a_sparse_world_is_recovered_and_the_dense_one_is_not(both):
    mine = both.line("sparse", "TopK")
    assert mine["cosine"] > 0.85
    assert mine["found"] > 0.55
    for arm in BASELINES:
        floor = both.line("sparse", arm)
        assert mine["cosine"] > floor["cosine"] + 0.2, arm
        assert mine["found"] > floor["found"] + 0.5, arm
        assert mine["f1"] > floor["f1"] + 0.1, arm
        assert mine["mcc"] > floor["mcc"], arm
    failed = both.line("dense", "TopK")
    assert failed["found"] < 0.3
    lines = both.summary().splitlines()
    assert "TopK recovers most atoms" in lines[0]
    assert "TopK recovers no more atoms than chance" in lines[1]


@pytest.mark.slow
def test_shares_of_an_atoms_rows_add_up(both):
    parts = both.atoms[["caught", "split", "absorbed", "missed"]]
    assert np.allclose(parts.sum(axis=1), 1)
    assert (parts >= -1e-12).all(axis=None)


@pytest.mark.slow
def test_results_keep_and_draw_themselves(both, tmp_path):
    both.save(tmp_path / "recovery")
    again = SaeRecovery.load(tmp_path / "recovery")
    assert again.summary() == both.summary()
    assert again.worlds == ["sparse", "dense"]
    assert [misread_axes(figure) for figure in again.figures().values()] == [[]] * 3
    assert len(next(iter(again.tables().values()))) == 8
    both.report(tmp_path / "page.html")
    with pytest.warns(DeprecationWarning, match="name="):
        assert again.line("sparse", arm="TopK") == again.line("sparse", "TopK")
    with pytest.raises(KeyError, match=r"there are \(sparse, TopK\)"):
        both.line("sparse", "ours")
    with pytest.raises(ValueError, match="name the worlds apart"):
        both.beside(again)


def test_true_atoms_are_recovered_whole(sparse):
    got = recovery({"atoms": planted_sae(sparse)}, sparse).line("sparse", "atoms")
    assert got["cosine"] == pytest.approx(1)
    assert got["found"] == got["uniqueness"] == 1
    assert got["mcc"] == pytest.approx(1)


def test_the_other_sign_is_not_recovery(sparse):
    assert best_cosines(-sparse.atoms, sparse.atoms).mean() < 0.8
    assert best_cosines(sparse.atoms * 3, sparse.atoms) == pytest.approx(np.ones(64))
    assert (best_cosines(np.zeros((2, 16)), sparse.atoms) == -1).all()


def test_chance_is_close_to_everything_in_seven_dimensions():
    """56 random directions: the unsigned mean best cosine with a random atom is .82."""
    rng = np.random.default_rng(0)
    decoder, atoms = rng.normal(size=(56, 7)), rng.normal(size=(4000, 7))
    unsigned = np.maximum(best_cosines(decoder, atoms), best_cosines(-decoder, atoms))
    assert unsigned.mean() == pytest.approx(0.82, abs=0.01)
    assert best_cosines(decoder, atoms).mean() < 0.80


# Firing ------------------------------------------------------------------------------------------------
def test_thresholds_by_brute_force():
    rng = np.random.default_rng(0)
    fires = rng.random((60, 3)) < [0.1, 0.4, 0.6]
    latents = np.round(
        np.maximum(rng.normal(size=(60, 4)) + fires @ rng.normal(size=(3, 4)), 0), 1
    )  # with ties
    latents[:, 3] = 0
    f1, threshold = best_thresholds(latents, fires)
    for a in range(3):
        for j in range(4):
            scores = {0.0: np.inf}
            for t in np.unique(latents[latents[:, j] > 0, j]):
                said = latents[:, j] >= t
                scores[2 * (said & fires[:, a]).sum() / (said.sum() + fires[:, a].sum())] = t
            assert f1[a, j] == pytest.approx(max(scores))
            if f1[a, j]:
                said = latents[:, j] >= threshold[a, j]
                assert 2 * (said & fires[:, a]).sum() / (said.sum() + fires[:, a].sum()) == pytest.approx(
                    f1[a, j]
                )


def test_splitting_and_absorption_are_told_apart():
    """Atom 0 is a parent: latent 0 tells it, but not beside atom 1, whose latent 1 tells both; latent 2 takes
    a tenth of the rest over. Atom 2 has nothing to do with it."""
    rng = np.random.default_rng(1)
    child = rng.random(8000) < 0.05
    parent = child | (rng.random(8000) < 0.2)
    fires = np.stack([parent, child, rng.random(8000) < 0.1], axis=1)
    piece = parent & ~child & (rng.random(8000) < 0.1)
    silent = parent & ~child & ~piece & (rng.random(8000) < 0.05)
    latents = np.stack([parent & ~child & ~piece & ~silent, child, piece, fires[:, 2]], axis=1).astype(float)
    test = rng.random(8000) < 0.5
    got = tell(latents, fires, test)
    rows = test & parent
    assert got.latent.tolist() == [0, 1, 3]
    assert got.caught[0] == pytest.approx(latents[rows, 0].mean())
    assert got.absorbed[0] == pytest.approx(child[rows].mean())
    assert got.split[0] == pytest.approx(piece[rows].mean())
    assert got.missed[0] == pytest.approx(silent[rows].mean())
    assert got.f1[1:] == pytest.approx([1, 1])
    assert got.caught[1:] == pytest.approx([1, 1])


def test_a_latent_that_is_often_right_by_chance_absorbs_nothing():
    rng = np.random.default_rng(2)
    fires = np.stack([rng.random(4000) < 0.95, rng.random(4000) < 0.1], axis=1)
    latents = np.stack([np.zeros(4000), fires[:, 1]], axis=1).astype(float)
    got = tell(latents, fires, rng.random(4000) < 0.5)
    assert got.absorbed[0] == 0
    nothing = tell(np.zeros((4000, 2)), fires, rng.random(4000) < 0.5)
    assert nothing.latent.tolist() == [-1, -1]
    assert nothing.missed == pytest.approx([1, 1])
    assert nothing.f1 == pytest.approx([0, 0])


def test_thresholds_are_chosen_on_other_rows():
    """Noise that fits the choosing rows scores at chance on the others."""
    rng = np.random.default_rng(3)
    fires, latents = rng.random((60, 1)) < 0.3, np.maximum(rng.normal(size=(60, 400)), 0)
    test = np.arange(60) % 2 == 0
    assert best_thresholds(latents[~test], fires[~test])[0].max() > 0.7
    assert tell(latents, fires, test).f1[0] < 0.55


# Worlds ------------------------------------------------------------------------------------------------
def test_atoms_of_a_learner_are_what_a_value_writes():
    """A lookup learner whose table is a sum of known directions."""
    world = World.on(World.chain(3).graph, values=[2, 3, 2], seed=2)
    contexts = Contexts.complete(world)
    rng = np.random.default_rng(0)
    directions = {(i, v): rng.normal(size=5) for i, size in enumerate(world.values) for v in range(size)}
    base = rng.normal(size=5)
    f = np.stack([base + sum(directions[i, v] for i, v in enumerate(d) if v >= 0) for d in contexts.vectors])
    model = lookup_model(torch.from_numpy(f).float(), torch.zeros(12, 5))
    sample, every = lookup_rows(model, contexts, n=500, seed=3), lookup_rows(model, contexts)
    got = learned_truth(sample, every, ("resid_post", 0))
    with pytest.warns(DeprecationWarning, match="hook_name="):
        assert np.array_equal(learned_truth(sample, every, point=("resid_post", 0)).atoms, got.atoms)
    assert got.names == tuple(f"{i}={v}" for i, v in directions)
    assert np.allclose(got.atoms, np.stack(list(directions.values())), atol=1e-5)
    assert np.allclose(got.rows, base + got.fires @ got.atoms, atol=1e-4)
    for group in np.unique(got.groups)[:20]:
        assert len(np.unique(got.fires[got.groups == group], axis=0)) == 1


def test_worlds_are_what_they_say(sparse, dense):
    assert (len(sparse.atoms), sparse.d_in) == (64, 16)
    assert sparse.firing.max() < 0.06
    assert sparse.firing.min() > 0
    assert (len(dense.atoms), dense.d_in) == (14, 7)
    assert dense.firing.mean() == pytest.approx(0.25, abs=0.02)
    residual = sparse.rows - sparse.fires @ sparse.atoms
    quiet = ~sparse.fires.any(axis=1)
    assert np.allclose(residual[quiet], 0)
    again = sparse_truth(64, 16, 6000, firing=0.03)
    assert np.array_equal(again.rows, sparse.rows)
    with pytest.raises(ValueError, match="sparse is"):
        sparse_truth(20, 8)
    with pytest.raises(ValueError, match="length 0"):
        Truth("x", sparse.rows, 0 * sparse.atoms, sparse.names, sparse.fires, sparse.groups)


def test_what_is_given_is_checked_and_left_alone(sparse):
    sae = planted_sae(sparse)
    state = torch.random.get_rng_state()
    fresh = untrained(sae, 0)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(fresh.W_dec, sae.W_dec)
    assert torch.equal(fresh.W_dec, untrained(sae, 0).W_dec)
    with pytest.raises(ValueError, match="the world's rows have width 7"):
        recovery(sae, dense_truth(Contexts.complete(World.chain(7)), n=50))
    with pytest.raises(ValueError, match="test_share"):
        recovery(sae, sparse, test_share=1.0)
    with pytest.raises(ValueError, match="no SAE"):
        recovery({}, sparse)
