"""The member of the surface that knows a table's confounders and nothing else, and each of them by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Int

from graticule.hooks.activations import Activations
from graticule.probes.core.fit import Predictions, Problem, chosen, fit_points
from graticule.probes.scores.metrics import mean_r2
from graticule.probes.surface.additive import additive_columns
from graticule.probes.surface.spelling import TextFeatures
from graticule.probes.surface.trees import boosted_predictions, boosted_without
from graticule.probes.tables.groups import group_folds

CONFOUNDS = "confounds"
"""The name of the member."""
_FEWEST = 2
"""Training rows that a word must have to be a column."""
_FOLDS = 5
_WIDTHS = (1.0, 1 / 3, 1 / 9)
"""Widths of a Gaussian kernel, in root mean square distances between rows."""
_MARKS = 200
"""Rows at most that a kernel is laid about."""
_ROUNDING = 1e-6


def fit_confounds(
    frames: Mapping[str, pd.DataFrame], problem: Problem, trees: Predictions | None = None
) -> tuple[Predictions, dict[str, Any]]:
    """What all confounders together say of the target, and the member's line in the findings.

    Ridge on words as columns and numbers with their levels, which is additive; ridge on Gaussian kernels,
    which reads smooth functions of several; boosted trees, which read steps. All out of fold, weighed by
    least squares without negative weights: they read much the same, and a difference of two is no reader.

    Args:
        frames: Confounder → its columns, a line for each row of the table.
        problem: Targets, split and clusters.
        trees: what boosted trees say, where they have been grown (`confound_trees`).

    Returns:
        Predictions of training rows out of fold, and of test rows.
    """
    train, test = problem.train, problem.test
    y = problem.y[train]
    grown: dict[str, Any] = {"iterations": None}
    if trees is None:
        X, fold = _coded(frames, problem), group_folds(problem.clusters[train], _FOLDS, 0)
        trees, grown = boosted_predictions(X[train], y, fold, X[test], disable=True)
    members = {
        "additive": additive_confounds(frames, problem),
        "smooth": _smooth_confounds(frames, problem),
        "trees": trees,
    }
    both = _weighed(list(members.values()), y)
    line = {"validation": mean_r2(y, both.out_of_fold), "alpha": None, "point": None}
    return both, {**line, "of": list(frames), "iterations": grown["iterations"]}


def _weighed(members: Sequence[Predictions], y: Float[np.ndarray, "train target"]) -> Predictions:
    """The sum of members, each by its weight, which is not negative; weights are of out-of-fold rows."""
    from scipy.optimize import nnls

    mean = y.mean(axis=0)
    both = Predictions(np.tile(mean, (len(y), 1)), np.tile(mean, (len(members[0].test), 1)))
    for t, column in enumerate(y.T):
        folds, tests = (
            np.stack([getattr(m, part)[:, t] for m in members], axis=1) for part in ("out_of_fold", "test")
        )
        middle = folds.mean(axis=0)
        weights, _ = nnls(folds - middle, column - mean[t])
        both.out_of_fold[:, t] += (folds - middle) @ weights
        both.test[:, t] += (tests - middle) @ weights
    return both


def confound_trees(
    frames: Mapping[str, pd.DataFrame], problem: Problem, fold: Int[np.ndarray, " row"]
) -> list[Predictions]:
    """What boosted trees on confounders say without each fold of all rows, by few iterations and shared fits.

    Args:
        frames: Confounder → its columns, a line for each row of the table.
        problem: Targets; its split is not looked at.
        fold: 0, 1, 2, … of each row.

    Returns:
        Predictions a fold.
    """
    return boosted_without(_coded(frames, problem), problem.y, fold)


def additive_confounds(frames: Mapping[str, pd.DataFrame], problem: Problem) -> Predictions:
    """Ridge on the columns of confounders, of several or of one.

    Args:
        frames: Confounder → its columns, a line for each row of the table.
        problem: Targets, split and clusters.

    Returns:
        Predictions of training rows out of fold, and of test rows; the training mean where no column varies.
    """
    train, y = problem.train, problem.y
    columns = confounder_columns(frames, problem.source, train)
    if not columns.shape[1]:
        mean = y[train].mean(axis=0)
        return Predictions(np.tile(mean, (len(train), 1)), np.tile(mean, (len(problem.test), 1)))
    (fit,) = fit_points(Activations.from_tensors({CONFOUNDS: columns}), problem, progress=False)
    return fit.predictions


def _smooth_confounds(frames: Mapping[str, pd.DataFrame], problem: Problem) -> Predictions:
    """Ridge on Gaussian kernels about some training rows; the width with the least out-of-fold error."""
    train = problem.train
    rows = confound_places(frames, problem.source, train)
    rng = np.random.default_rng(0)
    some = rows.at(rng.permutation(train)[: 5 * _MARKS])
    marks = some.at(rng.permutation(np.unique(some.values, axis=0, return_index=True)[1])[:_MARKS])
    apart, between = rows.apart(marks), marks.apart(marks)
    usual = float(apart[train].mean()) or 1.0
    columns: dict[str, np.ndarray] = {}
    for width in _WIDTHS:
        near, own = (np.exp(-part / (2 * usual * width**2)) for part in (apart, between))
        values, vectors = np.linalg.eigh(own)
        large = values > _ROUNDING * values[-1]
        laid = near @ (vectors[:, large] / np.sqrt(values[large]))
        columns[f"{CONFOUNDS} {width:z.2f}"] = laid.astype(np.float32)
    return chosen(fit_points(Activations.from_tensors(columns), problem, progress=False)).predictions


@dataclass(frozen=True)
class ConfoundPlaces:
    """Where rows lie, so that those that are alike are near."""

    values: Float[np.ndarray, "row column"]
    """Numbers by their rank, spread by 1; words by a number each, which says only that they differ."""
    word: Float[np.ndarray, " column"]
    """Of a column of words the squared distance of two words; 0 of numbers."""

    def at(self, rows: Int[np.ndarray, " some"]) -> ConfoundPlaces:
        """Some rows."""
        return ConfoundPlaces(self.values[rows], self.word)

    def apart(self, others: ConfoundPlaces) -> Float[np.ndarray, "row other"]:
        """Squared distances; no axis a word, of which there may be as many as rows."""
        from scipy.spatial.distance import cdist

        number = self.word == 0
        out = cdist(self.values[:, number], others.values[:, number], "sqeuclidean")
        for column in np.flatnonzero(~number):
            differ = self.values[:, column, None] != others.values[None, :, column]
            out += self.word[column] * differ
        return out


def confound_places(
    frames: Mapping[str, pd.DataFrame], source: Int[np.ndarray, " row"], train: Int[np.ndarray, " train"]
) -> ConfoundPlaces:
    """Where rows lie in their confounders.

    Numbers spread by 1, whatever their unit, what is missing in their middle and an axis away; two words are
    2 apart in squares. The columns of one confounder share that.

    Args:
        frames: Confounder → its columns, a line for each row of the table.
        source: The table row of every row.
        train: Rows whose ranks count.

    Returns:
        Every row's place.
    """
    values, word = list[np.ndarray](), list[float]()
    for frame in frames.values():
        for _, column in frame.items():
            own, share = column.iloc[source], 1 / frame.shape[1]
            if pd.api.types.is_numeric_dtype(column):
                numbers = own.to_numpy(np.float64)
                missing = np.isnan(numbers)
                ordered = np.sort(numbers[train][~missing[train]])
                rank = (np.searchsorted(ordered, numbers) + np.searchsorted(ordered, numbers, "right")) / 2
                rank = np.where(missing, 0.5, rank / max(1, len(ordered)))
                values += [np.sqrt(12 * share) * rank, np.sqrt(2 * share) * missing]
                word += [0.0, 0.0]
            else:
                values.append(pd.factorize(own)[0].astype(np.float64))
                word.append(2 * share)
    return ConfoundPlaces(np.column_stack(values), np.array(word))


def confounder_columns(
    frames: Mapping[str, pd.DataFrame], source: Int[np.ndarray, " row"], train: Int[np.ndarray, " train"]
) -> Float32[np.ndarray, "row column"]:
    """Numbers in standard deviations with indicators of their levels, and an indicator of each word.

    Args:
        frames: Confounder → its columns, a line for each row of the table.
        source: The table row of every activation row.
        train: Training rows.

    Returns:
        Columns that vary over the training rows.
    """
    names, numbers = list[str](), list[np.ndarray]()
    words = [np.zeros((len(source), 0), np.float32)]
    for frame in frames.values():
        for name, column in frame.items():
            values = column.iloc[source]
            if pd.api.types.is_numeric_dtype(column):
                own = values.to_numpy(np.float64)
                missing = np.isnan(own)
                usual = float(np.nanmean(own[train])) if (~missing[train]).any() else 0.0
                names.append(str(name))
                numbers.append(np.where(missing, usual, own))
                words.append(missing[:, None].astype(np.float32))
            else:
                code, _ = pd.factorize(values, sort=True)
                often = np.flatnonzero(np.bincount(code[train], minlength=code.max() + 1) >= _FEWEST)
                words.append((code[:, None] == often).astype(np.float32))
    indicators = np.concatenate(words, axis=1)
    varied = np.ptp(indicators[train], axis=0) > 0
    if not numbers:
        return indicators[:, varied]
    features = TextFeatures(tuple(names), np.stack(numbers, axis=1))
    return np.concatenate([additive_columns(features, [], train), indicators[:, varied]], axis=1)


def _coded(frames: Mapping[str, pd.DataFrame], problem: Problem) -> np.ndarray:
    """Numbers as they are, and words as their places in the alphabet: trees cut them anywhere."""
    columns: list[np.ndarray] = []
    for frame in frames.values():
        for _, column in frame.items():
            values = column.iloc[problem.source]
            if pd.api.types.is_numeric_dtype(column):
                columns.append(values.to_numpy(np.float64))
            else:
                code, _ = pd.factorize(values, sort=True)
                columns.append(code.astype(np.float64))
    return np.stack(columns, axis=1)
