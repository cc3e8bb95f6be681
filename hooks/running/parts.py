"""Texts through the model some at a time, for a reader that needs no more than these at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from graticule.hooks.points import resolve
from graticule.hooks.positions import Pos, select
from graticule.hooks.protocols import HookedModel, dtype_of
from graticule.hooks.running.packing import packed
from graticule.hooks.running.runner import Job, Runner, row_table
from graticule.hooks.running.session import undisturbed
from graticule.hooks.tokens import Inputs, tokenize

TOKEN_BUDGET = 1024
"""Padded tokens of a batch, unless the caller says otherwise."""


def run_in_parts(
    model: HookedModel,
    inputs: Inputs,
    points: Sequence[str],
    take: Callable[[dict[str, Tensor], pd.DataFrame], None],
    texts_at_once: int,
    bar: Any,
    *,
    pos: Pos = "last",
    prompt: str = "",
    prepend_bos: bool | None = None,
    include_bos: bool | None = None,
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
        pos: As in `capture`.
        prompt: As in `capture`.
        prepend_bos: As in `capture`.
        include_bos: As in `capture`.

    Raises:
        ValueError: As `capture` does.
    """
    rows = tokenize(model, inputs, prompt, prepend_bos)
    positions = select(pos, rows, include_bos)
    names = resolve(model, list(points))
    job = Job(rows, positions, pos == "entity_mean", names, dtype_of(model))
    if job.counts.sum() == 0:
        raise ValueError(f"pos={pos!r} selects no token of any text")
    with undisturbed(model), packed(model):
        runner = Runner(model, job, TOKEN_BUDGET, share_prefix=True, compiled=False, bar=bar)
        for start in range(0, len(rows.ids), texts_at_once):
            some = np.arange(start, min(start + texts_at_once, len(rows.ids)))
            take(runner.shard(some), row_table(job, some, None))
