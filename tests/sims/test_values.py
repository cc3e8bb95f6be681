"""Concepts on lines and circles, synonyms, hierarchies and Markov random fields."""

import itertools

import networkx as nx
import numpy as np
import pytest

from graticule.sims.contexts import Contexts
from graticule.sims.world import World
from graticule.sims.worlds import (
    Smooth,
    bumps,
    field_graph,
    markov_field,
    smooth_world,
    with_child,
    with_synonyms,
)


@pytest.fixture(scope="module")
def earth():
    """Two names above a longitude and a year, and a name below both."""
    graph = nx.DiGraph([(0, 2), (1, 2), (0, 3), (2, 4), (3, 4)])
    return smooth_world(graph, (2, 3, 24, 16, 2), {2: "cyclic", 3: "ordered"}, seed=1)


def test_places_have_numbers(earth):
    assert earth.coordinates(0).tolist() == [[0], [1]]
    np.testing.assert_array_equal(earth.coordinates(1), np.eye(3))
    circle = earth.coordinates(2)
    np.testing.assert_allclose(circle[6], [0, 1], atol=1e-12)
    steps = np.linalg.norm(circle - np.roll(circle, 1, axis=0), axis=1)
    np.testing.assert_allclose(steps, 2 * np.sin(np.pi / 24))
    np.testing.assert_allclose(earth.coordinates(3)[:, 0], np.arange(16) / 15)


def test_conditionals_are_smooth_over_their_places(earth):
    """Neighbouring places differ little, round the seam of a circle too; shuffled, they do."""

    def rough(table, cyclic):
        last = table if cyclic else table[..., 1:]
        step = last - (np.roll(table, 1, axis=-1) if cyclic else table[..., :-1])
        return float((step**2).mean() / table.var())

    rng = np.random.default_rng(0)
    for concept, cyclic in ((2, True), (3, False)):
        table = earth.tables[concept]
        shuffled = rng.permuted(table, axis=-1)
        assert rough(table, cyclic) < 0.3 < 1 < rough(shuffled, cyclic)
        assert len(np.unique(table.reshape(-1, table.shape[-1]).argmax(axis=1))) > 1  # parents move the bump
    # what lies below a circle and a line changes little from place to place, round the seam too
    below = earth.tables[4][..., 1]
    assert np.abs(below - np.roll(below, 1, axis=0)).max() < 0.2 and np.ptp(below) > 0.2
    assert np.abs(np.diff(below, axis=1)).max() < 0.1


def test_bumps_are_gaussian_and_von_mises():
    from scipy.stats import norm, vonmises

    places = np.linspace(0, 1, 40)
    line = bumps("ordered", 40, np.array([0.3, 0.9]), 0.1)
    for row, centre in zip(line, (0.3, 0.9), strict=True):
        expected = norm.pdf(places, centre, 0.1)
        np.testing.assert_allclose(row, expected / expected.sum(), rtol=1e-9)
    angles = 2 * np.pi * np.arange(40) / 40
    circle = bumps("cyclic", 40, np.array(5.0), 0.2, 0.1)
    expected = vonmises.pdf(angles, 1 / (0.2 * np.pi) ** 2, loc=5.0)
    np.testing.assert_allclose(circle, 0.9 * expected / expected.sum() + 0.1 / 40, rtol=1e-9)


def test_synonyms_leave_the_concepts_alone():
    plain = World.random(3, seed=2)
    world = with_synonyms(plain, 3, parents=[0, 1, 2], concentration=1.0, seed=4)
    np.testing.assert_allclose(world.joint.sum(axis=-1), plain.joint)
    contexts = Contexts.complete(world, hidden=[3])
    assert (contexts.vectors[len(world.vectors) :, 3] == -1).all() and len(contexts.masks) == 8
    # the least loss grows by exactly what choosing a word costs
    p = world.joint
    form = -(p * np.log(p / plain.joint[..., None])).sum()
    assert contexts.entropy_floor == pytest.approx(Contexts.complete(plain).entropy_floor + form)
    even = with_synonyms(plain, 2)
    np.testing.assert_allclose(even.joint[..., 0], plain.joint / 2)


def test_a_child_means_something_only_under_its_parent():
    world = with_child(World.random(3, seed=1), parent=1, values=3, parents=[0], seed=2)
    off = world.vectors[:, 1] == 0
    np.testing.assert_array_equal(world.possible, off == (world.vectors[:, 3] == 0))
    contexts = Contexts.complete(world)
    with pytest.raises(ValueError, match="probability 0"):
        contexts.conditional(np.flatnonzero((contexts.vectors == [0, 0, 0, 2]).all(axis=1)))
    met = np.flatnonzero(contexts.probabilities)
    child = contexts.posterior(met)[:, 3]
    told = contexts.vectors[met, 3] > 0
    np.testing.assert_allclose(contexts.posterior(met)[told, 1, 1], 1)  # a child's value tells its parent's
    assert np.isfinite(child).all()
    drawn = world.sample(5000, np.random.default_rng(0))
    assert ((drawn[:, 1] == 0) == (drawn[:, 3] == 0)).all()


@pytest.fixture(scope="module")
def square():
    """Four concepts in a ring: not chordal."""
    rng = np.random.default_rng(0)
    values = (2, 3, 2, 2)
    edges = [(0, 1), (1, 2), (3, 2), (0, 3)]
    return values, {e: rng.uniform(0.2, 1.0, (values[e[0]], values[e[1]])) for e in edges}


def test_a_field_has_the_joint_of_its_potentials(square):
    values, potentials = square
    world = markov_field(values, potentials)
    expected = np.array(
        [
            np.prod([table[tuple(c[k] for k in concepts)] for concepts, table in potentials.items()])
            for c in itertools.product(*map(range, values))
        ]
    )
    np.testing.assert_allclose(world.joint.reshape(-1), expected / expected.sum(), rtol=1e-12)
    graph = field_graph(4, potentials)
    extra = set(map(frozenset, world.moral_graph.edges)) - set(map(frozenset, graph.edges))
    assert len(extra) == 1  # the ring's chord
    halves = {(0, 2): np.array([[2.0, 1], [1, 3]]), (1, 2): np.array([[1.0, 4], [2, 1]])}
    tree = markov_field((2, 2, 2), halves)
    assert sorted(map(sorted, tree.moral_graph.edges)) == [[0, 2], [1, 2]]


def test_fields_may_forbid():
    world = markov_field((2, 2, 2), {(0, 1): np.eye(2), (1, 2): np.ones((2, 2))})
    np.testing.assert_allclose(world.joint[0, 0], 0.25)
    assert world.joint[0, 1].sum() == 0


def test_what_makes_no_world_is_refused(square):
    values, _ = square
    line = nx.path_graph(2, create_using=nx.DiGraph)
    with pytest.raises(ValueError, match="at most 64"):
        smooth_world(line, (2, 65), {1: "ordered"})
    with pytest.raises(ValueError, match="concepts 0"):
        smooth_world(line, 2, {5: "ordered"})
    with pytest.raises(ValueError, match="width above 0"):
        Smooth(width=0.0)
    with pytest.raises(ValueError, match="no places"):
        bumps("nominal", 3, np.zeros(1), 0.1)
    with pytest.raises(ValueError, match="forms=1"):
        with_synonyms(World.chain(2), 1)
    with pytest.raises(ValueError, match="values of concept 1"):
        with_child(World.chain(2), 1, on=[2])
    with pytest.raises(ValueError, match="0 everywhere"):
        markov_field((2, 2), {(0, 1): np.zeros((2, 2))})
    with pytest.raises(ValueError, match="potential of"):
        markov_field(values, {(0, 1): np.ones((2, 2))})
    with pytest.raises(ValueError, match="kinds="):
        World(line, World.chain(2).tables, ("ordered",))
