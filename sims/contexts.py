"""Contexts of a world: concept vectors with unknowns (⋄), how often each is met, and what is left to guess.

Jiang et al. section 2: a context is d in {⋄, 0, 1}^m; the next token, a full concept vector c, has
p(c | d) = p(c) / p(d) where c agrees with d and 0 elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral

import numpy as np
from jaxtyping import Bool, Float, Int

from graticule.hooks.calls import renamed
from graticule.hooks.doors import CONCEPTS, WORLD, door
from graticule.sims.world import EXACT_UP_TO, UNKNOWN, World

__all__ = ["UNKNOWN", "Contexts"]

MOST_CONTEXTS = 1 << 23
"""Contexts that are enumerated at most: every one of fourteen binary concepts."""
_ROUNDING = 1e-13


@dataclass(frozen=True, eq=False)
class Contexts:
    """Masks with probabilities; with a world's joint they make every context and its probability.

    Contexts are numbered: the fully known ones first, in the order of the world's tokens (so that a
    completion is also its own context), then the others, mask by mask.
    """

    world: World
    """Where concepts come from."""
    masks: Bool[np.ndarray, "mask m"]
    """True where a concept is known; no mask twice."""
    chances: Float[np.ndarray, " mask"]
    """How often each mask is drawn."""

    def __post_init__(self) -> None:
        """Raises:
        ValueError: For masks that are not boolean, twice or of another width, or chances that do not add
            up to 1; those that nearly do are made to.
        """
        if self.masks.dtype != bool or not len(self.masks):
            raise ValueError(f"{len(self.masks)} masks of {self.masks.dtype}: one or more, True where known")
        if self.masks.shape != (len(self.chances), self.world.m):
            raise ValueError(f"masks {self.masks.shape} for {len(self.chances)} chances, m={self.world.m}")
        if len(np.unique(self.masks, axis=0)) != len(self.masks):
            raise ValueError("a mask is given twice; add their chances up")
        if (wrong := self.chances[~(self.chances >= 0)]).size:
            raise ValueError(f"chances hold {wrong[0]:g}; each is 0 or more, and together they are 1")
        if not np.isclose(self.chances.sum(), 1):
            raise ValueError(f"chances add up to {self.chances.sum()}, expected 1")
        if abs(self.chances.sum() - 1) > _ROUNDING:
            object.__setattr__(self, "chances", self.chances / self.chances.sum())

    @classmethod
    @renamed(known="p_known")
    @door(world=WORLD, hidden=CONCEPTS)
    def complete(cls, world: World, p_known: float = 0.5, hidden: Sequence[int] = ()) -> Contexts:
        """Every mask: each concept is known with probability `p_known`, independently (the paper's law, ½).

        Concepts that are `hidden` are never known.

        Raises:
            ValueError: For a probability outside (0, 1] or hidden concepts that are none.
        """
        if not 0 < p_known <= 1:
            raise ValueError(f"p_known={p_known}: a probability above 0")
        masks = _masks(world, hidden)
        counts = masks.sum(axis=1)
        chances = p_known**counts * (1 - p_known) ** (world.m - len(set(hidden)) - counts)
        drawn = chances > 0
        return cls(world, masks[drawn], chances[drawn])

    @classmethod
    @door(world=WORLD, hidden=CONCEPTS)
    def prefixes(cls, world: World, hidden: Sequence[int] = ()) -> Contexts:
        """What is known at a random place of a text that tells all concepts but the `hidden` ones, in random
        order: every number of known concepts is equally likely, and every choice of as many.

        Raises:
            ValueError: For hidden concepts that are none.
        """
        masks = _masks(world, hidden)
        counts = masks.sum(axis=1)
        return cls(world, masks, 1 / (np.bincount(counts)[counts] * (counts.max() + 1)))

    @classmethod
    @door(world=WORLD)
    def drawn(cls, world: World, n_masks: int, seed: int = 0) -> Contexts:
        """Incomplete contexts (Table 3): `n_masks` Bernoulli(½) masks drawn once, those alike merged, each
        draw equally likely.

        Raises:
            ValueError: For fewer than one mask.
        """
        if not isinstance(n_masks, Integral) or n_masks < 1:
            raise ValueError(f"n_masks={n_masks!r}: one or more")
        rng = np.random.default_rng(seed)
        masks, counts = np.unique(rng.random((n_masks, world.m)) < 0.5, axis=0, return_counts=True)
        return cls(world, masks, counts / counts.sum())

    @classmethod
    @door(world=WORLD)
    def of(
        cls, world: World, masks: Sequence[Sequence[int]], chances: Sequence[float] | None = None
    ) -> Contexts:
        """These masks (1 where known, 0 where not); equally likely unless `chances` are given.

        Raises:
            ValueError: For no mask, other numbers than 0 and 1, or what the constructor refuses.
        """
        rows = np.asarray(masks)
        if rows.ndim != 2 or not np.isin(rows, (0, 1)).all():
            raise ValueError(
                f"masks={list(masks)}: one row per mask, 1 where a concept is known and 0 where not"
            )
        given = rows.astype(bool)
        return cls(
            world, given, np.full(len(given), 1 / len(given)) if chances is None else np.asarray(chances)
        )

    # Numbers -----------------------------------------------------------------------------------------
    @cached_property
    def _order(self) -> tuple[Int[np.ndarray, " mask"], Int[np.ndarray, " mask"]]:
        """Masks with the complete one first, and the number of each one's first context.

        Room for the fully known contexts is kept at the start even where their mask is never drawn."""
        complete = np.asarray(self.masks.all(axis=1))
        order = np.argsort(~complete, kind="stable")
        sizes = [int(np.prod(np.array(self.world.values)[self.masks[i]])) for i in order if not complete[i]]
        starts = np.cumsum([self.world.n_vectors, *sizes])[:-1] if sizes else np.zeros(0, np.int64)
        first = np.concatenate([[0], starts]) if complete.any() else starts
        return order, np.asarray(first, np.int64)

    @cached_property
    def n(self) -> int:
        """How many context ids there are; the fully known ones count even where they are never met."""
        return len(self.vectors)

    @cached_property
    def vectors(self) -> Int[np.ndarray, "context m"]:
        """Every context, −1 where unknown.

        Raises:
            ValueError: For more than 2²³.
        """
        sizes = np.where(self.masks, np.array(self.world.values, float), 1).prod(axis=1)
        if sizes.sum() > MOST_CONTEXTS:
            raise ValueError(
                f"{sizes.sum():,.0f} contexts are more than the {MOST_CONTEXTS:,} that are enumerated: fewer "
                "concepts, or fewer masks (Contexts.drawn)"
            )
        parts = [self.world.vectors]
        for i in self._order[0]:
            mask = self.masks[i]
            if mask.all():
                continue
            values = [self.world.values[k] if mask[k] else 1 for k in range(self.world.m)]
            settings = np.stack(np.unravel_index(np.arange(int(np.prod(values))), values), axis=1)
            parts.append(np.where(mask, settings, UNKNOWN).astype(np.int64))
        return np.concatenate(parts)

    @cached_property
    def probabilities(self) -> Float[np.ndarray, " context"]:
        """How often each context is met: the mask's chance times the marginal of what it shows."""
        out = np.zeros(self.n)
        for i, start in zip(*self._order, strict=True):
            marginal = self.world.marginal(np.flatnonzero(self.masks[i]).tolist()).reshape(-1)
            out[start : start + len(marginal)] = self.chances[i] * marginal
        return out

    def ids(self, vectors: Int[np.ndarray, "n m"], mask: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The number of the context that shows of each concept vector what mask number `mask` shows."""
        values = np.array(self.world.values)
        start = np.zeros(len(self.masks), np.int64)
        start[self._order[0]] = self._order[1]
        sizes = np.where(self.masks, values, 1)
        # place value of every concept: the product of the values of the concepts shown after it
        weight = np.cumprod(np.concatenate([np.ones((len(sizes), 1), int), sizes[:, :0:-1]], axis=1), axis=1)[
            :, ::-1
        ]
        weight = np.where(self.masks, weight, 0)
        return start[mask] + (vectors * weight[mask]).sum(axis=1)

    # What is left to guess ---------------------------------------------------------------------------
    def conditional(self, context: Int[np.ndarray, " some"]) -> Float[np.ndarray, "some vector"]:
        """p(c | d) of every token for some contexts.

        Raises:
            ValueError: For a context that the world never shows.
        """
        return self.world.conditional(self.vectors[context])

    def posterior(self, context: Int[np.ndarray, " some"]) -> Float[np.ndarray, "some m value"]:
        """P(C_i = v | d) of every concept: 0 or 1 where it is known, padded with 0 to the most values."""
        chances = self.conditional(context)
        out = np.zeros((len(context), self.world.m, max(self.world.values)))
        for i, size in enumerate(self.world.values):
            for v in range(size):
                out[:, i, v] = chances[:, self.world.vectors[:, i] == v].sum(axis=1)
        return out

    @cached_property
    def entropy_floor(self) -> float:
        """Σ p(d) H(c | d) in nats, the least loss there is: H(C) − E[H(C_mask)], exactly."""
        whole = _entropy(self.world.joint)
        entropies = [_entropy(self.world.marginal(np.flatnonzero(mask).tolist())) for mask in self.masks]
        return float(whole - self.chances @ np.array(entropies))

    def sample(self, n: int, rng: np.random.Generator) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """Context ids and tokens of n draws: a concept vector, and a mask over it."""
        vectors = self.world.sample(n, rng)
        masks = rng.choice(len(self.masks), n, p=self.chances)
        return self.ids(vectors, masks), self.world.token(vectors)


def _masks(world: World, hidden: Sequence[int]) -> np.ndarray:
    """Every mask that hides these concepts, the fullest first."""
    if not set(hidden) <= set(range(world.m)):
        raise ValueError(f"hidden={list(hidden)}: concepts are 0 … {world.m - 1}")
    if 2 ** (world.m - len(set(hidden))) > EXACT_UP_TO:
        raise ValueError(
            f"every mask over {world.m - len(set(hidden))} concepts is more than {EXACT_UP_TO:,}; "
            "Contexts.drawn takes some"
        )
    sizes = [1 if i in set(hidden) else 2 for i in range(world.m)]
    return np.array(list(np.ndindex(*sizes)), bool)[::-1].copy()


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())
