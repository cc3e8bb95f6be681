"""Batches from a store under a true global shuffle: a permutation of all rows an epoch, over memory maps."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from graticule.hooks.artifact import ArtifactError
from graticule.hooks.limits import LimitError
from graticule.hooks.messages import visible
from graticule.hooks.points import PointError
from graticule.hooks.rows import Rows, wanted_names
from graticule.hooks.store import Store
from graticule.hooks.streams.base import MAX_NORM, BaseStream, Normalize, NormLimit, check_longest, row_norms
from graticule.hooks.streams.contexts import special_ids
from graticule.hooks.values import dtype_name, dtype_named, finite, unmasked

_log = logging.getLogger(__name__)

_NORM_ROWS = 2**18
_NORM_BATCH = 8192


class StoreStream(BaseStream):
    """Rows of a store (or of `Activations` in memory), each once an epoch, in an order drawn from the seed.

    Every batch is a sample of all rows there are. An epoch's last rows, short of a batch, are left out:
    others in every epoch. The permutation takes 4 bytes per row; of the rows themselves one batch at a time
    is in memory.
    """

    def __init__(
        self,
        store: Rows | Path | str,
        points: Any = None,
        batch_size: int = 4096,
        *,
        epochs: int | None = 1,
        seed: int = 0,
        rows: Sequence[int] | np.ndarray | None = None,
        exclude_special: bool | Sequence[int] = True,
        max_norm: float | int | None = MAX_NORM,
        tokenizer: Any = None,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str = "cpu",
        normalize: Normalize = "none",
    ) -> None:
        """Args:
            points: hook names or (short name, layer) pairs; all by default.
            epochs: how often every row comes; None is without end.
            rows: the rows to draw from (numbers, or a mask), before exclusion; all by default.
            exclude_special: leave out the rows of special tokens, where the store knows its tokens: those of
                `tokenizer`, and a token that stands first in every text (BOS, whose activations are like no
                other's). A list of token ids is used as it is.
            max_norm: leave out rows whose norm at any of the points is over so many times the median there:
                attention sinks. The norms take one reading of the rows. None takes all in.
            dtype: of the batches; the store's dtype and the CPU by default.
            device: see `dtype`.
            normalize: as in SAELens; the mean norm is that of 262,144 rows at most.

        Raises:
            PointError: for points that were not captured.
            ArtifactError: for a damaged store.
            ValueError: where less than a batch of rows is left.
        """
        self.store = Store(store) if isinstance(store, Path | str) else store
        names = tuple(wanted_names(points, self.store.points))
        for name in names:
            if name not in self.store.points:
                raise PointError(f"{name} is not among the captured points: {', '.join(self.store.points)}")
        widths = {p: self.store.widths[p] for p in names}
        super().__init__(names, widths, batch_size, normalize)
        self.epochs, self.seed, self.device = epochs, seed, torch.device(device)
        self.exclude_special = exclude_special if isinstance(exclude_special, bool) else list(exclude_special)
        self.dtype = dtype_named(dtype)
        self.norm_limit = NormLimit(max_norm)
        self._rows = self._within(self._kept(rows, exclude_special, tokenizer))
        if len(self._rows) < batch_size:
            raise ValueError(
                f"batch_size={batch_size}: {len(self._rows)} of {self.store.n_rows} rows are left, less than "
                f"one batch; write batch_size={max(1, len(self._rows))} or less"
            )
        self._epoch, self._batch = 0, 0
        self._order: np.ndarray | None = None

    def _kept(
        self, rows: Sequence[int] | np.ndarray | None, exclude: bool | Sequence[int], tokenizer: Any
    ) -> np.ndarray:
        """Numbers of the rows to draw from."""
        kind = np.uint32 if self.store.n_rows < 2**32 else np.int64
        chosen = np.arange(self.store.n_rows, dtype=kind)
        if rows is not None:
            chosen = chosen[_numbers(rows, self.store.n_rows)]
        if exclude is False:
            return chosen
        table = self.store.rows
        if "token" not in table:
            if exclude is not True:
                raise ValueError(
                    f"exclude_special={list(exclude)}: these rows do not say of which tokens they are; leave "
                    "exclude_special out, or name the rows, rows="
                )
            return chosen
        ids = set(special_ids(exclude, tokenizer))
        if exclude is True:
            ids |= _first_token(table)
        left = chosen[~np.isin(table["token"].to_numpy()[chosen], list(ids))]
        if len(left) < len(chosen):
            _log.info("left out %d rows of the tokens %s", len(chosen) - len(left), sorted(ids))
        return left

    def _within(self, chosen: np.ndarray) -> np.ndarray:
        """The rows that are not too long at any point."""
        if self.norm_limit.multiple is None or not len(chosen):
            return chosen
        away = np.zeros(len(chosen), dtype=bool)
        for point in self.points:
            parts = [chosen[i : i + _NORM_BATCH] for i in range(0, len(chosen), _NORM_BATCH)]
            norms = torch.cat([row_norms(self._read(point, part)) for part in parts])
            finite(point, norms, lambda bad: f"in row {int(chosen[bad])}")
            check_longest(point, norms)
            away |= self.norm_limit.beyond(point, norms[:, None]).numpy()
        self.norm_limit.count(len(chosen), int(away.sum()))
        if away.any():
            _log.warning("%s; max_norm=None takes them in", self.norm_limit.words)
        return chosen[~away]

    @property
    def n_rows(self) -> int:
        """Rows an epoch draws from."""
        return len(self._rows)

    @property
    def n_batches(self) -> int:
        """Batches an epoch."""
        return len(self._rows) // self.batch_size

    # Batches -----------------------------------------------------------------------------------------
    def __next__(self) -> dict[str, Tensor]:
        if self._batch == self.n_batches:
            self._epoch, self._batch, self._order = self._epoch + 1, 0, None
        if self.epochs is not None and self._epoch >= self.epochs:
            self._epoch, self._batch = self.epochs - 1, self.n_batches  # ended, and stays so
            raise StopIteration
        if self._order is None:
            self._order = np.random.default_rng([self.seed, self._epoch]).permutation(self._rows)
        start = self._batch * self.batch_size
        rows = self._gather(self._order[start : start + self.batch_size])
        self._batch += 1
        return self._scaled(rows)

    def sample(self, n: int, seed: int = 0) -> dict[str, Tensor]:
        """Up to `n` rows drawn from all, without repeats, scaled as batches are."""
        chosen = np.random.default_rng(seed).choice(self._rows, min(n, len(self._rows)), replace=False)
        return self._scaled(self._gather(chosen))

    def _gather(self, index: np.ndarray) -> dict[str, Tensor]:
        return {p: self._read(p, index).to(self.device, self.dtype) for p in self.points}

    def _read(self, point: str, index: np.ndarray) -> Tensor:
        rows = self.store.gather(point, index)
        if rows.shape[1] != self.widths[point]:
            raise ArtifactError(
                f"{point}: rows are {rows.shape[1]} wide, not {self.widths[point]} as the manifest says; "
                "capture again"
            )
        return rows

    def _mean_norms(self) -> dict[str, float]:
        chosen = self._rows
        if len(chosen) > _NORM_ROWS:
            chosen = np.sort(np.random.default_rng(self.seed).choice(chosen, _NORM_ROWS, replace=False))
        total = dict.fromkeys(self.points, 0.0)
        for start in range(0, len(chosen), _NORM_BATCH):
            for point in self.points:
                part = self._read(point, chosen[start : start + _NORM_BATCH])
                total[point] += float(part.float().norm(dim=1).double().sum())
        return {p: t / len(chosen) for p, t in total.items()}

    # State -------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Epoch and batch; the order follows from the seed."""
        return {
            "settings": self._settings(),
            "epoch": self._epoch,
            "batch": self._batch,
            "scaling_factors": self._factors,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state` with the very batches that would have come; `epochs` may have been raised since.

        Raises:
            ValueError: where the state is of another stream, naming what differs.
        """
        self._check(state)
        self._epoch, self._batch, self._order = state["epoch"], state["batch"], None
        self._load_factors(state)

    def _settings(self) -> dict[str, Any]:
        return {
            "stream": "store",
            "request": self._request(),
            "values": self._values,
            "points": list(self.points),
            "n_rows": self.store.n_rows,
            "rows": _digest(self._rows),
            "max_norm": self.norm_limit.multiple,
            "batch_size": self.batch_size,
            "dtype": None if self.dtype is None else dtype_name(self.dtype),
            "normalize": self.normalize,
            "seed": self.seed,
        }

    @cached_property
    def _values(self) -> str:
        """A digest of every value at the points."""
        return self.store.checksum(self.points)

    def _request(self) -> dict[str, Any]:
        """What was captured, as the store or the activations know it."""
        asked, names = (
            self.store.request,
            ("model", "inputs", "n_inputs", "prompt", "pos", "bos", "include_bos"),
        )
        return {name: asked[name] for name in names if name in asked}

    def metadata(self) -> dict[str, Any]:
        """SAELens's names for the data's settings as far as the store knows them, and graticule's own under
        `"graticule"`. The context size is that of the longest text, as its rows show it."""
        settings = self._settings()
        model = cast("dict[str, Any]", settings["request"].get("model", {}))
        table = self.store.rows
        size = int(table["position"].max()) + 1 if "position" in table else None
        return {
            "model_name": model.get("name"),
            "model_class_name": model.get("class"),
            "model_from_pretrained_kwargs": {},
            **({"hook_name": self.points[0]} if len(self.points) == 1 else {}),
            "hook_head_index": None,
            "dataset_path": self.store.location,
            "context_size": size,
            "prepend_bos": bool(settings["request"].get("bos", False) or _first_token(table)),
            "seqpos_slice": [None],
            "exclude_special_tokens": self.exclude_special,
            "graticule": {**settings, "epochs": self.epochs, "scaling_factors": self._factors},
        }

    def __repr__(self) -> str:
        points = visible(", ".join(self.points))
        return f"StoreStream({points}; {self.n_rows} rows in batches of {self.batch_size})"


def _numbers(rows: Any, count: int) -> np.ndarray:
    """Rows by number, or a mask of all rows, as an index.

    Raises:
        LimitError: For a mask of another length, for what is not whole and for a row named twice.
        IndexError: For one that is not there.
    """
    index = np.asarray(unmasked("rows", rows))
    if index.dtype == bool:
        if index.shape != (count,):
            raise LimitError("rows", f"a mask of shape {index.shape}", f"one of all {count} rows")
        return index
    if index.ndim != 1 or (index.size and index.dtype.kind not in "iu"):
        raise LimitError("rows", index.dtype.name, "a list of row numbers, or a mask")
    if (outside := (index < 0) | (index >= count)).any():
        raise IndexError(f"rows={int(index[outside][0])}: these activations have rows 0 to {count - 1}")
    numbers, times = np.unique(index, return_counts=True)
    if (twice := times > 1).any():
        raise LimitError("rows", int(numbers[twice][0]), "each of them once, and it is there twice")
    return index.astype(np.int64)


def _first_token(table: pd.DataFrame) -> set[int]:
    """The token that stands first in every text, where that is one and the same for several texts."""
    if not {"token", "position", "source"} <= set(table.columns):
        return set()
    first = table[table["position"] == 0]
    tokens = set(first["token"].unique().tolist())
    return tokens if len(tokens) == 1 and first["source"].nunique() > 1 else set()


def _digest(rows: np.ndarray) -> str:
    return hashlib.sha256(rows.astype(np.int64).tobytes()).hexdigest()[:16]
