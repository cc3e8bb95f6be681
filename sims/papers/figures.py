"""Figures of trained tables: ours beside the paper, cosines, tokens, dimensions and scales, graphs."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
from jaxtyping import Int

from graticule.probes.plots.drawing import Figure, Heatmap, Scatter, make_subplots
from graticule.probes.plots.style import (
    ACCENT,
    FAINT,
    INK,
    MUTED,
    SURFACE,
    need_columns,
    style,
)

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
    fig = Figure()
    for name, colour, symbol, shift in (
        ("paper", MUTED, "diamond-open", 0.14),
        ("ours", ACCENT, "circle", -0.14),
    ):
        fig.add_trace(
            Scatter(
                x=paper[name],
                y=rows + shift,
                mode="markers",
                name=name,
                marker={"symbol": symbol, "size": 9, "color": colour},
                error_x=_two_errors(paper[f"{name}_se"], color=colour),
                hovertemplate=f"{name} %{{x:.3f}}<extra></extra>",
            )
        )
    style(fig, height=120 + 24 * len(paper), note="Bars: two standard errors, where they are stated.")
    fig.update_xaxes(title_text="mean cosine within a concept")
    fig.update_yaxes(tickvals=rows, ticktext=labels, range=[-0.6, len(paper) - 0.4])
    return fig


def concept_cosines_figure(heat: pd.DataFrame) -> Figure:
    """Mean cosines of two concepts' sets, by view; the diagonal is within a concept.

    Args:
        heat: `view`, `i`, `j`, `mean`; the view `log_odds` is left out.

    Raises:
        KeyError: If a column is missing.
    """
    need_columns(heat, "view", "i", "j", "mean")
    fig: Figure = make_subplots(cols=3, subplot_titles=VIEW_TITLES, horizontal_spacing=0.05)
    for col, view in enumerate(VIEWS, start=1):
        grid = heat[heat["view"] == view].pivot(index="i", columns="j", values="mean").to_numpy(float)
        names = [f"C{k}" for k in range(len(grid))]
        written = [[f"{round(v, 2) + 0.0:.2f}" if np.isfinite(v) else "" for v in row] for row in grid]
        trace = Heatmap(
            z=grid,
            x=names,
            y=names,
            zmin=-1,
            zmax=1,
            colorscale=_SCALE,
            showscale=col == 3,
            colorbar={"title": {"text": "cosine"}, "thickness": 12},
            text=written if len(grid) <= 7 else None,
            texttemplate="%{text}" if len(grid) <= 7 else None,
            textfont={"size": 9},
            hovertemplate="%{y} with %{x}<br>cosine %{z:.3f}<extra></extra>",
        )
        fig.add_trace(trace, row=1, col=col)
    style(fig, height=340, aspect=0.36, extra=70)
    fig.update_layout(margin={"t": 36})
    fig.update_xaxes(showgrid=False, tickfont={"size": 11})
    fig.update_yaxes(showgrid=False, autorange="reversed", tickfont={"size": 11})
    return fig


def tokens_figure(points: pd.DataFrame) -> Figure:
    """Unembeddings of three concepts' eight tokens, a panel per setting, in their first two principal axes.

    Edges join tokens that differ in one concept; filled marks have C1 = 1.

    Args:
        points: `setting`, `token`, `c1` … `c3`, `x`, `y`, `z`.

    Raises:
        KeyError: If a column is missing.
    """
    need_columns(points, "setting", "token", "c1", "x", "y", "z")
    panels = list(dict.fromkeys(points["setting"]))
    fig: Figure = make_subplots(cols=len(panels), subplot_titles=panels, horizontal_spacing=0.05)
    for col, panel in enumerate(panels, start=1):
        part = points[points["setting"] == panel].reset_index(drop=True)
        rows = part[["x", "y", "z"]].to_numpy(float)
        rows = rows - rows.mean(axis=0)
        at = rows @ np.linalg.svd(rows, full_matrices=False)[2][:2].T
        for a, b in combinations(range(len(part)), 2):
            differ = [k for k in range(3) if part["token"][a][k] != part["token"][b][k]]
            if len(differ) == 1:
                edge = Scatter(
                    x=at[[a, b], 0],
                    y=at[[a, b], 1],
                    mode="lines",
                    line={"color": (ACCENT, SURFACE, FAINT)[differ[0]], "width": 1.4},
                    name=f"C{differ[0]}",
                    legendgroup=f"C{differ[0]}",
                    showlegend=col == 1 and part["token"][a] == "000",
                    hoverinfo="skip",
                )
                fig.add_trace(edge, row=1, col=col)
        marks = Scatter(
            x=at[:, 0],
            y=at[:, 1],
            mode="markers+text",
            text=part["token"],
            textposition="top center",
            textfont={"size": 10},
            cliponaxis=False,
            showlegend=False,
            marker={
                "size": 8,
                "color": [INK if c else "white" for c in part["c1"]],
                "line": {"color": INK, "width": 1.3},
            },
            hovertemplate="%{text}<extra></extra>",
        )
        fig.add_trace(marks, row=1, col=col)
    note = "Lines join tokens that differ in one concept; filled: C1 = 1. First two principal axes of each."
    style(fig, height=380, aspect=0.4, extra=70, note=note)
    fig.update_layout(margin={"t": 44}, legend={"y": -0.08, "yanchor": "top"})
    fig.update_xaxes(showticklabels=False, ticks="")
    fig.update_yaxes(showticklabels=False, ticks="")
    return fig


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
    fig: Figure = make_subplots(
        rows=len(sizes),
        cols=len(kinds),
        subplot_titles=[f"{kind}, m = {m}" for m in sizes for kind in kinds],
        shared_yaxes=True,
        shared_xaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.1,
    )
    for k, scale in enumerate(sorted(set(settings["scale"]), reverse=True)):
        for row, m in enumerate(sizes, start=1):
            for col, kind in enumerate(kinds, start=1):
                chosen = (settings["concepts"] == m) & (settings["optimizer"] == kind)
                part = settings[chosen & (settings["scale"] == scale)].sort_values("ratio")
                trace = Scatter(
                    x=part["ratio"],
                    y=part[view],
                    mode="lines+markers",
                    name=f"initial scale × {scale:g}",
                    legendgroup=str(scale),
                    showlegend=row == col == 1,
                    line={"color": (ACCENT, SURFACE, _GREEN, INK)[k % 4], "width": 2},
                    error_y=_two_errors(part[f"{view}_se"]),
                    hovertemplate="d/m %{x:.2f}<br>cosine %{y:.3f}<extra></extra>",
                )
                fig.add_trace(trace, row=row, col=col)
    style(fig, height=120 + 240 * len(sizes), aspect=0.34 * len(sizes), extra=90)
    fig.update_layout(margin={"t": 64}, legend={"y": 1.14 if len(sizes) == 1 else 1.09})
    fig.update_xaxes(type="log", tickvals=[0.5, 0.75, 1, 2, 4], ticktext=["½", "¾", "1", "2", "4"])
    for col in range(1, len(kinds) + 1):
        fig.update_xaxes(title_text="dimensions over concepts", row=len(sizes), col=col)
    # error bars of few runs reach beyond any cosine
    low = float(settings[view].min())
    fig.update_yaxes(range=[min(0.0, low) if low < 0.3 else low - 0.1, 1.03])
    for row in range(1, len(sizes) + 1):
        fig.update_yaxes(title_text="mean cosine", row=row, col=1)
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
    fig = Figure()
    ends = [(place[a], place[b]) for a, b in graph.edges]
    arrows = [{"x": b[0], "y": b[1], "ax": a[0], "ay": a[1], "text": ""} | _ARROW for a, b in ends]
    fig.update_layout(annotations=arrows)
    at = np.array([place[n] for n in range(concepts)]).reshape(-1, 2)
    fig.add_trace(
        Scatter(
            x=at[:, 0],
            y=at[:, 1],
            mode="markers+text",
            text=[f"C{n}" for n in range(concepts)],
            marker={"size": 34, "color": "white", "line": {"color": INK, "width": 1.5}},
            textfont={"size": 13},
            hoverinfo="skip",
            showlegend=False,
        )
    )
    deeper = max(0, _GENERATION * len(generations) - 380)  # pixels, so that no two generations touch
    style(fig, height=380 + deeper, aspect=0.42, extra=40 + deeper)
    fig.update_xaxes(visible=False, range=_span(at[:, 0]))
    fig.update_yaxes(visible=False, range=_span(at[:, 1]))
    return fig


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
