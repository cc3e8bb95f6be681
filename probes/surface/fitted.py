"""The baselines fitted to a target: predictions for the stack, and a line each for the findings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from graticule.hooks.rows import Rows
from graticule.probes.layers import PointFit, Problem, chosen, fit_points
from graticule.probes.scores.bootstrap import cluster_sums, interval, resampled_r2
from graticule.probes.scores.metrics import score
from graticule.probes.scores.verdict import Predictions
from graticule.probes.surface.baselines import Baselines
from graticule.probes.surface.tfidf import tfidf_predictions
from graticule.probes.tables.table import Table


def fit_baselines(
    baselines: Baselines,
    activations: Rows,
    table: Table,
    problem: Problem,
    alphas: Sequence[float] | None,
    progress: bool | None,
) -> tuple[dict[str, Predictions], dict[str, dict[str, Any]]]:
    """Predictions of every baseline, and its line in the findings."""
    found: dict[str, Predictions] = {}
    lines: dict[str, dict[str, Any]] = {}
    y_test = problem.y[problem.test]
    if baselines.strings and table.texts is not None:
        texts = [table.texts[i] for i in problem.source]
        quiet = None if progress is None else not progress
        found["tfidf"], info = tfidf_predictions(
            [texts[i] for i in problem.train],
            problem.y[problem.train],
            problem.clusters[problem.train],
            [texts[i] for i in problem.test],
            seed=0,
            disable=quiet,
        )
        lines["tfidf"] = {"validation": info["validation"], "alpha": info["alpha"], "point": None}
    for name, feature in baselines.features.items():
        rows = served_by(feature, activations, problem.source)
        best = chosen(fit_points(feature, problem, rows, alphas=alphas, desc=name, progress=progress))
        found[name] = best.predictions
        lines[name] = {"validation": best.validation, "alpha": best.fit.alpha, "point": best.point}
    for name, line in lines.items():
        line["test"] = score(y_test, found[name].test, table)
    return found, lines


def fit_shuffled(
    activations: Rows,
    best: PointFit,
    problem: Problem,
    table: Table,
    alphas: Sequence[float] | None,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """The chosen layer against targets dealt anew within each part of the split: must score about 0.

    `ci95` is of the test R², by the verdict's own bootstrap over clusters.
    """
    rng = np.random.default_rng(seed)
    y = problem.y.copy()
    for part in (problem.train, problem.test):
        y[part] = y[rng.permutation(part)]
    dealt = Problem(problem.source, y, problem.is_test, problem.clusters, problem.names)
    point = activations.select(points=best.point)
    fit = fit_points(point, dealt, alphas=alphas, progress=False)[0]
    sums = cluster_sums(y[problem.test], {"shuffled": fit.test}, problem.clusters[problem.test])
    return {
        "validation": fit.validation,
        "alpha": fit.fit.alpha,
        "point": best.point,
        "test": score(y[problem.test], fit.test, table),
        "ci95": interval(resampled_r2(sums, draws, seed)[:, 0]),
    }


def served_by(feature: Rows, activations: Rows, source: np.ndarray) -> np.ndarray:
    """Which row of `feature` serves each activation row: the same position, or the text's only row.

    **Raises** `ValueError` if some activation row's position was not captured for the feature.
    """
    rows, ours = feature.rows, activations.rows
    if rows["source"].is_unique:
        place = pd.Series(np.arange(len(rows)), index=rows["source"])
        return place.loc[source].to_numpy(np.int64)
    keys = ["source", "position"]
    place = rows[keys].assign(place=np.arange(len(rows)))
    merged = ours[keys].merge(place, on=keys, how="left")["place"]
    if merged.isna().any():
        raise ValueError(
            "a baseline was captured at other positions than the activations; give both one pos="
        )
    return merged.to_numpy(np.int64)
