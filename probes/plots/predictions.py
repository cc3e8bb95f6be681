"""Predictions against the truth: numbers, error by block, classes confused, scores of two classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped

from graticule.probes.plots.primitives import (
    by_block,
    dots_trace,
    edges_over,
    heat_trace,
    histogram_trace,
    is_of_names,
    level,
    line_trace,
    median_trace,
    new_figure,
)
from graticule.probes.plots.style import (
    BLOCKS,
    FAINT,
    INK,
    MUTED,
    SURFACE,
    axis,
    error_bars,
    in_unit,
    label_series,
    left_out,
    need_columns,
    plain,
    sampled,
    scored_rows,
    short,
    short_labels,
    style,
)
from graticule.probes.scores.metrics import count_of
from graticule.probes.tables.units import RANK

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


_SAID = {"year": "year", RANK: "rank (share of training rows below)"}
"""Units that an axis says by themselves."""


def scatter_figure(
    predictions: pd.DataFrame,
    true: str,
    pred: str,
    block: str | None = None,
    unit: str | None = None,
    limit: int = 4000,
    seed: int = 0,
) -> Figure:
    """Predicted against true values of the test rows, with the identity and the median prediction.

    Args:
        predictions: One row per prediction, with the columns named by `true`, `pred` and `block`; a `split`
            column, if there is one, picks the test rows; a `text` column is shown on hover.
        true, pred: columns of true and predicted values, in `unit`.
        block: column of groups; words are coloured, numbers (a century) are left to the axis.
        unit: for the axis titles.
        limit, seed: at most `limit` points are drawn, sampled with `seed`.

    Raises:
        KeyError: If a column is missing.
        ValueError: If there is no test row.
    """
    need_columns(predictions, true, pred, *([block] if block else []))
    rows = scored_rows(predictions)
    rows = rows[np.isfinite(rows[true].astype(float)) & np.isfinite(rows[pred].astype(float))]
    drawn, note = sampled(rows, limit, seed)
    names = drawn["text"] if "text" in drawn.columns else drawn.index.to_series()
    hover = "%{text}<br>true %{x:.5~g}<br>predicted %{y:.5~g}<extra></extra>"
    size = 7 if len(drawn) < 200 else 4
    fig = new_figure()
    for name, colour, part in by_block(rows, block if is_of_names(rows, block) else None, drawn):
        x, y = (part[column].to_numpy(np.float32) for column in (true, pred))
        texts = names[part.index].astype(str)
        legend: dict[str, Any] = {"showlegend": name is not None, "look": {"opacity": 0.55}}
        fig.add_trace(dots_trace(x, y, name, colour, size, hover=hover, text=texts, **legend))
    low, high = float(rows[true].min()), float(rows[true].max())
    pad = 0.03 * (high - low) or 1.0
    span = [low - pad, high + pad]
    fig.add_trace(line_trace(span, span, "predicted = true", INK, 1, dash="dot", hover=""))
    hover = "true ≈ %{x:.5~g}<br>median prediction %{y:.5~g}<extra></extra>"
    x, y = (rows[column].to_numpy(np.float64) for column in (true, pred))
    fig.add_traces(median_trace(x, y, "median prediction", hover))
    outside = int(((rows[pred] < span[0]) | (rows[pred] > span[1])).sum())
    if outside:
        note += f" {count_of(outside, 'prediction')} beyond the axis."
    what = _SAID.get(unit or "", "value")
    in_title = unit if unit in _SAID else None
    across, up = (
        axis(f"{kind} {what}", unit, unit_in_title=in_title, range=span) for kind in ("true", "predicted")
    )
    return style(fig, 480, aspect=0.62, extra=60, note=note, phone={"extra": 150}, x=across, y=up)


def time_figure(
    predictions: pd.DataFrame, true: str, pred: str, block: str | None = None, unit: str = "year"
) -> Figure:
    """Predicted against true time of the test rows: `scatter_figure` with years as its unit."""
    return scatter_figure(predictions, true, pred, block, unit)


def block_error_figure(
    predictions: pd.DataFrame,
    block: str,
    error: str | None = None,
    true: str | None = None,
    pred: str | None = None,
    unit: str | None = "km",
    top: int = 25,
) -> Figure:
    """Median and inter-quartile range of the test rows' error in the `top` largest blocks, with their sizes.

    Args:
        predictions: One row per prediction; a `split` column, if there is one, picks the test rows.
        block: column of groups. Groups of words are sorted by median error, numbers (a century) by value.
        error: column of errors, in `unit`; without it the error is |`pred` − `true`|.
        true, pred: columns of true and predicted values.
        unit: for the axis title; None for a target without one.
        top: how many blocks are drawn.

    Raises:
        KeyError: If a column is missing.
        ValueError: If neither `error` nor both others are given.
    """
    unit = "years" if unit == "year" else unit
    if error is None and (true is None or pred is None):
        raise ValueError("block_error_figure needs error=, or both true= and pred=")
    need_columns(predictions, block, *([error] if error else [str(true), str(pred)]))
    rows = scored_rows(predictions)
    errors = (
        rows[error].astype(float) if error else (rows[pred].astype(float) - rows[true].astype(float)).abs()
    )
    named = label_series(rows[block]).to_numpy()
    table = pd.DataFrame({"block": named, "value": rows[block].to_numpy(), "error": errors.to_numpy()})
    table = table[(table["block"] != "") & np.isfinite(table["error"])]
    stats = table.groupby("block").agg(
        n=("error", "size"),
        low=("error", lambda e: e.quantile(0.25)),
        median=("error", "median"),
        high=("error", lambda e: e.quantile(0.75)),
        value=("value", "first"),
    )
    largest = stats.sort_values("n", ascending=False, kind="stable").head(top)
    ordered = pd.api.types.is_numeric_dtype(rows[block])
    largest = largest.sort_values("value" if ordered else "median", ascending=False, kind="stable")
    labels = [f"{name}  {n:,}" for name, n in zip(short_labels(largest.index), largest["n"], strict=True)]
    hover = (
        f"%{{customdata[0]}}<br>median %{{x:.4~g}} {plain(unit or '')}<br>"
        "middle half %{customdata[1]:.4~g} to %{customdata[2]:.4~g}"
        "<br>%{customdata[3]} rows<extra></extra>"
    )
    middle, low, high = (largest[column] for column in ("median", "low", "high"))
    texts = np.stack([largest.index.to_numpy(), low, high, largest["n"]], axis=-1)
    whiskers = error_bars(middle, low, high, SURFACE, 2)
    fig = new_figure(
        dots_trace(middle, labels, None, SURFACE, 8, hover=hover, error_x=whiskers, customdata=texts)
    )
    overall = float(table["error"].median())
    level(fig, x=overall)
    fig.add_annotation(
        x=overall, y=1, yref="paper", yanchor="bottom", showarrow=False, font={"size": 11, "color": MUTED},
        text=f"all rows: {overall:.4g} {unit or ''}".rstrip(),
    )  # fmt: skip
    note = "Dots are medians, bars the middle half, numbers the rows in the block."
    note += left_out(len(stats) - len(largest), "blocks")
    across = {"title_text": in_unit("error", unit), "rangemode": "tozero"}
    span = [-0.7, len(largest) - 0.3]
    names = {"showgrid": True, "ticks": "", "tickfont": {"size": 11}, "range": span}
    return style(fig, height=110 + 20 * len(largest), note=note, x=across, y=names, margin_t=28)


def confusion_figure(
    true: Shaped[np.ndarray, " row"], pred: Shaped[np.ndarray, " row"], classes: Sequence[str], top: int = 15
) -> Figure:
    """What each true class was taken for: shares of its rows, with counts on hover.

    Args:
        true, pred: true and predicted class of each test row, as names out of `classes`.
        classes: all class names.
        top: only the classes with most true rows are drawn.
    """
    counts = pd.crosstab(pd.Series(true, name="t").astype(str), pd.Series(pred, name="p").astype(str))
    counts = counts.reindex(index=list(classes), columns=list(classes), fill_value=0)
    order = counts.sum(axis=1).sort_values(ascending=False, kind="stable").index[:top]
    totals = counts.sum(axis=1).loc[order].to_numpy(np.float64)
    counts = counts.loc[order, order]
    shares = counts.to_numpy(np.float64) / np.maximum(totals, 1.0)[:, None]
    names = short_labels(order, 18)
    few = len(order) <= 8
    written = np.vectorize(lambda v: f"{v:.0%}" if v >= 0.005 else "")(shares) if few else None
    fig = new_figure(
        heat_trace(
            shares, names, names, [[0, "#ffffff"], [0.5, "#88b7d8"], [1, "#08306b"]], (0, 1),
            "true %{y}<br>predicted %{x}<br>%{z:.1%} (%{customdata} rows)<extra></extra>", texts=written,
            gap=1, customdata=counts.to_numpy(), colorbar_tickformat=".0%",
        )
    )  # fmt: skip
    note = "Each line sums to the true class." + left_out(len(classes) - len(order), "classes")
    across = {"title_text": "predicted class", "tickangle": -40, "showgrid": False}
    up = {"title_text": "true class", "autorange": "reversed", "showgrid": False}
    return style(fig, height=480, aspect=0.6, extra=80, note=note, phone={"extra": 150}, x=across, y=up)


def class_score_figure(
    score: Float[np.ndarray, " row"],
    positive: Bool[np.ndarray, " row"],
    classes: Sequence[str] = ("no", "yes"),
    what: str = "score",
) -> Figure:
    """Distribution of the probe's score in the two classes of a binary target.

    Args:
        score: the probe's score for the second class.
        positive: whether a row is of the second class.
        classes: names of the first and the second class.
        what: a `score`, or a `probability`.
    """
    fig, edges = new_figure(), edges_over(score, 40)
    hover = f"{what} %{{x}}<br>%{{y:.1f}} % of the class<extra></extra>"
    for name, rows, colour in ((classes[0], ~positive, FAINT), (classes[1], positive, BLOCKS[0])):
        title = f"{short(name)} ({int(rows.sum()):,} rows)"
        look: dict[str, Any] = {"outline": 0.5, "per": 100.0, "opacity": 0.7, "hover": hover}
        fig.add_trace(histogram_trace(score[rows], edges, title, colour, **look))
    of = "of" if what == "probability" else "for"
    across = {"title_text": f"probe's {what} {of} {short(classes[1])}", "showgrid": False}
    return style(fig, height=380, x=across, y="% of the class", barmode="overlay")
