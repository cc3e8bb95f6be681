"""How often a gain would be seen, by test rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from graticule.probes.plots.primitives import level, line_trace, named_place, new_figure
from graticule.probes.plots.style import ACCENT, FAINT, INK, MUTED, log_axis, need_columns, style
from graticule.probes.plots.style import SURFACE as SURFACE_COLOUR

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def power_figure(curve: pd.DataFrame, rows: int) -> Figure:
    """A line for each gain over test rows, with the number that there are marked.

    Args:
        curve: one line a pair of `gain` and `rows`, with the `power`.
        rows: of the test part.

    Returns:
        The figure.
    """
    need_columns(curve, "gain", "rows", "power")
    fig = new_figure()
    for colour, (gain, line) in zip((INK, SURFACE_COLOUR, MUTED), curve.groupby("gain"), strict=False):
        fig.add_trace(line_trace(line["rows"], line["power"], f"a gain of {gain:.2g}", colour, 2))
    ticks = [10.0**k for k in range(1, 7) if curve["rows"].min() <= 10**k <= curve["rows"].max()]
    across = log_axis(ticks, "test rows", [f"{tick:,.0f}" for tick in ticks])
    up = {"title_text": "interval above 0", "range": [-0.02, 1.02], "tickformat": ".0%"}
    style(fig, height=320, x=across, y=up)
    level(fig, y=0.8, colour=FAINT)
    middle = float(np.sqrt(curve["rows"].min() * curve["rows"].max()))
    named_place(fig, float(rows), "these test rows", ACCENT, 0.95, middle)
    return fig
