"""Steering vectors of lookup tables against loops over tokens and contexts, and tables of known truth."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import as_installed

from graticule.probes.geometry import causal, covariance
from graticule.sims.contexts import UNKNOWN, Contexts
from graticule.sims.training.lookup import train_tables
from graticule.sims.training.settings import Training
from graticule.sims.truth.steering import VIEWS, Flips, concept_lines, steering_vectors, watch_cosines
from graticule.sims.world import World
from graticule.sims.worlds import RestrictedWorld, with_child

WORLD = World.random(4, seed=1)
CASES = {
    "complete": Contexts.complete(WORLD),
    "some masks": Contexts.of(WORLD, [(1, 1, 0, 0), (0, 1, 1, 1), (0, 0, 0, 0)]),
    "some vectors": Contexts.complete(RestrictedWorld.drawn(WORLD, 0.6, seed=3)),
    "impossible vectors": Contexts.complete(with_child(World.random(3, seed=1), 1)),
    "many values": Contexts.complete(World.on(World.chain(3).graph, values=(3, 2, 4), seed=2)),
}


@pytest.fixture(params=CASES, ids=list(CASES))
def contexts(request):
    return CASES[request.param]


def flips_by_hand(vectors, trained, concept, a, b):
    """Pairs of trained rows that differ in one concept alone, found by looking at every pair of rows."""
    out = set()
    for s, t in itertools.product(trained, trained):
        other = np.delete(vectors[s], concept), np.delete(vectors[t], concept)
        if vectors[s, concept] == a and vectors[t, concept] == b and (other[0] == other[1]).all():
            out.add((int(s), int(t)))
    return out


def test_pairs_are_those_found_by_looking_at_all(contexts):
    world, flips = contexts.world, Flips(contexts)
    tokens = np.flatnonzero(world.joint.reshape(-1))
    met = np.flatnonzero(contexts.probabilities)
    for s, (concept, a, b) in enumerate(flips.sets):
        found = {(int(x), int(y)) for x, y in flips.tokens[s]}
        assert found == flips_by_hand(world.vectors, tokens, concept, a, b)
        assert len(found) == len(flips.tokens[s])
        rows = {(int(x), int(y)) for x, y in flips.rows[s]}
        assert rows == flips_by_hand(contexts.vectors, met, concept, a, b)
    sizes = world.values
    assert len(flips.sets) == sum(v * (v - 1) // 2 for v in sizes)
    assert all(a < b for _, a, b in flips.sets)


def additive(contexts, width=6, seed=0):
    """Tables that are sums over concepts of one direction times the value, unknown ones in the middle."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.normal(size=(width, width)))[0][: contexts.world.m]
    values = np.where(contexts.vectors == UNKNOWN, 0.5, contexts.vectors)
    return values @ directions, contexts.world.vectors @ directions, directions


def test_additive_tables_are_parallel_within_and_orthogonal_across(contexts):
    f, g, _ = additive(contexts)
    steering = steering_vectors(contexts, torch.from_numpy(f), torch.from_numpy(g))
    same = np.array([[s[0] == t[0] for t in steering.sets] for s in steering.sets])
    for view, grid in steering.cosines(self_pairs=True).items():
        known = np.isfinite(grid)
        np.testing.assert_allclose(grid[known & same], 1, atol=1e-9, err_msg=view)
        np.testing.assert_allclose(grid[known & ~same], 0, atol=1e-9, err_msg=view)
    np.testing.assert_allclose(steering.means(), 1)
    steps = np.array([b - a for _, a, b in steering.sets])
    moved = steering.log_odds()
    known = np.isfinite(moved)
    np.testing.assert_allclose(moved[known], (np.outer(steps, steps) * same)[known], atol=1e-9)


def test_a_change_of_basis_moves_cosines_but_not_log_odds_or_causal_cosines():
    contexts = CASES["complete"]
    rng = np.random.default_rng(4)
    f, g = rng.normal(size=(contexts.n, 4)), rng.normal(size=(16, 4))
    a = rng.normal(size=(4, 4))
    before = steering_vectors(contexts, f, g)
    after = steering_vectors(contexts, f @ np.linalg.inv(a), g @ a.T + 1.0)
    np.testing.assert_allclose(before.log_odds(), after.log_odds(), atol=1e-9)
    assert np.abs(before.means() - after.means()).max() > 0.01
    one, two = causal(covariance(g)), causal(covariance(g @ a.T))
    np.testing.assert_allclose(before.means(one), after.means(two), atol=1e-7)


def test_means_are_over_sets_that_have_pairs():
    contexts = CASES["some masks"]
    f, g, _ = additive(contexts, seed=2)
    steering = steering_vectors(contexts, f, g)
    counts = [len(e) for e in steering.embedding]
    assert counts == [2, 6, 4, 4]  # by hand: masks in which the concept is known, their other known concepts
    found = steering.means()
    assert found == pytest.approx([1, 1, 1])
    lonely = Contexts.of(WORLD, [(1, 0, 0, 0)])
    only = steering_vectors(lonely, *additive(lonely)[:2])
    assert [len(e) for e in only.embedding] == [1, 0, 0, 0]
    assert np.isnan(only.means()[1]) and only.means(self_pairs=True)[1] == pytest.approx(1)


def test_tables_of_other_lengths_are_refused():
    contexts = CASES["complete"]
    f, g, _ = additive(contexts)
    with as_installed(), pytest.raises(ValueError, match="for 81 contexts and 16 tokens"):
        steering_vectors(contexts, f[:-1], g)


def test_watched_cosines_and_lines_are_those_of_the_tables():
    contexts = [CASES["complete"], Contexts.complete(World.random(4, seed=6))]
    settings = Training(optimizer="population", lr=2.0, steps=400, log_every=200)
    learned = train_tables(contexts, settings, watch=watch_cosines(contexts), progress=False)
    lines = concept_lines(learned, nulls=10)
    assert isinstance(lines, pd.DataFrame) and len(lines) == 8
    assert (lines["n_unembedding"] == 8).all() and (lines["n_embedding"] == 27).all()
    for run in range(2):
        steering = steering_vectors(contexts[run], learned.f[run], learned.g[run])
        mine = lines[lines["run"] == run]
        # the watch sees float32 tables
        np.testing.assert_allclose(learned.watched[-1][run], steering.means(), atol=1e-5)
        np.testing.assert_allclose(mine[list(VIEWS)].mean(), steering.means(), atol=1e-9)
        full = steering.means(self_pairs=True)
        np.testing.assert_allclose(mine["unembedding_self"].mean(), full[0], atol=1e-9)
        assert full[0] > steering.means()[0]
    assert (lines["log_odds"] > 0).all() and lines["first"].between(0, 1).all()
    assert (lines["unembedding"] > lines["random"]).all()
    assert (learned.watched[-1] > learned.watched[0] + 0.3).all()
