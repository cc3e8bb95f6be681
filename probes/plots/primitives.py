"""What figures are made of: lines, dots, bands, histograms, heat maps, marked values: traces as dicts.

Importing it loads no plotly: that happens with the first figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.probes.plots.style import (
    ACCENT,
    BLOCKS,
    MUTED,
    block_colours,
    short,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PlotTrace = dict[str, Any]
"""A trace as plotly reads it."""
Number = int | float


# Figures ---------------------------------------------------------------------------------------------
def new_figure(*traces: PlotTrace) -> Figure:
    """A figure of these traces."""
    from graticule.probes.plots.drawing import Figure

    return Figure(list(traces))


def panels(
    titles: Sequence[str] = (), rows: int = 1, columns: int = 0, **spacing: Any
) -> tuple[Figure, list[dict[str, Any]]]:
    """A grid of panels.

    Args:
        titles: Above the panels; none for panels without.
        rows: Of the grid.
        columns: Of the grid; by default as many as the titles need.
        spacing: More of plotly's `make_subplots`.

    Returns:
        The figure, and where each panel is, row by row, for `add_trace`.
    """
    from graticule.probes.plots.drawing import make_subplots

    columns = columns or -(-len(titles) // rows)
    fig = make_subplots(rows=rows, cols=columns, subplot_titles=list(titles) or None, **spacing)
    return fig, [{"row": k // columns + 1, "col": k % columns + 1} for k in range(rows * columns)]


# Traces ----------------------------------------------------------------------------------------------
def line_trace(
    x: Any, y: Any, name: str | None, colour: str, width: Number = 2.5, *, dash: str | None = None,
    size: Number | None = None, hover: str | None = None, **more: Any,
) -> PlotTrace:  # fmt: skip
    """A line.

    Args:
        x: Places.
        y: Values.
        name: In the legend; None keeps it out.
        colour: Of line and marks.
        width: Of the line.
        dash: Of the line.
        size: Of a mark at every value; None draws none.
        hover: Template of the text under the pointer; empty for none.
        more: Of plotly's `Scatter`, before all else.
    """
    line: PlotTrace = {"color": colour, "width": width} | ({"dash": dash} if dash else {})
    marks: PlotTrace = {"mode": "lines"}
    if size is not None:
        marks = {"mode": "lines+markers", "marker": {"size": size, "color": colour}}
    return {"type": "scatter", "x": x, "y": y, "line": line, **marks, **_texts(name, hover), **more}


def dots_trace(
    x: Any, y: Any, name: str | None, colour: Any, size: Any = 9, *, look: Mapping[str, Any] | None = None,
    hover: str | None = None, **more: Any,
) -> PlotTrace:  # fmt: skip
    """Marks alone; their intervals are `error_x=` or `error_y=` of `error_bars`.

    Args:
        x: Places.
        y: Values.
        name: In the legend; None keeps it out.
        colour: Of the marks, or one each.
        size: Of the marks, or one each.
        look: More of plotly's marker.
        hover: Template of the text under the pointer; empty for none.
        more: Of plotly's `Scatter`, before all else.
    """
    marker = {"size": size, "color": colour, **(look or {})}
    return {
        "type": "scatter", "x": x, "y": y, "mode": "markers", "marker": marker, **_texts(name, hover), **more
    }  # fmt: skip


def mark_trace(
    x: Any, y: Any, name: str | None, colour: str = ACCENT, size: int = 12, *, hover: str | None = None,
    **more: Any,
) -> PlotTrace:  # fmt: skip
    """The one of many that was chosen, as a diamond."""
    look = {"symbol": "diamond", "line": {"color": "white", "width": 1}}
    return dots_trace(x, y, name, colour, size, look=look, hover=hover, **more)


def bar_trace(
    x: Any, y: Any, name: str | None, colour: Any, *, hover: str | None = None, **more: Any
) -> PlotTrace:
    """Bars; lying ones with `orientation="h"`."""
    return {"type": "bar", "x": x, "y": y, "marker": {"color": colour}, **_texts(name, hover), **more}


def band_traces(x: Any, low: Any, high: Any, name: str, fill: str) -> list[PlotTrace]:
    """The space between two curves."""
    edge: PlotTrace = {"type": "scatter", "x": x, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    between = {"fill": "tonexty", "fillcolor": fill, "name": name, "showlegend": True}
    return [{**edge, "y": high, "showlegend": False}, {**edge, **between, "y": low}]


def heat_trace(
    z: Any, x: Any, y: Any, scale: Any, span: tuple[Any, Any], hover: str, *, bar: Any = None,
    texts: Any = None, gap: Number | None = None, **more: Any,
) -> PlotTrace:  # fmt: skip
    """A heat map.

    Args:
        z: Values.
        x: Names of the columns.
        y: Names of the rows.
        scale: Of colours.
        span: Least and greatest value of the scale.
        hover: Template of the text under the pointer.
        bar: Title of the colour bar.
        texts: Written into the cells.
        gap: Between cells, in pixels.
        more: Of plotly's `Heatmap`, before all else.
    """
    written: PlotTrace = {} if texts is None else {"text": texts, "texttemplate": "%{text}"}
    between: PlotTrace = {} if gap is None else {"xgap": gap, "ygap": gap}
    colours = {"zmin": span[0], "zmax": span[1], "colorscale": scale}
    side = {"colorbar": {"thickness": 12} | ({"title": {"text": bar}} if bar else {})}
    trace = {"type": "heatmap", "z": z, "x": x, "y": y, "hovertemplate": hover}
    return {**trace, **colours, **side, **written, **between, **more}


def _texts(name: str | None, hover: str | None) -> PlotTrace:
    legend: PlotTrace = {"showlegend": False} if name is None else {"name": name}
    if hover is None:
        return legend
    return {**legend, **({"hovertemplate": hover} if hover else {"hoverinfo": "skip"})}


# Histograms: counted here and drawn as bars, as plotly's own leave out what lies on the last edge -------
def edges_over(values: np.ndarray, bins: int) -> Float[np.ndarray, " edge"]:
    """Edges of equal bins from the least value to the greatest."""
    return np.histogram_bin_edges(np.asarray(values, np.float64), bins)


def edges_of_size(values: np.ndarray, size: float) -> Float[np.ndarray, " edge"]:
    """Edges of bins of a size, one of them at 0, that hold every value."""
    low, high = float(np.min(values)), float(np.max(values))
    edges = size * np.arange(np.floor(low / size), np.floor(high / size) + 2)
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)
    return edges


def histogram_trace(
    values: np.ndarray, edges: Float[np.ndarray, " edge"], name: str | None, colour: str, *,
    outline: Number = 0, per: Number | None = None, hover: str | None = None, **more: Any,
) -> PlotTrace:  # fmt: skip
    """A histogram of values, all of them: what lies beyond the edges is in the outer bars.

    Args:
        values: Finite.
        edges: Of the bars, the last one closed.
        name: In the legend; None keeps it out.
        colour: Of the bars.
        outline: Width of a white line around each bar.
        per: All bars together are this much, 100 for percent; None counts.
        hover: Template of the text under the pointer.
        more: Of plotly's `Bar`, before all else.
    """
    clipped = np.clip(np.asarray(values, np.float64), edges[0], edges[-1])
    counts = np.histogram(clipped, edges)[0]
    share = counts if per is None else per * counts / max(1, len(clipped))
    marker = {"color": colour, "line": {"width": outline} | ({"color": "white"} if outline else {})}
    shape = {"width": np.diff(edges), "marker": marker}
    return bar_trace((edges[:-1] + edges[1:]) / 2, share, name, colour, hover=hover, **{**shape, **more})


# Blocks ----------------------------------------------------------------------------------------------
def by_block(rows: pd.DataFrame, block: str | None, drawn: pd.DataFrame | None = None) -> (
    Iterator[tuple[str | None, str, pd.DataFrame]]
):  # fmt: skip
    """The rows of every block with its colour; all rows in one colour where there are no blocks.

    Args:
        rows: All rows: the largest blocks of these have a colour each.
        block: Column of groups; None for one colour.
        drawn: Those of the rows that are drawn; all by default.

    Yields:
        A legend name (None without blocks), its colour, its drawn rows.
    """
    drawn = rows if drawn is None else drawn
    if block is None:
        yield None, BLOCKS[0], drawn
        return
    colours, groups = block_colours(rows[block])
    for name, colour in colours.items():
        yield short(name), colour, drawn[groups[drawn.index] == name]


def is_of_names(rows: pd.DataFrame, block: str | None) -> bool:
    """Whether a block's values are names; numbers (a century) are left to an axis."""
    return block is not None and not pd.api.types.is_numeric_dtype(rows[block])


def median_trace(x: np.ndarray, y: np.ndarray, name: str, hover: str) -> list[PlotTrace]:
    """The median of y in twenty equal-count bins of x; nothing for fewer than a hundred rows."""
    if len(x) < 100:
        return []
    bins = np.array_split(np.argsort(x, kind="stable"), 20)
    across, up = ([float(np.median(values[b])) for b in bins] for values in (x, y))
    return [line_trace(across, up, name, ACCENT, hover=hover)]


# Marked values ---------------------------------------------------------------------------------------
def level(
    fig: Figure, *, x: Any = None, y: Any = None, colour: str = MUTED, width: Number = 1,
    dash: str | None = "dot", **more: Any,
) -> None:  # fmt: skip
    """A line across the whole figure at a value of `x` or of `y`, in every panel."""
    line = {"color": colour, "width": width} | ({"dash": dash} if dash else {})
    if x is not None:
        fig.add_vline(x=x, line=line, **more)
    if y is not None:
        fig.add_hline(y=y, line=line, **more)


def named_level(
    fig: Figure, y: float, text: str, colour: str, dash: str = "dash", *, x: float = 0.0, below: bool = False
) -> None:
    """A horizontal line with its name at the left end."""
    level(fig, y=y, colour=colour, width=1.5, dash=dash)
    place: PlotTrace = {"x": x, "xref": "paper", "xanchor": "left", "y": y}
    look: PlotTrace = {"showarrow": False, "font": {"size": 12, "color": colour}}
    fig.add_annotation(text=text, yanchor="top" if below else "bottom", **place, **look)


def named_place(fig: Figure, x: float, text: str, colour: str, y: float, middle: float) -> None:
    """A vertical line on a logarithmic axis, with its text on the side where the figure has more room."""
    left = x <= middle
    level(fig, x=x, colour=colour, width=1.5, dash="dash")
    side: PlotTrace = {"xanchor": "left" if left else "right", "xshift": 4 if left else -4}
    look: PlotTrace = {"font": {"size": 12, "color": colour}, "bgcolor": "rgba(255,255,255,0.8)"}
    fig.add_annotation(x=np.log10(x), y=y, text=text, showarrow=False, **side, **look)


def legend_line(name: str, colour: str, width: Number, dash: str | None = None) -> PlotTrace:
    """An entry of the legend for a line that is no trace."""
    return line_trace([None], [None], name, colour, width, dash=dash)
