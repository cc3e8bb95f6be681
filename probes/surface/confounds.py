"""The member of the surface that knows a table's confounders and nothing else, and each of them by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int

from graticule.hooks.activations import Activations
from graticule.probes.core.fit import Predictions, Problem, fit_points, stack
from graticule.probes.scores.metrics import mean_r2
from graticule.probes.surface.additive import additive_columns
from graticule.probes.surface.spelling import TextFeatures
from graticule.probes.surface.trees import boosted_predictions
from graticule.probes.tables.groups import group_folds

CONFOUNDS = "confounds"
"""The name of the member."""
_FEWEST = 2
"""Training rows that a word must have to be a column."""
_FOLDS = 5


def fit_confounds(frames: Mapping[str, pd.DataFrame], problem: Problem) -> tuple[Predictions, dict[str, Any]]:
    """What all confounders together say of the target, and the member's line in the findings.

    Ridge on words as columns and numbers with their levels, which is additive, and boosted trees on the same,
    which are not; both out of fold, weighed by least squares.

    Args:
        frames: Confounder → its columns, a line for each row of the table.
        problem: Targets, split and clusters.

    Returns:
        Predictions of training rows out of fold, and of test rows.
    """
    additive = additive_confounds(frames, problem)
    train, test = problem.train, problem.test
    X, y = _coded(frames, problem), problem.y[train]
    fold = group_folds(problem.clusters[train], _FOLDS, 0)
    trees, grown = boosted_predictions(X[train], y, fold, X[test], disable=True)
    members = {"additive": additive, "trees": trees}
    fit = stack({name: one.out_of_fold for name, one in members.items()}, y)
    both = Predictions(
        fit.predict({name: one.out_of_fold for name, one in members.items()}),
        fit.predict({name: one.test for name, one in members.items()}),
    )
    line = {"validation": mean_r2(y, both.out_of_fold), "alpha": None, "point": None}
    return both, {**line, "of": list(frames), "iterations": grown["iterations"]}


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
