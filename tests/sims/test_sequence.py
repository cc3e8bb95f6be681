"""The sequence learner: its language and truth, its training, and the same numbers by every route."""

import itertools
from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
import torch
from helpers import as_installed, cached, relative, sae_by_override

from graticule import capture, record
from graticule.hooks.artifact import ArtifactError
from graticule.sims.contexts import UNKNOWN, Contexts
from graticule.sims.sequence import SequenceTokens, load_sequence, save_sequence
from graticule.sims.training.sequence import floors, sequence_logits, train_sequence
from graticule.sims.training.settings import SequenceShape, SequenceTraining
from graticule.sims.world import World
from graticule.sims.worlds import smooth_world, with_child, with_synonyms

POINTS = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
SETTINGS = SequenceTraining(SequenceShape(2, 16, 2), steps=300, batch=64, lr=5e-3, log_every=100)


@pytest.fixture(scope="module")
def world():
    return World.random(4, seed=1)


@pytest.fixture(scope="module")
def learned(world):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    out = train_sequence(world, SETTINGS, progress=False)
    assert torch.equal(torch.get_rng_state(), before)
    return out


@pytest.fixture(scope="module")
def texts(learned):
    return learned.tokens.every(orders=6, seed=1)


# The language ----------------------------------------------------------------------------------------
def test_texts_tell_what_they_say(world):
    tokens = SequenceTokens(world, (0, 1, 2, 3))
    texts, completions = tokens.draw(200, np.random.default_rng(0))
    words = [[tokens.names[t] for t in text] for text in texts.tolist()]
    known = tokens.known(texts)
    for text, completion, rows in zip(words, completions, known, strict=True):
        assert text[0] == "start" and (rows[0] == UNKNOWN).all()
        for pos, word in enumerate(text[1:], start=1):
            concept, value = map(int, word.removeprefix("C_").split("="))
            assert rows[pos, concept] == value == world.vectors[completion, concept]
            assert (rows[pos] != UNKNOWN).sum() == pos
    orders = texts[:, 1:].numpy() - tokens.start - 1
    assert len(np.unique(orders // 2, axis=0)) == 24  # all orders come up


def test_every_text_once(world):
    tokens = SequenceTokens(world, (0, 1, 2, 3))
    every = tokens.every()
    assert len(np.unique(every, axis=0)) == len(every) == 24 * 16
    assert tokens.chances(every).sum() == pytest.approx(24)
    some = tokens.every(orders=8)
    told = (some[:, 1:].numpy() - tokens.start - 1) // 2
    for pos in range(4):  # every concept as often at every place
        assert set(np.bincount(told[:, pos])) == {len(some) // 4}


def test_hidden_concepts_are_never_told():
    world = with_synonyms(World.random(3, seed=0), 2)
    contexts = Contexts.prefixes(world, hidden=[3])
    tokens = SequenceTokens.of(contexts)
    assert tokens.concepts == (0, 1, 2) and tokens.start == 16
    truth = tokens.truth(tokens.every())
    np.testing.assert_allclose(truth["posterior_3"], 0.5)
    assert truth["floor"].min() == pytest.approx(np.log(2))  # which word is left to guess


@pytest.mark.slow
def test_truth_is_the_worlds(world, texts, learned):
    """Each row against Bayes' rule over the joint, concept by concept."""
    table = learned.tokens.truth(texts)
    assert len(table) == texts.numel()
    joint = world.joint.reshape(-1)
    for _, row in table.sample(40, random_state=0).iterrows():
        prefix = texts[int(row["source"]), 1 : int(row["position"]) + 1].tolist()
        told = {(t - 17) // 2: (t - 17) % 2 for t in prefix}
        agree = np.all([world.vectors[:, i] == v for i, v in told.items()], axis=0) if told else joint > 0
        p = np.where(agree, joint, 0) / joint[agree].sum()
        assert row["n_known"] == len(told)
        assert row["floor"] == pytest.approx(-(p[p > 0] * np.log(p[p > 0])).sum(), abs=1e-12)
        for i in range(4):
            assert row[f"known_{i}"] == told.get(i, UNKNOWN)
            assert row[f"posterior_{i}"] == pytest.approx(p @ (world.vectors[:, i] == 1))


def test_the_floor_is_the_law_of_prefixes(world):
    contexts = Contexts.prefixes(world)
    assert floors(contexts).mean() == pytest.approx(contexts.entropy_floor)
    # by every text in every order
    tokens = SequenceTokens.of(contexts)
    texts = tokens.every()
    floor = tokens.truth(texts)["floor"].to_numpy().reshape(texts.shape)
    np.testing.assert_allclose(floors(contexts), tokens.chances(texts) @ floor / 24, atol=1e-12)


# Training --------------------------------------------------------------------------------------------
def test_it_learns_the_posterior(learned, texts):
    assert learned.gap.min() > -1e-6 and learned.gap[-1].mean() < 0.05 < 0.5 < learned.gap[0].mean()
    np.testing.assert_allclose(learned.loss[-1], (learned.gap[-1] + learned.floor).mean())
    truth = learned.tokens.truth(texts)
    with torch.no_grad():
        p = torch.softmax(learned.model(texts), dim=-1).flatten(0, 1).numpy()
    vectors = learned.contexts.world.vectors
    for i in range(4):
        assert np.abs(p @ vectors[:, i] - truth[f"posterior_{i}"]).mean() < 0.03


def test_plain_forward_is_the_models(learned, texts):
    for shape in (SETTINGS.shape, SequenceShape(1, 6, 1, 0, None)):
        model = learned.model
        if shape != SETTINGS.shape:
            short = SequenceTraining(shape, steps=1, batch=2)
            model = train_sequence(learned.contexts.world, short, progress=False).model
        with torch.no_grad():
            torch.testing.assert_close(
                sequence_logits(dict(model.named_parameters()), shape, texts), model(texts)
            )


def test_same_settings_same_bits(world):
    short = SequenceTraining(SequenceShape(1, 8, 2), steps=8, batch=8, targets="sampled")
    seen: list[int] = []
    one, two = (
        train_sequence(world, short, watch=lambda step, _: seen.append(step), progress=False) for _ in "ab"
    )
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.equal(a, b) and not a.requires_grad
    assert seen == [0, 8, 0, 8]
    other = train_sequence(world, SequenceTraining(SequenceShape(1, 8, 2), steps=8, batch=8), progress=False)
    assert not torch.equal(other.model.W_E, one.model.W_E)  # the exact posterior is another teacher


def test_posteriors_kept_or_not_teach_alike(world, monkeypatch):
    short = SequenceTraining(SequenceShape(1, 8, 2), steps=4, batch=8)
    kept = train_sequence(world, short, progress=False)
    monkeypatch.setattr("graticule.sims.training.sequence._TABLE", 0)
    found = train_sequence(world, short, progress=False)
    np.testing.assert_array_equal(found.gap, kept.gap)
    assert torch.equal(found.model.W_U, kept.model.W_U)


@pytest.mark.slow
@pytest.mark.parametrize(
    "other",
    [
        lambda: with_child(World.random(3, seed=1), 1, values=3),
        lambda: smooth_world(nx.DiGraph([(0, 1), (0, 2)]), (2, 12, 6), {1: "cyclic", 2: "ordered"}),
        lambda: World.random(10, max_parents=2, seed=0),
    ],
    ids=["hierarchy", "line and circle", "ten concepts"],
)
def test_other_worlds_are_learnt_too(other):
    short = SequenceTraining(SequenceShape(1, 16, 2), steps=30, batch=32, log_every=30)
    out = train_sequence(other(), short, progress=False)
    assert np.isfinite(out.gap).all() and out.gap.min() > -1e-6
    assert out.gap[-1].mean() < 0.95 * out.gap[0].mean()


def test_training_ends_where_it_is_enough(world):
    enough = SequenceTraining(SequenceShape(1, 8, 1), steps=40, batch=8, log_every=10, enough=100.0)
    assert train_sequence(world, enough, progress=False).steps.tolist() == [0]


# The same numbers by every route ---------------------------------------------------------------------
def test_capture_and_record_see_what_the_cache_sees(learned, texts):
    cache = cached(learned.model, texts)
    acts = capture(learned.model, texts, points=POINTS, pos="all", progress=False)
    with record(learned.model, POINTS) as tape:
        learned.model(texts)
    for point in POINTS:
        assert relative(acts[point], cache[point].flatten(0, 1)) < 1e-6
        assert torch.equal(tape.activations[point], cache[point].flatten(0, 1))


@pytest.mark.slow
def test_truth_follows_any_capture(learned, texts):
    whole = learned.tokens.truth(texts)
    for pos in ("last", 2, slice(1, 3)):
        acts = capture(learned.model, texts, points=POINTS[0], pos=pos, progress=False)
        got = learned.tokens.truth(texts, acts.rows)
        rows = got["source"] * texts.shape[1] + got["position"]
        np.testing.assert_array_equal(got, whole.iloc[rows])
        np.testing.assert_array_equal(texts[got["source"], got["position"]], acts.rows["token"])


def test_saelens_store_reads_the_same_rows(learned, texts):
    import datasets
    from sae_lens import ActivationsStore

    store = ActivationsStore(
        model=learned.model,
        dataset=datasets.Dataset.from_dict({"tokens": texts.tolist()}),
        hook_name=POINTS[1],
        hook_head_index=None,
        streaming=False,
        context_size=5,
        d_in=16,
        n_batches_in_buffer=2,
        total_training_tokens=1024,
        store_batch_size_prompts=32,
        train_batch_size_tokens=64,
        prepend_bos=False,
        normalize_activations="none",
        device=torch.device("cpu"),
        dtype="float32",
        seqpos_slice=(None,),
        exclude_special_tokens=None,
    )
    batch = store.get_batch_tokens(32)
    assert torch.equal(batch.cpu(), texts[:32])
    got = store.get_activations(batch).reshape(-1, 16)
    assert relative(got, cached(learned.model, texts[:32])[POINTS[1]].flatten(0, 1)) < 1e-6


def test_saelens_trains_on_it_by_override_model(learned, texts):
    before = {name: p.clone() for name, p in learned.model.named_parameters()}
    how = {"hook_name": POINTS[1], "context_size": 5, "training_tokens": 1280, "n_batches_in_buffer": 32}
    sae = sae_by_override(learned.model, texts.repeat(4, 1), d_in=16, d_sae=24, **how)
    assert sae.W_dec.shape == (24, 16) and bool(torch.isfinite(sae.W_dec).all())
    assert all(torch.equal(p, before[name]) for name, p in learned.model.named_parameters())


def test_saved_and_loaded(learned, texts, tmp_path):
    save_sequence(tmp_path / "learner", learned.model, learned.contexts, SETTINGS.shape)
    again, contexts = load_sequence(tmp_path / "learner", sae=True)
    assert type(again).__name__ == "HookedSAETransformer"
    assert torch.equal(again(texts), learned.model(texts))
    assert SequenceTokens.of(contexts).names == learned.tokens.names
    assert contexts.entropy_floor == pytest.approx(learned.contexts.entropy_floor)
    (tmp_path / "learner" / "learner.safetensors").write_bytes(b"no")
    with pytest.raises(ArtifactError, match="damaged"):
        load_sequence(tmp_path / "learner")


def test_folder_opens_without_graticule(learned, texts, tmp_path):
    """By TransformerLens and safetensors alone, as a user without this package would."""
    import json

    from safetensors.torch import load_file
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    save_sequence(tmp_path / "learner", learned.model, learned.contexts, SETTINGS.shape)
    manifest = json.loads((tmp_path / "learner" / "manifest.json").read_text())
    model = HookedTransformer(HookedTransformerConfig(**manifest["settings"]["config"]))
    model.load_state_dict(load_file(tmp_path / "learner" / "learner.safetensors"), strict=False)
    torch.testing.assert_close(model(texts), learned.model(texts))


# What cannot be --------------------------------------------------------------------------------------
def test_what_cannot_be_is_refused(learned, texts):
    with pytest.raises(ValueError, match="texts are"):
        learned.tokens.known(texts[:, 1:])
    with pytest.raises(ValueError, match="at least one block"):
        SequenceShape(n_layers=0)
    with pytest.raises(ValueError, match="hidden"):
        train_sequence(learned.contexts.world, hidden=(7,))
    assert list(itertools.islice(learned.tokens.names, 2)) == ["0000", "0001"]
    with pytest.raises(ValueError, match="one concept or more"):
        train_sequence(learned.contexts.world, hidden=(0, 1, 2, 3))
    beyond, twice = texts[:1].clone(), texts[:1].clone()
    beyond[0, 1], twice[0, 2] = learned.tokens.d_vocab, texts[0, 1]
    with pytest.raises(ValueError, match=f"concept tokens 17 to {learned.tokens.d_vocab - 1}"):
        learned.tokens.known(beyond)
    with pytest.raises(ValueError, match="tells a concept twice"):
        learned.tokens.known(twice)
    with pytest.raises(ValueError, match="say orders="):
        SequenceTokens.of(Contexts.prefixes(World.chain(9))).every()
    with pytest.raises(FloatingPointError, match="lower lr"):
        train_sequence(learned.contexts.world, replace(SETTINGS, lr=1e9, steps=4), progress=False)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"targets": "Posterior"}, "'posterior' or 'sampled'"),
        ({"steps": -1}, "steps=-1"),
        ({"batch": 0}, "batch=0"),
        ({"lr": float("nan")}, "lr=nan"),
    ],
)
def test_settings_that_cannot_be(wrong, said):
    with as_installed(), pytest.raises(ValueError, match=said):
        SequenceTraining(**wrong)
    with as_installed(), pytest.raises(ValueError, match="'LN' or None"):
        SequenceShape(normalization="RMS")


def test_a_model_of_another_shape_is_not_saved(learned, tmp_path):
    with pytest.raises(ValueError, match=r"embed\.W_E is \(25, 16\), not \(25, 8\)"):
        save_sequence(
            tmp_path / "learner", learned.model, learned.contexts, replace(SETTINGS.shape, d_model=8)
        )
    assert not (tmp_path / "learner").exists()


def test_it_trains_where_gradients_are_off(world, learned):
    with torch.no_grad():
        again = train_sequence(world, replace(SETTINGS, steps=10), progress=False)
    assert again.gap[-1].mean() < again.gap[0].mean()


def test_the_old_name_of_a_languages_concepts_works_and_warns():
    world = World.independent(3)
    with pytest.warns(DeprecationWarning, match="shown=.* is the old name of concepts="):
        tokens = SequenceTokens(world, shown=(0, 2))
    with pytest.warns(DeprecationWarning, match=r"SequenceTokens\.shown is the old name of concepts"):
        assert tokens.shown == tokens.concepts == (0, 2)
