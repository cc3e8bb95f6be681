"""Token ids where they enter: whole numbers that the model has an embedding for, or a refusal that names
them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from graticule.hooks.masked import unmasked


def vocabulary_of(model: Any) -> int | None:
    """How many ids a model has an embedding for; None where nobody knows."""
    try:
        table = model.W_E
    except (AttributeError, NotImplementedError):
        table = None
    if isinstance(table, Tensor) and table.ndim == 2:
        return int(table.shape[0])
    return int(getattr(model.cfg, "d_vocab", 0) or 0) or None


def token_ids(row: Any, where: str, vocabulary: int | None = None) -> np.ndarray:
    """One row of token ids as int64.

    Args:
        row: a list, an array or a tensor of ids.
        where: what the row is called in a message: `token row 3`, `document 7 of texts.jsonl`.
        vocabulary: how many ids there are, of 0 and up; None where that is not known.

    Returns:
        The ids, `[pos]`.

    Raises:
        ValueError: for anything but whole numbers from 0 to below `vocabulary`, naming row, position and id.
    """
    ids = np.asarray(row.cpu() if isinstance(row, Tensor) else unmasked(where, row))
    if ids.ndim == 0:
        raise ValueError(f"{where} is {row!r}; expected a text, or a list of token ids")
    if ids.ndim != 1:
        raise ValueError(f"{where} has shape {ids.shape}; expected a list of token ids")
    if len(ids) == 0:
        return ids.astype(np.int64)
    if ids.dtype.kind not in "iu" or (
        not isinstance(row, Tensor | np.ndarray) and bool in set(map(type, row))
    ):
        _refuse_kinds(row if isinstance(row, Sequence) else ids.tolist(), where)
    if int(ids.min()) < 0 or (vocabulary is not None and int(ids.max()) >= vocabulary):
        check_range(ids, where, vocabulary)
    return ids.astype(np.int64)


def check_range(ids: np.ndarray, where: str, vocabulary: int | None) -> None:
    """**Raises** `ValueError` naming the first id that has no embedding."""
    bad = ids < 0 if vocabulary is None else (ids < 0) | (ids >= vocabulary)
    if not bad.any():
        return
    at = int(bad.argmax())
    has = "ids begin at 0" if vocabulary is None else f"the model has {vocabulary:,}, 0 to {vocabulary - 1:,}"
    why = (
        "cut padding and the marks of a collator (-100) off"
        if ids[at] < 0
        else "were these tokens made by another model's tokenizer?"
    )
    raise ValueError(f"{where}, position {at}: id {int(ids[at])} has no embedding ({has}); {why}")


def _refuse_kinds(row: Sequence[Any], where: str) -> None:
    at, value = next(
        (i, v) for i, v in enumerate(row) if isinstance(v, bool) or not isinstance(v, int | np.integer)
    )
    raise ValueError(
        f"{where}, position {at}: {value!r} is {type(value).__name__}; token ids are whole numbers (int)"
    )
