"""Figures of word pairs: heat-maps by inner product, projections."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32

from graticule.probes.plots.counted import counted_bars
from graticule.probes.plots.drawing import Figure, Heatmap, Scatter, make_subplots
from graticule.probes.plots.style import ACCENT, BLOCKS, FAINT, INK, MUTED, SURFACE, need_columns, style

_DIVERGING = [[0, "#00639c"], [0.25, "#8fb9d6"], [0.5, "#ffffff"], [0.75, "#e0a3b4"], [1, "#b3003c"]]
EVERY_PANEL: Any = "all"  # plotly's types know booleans only
METRIC_COLOURS = {"euclidean": SURFACE, "whitened": BLOCKS[4], "causal": ACCENT}
"""Inner product → colour."""


def _side_by_side(metrics: Sequence[str]) -> Figure:
    """A panel an inner product."""
    titles = list(metrics)
    return make_subplots(
        rows=1, cols=len(titles), subplot_titles=titles, horizontal_spacing=0.02, shared_yaxes=True
    )


def set_titles(fig: Figure, size: int = 12) -> None:
    """Panels' titles in one size."""
    fig.update_annotations(font={"size": size, "color": INK})


def heat_figure(
    means: Float[np.ndarray, "metric concept concept"], concepts: Sequence[str], metrics: Sequence[str]
) -> Figure:
    """Mean cosines between concepts, a panel an inner product, one colour scale for all.

    Args:
        means: mean cosines; the diagonal within concepts.
        concepts: labels of rows and columns.
        metrics: titles of the panels.
    """
    numbers = [str(i + 1) for i in range(len(concepts))]
    labels = [f"{name}  {i}" for name, i in zip(concepts, numbers, strict=True)]
    top = float(np.nanquantile(np.abs(means), 0.995)) or 1.0
    fig = _side_by_side(metrics)
    for i in range(len(metrics)):
        fig.add_trace(
            Heatmap(
                z=means[i],
                x=numbers,
                y=labels,
                coloraxis="coloraxis",
                customdata=np.tile(np.array(concepts, dtype=object), (len(concepts), 1)),
                hovertemplate="%{y}<br>%{customdata}<br>%{z:.3f}<extra></extra>",
                xgap=0.5,
                ygap=0.5,
            ),
            row=1,
            col=i + 1,
        )
    style(fig, height=max(320, 15 * len(concepts) + 120), aspect=0.58, extra=90)
    fig.update_layout(
        margin={"t": 32},
        coloraxis={
            "colorscale": _DIVERGING,
            "cmin": -top,
            "cmax": top,
            "colorbar": {"title": {"text": "cosine"}, "thickness": 12},
        },
    )
    step = max(1, len(concepts) // 10)
    fig.update_xaxes(showgrid=False, tickvals=numbers[::step], type="category")
    fig.update_yaxes(showgrid=False, autorange="reversed", ticks="", tickfont={"size": 11}, type="category")
    set_titles(fig, 13)
    return fig


def within_figure(within: pd.DataFrame, concepts: Sequence[str], metrics: Sequence[str]) -> Figure:
    """Each concept's own mean cosine with its interval, against the largest with another and random pairs.

    Args:
        within: `metric`, `concept`, `mean`, `low`, `high`, `largest_other`, `level_listed`.
        concepts: in drawing order, from above.
        metrics: a panel each.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(within, "metric", "concept", "mean", "low", "high", "largest_other", "level_listed")
    fig = _side_by_side(metrics)
    for i, metric in enumerate(metrics):
        lines = within[within["metric"] == metric].set_index("concept").loc[list(concepts)]
        mean = lines["mean"].to_numpy(float)
        marks: list[tuple[str, Any, dict[str, Any]]] = [
            (
                "95% of random pairs of the listed words",
                "level_listed",
                {"symbol": "line-ns-open", "color": MUTED},
            ),
            (
                "largest |cosine| with another concept",
                "largest_other",
                {"symbol": "x-thin-open", "color": SURFACE},
            ),
        ]
        for name, column, marker in marks:
            fig.add_trace(
                Scatter(
                    x=lines[column],
                    y=list(concepts),
                    mode="markers",
                    marker={"size": 8, "line": {"width": 1.5}, **marker},
                    name=name,
                    legendgroup=name,
                    showlegend=i == 0,
                    hovertemplate="%{y}: %{x:.3f}<extra></extra>",
                ),
                row=1,
                col=i + 1,
            )
        fig.add_trace(
            Scatter(
                x=mean,
                y=list(concepts),
                mode="markers",
                marker={"size": 7, "color": ACCENT},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": lines["high"].to_numpy(float) - mean,
                    "arrayminus": mean - lines["low"].to_numpy(float),
                    "color": ACCENT,
                    "thickness": 1.2,
                    "width": 0,
                },
                name="within the concept, 95% interval",
                legendgroup="own",
                showlegend=i == 0,
                hovertemplate="%{y}: %{x:.3f}<extra></extra>",
            ),
            row=1,
            col=i + 1,
        )
    style(fig, height=max(320, 16 * len(concepts) + 130), aspect=0.62, extra=110)
    fig.update_layout(margin={"t": 70}, legend={"y": 1.05})
    fig.update_xaxes(rangemode="tozero")
    fig.update_yaxes(autorange="reversed", ticks="", tickfont={"size": 11}, type="category")
    set_titles(fig, 13)
    return fig


def loo_figure(
    projections: pd.DataFrame, random: Float32[np.ndarray, "concept random"], concepts: Sequence[str]
) -> Figure:
    """Small multiples: leave-one-out projections of a concept's pairs over those of random pairs.

    Args:
        projections: `concept` and `projection` of one inner product.
        random: random pairs' projections, in the same units.
        concepts: a panel each.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(projections, "concept", "projection")
    columns = min(5, len(concepts))
    rows = -(-len(concepts) // columns)
    values = projections["projection"].to_numpy(float)
    low, high = float(np.nanquantile(random, 0.0005)), float(np.nanquantile(values, 0.995))
    edges = np.linspace(low, max(high, -low) * 1.05, 41)
    fig = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=list(concepts),
        horizontal_spacing=0.02,
        vertical_spacing=0.32 / rows,
        shared_xaxes=EVERY_PANEL,
        shared_yaxes=EVERY_PANEL,
    )
    for c, concept in enumerate(concepts):
        own = values[(projections["concept"] == concept).to_numpy()]
        for name, part, colour in (("random pairs", random[c], FAINT), ("the pairs", own, ACCENT)):
            fig.add_trace(
                counted_bars(
                    part[~np.isnan(part)],
                    edges,
                    per=1.0,
                    marker={"color": colour, "line": {"width": 0}},
                    opacity=0.75 if colour == ACCENT else 1.0,
                    name=name,
                    legendgroup=name,
                    showlegend=c == 0,
                    hovertemplate="%{x:.1f}: %{y:.1%}<extra></extra>",
                ),
                row=c // columns + 1,
                col=c % columns + 1,
            )
    note = "Projections beyond the drawn range are counted in its last bar."
    style(fig, height=110 * rows + 110, aspect=0.17 * rows, extra=80, note=note)
    fig.update_layout(barmode="overlay", margin={"t": 60, "l": 20}, legend={"y": 1.0, "yref": "container"})
    fig.update_layout(legend={"yanchor": "top"})
    fig.update_xaxes(showgrid=False)
    fig.update_yaxes(showticklabels=False, ticks="", showgrid=False)
    fig.update_xaxes(title_text="random pairs' standard deviations", row=rows, col=(columns + 1) // 2)
    set_titles(fig, 11)
    return fig
