"""The graph of a world."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
from jaxtyping import Int
from plotly.graph_objects import Figure, Scatter

from graticule.probes.plots.style import INK, MUTED, style


def graph_figure(concepts: int, edges: Int[np.ndarray, "edge 2"]) -> Figure:
    """A directed acyclic graph, parents above their children.

    Args:
        concepts: how many nodes, numbered from 0; shown as C0, C1, …
        edges: parent and child.
    """
    graph: Any = nx.DiGraph()
    graph.add_nodes_from(range(concepts))
    graph.add_edges_from((int(a), int(b)) for a, b in edges)
    for layer, nodes in enumerate(nx.topological_generations(graph)):
        for node in nodes:
            graph.nodes[node]["layer"] = layer
    where = nx.multipartite_layout(graph, subset_key="layer", align="horizontal")
    # nodes of one generation lie on a line; a small alternating offset keeps long edges from passing through
    place = {n: np.array([p[0], -p[1] + 0.06 * (-1) ** k]) for k, (n, p) in enumerate(sorted(where.items()))}
    fig = Figure()
    for a, b in graph.edges:
        fig.add_annotation(
            x=place[b][0],
            y=place[b][1],
            ax=place[a][0],
            ay=place[a][1],
            xref="x",
            yref="y",
            axref="x",
            ayref="y",
            text="",
            showarrow=True,
            arrowhead=2,
            arrowsize=1.1,
            arrowwidth=1.3,
            arrowcolor=MUTED,
            standoff=17,
            startstandoff=17,
        )
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
    style(fig, height=380, aspect=0.42, extra=40)
    fig.update_xaxes(visible=False, range=_span(at[:, 0]))
    fig.update_yaxes(visible=False, range=_span(at[:, 1]))
    return fig


def _span(values: np.ndarray) -> list[float]:
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    room = max(0.2, 0.12 * (high - low))
    return [low - room, high + room]
