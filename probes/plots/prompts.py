"""Figures of prompts: score against depth by prompt, gains, transfer between prompts, error by popularity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from graticule.probes.plots.drawing import Figure, Heatmap, Scatter
from graticule.probes.plots.markup import plain
from graticule.probes.plots.style import (
    ACCENT,
    BLOCKS,
    INK,
    MUTED,
    SURFACE,
    in_unit,
    layer_axis,
    need_columns,
    short_labels,
    style,
)

_DASHES = ("solid", "dash", "dot", "dashdot")


def prompt_depth_figure(layers: pd.DataFrame, chosen: pd.DataFrame, surface: float | None = None) -> Figure:
    """Validation score against depth, a line a prompt; the test score at its chosen layer as a diamond.

    Args:
        layers: `prompt`, `layer`, `point`, `validation`; a line a prompt and point.
        chosen: `prompt`, `point`, `test_r2`; a line a prompt.
        surface: test score of the stacked baselines, as a dashed line.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(layers, "prompt", "layer", "point", "validation")
    need_columns(chosen, "prompt", "point", "test_r2")
    fig = Figure()
    numbered = bool(layers["layer"].notna().all())
    for k, name in enumerate(chosen["prompt"]):
        colour, rows = BLOCKS[k % len(BLOCKS)], layers[layers["prompt"] == name]
        x = rows["layer"].astype(float) if numbered else rows["point"].astype(str)
        fig.add_trace(
            Scatter(
                x=x,
                y=rows["validation"],
                mode="lines+markers",
                line={
                    "color": colour,
                    "width": 2,
                    "dash": _DASHES[k // len(BLOCKS) % len(_DASHES)],
                },
                marker={"size": 4},
                name=str(name),
                legendgroup=str(name),
                customdata=rows["point"].astype(str),
                hovertemplate=f"{plain(name)}<br>%{{customdata}}<br>validation %{{y:.3f}}<extra></extra>",
            )
        )
        line = chosen[chosen["prompt"] == name].iloc[0]
        at = x[rows["point"] == line["point"]]
        fig.add_trace(
            Scatter(
                x=at,
                y=[line["test_r2"]] * len(at),
                mode="markers",
                marker={
                    "symbol": "diamond",
                    "size": 11,
                    "color": colour,
                    "line": {"color": "white", "width": 1},
                },
                legendgroup=str(name),
                showlegend=False,
                hovertemplate=f"{plain(name)}<br>test R² %{{y:.3f}}<extra>chosen on training rows</extra>",
            )
        )
    style(
        fig,
        height=430,
        note="Lines are out-of-fold scores on training rows; diamonds test scores at the layer they choose.",
    )
    low = float(np.nanmin([layers["validation"].min(), chosen["test_r2"].min(), 0.0]))
    high = float(np.nanmax([layers["validation"].max(), chosen["test_r2"].max(), surface or 0.0, 0.05]))
    if surface is not None and np.isfinite(surface):
        fig.add_hline(
            y=surface,
            line={"color": SURFACE, "width": 2, "dash": "dash"},
            annotation={
                "text": f"surface stack {surface:.3f}",
                "font": {"size": 11, "color": SURFACE},
                "xanchor": "left",
                "x": 0.01,
                "yanchor": "bottom",
            },
        )
    fig.update_yaxes(title_text="R²", range=[max(low, -0.25) - 0.03, high + 0.05])
    fig.update_xaxes(showgrid=False)
    layer_axis(fig, layers["layer"])
    return fig


def prompt_gain_figure(chosen: pd.DataFrame) -> Figure:
    """Gain over the surface with its 95% interval, a line a prompt, the largest on top.

    **Raises** `KeyError` if `prompt`, `gain`, `low` or `high` is missing.
    """
    need_columns(chosen, "prompt", "gain", "low", "high")
    rows = chosen.sort_values("gain", kind="stable")
    fig = Figure(
        Scatter(
            x=rows["gain"],
            y=rows["prompt"],
            mode="markers",
            marker={"size": 9, "color": INK},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": rows["high"] - rows["gain"],
                "arrayminus": rows["gain"] - rows["low"],
                "color": INK,
                "thickness": 2,
                "width": 0,
            },
            hovertemplate="%{y}<br>gain %{x:+.3f}<extra></extra>",
            showlegend=False,
        )
    )
    style(fig, height=110 + 34 * len(rows), note="Bars are 95% intervals, paired over clusters of test rows.")
    fig.add_vline(x=0, line={"color": MUTED, "width": 1, "dash": "dot"})
    fig.update_xaxes(title_text="gain over the surface (R²)", tickformat="+.2f")
    fig.update_yaxes(ticks="", range=[-0.6, len(rows) - 0.4])
    return fig


def transfer_figure(scores: pd.DataFrame) -> Figure:
    """Heat-map of scores, a row a probe and a column the prompt of the activations; numbers in the cells.

    Args:
        scores: probe × activations; scores below 0 share the colour of 0.
    """
    values = scores.to_numpy(np.float64)
    fig = Figure(
        Heatmap(
            z=values,
            x=short_labels(scores.columns),
            y=short_labels(scores.index),
            zmin=0,
            zmax=max(float(np.nanmax(values)), 0.05),
            colorscale=[[0, "#f4f6f8"], [1, SURFACE]],
            colorbar={"title": {"text": "R²"}, "thickness": 12, "outlinewidth": 0},
            hovertemplate="probe of %{y}<br>activations of %{x}<br>R² %{z:.3f}<extra></extra>",
        )
    )
    style(fig, height=130 + 52 * len(scores), note="On the diagonal each probe reads its own prompt.")
    middle = 0.55 * max(float(np.nanmax(values)), 0.05)
    notes: list[dict[str, Any]] = [
        {
            "x": j,
            "y": i,
            "text": f"{values[i, j]:.3f}",
            "showarrow": False,
            "font": {"size": 12, "color": "white" if values[i, j] > middle else INK},
        }
        for i in range(values.shape[0])
        for j in range(values.shape[1])
    ]
    fig.update_layout(annotations=notes)
    fig.update_xaxes(title_text="activations of", showgrid=False, ticks="", side="bottom")
    fig.update_yaxes(title_text="probe of", showgrid=False, ticks="", autorange="reversed")
    return fig


def popularity_figure(strata: pd.DataFrame, column: str, unit: str) -> Figure:
    """Mean error of the probe and of the surface by stratum, at the stratum's median, with 95% intervals.

    Args:
        strata: `median_value`, `rows`, and `probe`, `surface` with `…_low`, `…_high`.
        column: what the strata are of, for the axis; drawn on a logarithmic axis where all values are
            positive and span a factor of ten.
        unit: of the errors.

    **Raises** `KeyError` if a column is missing.
    """
    parts = {"surface": (SURFACE, "the surface"), "probe": (ACCENT, "the probe")}
    need_columns(strata, "median_value", "rows", *(f"{p}{e}" for p in parts for e in ("", "_low", "_high")))
    x = strata["median_value"].to_numpy(np.float64)
    wide = bool((x > 0).all() and x.max() >= 10 * x.min())
    fig = Figure()
    for part, (colour, name) in parts.items():
        fig.add_trace(
            Scatter(
                x=x,
                y=strata[part],
                mode="lines+markers",
                line={"color": colour, "width": 2},
                marker={"size": 8},
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": strata[f"{part}_high"] - strata[part],
                    "arrayminus": strata[part] - strata[f"{part}_low"],
                    "color": colour,
                    "thickness": 1.5,
                    "width": 0,
                },
                name=name,
                customdata=strata["rows"],
                hovertemplate=f"{plain(name)}<br>{plain(column)} %{{x:,.4~s}}"
                f"<br>{plain(in_unit('mean error', unit))} %{{y:.4~g}}"
                "<br>%{customdata} rows<extra></extra>",
            )
        )
    style(fig, height=400, note="A point a stratum, at its median; bars are 95% intervals over clusters.")
    fig.update_xaxes(title_text=column.replace("_", " "), type="log" if wide else "linear")
    if wide:
        fig.update_xaxes(tickvals=_round_values(float(x.min()), float(x.max())), tickformat="~s")
    fig.update_yaxes(title_text=in_unit("mean error", unit), rangemode="tozero")
    return fig


def _round_values(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between `low` and `high`, or the powers alone where those are many."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    steps = (1, 2, 5) if len(decades) <= 4 else (1,)
    return [step * 10.0**k for k in decades for step in steps if low / 1.5 <= step * 10.0**k <= high * 1.5]
