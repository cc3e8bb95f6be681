"""A buffer of activation rows, allocated once: rows are written and read in place, drawn without repeats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor


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
        self.held = 0
        self._rows = {p: torch.empty(capacity, w, dtype=dtype, device=device) for p, w in widths.items()}
        # a permutation of the slots: the first `held` are in use
        self._slots = np.arange(capacity, dtype=np.int64)

    def claim(self, n: int) -> Tensor:
        """Free slots `[n]` for new rows, which count as held from now on: `write` every point's rows there.

        **Raises** `ValueError` where there are not so many.
        """
        if n > self.capacity - self.held:
            raise ValueError(f"{n} rows do not fit beside {self.held} in a buffer of {self.capacity}")
        slots = self._slots[self.held : self.held + n]
        self.held += n
        return self._tensor(slots)

    def write(self, point: str, slots: Tensor, rows: Float[Tensor, "row width"]) -> None:
        """Put rows into claimed slots, in the buffer's own dtype."""
        target = self._rows[point]
        target.index_copy_(0, slots, rows.to(target))

    def drop(self, since: int, away: Bool[np.ndarray, " slot"]) -> None:
        """Take back some of the slots claimed since `held` was `since`: their rows do not count."""
        slots = self._slots[since : self.held]
        self._slots[since : self.held] = np.concatenate([slots[~away], slots[away]])
        self.held -= int(away.sum())

    def draw(self, n: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """`{point: [n, width]}` of rows drawn without replacement; their slots are free afterwards."""
        chosen = rng.choice(self.held, n, replace=False)
        slots = self._slots[chosen]
        rows = self._read(slots)
        kept = np.ones(self.held, dtype=bool)
        kept[chosen] = False
        left = self._slots[: self.held][kept]
        self._slots[: len(left)] = left
        self._slots[len(left) : self.held] = slots
        self.held = len(left)
        return rows

    def sample(self, n: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """`{point: [n, width]}` (fewer where fewer are held) of rows that stay where they are."""
        return self._read(self._slots[rng.choice(self.held, min(n, self.held), replace=False)])

    def mean_norms(self) -> dict[str, float]:
        """Point → mean Euclidean norm of the rows held."""
        slots = self._tensor(self._slots[: self.held])
        found: dict[str, float] = {}
        for point, rows in self._rows.items():
            total = sum(float(rows[part].float().norm(dim=1).double().sum()) for part in slots.split(8192))
            found[point] = total / max(self.held, 1)
        return found

    def _read(self, slots: np.ndarray) -> dict[str, Tensor]:
        index = self._tensor(slots)
        return {p: torch.index_select(rows, 0, index) for p, rows in self._rows.items()}

    def _tensor(self, slots: np.ndarray) -> Tensor:
        return torch.from_numpy(slots.copy()).to(next(iter(self._rows.values())).device)

    # State -------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """The rows held, in the order of their slots: with it, the draws to come are the same."""
        return {"rows": {p: rows.cpu() for p, rows in self._read(self._slots[: self.held]).items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Hold these rows and no others. **Raises** `ValueError` where they do not fit."""
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
            self.held = len(given)
        self._slots = np.arange(self.capacity, dtype=np.int64)
