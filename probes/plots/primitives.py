"""Traces and axes that several figures draw with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graticule.probes.plots.drawing import Figure, Scatter


def line_trace(x: Any, y: Any, name: str, colour: str, **more: Any) -> Scatter:
    """A line with a small mark at every value, unless `more` has it otherwise."""
    look = {"marker": {"size": 5, "color": colour}, "line": {"color": colour, "width": 2.5}}
    return Scatter(x=x, y=y, name=name, **{"mode": "lines+markers", **look, **more})


def bare_line(colour: str, dash: str | None = None) -> dict[str, Any]:
    """What makes a `line_trace` thin and without marks."""
    line = {"color": colour, "width": 1.5, **({"dash": dash} if dash else {})}
    return {"mode": "lines", "line": line}


def log_axis(fig: Figure, ticks: Sequence[int], title: str) -> None:
    """Let the horizontal axis of a styled figure be logarithmic, with these ticks alone."""
    fig.update_xaxes(
        type="log",
        tickvals=list(ticks),
        ticktext=[str(k) for k in ticks],
        title_text=title,
        showgrid=False,
        tickangle=0,
    )
