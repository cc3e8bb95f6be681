"""Figures of trained tables: ours beside the paper, cosines, tokens, dimensions and scales, graphs."""

from __future__ import annotations

from itertools import combinations, product
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np
import pandas as pd
from jaxtyping import Int

from graticule.probes.plots.primitives import dots_trace, heat_trace, line_trace, new_figure, panels
from graticule.probes.plots.style import ACCENT, FAINT, INK, MUTED, SURFACE, need_columns, rows_axis, style

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_GREEN = "#117733"
VIEWS = {"unembedding": ACCENT, "embedding": SURFACE, "mixed": _GREEN}
"""View of steering vectors → colour."""
VIEW_TITLES = ["unembedding", "embedding", "unembedding with embedding"]
_SCALE = [[0.0, SURFACE], [0.5, "#ffffff"], [1.0, ACCENT]]
_GENERATION = 72
"""Pixels between two generations, at least: nodes are 34 across."""
_ARROW = {
    "xref": "x",
    "yref": "y",
    "axref": "x",
    "ayref": "y",
    "showarrow": True,
    "arrowhead": 2,
    "arrowsize": 1.1,
    "arrowwidth": 1.3,
    "arrowcolor": MUTED,
    "standoff": 17,
    "startstandoff": 17,
}


def paper_figure(paper: pd.DataFrame) -> Figure:
    """Ours beside the paper's, one row per setting and view, with two standard errors each.

    Args:
        paper: `setting`, `what`, `ours`, `ours_se`, `paper`, `paper_se`.

    Raises:
        KeyError: If a column is missing.
    """
    need_columns(paper, "setting", "what", "ours", "ours_se", "paper", "paper_se")
    labels = [f"{s} · {w}" for s, w in zip(paper["setting"], paper["what"], strict=True)]
    rows = np.arange(len(paper))[::-1]
    fig = new_figure()
    for name, colour, symbol, shift in (
        ("paper", MUTED, "diamond-open", 0.14),
        ("ours", ACCENT, "circle", -0.14),
    ):
        bars, look = _two_errors(paper[f"{name}_se"], color=colour), {"symbol": symbol}
        hover = f"{name} %{{x:.3f}}<extra></extra>"
        fig.add_trace(
            dots_trace(paper[name], rows + shift, name, colour, look=look, error_x=bars, hover=hover)
        )
    note = "Bars: two standard errors, where they are stated."
    up = rows_axis(labels[::-1], 0.6, 0.4)
    return style(fig, height=120 + 24 * len(paper), note=note, x="mean cosine within a concept", y=up)


def concept_cosines_figure(heat: pd.DataFrame) -> Figure:
    """Mean cosines of two concepts' sets, by view; the diagonal is within a concept.

    Args:
        heat: `view`, `i`, `j`, `mean`; the view `log_odds` is left out.

    Raises:
        KeyError: If a column is missing.
    """
    need_columns(heat, "view", "i", "j", "mean")
    fig, cells = panels(VIEW_TITLES, horizontal_spacing=0.05)
    hover = "%{y} with %{x}<br>cosine %{z:.3f}<extra></extra>"
    for view, cell in zip(VIEWS, cells, strict=True):
        grid = heat[heat["view"] == view].pivot(index="i", columns="j", values="mean").to_numpy(float)
        names = [f"C{k}" for k in range(len(grid))]
        written = [[f"{round(v, 2) + 0.0:z.2f}" if np.isfinite(v) else "" for v in row] for row in grid]
        look: dict[str, Any] = {"bar": "cosine", "textfont": {"size": 9}, "showscale": cell["col"] == 3}
        look["texts"] = written if len(grid) <= 7 else None
        fig.add_trace(heat_trace(grid, names, names, _SCALE, (-1, 1), hover, **look), **cell)
    across = {"showgrid": False, "tickfont": {"size": 11}}
    up = {"autorange": "reversed", **across}
    return style(fig, height=340, aspect=0.36, extra=70, margin_t=36, x=across, y=up)


def tokens_figure(points: pd.DataFrame) -> Figure:
    """Unembeddings of three concepts' eight tokens, a panel per setting, in their first two principal axes.

    Edges join tokens that differ in one concept; filled marks have C1 = 1.

    Args:
        points: `setting`, `token`, `c1` … `c3`, `x`, `y`, `z`.

    Raises:
        KeyError: If a column is missing.
    """
    need_columns(points, "setting", "token", "c1", "x", "y", "z")
    settings = list(dict.fromkeys(points["setting"]))
    fig, cells = panels(settings, horizontal_spacing=0.05)
    for setting, cell in zip(settings, cells, strict=True):
        part = points[points["setting"] == setting].reset_index(drop=True)
        rows = part[["x", "y", "z"]].to_numpy(float)
        rows = rows - rows.mean(axis=0)
        at = rows @ np.linalg.svd(rows, full_matrices=False)[2][:2].T
        for a, b in combinations(range(len(part)), 2):
            differ = [k for k in range(3) if part["token"][a][k] != part["token"][b][k]]
            if len(differ) == 1:
                name, colour = f"C{differ[0]}", (ACCENT, SURFACE, FAINT)[differ[0]]
                legend: dict[str, Any] = {
                    "legendgroup": name,
                    "showlegend": cell["col"] == 1 and part["token"][a] == "000",
                }
                edge = line_trace(at[[a, b], 0], at[[a, b], 1], name, colour, 1.4, hover="", **legend)
                fig.add_trace(edge, **cell)
        text: dict[str, Any] = {"text": part["token"], "textposition": "top center", "textfont": {"size": 10}}
        text |= {"mode": "markers+text", "cliponaxis": False, "hover": "%{text}<extra></extra>"}
        colours, look = [INK if c else "white" for c in part["c1"]], {"line": {"color": INK, "width": 1.3}}
        fig.add_trace(dots_trace(at[:, 0], at[:, 1], None, colours, 8, look=look, **text), **cell)
    note = "Lines join tokens that differ in one concept; filled: C1 = 1. First two principal axes of each."
    bare = {"showticklabels": False, "ticks": ""}
    return style(
        fig, height=380, aspect=0.4, extra=70, note=note, margin_t=44, legend={"y": -0.08, "yanchor": "top"},
        x=bare, y=bare,
    )  # fmt: skip


def scales_figure(settings: pd.DataFrame, view: str = "unembedding") -> Figure:
    """Mean cosine by dimension over concepts: a panel per optimiser and number of concepts, a line per
    initial scale.

    Args:
        settings: `concepts`, `optimizer`, `ratio` (d / m), `scale`, the `view` and its `_se`.

    Raises:
        KeyError: If a column is missing.
    """
    need_columns(settings, "concepts", "optimizer", "ratio", "scale", view, f"{view}_se")
    sizes, kinds = sorted(set(settings["concepts"])), list(dict.fromkeys(settings["optimizer"]))
    titles = [f"{kind}, m = {m}" for m in sizes for kind in kinds]
    shared: dict[str, Any] = {"shared_yaxes": True, "shared_xaxes": True}
    fig, cells = panels(titles, len(sizes), horizontal_spacing=0.03, vertical_spacing=0.1, **shared)
    for k, scale in enumerate(sorted(set(settings["scale"]), reverse=True)):
        for (m, kind), cell in zip(product(sizes, kinds), cells, strict=True):
            chosen = (settings["concepts"] == m) & (settings["optimizer"] == kind)
            part = settings[chosen & (settings["scale"] == scale)].sort_values("ratio")
            name, colour = f"initial scale × {scale:g}", (ACCENT, SURFACE, _GREEN, INK)[k % 4]
            more: dict[str, Any] = {"mode": "lines+markers", "legendgroup": str(scale)}
            more |= {"showlegend": cell == cells[0], "error_y": _two_errors(part[f"{view}_se"])}
            more["hover"] = "d/m %{x:.2f}<br>cosine %{y:.3f}<extra></extra>"
            fig.add_trace(line_trace(part["ratio"], part[view], name, colour, 2, **more), **cell)
    # error bars of few runs reach beyond any cosine
    low = float(settings[view].min())
    style(
        fig, height=120 + 240 * len(sizes), aspect=0.34 * len(sizes), extra=90, margin_t=64,
        legend_y=1.14 if len(sizes) == 1 else 1.09,
        x={"type": "log", "tickvals": [0.5, 0.75, 1, 2, 4], "ticktext": ["½", "¾", "1", "2", "4"]},
        y={"range": [min(0.0, low) if low < 0.3 else low - 0.1, 1.03]},
    )  # fmt: skip
    fig.update_xaxes(title_text="dimensions over concepts", row=len(sizes))
    fig.update_yaxes(title_text="mean cosine", col=1)
    return fig


def graph_figure(concepts: int, edges: Int[np.ndarray, "edge 2"]) -> Figure:
    """A directed acyclic graph, parents above their children.

    Args:
        concepts: how many nodes, numbered from 0; shown as C0, C1, …
        edges: parent and child.
    """
    graph: Any = nx.DiGraph()
    graph.add_nodes_from(range(concepts))
    graph.add_edges_from((int(a), int(b)) for a, b in edges)
    generations = [sorted(nodes) for nodes in nx.topological_generations(graph)]
    place = _places(generations)
    ends = [(place[a], place[b]) for a, b in graph.edges]
    arrows = [{"x": b[0], "y": b[1], "ax": a[0], "ay": a[1], "text": ""} | _ARROW for a, b in ends]
    at = np.array([place[n] for n in range(concepts)]).reshape(-1, 2)
    text: dict[str, Any] = {"text": [f"C{n}" for n in range(concepts)], "textfont": {"size": 13}}
    text |= {"mode": "markers+text", "look": {"line": {"color": INK, "width": 1.5}}, "hover": ""}
    fig = new_figure(dots_trace(at[:, 0], at[:, 1], None, "white", 34, **text))
    deeper = max(0, _GENERATION * len(generations) - 380)  # pixels, so that no two generations touch
    across, up = ({"visible": False, "range": _span(at[:, k])} for k in (0, 1))
    return style(fig, height=380 + deeper, aspect=0.42, extra=40 + deeper, annotations=arrows, x=across, y=up)


def _two_errors(error: pd.Series, **look: str) -> dict[str, Any]:
    return {"array": 2 * error.fillna(0.0), **look, "thickness": 1.2, "width": 3}


def _places(generations: list[list[int]]) -> dict[int, tuple[float, float]]:
    """Where each node lies: a generation on a line, their middles on an arc, so that an edge over several
    generations does not run through the nodes between."""
    last = max(len(generations) - 1, 1)
    out: dict[int, tuple[float, float]] = {}
    for layer, nodes in enumerate(generations):
        aside = 0.3 * last * np.sqrt(1 - (1 - 2 * layer / last) ** 2)
        for k, node in enumerate(nodes):
            out[node] = (float(k - (len(nodes) - 1) / 2 - aside), -layer + 0.06 * (-1) ** k)
    return out


def _span(values: np.ndarray) -> list[float]:
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    room = max(0.2, 0.12 * (high - low))
    return [low - room, high + room]
