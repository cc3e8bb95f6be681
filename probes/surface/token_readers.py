"""What a token and its text say without a model: which it is, its neighbours, its place, the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from graticule.hooks.activations import Activations
from graticule.hooks.imports import load
from graticule.probes.core.fit import Predictions, fit_points
from graticule.probes.surface.additive import additive_columns
from graticule.probes.surface.string_ridge import StringRidge, TermCounts, tfidf_predictions
from graticule.probes.surface.strings import StringReader
from graticule.probes.surface.token_features import count_features, position_features
from graticule.probes.tables.tokens import TokenTable

TOKEN, NEIGHBOURS, BAG, POSITION, COUNTS = "token", "neighbours", "other_tokens", "position", "token_counts"
TOKENS = (TOKEN, NEIGHBOURS, BAG, POSITION, COUNTS)
"""Members of the surface that read tokens' numbers alone, beside those that read windows of text."""
FAR = (*range(-8, -2), 3, 4)
"""Farther neighbours that are read in their places."""
FARTHEST = 200
"""Tokens on either side whose bag is read."""


def fit_tokens(
    reader: StringReader, table: TokenTable, progress: bool | None
) -> tuple[dict[str, Predictions], dict[str, dict[str, Any]]]:
    """Predictions of every member that reads the tokens' numbers, and its line in the findings.

    - `token`: ridge on indicators of the token: class means of each token, shrunken.
    - `neighbours`: the two tokens before and the two behind it, and its pairs with the nearest ones; up to
      eight before and four behind, of less weight.
    - `other_tokens`: all tokens before it and all behind it, as two bags weighted by their rarity.
    - `position`: from the start, from the end, as a share of the text; any function of each.
    - `token_counts`: how often the most frequent tokens stand before and behind it, odd or even, how near;
      and how often this very token does, or its pair with the one before it.

    Strengths are chosen out of fold, folds are those of the readers of strings: whole texts.

    Args:
        reader: of the table's windows.
        table: of tokens.
        progress: whether bars are drawn.

    Returns:
        Predictions and lines, as `fit_strings` does.
    """
    problem, (train, test) = reader.problem, reader.order
    quiet = None if progress is None else not progress
    rows = np.concatenate([train, test])
    predictions: dict[str, Predictions] = {}
    lines: dict[str, dict[str, Any]] = {}
    used, place = np.unique(problem.source), reader.place[rows]
    blocks = _blocks(table, used)
    for name, of_member in blocks.items():
        counts = TermCounts(tuple(block[place] for block in of_member), len(train))
        ridge = StringRidge(counts, reader.ridge.fold, len(test), counts.usable_df(2))
        made, info = tfidf_predictions(
            [""] * len(train), problem.y[train], problem.clusters[train], [""] * len(test),
            ridge=ridge, disable=quiet,
        )  # fmt: skip
        predictions[name] = reader.as_given(made)
        lines[name] = {"validation": info["validation"], "alpha": info["alpha"], "point": None}
    of_texts = np.unique(table.frame["text"].to_numpy(np.int64)[problem.source[problem.train]])
    own = np.unique(reader.place[problem.train])
    bags = blocks[BAG]
    dense = {POSITION: (position_features(table), []), COUNTS: (count_features(table, of_texts), bags)}
    for name, (features, terms) in dense.items():
        some = type(features)(features.names, features.values[used])
        columns = additive_columns(some, terms, own)
        feature = Activations.from_tensors({name: columns}, pd.DataFrame({"source": used}))
        (fit,) = fit_points(feature, problem, reader.place, desc=name, progress=progress)
        predictions[name] = fit.predictions
        lines[name] = {"validation": fit.validation, "alpha": fit.fit.alpha, "point": None}
    return predictions, lines


def _blocks(table: TokenTable, source: Int[np.ndarray, " row"]) -> dict[str, list[Any]]:
    """Member → sparse indicators and counts `[row, term]` of some rows of the table."""
    load("scipy.sparse")
    from scipy.sparse import hstack

    text, position = (table.frame[column].to_numpy(np.int64)[source] for column in ("text", "position"))
    sizes = np.array([len(row) for row in table.ids])
    flat, start = np.concatenate(table.ids), (np.cumsum(sizes) - sizes)[text]
    every, codes = np.unique(flat, return_inverse=True)
    none, length = len(every), sizes[text]

    def at(offset: int) -> np.ndarray:
        place = position + offset
        inside = (place >= 0) & (place < length)
        return np.where(inside, codes[np.where(inside, start + place, 0)], none)

    here = at(0)
    near = {offset: at(offset) for offset in (-2, -1, 1, 2)}
    pairs = [here * (none + 1) + near[offset] for offset in (-1, 1)]
    singles = [_indicators(one) for one in near.values()]
    far = hstack([_indicators(at(offset)) for offset in FAR], format="csr")  # as long as one of the others
    return {
        TOKEN: [_indicators(here)],
        NEIGHBOURS: [*singles, *(_indicators(pair) for pair in pairs), far],
        BAG: [
            _bag(codes, start + np.maximum(position - FARTHEST, 0), start + position, none),
            _bag(codes, start + position + 1, start + np.minimum(position + 1 + FARTHEST, length), none),
        ],
    }


def _indicators(codes: Int[np.ndarray, " row"]) -> Any:
    load("scipy.sparse")
    from scipy.sparse import csr_matrix

    values, column = np.unique(codes, return_inverse=True)
    rows = np.arange(len(codes))
    return csr_matrix((np.ones(len(codes)), (rows, column)), shape=(len(codes), len(values)))


def _bag(codes: np.ndarray, first: np.ndarray, stop: np.ndarray, width: int) -> Any:
    """How often each token stands in `first … stop` of every row."""
    load("scipy.sparse")
    from scipy.sparse import csr_matrix

    sizes = np.maximum(stop - first, 0)
    row = np.repeat(np.arange(len(first)), sizes)
    within = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    column = codes[np.repeat(first, sizes) + within]
    return csr_matrix((np.ones(len(row)), (row, column)), shape=(len(first), width))
