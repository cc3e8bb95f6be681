"""Special tokens around a text: what the tokenizer itself puts there, and BOS where the model wants it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Kind = Literal["bos", "eos", "pad", "sep", "cls"]


def special_id(tokenizer: Any, kind: Kind) -> int | None:
    """The id of a special token; None where there is none.

    A name that is no word of the vocabulary has the id of the unknown token (TransformerLens gives every
    tokenizer without BOS the name `<|endoftext|>`): that is none either.
    """
    found = getattr(tokenizer, f"{kind}_token_id", None)
    if found is None:
        return None
    name, unknown = getattr(tokenizer, f"{kind}_token", None), getattr(tokenizer, "unk_token_id", None)
    if found == unknown and str(tokenizer.convert_ids_to_tokens(int(found))) != str(name):
        return None
    return int(found)


@dataclass(frozen=True)
class Frame:
    """Special tokens before and after a text."""

    head: tuple[int, ...] = ()
    """In front: BOS, `[CLS]`."""
    tail: tuple[int, ...] = ()
    """Behind: `[SEP]`, EOS."""

    def __bool__(self) -> bool:
        return bool(self.head or self.tail)

    def around(self, ids: Sequence[int]) -> tuple[np.ndarray, int]:
        """`ids` with what is missing of the frame, and how many tokens that put in front.

        A text that begins with BOS itself, as every chat template writes it, gets no second one.
        """
        row = list(ids)
        head = [] if self._begins(row) else list(self.head)
        tail = [] if self._ends(row) else list(self.tail)
        return np.array([*head, *row, *tail], dtype=np.int64), len(head)

    def own(self, row: Sequence[int]) -> tuple[int, int]:
        """Which tokens of a row are the text's own, as a half-open range."""
        row = list(row)
        start = len(self.head) if self._begins(row) else 0
        return start, max(start, len(row) - (len(self.tail) if self._ends(row) else 0))

    def _begins(self, row: list[int]) -> bool:
        return tuple(row[: len(self.head)]) == self.head

    def _ends(self, row: list[int]) -> bool:
        return tuple(row[len(row) - len(self.tail) :]) == self.tail


def frame_of(tokenizer: Any, text: str, default_bos: bool, prepend_bos: bool | None = None) -> Frame:
    """The frame that rows of this tokenizer get; `text` is any text, for the tokenizer to show its own.

    A tokenizer that puts more than BOS around a text (an encoder's `[CLS] … [SEP]`) is followed, else there
    is BOS or none: as `prepend_bos` says, by default as the model has it (`default_bos`). `prepend_bos=False`
    leaves all special tokens out.

    **Raises** `ValueError` for `prepend_bos=True` and a tokenizer that has none to put in front.
    """
    if prepend_bos is False:
        return Frame()
    own, bos = own_frame(tokenizer, text), special_id(tokenizer, "bos")
    more = bool(own.tail or len(own.head) > 1 or (own.head and own.head != (bos,)))
    if prepend_bos is None:
        return own if more else Frame((bos,)) if default_bos and bos is not None else Frame()
    if more and (own.head or bos is None):
        return own
    if bos is None:
        raise ValueError(
            "prepend_bos=True, but this model's tokenizer has no BOS token; leave prepend_bos out"
        )
    return Frame((bos,), own.tail)


def frame_in_rows(tokenizer: Any) -> Frame:
    """The special tokens that ready token rows of this tokenizer may begin and end with."""
    if tokenizer is None:
        return Frame()
    try:
        return frame_of(tokenizer, "a", True)
    except (TypeError, ValueError, AttributeError):  # made for decoding, or for something else than text
        return Frame()


def own_frame(tokenizer: Any, text: str) -> Frame:
    """What the tokenizer puts around a text by itself."""
    some = text[:200]  # enough, and no warning of a text that is too long
    bare: list[int] = list(tokenizer(some, add_special_tokens=False)["input_ids"])
    whole: list[int] = list(tokenizer(some)["input_ids"])
    for start in range(len(whole) - len(bare) + 1):
        if bare and whole[start : start + len(bare)] == bare:
            return Frame(tuple(whole[:start]), tuple(whole[start + len(bare) :]))
    return Frame()
