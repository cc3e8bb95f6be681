"""Rows with their true atoms: what a sparse dictionary ought to find in a world of concepts.

An atom is a concept *value*: what a row gains by showing concept i at value v, with its sign.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from graticule.hooks.calls import renamed
from graticule.sims.contexts import UNKNOWN, Contexts
from graticule.sims.truth.optimal import partners
from graticule.sims.truth.rows import TrueRows
from graticule.sims.world import World


@dataclass(frozen=True, eq=False)
class Truth:
    """Activations, and the atoms that they are made of."""

    name: str
    """The world, for tables."""
    rows: Float[np.ndarray, "row d_in"]
    """Activations, float32."""
    atoms: Float[np.ndarray, "atom d_in"]
    """True directions, one row per atom; their lengths do not matter."""
    names: tuple[str, ...]
    """`concept=value` of each atom."""
    fires: Bool[np.ndarray, "row atom"]
    """Which atoms each row holds."""
    groups: Int[np.ndarray, " row"]
    """Rows of one group show the same: they are never split between choosing and testing."""

    def __post_init__(self) -> None:
        counts = {len(self.rows), len(self.fires), len(self.groups)}
        if len(counts) != 1 or not len(self.atoms) == len(self.names) == self.fires.shape[1]:
            raise ValueError(
                f"{len(self.rows)} rows, {self.fires.shape} firings, {len(self.groups)} groups, "
                f"{len(self.atoms)} atoms, {len(self.names)} names: they must agree"
            )
        lengths = np.linalg.norm(self.atoms, axis=1)
        if not (lengths > 0).all():
            raise ValueError(f"atom {self.names[int(lengths.argmin())]} has length 0: no row shows it")

    @property
    def d_in(self) -> int:
        """Width of the rows."""
        return int(self.rows.shape[1])

    @property
    def firing(self) -> Float[np.ndarray, " atom"]:
        """Share of rows that hold each atom."""
        return self.fires.mean(axis=0)


@renamed("name", point="hook_name")
def learned_truth(
    sample: TrueRows, every: TrueRows, hook_name: str | tuple[str, int], *, name: str = "learned"
) -> Truth:
    """The atoms that a learner of a latent-DAG world writes at a hook point.

    Atom (i, v) is the mean of x(d with C_i = v) − x(d with C_i unknown) over all contexts that differ in
    nothing else, weighted by how likely they are: the steering vector of a value (Jiang et al., section 2).

    Args:
        sample: The rows (`lookup_rows(…, n=…)`).
        every: All contexts (`lookup_rows(…)`).
        hook_name: The hook point, or its short name and block.
        name: What the truth is called.

    Raises:
        ValueError: where a value never stands beside the same context with the concept unknown.
    """
    x = every.activations[hook_name].double().cpu().numpy()
    same = every.order if every.order.shape[1] else None
    atoms: list[np.ndarray] = []
    names: list[str] = []
    fires: list[np.ndarray] = []
    for i, size in enumerate(sample.world.values):
        for v in range(size):
            pairs = partners(every.concept_values, i, (UNKNOWN, v), same)
            if not len(pairs.low):
                raise ValueError(f"concept {i} is never unknown beside the same context with value {v}")
            weight = every.weights[pairs.low] + every.weights[pairs.high]
            atoms.append(weight @ (x[pairs.high] - x[pairs.low]) / weight.sum())
            names.append(f"{i}={v}")
            fires.append(sample.concept_values[:, i] == v)
    rows = sample.activations[hook_name].float().cpu().numpy()
    return Truth(name, rows, np.stack(atoms), tuple(names), np.stack(fires, axis=1), sample.contexts)


def dense_truth(
    contexts: Contexts, d_in: int | None = None, n: int = 10_000, noise: float = 0.0, seed: int = 0
) -> Truth:
    """The paper's world, written linearly: a row is the sum of the atoms of all values that its context
    shows.

    Contexts are drawn as `contexts` has them (every concept known with probability ½ under its law: each of
    two values fires on a quarter of the rows); atoms are random directions in `d_in` dimensions, by default
    as many as there are concepts.
    """
    rng = np.random.default_rng(seed)
    ids, _ = contexts.sample(n, rng)
    world, vectors = contexts.world, contexts.vectors[ids]
    values = [(i, v) for i, size in enumerate(world.values) for v in range(size)]
    fires = np.stack([vectors[:, i] == v for i, v in values], axis=1)
    atoms = _directions(len(values), d_in or world.m, rng)
    rows = _written(fires, atoms, noise, rng)
    return Truth("dense", rows, atoms, tuple(f"{i}={v}" for i, v in values), fires, ids)


def sparse_truth(
    m: int = 64,
    d_in: int = 16,
    n: int = 10_000,
    firing: float = 0.05,
    edge_probability: float = 0.1,
    noise: float = 0.0,
    seed: int = 0,
    world: World | None = None,
) -> Truth:
    """A sparse world: m ≥ 4 d_in two-valued concepts on a random graph, each of value 1 on at most `firing`
    of the rows; value 1 is written, value 0 is silence. Atoms are random directions; strengths are drawn
    uniformly from [.5, 1.5], so that a row is more than a choice among finitely many.

    Raises:
        ValueError: for m < 4 d_in or a firing above .05: that would not be sparse.
    """
    if m < 4 * d_in or not 0 < firing <= 0.05:
        raise ValueError(f"m={m}, d_in={d_in}, firing={firing}: sparse is m ≥ 4 d_in and firing ≤ .05")
    rng = np.random.default_rng(seed)
    drawn = world or World.random(m, edge_probability, 2, seed, low=firing / 5, high=firing)
    vectors = drawn.sample(n, rng)
    fires = vectors == 1
    atoms = _directions(m, d_in, rng)
    strength = np.where(fires, rng.uniform(0.5, 1.5, fires.shape), 0.0)
    groups = np.unique(vectors, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    rows = _written(strength, atoms, noise, rng)
    return Truth("sparse", rows, atoms, tuple(f"{i}=1" for i in range(m)), fires, groups)


def _directions(n: int, width: int, rng: np.random.Generator) -> np.ndarray:
    drawn = rng.normal(size=(n, width))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def _written(strength: np.ndarray, atoms: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    rows = strength @ atoms
    return (rows + noise * rng.normal(size=rows.shape)).astype(np.float32)
