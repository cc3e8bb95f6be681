"""Worlds with concepts on a line or a circle: the synthetic twins of time and longitude.

P(value | parents) is a bump over the line or the circle (a discretised Gaussian or von Mises density) whose
centre depends on the parents; and what depends on such a concept depends on it smoothly. `World.coordinates`
gives the numbers a probe is to predict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral

import networkx as nx
import numpy as np
from jaxtyping import Float

from graticule.sims.world import Directed, Kind, World

MOST_VALUES = 64
"""Places on a line or circle at most."""


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
    listed: list[Kind] = ["nominal"] * m
    for i, kind in given.items():
        listed[i] = kind
    names: tuple[Kind, ...] = tuple(listed)
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
