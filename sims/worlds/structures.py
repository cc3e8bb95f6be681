"""Worlds made from others or from potentials: incomplete concept sets, synonyms, hierarchies, Markov fields.

Jiang et al. section 5.1, Table 4: a random subset 𝒞̂ of concept vectors is kept, and samples outside it are
rejected, which leaves the joint distribution conditioned on the subset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, cast

import networkx as nx
import numpy as np
from jaxtyping import Bool, Float, Int

from graticule.hooks.calls import renamed_fields
from graticule.sims.world import EXACT_UP_TO, Undirected, World, drawn_table


@renamed_fields(kept="allowed")
@dataclass(frozen=True, eq=False)
class RestrictedWorld(World):
    """A world conditioned on a set of its concept vectors; contexts, floors and posteriors follow.

    `graph`, `parents`, `neighbours`, `moral_graph` and `separated` are those of the world before: the
    condition joins concepts that the graph keeps apart.
    """

    allowed: Bool[np.ndarray, " vector"] = field(kw_only=True)
    """True for the concept vectors (tokens) in 𝒞̂."""

    def __post_init__(self) -> None:
        """Raises:
        ValueError: For a set of another size, with no vector or with none that occurs.
        """
        super().__post_init__()
        if self.allowed.shape != (self.n_vectors,) or not self._whole[self.allowed].sum() > 0:
            raise ValueError(
                f"allowed has shape {self.allowed.shape} with {int(self.allowed.sum())} vectors; expected "
                f"one entry for each of {self.n_vectors} concept vectors, some of them True and possible"
            )

    @classmethod
    def drawn(cls, world: World, share: float = 0.5, seed: int = 0) -> RestrictedWorld:
        """Keep a random `share` of a world's concept vectors (rounded, two at least); of those that are left
        if the world is restricted already.

        Raises:
            ValueError: For a share outside (0, 1], or more than 2¹⁶ concept vectors.
        """
        if not 0 < share <= 1:
            raise ValueError(f"share={share}: of the concept vectors, above 0 and up to 1")
        world.enumerable()
        there = tokens_of(world)
        chosen = np.zeros(world.n_vectors, bool)
        drawn = np.random.default_rng(seed).permutation(there)
        chosen[drawn[: max(2, round(share * len(there)))]] = True
        return cls(**{f.name: getattr(world, f.name) for f in fields(World)}, allowed=chosen)

    @property
    def _whole(self) -> Float[np.ndarray, " vector"]:
        return World(self.graph, self.tables).joint.reshape(-1)

    @cached_property
    def joint(self) -> Float[np.ndarray, "*_value"]:
        """P(C = c | C ∈ 𝒞̂), one axis per concept; 0 outside the set."""
        inside = np.where(self.allowed, self._whole, 0.0)
        return (inside / inside.sum()).reshape(self.values)

    def described(self) -> dict[str, Any]:
        """All that makes it this world, the concept vectors kept among it."""
        return {**super().described(), "kept": np.flatnonzero(self.allowed).tolist()}

    def sample(self, n: int, rng: np.random.Generator) -> Int[np.ndarray, "n m"]:
        """Concept vectors drawn from the set: what rejecting the others leaves."""
        rising = np.cumsum(self.joint.reshape(-1))
        return self.vectors[np.searchsorted(rising, rng.random(n) * rising[-1], side="right")]


def tokens_of(world: World) -> Int[np.ndarray, " token"]:
    """The tokens over which a learner's softmax runs: 𝒞̂, or all."""
    if isinstance(world, RestrictedWorld):
        return np.flatnonzero(world.allowed)
    return np.arange(world.n_vectors)


# A concept more -------------------------------------------------------------------------------------
def with_synonyms(
    world: World,
    forms: int = 2,
    parents: Sequence[int] = (),
    concentration: float | None = None,
    seed: int = 0,
) -> World:
    """Several tokens for one concept vector: a last concept, the *form*, that no context needs to show.

    Token (c, s) is the s-th of `forms` words for c, said with P(s | c) = P(s | parents): all alike, or drawn
    from a Dirichlet law of this `concentration` for every value of `parents` (all concepts: every vector has
    favourites of its own). Hide it from contexts with `Contexts.complete(world, hidden=[world.m - 1])`;
    steering vectors then compare tokens of the same form.

    Raises:
        ValueError: For fewer than two forms, parents that are none, or a `RestrictedWorld`.
    """
    _whole(world)
    if forms < 2 or not set(parents) <= set(range(world.m)):
        raise ValueError(
            f"forms={forms}, parents={list(parents)}: two or more words, concepts 0 … {world.m - 1}"
        )
    above = sorted(set(parents))
    shape = tuple(world.values[p] for p in above)
    if concentration is None:
        table = np.full((*shape, forms), 1 / forms)
    else:
        rng = np.random.default_rng(seed)
        table = rng.dirichlet(np.full(forms, concentration), int(np.prod(shape, dtype=int))).reshape(
            *shape, forms
        )
    return _grown(world, above, table)


def with_child(
    world: World,
    parent: int,
    values: int = 2,
    on: Sequence[int] = (1,),
    parents: Sequence[int] = (),
    low: float = 0.3,
    high: float = 0.7,
    seed: int = 0,
) -> World:
    """A last concept that means something only while `parent` has one of the values `on`.

    The child has value 0, *not applicable*, wherever the parent is off, and one of 1 … `values` where it is
    on, drawn as `World.on` draws them, for every value of the parent and of further `parents`. Concept
    vectors that contradict this have probability 0 (`World.possible`).

    Raises:
        ValueError: For a parent or values that are none, fewer than two values, or a `RestrictedWorld`.
    """
    _whole(world)
    above = sorted({parent, *parents})
    if values < 2 or not set(above) <= set(range(world.m)):
        raise ValueError(f"values={values}, parents {above}: two values or more, concepts 0 … {world.m - 1}")
    if not on or not set(on) <= set(range(world.values[parent])):
        raise ValueError(f"on={list(on)}: values of concept {parent}, 0 … {world.values[parent] - 1}")
    rng = np.random.default_rng(seed)
    shape = tuple(world.values[p] for p in above)
    free = drawn_table(shape, values, low, high, rng)
    place = np.arange(world.values[parent]).reshape([-1 if p == parent else 1 for p in above])
    applies = np.broadcast_to(np.isin(place, list(on)), shape)[..., None]
    table = np.concatenate([np.where(applies, 0.0, 1.0), np.where(applies, free, 0.0)], axis=-1)
    return _grown(world, above, table)


def _grown(world: World, parents: list[int], table: np.ndarray) -> World:
    """The world with a last concept more."""
    graph = world.graph.copy()
    graph.add_node(world.m)
    graph.add_edges_from((p, world.m) for p in parents)
    kinds = (*world.kinds, "nominal") if world.kinds else ()
    return World(graph, (*world.tables, table), kinds)


def _whole(world: World) -> None:
    if isinstance(world, RestrictedWorld):
        raise ValueError("a concept is added to a whole world; restrict it afterwards (RestrictedWorld)")


# Markov random fields --------------------------------------------------------------------------------
def markov_field(
    values: Sequence[int], potentials: Mapping[tuple[int, ...], Float[np.ndarray, "*_value"]]
) -> World:
    """The world whose joint is proportional to a product of potentials, each on a few concepts.

    The joint is exact; the directed graph has the potentials' graph (concepts are joined that share a
    potential), made chordal, as its moral graph: that graph itself where it is chordal, a forest or a
    triangle. `field_graph` is the graph before.

    Raises:
        ValueError: For potentials that do not fit, are negative, or whose product is 0 everywhere; and for
            more than 2¹⁶ concept vectors.
    """
    if np.prod([float(v) for v in values]) > EXACT_UP_TO:
        raise ValueError(f"{tuple(values)} makes more than {EXACT_UP_TO} concept vectors")
    joint = np.ones(tuple(values))
    for concepts, factor in potentials.items():
        if factor.shape != tuple(values[c] for c in concepts) or (factor < 0).any():
            raise ValueError(f"the potential of {concepts} is {factor.shape}: their values, none negative")
        order = np.argsort(concepts)
        shape = [values[k] if k in concepts else 1 for k in range(len(values))]
        joint = joint * factor.transpose(order).reshape(shape)
    if not joint.sum() > 0:
        raise ValueError("the product of the potentials is 0 everywhere")
    joint = joint / joint.sum()
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(values)))
    chordal, _ = nx.complete_to_chordal_graph(field_graph(len(values), potentials))
    for place, child in enumerate(ordered := _clique_order(cast("Undirected", chordal))):
        graph.add_edges_from((p, child) for p in ordered[:place] if chordal.has_edge(p, child))
    tables = [_given(joint, sorted(graph.predecessors(i)), i) for i in range(len(values))]
    return World(graph, tuple(tables))


def field_graph(m: int, potentials: Mapping[tuple[int, ...], object]) -> Undirected:
    """Concepts 0 … m − 1, joined where they share a potential: the graph G_C of Jiang et al., section 2."""
    graph = nx.Graph()
    graph.add_nodes_from(range(m))
    for concepts in potentials:
        graph.add_edges_from((a, b) for a in concepts for b in concepts if a < b)
    return graph


def _clique_order(graph: Undirected) -> list[int]:
    """Maximum cardinality search: in a chordal graph every node's earlier neighbours are a clique."""
    order: list[int] = []
    while len(order) < len(graph):
        left = [n for n in sorted(graph) if n not in order]
        order.append(max(left, key=lambda n: len(set(graph[n]) & set(order))))
    return order


def _given(joint: np.ndarray, parents: list[int], child: int) -> np.ndarray:
    """P(child | parents) of a joint; even where the parents' values never occur."""
    axes = sorted([*parents, child])
    table = joint.sum(axis=tuple(k for k in range(joint.ndim) if k not in axes))
    table = np.moveaxis(table, axes.index(child), -1)
    total = table.sum(axis=-1, keepdims=True)
    return np.where(total > 0, table / np.where(total > 0, total, 1.0), 1 / joint.shape[child])
