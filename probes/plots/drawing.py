"""plotly's names, imported in this one place, undisturbed: its import, and its first figure, add filters."""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from graticule.hooks.imports import as_it_was
from graticule.probes.plots.style import Markup, escaped

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
    "figure_json",
    "get_plotlyjs",
    "make_subplots",
]

_OURS = ("hovertemplate", "texttemplate")


def figure_json(figure: Figure) -> str:
    """`figure` as JSON in which all text from outside is text."""
    spec = cast("dict[str, Any]", figure.to_dict())
    return str(to_json(_as_text(spec), validate=False))


def _as_text(value: Any) -> Any:
    if isinstance(value, Markup):
        return str(value)
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value).items()
        return {key: inner if key in _OURS else _as_text(inner) for key, inner in items}
    if isinstance(value, np.ndarray):
        return value if value.dtype.kind in "biufcmM" else _as_text(value.tolist())
    if isinstance(value, list | tuple):
        return [_as_text(inner) for inner in cast("list[Any]", value)]
    return value
