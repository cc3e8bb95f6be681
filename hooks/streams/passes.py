"""Forward passes over contexts: which tokens become rows, and how they get into a buffer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graticule.hooks.protocols import HookedModel, device_of
from graticule.hooks.running.forward import Forward, check_shape
from graticule.hooks.running.runner import overflow
from graticule.hooks.running.session import undisturbed
from graticule.hooks.streams.buffer import MixingBuffer
from graticule.hooks.streams.norms import NormLimit
from graticule.hooks.values import finite


@dataclass(frozen=True)
class Selection:
    """Which tokens of a context become rows."""

    special: tuple[int, ...]
    """Token ids that are left out."""
    seqpos_slice: tuple[int | None, ...] = (None,)
    """Positions that count, `(start, stop, step)` as in SAELens."""
    tokens_per_context: int | None = None
    """So many of them, drawn at random; None is all."""
    seed: int = 0
    """Seed of the draws."""

    def most(self, context_size: int) -> int:
        """Rows that a context gives at most.

        **Raises** `ValueError` where there would be none.
        """
        if self.tokens_per_context is not None and self.tokens_per_context < 1:
            raise ValueError(f"tokens_per_context={self.tokens_per_context}: at least 1, or None for all")
        counted = len(range(context_size)[slice(*self.seqpos_slice)])
        if counted == 0:
            raise ValueError(f"seqpos_slice={self.seqpos_slice} leaves none of {context_size} positions")
        return min(counted, self.tokens_per_context or counted)

    def choose(self, tokens: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Context and position of the rows of `tokens` `[context, pos]`; the draw depends on the seed and the
        pass's number alone."""
        counts = np.zeros(tokens.shape, dtype=bool)
        counts[:, slice(*self.seqpos_slice)] = True
        counts &= ~np.isin(tokens, self.special)
        if self.tokens_per_context is not None:
            keys = np.random.default_rng([self.seed, 0, number]).random(tokens.shape)
            keys[~counts] = 2.0
            counts &= keys.argsort(axis=1).argsort(axis=1) < self.tokens_per_context
        row, position = np.nonzero(counts)
        return row, position


class Passes:
    """Runs contexts through a model, all points at once and no further than the last."""

    def __init__(
        self, model: HookedModel, points: Sequence[str], selection: Selection, limit: NormLimit | None = None
    ) -> None:
        self.model, self.selection, self.limit = model, selection, limit or NormLimit(None)
        self._forward: Any = Forward(model, points)
        self.widths = self._measure(points)

    def _measure(self, points: Sequence[str]) -> dict[str, int]:
        """Widths of the points, from one token."""
        tokens = torch.zeros(1, 1, dtype=torch.int64, device=device_of(self.model))
        found: dict[str, int] = {}

        def read(point: str, value: Tensor) -> None:
            check_shape(point, value, tokens)
            found[point] = int(np.prod(value.shape[2:]))

        with undisturbed(self.model):
            self._forward(tokens, read)
        return {p: found[p] for p in points}

    def __call__(self, contexts: np.ndarray, number: int, buffer: MixingBuffer, what: str) -> int:
        """Run `contexts` `[context, pos]` and write their rows to `buffer`, but for those too long at any
        point; how many there were.

        `what` is what the contexts are called in an error. After an exception the buffer holds what it held.

        **Raises** `NonFiniteError` for NaN or infinite rows, `ValueError` for points not of single tokens.
        """
        row, position = self.selection.choose(contexts, number)
        tokens = torch.from_numpy(contexts).to(device_of(self.model))
        at = (torch.from_numpy(row).to(tokens.device), torch.from_numpy(position).to(tokens.device))
        held = buffer.held
        slots = buffer.claim(len(row))
        away = torch.zeros(len(row), dtype=torch.bool, device=tokens.device)

        def read(point: str, value: Tensor) -> None:
            check_shape(point, value, tokens)
            rows = value[at].flatten(1).to(buffer.dtype)
            finite(point, rows, f"in {what}", overflow(value.dtype, rows.dtype))
            buffer.write(point, slots, rows)
            if self.limit.multiple is not None:
                away.logical_or_(self.limit.beyond(point, rows).to(away.device))

        try:
            self._forward(tokens, read)
        except BaseException:
            buffer.held = held
            raise
        buffer.drop(held, away.cpu().numpy())
        self.limit.count(len(row), len(row) - (buffer.held - held))
        return buffer.held - held
