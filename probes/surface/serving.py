"""Features of baselines as they are read: rows that serve those of activations, in which unit."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Int

from graticule.hooks.activations import Activations
from graticule.hooks.alignment import sources
from graticule.hooks.rows import Rows
from graticule.probes.core.fit import PointRows, Problem
from graticule.probes.surface.additive import in_deviations
from graticule.probes.surface.baselines import Baselines

Served = tuple[Rows, Int[np.ndarray, " row"]]
"""A feature, and which of its rows serves each row of activations."""


def features_of(baselines: Baselines, activations: Rows, problem: Problem) -> dict[str, Served]:
    """Every feature with its rows; columns of one's own (`Baselines.of`) in standard deviations.

    Columns of one's own come in units of their own, and a ridge sees little of a column beside one that is a
    thousand times as large. Activations have one unit and stay as they are.

    Args:
        baselines: Their features.
        activations: What is probed.
        problem: Its training rows are those whose mean and spread count; columns that are constant there are
            left out, unless all are.

    Returns:
        Name → feature and rows.

    Raises:
        NonFiniteError: A column of one's own holds NaN or infinity, naming the row.
    """
    served: dict[str, Served] = {}
    for name, feature in baselines.features.items():
        rows = served_by(feature, activations)
        if tuple(feature.points) == (name,):
            values = np.asarray(PointRows(feature, name, rows).gather(np.arange(len(rows))), np.float64)
            columns = in_deviations(values, problem.train)
            if columns.shape[1]:
                feature, rows = Activations.from_tensors({name: columns}), np.arange(len(rows))
        served[name] = feature, rows
    return served


def served_by(feature: Rows, activations: Rows) -> Int[np.ndarray, " row"]:
    """Which row of `feature` serves each activation row: the same position, or the text's only row.

    Raises:
        ValueError: If some activation row's position was not captured for the feature.
    """
    rows, ours = feature.rows, activations.rows
    if rows["source"].is_unique:
        place = pd.Series(np.arange(len(rows)), index=rows["source"])
        return place.loc[sources(ours)].to_numpy(np.int64)
    keys = ["source", "position"]
    place = rows[keys].assign(place=np.arange(len(rows)))
    merged = ours[keys].merge(place, on=keys, how="left")["place"]
    if merged.isna().any():
        raise ValueError(
            "a baseline was captured at other positions than the activations; give both one pos="
        )
    return merged.to_numpy(np.int64)
