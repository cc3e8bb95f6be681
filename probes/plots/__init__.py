"""The figures of findings: pure functions of tables and arrays, each returning a plotly figure.

No figure has a title: captions belong to the page, and `note_of(figure)` says what a caption must add.
"""

from graticule.probes.plots.depth import depth_figure
from graticule.probes.plots.maps import map_figure
from graticule.probes.plots.predictions import (
    block_error_figure,
    class_score_figure,
    confusion_figure,
    scatter_figure,
    time_figure,
)
from graticule.probes.plots.style import note_of, style

__all__ = [
    "block_error_figure",
    "class_score_figure",
    "confusion_figure",
    "depth_figure",
    "map_figure",
    "note_of",
    "scatter_figure",
    "style",
    "time_figure",
]
