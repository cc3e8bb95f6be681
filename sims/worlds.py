"""Worlds made from others or from potentials, or with concepts on a line or a circle (time and longitude).

Jiang et al. section 5.1, Table 4: a random subset 𝒞̂ of concept vectors is kept, and samples outside it are
rejected, which leaves the joint distribution conditioned on the subset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from numbers import Integral
from typing import Any, cast

import networkx as nx
import numpy as np
from jaxtyping import Bool, Float, Int

from graticule.hooks.calls import renamed_fields
from graticule.sims.world import EXACT_UP_TO, Directed, Kind, Undirected, World, drawn_table

MOST_VALUES = 64
"""Places on a line or circle at most."""


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
        table = rng.dirichlet(np.full(forms, concentration), int(np.prod(shape, dtype=int)))
        table = table.reshape(*shape, forms)
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


# On a line or a circle: bumps of a discretised Gaussian or von Mises density, centred as parents say -----
@dataclass(frozen=True)
class Smooth:
    """How smooth worlds are drawn."""

    width: float = 0.15
    """Standard deviation of a bump as a share of the line; of the circle's half turn."""
    background: float = 0.05
    """Share of every bump that is spread evenly, so that all values are possible."""
    reach: float = 1.0
    """How much parents matter: how far they move a centre, radians (standard deviation over their values)."""
    low: float = 0.3
    """Least P(1 | parents) of two-valued concepts, and least weight of a value among names."""
    high: float = 0.7
    """Greatest of the same."""

    def __post_init__(self) -> None:
        """Raises:
        ValueError: For widths, shares or probabilities out of range.
        """
        if self.width <= 0 or not 0 <= self.background <= 1 or not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"{self}: width above 0, background, low and high in [0, 1], low at most high")


def smooth_world(
    graph: Directed,
    values: int | Sequence[int] = 2,
    kinds: Mapping[int, Kind] | None = None,
    law: Smooth | None = None,
    seed: int | np.random.Generator = 0,
) -> World:
    """A world on a graph in which `kinds` names the ordered and cyclic concepts.

    Every concept has a random smooth function of its parents, the sine or the angle of a random linear map of
    their coordinates: the centre of the bump of an ordered or a cyclic concept, P(1 | parents) within
    [`low`, `high`] of a two-valued one, and the weight of every value of one with more names.

    Raises:
        ValueError: For more than 64 places on a line or circle, fewer than two values, or a concept that is
            not in the graph.
    """
    law = law or Smooth()
    rng = np.random.default_rng(seed)
    m = len(graph)
    sizes = [values] * m if isinstance(values, int) else list(values)
    given: Mapping[int, Kind] = kinds or {}
    whole = all(isinstance(n, Integral) and n >= 2 for n in sizes)
    if len(sizes) != m or not whole or not set(given) <= set(range(m)):
        raise ValueError(
            f"values={values}, kinds={kinds} for concepts 0 … {m - 1}: two values or more for each"
        )
    names: tuple[Kind, ...] = tuple(given.get(i, "nominal") for i in range(m))
    for i in range(m):
        if names[i] != "nominal" and sizes[i] > MOST_VALUES:
            raise ValueError(f"concept {i} has {sizes[i]} places; at most {MOST_VALUES}")
    blank = World(nx.empty_graph(m, create_using=nx.DiGraph), tuple(np.full(s, 1 / s) for s in sizes), names)
    tables: list[np.ndarray] = []
    for i in range(m):
        seen = [blank.coordinates(p) for p in sorted(graph.predecessors(i))]
        tables.append(_table(names[i], sizes[i], seen, law, rng))
    return World(graph, tuple(tables), names)


def _table(
    kind: Kind, size: int, parents: list[np.ndarray], law: Smooth, rng: np.random.Generator
) -> np.ndarray:
    """P(value | parents) of one concept."""
    if kind == "cyclic":
        centre = _field(parents, rng.uniform(-np.pi, np.pi, 1), law.reach, rng)[..., 0]
        return bumps("cyclic", size, centre, law.width, law.background)
    # offsets well inside the sine's rising branch: parents then always move what they are parents of
    offset = rng.uniform(-np.pi / 4, np.pi / 4, size if kind == "nominal" and size > 2 else 1)
    share = (1 + np.sin(_field(parents, offset, law.reach, rng))) / 2
    if kind == "ordered":
        return bumps("ordered", size, share[..., 0], law.width, law.background)
    weight = law.low + (law.high - law.low) * share
    if size == 2:
        return np.concatenate([1 - weight, weight], axis=-1)
    return weight / weight.sum(axis=-1, keepdims=True)


def bumps(
    kind: Kind, size: int, centre: Float[np.ndarray, "*parent"], width: float, background: float = 0.0
) -> Float[np.ndarray, "*parent value"]:
    """Distributions over `size` places with a bump at each centre.

    On a line the places are 0 … 1 in even steps and the bump is a Gaussian's of standard deviation `width`.
    On a circle they are even angles, `centre` is in radians, and the bump is von Mises with concentration
    1/(π `width`)², so that `width` is a share of the half turn. `background` of it is spread evenly.

    Raises:
        ValueError: For nominal values, which have no places.
    """
    if kind == "nominal":
        raise ValueError("kind='nominal': values that are names have no places; 'ordered' or 'cyclic'")
    if kind == "ordered":
        log = -0.5 * ((np.linspace(0, 1, size) - centre[..., None]) / width) ** 2
    else:
        log = (np.cos(2 * np.pi * np.arange(size) / size - centre[..., None]) - 1) / (np.pi * width) ** 2
    weight = np.exp(log - log.max(axis=-1, keepdims=True))
    return (1 - background) * weight / weight.sum(axis=-1, keepdims=True) + background / size


def _field(
    parents: list[np.ndarray], offset: Float[np.ndarray, " target"], reach: float, rng: np.random.Generator
) -> Float[np.ndarray, "*parent target"]:
    """An offset and a random linear map of every parent's coordinates, all mattering alike; radians."""
    out = offset
    for k, places in enumerate(parents):
        effect = (places - places.mean(axis=0)) @ rng.normal(size=(places.shape[1], len(offset)))
        effect *= reach / (np.sqrt(len(parents)) * effect.std(axis=0))
        shape = [len(places) if j == k else 1 for j in range(len(parents))]
        out = out + effect.reshape(*shape, len(offset))
    return out
