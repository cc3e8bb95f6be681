"""The lookup learner under TransformerLens, graticule's own capture, and SAELens."""

import networkx as nx
import numpy as np
import pytest
import torch
from helpers import as_installed

from graticule import capture, record
from graticule.hooks.artifact import ArtifactError
from graticule.sims.contexts import Contexts
from graticule.sims.lookup import load_lookup, lookup_model, save_lookup, sequences
from graticule.sims.train import Training, train
from graticule.sims.world import World
from graticule.sims.worlds.restricted import RestrictedWorld
from graticule.sims.worlds.values import smooth_world


@pytest.fixture(scope="module")
def learned():
    contexts = Contexts.complete(World.random(4, seed=1))
    return train([contexts], Training(steps=500, scale=5.0, dim=5, log_every=500), progress=False)


@pytest.fixture(scope="module")
def model(learned):
    return lookup_model(learned.f[0], learned.g[0])


def test_logits_and_stream_are_the_tables(learned, model):
    contexts = learned.contexts[0]
    ids, tokens = contexts.sample(64, np.random.default_rng(0))
    batch = sequences(ids, tokens)
    logits, cache = model.run_with_cache(batch)
    f, g = learned.f[0], learned.g[0]
    torch.testing.assert_close(logits[:, 0], f[ids] @ g.T)
    for point in ("blocks.0.hook_resid_pre", "blocks.0.hook_resid_post"):
        torch.testing.assert_close(cache[point][:, 0], f[ids])


def test_transformer_lens_loss_is_the_papers(learned, model):
    """Mean over samples of its own loss against the exact expected loss."""
    contexts = learned.contexts[0]
    ids, tokens = contexts.sample(60_000, np.random.default_rng(1))
    loss = float(model(sequences(ids, tokens), return_type="loss"))
    assert loss == pytest.approx(learned.loss[-1, 0], abs=0.01)


def test_capture_and_record_see_what_the_cache_sees(learned, model):
    contexts = learned.contexts[0]
    every = np.arange(contexts.n)
    acts = capture(model, [[int(i)] for i in every], points="resid_post", pos="last", prepend_bos=False)
    torch.testing.assert_close(acts["blocks.0.hook_resid_post"], learned.f[0])
    with record(model, "resid_post") as tape:
        model(sequences(every, every % 16))
    rows = tape.activations["blocks.0.hook_resid_post"].reshape(contexts.n, 2, -1)
    torch.testing.assert_close(rows[:, 0], learned.f[0])


def test_saelens_store_reads_the_same_rows(learned, model):
    import datasets
    from sae_lens import ActivationsStore

    contexts = learned.contexts[0]
    ids, tokens = contexts.sample(512, np.random.default_rng(2))
    rows = datasets.Dataset.from_dict({"tokens": sequences(ids, tokens).tolist()})
    store = ActivationsStore(
        model=model,
        dataset=rows,
        hook_name="blocks.0.hook_resid_post",
        hook_head_index=None,
        streaming=False,
        context_size=2,
        d_in=5,
        n_batches_in_buffer=2,
        total_training_tokens=1024,
        store_batch_size_prompts=64,
        train_batch_size_tokens=64,
        prepend_bos=False,
        normalize_activations="none",
        device=torch.device("cpu"),
        dtype="float32",
        seqpos_slice=(0, 1),
        exclude_special_tokens=None,
    )
    got = store.get_activations(store.get_batch_tokens(64)).reshape(-1, 5)
    distance = torch.cdist(got, learned.f[0], compute_mode="donot_use_mm_for_euclid_dist").min(dim=1).values
    assert len(got) == 64 and float(distance.max()) < 1e-5


def test_saved_and_loaded(learned, model, tmp_path):
    save_lookup(tmp_path / "learner", learned.contexts[0], learned.f[0], learned.g[0])
    again, contexts = load_lookup(tmp_path / "learner", sae=True)
    batch = sequences([0, 5, 40], [1, 2, 3])
    torch.testing.assert_close(again(batch), model(batch))
    assert type(again).__name__ == "HookedSAETransformer"
    assert contexts.entropy_floor == pytest.approx(learned.contexts[0].entropy_floor)
    with pytest.raises(FileExistsError):
        save_lookup(tmp_path / "learner", contexts, learned.f[0], learned.g[0])
    (tmp_path / "learner" / "manifest.json").write_text("{}")
    with pytest.raises(ArtifactError):
        load_lookup(tmp_path / "learner")


def test_tables_that_do_not_fit_are_refused(learned):
    with as_installed(), pytest.raises(ValueError, match="equal widths"):
        lookup_model(learned.f[0], learned.g[0][:, :3])


def test_any_world_is_saved_whole(learned, tmp_path):
    """Its incomplete concept sets, its lines and circles."""
    smooth = smooth_world(nx.DiGraph([(0, 1), (0, 2)]), (2, 5, 4), {1: "cyclic", 2: "ordered"})
    for name, world in (
        ("restricted", RestrictedWorld.drawn(learned.contexts[0].world, 0.5)),
        ("smooth", smooth),
    ):
        contexts = Contexts.complete(world)
        f, g = torch.zeros(contexts.n, 2), torch.zeros(len(world.vectors), 2)
        save_lookup(tmp_path / name, contexts, f, g)
        _, again = load_lookup(tmp_path / name)
        assert type(again.world) is type(world) and again.world.kinds == world.kinds
        np.testing.assert_array_equal(again.world.joint, world.joint)
        np.testing.assert_array_equal(again.probabilities, contexts.probabilities)
