"""Figures of training and of descents: losses and cosines by updates."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, floor
from typing import Any

import numpy as np
import pandas as pd

from graticule.probes.plots.drawing import Figure, Scatter, make_subplots
from graticule.probes.plots.style import ACCENT, BLOCKS, INK, MUTED, need_columns, plain, style
from graticule.sims.papers.figures import VIEW_TITLES, VIEWS

_BANDS = "Bands: two standard errors over runs."


def loss_curve_figure(curves: pd.DataFrame) -> Figure:
    """Nats above the entropy floor by updates, a line per setting, both axes logarithmic.

    Args:
        curves: `setting`, `step`, `gap`, `gap_se`.

    Raises:
        KeyError: If a column is missing.
    """
    need_columns(curves, "setting", "step", "gap", "gap_se")
    fig = Figure()
    for setting, part, line in _settings(curves):
        _band(fig, part, "gap", line["color"], positive=True)
        over = "update %{x:,}<br>%{y:.4f} nats above the floor<extra></extra>"
        fig.add_trace(
            Scatter(x=part["step"], y=part["gap"], mode="lines", name=setting, line=line, hovertemplate=over)
        )
    style(fig, height=400, aspect=0.5, extra=60, note=_BANDS)
    fig.update_xaxes(title_text="updates", type="log", **_ticks(curves["step"]))
    fig.update_yaxes(title_text="loss above its floor (nats)", type="log", **_ticks(curves["gap"]))
    return fig


def cosine_curve_figure(curves: pd.DataFrame, paper: pd.DataFrame) -> Figure:
    """Mean cosines within a concept by updates (logarithmic), a panel per view; the paper's as crosses.

    Args:
        curves: `setting`, `step`, and `unembedding`, `embedding`, `mixed`, each with `_se`.
        paper: `what` (a view), `step`, `paper`; may be empty.

    Raises:
        KeyError: If a column is missing.
    """
    need_columns(curves, "setting", "step", *VIEWS, *(f"{v}_se" for v in VIEWS))
    fig: Figure = make_subplots(
        cols=3, subplot_titles=VIEW_TITLES, shared_yaxes=True, horizontal_spacing=0.03
    )
    for col, view in enumerate(VIEWS, start=1):
        for setting, part, line in _settings(curves):
            _band(fig, part, view, line["color"], row=1, col=col)
            trace = Scatter(
                x=part["step"],
                y=part[view],
                mode="lines",
                name=setting,
                legendgroup=setting,
                showlegend=col == 1,
                line=line,
                hovertemplate="update %{x:,}<br>cosine %{y:.3f}<extra></extra>",
            )
            fig.add_trace(trace, row=1, col=col)
        stated = paper[paper["what"] == view]
        if len(stated):
            trace = Scatter(
                x=stated["step"],
                y=stated["paper"],
                mode="markers",
                name="paper's figure 5",
                legendgroup="paper",
                showlegend=col == 1,
                marker={"symbol": "x", "size": 9, "color": INK},
                hovertemplate="paper %{y:.3f}<extra></extra>",
            )
            fig.add_trace(trace, row=1, col=col)
    style(fig, height=380, aspect=0.42, extra=80, note=_BANDS)
    fig.update_layout(margin={"t": 40}, legend={"y": -0.2, "yanchor": "top"})
    fig.update_xaxes(title_text="updates", type="log", **_ticks(curves["step"]))
    for col in (2, 3):
        fig.update_xaxes(matches="x", row=1, col=col)
    low = min(float(np.nanmin(curves[list(VIEWS)].to_numpy(np.float64))), 0.0)
    fig.update_yaxes(range=[low - 0.1, 1.04])
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
                line={"color": colours.get(theorem, INK), "width": 2, "dash": dashes[place % len(dashes)]},
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


def _settings(curves: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame, dict[str, Any]]]:
    """Every setting's name, its points after the start, and how its line looks."""
    for k, (setting, part) in enumerate(curves.groupby("setting", sort=False)):
        dash = ("solid", "dash", "dot")[k // len(BLOCKS) % 3]
        line = {"color": BLOCKS[k % len(BLOCKS)], "width": 2, "dash": dash}
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
    fig.add_trace(
        Scatter(
            x=[*x, *x[::-1]],
            y=[*high, *low[::-1]],
            fill="toself",
            fillcolor=colour,
            opacity=0.18,
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
        ),
        **where,
    )


def _ticks(values: pd.Series) -> dict[str, Any]:
    """Powers of ten on a logarithmic axis; over two decades or less, twice and five times them too."""
    above = values[values > 0]
    low, high = (np.log10(float(above.min())), np.log10(float(above.max()))) if len(above) else (0.0, 1.0)
    between = (1, 2, 5) if high - low <= 2 else (1,)
    ticks = [float(n * 10.0**k) for k in range(floor(low), ceil(high) + 1) for n in between]
    return {"tickvals": ticks, "ticktext": [f"{t / 1000:g}k" if t >= 1000 else f"{t:g}" for t in ticks]}
