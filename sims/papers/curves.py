"""Figures of training and of descents: losses and cosines by updates."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, floor
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from graticule.probes.plots.primitives import dots_trace, level, line_trace, new_figure, panels
from graticule.probes.plots.style import ACCENT, BLOCKS, INK, need_columns, plain, style
from graticule.sims.papers.figures import VIEW_TITLES, VIEWS

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_BANDS = "Bands: two standard errors over runs."


def loss_curve_figure(curves: pd.DataFrame) -> Figure:
    """Nats above the entropy floor by updates, a line per setting, both axes logarithmic.

    Args:
        curves: `setting`, `step`, `gap`, `gap_se`.

    Raises:
        KeyError: If a column is missing.
    """
    need_columns(curves, "setting", "step", "gap", "gap_se")
    fig = new_figure()
    for setting, part, line in _settings(curves):
        _band(fig, part, "gap", line["colour"], positive=True)
        hover = "update %{x:,}<br>%{y:.4f} nats above the floor<extra></extra>"
        fig.add_trace(line_trace(part["step"], part["gap"], setting, hover=hover, **line))
    across, up = {"title_text": "updates", "type": "log"}, {"title_text": "loss above its floor (nats)"}
    return style(
        fig, height=400, aspect=0.5, extra=60, note=_BANDS, x={**across, **_ticks(curves["step"])},
        y={**up, "type": "log", **_ticks(curves["gap"])},
    )  # fmt: skip


def cosine_curve_figure(curves: pd.DataFrame, paper: pd.DataFrame) -> Figure:
    """Mean cosines within a concept by updates (logarithmic), a panel per view; the paper's as crosses.

    Args:
        curves: `setting`, `step`, and `unembedding`, `embedding`, `mixed`, each with `_se`.
        paper: `what` (a view), `step`, `paper`; may be empty.

    Raises:
        KeyError: If a column is missing.
    """
    need_columns(curves, "setting", "step", *VIEWS, *(f"{v}_se" for v in VIEWS))
    fig, cells = panels(VIEW_TITLES, shared_yaxes=True, horizontal_spacing=0.03)
    for view, cell in zip(VIEWS, cells, strict=True):
        first = cell == cells[0]
        for setting, part, line in _settings(curves):
            _band(fig, part, view, line["colour"], **cell)
            more: dict[str, Any] = {"legendgroup": setting, "showlegend": first, **line}
            more["hover"] = "update %{x:,}<br>cosine %{y:.3f}<extra></extra>"
            fig.add_trace(line_trace(part["step"], part[view], setting, **more), **cell)
        stated = paper[paper["what"] == view]
        if len(stated):
            more = {"legendgroup": "paper", "showlegend": first, "look": {"symbol": "x"}}
            more["hover"] = "paper %{y:.3f}<extra></extra>"
            fig.add_trace(
                dots_trace(stated["step"], stated["paper"], "paper's figure 5", INK, **more), **cell
            )
    low = min(float(np.nanmin(curves[list(VIEWS)].to_numpy(np.float64))), 0.0)
    style(
        fig, height=380, aspect=0.42, extra=80, note=_BANDS, margin_t=40,
        legend={"y": -0.2, "yanchor": "top"},
        x={"title_text": "updates", "type": "log", **_ticks(curves["step"])}, y={"range": [low - 0.1, 1.04]},
    )  # fmt: skip
    for col in (2, 3):
        fig.update_xaxes(matches="x", row=1, col=col)
    fig.update_yaxes(title_text="mean cosine", row=1, col=1)
    return fig


def descent_figure(curves: pd.DataFrame) -> Figure:
    """Cosine with the limit against the number of steps, from 1 on, one line per series; the limit is 1.

    Args:
        curves: one row per point, with `theorem` (a colour each), `series`, `step` and `cosine`.

    Raises:
        KeyError: If a column is missing.
    """
    need_columns(curves, "theorem", "series", "step", "cosine")
    colours, dashes = {"4": ACCENT, "12": BLOCKS[0], "14": BLOCKS[2]}, ("solid", "dot", "dash")
    fig = new_figure()
    used: dict[str, int] = {}
    for name, rows in curves.groupby("series", sort=False):
        theorem = str(rows["theorem"].iloc[0])
        place = used[theorem] = used.get(theorem, -1) + 1
        drawn, colour = rows[rows["step"] > 0], colours.get(theorem, INK)
        hover = f"step %{{x:,}}<br>cosine %{{y:.5f}}<extra>{plain(name)}</extra>"
        dash = dashes[place % len(dashes)]
        fig.add_trace(
            line_trace(drawn["step"], drawn["cosine"], str(name), colour, 2, dash=dash, hover=hover)
        )
    level(fig, y=1, dash="dash")
    last, low = int(curves["step"].max()), float(curves.loc[curves["step"] > 0, "cosine"].min())
    note = (
        "The dashed line is the limit. For Theorem 4 the cosine is the least over steering vectors, "
        "with the hard-margin direction in closed form; for Theorem 14 likewise."
    )
    across = {
        "type": "log",
        "title_text": "updates",
        "showgrid": False,
        "dtick": 1,
        "range": [0, np.log10(last)],
    }
    up = {"title_text": "cosine with the limit's direction", "range": [min(low, 0.0) - 0.05, 1.06]}
    return style(fig, height=440, aspect=0.5, extra=90, note=note, x=across, y=up)


def _settings(curves: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame, dict[str, Any]]]:
    """Every setting's name, its points after the start, and how its line looks."""
    for k, (setting, part) in enumerate(curves.groupby("setting", sort=False)):
        dash = ("solid", "dash", "dot")[k // len(BLOCKS) % 3]
        line = {"colour": BLOCKS[k % len(BLOCKS)], "width": 2, "dash": dash}
        yield str(setting), part[part["step"] > 0], line


def _band(
    fig: Figure, part: pd.DataFrame, name: str, colour: str, positive: bool = False, **where: Any
) -> None:
    """Two standard errors either side, where there are any."""
    x, y, error = part["step"], part[name], part[f"{name}_se"]
    if not error.notna().any():
        return
    high, low = y + 2 * error.fillna(0.0), y - 2 * error.fillna(0.0)
    if positive:
        low = low.clip(lower=y * 0.5)  # a logarithmic axis has no zero
    look: dict[str, Any] = {"fill": "toself", "fillcolor": colour, "opacity": 0.18, "line": {"width": 0}}
    fig.add_trace(line_trace([*x, *x[::-1]], [*high, *low[::-1]], None, colour, hover="", **look), **where)


def _ticks(values: pd.Series) -> dict[str, Any]:
    """Powers of ten on a logarithmic axis; over two decades or less, twice and five times them too."""
    above = values[values > 0]
    low, high = (np.log10(float(above.min())), np.log10(float(above.max()))) if len(above) else (0.0, 1.0)
    between = (1, 2, 5) if high - low <= 2 else (1,)
    ticks = [float(n * 10.0**k) for k in range(floor(low), ceil(high) + 1) for n in between]
    if sum(10**low <= tick <= 10**high for tick in ticks) < 2:
        return {}  # they would all lie outside what is drawn: the axis finds its own
    return {"tickvals": ticks, "ticktext": [f"{t / 1000:g}k" if t >= 1000 else f"{t:g}" for t in ticks]}
