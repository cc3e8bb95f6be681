"""Rows whose whole truth is known: probabilities, splits by context, and what instruments make of them."""

import networkx as nx
import numpy as np
import pytest
import torch

from graticule.probes.linear.ridge import cosines
from graticule.probes.linear.ridge_cv import ridge_cv
from graticule.sims.contexts import UNKNOWN, Contexts
from graticule.sims.learners import lookup_model
from graticule.sims.papers.setting import Setting
from graticule.sims.sequence import SequenceTokens, sequence_model
from graticule.sims.training.lookup import train_tables
from graticule.sims.training.settings import SequenceShape, Training
from graticule.sims.truth.optimal import parity, truth_table
from graticule.sims.truth.rows import lookup_rows, sequence_rows
from graticule.sims.world import World
from graticule.sims.worlds import RestrictedWorld, smooth_world

POINT = "blocks.0.hook_resid_post"


@pytest.fixture(scope="module")
def contexts():
    return Contexts.complete(World.random(5, seed=3))


@pytest.fixture(scope="module")
def directions():
    return np.random.default_rng(0).normal(size=(5, 8))


@pytest.fixture(scope="module")
def linear(contexts, directions):
    """A lookup learner that writes each concept's posterior in a direction of its own, with a little of
    everything else."""
    x = contexts.posterior(np.arange(contexts.n))[:, :, 1] @ directions
    x = x + 0.02 * np.random.default_rng(1).normal(size=x.shape)
    return lookup_model(torch.from_numpy(x.astype(np.float32)), torch.zeros(32, 8))


@pytest.fixture(scope="module")
def sequence(contexts):
    """An untrained sequence learner: embeddings only, so that what is written where is known."""
    tokens = SequenceTokens(contexts.world, (0, 1, 2, 3, 4))
    model = sequence_model(tokens, SequenceShape(1, 12, 1))
    with torch.no_grad():
        model.embed.W_E.normal_(generator=torch.Generator().manual_seed(0))
    return model, tokens


@pytest.mark.slow
def test_every_context_once_with_its_probability(contexts, linear):
    rows = lookup_rows(linear, contexts, POINT)
    np.testing.assert_allclose(rows.weights, contexts.probabilities)
    np.testing.assert_array_equal(rows.concept_values, contexts.vectors)
    assert len(np.unique(rows.contexts)) == contexts.n
    names, values = rows.targets()
    assert names == [f"posterior_{i}" for i in range(5)]
    np.testing.assert_allclose(values, contexts.posterior(np.arange(contexts.n))[:, :, 1], atol=1e-12)


@pytest.mark.slow
def test_a_sample_has_the_same_truth(contexts, linear):
    every, some = lookup_rows(linear, contexts, POINT), lookup_rows(linear, contexts, POINT, n=20_000, seed=1)
    number = {c: i for i, c in enumerate(every.contexts)}
    at = [number[c] for c in some.contexts]
    np.testing.assert_allclose(some.targets()[1], every.targets()[1][at])
    torch.testing.assert_close(some.activations[POINT], every.activations[POINT][at])
    seen = np.bincount(at, minlength=contexts.n) / len(at)
    assert np.abs(seen - every.weights).max() < 0.006
    test = some.test_rows(0.25, seed=2)
    assert not set(some.contexts[test]) & set(some.contexts[~test])
    assert 0.1 < test.mean() < 0.4
    empty = (some.concept_values == UNKNOWN).all(axis=1)
    assert empty.any() and not test[empty].any()
    for size in range(1, 6):  # a quarter of the contexts of every size
        alike = (some.concept_values != UNKNOWN).sum(axis=1) == size
        held = len(np.unique(some.contexts[alike & test])) / len(np.unique(some.contexts[alike]))
        assert abs(held - 0.25) < 0.06


def test_ridge_finds_what_is_written(contexts, linear, directions):
    """The calibration certificate in small: a sample split by context, judged by the whole truth."""
    every, some = lookup_rows(linear, contexts, POINT), lookup_rows(linear, contexts, POINT, n=4000, seed=1)
    x, y, test = some.activations[POINT].double().numpy(), some.targets()[1], some.test_rows()
    fit = ridge_cv(x[~test], y[~test], clusters=some.contexts[~test])
    best = every.reader(POINT)
    assert best.r2.min() > 0.97
    assert 1 - ((fit.predict(x[test]) - y[test]) ** 2).mean() / y[test].var() > 0.97
    assert cosines(fit.coef, best.coef).min() > 0.98
    for truth in (every.write_directions(POINT), directions.T, best.write):
        assert cosines(fit.write, truth).min() > 0.98
    # parity is there for whoever multiplies, and not on a line
    odd = parity(contexts.world, every.concept_values, (0, 1))[:, None]
    product = (every.targets()[1][:, :1] - 0.5) * (every.targets()[1][:, 1:2] - 0.5)
    assert every.reader(POINT, odd).r2[0] < 0.1 and abs(np.corrcoef(product[:, 0], odd[:, 0])[0, 1]) > 0.9


@pytest.mark.slow
def test_a_trained_learner_writes_a_line_and_a_circle():
    """The synthetic twin of time and longitude: the posterior mean of an ordered concept, and the mean cosine
    and sine of a cyclic one, are read from contexts that the probe never saw; not so before training."""
    world = smooth_world(nx.DiGraph([(0, 1), (0, 2)]), (2, 12, 8), {1: "cyclic", 2: "ordered"}, seed=0)
    contexts = Contexts.complete(world)
    found = []
    for steps in (6000, 0):
        learned = train_tables(
            [contexts], Training(dim=8, optimizer="population", lr=4.0, steps=steps, scale=0.1)
        )
        rows = lookup_rows(lookup_model(learned.f[0], learned.g[0]), contexts, POINT, n=6000, seed=1)
        x, (names, y), test = rows.activations[POINT].double().numpy(), rows.targets(), rows.test_rows()
        fit = ridge_cv(x[~test], y[~test], clusters=rows.contexts[~test])
        found.append(1 - ((fit.predict(x[test]) - y[test]) ** 2).mean(axis=0) / y[test].var(axis=0))
    assert names == ["posterior_0", "expected_1_0", "expected_1_1", "expected_2"]
    assert found[0].min() > 0.6 and found[1].max() < 0.1, found


@pytest.mark.slow
def test_beginnings_of_texts_once_with_their_probability(contexts, sequence):
    model, tokens = sequence
    rows = sequence_rows(model, tokens, "blocks.0.hook_resid_pre", orders=None)
    # 1 + 5·2 + 20·4 + 60·8 + 120·16 + 120·32 beginnings
    assert len(rows.weights) == 6331 and rows.weights.sum() == pytest.approx(1)
    law = Contexts.prefixes(contexts.world)
    place = {tuple(v): p for v, p in zip(law.vectors, law.probabilities, strict=True)}
    got: dict[tuple, float] = {}
    for v, p in zip(rows.concept_values, rows.weights, strict=True):
        got[tuple(v)] = got.get(tuple(v), 0.0) + p
    assert len(got) == 243
    for v, p in got.items():
        assert p == pytest.approx(place[v])
    with pytest.warns(DeprecationWarning, match="TrueRows.told is the old name of order"):
        assert rows.told is rows.order
    told = rows.order >= 0
    np.testing.assert_array_equal(told.sum(axis=1), (rows.concept_values != UNKNOWN).sum(axis=1))


@pytest.mark.slow
def test_write_directions_at_a_position(sequence):
    """After the embedding alone, a concept is written by its own token and only where that is the last."""
    model, tokens = sequence
    rows = sequence_rows(model, tokens, "hook_embed", pos=2, orders=None)
    table = model.W_E.detach()
    steer = table[tokens.first + 1] - table[tokens.first]
    last = rows.weights[rows.order[:, 1] == 3].sum() / rows.weights[(rows.order == 3).any(axis=1)].sum()
    got = rows.write_directions("hook_embed", [3])[:, 0]
    np.testing.assert_allclose(got, last * steer[3].numpy(), rtol=1e-5)
    some = sequence_rows(model, tokens, "hook_embed", n=300)
    assert some.activations.n_rows == 1800
    with pytest.raises(ValueError, match="not told apart"):
        some.write_directions("hook_embed")
    with pytest.raises(ValueError, match="share=1"):
        some.test_rows(1.0)


def test_the_old_names_of_concept_values_and_allowed_vectors_work_and_warn(contexts):
    world = RestrictedWorld.drawn(contexts.world, 0.5)
    with pytest.warns(DeprecationWarning, match=r"RestrictedWorld\.kept is the old name of allowed"):
        assert world.kept is world.allowed
    with pytest.warns(DeprecationWarning, match=r"Setting\(kept=\) is the old name of vector_share="):
        setting = Setting(4, kept=0.5)
    assert setting == Setting(4, vector_share=0.5) and setting.described()["kept"] == 0.5
    with pytest.warns(DeprecationWarning, match=r"complete\(known=\) is the old name of p_known="):
        assert len(Contexts.complete(contexts.world, known=1.0).masks) == 1
    with pytest.warns(DeprecationWarning, match=r"truth_table\(known=\) is the old name of concept_values="):
        truth_table(contexts.world, known=contexts.vectors)
