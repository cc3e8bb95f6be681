"""Which characters of its text every token stands for, and which tokens a span of characters touches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from graticule.hooks.tokens import TokenRows


def character_offsets(
    tokenizer: Any, texts: Sequence[str], rows: TokenRows
) -> list[Int[np.ndarray, "token end"]]:
    """The half-open range of characters of every token, without the blanks before its first letter.

    A fast tokenizer says them; the pieces of a slow one are looked up in the text, one after the other. A
    special token stands for none: its range is empty.

    Args:
        tokenizer: the model's.
        texts: as they were tokenised.
        rows: their tokens.

    Returns:
        A `[token, 2]` array a text, special tokens included.

    Raises:
        ValueError: pieces of a slow tokenizer do not stand in the text as they are.
    """
    out: list[np.ndarray] = []
    fast = bool(getattr(tokenizer, "is_fast", False))
    mapped = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True) if fast else None
    for i, (text, row, (start, end)) in enumerate(zip(texts, rows.ids, rows.own, strict=True)):
        ranges = np.zeros((len(row), 2), np.int64)
        if mapped is None:
            ranges[start:end] = _looked_up(tokenizer, text, row[start:end], i)
        else:  # a text that begins with BOS itself is tokenised with it
            own = mapped["offset_mapping"][i][-(end - start) :]
            ranges[start:end] = np.array(own, np.int64).reshape(-1, 2)
        for token in range(start, end):
            piece = text[ranges[token, 0] : ranges[token, 1]]
            if piece.strip():
                ranges[token, 0] += len(piece) - len(piece.lstrip())
        out.append(ranges)
    return out


def _looked_up(tokenizer: Any, text: str, ids: np.ndarray, place: int) -> np.ndarray:
    cursor, ranges = 0, np.zeros((len(ids), 2), np.int64)
    for token, token_id in enumerate(ids.tolist()):
        piece = str(tokenizer.decode([token_id]))
        piece = piece.strip() or piece
        at = text.find(piece, cursor) if piece else -1
        if at < 0 or text[cursor:at].strip():
            raise ValueError(
                f"text {place}: token {token} ({piece!r}) is not where it should be in the text, and this "
                "tokenizer is a slow one, which says no offsets; give labels, one for each token"
            )
        ranges[token] = at, at + len(piece)
        cursor = at + len(piece)
    return ranges


def touched(ranges: Int[np.ndarray, "token end"], start: int, end: int) -> Bool[np.ndarray, " token"]:
    """Which tokens stand for a character in `start … end`."""
    return (ranges[:, 1] > start) & (ranges[:, 0] < end) & (ranges[:, 1] > ranges[:, 0])
