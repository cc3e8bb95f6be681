"""Shards of texts through the model: length buckets, identical rows once, every row to its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from graticule.hooks.alignment import TOKEN_DIGEST
from graticule.hooks.capture_spec import CaptureSpec, select_positions
from graticule.hooks.points import resolve
from graticule.hooks.protocols import HookedModel, device_of, dtype_of
from graticule.hooks.running.forward import Forward, check_shape, config_of, reach_of, rope_borders
from graticule.hooks.running.grouping import NO_PREFIX, Grouping, Prefix, Trial, batches, shared_prefix
from graticule.hooks.running.session import packed, undisturbed
from graticule.hooks.tokens import Inputs, TokenRows, tokenize
from graticule.hooks.values import finite

_SHARD_BYTES = 2**28


@dataclass(frozen=True)
class Job:
    """What is read from which token rows."""

    rows: TokenRows
    positions: list[np.ndarray]
    """Token positions of every text."""
    mean: bool
    """Whether the positions of a text are averaged into one row."""
    points: tuple[str, ...]
    dtype: torch.dtype

    @property
    def counts(self) -> np.ndarray:
        """Rows every text gives."""
        return np.array([1 if self.mean else len(p) for p in self.positions])


class Runner:
    """Runs shards of texts through the model; a shard's activations depend on its texts alone."""

    def __init__(
        self, model: HookedModel, job: Job, budget: int, share_prefix: bool, compiled: bool, bar: Any
    ) -> None:
        self.model, self.job, self.budget, self.bar = model, job, budget, bar
        self.forward = Forward(model, job.points, compiled)
        several = share_prefix and len(job.rows.ids) > 1
        begin = job.rows.ids[0][: job.rows.shared_prefix() if several else 0]
        alike = len(begin) == 0 and len(set(job.rows.lengths)) == 1  # nothing is padded or shared
        asked = [job.rows.ids[0][:1]] if alike else job.rows.ids
        trial = Trial.run(self.forward, asked, begin, reach_of(model))
        self.widths = {p: int(v.shape[2:].numel()) for p, v in trial.activations.items()}
        self.grouping = Grouping(trial.looks_ahead(), rope_borders(config_of(model)))
        fits = len(begin) > 0 and self.grouping.prefix_fits(len(begin), job.rows.lengths)
        self.prefix: Prefix = shared_prefix(self.forward, begin, trial) if fits else NO_PREFIX

    def shard(self, texts: np.ndarray) -> dict[str, Tensor]:
        """Point → `[row, width]` for some texts, in their order."""
        job = self.job
        unique, inverse = _unique(job, texts)
        counts = job.counts[unique]
        starts = np.concatenate([[0], np.cumsum(counts)])
        out = {p: torch.empty(int(starts[-1]), w, dtype=job.dtype) for p, w in self.widths.items()}
        ids = [job.rows.ids[i] for i in unique]
        repeats = np.bincount(inverse, minlength=len(unique))
        for batch in batches(ids, self.prefix.length, self.budget, self.grouping, device_of(self.model)):
            self._run(batch.tokens, unique[batch.members], starts[batch.members], out)
            self.bar.update(int(repeats[batch.members].sum()))
        if len(unique) == len(texts) and (inverse == np.arange(len(texts))).all():
            return out
        index = np.concatenate([np.arange(int(starts[u]), int(starts[u + 1])) for u in inverse])
        return {p: t[torch.from_numpy(index)] for p, t in out.items()}

    def _run(self, tokens: Tensor, texts: np.ndarray, slots: np.ndarray, out: dict[str, Tensor]) -> None:
        """Run one batch and write every point's rows to their places in `out`."""
        job, skip = self.job, self.prefix.length
        wanted = [job.positions[t] for t in texts]
        sizes = np.array([len(w) for w in wanted])
        position = np.concatenate(wanted)
        row = np.repeat(np.arange(len(texts)), sizes)
        within = np.concatenate([np.arange(n) for n in sizes])
        place = slots if job.mean else np.repeat(slots, sizes) + within
        fresh = torch.from_numpy(np.flatnonzero(position >= skip))
        shared = torch.from_numpy(np.flatnonzero(position < skip))
        device = tokens.device
        at = (
            torch.from_numpy(row).to(device)[fresh.to(device)],
            torch.from_numpy(position - skip).to(device)[fresh.to(device)],
        )
        target = torch.from_numpy(place)

        def read(point: str, value: Tensor) -> None:
            check_shape(point, value, tokens)
            picked = value[at].flatten(1)
            if len(shared) or job.mean:
                picked = self._with_prefix(point, picked, fresh, shared, position)
            if job.mean:
                picked = _means(picked.float(), row, sizes)
            picked = picked.to("cpu", job.dtype)
            of_row = texts if job.mean else texts[row]
            out[point][target] = finite(
                point, picked, lambda bad: f"for text {of_row[bad]}", overflow(value.dtype, job.dtype)
            )

        self.forward(tokens, read, self.prefix)

    def _with_prefix(
        self, point: str, picked: Tensor, fresh: Tensor, shared: Tensor, position: np.ndarray
    ) -> Tensor:
        """Rows in order, those at the prefix's positions from the prefix's own run."""
        rows = picked.new_empty(len(position), picked.shape[1])
        rows[fresh.to(rows.device)] = picked
        if len(shared):
            prefix_rows = self.prefix.activations[point]
            rows[shared.to(rows.device)] = prefix_rows[
                torch.from_numpy(position)[shared].to(prefix_rows.device)
            ]
        return rows


def overflow(ran_in: torch.dtype, stored: torch.dtype) -> str:
    """What may have made activations infinite: float16, where the model ran or rows are stored in it."""
    if torch.float16 not in (ran_in, stored):
        return ""
    return (
        f"the model ran in {ran_in}, rows are stored in {stored}: float16 overflows beyond 65,504, try "
        "bfloat16 or float32"
    )


def _means(values: Tensor, row: np.ndarray, sizes: np.ndarray) -> Tensor:
    """Mean of `values` `[token, width]` over the tokens of each text."""
    total = values.new_zeros(len(sizes), values.shape[1])
    total.index_add_(0, torch.from_numpy(row).to(values.device), values)
    return total / torch.from_numpy(sizes).to(values.device)[:, None]


def _unique(job: Job, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Texts whose token rows and positions differ, and for every text which of them it is."""
    seen: dict[bytes, int] = {}
    unique: list[int] = []
    inverse = np.empty(len(texts), dtype=np.int64)
    for i, text in enumerate(texts):
        key = job.rows.ids[text].tobytes() + b"|" + job.positions[text].tobytes()
        if key not in seen:
            seen[key] = len(unique)
            unique.append(int(text))
        inverse[i] = seen[key]
    return np.array(unique), inverse


def shards(counts: np.ndarray, bytes_a_row: int) -> list[np.ndarray]:
    """Runs of texts whose rows fill at most 256 MiB (one text at least)."""
    limit = max(1, _SHARD_BYTES // bytes_a_row)
    shards: list[np.ndarray] = []
    start, n_rows = 0, 0
    for i, count in enumerate(counts):
        if n_rows and n_rows + count > limit:
            shards.append(np.arange(start, i))
            start, n_rows = i, 0
        n_rows += int(count)
    shards.append(np.arange(start, len(counts)))
    return shards


ROW_COLUMNS = ("source", "position", "token", "same_tokens_as", TOKEN_DIGEST)
"""Columns of a row table that a capture writes itself."""


def row_table(job: Job, texts: np.ndarray, rows: pd.DataFrame | None) -> pd.DataFrame:
    """`source`, `position`, `token`, `same_tokens_as` (the first text with this text's very tokens),
    `token_digest` (of the text's own tokens) and the caller's columns, one line per row."""
    chosen = [job.positions[t][-1:] if job.mean else job.positions[t] for t in texts]
    source = np.repeat(texts, [len(c) for c in chosen])
    values = (
        source.astype(np.int64),
        np.concatenate(chosen).astype(np.int32),
        np.concatenate([job.rows.ids[t][c] for t, c in zip(texts, chosen, strict=True)]),
        job.rows.first_alike[source],
        job.rows.own_digests[source],
    )
    table = pd.DataFrame(dict(zip(ROW_COLUMNS, values, strict=True)))
    if rows is None:
        return table
    extra = rows.reset_index(drop=True).iloc[source].reset_index(drop=True)
    return pd.concat([table, extra], axis=1)


TOKEN_BUDGET = 1024
"""Padded tokens of a batch, unless the caller says otherwise."""


def run_in_parts(
    model: HookedModel,
    inputs: Inputs,
    points: Sequence[str],
    take: Callable[[dict[str, Tensor], pd.DataFrame], None],
    texts_at_once: int,
    bar: Any,
    spec: CaptureSpec,
) -> None:
    """Hand the activations of all `inputs` to `take`, as one `capture` of them would give them.

    The model is prepared and asked once for all parts, and its weights are not digested at all.

    Args:
        model: A model with named hook points.
        inputs: Texts or token rows.
        points: Hook names.
        take: Called with point → `[row, width]` and the row table of each part.
        texts_at_once: Texts a part.
        bar: Told of every text, by `update`.
        spec: Prompt, positions and special tokens.

    Raises:
        ValueError: As `capture` does.
    """
    pos = spec.pos
    rows = tokenize(model, inputs, spec.prompt or "", spec.prepend_bos)
    positions = select_positions(pos, rows, spec.include_bos)
    names = resolve(model, list(points))
    job = Job(rows, positions, pos == "entity_mean", names, dtype_of(model))
    if job.counts.sum() == 0:
        raise ValueError(f"pos={pos!r} selects no token of any text")
    with undisturbed(model), packed(model):
        runner = Runner(model, job, TOKEN_BUDGET, share_prefix=True, compiled=False, bar=bar)
        for start in range(0, len(rows.ids), texts_at_once):
            some = np.arange(start, min(start + texts_at_once, len(rows.ids)))
            take(runner.shard(some), row_table(job, some, None))
