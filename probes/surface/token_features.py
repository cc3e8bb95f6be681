"""Tokens in numbers: how many a text has, how long and rare; where one stands, and what is around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graticule.hooks.protocols import HookedModel
from graticule.hooks.tokens import tokenize
from graticule.probes.surface.spelling import TextFeatures, spelling
from graticule.probes.tables.tokens import TokenTable

_WORD_STARTS = ("\N{LOWER ONE EIGHTH BLOCK}", "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}", " ")
"""What a token that begins a word begins with: SentencePiece's mark, that of byte-level pairs, a blank."""

COUNTED = 24
"""Tokens that are counted around every token: those that most texts hold."""
MARKS = 16
"""Marks that are counted likewise."""


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


def piece_features(table: TokenTable) -> TextFeatures:
    """The spelling of every token by itself, and the logarithm of its id."""
    pieces, place = np.unique(table.frame["piece"].to_numpy(str), return_inverse=True)
    own = spelling(pieces.tolist())
    log_id = np.log1p(table.frame["token"].to_numpy(np.float64))
    values = np.column_stack([own.values[place], log_id])
    return TextFeatures((*(f"piece_{name}" for name in own.names), "log_id"), values)


def position_features(table: TokenTable) -> TextFeatures:
    """Where every token stands: from the start, from the end, and as a share of the text."""
    text, position = (table.frame[column].to_numpy(np.int64) for column in ("text", "position"))
    length = np.array([len(row) for row in table.ids])[text]
    left = length - 1 - position
    columns = {"position": position, "from_end": left, "relative": position / np.maximum(length - 1, 1)}
    columns |= {"log_position": np.log1p(position), "log_from_end": np.log1p(left), "length": length}
    columns |= {f"at_{i}": position == i for i in range(10)} | {f"at_-{i + 1}": left == i for i in range(5)}
    columns |= {"position_mod_2": position % 2}
    return TextFeatures(tuple(columns), np.stack([c.astype(np.float64) for c in columns.values()], axis=1))


def count_features(table: TokenTable, train: np.ndarray) -> TextFeatures:
    """The most frequent tokens and marks around every token: how many, odd or even, how near, on either side.

    Marks are counted by character, since tokenizers write them into tokens with others (a closing quotation
    mark and a full stop).

    Args:
        table: of tokens.
        train: numbers of texts, among which frequency counts; no target is looked at.
    """
    text, position = (table.frame[column].to_numpy(np.int64) for column in ("text", "position"))
    sizes = np.array([len(row) for row in table.ids])
    starts = np.cumsum(sizes) - sizes
    flat, here = np.concatenate(table.ids), starts[text] + position
    ids, number = np.unique(np.concatenate([np.unique(table.ids[i]) for i in train]), return_counts=True)
    often = ids[np.argsort(-number, kind="stable")[:COUNTED]]
    amounts = {str(token): (flat == token).astype(np.int64) for token in often} | _marks_in(table, flat)
    columns: dict[str, np.ndarray] = {}
    place = np.arange(len(flat))
    for token, amount in amounts.items():
        same, until = amount > 0, np.cumsum(amount)
        before = (until - amount)[here] - (until - amount)[starts][text]
        behind = until[starts + sizes - 1][text] - until[here]
        last = np.maximum.accumulate(np.where(same, place, -1))
        last = np.concatenate([[-1], last[:-1]])[here]
        after = np.minimum.accumulate(np.where(same, place, len(flat))[::-1])[::-1]
        after = np.concatenate([after[1:], [len(flat)]])[here]
        near = np.where(last >= starts[text], 1 / np.maximum(here - last, 1), 0.0)
        soon = np.where(after < (starts + sizes)[text], 1 / np.maximum(after - here, 1), 0.0)
        for side, count, nearness in (("before", before, near), ("behind", behind, soon)):
            columns[f"{token}_{side}"] = count
            columns[f"{token}_{side}_mod_2"] = count % 2
            columns[f"{token}_near_{side}"] = nearness
    return TextFeatures(tuple(columns), np.stack([c.astype(np.float64) for c in columns.values()], axis=1))


def _marks_in(table: TokenTable, flat: np.ndarray) -> dict[str, np.ndarray]:
    """The most frequent characters that are no letters, digits or blanks, and how many each token has."""
    every, code, number = np.unique(flat, return_inverse=True, return_counts=True)
    pieces = [table.pieces[int(token)] for token in every]
    marks = sorted({c for piece in pieces for c in piece if not (c.isalnum() or c.isspace())})
    counts = {f"mark {c}": np.array([piece.count(c) for piece in pieces]) for c in marks}
    often = sorted(counts, key=lambda mark: -int(counts[mark] @ number))[:MARKS]
    return {mark: counts[mark][code] for mark in often}
