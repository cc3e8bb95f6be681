"""plotly's names, imported in this one place, undisturbed: its import, and its first figure, add filters."""

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
