"""Which rows the figures of findings are of, the figures that fit the target, and the rows most wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from graticule.probes.core.assembly import CROSSFIT
from graticule.probes.core.class_lines import class_columns, class_names
from graticule.probes.core.detection import power_curve
from graticule.probes.core.verdict import Verdict
from graticule.probes.scores.geo import haversine_km
from graticule.probes.scores.metrics import coordinate_columns

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from graticule.probes.core.findings import Findings


def rows_tested(findings: Findings) -> str:
    """`test rows`; beside a verdict on all rows, which part of them they are."""
    if findings.verdict.dealing is None:
        return "test rows"
    every, tested = len(findings.predictions), int((findings.predictions["split"] == "test").sum())
    return f"the {tested:,} rows of one held-out part (the verdict is of all {every:,})"


def rows_shown(findings: Findings) -> tuple[pd.DataFrame, str]:
    """The lines of `predictions` that figures show, and which they are, in words.

    Test rows; of a verdict on all rows every row, predicted by fits without it, where the findings hold that.
    """
    rows, names = findings.predictions, findings.target_names
    columns = [f"{CROSSFIT}{name}" for name in names]
    if findings.verdict.dealing is None or not set(columns) <= set(rows):
        return rows[rows["split"] == "test"], rows_tested(findings)
    predicted = rows[columns].to_numpy(np.float64)
    out = rows.drop(columns="split")
    for t, name in enumerate(names):
        out[f"pred_{name}"] = predicted[:, t]
    if (places := coordinate_columns(findings.units)) is not None:
        true = rows[[f"true_{name}" for name in names]].to_numpy(np.float64)
        ends = [values[:, place] for values in (true, predicted) for place in places]
        out["error_km"] = haversine_km(*ends)
    return out, "all rows, each by fits without it"


def power_figures(verdict: Verdict) -> dict[str, Figure]:
    """Caption → figure: how many test rows it would take, where they are what is wanting."""
    curve = power_curve(verdict)
    if curve is None or verdict.rows is None:
        return {}
    from graticule.probes.plots.power import power_figure

    return {"How often a gain would be seen, by test rows": power_figure(curve, verdict.rows)}


def target_figures(findings: Findings) -> dict[str, Figure]:
    """Caption → figure: a map for coordinates, one scatter per number, scores or confusions for classes."""
    rows, of = rows_shown(findings)
    block = findings.block_names[0] if findings.block_names else None
    if findings.kind != "numeric":
        return _class_figures(findings)
    places = coordinate_columns(findings.units)
    if places is not None:
        return _place_figures(findings, places, block)
    from graticule.probes.plots import block_error_figure, scatter_figure

    out: dict[str, Figure] = {}
    for name, unit in zip(findings.target_names[:6], findings.units, strict=False):
        true, pred = f"true_{name}", f"pred_{name}"
        out[f"Predicted against true {name}, {of}"] = scatter_figure(rows, true, pred, block, unit)
        if block is not None:
            caption = f"Error of {name} by {block}, {of}"
            out[caption] = block_error_figure(rows, block, true=true, pred=pred, unit=unit)
    return out


def _place_figures(findings: Findings, places: tuple[int, int], block: str | None) -> dict[str, Figure]:
    from graticule.probes.plots import block_error_figure, map_figure

    rows, of = rows_shown(findings)
    lat, lon = (findings.target_names[i] for i in places)
    caption = f"True places above, predicted places below, {of}"
    out = {f"{caption}, coloured by {block}" if block else caption: map_figure(rows, lat, lon, block)}
    if block is not None:
        out[f"Error by {block}, {of}"] = block_error_figure(rows, block, error="error_km")
    return out


def _class_figures(findings: Findings) -> dict[str, Figure]:
    from graticule.probes.plots import class_score_figure, confusion_figure

    rows, of = rows_shown(findings)
    if findings.kind == "binary":
        name = findings.target_names[0]
        positive = rows[f"true_{name}"].to_numpy(np.float64) > 0.5
        names = findings.classes or ("no", "yes")
        is_probability = findings.verdict.metric == "bits" and "split" not in rows
        figure = class_score_figure(
            rows[f"pred_{name}"].to_numpy(np.float64), positive, names,
            what="probability" if is_probability else "score",
        )  # fmt: skip
        what = "probability of" if is_probability else "score for"
        return {f"The probe's {what} {names[-1]}, {of}": figure}
    true, pred = (class_names(findings)[class_columns(rows, findings, side)] for side in ("true", "pred"))
    return {f"True and predicted classes, {of}": confusion_figure(true, pred, findings.classes)}


def worst_rows(findings: Findings, count: int = 20) -> pd.DataFrame:
    """The rows shown with the largest error (kilometres, or the mean over targets in standard deviations); of
    classes, those alone that were taken for another."""
    rows = rows_shown(findings)[0]
    true = rows[[f"true_{n}" for n in findings.target_names]].to_numpy(np.float64)
    pred = rows[[f"pred_{n}" for n in findings.target_names]].to_numpy(np.float64)
    if "error_km" in rows:
        name, error = "error (km)", rows["error_km"].to_numpy(np.float64)
    else:
        spread = true.std(axis=0)
        error = (np.abs(true - pred) / np.where(spread > 0, spread, 1.0)).mean(axis=1)
        name = "error (standard deviations)"
    order = np.argsort(-error, kind="stable")
    was, taken = (class_columns(rows, findings, side) for side in ("true", "pred"))
    if findings.kind != "numeric":
        order = order[(taken != was)[order]]
    order = order[:count]
    worst = rows.iloc[order]
    places = ("source", "position", "token") if "position" in worst else ()
    out = worst[[c for c in ("text", *places) if c in worst]].copy()
    if findings.kind != "numeric":
        names = class_names(findings)
        out["true class"], out["predicted class"] = names[was[order]], names[taken[order]]
    if findings.kind == "categorical":
        out["score of the true class"] = pred[order, was[order]]
        out["score of the predicted class"] = pred[order, taken[order]]
    for i, target in enumerate(findings.target_names[:3] if findings.kind != "categorical" else ()):
        out[f"{target}, true"] = true[order, i]
        out[f"{target}, predicted"] = pred[order, i]
    out[name] = error[order]
    for block in findings.block_names:
        if block in worst:
            out[block] = worst[block]
    return out.reset_index(drop=True)
