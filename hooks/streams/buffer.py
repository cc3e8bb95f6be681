"""Rows of activations from forward passes over contexts, mixed in a buffer that is allocated once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from graticule.hooks.protocols import HookedModel, device_of
from graticule.hooks.running.forward import Forward, check_shape
from graticule.hooks.running.runner import overflow
from graticule.hooks.running.session import undisturbed
from graticule.hooks.streams.base import NormLimit
from graticule.hooks.values import finite


class MixingBuffer:
    """Rows of several points in the same slots, drawn uniformly from all that are held.

    Every row written is drawn once. A drawn row's slot is free for the next one: nothing is moved or
    concatenated, and a batch mixes everything the buffer holds.
    """

    def __init__(
        self, widths: Mapping[str, int], capacity: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        """`capacity` rows of `widths` entries; memory is touched only as it fills."""
        self.capacity, self.dtype = capacity, dtype
        self.n_rows = 0
        self._rows = {p: torch.empty(capacity, w, dtype=dtype, device=device) for p, w in widths.items()}
        # a permutation of the slots: the first `held` are in use
        self._slots = np.arange(capacity, dtype=np.int64)

    def claim(self, n: int) -> Tensor:
        """Free slots `[n]` for new rows, which count as held from now on: `write` every point's rows there.

        Raises:
            ValueError: where there are not so many.
        """
        if n > self.capacity - self.n_rows:
            raise ValueError(f"{n} rows do not fit beside {self.n_rows} in a buffer of {self.capacity}")
        slots = self._slots[self.n_rows : self.n_rows + n]
        self.n_rows += n
        return self._tensor(slots)

    def write(self, point: str, slots: Tensor, rows: Float[Tensor, "row width"]) -> None:
        """Put rows into claimed slots, in the buffer's own dtype."""
        target = self._rows[point]
        target.index_copy_(0, slots, rows.to(target))

    def drop(self, since: int, away: Bool[np.ndarray, " slot"]) -> None:
        """Take back some of the slots claimed since `held` was `since`: their rows do not count."""
        slots = self._slots[since : self.n_rows]
        self._slots[since : self.n_rows] = np.concatenate([slots[~away], slots[away]])
        self.n_rows -= int(away.sum())

    def draw(self, n: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """`{point: [n, width]}` of rows drawn without replacement; their slots are free afterwards."""
        chosen = rng.choice(self.n_rows, n, replace=False)
        slots = self._slots[chosen]
        rows = self._read(slots)
        is_left = np.ones(self.n_rows, dtype=bool)
        is_left[chosen] = False
        left = self._slots[: self.n_rows][is_left]
        self._slots[: len(left)] = left
        self._slots[len(left) : self.n_rows] = slots
        self.n_rows = len(left)
        return rows

    def sample(self, n: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """`{point: [n, width]}` (fewer where fewer are held) of rows that stay where they are."""
        return self._read(self._slots[rng.choice(self.n_rows, min(n, self.n_rows), replace=False)])

    def mean_norms(self) -> dict[str, float]:
        """Point → mean Euclidean norm of the rows held."""
        slots = self._tensor(self._slots[: self.n_rows])
        norms: dict[str, float] = {}
        for point, rows in self._rows.items():
            total = sum(float(rows[part].float().norm(dim=1).double().sum()) for part in slots.split(8192))
            norms[point] = total / max(self.n_rows, 1)
        return norms

    def _read(self, slots: np.ndarray) -> dict[str, Tensor]:
        index = self._tensor(slots)
        return {p: torch.index_select(rows, 0, index) for p, rows in self._rows.items()}

    def _tensor(self, slots: np.ndarray) -> Tensor:
        return torch.from_numpy(slots.copy()).to(next(iter(self._rows.values())).device)

    # State -------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """The rows held, in the order of their slots: with it, the draws to come are the same."""
        return {"rows": {p: rows.cpu() for p, rows in self._read(self._slots[: self.n_rows]).items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Hold these rows and no others.

        Raises:
            ValueError: where they do not fit.
        """
        rows: Mapping[str, Tensor] = state["rows"]
        for point, own in self._rows.items():
            given = rows.get(point)
            if given is None or given.shape[1] != own.shape[1] or given.dtype != own.dtype:
                shape = None if given is None else (tuple(given.shape), given.dtype)
                fits = (self.capacity, own.shape[1]), own.dtype
                raise ValueError(f"{point}: rows {shape} do not fit a buffer of {fits}")
            if len(given) > self.capacity:
                raise ValueError(f"{point}: {len(given)} rows do not fit a buffer of {self.capacity}")
            own[: len(given)] = given.to(own.device)
            self.n_rows = len(given)
        self._slots = np.arange(self.capacity, dtype=np.int64)


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

        Raises:
            ValueError: where there would be none.
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
        widths: dict[str, int] = {}

        def read(point: str, value: Tensor) -> None:
            check_shape(point, value, tokens)
            widths[point] = int(np.prod(value.shape[2:]))

        with undisturbed(self.model):
            self._forward(tokens, read)
        return {p: widths[p] for p in points}

    def __call__(self, contexts: np.ndarray, number: int, buffer: MixingBuffer, what: str) -> int:
        """Run `contexts` `[context, pos]` and write their rows to `buffer`, but for those too long at any
        point; how many there were.

        `what` is what the contexts are called in an error. After an exception the buffer holds what it held.

        Raises:
            NonFiniteError: For NaN or infinite rows.
            ValueError: For points not of single tokens.
        """
        row, position = self.selection.choose(contexts, number)
        tokens = torch.from_numpy(contexts).to(device_of(self.model))
        at = (torch.from_numpy(row).to(tokens.device), torch.from_numpy(position).to(tokens.device))
        n_before = buffer.n_rows
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
            buffer.n_rows = n_before
            raise
        buffer.drop(n_before, away.cpu().numpy())
        self.limit.count(len(row), len(row) - (buffer.n_rows - n_before))
        return buffer.n_rows - n_before
