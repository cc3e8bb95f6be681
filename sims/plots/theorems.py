"""Descents of Theorems 4, 12 and 14 against the limits that the theorems name."""

from __future__ import annotations

import numpy as np
import pandas as pd

from graticule.probes.plots.drawing import Figure, Scatter
from graticule.probes.plots.style import ACCENT, BLOCKS, INK, MUTED, need_columns, plain, style

_COLOURS = {"4": ACCENT, "12": BLOCKS[0], "14": BLOCKS[2]}
_DASHES = ("solid", "dot", "dash")


def descent_figure(curves: pd.DataFrame) -> Figure:
    """Cosine with the limit against the number of steps, from 1 on, a line a series; the limit is 1.

    Args:
        curves: a line a point, with `theorem` (a colour each), `series`, `step` and `cosine`.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(curves, "theorem", "series", "step", "cosine")
    fig = Figure()
    used: dict[str, int] = {}
    for name, rows in curves.groupby("series", sort=False):
        theorem = str(rows["theorem"].iloc[0])
        place = used[theorem] = used.get(theorem, -1) + 1
        drawn = rows[rows["step"] > 0]
        fig.add_trace(
            Scatter(
                x=drawn["step"],
                y=drawn["cosine"],
                mode="lines",
                line={"color": _COLOURS.get(theorem, INK), "width": 2, "dash": _DASHES[place % len(_DASHES)]},
                name=str(name),
                hovertemplate="step %{x:,}<br>cosine %{y:.5f}<extra>" + plain(name) + "</extra>",
            )
        )
    fig.add_hline(y=1, line={"color": MUTED, "width": 1, "dash": "dash"})
    style(
        fig,
        height=440,
        aspect=0.5,
        extra=90,
        note="The dashed line is the limit. For Theorem 4 the cosine is the least over steering vectors, "
        "with the hard-margin direction in closed form; for Theorem 14 likewise.",
    )
    last = int(curves["step"].max())
    fig.update_xaxes(type="log", title_text="updates", showgrid=False, dtick=1, range=[0, np.log10(last)])
    low = float(curves.loc[curves["step"] > 0, "cosine"].min())
    fig.update_yaxes(title_text="cosine with the limit's direction", range=[min(low, 0.0) - 0.05, 1.06])
    return fig
