"""Incomplete concept sets 𝒞̂: a world of which only some concept vectors ever occur as completions.

Jiang et al. section 5.1, Table 4: a random subset of concept vectors is kept, and samples outside it are
rejected, which leaves the joint distribution conditioned on the subset.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from graticule.sims.world import World


@dataclass(frozen=True, eq=False)
class RestrictedWorld(World):
    """A world conditioned on a set of its concept vectors; contexts, floors and posteriors follow.

    `graph`, `parents`, `neighbours`, `moral_graph` and `separated` are those of the world before: the
    condition joins concepts that the graph keeps apart.
    """

    kept: Bool[np.ndarray, " vector"] = field(kw_only=True)
    """True for the concept vectors (tokens) in 𝒞̂."""

    def __post_init__(self) -> None:
        """Raises:
        ValueError: For a set of another size, with no vector or with none that occurs.
        """
        super().__post_init__()
        if self.kept.shape != (self.n_vectors,) or not self._whole[self.kept].sum() > 0:
            raise ValueError(
                f"kept has shape {self.kept.shape} with {int(self.kept.sum())} vectors; expected one entry "
                f"for each of {self.n_vectors} concept vectors, some of them True and possible"
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
        kept = np.zeros(world.n_vectors, bool)
        drawn = np.random.default_rng(seed).permutation(there)
        kept[drawn[: max(2, round(share * len(there)))]] = True
        return cls(**{f.name: getattr(world, f.name) for f in fields(World)}, kept=kept)

    @property
    def _whole(self) -> Float[np.ndarray, " vector"]:
        return World(self.graph, self.tables).joint.reshape(-1)

    @cached_property
    def joint(self) -> Float[np.ndarray, "*_value"]:
        """P(C = c | C ∈ 𝒞̂), an axis a concept; 0 outside the set."""
        inside = np.where(self.kept, self._whole, 0.0)
        return (inside / inside.sum()).reshape(self.values)

    def described(self) -> dict[str, Any]:
        """All that makes it this world, the concept vectors kept among it."""
        return {**super().described(), "kept": np.flatnonzero(self.kept).tolist()}

    def sample(self, n: int, rng: np.random.Generator) -> Int[np.ndarray, "n m"]:
        """Concept vectors drawn from the set: what rejecting the others leaves."""
        rising = np.cumsum(self.joint.reshape(-1))
        found = np.searchsorted(rising, rng.random(n) * rising[-1], side="right")
        return self.vectors[found]


def tokens_of(world: World) -> Int[np.ndarray, " token"]:
    """The tokens over which a learner's softmax runs: 𝒞̂, or all."""
    if isinstance(world, RestrictedWorld):
        return np.flatnonzero(world.kept)
    return np.arange(world.n_vectors)
