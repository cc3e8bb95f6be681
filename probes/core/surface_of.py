"""Fitted baselines of one sweep taken over into another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from graticule.hooks.rows import Rows
from graticule.probes.core.findings import Findings
from graticule.probes.core.fit import Predictions, Problem
from graticule.probes.core.members import ALL_ROWS
from graticule.probes.core.verdict import JudgeSettings
from graticule.probes.surface.baselines import Baselines
from graticule.probes.tables.table import Table

_SOME_ROWS = 64


def fitted_before(
    findings: Findings, baselines: Baselines, table: Table, problem: Problem, settings: JudgeSettings
) -> tuple[dict[str, Predictions], dict[str, dict[str, Any]]] | None:
    """The fitted baselines of other findings, if rows, clusters and strengths are the same.

    Args:
        findings: Whose baselines are taken over.
        baselines: Of this sweep.
        table: Its table.
        problem: Its rows, targets, split and clusters.
        settings: How it is judged.

    Returns:
        Predictions and lines by name; None where they are to be fitted anew.

    Raises:
        ValueError: The findings are of another target, of other baselines, or with other confounders.
    """
    _need_same("target", (findings.target_names, findings.kind) == (table.target_names, table.kind))
    swept = findings.swept
    if swept is None:
        return None
    _need_same("baselines", _alike(swept.baselines, baselines))
    _need_same("confounders", _same_frames(swept.table.confounds, table.confounds))
    if swept.baselines is not baselines:  # alike in some rows
        return None
    if (swept.alphas, swept.settings.score) != (settings.alphas, settings.score):
        return None
    same = all(
        np.array_equal(getattr(swept.problem, part), getattr(problem, part))
        for part in ("source", "y", "is_test", "clusters")
    )
    predictions = findings.baseline_predictions
    if not same or not set(predictions) <= set(findings.baselines):
        return None
    lines = {name: {**findings.baselines[name]} for name in predictions}
    for line in lines.values():
        line.pop(ALL_ROWS, None)
    return dict(predictions), lines


def _need_same(what: str, same: bool) -> None:
    if not same:
        raise ValueError(
            f"sweep: the findings given as surface_of= have other {what} than this sweep: give findings with "
            f"the same {what}, or leave surface_of out"
        )


def _same_frames(first: Mapping[str, pd.DataFrame], second: Mapping[str, pd.DataFrame]) -> bool:
    return first.keys() == second.keys() and all(first[name].equals(second[name]) for name in first)


def _alike(first: Baselines, second: Baselines) -> bool:
    """Whether they are of the same texts, hold the same features, and agree in some rows of them."""
    if first is second:
        return True
    one, other = ((b.table_digest, b.strings, list(b.features)) for b in (first, second))
    return one == other and all(map(_agree, first.features.values(), second.features.values()))


def _agree(one: Rows, other: Rows) -> bool:
    """Whether points, and some rows of each, are the same."""
    if one.n_rows != other.n_rows or dict(one.widths) != dict(other.widths):
        return False
    some = np.unique(np.linspace(0, one.n_rows - 1, _SOME_ROWS).astype(np.int64))
    return all(torch.equal(one.gather(p, some).double(), other.gather(p, some).double()) for p in one.points)
