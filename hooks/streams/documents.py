"""One document of a corpus, whatever it was read from: a text, or token ids; or a refusal in one line."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from graticule.hooks.ids import token_ids
from graticule.hooks.visible import check_whole

Document = str | np.ndarray
"""A text, or its token ids."""

Reader = Callable[[int], Iterator[Any]]
"""Documents as they were read, from a number on."""

_LOOKED_AT = 10_000


def holds_ids(values: Iterable[Any], name: str, offer: str = "") -> bool:
    """Whether documents are token ids, told by the first that is not missing.

    Args:
        values: documents as they were read.
        name: what the corpus is called.
        offer: what to write instead, where the values are neither texts nor ids.

    Raises:
        ValueError: where all of the first 10,000 are missing, or for what is neither text nor ids.
    """
    number = -1
    for number, value in enumerate(itertools.islice(values, _LOOKED_AT)):
        if _is_missing(value) or (not isinstance(value, str) and _is_row(value) and len(value) == 0):
            continue
        return not isinstance(_document(value, f"document {number} of {name}", offer), str)
    raise ValueError(
        f"{name}: no document there" if number < 0 else f"{name}: {number + 1} documents, no text"
    )


def as_documents(values: Iterator[Any], tokenised: bool, name: str, first: int = 0) -> Iterator[Document]:
    """Documents of one kind, numbered from `first`; a missing one is empty, and is passed over later.

    Raises:
        ValueError: naming the document that is neither text nor token ids, or not of the others' kind.
    """
    empty: Document = np.empty(0, dtype=np.int64) if tokenised else ""
    for number, value in enumerate(values, first):
        if _is_missing(value):
            yield empty
            continue
        found = _document(value, f"document {number} of {name}")
        if isinstance(found, str) == tokenised:
            kinds = ("token ids", "a text") if tokenised else ("texts", "token ids")
            raise ValueError(f"document {number} of {name} is {kinds[1]} where the others are {kinds[0]}")
        yield found


def _document(value: Any, where: str, offer: str = "") -> Document:
    if isinstance(value, str):
        check_whole(value, where)
        return value
    if not _is_row(value):
        raise ValueError(
            f"{where} is {type(value).__name__} {_short(value)}, neither a text nor token ids{offer}"
        )
    inner = next((item for item in value if item is not None), None) if isinstance(value, Sequence) else None
    if isinstance(inner, dict):
        raise ValueError(
            f"{where} is a conversation (a list of messages), not a text: make one text of each, as "
            f"tokenizer.apply_chat_template(messages, tokenize=False) does{offer}"
        )
    if isinstance(inner, str):
        raise ValueError(f"{where} is a list of words {_short(value)}, not token ids{offer}")
    return token_ids(value, where)


def _is_missing(value: Any) -> bool:
    """None, and pandas' NaN, NA and NaT."""
    return value is None or (not isinstance(value, str) and np.ndim(value) == 0 and bool(value != value))


def _is_row(value: Any) -> bool:
    return isinstance(value, list | tuple | np.ndarray | Tensor)


def _short(value: Any) -> str:
    words = repr(value)
    return words if len(words) <= 50 else f"{words[:47]}…"
