"""Worlds of discrete concepts: a directed graph, a conditional table for each, and all that follows exactly.

Jiang et al., *On the Origins of Linear Representations in Large Language Models* (2403.03867), section 2 and
appendix: concepts C = (C_1 … C_m) with a joint distribution that is Markov to a graph; their simulations draw
random directed acyclic graphs with conditional tables uniform on [.3, .7].
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import networkx as nx
import numpy as np
from jaxtyping import Bool, Float, Int

from graticule.hooks.calls import renamed
from graticule.hooks.doors import DRAWN, FACTOR, GRAPH, door

if TYPE_CHECKING:  # networkx is generic to type checkers only
    Directed: TypeAlias = nx.DiGraph[Any]
    Undirected: TypeAlias = nx.Graph[Any]
else:
    Directed, Undirected = nx.DiGraph, nx.Graph

EXACT_UP_TO = 1 << 16
"""Concept vectors that are enumerated at most: sixteen binary concepts."""
UNKNOWN = -1
"""⋄, as in the paper's simulations."""
_ROUNDING = 1e-13
Kind = Literal["nominal", "ordered", "cyclic"]
"""What a concept's values are: names, places on a line, or places on a circle."""


@dataclass(frozen=True, eq=False)
class World:
    """A Bayesian network over concepts 0 … m − 1, each with a few values.

    Everything about it is known: the joint distribution of the concepts, and so what the best reader of any
    activations could say. Learners are trained on it, and instruments are held to it. Make one with
    `World.random(4)`, or on a graph of your own with `World.on(graph)`.
    """

    graph: Directed
    """Parents point at children; the nodes are 0 … m − 1."""
    tables: tuple[Float[np.ndarray, "*_value"], ...]
    """Concept → P(value | parents): one axis per parent, in ascending order, then the values."""
    kinds: tuple[Kind, ...] = ()
    """Concept → what its values are; empty: all nominal."""

    def __post_init__(self) -> None:
        """Raises:
        ValueError: For a graph that is not directed or has a cycle, other nodes or kinds, or tables that
            are no distributions; tables in float32 are made to add up to 1 in float64.
        """
        m = len(self.tables)
        if len(self.kinds) not in (0, m) or not set(self.kinds) <= set(get_args(Kind)):
            raise ValueError(
                f"kinds={self.kinds} for {m} concepts: one of {get_args(Kind)} for each, or none"
            )
        _numbered(self.graph, m)
        object.__setattr__(self, "tables", tuple(np.asarray(table, np.float64) for table in self.tables))
        if not nx.is_directed_acyclic_graph(self.graph):
            raise ValueError(f"the graph has a cycle: {nx.find_cycle(self.graph)}")
        for i, table in enumerate(self.tables):
            wanted = tuple(self.tables[p].shape[-1] for p in self.parents(i))
            if table.shape[:-1] != wanted:
                raise ValueError(f"the table of concept {i} is {table.shape}, expected {(*wanted, 'values')}")
            if (table < 0).any() or not np.allclose(table.sum(axis=-1), 1):
                raise ValueError(f"the table of concept {i} is no distribution over its values")
        object.__setattr__(self, "tables", tuple(_normalised(table) for table in self.tables))

    def __repr__(self) -> str:
        values = f"{self.values[0]}" if len(set(self.values)) == 1 else " × ".join(map(str, self.values))
        kinds = "" if set(self.kinds) <= {"nominal"} else f", {', '.join(dict.fromkeys(self.kinds))}"
        return f"World: {self.m} concepts of {values} values{kinds}, {len(self.graph.edges)} edges"

    # Making ------------------------------------------------------------------------------------------
    @classmethod
    @door(graph=GRAPH, seed=DRAWN)
    def on(
        cls,
        graph: Directed,
        values: int | Sequence[int] = 2,
        low: float = 0.3,
        high: float = 0.7,
        seed: int | np.random.Generator = 0,
    ) -> World:
        """Conditional tables drawn on a graph.

        Of a binary concept P(1 | parents) is uniform on [low, high], independently for every setting of the
        parents; of a concept with more values the weights are, and are then normalised.

        Raises:
            ValueError: For another graph than a `World` has, bounds outside [0, 1] or fewer than two values.
        """
        _numbered(graph, len(graph))
        if not 0 <= low <= high <= 1:
            raise ValueError(f"low={low}, high={high}: probabilities, low at most high")
        rng = np.random.default_rng(seed)
        sizes = [values] * len(graph) if isinstance(values, int) else list(values)
        if len(sizes) != len(graph) or not all(isinstance(n, Integral) and n >= 2 for n in sizes):
            raise ValueError(f"values={values} for {len(graph)} concepts: whole numbers of two or more")
        tables: list[np.ndarray] = []
        for i in range(len(graph)):
            shape = tuple(sizes[p] for p in sorted(graph.predecessors(i)))
            tables.append(drawn_table(shape, sizes[i], low, high, rng))
        return cls(graph, tuple(tables))

    @classmethod
    @door()
    def random(
        cls,
        m: int,
        edge_probability: float = 0.5,
        max_parents: int | None = None,
        seed: int = 0,
        **tables: float | int | Sequence[int],
    ) -> World:
        """A random directed acyclic graph: every pair, in a random order, is joined with `edge_probability`.

        `max_parents` bounds the in-degree, the parents kept being drawn evenly. `tables` go to `on`.

        Raises:
            ValueError: For no concept or a probability outside [0, 1].
        """
        rng = np.random.default_rng(seed)
        order = rng.permutation(m)
        graph = nx.DiGraph()
        graph.add_nodes_from(range(m))
        for place, child in enumerate(order):
            parents = order[:place][rng.random(place) < edge_probability]
            if max_parents is not None and len(parents) > max_parents:
                parents = rng.choice(parents, max_parents, replace=False)
            graph.add_edges_from((int(p), int(child)) for p in parents)
        return cls.on(graph, seed=rng, **tables)  # pyright: ignore[reportArgumentType]

    @classmethod
    @door()
    def independent(cls, m: int, seed: int = 0) -> World:
        """Concepts that have nothing to do with each other."""
        return cls.random(m, 0.0, seed=seed)

    @classmethod
    @door()
    def dense(cls, m: int, seed: int = 0) -> World:
        """Every pair of concepts is joined."""
        return cls.random(m, 1.0, seed=seed)

    @classmethod
    @door()
    def chain(cls, m: int, seed: int = 0) -> World:
        """C_0 → C_1 → … → C_{m−1}."""
        return cls.on(nx.path_graph(m, create_using=nx.DiGraph), seed=seed)

    @classmethod
    @door()
    def forest(cls, m: int, trees: int = 2, seed: int = 0) -> World:
        """Random trees: every concept but the `trees` roots has one parent, drawn among earlier ones.

        Raises:
            ValueError: Unless 1 ≤ trees ≤ m.
        """
        if not 1 <= trees <= m:
            raise ValueError(f"trees={trees} among {m} concepts")
        rng = np.random.default_rng(seed)
        graph = nx.DiGraph()
        graph.add_nodes_from(range(m))
        graph.add_edges_from((int(rng.integers(0, i)), i) for i in range(trees, m))
        return cls.on(graph, seed=rng)

    # What it is --------------------------------------------------------------------------------------
    @property
    def m(self) -> int:
        """How many concepts."""
        return len(self.tables)

    @property
    def values(self) -> tuple[int, ...]:
        """How many values each concept has."""
        return tuple(table.shape[-1] for table in self.tables)

    def kind(self, concept: int) -> Kind:
        """What a concept's values are."""
        return self.kinds[concept] if self.kinds else "nominal"

    def coordinates(self, concept: int) -> Float[np.ndarray, "value axis"]:
        """Numbers for a concept's values, to be read by a probe.

        Ordered: even steps from 0 to 1. Cyclic: cosine and sine of even steps round the circle. Nominal: 0
        and 1 for two values, else an indicator for each.
        """
        size, kind = self.values[concept], self.kind(concept)
        if kind == "cyclic":
            angle = 2 * np.pi * np.arange(size) / size
            return np.stack([np.cos(angle), np.sin(angle)], axis=1)
        if kind == "ordered" or size == 2:
            return np.linspace(0.0, 1.0, size)[:, None]
        return np.eye(size)

    def described(self) -> dict[str, Any]:
        """All that makes it this world, in JSON's own types: what a request or a fingerprint holds."""
        tables = [np.round(table, 12).tolist() for table in self.tables]
        edges = sorted((int(parent), int(child)) for parent, child in self.graph.edges)
        return {"tables": tables, "edges": edges, **({"kinds": list(self.kinds)} if self.kinds else {})}

    def same_as(self, other: World) -> bool:
        """Whether graph, tables and, where it is restricted, the set kept are the same."""
        if self.values != other.values or set(self.graph.edges) != set(other.graph.edges):
            return False
        restrictions = [np.asarray(getattr(world, "kept", ())) for world in (self, other)]
        pairs = [*zip(self.tables, other.tables, strict=True), restrictions]
        return all(np.array_equal(a, b) for a, b in pairs)

    def parents(self, concept: int) -> list[int]:
        """Parents in ascending order: the axes of the concept's table."""
        return sorted(self.graph.predecessors(concept))

    @property
    def moral_graph(self) -> Undirected:
        """The undirected graph G_C to which the joint is Markov: parents married, arrows off."""
        return nx.moral_graph(self.graph)

    def neighbours(self, concept: int) -> list[int]:
        """ne(i) in the moral graph."""
        return sorted(self.moral_graph.neighbors(concept))

    def separated(self, i: int, j: int, given: Iterable[int] = ()) -> bool:
        """Whether C_i and C_j are d-separated given others."""
        return bool(nx.is_d_separator(self.graph, {i}, {j}, set(given)))

    # Probabilities -----------------------------------------------------------------------------------
    @property
    def n_vectors(self) -> int:
        """How many concept vectors there are, possible or not: the tokens."""
        return math.prod(self.values)

    def enumerable(self) -> None:
        """Raises:
        ValueError: For more than 2¹⁶ concept vectors.
        """
        if self.n_vectors > EXACT_UP_TO:
            raise ValueError(
                f"{self.m} concepts make {self.n_vectors:,} concept vectors, more than the {EXACT_UP_TO:,} "
                "that are enumerated; use sample(), which works for any number"
            )

    @cached_property
    def joint(self) -> Float[np.ndarray, "*_value"]:
        """P(C = c), one axis per concept.

        Raises:
            ValueError: For more than 2¹⁶ concept vectors; `sample` works for any number.
        """
        self.enumerable()
        out = np.ones(self.values)
        for i, table in enumerate(self.tables):
            axes = [*self.parents(i), i]
            order = np.argsort(axes)  # the table's axes in the joint's order
            shape = [self.values[k] if k in axes else 1 for k in range(self.m)]
            out = out * table.transpose(order).reshape(shape)
        return out

    @cached_property
    def vectors(self) -> Int[np.ndarray, "vector m"]:
        """Every concept vector, the last concept changing fastest: row v is token v.

        Raises:
            ValueError: For more than 2¹⁶.
        """
        self.enumerable()
        return np.stack(np.unravel_index(np.arange(int(np.prod(self.values))), self.values), axis=1).astype(
            np.int64
        )

    def token(self, vectors: Int[np.ndarray, "*row m"]) -> Int[np.ndarray, "*row"]:
        """The token of concept vectors: their place in `vectors`."""
        return np.asarray(np.ravel_multi_index(tuple(np.moveaxis(vectors, -1, 0)), self.values), np.int64)

    @property
    def places(self) -> Int[np.ndarray, " m"]:
        """The place value of every concept in `context_code`: unknown is a digit too."""
        return np.cumprod([1, *(size + 1 for size in self.values[:-1])])

    @renamed(known="concept_values")
    def context_code(self, concept_values: Int[np.ndarray, "*row m"]) -> Int[np.ndarray, "*row"]:
        """A number for the values that are known (−1 elsewhere), another for every context."""
        return np.asarray(((concept_values - UNKNOWN) * self.places).sum(axis=-1))

    def marginal(self, concepts: Sequence[int]) -> Float[np.ndarray, "*_value"]:
        """P of some concepts, one axis each in ascending order.

        Raises:
            ValueError: For concepts that are none.
        """
        if not set(concepts) <= set(range(self.m)):
            raise ValueError(f"concepts {list(concepts)}: they are 0 … {self.m - 1}")
        return np.asarray(self.joint.sum(axis=tuple(i for i in range(self.m) if i not in set(concepts))))

    @cached_property
    def possible(self) -> Bool[np.ndarray, " vector"]:
        """Which concept vectors ever occur: all of them where no table holds a 0."""
        return self.joint.reshape(-1) > 0

    @renamed(known="concept_values")
    def conditional(self, concept_values: Int[np.ndarray, "row m"]) -> Float[np.ndarray, "row vector"]:
        """p(c | d) of every token, given what is known of it (−1 elsewhere).

        Raises:
            ValueError: Where what is given as known never occurs together.
        """
        agrees = np.ones((len(concept_values), len(self.vectors)), bool)
        for i in range(self.m):  # a concept at a time: sixteen concepts' agreement fits no memory at once
            value = concept_values[:, i, None]
            agrees &= (value == UNKNOWN) | (value == self.vectors[None, :, i])
        joint = np.where(agrees, self.joint.reshape(-1), 0.0)
        total = joint.sum(axis=1, keepdims=True)
        if (total == 0).any():
            never = concept_values[int(np.argmin(total[:, 0]))].tolist()
            raise ValueError(f"context {never} has probability 0: nothing follows from it; leave it out")
        return joint / total

    def sample(self, n: int, rng: np.random.Generator) -> Int[np.ndarray, "n m"]:
        """Concept vectors drawn concept by concept, parents first; for any number of concepts."""
        out = np.zeros((n, self.m), np.int64)
        for i in nx.lexicographical_topological_sort(self.graph):
            chances = self.tables[i][tuple(out[:, p] for p in self.parents(i))]
            chances = np.broadcast_to(chances, (n, chances.shape[-1]))
            out[:, i] = (rng.random((n, 1)) >= np.cumsum(chances, axis=-1)[:, :-1]).sum(axis=1)
        return out


setattr(World, "__init__", door(graph=GRAPH, tables=FACTOR)(World.__init__))  # noqa: B010 (a dataclass's own)


def _numbered(graph: Directed, m: int) -> None:
    """Raises:
    ValueError: Unless the graph is directed with nodes 0 … m − 1.
    """
    if not graph.is_directed():
        raise ValueError("the graph is not directed: parents point at children; give an nx.DiGraph")
    if set(graph) != set(range(m)):
        raise ValueError(f"nodes are {sorted(graph, key=str)}, expected 0 … {m - 1}, a table each")


def _normalised(table: Float[np.ndarray, "*_value"]) -> Float[np.ndarray, "*_value"]:
    """Distributions that add up to 1 in float64; those that do are left to the bit."""
    total = table.sum(axis=-1, keepdims=True)
    return table if (np.abs(total - 1) <= _ROUNDING).all() else table / total


def drawn_table(
    parents: tuple[int, ...], size: int, low: float, high: float, rng: np.random.Generator
) -> Float[np.ndarray, "*_value"]:
    """P(value | parents) as `World.on` draws it, one axis for each parent of so many values."""
    if size == 2:
        one = rng.uniform(low, high, parents)
        return np.stack([1 - one, one], axis=-1)
    weight = rng.uniform(low, high, (*parents, size))
    return weight / weight.sum(axis=-1, keepdims=True)
