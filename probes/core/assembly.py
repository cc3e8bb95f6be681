"""What findings hold of every layer and every row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.probes.core.bits import class_odds, class_test_scores
from graticule.probes.core.choice import Choice
from graticule.probes.core.class_scores import ClassScores, class_scores_of
from graticule.probes.core.fit import PointFit, Problem
from graticule.probes.core.inputs import SweepInputs
from graticule.probes.scores.geo import haversine_km
from graticule.probes.scores.metrics import score as scores_of
from graticule.probes.tables.table import Table

GAINED = "gained"
"""The column of predictions that says what each row adds to a cross-fitted gain."""
CROSSFIT = "crossfit_"
"""Before a target's name: what the probes of a cross-fitted verdict say of each row without having seen it, a
value, or in bits its probability."""


@dataclass(frozen=True)
class Dealt:
    """Of a cross-fitted verdict, what is kept of every row."""

    predicted: Float[np.ndarray, "row target"]
    """By the probe alone, mean of the repeats."""
    gained: Float[np.ndarray, " row"]
    """What the row adds to the gain."""


def layer_score(place: int, fit: PointFit, choice: Choice, problem: Problem, table: Table) -> dict[str, Any]:
    """The line of a point."""
    test = scores_of(problem.y[problem.test], fit.test, table)
    of_bits: dict[str, float] = {}
    if fit.bits is not None:
        of_bits["validation_bits"] = fit.bits
        test |= class_test_scores(problem, fit.predictions)
    return {
        "layer": fit.layer,
        "point": fit.point,
        "alpha": fit.fit.alpha,
        "alpha_at_edge": fit.fit.alpha_at_edge,
        "validation": fit.validation,
        **of_bits,
        "validation_gain": choice.gain_of(place),
        "exploratory": fit is not choice.best,
        "test": test,
    }


def split_class_scores(inputs: SweepInputs, best: PointFit) -> ClassScores | None:
    """Of the chosen layer's probe, where classes are judged in bits."""
    if inputs.settings.score != "bits":
        return None
    problem = inputs.problem
    odds = class_odds(problem, best.predictions, inputs.baseline_predictions)
    y, y_test = problem.y[problem.train], problem.y[problem.test]
    return class_scores_of(odds, y, y_test, problem.clusters[problem.test])


def predictions_frame(inputs: SweepInputs, best: PointFit, dealt: Dealt | None) -> pd.DataFrame:
    """One row per activation row: out-of-fold predictions on training rows, plain ones on test rows, and
    where every row was tested what fits without it say."""
    activations, table, problem = inputs.activations, inputs.table, inputs.problem
    predicted = np.empty_like(problem.y)
    predicted[problem.train], predicted[problem.test] = best.fit.out_of_fold, best.test
    stacked = np.full_like(problem.y, np.nan)
    stacked[problem.test] = inputs.surface().test
    out = pd.DataFrame({"source": table.source_rows[problem.source]})
    if (strings := table.strings) is not None:
        out["text"] = [strings[i] for i in problem.source]
    out["split"] = np.where(problem.is_test, "test", "train")
    out["cluster"] = problem.clusters
    for name, values in table.blocks.items():
        out[name] = values.to_numpy()[problem.source]
    for t, name in enumerate(table.target_names):
        out[f"true_{name}"] = problem.y[:, t]
        out[f"pred_{name}"] = predicted[:, t]
        out[f"surface_{name}"] = stacked[:, t]
    if dealt is not None:
        for t, name in enumerate(table.target_names):
            out[f"{CROSSFIT}{name}"] = dealt.predicted[:, t]
        out[GAINED] = dealt.gained
    for column in ("position", "token"):
        several = activations.rows["source"].duplicated().any()
        if several and column in activations.rows and column not in out:
            out[column] = activations.rows[column].to_numpy()
    if table.has_coordinates:
        lat, lon = table.coordinates()
        out["error_km"] = haversine_km(
            problem.y[:, lat], problem.y[:, lon], predicted[:, lat], predicted[:, lon]
        )
    return out
