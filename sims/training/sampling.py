"""What training reads of a world: fast draws of contexts and tokens, and the exact expected loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from graticule.sims.contexts import Contexts
from graticule.sims.worlds import tokens_of

_BLOCK = 256  # updates whose samples are drawn at once: fixed, so that the draws depend on the seed alone
_CELLS = 1 << 21  # logits held at once by the exact loss


@dataclass(frozen=True, eq=False)
class Pairs:
    """All pairs of a mask and a token that occur together: p(d, c) is sparse, 2^m pairs a mask.

    Tokens are numbered within 𝒞̂ here (all of them where the concept set is complete).
    """

    contexts: Contexts
    """Where they come from."""

    @cached_property
    def tokens(self) -> Int[np.ndarray, " token"]:
        """The tokens of the softmax, as the world numbers them."""
        return tokens_of(self.contexts.world)

    @cached_property
    def table(self) -> Int[np.ndarray, "mask token"]:
        """The context that each mask leaves of each token."""
        vectors = self.contexts.world.vectors[self.tokens]
        masks = len(self.contexts.masks)
        return np.stack([self.contexts.ids(vectors, np.full(len(vectors), k)) for k in range(masks)])

    @cached_property
    def weights(self) -> Float[np.ndarray, "mask token"]:
        """p(d, c): the mask's chance times p(c)."""
        joint = self.contexts.world.joint.reshape(-1)[self.tokens]
        return self.contexts.chances[:, None] * joint

    @cached_property
    def met(self) -> Float[np.ndarray, " context"]:
        """p(d) of every context; 0 for those that no token of 𝒞̂ leaves."""
        return np.bincount(self.table.reshape(-1), self.weights.reshape(-1), minlength=self.contexts.n)

    def matrix(self, dtype: torch.dtype = torch.float64, rows: int | None = None) -> Tensor:
        """p(d, c) as a sparse `[context, token]` tensor, of `rows` rows where more are wanted."""
        tokens = np.broadcast_to(np.arange(len(self.tokens)), self.table.shape)
        places = np.stack([self.table.reshape(-1), tokens.reshape(-1)])
        shape = (rows or self.contexts.n, len(self.tokens))
        weights = torch.from_numpy(self.weights.reshape(-1)).to(dtype)
        places = torch.from_numpy(places)
        return torch.sparse_coo_tensor(places, weights, shape, check_invariants=True).coalesce()


class ExactLoss:
    """The expected loss −Σ p(d) Σ p(c|d) log p̂(c|d) of one run, without sampling."""

    def __init__(self, pairs: Pairs) -> None:
        self._joint = pairs.matrix()
        self._ids = torch.from_numpy(np.flatnonzero(pairs.met))
        self._chances = torch.from_numpy(pairs.met)[self._ids]
        self._chunk = max(1, _CELLS // len(pairs.tokens))

    def __call__(self, f: Float[Tensor, "context dim"], g: Float[Tensor, "token dim"]) -> float:
        """Nats, in float64; `g` holds the rows of 𝒞̂ alone."""
        f, g = f[: self._joint.shape[0]].double(), g.double()
        total = -float((f * torch.sparse.mm(self._joint, g)).sum())
        for ids, chances in zip(self._ids.split(self._chunk), self._chances.split(self._chunk), strict=True):
            total += float(chances @ torch.logsumexp(f[ids] @ g.T, dim=-1))
        return total


class Alias:
    """Draws from a finite distribution with one uniform number each (Walker 1977, Vose 1991)."""

    def __init__(self, chances: Float[np.ndarray, " value"]) -> None:
        n = len(chances)
        share = chances / chances.sum() * n
        self._own, self._other = np.ones(n), np.arange(n)
        small, large = [list(np.flatnonzero(x)) for x in (share < 1, share >= 1)]
        while small and large:
            low, high = small.pop(), large[-1]
            self._own[low], self._other[low] = share[low], high
            share[high] -= 1 - share[low]
            if share[high] < 1:
                small.append(large.pop())

    def __call__(self, uniform: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """A value for each uniform number of [0, 1)."""
        scaled = uniform * len(self._own)
        place = scaled.astype(np.int64)
        return np.where(scaled - place < self._own[place], place, self._other[place])


class Sampler:
    """Contexts and tokens of every run, drawn in blocks; each run from a generator of its own."""

    def __init__(self, pairs: Sequence[Pairs], batch: int, seeds: Sequence[int]) -> None:
        self._batch = batch
        self._tables = [p.table.reshape(-1) for p in pairs]
        self._sizes = [len(p.tokens) for p in pairs]
        self._masks = [Alias(p.contexts.chances) for p in pairs]
        self._tokens = [Alias(p.weights[int(p.contexts.chances.argmax())]) for p in pairs]
        self._rng = [np.random.default_rng([seed, 1]) for seed in seeds]
        self._drawn, self._used = self._block(), 0

    def __call__(self, steps: int) -> tuple[Tensor, Tensor]:
        """The next updates' context ids and tokens `[step, run, sample]`: of `steps` updates, or of fewer."""
        if self._used == _BLOCK:
            self._drawn, self._used = self._block(), 0
        part = slice(self._used, min(self._used + steps, _BLOCK))
        self._used = part.stop
        return self._drawn[0][part], self._drawn[1][part]

    def _block(self) -> tuple[Tensor, Tensor]:
        shape = (_BLOCK, len(self._rng), self._batch)
        ids, tokens = np.empty(shape, np.int64), np.empty(shape, np.int64)
        for r, rng in enumerate(self._rng):
            uniform = rng.random((2, _BLOCK * self._batch))
            drawn = self._tokens[r](uniform[0])
            tokens[:, r] = drawn.reshape(_BLOCK, -1)
            ids[:, r] = self._tables[r][self._masks[r](uniform[1]) * self._sizes[r] + drawn].reshape(
                _BLOCK, -1
            )
        return torch.from_numpy(ids), torch.from_numpy(tokens)
