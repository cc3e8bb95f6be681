"""What figures are made of: lines, chosen marks, dots with intervals, bands, named levels, log axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graticule.probes.plots.drawing import Figure, Scatter
from graticule.probes.plots.style import ACCENT, diamond, error_bars


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


def mark_trace(x: Any, y: Any, name: str, colour: str = ACCENT, size: int = 12, **more: Any) -> Scatter:
    """The one of many that was chosen, as a diamond."""
    return Scatter(x=x, y=y, mode="markers", marker=diamond(colour, size), name=name, **more)


def dots_trace(x: Any, y: Any, low: Any, high: Any, colour: str, width: int = 4, **more: Any) -> Scatter:
    """Dots with horizontal intervals, unnamed unless `more` has it otherwise."""
    look = {"mode": "markers", "marker": {"size": 9, "color": colour}, "showlegend": False}
    return Scatter(x=x, y=y, error_x=error_bars(x, low, high, colour, width=width), **{**look, **more})


def band_traces(x: Any, low: Any, high: Any, name: str, fill: str) -> list[Scatter]:
    """The space between two curves."""
    edge: dict[str, Any] = {"x": x, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    between = {"fill": "tonexty", "fillcolor": fill, "name": name}
    return [Scatter(y=high, showlegend=False, **edge), Scatter(y=low, showlegend=True, **edge, **between)]


def named_level(
    fig: Figure, y: float, text: str, colour: str, dash: str = "dash", *, x: float = 0.0, below: bool = False
) -> None:
    """A horizontal line with its name at the left end."""
    fig.add_hline(y=y, line={"color": colour, "width": 1.5, "dash": dash})
    place: dict[str, Any] = {"x": x, "xref": "paper", "xanchor": "left", "y": y}
    look: dict[str, Any] = {"showarrow": False, "font": {"size": 12, "color": colour}}
    fig.add_annotation(text=text, yanchor="top" if below else "bottom", **place, **look)


def named_place(fig: Figure, x: float, text: str, colour: str, y: float, middle: float) -> None:
    """A vertical line on a logarithmic axis, with its text on the side where the figure has more room."""
    left = x <= middle
    fig.add_vline(x=x, line={"color": colour, "width": 1.5, "dash": "dash"})
    fig.add_annotation(
        x=np.log10(x),
        y=y,
        text=text,
        showarrow=False,
        xanchor="left" if left else "right",
        xshift=4 if left else -4,
        font={"size": 12, "color": colour},
        bgcolor="rgba(255,255,255,0.8)",
    )
