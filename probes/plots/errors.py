"""Where the probe is wrong: error by block, confusion of classes, scores of two classes."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped

from graticule.probes.plots.drawing import Figure, Heatmap, Scatter, counted_bars, edges_over
from graticule.probes.plots.style import (
    BLOCKS,
    FAINT,
    MUTED,
    SURFACE,
    in_unit,
    label_series,
    need_columns,
    plain,
    scored_rows,
    short,
    short_labels,
    style,
)


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
    fig = Figure()
    fig.add_trace(
        Scatter(
            x=largest["median"],
            y=labels,
            mode="markers",
            marker={"size": 8, "color": SURFACE},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": largest["high"] - largest["median"],
                "arrayminus": largest["median"] - largest["low"],
                "color": SURFACE,
                "thickness": 2,
                "width": 0,
            },
            customdata=np.stack(
                [largest.index.to_numpy(), largest["low"], largest["high"], largest["n"]], axis=-1
            ),
            hovertemplate="%{customdata[0]}<br>median %{x:.4~g} "
            + plain(unit or "")
            + "<br>middle half %{customdata[1]:.4~g} to "
            "%{customdata[2]:.4~g}<br>%{customdata[3]} test rows<extra></extra>",
            showlegend=False,
        )
    )
    overall = float(table["error"].median())
    fig.add_vline(x=overall, line={"color": MUTED, "width": 1, "dash": "dot"})
    fig.add_annotation(
        x=overall,
        y=1,
        yref="paper",
        yanchor="bottom",
        showarrow=False,
        font={"size": 11, "color": MUTED},
        text=f"all rows: {overall:.4g} {unit or ''}".rstrip(),
    )
    beyond = len(stats) - len(largest)
    note = "Dots are medians, bars the middle half, numbers the test rows in the block."
    style(
        fig,
        height=110 + 20 * len(largest),
        note=note + (f" {beyond:,} smaller blocks are not drawn." if beyond else ""),
    )
    fig.update_layout(margin={"t": 28})
    fig.update_xaxes(title_text=in_unit("error", unit), rangemode="tozero")
    fig.update_yaxes(showgrid=True, ticks="", tickfont={"size": 11}, range=[-0.7, len(largest) - 0.3])
    return fig


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
    fig = Figure()
    fig.add_trace(
        Heatmap(
            z=shares,
            x=names,
            y=names,
            zmin=0,
            zmax=1,
            colorscale=[[0, "#ffffff"], [0.5, "#88b7d8"], [1, "#08306b"]],
            colorbar={"thickness": 12, "tickformat": ".0%"},
            text=np.vectorize(lambda v: f"{v:.0%}" if v >= 0.005 else "")(shares)
            if len(order) <= 8
            else None,
            texttemplate="%{text}" if len(order) <= 8 else None,
            customdata=counts.to_numpy(),
            hovertemplate="true %{y}<br>predicted %{x}<br>%{z:.1%} (%{customdata} rows)<extra></extra>",
            xgap=1,
            ygap=1,
        )
    )
    beyond = len(classes) - len(order)
    note = "Each line sums to the true class." + (
        f" {beyond:,} smaller classes are not drawn." if beyond else ""
    )
    style(fig, height=480, aspect=0.6, extra=80, note=note, phone={"extra": 150})
    fig.update_xaxes(title_text="predicted class", tickangle=-40, showgrid=False)
    fig.update_yaxes(title_text="true class", autorange="reversed", showgrid=False)
    return fig


def class_score_figure(
    score: Float[np.ndarray, " row"],
    positive: Bool[np.ndarray, " row"],
    classes: Sequence[str] = ("no", "yes"),
) -> Figure:
    """Distribution of the probe's score in the two classes of a binary target's test rows.

    Args:
        score: the probe's score for the second class.
        positive: whether a row is of the second class.
        classes: names of the first and the second class.
    """
    fig = Figure()
    edges = edges_over(score, 40)
    for name, rows, colour in ((classes[0], ~positive, FAINT), (classes[1], positive, BLOCKS[0])):
        fig.add_trace(
            counted_bars(
                score[rows],
                edges,
                per=100.0,
                marker={"color": colour, "line": {"color": "white", "width": 0.5}},
                opacity=0.7,
                name=f"{short(name)} ({int(rows.sum()):,} rows)",
                hovertemplate="score %{x}<br>%{y:.1f} % of the class<extra></extra>",
            )
        )
    style(fig, height=380)
    fig.update_layout(barmode="overlay")
    fig.update_xaxes(title_text="probe's score", showgrid=False)
    fig.update_yaxes(title_text="% of the class")
    return fig
