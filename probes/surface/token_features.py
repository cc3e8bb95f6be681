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
    """The most frequent tokens and marks around every token: how many, odd or even, how near, on either side;
    and what of the token itself was there before (`repetition_features`).

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
    counted = TextFeatures(tuple(columns), np.stack([c.astype(np.float64) for c in columns.values()], axis=1))
    return counted.beside(repetition_features(table))


def repetition_features(table: TokenTable) -> TextFeatures:
    """Whether every token stands elsewhere in its text: how often, how near, with the same one before it.

    Any function of these is a function of the text, as induction heads compute: the token once more before or
    behind, its pair with the token before it, the share of different ones among the tokens before. Once more
    for its letters without case and blanks, where any two tokens have the same.

    Args:
        table: of tokens.

    Returns:
        Columns for each row of the table.
    """
    text, position = (table.frame[column].to_numpy(np.int64) for column in ("text", "position"))
    sizes = np.array([len(row) for row in table.ids])
    starts = np.cumsum(sizes) - sizes
    of, here = np.repeat(np.arange(len(sizes)), sizes), starts[text] + position
    every, codes = np.unique(np.concatenate(table.ids), return_inverse=True)
    letters = [table.pieces[int(token)].lstrip("".join(_WORD_STARTS)).strip().casefold() for token in every]
    _, folded = np.unique(np.array(letters), return_inverse=True)
    kinds = {"this_token": codes}
    if folded.max() < len(every) - 1:
        kinds["these_letters"] = folded[codes]
    columns: dict[str, np.ndarray] = {}
    for name, code in kinds.items():
        before, behind, back, ahead = (one[here] for one in _elsewhere(of, code))
        for side, count, distance in (("before", before, back), ("behind", behind, ahead)):
            columns[f"{name}_{side}"] = count
            columns[f"{name}_any_{side}"] = count > 0
            columns[f"log_{name}_{side}"] = np.log1p(count)
            columns[f"{name}_near_{side}"] = np.where(count > 0, 1 / np.maximum(distance, 1), 0.0)
            columns[f"{name}_distance_{side}"] = distance
        pair = np.concatenate([[0], code[:-1]]) * (code.max() + 1) + code
        pairs = _elsewhere(of, np.where(np.arange(len(code)) == starts[of], -1, pair))[0]
        columns[f"{name}_pair_before"] = pairs[here]
        columns[f"{name}_any_pair_before"] = pairs[here] > 0
        first = np.concatenate([[0], np.cumsum(_elsewhere(of, code)[0] == 0)])
        columns[f"{name}_share_new"] = np.where(
            position > 0, (first[here] - first[starts[text]]) / np.maximum(position, 1), 1.0
        )
    return TextFeatures(tuple(columns), np.stack([c.astype(np.float64) for c in columns.values()], axis=1))


def _elsewhere(text: np.ndarray, code: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of every token in turn, how often its code stands before and behind it in its text, and how many tokens
    away the nearest is, 0 where there is none."""
    order = np.lexsort((code, text))  # stable: of equal codes of a text the first comes first
    new = (np.diff(text[order], prepend=-1) != 0) | (np.diff(code[order], prepend=-2) != 0)
    first = np.flatnonzero(new)
    size = np.diff(first, append=len(order)).repeat(np.diff(first, append=len(order)))
    rank = np.arange(len(order)) - np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
    apart = np.where(new, 0, np.diff(order, prepend=0))
    before, behind, back, ahead = (np.empty(len(order), np.int64) for _ in range(4))
    before[order], behind[order], back[order] = rank, size - 1 - rank, apart
    ahead[order] = np.append(apart[1:], 0)
    return before, behind, back, ahead


def _marks_in(table: TokenTable, flat: np.ndarray) -> dict[str, np.ndarray]:
    """The most frequent characters that are no letters, digits or blanks, and how many each token has."""
    every, code, number = np.unique(flat, return_inverse=True, return_counts=True)
    pieces = [table.pieces[int(token)] for token in every]
    marks = sorted({c for piece in pieces for c in piece if not (c.isalnum() or c.isspace())})
    counts = {f"mark {c}": np.array([piece.count(c) for piece in pieces]) for c in marks}
    often = sorted(counts, key=lambda mark: -int(counts[mark] @ number))[:MARKS]
    return {mark: counts[mark][code] for mark in often}
