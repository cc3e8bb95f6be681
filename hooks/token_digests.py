"""Digests of the tokens of inputs, and the texts they are said to be of compared with what they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from graticule.hooks.alignment import check_places, text_digests
from graticule.hooks.model_view import ModelView
from graticule.hooks.padding import Extent, Ids, embedded_ids, embeds_ids
from graticule.hooks.tokens import frame_in_rows, in_prompt, own_digests


class RewrittenTexts(tuple[str, ...]):
    """Texts of which the inputs were made one by one, so that one may have become another of them."""

    __slots__ = ()


def digests_of_rows(tokenizer: Any, ids: Sequence[Sequence[int]]) -> Int[np.ndarray, " row"]:
    """The digest of every row's tokens without the special ones around them."""
    frame = frame_in_rows(tokenizer)
    return own_digests(ids, [frame.own(row) for row in ids])


def digests_of_texts(tokenizer: Any, texts: Sequence[str]) -> Int[np.ndarray, " text"] | None:
    """The digest of every text's tokens; None without a tokenizer, or where it cannot read them."""
    try:
        encoded = tokenizer(list(texts), add_special_tokens=False)
        return digests_of_rows(tokenizer, encoded["input_ids"])
    except (TypeError, ValueError, KeyError):
        return None


def check_strings(inputs: Sequence[str], texts: Sequence[str]) -> None:
    """Raises:
    AlignmentError: Where an input is itself one of the texts, and not its own.
    """
    _check(text_digests(inputs), text_digests(texts), texts, "is")


def check_tokens(
    tokenizer: Any,
    ours: Int[np.ndarray, " input"],
    texts: Sequence[str],
    prompt: str = "",
    one_is_enough: bool = True,
) -> None:
    """Refuse texts where an input has not the tokens of its own, but those of another.

    Args:
        tokenizer: The one that the inputs were read with; without one nothing can be compared.
        ours: The digest of every input's own tokens.
        texts: What each input is said to be of.
        prompt: What the inputs were set into.
        one_is_enough: Whether one such input is refused; else only where all are some text's.

    Raises:
        AlignmentError: There is such an input.
    """
    theirs = digests_of_texts(tokenizer, in_prompt(prompt, texts))
    if theirs is not None and (one_is_enough or np.isin(ours, theirs).all()):
        _check(ours, theirs, texts, "has the tokens of")


def _check(ours: np.ndarray, theirs: np.ndarray, texts: Sequence[str], has: str) -> None:
    check_places(
        ours,
        np.arange(len(ours)),
        theirs,
        lambda row, place: (
            f"input {row} {has} entry {place} of texts=, {_short(texts[place])}, not entry {row}, "
            f"{_short(texts[row])}: give texts= in the order of the inputs"
        ),
    )


def _short(text: str) -> str:
    return repr(text[:40])


_COLUMNS = 8
"""Numbers of an embedding by which its token is looked up; the others are compared then."""


def digests_of_cache(cache: Any, model: Any, extent: Extent) -> Int[np.ndarray, " batch"] | None:
    """The digest of each text's own tokens, or None where the cache does not tell them.

    Args:
        cache: Of a pass.
        model: That was run, or None.
        extent: Where the texts lie.
    """
    ids = _ids(cache, model)
    if ids is None:
        return None
    spans = zip(ids.tolist(), extent.start, extent.stop, strict=True)
    return digests_of_rows(getattr(model, "tokenizer", None), [row[start:stop] for row, start, stop in spans])


def _ids(cache: Any, model: Any) -> Ids | None:
    """The ids that a bridge embeds, else those whose embeddings stand in the cache."""
    if embeds_ids(cache):
        return embedded_ids(cache)
    table = None if model is None else ModelView(model).embedding
    if "hook_embed" not in set(cache.keys()) or table is None:
        return None
    value: Tensor = cache["hook_embed"]
    if value.ndim != 3 or value.shape[-1] != table.shape[1] or value.dtype != table.dtype:
        return None
    of = {key: token for token, key in enumerate(_keys(table))}
    tokens = [of.get(key, -1) for key in _keys(value.flatten(0, 1))]
    at = torch.tensor(tokens, device=table.device)
    if (at < 0).any() or not torch.equal(table.detach()[at], value.flatten(0, 1).to(table.device)):
        return None
    return at.view(value.shape[:2]).cpu().numpy()


def _keys(rows: Tensor) -> list[bytes]:
    """The first numbers of every row."""
    first = rows.detach()[:, :_COLUMNS].to("cpu", torch.float64).contiguous().numpy()
    width = first.shape[1] * first.itemsize
    data = first.tobytes()
    return [data[start : start + width] for start in range(0, len(data), width)]
