"""Texts and prompts to token rows: explicit special tokens, entity spans, a shared prefix.

Special tokens are what the tokenizer itself puts around a text, and BOS where the model wants it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
from torch import Tensor

from graticule.hooks.messages import check_whole
from graticule.hooks.model_view import ModelView
from graticule.hooks.protocols import HookedModel
from graticule.hooks.ready_rows import unpadded
from graticule.hooks.values import token_ids

# Special tokens ----------------------------------------------------------------------------------------
SpecialToken = Literal["bos", "eos", "pad", "sep", "cls"]


def special_id(tokenizer: Any, kind: SpecialToken) -> int | None:
    """The id of a special token; None where there is none.

    A name that is no word of the vocabulary has the id of the unknown token (TransformerLens gives every
    tokenizer without BOS the name `<|endoftext|>`): that is none either.
    """
    token_id = getattr(tokenizer, f"{kind}_token_id", None)
    if token_id is None:
        return None
    name, unknown = getattr(tokenizer, f"{kind}_token", None), getattr(tokenizer, "unk_token_id", None)
    if token_id == unknown and str(tokenizer.convert_ids_to_tokens(int(token_id))) != str(name):
        return None
    return int(token_id)


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


def special_frame(tokenizer: Any, text: str, default_bos: bool, prepend_bos: bool | None = None) -> Frame:
    """The frame that rows of this tokenizer get; `text` is any text, for the tokenizer to show its own.

    A tokenizer that puts more than BOS around a text (an encoder's `[CLS] … [SEP]`) is followed, else there
    is BOS or none: as `prepend_bos` says, by default as the model has it (`default_bos`). `prepend_bos=False`
    leaves all special tokens out.

    Raises:
        ValueError: for `prepend_bos=True` and a tokenizer that has none to put in front.
    """
    if prepend_bos is not None and not prepend_bos:
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
        return special_frame(tokenizer, "a", True)
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


# Rows --------------------------------------------------------------------------------------------------
Inputs = Sequence[str] | Sequence[Sequence[int]] | Tensor | Sequence[Sequence[Mapping[str, Any]]]
"""Texts, ready token rows (ragged lists of ids, special tokens included), a `[text, pos]` tensor, or
conversations: lists of `{"role": …, "content": …}`."""


@dataclass(frozen=True)
class TokenRows:
    """Tokenised texts."""

    ids: list[np.ndarray]
    """Token ids of every text, special tokens included."""
    spans: list[tuple[int, int]]
    """Where the entity lies in every row, as a half-open token range."""
    own: list[tuple[int, int]]
    """Every row without its special tokens (BOS; an encoder's `[CLS]` and `[SEP]`), as a half-open range."""
    framed: bool
    """Whether special tokens stand around every text."""
    origin: tuple[Any, Sequence[str]] | None = None
    """The tokenizer and the texts, in their prompt, that rows of texts were made by."""

    @cached_property
    def n_special(self) -> int:
        """Special tokens that every row begins with: 1 with BOS, else 0."""
        return min(start for start, _ in self.own)

    def within(self, include_bos: bool) -> list[tuple[int, int]]:
        """Where in every row tokens may be chosen: anywhere, or among the text's own."""
        return [(0, len(row)) for row in self.ids] if include_bos else self.own

    @property
    def lengths(self) -> list[int]:
        """Tokens in every row."""
        return [len(row) for row in self.ids]

    def digest(self) -> str:
        """A digest of all rows' token ids."""
        digest = hashlib.sha256(np.array(self.lengths, dtype=np.int64).tobytes())
        for row in self.ids:
            digest.update(row.tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def own_digests(self) -> np.ndarray:
        """For every row, a 64-bit digest of its tokens without the special ones around them."""
        return own_digests(self.ids, self.own)

    @cached_property
    def first_alike(self) -> np.ndarray:
        """For every row, the first row with the very same tokens: often itself."""
        first: dict[bytes, int] = {}
        return np.array([first.setdefault(row.tobytes(), i) for i, row in enumerate(self.ids)])

    def shared_prefix(self) -> int:
        """Length of the longest token prefix that all rows share, short of the shortest row's last token."""
        first = self.ids[0]
        limit = min(self.lengths) - 1
        for row in self.ids[1:]:
            same = first[:limit] == row[:limit]
            limit = limit if same.all() else int(np.argmin(same))
            if limit == 0:
                break
        return limit


def own_digests(ids: Sequence[Any], own: Sequence[tuple[int, int]]) -> np.ndarray:
    """For every row of token ids, a 64-bit digest of those in its half-open range `own`, and of none in front
    that repeat those before it: BOS twice over is no token of a text."""
    made: list[bytes] = []
    for row, (start, end) in zip(ids, own, strict=True):
        row, head = np.asarray(row, dtype=np.int64), start
        while head and start + head <= end and np.array_equal(row[start : start + head], row[:head]):
            start += head
        made.append(hashlib.blake2b(row[start:end].tobytes(), digest_size=8).digest())
    return np.frombuffer(b"".join(made), dtype="<i8").astype(np.int64)


def tokenize(
    model: HookedModel,
    inputs: Inputs,
    prompt: str = "",
    prepend_bos: bool | None = None,
    texts: Sequence[str] | None = None,
) -> TokenRows:
    """Token rows of `inputs`, each text set into `prompt`.

    `prompt` holds one slot `{}` for the text, or is put before it as it stands (a trailing space counts).
    Special tokens are those of `special_frame`: an encoder's own, else BOS; `prepend_bos=None` follows
    `model.cfg.default_prepend_bos`, False leaves them all out. Ready token rows are read without their
    padding; `texts`, what they are of, tells it from their own tokens where both are one.

    Raises:
        ValueError: for no inputs, an empty text, a prompt without or with several slots, a text longer than
            the model's context, a model without a tokenizer, or token rows that may be padded or not.
        TypeError: for mixed inputs.
    """
    if len(inputs) == 0:
        raise ValueError("no inputs: give at least one text")
    if isinstance(inputs, Tensor) or not isinstance(inputs[0], str):
        if prompt:
            raise ValueError("prompt= needs texts; token rows are used as they are")
        rows = _ready_rows(model, inputs, texts)
    else:
        rows = _text_rows(model, cast("Sequence[str]", inputs), prompt, prepend_bos)
    n_ctx = ModelView(model).n_ctx
    for i, row in enumerate(rows.ids):
        if n_ctx and len(row) > n_ctx:
            raise ValueError(f"text {i} has {len(row)} tokens, the model's context is {n_ctx}; shorten it")
    return rows


def _ready_rows(model: HookedModel, inputs: Inputs, texts: Sequence[str] | None = None) -> TokenRows:
    vocabulary = ModelView(model).d_vocab
    rows = [token_ids(row, f"token row {i}", vocabulary) for i, row in enumerate(inputs)]
    for i, row in enumerate(rows):
        if len(row) == 0:
            raise ValueError(f"token row {i} has shape {row.shape}; expected a non-empty list of token ids")
    tokenizer = getattr(model, "tokenizer", None)
    frame = frame_in_rows(tokenizer)
    rows = unpadded(rows, tokenizer, frame, texts)
    own = [frame.own(row.tolist()) for row in rows]
    spans = [(0, len(row)) for row in rows]
    return TokenRows(rows, spans, own, all(o != span for o, span in zip(own, spans, strict=True)))


def check_prompt(prompt: str) -> None:
    """Raises:
    ValueError: For a prompt with braces that are not one slot.
    """
    _template(prompt)


def in_prompt(prompt: str, texts: Sequence[str]) -> list[str]:
    """Every text set into the prompt."""
    before, after = _template(prompt)
    return [before + text + after for text in texts]


def _template(prompt: str) -> tuple[str, str]:
    if "{" not in prompt and "}" not in prompt:
        return prompt, ""
    if prompt.count("{}") != 1 or prompt.count("{") != 1 or prompt.count("}") != 1:
        raise ValueError(
            f"prompt {prompt!r}: expected exactly one slot {{}} for the text, and no other braces"
        )
    before, after = prompt.split("{}")
    return before, after


def _text_rows(model: HookedModel, texts: Sequence[str], prompt: str, prepend_bos: bool | None) -> TokenRows:
    tokenizer: Any = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise ValueError("this model has no tokenizer; pass token rows, or set model.tokenizer")
    for i, text in enumerate(texts):
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"input {i} is {type(text).__name__} where the first is str: give texts or token rows"
            )
        if not text.strip():
            raise ValueError(f"text {i} is empty ({text!r}); drop it or fill it in")
        check_whole(text, f"text {i}")
    check_whole(prompt, "prompt")
    before, after = _template(prompt)
    full = in_prompt(prompt, texts)
    spans_needed = bool(before or after)
    if spans_needed and not getattr(tokenizer, "is_fast", False):
        raise ValueError("a prompt needs a fast tokenizer (character offsets); this model has a slow one")
    encoded = tokenizer(full, add_special_tokens=False, return_offsets_mapping=spans_needed)
    default_bos = ModelView(model).prepends_bos
    frame, default_frame = (
        special_frame(tokenizer, texts[0], default_bos, prepend_bos),
        frame_in_rows(tokenizer),
    )
    rows = [frame.around(ids) for ids in encoded["input_ids"]]
    ids, own = [row for row, _ in rows], [(frame or default_frame).own(row.tolist()) for row, _ in rows]
    if spans_needed:
        starts = len(before)
        spans = [
            _span(offsets, starts, starts + len(text), shift)
            for offsets, text, (_, shift) in zip(encoded["offset_mapping"], texts, rows, strict=True)
        ]
    else:
        spans = own
    for i, (start, end) in enumerate(spans):
        if start >= end:
            raise ValueError(f"text {i} ({texts[i]!r}) has no tokens of its own")
    return TokenRows(ids, spans, own, bool(frame), (tokenizer, full))


def _span(offsets: Sequence[tuple[int, int]], start: int, end: int, shift: int) -> tuple[int, int]:
    """The half-open range of tokens that overlap characters `start … end`."""
    inside = [i for i, (a, b) in enumerate(offsets) if b > start and a < end and b > a]
    return (inside[0] + shift, inside[-1] + 1 + shift) if inside else (0, 0)
