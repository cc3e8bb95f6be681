"""The drawing of a world's graph, in pixels of a page 940 wide."""

import numpy as np
import pytest

from graticule.sims.papers.figures import graph_figure

RADIUS = 17


def dag(concepts, probability, seed=0):
    rng = np.random.default_rng(seed)
    pairs = [(i, j) for i in range(concepts) for j in range(i + 1, concepts) if rng.random() < probability]
    return np.array(pairs, dtype=int).reshape(-1, 2)


def pixels(figure):
    layout = figure.layout
    margin = layout.margin
    wide = 940 - margin.l - margin.r
    high = 940 * layout.meta["aspect"] + layout.meta["extra"] - margin.t - margin.b
    (left, right), (low, top) = layout.xaxis.range, layout.yaxis.range
    x, y = np.array(figure.data[0].x), np.array(figure.data[0].y)
    return np.stack([(x - left) / (right - left) * wide, (top - y) / (top - low) * high], axis=1)


@pytest.mark.parametrize("concepts", [1, 2, 3, 7, 10])
@pytest.mark.parametrize("probability", [0.0, 0.3, 0.6, 1.0])
def test_nodes_lie_apart_and_parents_above_their_children(concepts, probability):
    for seed in range(4):
        edges = dag(concepts, probability, seed)
        figure = graph_figure(concepts, edges)
        at = pixels(figure)
        apart = np.linalg.norm(at[:, None] - at, axis=-1)[~np.eye(concepts, dtype=bool)]
        assert (apart > 2 * RADIUS).all()
        assert all(at[a, 1] < at[b, 1] for a, b in edges)
        assert len(figure.layout.annotations) == len(edges)
        assert list(figure.data[0].text) == [f"C{n}" for n in range(concepts)]


@pytest.mark.parametrize("concepts", range(3, 11))
def test_of_a_dense_graph_no_edge_runs_through_a_node(concepts):
    edges = dag(concepts, 1.0)
    at = pixels(graph_figure(concepts, edges))
    for a, b in edges:
        along = (at[b] - at[a]) / np.linalg.norm(at[b] - at[a])
        for node in set(range(concepts)) - {a, b}:
            away = at[node] - at[a]
            assert abs(along[0] * away[1] - along[1] * away[0]) > 0.6 * RADIUS, (a, b, node)
