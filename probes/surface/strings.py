"""Everything that reads a table's texts and no model: TF-IDF, their spelling, and boosted trees on both."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from graticule.hooks.activations import Activations
from graticule.hooks.imports import load
from graticule.probes.core.fit import Predictions, Problem, fit_points
from graticule.probes.surface.additive import additive_columns, in_deviations
from graticule.probes.surface.spelling import TextFeatures, spelling
from graticule.probes.surface.string_ridge import StringRidge, tfidf_predictions
from graticule.probes.surface.token_features import count_features, piece_features, position_features
from graticule.probes.surface.trees import boosted_predictions
from graticule.probes.tables.confounders import SPELLED
from graticule.probes.tables.table import Table
from graticule.probes.tables.tokens import TokenTable

TFIDF, SPELLING, TREES = "tfidf", "spelling", "trees"
STRINGS = (TFIDF, SPELLING, TREES)
"""Members of the surface that read the texts alone."""
BUILT_IN, PLACES = "built_in", "places"
"""Columns of a text that are few, and of a token's place: no members by themselves."""
OF_TEXTS = (BUILT_IN, PLACES, SPELLING, TFIDF)
"""Blocks of columns that are of the texts."""
COMPONENTS = 40
"""Of TF-IDF's singular vectors, those that the trees see."""


@dataclass(frozen=True)
class StringReader:
    """The texts of a problem's rows, ready for any target.

    Training and test rows are taken in the order of their texts, so that no sum depends on the order of rows.
    """

    problem: Problem
    """Rows, split and clusters, and the target that settles the order of rows of one text."""
    texts: tuple[str, ...]
    """The text of every row that is used, each once."""
    tokens: TextFeatures | None
    """What a tokenizer makes of each of them; of a token, its own spelling."""
    places: TextFeatures | None = None
    """Where each token stands in its text and what is around it: for trees, and readers of their own."""

    @classmethod
    def of(cls, table: Table, problem: Problem, tokens: TextFeatures | None = None) -> StringReader:
        """The texts of a table that a problem's rows are of; `tokens` has a line for each row of the table.

        Raises:
            ValueError: The table has no texts.
        """
        if (strings := table.strings) is None:
            raise ValueError(f"table {table.name!r} has no texts to read")
        more: TextFeatures | None = None
        if isinstance(table, TokenTable):
            tokens = piece_features(table)
            texts = np.unique(table.frame["text"].to_numpy(np.int64)[problem.source[problem.train]])
            more = position_features(table).beside(count_features(table, texts))
        used = np.unique(problem.source)
        some, more = (
            None if one is None else TextFeatures(one.names, one.values[used]) for one in (tokens, more)
        )
        return cls(problem, tuple(strings[i] for i in used), some, more)

    @cached_property
    def place(self) -> Int[np.ndarray, " row"]:
        """Of every row, its text's place in `texts`."""
        return np.unique(self.problem.source, return_inverse=True)[1]

    @cached_property
    def order(self) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " test"]]:
        """Training and test rows in the order of their texts."""
        alphabetical = np.unique(np.array(self.texts, dtype=object), return_inverse=True)[1]
        order = np.lexsort((*self.problem.y.T[::-1], alphabetical[self.place]))
        is_test = self.problem.is_test[order]
        return order[~is_test], order[is_test]

    @cached_property
    def ridge(self) -> StringRidge:
        """Ridge on TF-IDF, in this order of rows."""
        train, test = ([self.texts[self.place[i]] for i in part] for part in self.order)
        return StringRidge.of(train, self.problem.clusters[self.order[0]], test, seed=0)

    @cached_property
    def features(self) -> TextFeatures:
        """Spelling and tokens of every text."""
        own = spelling(self.texts)
        return own if self.tokens is None else own.beside(self.tokens)

    @cached_property
    def additive(self) -> Activations:
        """What an additive reader reads of every text, as one more point; `source` is the table's row."""
        used = np.unique(self.problem.source)
        train = np.unique(self.place[self.problem.train])
        counts = self.ridge.counts.blocks
        rows = np.empty(len(self.texts), np.int64)
        rows[self.place[np.concatenate(self.order)]] = np.arange(len(self.place))  # a row of each text
        columns = additive_columns(self.features, [block[rows] for block in counts], train)
        return Activations.from_tensors({SPELLING: columns}, pd.DataFrame({"source": used}))

    @cached_property
    def components(self) -> Float[np.ndarray, "row component"]:
        """Every row's components of TF-IDF, by singular vectors of all training rows'.

        These know no target: the folds' own would tell rows apart by nothing but noise.
        """
        load("sklearn.decomposition")
        from sklearn.decomposition import TruncatedSVD

        train, test = self.order
        terms, n = self.ridge.features(), len(train)
        count = max(0, min(COMPONENTS, terms.shape[1] - 1, n - 1))
        out = np.empty((n + len(test), count))
        if count:
            with np.errstate(invalid="ignore"):  # of the share of variance, where texts are all alike
                svd = TruncatedSVD(count, random_state=0).fit(terms[:n])
            out[np.concatenate([train, test])] = svd.transform(terms)
        return out

    @cached_property
    def seen_by_trees(self) -> Float[np.ndarray, "row feature"]:
        """Components of TF-IDF of every row, and its features."""
        features = (self.features if self.places is None else self.features.beside(self.places)).values
        return np.concatenate([self.components, features[self.place]], axis=1)

    def columns(self) -> dict[str, Float[np.ndarray, "row column"]]:
        """What a ridge beside other columns reads of every row, in standard deviations.

        Returns:
            The few features of the text that are built-in confounders, of tokens their places, all features,
            and components of TF-IDF.
        """
        own, names = np.unique(self.place[self.problem.train]), self.features.names
        few = [names.index(name) for of in SPELLED.values() for name in of if name in names]
        values = {BUILT_IN: self.features.values[:, few], SPELLING: self.features.values}
        if self.places is not None:
            values[PLACES] = self.places.values
        columns = {name: in_deviations(of, own)[self.place] for name, of in values.items()}
        return {**columns, TFIDF: self.components}

    def as_given(self, predictions: Predictions) -> Predictions:
        """Predictions in `order` as those of the problem's training and test rows."""
        parts: list[np.ndarray] = []
        for values, rows in zip((predictions.out_of_fold, predictions.test), self.order, strict=True):
            own = np.empty_like(values)
            own[np.argsort(rows).argsort()] = values
            parts.append(own)
        return Predictions(*parts)


def fit_strings(
    reader: StringReader, progress: bool | None
) -> tuple[dict[str, Predictions], dict[str, dict[str, Any]]]:
    """Predictions of every member that reads the texts, and its line in the findings."""
    problem, (train, test) = reader.problem, reader.order
    quiet = None if progress is None else not progress
    texts = [[reader.texts[reader.place[i]] for i in part] for part in (train, test)]
    tfidf, info = tfidf_predictions(
        texts[0], problem.y[train], problem.clusters[train], texts[1], ridge=reader.ridge, disable=quiet
    )
    (point,) = fit_points(reader.additive, problem, reader.place, desc=SPELLING, progress=progress)
    X = reader.seen_by_trees
    trees, grown = boosted_predictions(X[train], problem.y[train], reader.ridge.fold, X[test], disable=quiet)
    predictions = {
        TFIDF: reader.as_given(tfidf),
        SPELLING: point.predictions,
        TREES: reader.as_given(trees),
    }
    lines: dict[str, dict[str, Any]] = {
        TFIDF: {"validation": info["validation"], "alpha": info["alpha"], "point": None},
        SPELLING: {"validation": point.validation, "alpha": point.fit.alpha, "point": None},
        TREES: {
            "validation": grown["validation"],
            "alpha": None,
            "point": None,
            "iterations": grown["iterations"],
        },
    }
    return predictions, lines
