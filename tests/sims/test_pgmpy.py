"""Worlds against pgmpy, an independent implementation of Bayesian networks and Markov random fields."""

import itertools
import warnings

import networkx as nx
import numpy as np
import pytest

from graticule.sims.contexts import UNKNOWN, Contexts
from graticule.sims.world import World
from graticule.sims.worlds import field_graph, markov_field, smooth_world, with_child, with_synonyms

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it announces its own moves on import
    from pgmpy.factors.discrete import DiscreteFactor, TabularCPD
    from pgmpy.inference import VariableElimination
    from pgmpy.models import DiscreteBayesianNetwork, DiscreteMarkovNetwork

WORLDS = {
    "random": lambda: World.random(6, 0.6, seed=3),
    "many values": lambda: World.on(nx.DiGraph([(2, 0), (0, 1), (2, 1)]), values=(3, 2, 4), seed=4),
    "line and circle": lambda: smooth_world(
        nx.DiGraph([(0, 1), (1, 2), (0, 3), (2, 3)]), (2, 12, 8, 2), {1: "cyclic", 2: "ordered"}, seed=2
    ),
    "synonyms": lambda: with_synonyms(World.random(4, seed=1), 3, parents=[0, 2], concentration=1.0),
    "hierarchy": lambda: with_child(World.random(4, seed=2), 1, values=3, parents=[0, 3]),
}


@pytest.fixture(params=WORLDS, ids=list(WORLDS))
def world(request):
    return WORLDS[request.param]()


def network(world: World) -> DiscreteBayesianNetwork:
    """The same network in pgmpy, which has the child's values first and flattens the parents'."""
    out = DiscreteBayesianNetwork()
    out.add_nodes_from(range(world.m))
    out.add_edges_from(world.graph.edges)
    for i, table in enumerate(world.tables):
        parents = world.parents(i)
        cells = np.moveaxis(table, -1, 0).reshape(world.values[i], -1)
        sizes = [world.values[p] for p in parents]
        out.add_cpds(TabularCPD(i, world.values[i], cells, parents or None, sizes or None))
    assert out.check_model()
    return out


def test_posteriors_are_variable_eliminations(world):
    contexts = Contexts.complete(world)
    met = np.flatnonzero(contexts.probabilities)
    some = np.random.default_rng(0).choice(met, 15, replace=False)
    posterior = contexts.posterior(some)
    inference = VariableElimination(network(world))
    asked = 0
    for row, context in zip(posterior, contexts.vectors[some], strict=True):
        known = {i: int(v) for i, v in enumerate(context) if v != UNKNOWN}
        for i in set(range(world.m)) - set(known):
            expected = inference.query([i], evidence=known, show_progress=False).values
            np.testing.assert_allclose(row[i, : world.values[i]], expected, atol=1e-10)
            asked += 1
    assert asked > 10


def test_separation_and_moral_graph(world):
    theirs = network(world)
    assert {frozenset(e) for e in theirs.moralize().edges} == {frozenset(e) for e in world.moral_graph.edges}
    for i, j in itertools.combinations(range(world.m), 2):
        for given in [(), *((k,) for k in range(world.m) if k not in (i, j))]:
            assert world.separated(i, j, given) != theirs.is_dconnected(i, j, observed=list(given))


def test_fields_are_markov_networks():
    rng = np.random.default_rng(1)
    values = (2, 3, 2, 2, 2)
    cliques = [(0, 1), (2, 1), (2, 3), (3, 0), (4, 2, 3)]
    potentials = {e: rng.uniform(0.1, 2.0, tuple(values[k] for k in e)) for e in cliques}
    world = markov_field(values, potentials)
    theirs = DiscreteMarkovNetwork(field_graph(5, potentials).edges)
    theirs.add_factors(*(DiscreteFactor(list(e), [values[k] for k in e], t) for e, t in potentials.items()))
    inference = VariableElimination(theirs)
    for known in ({0: 1}, {1: 2, 4: 0}, {}):
        for i in set(range(5)) - set(known):
            expected = inference.query([i], evidence=known, show_progress=False).values
            context = np.array([[known.get(k, UNKNOWN) for k in range(5)]])
            got = world.conditional(context).reshape(values).sum(axis=tuple(k for k in range(5) if k != i))
            np.testing.assert_allclose(got, expected / expected.sum(), atol=1e-10)
