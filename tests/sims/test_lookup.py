"""The lookup learner under TransformerLens, graticule's own capture, and SAELens."""

import networkx as nx
import numpy as np
import pytest
import torch
from helpers import as_installed, sae_by_override

from graticule import capture, record
from graticule.hooks.artifact import ArtifactError
from graticule.sims.contexts import Contexts
from graticule.sims.learners import load_lookup, lookup_model, save_lookup, sequences
from graticule.sims.papers import log_odds
from graticule.sims.papers import tables as any_learner
from graticule.sims.papers.tables import Tables
from graticule.sims.training.lookup import train_tables
from graticule.sims.training.settings import Training
from graticule.sims.world import World
from graticule.sims.worlds import RestrictedWorld, smooth_world


@pytest.fixture(scope="module")
def learned():
    contexts = Contexts.complete(World.random(4, seed=1))
    return train_tables([contexts], Training(steps=500, scale=5.0, dim=5, log_every=500), progress=False)


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
    batch = store.get_batch_tokens(64)
    got = store.get_activations(batch).reshape(-1, 5)
    assert {tuple(row) for row in batch.tolist()} <= set(zip(ids.tolist(), tokens.tolist(), strict=True))
    torch.testing.assert_close(got, learned.f[0][batch[:, 0]])


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


def test_tables_that_do_not_fit_are_refused(learned, tmp_path):
    with as_installed(), pytest.raises(ValueError, match="equal widths"):
        lookup_model(learned.f[0], learned.g[0][:, :3])
    with pytest.raises(ValueError, match="some of 0 … 15"):
        lookup_model(learned.f[0], learned.g[0], tokens=np.array([3, 16]))
    with pytest.raises(ValueError, match="for 81 contexts and 16 tokens"):
        save_lookup(tmp_path / "learner", learned.contexts[0], learned.f[0][:40], learned.g[0])
    assert not (tmp_path / "learner").exists()


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


def test_folder_opens_without_graticule(learned, model, tmp_path):
    """By TransformerLens and safetensors alone."""
    import json

    from safetensors.torch import load_file
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    save_lookup(tmp_path / "learner", learned.contexts[0], learned.f[0], learned.g[0])
    manifest = json.loads((tmp_path / "learner" / "manifest.json").read_text())
    held = load_file(tmp_path / "learner" / "learner.safetensors")
    plain = HookedTransformer(HookedTransformerConfig(**manifest["settings"]["config"]))
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.zero_()
        plain.embed.W_E.copy_(held["f"])
        plain.unembed.W_U.copy_(held["g"].T)
        plain.unembed.b_U.copy_(held["b_U"])
    batch = sequences([0, 5, 40], [1, 2, 3])
    torch.testing.assert_close(plain(batch), model(batch))


def test_an_incomplete_concept_set_has_the_papers_loss_too(tmp_path):
    """Tokens outside 𝒞̂ have no share of the softmax: in training, in the model, in the theorems' tables."""
    contexts = Contexts.complete(RestrictedWorld.drawn(World.random(4, seed=1), 0.5, seed=2))
    settings = Training(optimizer="population", steps=2000, log_every=2000)
    learned = train_tables([contexts], settings, progress=False)
    save_lookup(tmp_path / "learner", contexts, learned.f[0], learned.g[0])
    model, _ = load_lookup(tmp_path / "learner")
    met = np.flatnonzero(contexts.probabilities)
    log_p = torch.log_softmax(model(sequences(met, met % 16))[:, 0].double(), dim=-1).numpy()
    assert np.exp(log_p[:, ~contexts.world.allowed]).max() == 0
    loss = -float(contexts.probabilities[met] @ (contexts.conditional(met) * log_p).sum(axis=1))
    assert loss == pytest.approx(learned.loss[-1, 0], abs=1e-5)
    tables = Tables.of(learned)
    np.testing.assert_allclose(np.exp(tables.log_p), np.exp(log_p), atol=1e-5)
    assert any_learner.entropy_floor(tables, float(learned.loss[-1, 0])).holds
    assert any_learner.proposition_11(tables).holds
    assert log_odds.theorem_2_2(tables).holds
    for i in range(4):
        assert contexts.world.allowed[tables.token_pairs(i)].all()


def test_parks_theorem_2_2_through_the_hooked_model(learned, model):
    tables = Tables.of(learned)
    logits = model(sequences(tables.met, tables.met % 16))[:, 0]
    assert log_odds.theorem_2_2(tables, torch.log_softmax(logits, -1).double().numpy(), 1e-5).holds


def test_an_sae_is_attached_and_trained_on_it(learned):
    """SAELens's own runner by `override_model`, then the SAE it made inside the forward pass."""
    f, g, point = learned.f[0], learned.g[0], "blocks.0.hook_resid_post"
    model = lookup_model(f, g, sae=True)
    ids, tokens = learned.contexts[0].sample(2048, np.random.default_rng(3))
    how = {"hook_name": point, "context_size": 2, "seqpos_slice": (0, 1)}
    how |= {"training_tokens": 1024, "n_batches_in_buffer": 128}
    sae = sae_by_override(model, sequences(ids, tokens), d_in=5, d_sae=12, **how)
    batch = sequences(ids[:32], tokens[:32])
    with torch.no_grad():
        got = model.run_with_saes(batch, saes=[sae])[:, 0]
        torch.testing.assert_close(got, sae(f[ids[:32]]) @ g.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("manifest.json", lambda m: m.pop("edges")),
        ("manifest.json", lambda m: m["values"].append(2)),
        ("manifest.json", lambda m: m["edges"].append([3, 0]) or m["edges"].append([0, 3])),
        ("learner.safetensors", lambda t: t.pop("g")),
        ("world.safetensors", lambda t: t.pop("masks")),
    ],
)
def test_a_damaged_folder_is_told(learned, tmp_path, file, change):
    import json

    from safetensors.torch import load_file, save_file

    save_lookup(tmp_path / "learner", learned.contexts[0], learned.f[0], learned.g[0])
    path = tmp_path / "learner" / file
    held = json.loads(path.read_text()) if file.endswith("json") else load_file(path)
    change(held)
    path.write_text(json.dumps(held)) if file.endswith("json") else save_file(held, path)
    with pytest.raises(ArtifactError, match="does not fit together"):
        load_lookup(tmp_path / "learner")
