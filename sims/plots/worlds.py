"""The graph of a world."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
from jaxtyping import Int

from graticule.probes.plots.drawing import Figure, Scatter
from graticule.probes.plots.style import INK, MUTED, style

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
