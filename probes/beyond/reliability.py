"""Scores and figures of class probabilities, with cluster intervals: AUROC, accuracy, log-loss, calibration.

The **expected calibration error** (ECE, Naeini et al. 2015; Guo et al. 2017) is Σ over equal bins of
(rows in bin / rows) · |mean confidence − observed frequency|. With two classes the confidence is P(class 1)
and the frequency that of class 1; with several it is the largest probability and how often it is right.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from graticule.probes.core.resample import cluster_weights, interval
from graticule.probes.linear.logistic import row_cross_entropies
from graticule.probes.plots.primitives import line_trace, mark_trace, new_figure
from graticule.probes.plots.style import (
    ACCENT,
    FAINT,
    INK,
    MUTED,
    SURFACE,
    error_bars,
    log_axis,
    need_columns,
    short,
    style,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

BINS = 15
FEW, RANDOM, FEW_SHUFFLED = "k coordinates", "k random coordinates", "k coordinates, shuffled labels"
SCORES = ("auroc", "accuracy", "ece", "log_loss")
_CHUNK = 1 << 22


def confidence(
    y: Float[np.ndarray, "row column"], p: Float[np.ndarray, "row column"]
) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    """How sure each row's prediction is, and whether it came true (1 or 0)."""
    if y.shape[1] == 1:
        return p[:, 0].copy(), (y[:, 0] > 0.5).astype(np.float64)
    return p.max(axis=1), (p.argmax(axis=1) == y.argmax(axis=1)).astype(np.float64)


def reliability(
    y: Float[np.ndarray, "row column"], p: Float[np.ndarray, "row column"], bins: int = BINS
) -> pd.DataFrame:
    """One row per bin that holds rows: `low`, `high`, `rows`, `confidence` and `frequency` (means)."""
    sure, true = confidence(y, p)
    which = _bins(sure, bins)
    rows = np.bincount(which, minlength=bins)
    filled = np.flatnonzero(rows)
    return pd.DataFrame(
        {
            "low": filled / bins,
            "high": (filled + 1) / bins,
            "rows": rows[filled],
            "confidence": np.bincount(which, weights=sure, minlength=bins)[filled] / rows[filled],
            "frequency": np.bincount(which, weights=true, minlength=bins)[filled] / rows[filled],
        }
    )


def class_scores(
    y: Float[np.ndarray, "row column"],
    p: Float[np.ndarray, "row column"],
    clusters: Int[np.ndarray, " row"],
    n_bootstrap: int,
    seed: int,
    bins: int = BINS,
) -> dict[str, tuple[float, tuple[float, float]]]:
    """`auroc` (mean over the columns that hold both classes), `accuracy`, `ece`, `log_loss` (nats): value and
    95% interval over resamples of whole clusters, fits fixed.

    A resample's ECE is too large by the noise that resampling adds to every bin, so its interval is the
    reflected one (2 · value − quantiles), not below 0."""
    weights, codes = cluster_weights(clusters, n_bootstrap, seed)
    weights = np.concatenate([np.ones((1, weights.shape[1])), weights])
    step = max(1, _CHUNK // len(y))
    parts = [_weighted(y, p, weights[i : i + step][:, codes], bins) for i in range(0, len(weights), step)]
    drawn = {name: np.concatenate([part[name] for part in parts]) for name in SCORES}
    out = {name: (float(values[0]), interval(values[1:])) for name, values in drawn.items()}
    value, (low, high) = out["ece"]
    out["ece"] = (value, (max(0.0, 2 * value - high), max(0.0, 2 * value - low)))
    return out


def _weighted(
    y: np.ndarray, p: np.ndarray, weights: Float[np.ndarray, "draw row"], bins: int
) -> Mapping[str, Float[np.ndarray, " draw"]]:
    sure, true = confidence(y, p)
    total = weights.sum(axis=1)
    right = true if y.shape[1] > 1 else ((p[:, 0] > 0.5) == (y[:, 0] > 0.5)).astype(np.float64)
    which = _bins(sure, bins)
    gaps = np.zeros((len(y), bins))
    gaps[np.arange(len(y)), which] = sure - true
    return {
        "auroc": weighted_auroc(y, p, weights),
        "accuracy": weights @ right / total,
        "ece": np.abs(weights @ gaps).sum(axis=1) / total,
        "log_loss": weights @ row_cross_entropies(y, p) / total,
    }


def weighted_auroc(
    y: Float[np.ndarray, "row column"],
    p: Float[np.ndarray, "row column"],
    weights: Float[np.ndarray, "draw row"],
) -> Float[np.ndarray, " draw"]:
    """AUROC of every column against the rest, rows counted by their weights, ties half; mean over the columns
    that hold both classes in that draw, NaN if none does."""
    values = np.full((len(weights), y.shape[1]), np.nan)
    for c in range(y.shape[1]):
        order = np.argsort(p[:, c], kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(p[order, c]) > 0])
        sorted_weights = weights[:, order]
        positive = np.add.reduceat(sorted_weights * (y[order, c] > 0.5), starts, axis=1)
        negative = np.add.reduceat(sorted_weights, starts, axis=1) - positive
        below = np.cumsum(negative, axis=1) - 0.5 * negative
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        wins = (positive * below).sum(axis=1)
        values[:, c] = np.where(pairs > 0, wins / np.where(pairs > 0, pairs, 1.0), np.nan)
    defined = ~np.isnan(values)
    count = defined.sum(axis=1)
    return np.where(count > 0, np.where(defined, values, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan)


def _bins(sure: np.ndarray, bins: int) -> Int[np.ndarray, " row"]:
    return np.clip((sure * bins).astype(np.int64), 0, bins - 1)


def reliability_figure(bins: pd.DataFrame, positive: str | None) -> Figure:
    """Confidence against frequency, a mark per bin as large as its rows, a colour per arm.

    Confidence is the probability of the class `positive`, or without one the largest of several.
    """
    need_columns(bins, "arm", "rows", "confidence", "frequency")
    fig = new_figure(line_trace([0, 1], [0, 1], "calibrated", FAINT, 1.5, dash="dash", hover=""))
    hover = "confidence %{x:.3f}<br>came true %{y:.3f}<br>%{customdata} rows<extra></extra>"
    for (arm, rows), colour in zip(bins.groupby("arm", sort=False), (ACCENT, SURFACE), strict=False):
        size = 6 + 20 * np.sqrt(rows["rows"] / bins["rows"].max())
        marker = {"size": size, "color": colour, "opacity": 0.75, "line": {"color": "white", "width": 1}}
        texts: dict[str, Any] = {"customdata": rows["rows"], "hover": hover}
        x, y = rows["confidence"], rows["frequency"]
        fig.add_trace(line_trace(x, y, str(arm), colour, 1.5, size=0, marker=marker, **texts))
    titles = "largest probability", "share right"
    if positive is not None:
        titles = f"probability of {short(positive)}", f"share of {short(positive)}"
    across, up = ({"title_text": title, "range": [-0.02, 1.02]} for title in titles)
    note = "A point's area grows with the rows of its bin."
    return style(fig, height=440, aspect=0.8, note=note, x=across, y=up)


def few_figure(scores: pd.DataFrame, dense: float, needed: int | None = None) -> Figure:
    """AUROC against the number of coordinates, `needed` marked, with the dense probe's as a dashed line."""
    need_columns(scores, "arm", "k", "auroc", "auroc_low", "auroc_high")
    fig = new_figure()
    ks = sorted({int(k) for k in scores["k"] if k > 0})
    for arm, colour in ((FEW, ACCENT), (RANDOM, SURFACE), (FEW_SHUFFLED, MUTED)):
        rows = scores[scores["arm"] == arm].sort_values("k")
        bars = error_bars(rows["auroc"], rows["auroc_low"], rows["auroc_high"], colour, 1.2, 3)
        fig.add_trace(line_trace(rows["k"], rows["auroc"], arm, colour, size=5, error_y=bars))
    if needed is not None:
        at = scores[(scores["arm"] == FEW) & (scores["k"] == needed)]
        fig.add_trace(mark_trace(at["k"], at["auroc"], f"needed: {needed} (validation)", size=13))
    name = f"all coordinates: {dense:z.3f}"
    fig.add_trace(line_trace([ks[0], ks[-1]], [dense, dense], name, INK, 1.5, dash="dash"))
    across = log_axis(ks, "coordinates (log scale)", showgrid=False, tickangle=0)
    return style(fig, height=420, x=across, y="AUROC")
