"""Ready token rows without their padding: what `capture` reads is what `record` reads of the same batch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graticule.hooks.padding import Extent

if TYPE_CHECKING:
    from graticule.hooks.tokens import Frame

_log = logging.getLogger(__name__)

Span = tuple[int, int]
"""A half-open range of a row."""


def unpadded(
    rows: Sequence[np.ndarray],
    tokenizer: Any,
    frame: Frame,
    texts: Sequence[str] | None = None,
) -> list[np.ndarray]:
    """Token rows without the padding around them.

    Texts that the rows are of decide, where their tokens stand in them. Else a pad token that is nothing
    else is no token of a text, at either end. One that is BOS, EOS or the unknown token too is the text's
    own where it stands once at the end (that is said where it may be padding), and refused where it is
    repeated.

    Args:
        rows: Token ids, special tokens included.
        tokenizer: The model's, or None.
        frame: The special tokens that it puts around a text.
        texts: What the rows are of, as far as it is said.

    Raises:
        ValueError: It cannot be told whether a row is padded, or one has more tokens than its text has.
    """
    pad: int | None = getattr(tokenizer, "pad_token_id", None)
    spans = _of_texts(rows, tokenizer, frame, texts, pad)
    open_rows = [i for i, span in enumerate(spans) if span is None]
    if pad is None:
        _tell_repeated([rows[i] for i in open_rows])
        return list(rows)
    read: list[np.ndarray] = []
    for i, row in enumerate(rows):
        start, stop = spans[i] or _of_pad(row, tokenizer)
        read.append(row[start:stop])
    if len(rows) > 1 and _shared(pad, tokenizer):
        _check_clear([rows[i] for i in open_rows], open_rows, pad)
    _tell_repeated([read[i] for i in open_rows])
    return read


def _of_pad(row: np.ndarray, tokenizer: Any) -> Span:
    """Where the text lies by the pad token alone, as `record` finds it; whole where that is shared."""
    extent = Extent.of_ids(row[None], tokenizer)
    return int(extent.start[0]), int(extent.stop[0])


def _shared(pad: int, tokenizer: Any) -> bool:
    others = ("bos_token_id", "eos_token_id", "unk_token_id")
    return int(pad) in [getattr(tokenizer, name, None) for name in others]


def _check_clear(rows: Sequence[np.ndarray], places: Sequence[int], pad: int) -> None:
    """Raises:
    ValueError: A row begins or ends twice over with a token that pads and stands for other things too.
    """
    runs = [_runs(row, pad) for row in rows]
    least = max(1, min((head for head, _ in runs), default=1))  # BOS twice over in every row is no padding
    for place, row, (head, tail) in zip(places, rows, runs, strict=True):
        if len(row) > 1 and (tail > 1 or head > least):
            raise ValueError(
                f"token row {place} may be padded with token {pad}, which stands for other things too: give "
                "the texts themselves or texts=, or lists of each row's own tokens"
            )
    ending = [place for place, (_, tail) in zip(places, runs, strict=True) if tail]
    if 0 < len(ending) < len(rows) and len({len(row) for row in rows}) == 1 < len(rows[0]):
        _log.warning(
            "token row %d ends in token %d, which pads and stands for other things too; it is read as the "
            "text's own: where it is padding, give texts=, or lists of each row's own tokens",
            ending[0],
            pad,
        )


def _runs(row: np.ndarray, token: int) -> tuple[int, int]:
    """How often a row begins and ends with a token."""
    other = np.flatnonzero(row != token)
    return (int(other[0]), len(row) - 1 - int(other[-1])) if len(other) else (len(row), len(row))


def _of_texts(
    rows: Sequence[np.ndarray], tokenizer: Any, frame: Frame, texts: Sequence[str] | None, pad: int | None
) -> list[Span | None]:
    """Where the tokens of each row's text stand in it, with padding around them alone; None elsewhere.

    Raises:
        ValueError: Rows are padded with another token than the tokenizer's.
    """
    nothing: list[Span | None] = [None] * len(rows)
    if texts is None or tokenizer is None or len(texts) != len(rows):
        return nothing
    try:
        own = [list(map(int, ids)) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]
    except (TypeError, ValueError, KeyError):
        return nothing
    forms = [(frame.head, frame.tail), (frame.head, ()), ((), frame.tail), ((), ())]
    spans = [
        next((s for head, tail in forms if (s := _span(row.tolist(), [*head, *ids, *tail], pad))), None)
        for row, ids in zip(rows, own, strict=True)
    ]
    _check_others(rows, [[*frame.head, *ids] for ids in own], pad)
    return spans


def _check_others(rows: Sequence[np.ndarray], texts: Sequence[list[int]], pad: int | None) -> None:
    """Raises:
    ValueError: Every row is its text and more or fewer times one token that is not the tokenizer's padding.
    """
    pairs = list(zip((row.tolist() for row in rows), texts, strict=True))
    if not all(row[: len(text)] == text for row, text in pairs):
        return
    rests = [row[len(text) :] for row, text in pairs]
    others = {token for rest in rests for token in rest}
    if len(others) == 1 and pad not in others and len(set(map(len, rests))) > 1:
        row = next(i for i, rest in enumerate(rests) if rest)
        raise ValueError(
            f"token row {row} is its entry of texts= and {len(rests[row])} times token {rests[row][0]}, "
            f"which is not this tokenizer's padding ({pad}): leave it out, as lists of each row's own tokens"
        )


def _span(row: list[int], text: list[int], pad: int | None) -> Span | None:
    """Where a row is these tokens, with nothing but padding before and behind."""
    n = len(text)
    for start in range(len(row) - n + 1):
        if row[start : start + n] == text and all(token == pad for token in row[start + n :]):
            return start, start + n
        if row[start] != pad:
            break
    return None


def _tell_repeated(rows: Sequence[np.ndarray]) -> None:
    """Warn of rows of one length of which some end in one token again and again, and others do not."""
    if len(rows) < 2 or len({len(row) for row in rows}) != 1:
        return
    last = [int(row[-1]) for row in rows]
    repeated = [(i, _runs(row, token)[1]) for i, (row, token) in enumerate(zip(rows, last, strict=True))]
    ends = [(i, count) for i, count in repeated if count > 1]
    if ends and len({last[i] for i, _ in ends}) == 1 and len(set(last)) > 1:
        row, count = ends[0]
        _log.warning(
            "token row %d ends in token %d %d times, which is read as text: nothing says that it is padding; "
            "where it is, give lists of each row's own tokens",
            row,
            last[row],
            count,
        )
