"""Columns whose sums are functions of each feature by itself, for a linear reader of a text's spelling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int

from graticule.probes.surface.spelling import TextFeatures

FEWEST = 5
"""Training rows that a level of a feature must have to be a column."""
_BINS = 6
_LEVELS = 10
"""Values of a feature up to which each is a level; else levels are ranges of equally many rows."""
_BY_NAME = ("letter_0", "letter_1", "letter_-1", "word_last_first", "word_last_last")
"""Ranks in the alphabet, each of which is a level: the order of letters says little."""
_TERMS = 150
"""Terms of each kind whose plain counts are columns: those that most training texts hold."""


def additive_columns(
    features: TextFeatures, counts: Sequence[Any], train: Int[np.ndarray, " train"]
) -> Float32[np.ndarray, "row column"]:
    """Every feature in standard deviations, indicators of its levels, and how often frequent terms occur.

    Ridge on them is an additive model: any function of one feature, and sums of such. Means, spreads, levels
    and the choice of terms are those of the training rows; no target is looked at.

    Args:
        features: of all rows.
        counts: matrices [row, term] of counted terms, sparse.
        train: the rows that are learned from.

    Returns:
        Columns that vary over the training rows.
    """
    columns = [in_deviations(features.values, train)]
    named = zip(features.names, features.values.T, strict=True)
    columns += [_levels(column, train, 27 if name in _BY_NAME else _LEVELS) for name, column in named]
    columns += [in_deviations(_frequent(matrix, train), train) for matrix in counts]
    return np.concatenate(columns, axis=1)


def in_deviations(
    values: Float[np.ndarray, "row feature"], train: Int[np.ndarray, " train"]
) -> Float32[np.ndarray, "row varied"]:
    """Columns in standard deviations of the training rows, without those that are constant there."""
    middle, spread = values[train].mean(axis=0), values[train].std(axis=0)
    varied = spread > 1e-9 * (1 + np.abs(middle))
    return ((values - middle)[:, varied] / spread[varied]).astype(np.float32)


def _levels(column: Float[np.ndarray, " row"], train: np.ndarray, most: int) -> np.ndarray:
    own = column[train]
    values = np.unique(own)
    if len(values) > most:
        edges = np.unique(np.quantile(own, np.arange(1, _BINS) / _BINS))
    else:
        edges = (values[1:] + values[:-1]) / 2
    level = np.searchsorted(edges, column, "right")
    number = np.bincount(level[train], minlength=len(edges) + 1)
    often = np.flatnonzero((number >= FEWEST) & (number < len(train)))
    if len(often) < 2 and len(values) <= 2:  # two values are the feature itself
        often = often[:0]
    return (level[:, None] == often).astype(np.float32)


def _frequent(matrix: Any, train: np.ndarray) -> np.ndarray:
    number = np.bincount(matrix[train].indices, minlength=matrix.shape[1])
    number = np.where(number >= FEWEST, number, 0)
    order = np.argsort(-number, kind="stable")[:_TERMS]
    return matrix[:, order[number[order] > 0]].toarray()
