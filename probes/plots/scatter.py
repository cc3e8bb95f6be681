"""Predicted against true values: numbers of any unit, and years."""

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.probes.plots.drawing import Figure, Scatter
from graticule.probes.plots.style import (
    ACCENT,
    BLOCKS,
    INK,
    block_colours,
    need_columns,
    sampled,
    scored_rows,
    short,
    style,
)


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
    sample, note = sampled(rows, limit, seed)
    fig = Figure()
    words = block is not None and not pd.api.types.is_numeric_dtype(rows[block])
    colours, groups = block_colours(rows[block]) if block and words else ({"": BLOCKS[0]}, None)
    hover = (
        sample["text"].astype(str)
        if "text" in sample.columns
        else sample.index.astype(str).to_series(sample.index)
    )
    for name, colour in colours.items():
        part = sample if groups is None else sample[groups[sample.index] == name]
        fig.add_trace(
            Scatter(
                x=part[true].to_numpy(np.float32),
                y=part[pred].to_numpy(np.float32),
                mode="markers",
                marker={"size": 7 if len(sample) < 200 else 4, "color": colour, "opacity": 0.55},
                name=short(name),
                showlegend=groups is not None,
                text=hover[part.index],
                hovertemplate="%{text}<br>true %{x:.5~g}<br>predicted %{y:.5~g}<extra></extra>",
            )
        )
    low, high = float(rows[true].min()), float(rows[true].max())
    pad = 0.03 * (high - low) or 1.0
    span = [low - pad, high + pad]
    fig.add_trace(
        Scatter(
            x=span,
            y=span,
            mode="lines",
            line={"color": INK, "width": 1, "dash": "dot"},
            name="predicted = true",
            hoverinfo="skip",
        )
    )
    template = "true ≈ %{x:.5~g}<br>median prediction %{y:.5~g}<extra></extra>"
    median_line(
        fig, rows[true].to_numpy(np.float64), rows[pred].to_numpy(np.float64), "median prediction", template
    )
    outside = int(((rows[pred] < span[0]) | (rows[pred] > span[1])).sum())
    if outside:
        note += f" {outside:,} predictions lie beyond the axis."
    style(fig, height=480, aspect=0.62, extra=60, note=note, phone={"extra": 150})
    suffix = f" ({unit})" if unit and unit != "year" else ""
    what = "year" if unit == "year" else "value"
    fig.update_xaxes(
        title_text=f"true {what}{suffix}", range=span, tickformat="d" if unit == "year" else None
    )
    fig.update_yaxes(
        title_text=f"predicted {what}{suffix}", range=span, tickformat="d" if unit == "year" else None
    )
    return fig


def median_line(
    fig: Figure, x: Float[np.ndarray, " row"], y: Float[np.ndarray, " row"], name: str, hover: str
) -> None:
    """The median of y in twenty equal-count bins of x; nothing for fewer than a hundred rows."""
    if len(x) < 100:
        return
    bins = np.array_split(np.argsort(x, kind="stable"), 20)
    fig.add_trace(
        Scatter(
            x=[float(np.median(x[b])) for b in bins],
            y=[float(np.median(y[b])) for b in bins],
            mode="lines",
            line={"color": ACCENT, "width": 2.5},
            name=name,
            hovertemplate=hover,
        )
    )


def time_figure(
    predictions: pd.DataFrame, true: str, pred: str, block: str | None = None, unit: str = "year"
) -> Figure:
    """Predicted against true time of the test rows: `scatter_figure` with years as its unit."""
    return scatter_figure(predictions, true, pred, block, unit)
