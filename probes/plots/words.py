"""Figures of word pairs and of contexts beside them: heat-maps, intervals, projections, ranked concepts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32

from graticule.probes.plots.primitives import PlotTrace, bar_trace, dots_trace, histogram_trace, panels
from graticule.probes.plots.style import (
    ACCENT,
    BLOCKS,
    FAINT,
    INK,
    MUTED,
    SURFACE,
    error_bars,
    need_columns,
    style,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_DIVERGING = [[0, "#00639c"], [0.25, "#8fb9d6"], [0.5, "#ffffff"], [0.75, "#e0a3b4"], [1, "#b3003c"]]
_EVERY_PANEL: Any = "all"  # plotly's types know booleans only
_NAMES: dict[str, Any] = {"autorange": "reversed", "ticks": "", "tickfont": {"size": 11}, "type": "category"}


def _overlaid(
    others: np.ndarray, own: np.ndarray, names: tuple[str, str], edges: np.ndarray, ticks: str, legend: bool
) -> list[PlotTrace]:
    """Two distributions in a panel: what the figure is about lies over the other."""
    return [
        histogram_trace(
            part[~np.isnan(part)], edges, name, colour, per=1.0, opacity=0.75 if colour == ACCENT else 1.0,
            hover=f"%{{x:{ticks}}}: %{{y:.1%}}<extra></extra>", legendgroup=name, showlegend=legend,
        )
        for part, name, colour in zip((others, own), names, (FAINT, ACCENT), strict=True)
    ]  # fmt: skip


def _set_titles(fig: Figure, size: int = 12) -> Figure:
    """Panels' titles in one size."""
    fig.update_annotations(font={"size": size, "color": INK})
    return fig


def heat_figure(
    means: Float[np.ndarray, "metric concept concept"], concepts: Sequence[str], metrics: Sequence[str]
) -> Figure:
    """Mean cosines between concepts, a panel per inner product, one colour scale for all.

    Args:
        means: mean cosines; the diagonal within concepts.
        concepts: labels of rows and columns.
        metrics: titles of the panels.
    """
    numbers = [str(i + 1) for i in range(len(concepts))]
    top = float(np.nanquantile(np.abs(means), 0.995)) or 1.0
    fig, cells = panels(metrics, horizontal_spacing=0.02, shared_yaxes=True)
    texts = np.tile(np.array(concepts, dtype=object), (len(concepts), 1))
    names = [f"{name}  {i}" for name, i in zip(concepts, numbers, strict=True)]
    for values, cell in zip(means, cells, strict=True):
        fig.add_trace(
            {
                "type": "heatmap", "z": values, "x": numbers, "y": names, "coloraxis": "coloraxis",
                "customdata": texts, "hovertemplate": "%{y}<br>%{customdata}<br>%{z:.3f}<extra></extra>",
                "xgap": 0.5, "ygap": 0.5,
            },
            **cell,
        )  # fmt: skip
    bar = {"title": {"text": "cosine"}, "thickness": 12}
    colours = {"colorscale": _DIVERGING, "cmin": -top, "cmax": top, "colorbar": bar}
    style(
        fig, height=max(320, 15 * len(concepts) + 120), aspect=0.58, extra=90, margin_t=32, coloraxis=colours,
        x={"showgrid": False, "tickvals": numbers[:: max(1, len(concepts) // 10)], "type": "category"},
        y={"showgrid": False, **_NAMES},
    )  # fmt: skip
    return _set_titles(fig, 13)


def within_figure(within: pd.DataFrame, concepts: Sequence[str], metrics: Sequence[str]) -> Figure:
    """Each concept's own mean cosine with its interval, against the largest with another and random pairs.

    Args:
        within: `metric`, `concept`, `mean`, `low`, `high`, `largest_other`, `level_listed`.
        concepts: in drawing order, from above.
        metrics: a panel each.

    Raises:
        KeyError: a column is missing.
    """
    need_columns(within, "metric", "concept", "mean", "low", "high", "largest_other", "level_listed")
    marks = {
        "level_listed": ("95% of random pairs of the listed words", "line-ns-open", MUTED),
        "largest_other": ("largest |cosine| with another concept", "x-thin-open", SURFACE),
    }
    fig, cells = panels(metrics, horizontal_spacing=0.02, shared_yaxes=True)
    for i, (metric, cell) in enumerate(zip(metrics, cells, strict=True)):
        rows = within[within["metric"] == metric].set_index("concept").loc[list(concepts)]
        shared: dict[str, Any] = {"showlegend": i == 0, "hover": "%{y}: %{x:.3f}<extra></extra>"}
        for column, (name, symbol, colour) in marks.items():
            look, names = {"line": {"width": 1.5}, "symbol": symbol}, list(concepts)
            mark = dots_trace(rows[column], names, name, colour, 8, look=look, legendgroup=name, **shared)
            fig.add_trace(mark, **cell)
        mean, low, high = (rows[column].to_numpy(float) for column in ("mean", "low", "high"))
        bars = error_bars(mean, low, high, ACCENT, thickness=1.2)
        name = "within the concept, 95% interval"
        own = dots_trace(mean, list(concepts), name, ACCENT, 7, error_x=bars, legendgroup="own", **shared)
        fig.add_trace(own, **cell)
    style(
        fig, height=max(320, 16 * len(concepts) + 130), aspect=0.62, extra=110, margin_t=70, legend_y=1.05,
        x={"rangemode": "tozero"}, y=_NAMES,
    )  # fmt: skip
    return _set_titles(fig, 13)


def loo_figure(
    projections: pd.DataFrame, random: Float32[np.ndarray, "concept random"], concepts: Sequence[str]
) -> Figure:
    """Small multiples: leave-one-out projections of a concept's pairs over those of random pairs.

    Args:
        projections: `concept` and `projection` of one inner product.
        random: random pairs' projections, in the same units.
        concepts: a panel each.

    Raises:
        KeyError: a column is missing.
    """
    need_columns(projections, "concept", "projection")
    columns = min(5, len(concepts))
    rows = -(-len(concepts) // columns)
    values = projections["projection"].to_numpy(float)
    low, high = float(np.nanquantile(random, 0.0005)), float(np.nanquantile(values, 0.995))
    edges = np.linspace(low, max(high, -low) * 1.05, 41)
    shared = {"shared_xaxes": _EVERY_PANEL, "shared_yaxes": _EVERY_PANEL}
    fig, cells = panels(
        concepts, rows, columns, horizontal_spacing=0.02, vertical_spacing=0.32 / rows, **shared
    )
    names = ("random pairs", "the pairs")
    for c, (concept, cell) in enumerate(zip(concepts, cells, strict=False)):
        own = values[(projections["concept"] == concept).to_numpy()]
        for bars in _overlaid(random[c], own, names, edges, ".1f", c == 0):
            fig.add_trace(bars, **cell)
    note = "Projections beyond the drawn range are counted in its last bar."
    legend = {"y": 1.0, "yref": "container", "yanchor": "top"}
    style(
        fig, height=110 * rows + 110, aspect=0.17 * rows, extra=80, note=note, barmode="overlay",
        margin={"t": 60, "l": 20}, legend=legend, x={"showgrid": False},
        y={"showticklabels": False, "ticks": "", "showgrid": False},
    )  # fmt: skip
    fig.update_xaxes(title_text="random pairs' standard deviations", row=rows, col=(columns + 1) // 2)
    return _set_titles(fig, 11)


def language_figure(scores: pd.DataFrame, pairs: Sequence[str], limit: int = 8) -> Figure:
    """Concepts by |cosine| with each pair of languages' mean context difference, the largest first.

    Args:
        scores: `pair`, `concept`, `cosine`, `low`, `high`, `level_random`, `matching` of one inner product.
        pairs: a panel each.
        limit: bars per panel.

    Raises:
        KeyError: a column is missing.
    """
    need_columns(scores, "pair", "concept", "cosine", "low", "high", "level_random", "matching")
    columns = min(2, len(pairs))
    rows = -(-len(pairs) // columns)
    spacing = {"horizontal_spacing": 0.24, "vertical_spacing": 0.3 / rows}
    fig, cells = panels(pairs, rows, columns, shared_xaxes=_EVERY_PANEL, **spacing)
    for k, (pair, cell) in enumerate(zip(pairs, cells, strict=False)):
        top = scores[scores["pair"] == pair]
        top = top.reindex(top["cosine"].abs().sort_values(ascending=False).index)[:limit]
        size, sign = top["cosine"].abs().to_numpy(float), np.sign(top["cosine"].to_numpy(float))
        ends = sign * top[["low", "high"]].to_numpy(float).T
        names, whole = list(top["concept"]), "%{y}: %{customdata:.3f}<extra></extra>"
        whiskers = error_bars(size, ends.min(axis=0), ends.max(axis=0), INK, thickness=1.0, width=2)
        colours = [ACCENT if m else BLOCKS[3] for m in top["matching"]]
        look = {"symbol": "line-ns-open", "line": {"width": 2}}
        bars = bar_trace(
            size,
            names,
            None,
            colours,
            hover=whole,
            orientation="h",
            error_x=whiskers,
            customdata=top["cosine"],
        )
        random = dots_trace(
            top["level_random"], names, "95% of random word pairs", MUTED, 12, look=look, showlegend=k == 0,
            hover="random: %{x:.3f}<extra></extra>",
        )  # fmt: skip
        fig.add_trace(bars, **cell).add_trace(random, **cell)
    note = f"The {limit} largest concepts a panel; the matching one is dark. Whiskers: 95% intervals."
    legend = {"yref": "container", "y": 0.99, "yanchor": "top"}  # above the first panels' titles
    style(
        fig, height=190 * rows + 90, aspect=0.24 * rows, extra=100, note=note, margin_t=80, legend=legend,
        x={"rangemode": "tozero"}, y={"showgrid": False, **_NAMES},
    )  # fmt: skip
    for c in range(columns):
        fig.update_xaxes(title_text="|cosine|", row=rows, col=c + 1)
    return _set_titles(fig)


def matching_figure(
    cosines: Float[np.ndarray, "metric item item"], metrics: Sequence[str], items: Sequence[str]
) -> Figure:
    """|Cosines| of context pairs with their own words (dark) over those with all others' (pale).

    Args:
        cosines: rows contexts, columns words; NaN entries are left out.
        metrics: a panel each.
        items: texts of the contexts.
    """
    n, size = len(metrics), np.abs(cosines)
    fig, cells = panels(metrics, n, 1, vertical_spacing=0.3 / n, shared_xaxes=True)
    own = np.eye(size.shape[1], dtype=bool)
    edges = np.linspace(0.0, float(np.nanmax(size)) or 1.0, 41)
    names = ("with others' words", "with its own words")
    for i, (values, cell) in enumerate(zip(size, cells, strict=True)):
        for bars in _overlaid(values[~own], np.diag(values), names, edges, ".3f", i == 0):
            fig.add_trace(bars, **cell)
    style(
        fig, height=130 * n + 110, aspect=0.2 * n, extra=80, note=f"{len(items)} pairs of contexts.",
        barmode="overlay", margin_t=60, y={"tickformat": ".0%", "title_text": "share"},
    )  # fmt: skip
    fig.update_xaxes(title_text="|cosine|", row=n, col=1)
    return _set_titles(fig)
