"""plotly's names, imported in this one place, undisturbed: its import, and its first figure, add filters.

Histograms are counted here and drawn as bars: plotly's own leave out what lies on the last edge.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from graticule.hooks.imports import as_it_was

with as_it_was():
    from plotly.graph_objects import Bar, Box, Figure, Heatmap, Scatter
    from plotly.io import to_json
    from plotly.offline import get_plotlyjs
    from plotly.subplots import make_subplots

    Figure()

__all__ = [
    "Bar",
    "Box",
    "Figure",
    "Heatmap",
    "Scatter",
    "get_plotlyjs",
    "make_subplots",
    "to_json",
]


def edges_over(values: np.ndarray, bins: int) -> Float[np.ndarray, " edge"]:
    """Edges of equal bins from the least value to the greatest."""
    return np.histogram_bin_edges(np.asarray(values, np.float64), bins)


def edges_of_size(values: np.ndarray, size: float) -> Float[np.ndarray, " edge"]:
    """Edges of bins of a size, one of them at 0, that hold every value."""
    low, high = float(np.min(values)), float(np.max(values))
    edges = size * np.arange(np.floor(low / size), np.floor(high / size) + 2)
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)
    return edges


def counted_bars(
    values: np.ndarray,
    edges: Float[np.ndarray, " edge"],
    *,
    marker: Mapping[str, Any],
    per: float | None = None,
    **drawn: Any,
) -> Bar:
    """A histogram of values, all of them: what lies beyond the edges is in the outer bars.

    Args:
        values: finite.
        edges: of the bars, the last one closed.
        marker: of plotly's `Bar`.
        per: all bars together are this much, 100 for percent; None counts.
        drawn: more of plotly's `Bar`.

    Returns:
        The trace.
    """
    clipped = np.clip(np.asarray(values, np.float64), edges[0], edges[-1])
    counts = np.histogram(clipped, edges)[0]
    share = counts if per is None else per * counts / max(1, len(clipped))
    return Bar(x=(edges[:-1] + edges[1:]) / 2, y=share, width=np.diff(edges), marker=dict(marker), **drawn)
