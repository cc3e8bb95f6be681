"""The figures and the table of worst rows that fit the target of some findings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from graticule.probes.core.findings_text import class_columns, class_names
from graticule.probes.scores.metrics import coordinate_columns

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from graticule.probes.core.findings import Findings


def target_figures(findings: Findings) -> dict[str, Figure]:
    """Caption → figure: a map for coordinates, a scatter a number, scores or confusions for classes."""
    rows = findings.predictions
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
        out[f"Predicted against true {name}, test rows"] = scatter_figure(rows, true, pred, block, unit)
        if block is not None:
            caption = f"Error of {name} by {block}, test rows"
            out[caption] = block_error_figure(rows, block, true=true, pred=pred, unit=unit)
    return out


def _place_figures(findings: Findings, places: tuple[int, int], block: str | None) -> dict[str, Figure]:
    from graticule.probes.plots import block_error_figure, map_figure

    lat, lon = (findings.target_names[i] for i in places)
    caption = "True places above, predicted places below, test rows"
    out = {
        f"{caption}, coloured by {block}" if block else caption: map_figure(
            findings.predictions, lat, lon, block
        )
    }
    if block is not None:
        out[f"Error by {block}, test rows"] = block_error_figure(
            findings.predictions, block, error="error_km"
        )
    return out


def _class_figures(findings: Findings) -> dict[str, Figure]:
    from graticule.probes.plots import class_score_figure, confusion_figure

    rows = findings.predictions[findings.predictions["split"] == "test"]
    if findings.kind == "binary":
        name = findings.target_names[0]
        positive = rows[f"true_{name}"].to_numpy(np.float64) > 0.5
        names = findings.classes or ("no", "yes")
        figure = class_score_figure(rows[f"pred_{name}"].to_numpy(np.float64), positive, names)
        return {f"The probe's score for {names[-1]}, test rows": figure}
    true, pred = (class_names(findings)[class_columns(rows, findings, side)] for side in ("true", "pred"))
    return {"True and predicted classes, test rows": confusion_figure(true, pred, findings.classes)}


def worst_rows(findings: Findings, count: int = 20) -> pd.DataFrame:
    """The test rows with the largest error (kilometres, or the mean over targets in standard deviations); of
    classes, those alone that were taken for another."""
    rows = findings.predictions[findings.predictions["split"] == "test"]
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
    shown = rows.iloc[order]
    places = ("source", "position", "token") if "position" in shown else ()
    out = shown[[c for c in ("text", *places) if c in shown]].copy()
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
        if block in shown:
            out[block] = shown[block]
    return out.reset_index(drop=True)


def layer_table(findings: Findings) -> pd.DataFrame:
    """Every layer's scores, those that are read first in front, the ridge strengths at the end."""
    layers = findings.layers.drop(columns=["point", "exploratory", "depth"])
    if len(findings.target_names) == 1:  # what the mean over one target says
        layers = layers.drop(columns=f"test_r2_{findings.target_names[0]}", errors="ignore")
    ends = ["alpha", "alpha_at_edge"]
    first = ["layer", "test_r2", "validation"]
    columns = [c for c in layers.columns if c not in (*first, *ends)]
    return layers[[c for c in (*first, *columns, *ends) if c in layers]]
