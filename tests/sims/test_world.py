"""Worlds and their contexts against brute force."""

import itertools

import networkx as nx
import numpy as np
import pytest
from helpers import as_installed

from graticule.sims.contexts import UNKNOWN, Contexts
from graticule.sims.world import World
from graticule.sims.worlds import RestrictedWorld, with_child, with_synonyms

WORLDS = {
    "random": lambda: World.random(5, seed=3),
    "few parents": lambda: World.random(6, 0.9, max_parents=2, seed=1),
    "dense": lambda: World.dense(4, seed=2),
    "chain": lambda: World.chain(5, seed=0),
    "forest": lambda: World.forest(6, trees=2, seed=0),
    "independent": lambda: World.independent(4, seed=5),
    "many values": lambda: World.on(nx.DiGraph([(2, 0), (0, 1), (2, 1)]), values=(3, 2, 4), seed=4),
}


@pytest.fixture(params=WORLDS, ids=list(WORLDS))
def world(request):
    return WORLDS[request.param]()


def chance(world: World, vector) -> float:
    """P(c), one factor at a time."""
    out = 1.0
    for i, table in enumerate(world.tables):
        out *= float(table[(*(vector[p] for p in world.parents(i)), vector[i])])
    return out


def test_joint_is_the_product_of_its_factors(world):
    assert world.joint.sum() == pytest.approx(1)
    for v, vector in enumerate(itertools.product(*(range(k) for k in world.values))):
        assert world.joint[vector] == pytest.approx(chance(world, vector), rel=1e-12)
        np.testing.assert_array_equal(world.vectors[v], vector)
    np.testing.assert_array_equal(world.token(world.vectors), np.arange(len(world.vectors)))


def test_samples_follow_the_joint(world):
    n = 40_000
    drawn = world.token(world.sample(n, np.random.default_rng(0)))
    expected = world.joint.reshape(-1) * n
    seen = np.bincount(drawn, minlength=len(expected))
    from scipy.stats import chisquare

    assert chisquare(seen, expected).pvalue > 1e-3


def test_what_d_separation_says_holds_in_the_joint(world):
    """P(i, j | rest given) factorises wherever the graph separates, and somewhere it does not."""
    joint, found = world.joint, set()
    for i, j in itertools.combinations(range(world.m), 2):
        others = [k for k in range(world.m) if k not in (i, j)]
        for given in itertools.chain([()], [(k,) for k in others]):
            table = joint.sum(axis=tuple(k for k in others if k not in given))
            axes = sorted([i, j, *given])
            table = np.moveaxis(table, [axes.index(i), axes.index(j)], [0, 1])
            table = table / table.sum(axis=(0, 1))
            product = table.sum(axis=1)[:, None] * table.sum(axis=0)[None]
            apart = np.abs(table - product).max() < 1e-12
            if world.separated(i, j, given):
                assert apart
            found.add(apart)
    assert found == ({True} if world.graph.number_of_edges() == 0 else found)
    assert world.graph.number_of_edges() == 0 or False in found


def test_neighbours_in_the_moral_graph_are_the_markov_blanket():
    collider = World.on(nx.DiGraph([(0, 2), (1, 2)]), seed=0)
    assert collider.neighbours(0) == [1, 2]  # the parents of one child are married
    assert World.chain(4).neighbours(1) == [0, 2]


def test_in_degree_is_bounded():
    world = World.random(8, 1.0, max_parents=3, seed=0)
    assert max(dict(world.graph.in_degree()).values()) == 3


def test_many_concepts_are_sampled_but_not_enumerated():
    world = World.random(40, 0.3, max_parents=4, seed=0)
    sample = world.sample(2000, np.random.default_rng(0))
    assert sample.shape == (2000, 40) and 0.2 < sample.mean() < 0.8
    with pytest.raises(ValueError, match="use sample"):
        _ = world.joint


def test_wrong_worlds_are_refused():
    with pytest.raises(ValueError, match="cycle"):
        World(nx.DiGraph([(0, 1), (1, 0)]), (np.full((2, 2), 0.5), np.full((2, 2), 0.5)))
    with pytest.raises(ValueError, match="no distribution"):
        World(nx.empty_graph(1, nx.DiGraph), (np.array([0.5, 0.6]),))
    with pytest.raises(ValueError, match=r"table of concept 1 is \(2,\)"):
        World(nx.DiGraph([(0, 1)]), (np.full(2, 0.5), np.full(2, 0.5)))


@pytest.mark.parametrize("make", [Contexts.complete, lambda w: Contexts.drawn(w, 5, seed=1)])
def test_contexts_against_enumeration(world, make):
    """Probabilities, posteriors and the entropy floor, from every concept vector under every mask."""
    contexts = make(world)
    met: dict[tuple, float] = {}
    for (vector, p), (mask, q) in itertools.product(
        zip(world.vectors, world.joint.reshape(-1), strict=True),
        zip(contexts.masks, contexts.chances, strict=True),
    ):
        key = tuple(np.where(mask, vector, UNKNOWN))
        met[key] = met.get(key, 0.0) + p * q
    number = {tuple(v): i for i, v in enumerate(contexts.vectors)}
    assert len(number) == contexts.n  # no context twice
    for key, p in met.items():
        assert contexts.probabilities[number[key]] == pytest.approx(p, rel=1e-12)
    assert contexts.probabilities.sum() == pytest.approx(1)
    np.testing.assert_array_equal(contexts.vectors[: len(world.vectors)], world.vectors)

    conditional = contexts.conditional(np.arange(contexts.n))
    entropy = -(conditional * np.log(np.where(conditional > 0, conditional, 1))).sum(axis=1)
    assert contexts.entropy_floor == pytest.approx(contexts.probabilities @ entropy, rel=1e-10)
    posterior = contexts.posterior(np.arange(contexts.n))
    known = contexts.vectors != UNKNOWN
    np.testing.assert_allclose(posterior.max(axis=2)[known], 1)
    np.testing.assert_allclose(posterior.sum(axis=2), 1)


def test_sampled_contexts_show_what_their_mask_shows(world):
    contexts = Contexts.complete(world, p_known=0.6)
    ids, tokens = contexts.sample(20_000, np.random.default_rng(0))
    shown, truth = contexts.vectors[ids], world.vectors[tokens]
    np.testing.assert_array_equal(shown, np.where(shown == UNKNOWN, UNKNOWN, truth))
    assert (shown != UNKNOWN).mean() == pytest.approx(0.6, abs=0.01)
    seen = np.bincount(ids, minlength=contexts.n) / len(ids)
    assert np.abs(seen - contexts.probabilities).max() < 0.01


def test_wrong_contexts_are_refused():
    world = World.chain(3)
    with pytest.raises(ValueError, match="given twice"):
        Contexts.of(world, [[1, 0, 1], [1, 0, 1]])
    with pytest.raises(ValueError, match="masks"):
        Contexts.of(world, [[1, 0]])
    with pytest.raises(ValueError, match="add up to"):
        Contexts.of(world, [[1, 0, 1]], [0.5])
    with pytest.raises(ValueError, match="one row per mask"):
        Contexts.of(world, [])
    with pytest.raises(ValueError, match="one row per mask"):
        Contexts.of(world, [[1, -1, 0]])
    with as_installed(), pytest.raises(ValueError, match="True where known"):
        Contexts(world, np.array([[1, 0, 1]]), np.ones(1))
    with pytest.raises(ValueError, match="one or more"):
        Contexts.drawn(world, 0)
    with pytest.raises(ValueError, match="they are 0 … 2"):
        world.marginal([3])


def test_what_is_too_large_to_enumerate_is_told_at_once():
    many = World.random(24, max_parents=2, seed=0)
    for make in (
        lambda: many.vectors,
        lambda: many.conditional(np.full((1, 24), UNKNOWN)),
        lambda: RestrictedWorld.drawn(many),
        lambda: Contexts.drawn(many, 3).n,
    ):
        with pytest.raises(ValueError, match="16,777,216 concept vectors, more than the 65,536"):
            make()
    with pytest.raises(ValueError, match=r"Contexts\.drawn"):
        Contexts.complete(many)
    with pytest.raises(ValueError, match="14,348,907 contexts are more than"):
        _ = Contexts.complete(World.chain(15)).vectors


def test_graphs_that_are_none_of_ours():
    for graph, said in ((nx.path_graph(2), "not directed"), (nx.DiGraph([("a", "b")]), "expected 0 … 1")):
        with as_installed(), pytest.raises(ValueError, match=said):
            World.on(graph)
        with as_installed(), pytest.raises(ValueError, match=said):
            World(graph, (np.full(2, 0.5), np.full((2, 2), 0.5)))


def test_tables_and_chances_add_up_to_one_in_float64():
    """What came through float32, say; those that do already are left to the bit."""
    world = World.random(4, seed=1)
    rounded = World(world.graph, tuple(table.astype(np.float32) for table in world.tables))
    for table, before in zip(rounded.tables, world.tables, strict=True):
        assert table.dtype == np.float64
        np.testing.assert_allclose(table.sum(axis=-1), 1, atol=1e-15)
        np.testing.assert_allclose(table, before, atol=1e-7)
    assert World(rounded.graph, rounded.tables).same_as(rounded) and not rounded.same_as(world)
    contexts = Contexts.of(world, [[1, 0, 1, 0], [0, 1, 1, 0]], [0.5, 0.500004])
    assert contexts.chances.sum() == pytest.approx(1, abs=1e-15)
    assert len(contexts.sample(5, np.random.default_rng(0))[0]) == 5


def test_a_restricted_world_is_neither_extended_nor_given_back_what_it_lost():
    half = RestrictedWorld.drawn(World.random(4, seed=1), 0.5, seed=0)
    for make in (lambda: with_child(half, 0), lambda: with_synonyms(half)):
        with pytest.raises(ValueError, match="restrict it afterwards"):
            make()
    quarter = RestrictedWorld.drawn(half, 0.5, seed=1)
    assert quarter.allowed.sum() == 4 and not (quarter.allowed & ~half.allowed).any()
