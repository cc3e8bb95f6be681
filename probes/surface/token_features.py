"""What a model's tokenizer makes of texts, in numbers: how many tokens, how long, how rare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graticule.hooks.protocols import HookedModel
from graticule.hooks.tokens import tokenize
from graticule.probes.surface.spelling import TextFeatures

_WORD_STARTS = ("\N{LOWER ONE EIGHTH BLOCK}", "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}", " ")
"""What a token that begins a word begins with: SentencePiece's mark, that of byte-level pairs, a blank."""


def token_features(model: HookedModel, texts: Sequence[str]) -> TextFeatures | None:
    """The tokens of every text by itself, without special ones.

    Ids grow with rarity in tokenizers that merge pairs, so that they stand for frequency as well.

    Args:
        model: whose tokenizer splits them.
        texts: any number of them.

    Returns:
        Numbers of tokens; ids and pieces' lengths of the first, the last, the least and the most; how many
        begin a word, are single characters or come twice. None for a model without a tokenizer.
    """
    tokenizer: Any = getattr(model, "tokenizer", None)
    if tokenizer is None:
        return None
    ids = tokenize(model, list(texts), prepend_bos=False).ids
    every = np.unique(np.concatenate(ids))
    pieces = [str(piece) for piece in tokenizer.convert_ids_to_tokens(every.tolist())]
    begins = np.array([piece.startswith(_WORD_STARTS) for piece in pieces])
    length = np.array([len(piece.lstrip("".join(_WORD_STARTS))) for piece in pieces])
    size = np.array([len(row) for row in ids])
    row = np.repeat(np.arange(len(ids)), size)
    flat = np.concatenate(ids)
    place = np.searchsorted(every, flat)
    start = np.cumsum(size) - size
    many = np.maximum(size, 1)
    columns = {"tokens": size, "tokens_mod_2": size % 2, "log_tokens": np.log1p(size)}
    for name, values in (("token_id", np.log1p(flat)), ("token_length", length[place].astype(np.float64))):
        columns[f"first_{name}"], columns[f"last_{name}"] = values[start], values[start + size - 1]
        columns[f"least_{name}"] = np.minimum.reduceat(values, start)
        columns[f"most_{name}"] = np.maximum.reduceat(values, start)
        columns[f"mean_{name}"] = np.bincount(row, values, len(ids)) / many
    columns["first_raw_id"], columns["last_raw_id"] = flat[start], flat[start + size - 1]
    columns["sum_of_ids"] = np.bincount(row, flat, len(ids))
    columns["word_tokens"] = np.bincount(row, begins[place], len(ids))
    columns["single_tokens"] = np.bincount(row, length[place] == 1, len(ids))
    pairs = np.unique(row * len(every) + place)
    columns["repeated_tokens"] = size - np.bincount(pairs // len(every), minlength=len(ids))
    return TextFeatures(tuple(columns), np.stack([c.astype(np.float64) for c in columns.values()], axis=1))
