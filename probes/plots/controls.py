"""Controls beside the probe: dots with intervals, the matched-k curve, bars inside blocks."""

import numpy as np
import pandas as pd

from graticule.probes.plots.drawing import Bar, Figure, Scatter
from graticule.probes.plots.markup import Markup, plain
from graticule.probes.plots.style import (
    ACCENT,
    BLOCKS,
    FAINT,
    INK,
    MUTED,
    SURFACE,
    label,
    need_columns,
    short,
    style,
)

_COLOURS = {"reference": SURFACE, "dimensions": BLOCKS[2], "oracle": BLOCKS[4]}
_CURVES = {
    "principal components": (INK, "circle"),
    "random directions": (BLOCKS[1], "square"),
    "random whitened directions": (BLOCKS[3], "diamond"),
}
_BARS = {"probe": ACCENT, "surface": SURFACE, "best baseline": FAINT}
_FLOOR = -0.25
"""Scores below it are drawn on the edge: a control that is far under 0 must not flatten the others."""


def control_figure(lines: pd.DataFrame) -> Figure:
    """R² of every control on test rows, and of the probe on the same rows.

    Args:
        lines: the table of `Controls`. Train fits, gains and correlations are left out: other scales.
    """
    need_columns(lines, "group", "control", "metric", "score", "low", "high", "probe", "rows")
    shown = lines[(lines["metric"] == "R²") & (lines["group"] != "train fit") & lines["score"].notna()]
    labels = [short(label(str(name)), 40) for name in shown["control"]]
    label_of = dict(zip(shown.index, labels, strict=True))
    fig = Figure()
    for kind, part in shown.groupby("group", sort=False):
        colour = _COLOURS.get(str(kind), MUTED)
        where = [label_of[i] for i in part.index]
        score = part["score"].clip(lower=_FLOOR)
        low, high = part["low"].fillna(part["score"]), part["high"].fillna(part["score"])
        fig.add_trace(
            Scatter(
                x=score,
                y=where,
                mode="markers",
                marker={
                    "size": 9,
                    "color": [ACCENT if name == "probe" else colour for name in part["control"]],
                    "symbol": ["triangle-left" if s < _FLOOR else "circle" for s in part["score"]],
                },
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": (high.clip(lower=_FLOOR) - score).clip(lower=0),
                    "arrayminus": (score - low.clip(lower=_FLOOR)).clip(lower=0),
                    "color": colour,
                    "thickness": 1.5,
                    "width": 0,
                },
                customdata=np.stack([part["score"], low, high, part["rows"]], axis=-1),
                hovertemplate="%{y}<br>R² %{customdata[0]:.3f} [%{customdata[1]:.3f}, "
                "%{customdata[2]:.3f}]<br>%{customdata[3]} rows<extra></extra>",
                name=str(kind),
                showlegend=False,
            )
        )
    beside = shown[shown["probe"].notna()]
    fig.add_trace(
        Scatter(
            x=beside["probe"],
            y=[label_of[i] for i in beside.index],
            mode="markers",
            marker={"size": 12, "color": ACCENT, "symbol": "line-ns-open", "line": {"width": 2}},
            hovertemplate="%{y}<br>probe on the same rows %{x:.3f}<extra></extra>",
            showlegend=False,
        )
    )
    fig.add_vline(x=0, line={"color": FAINT, "width": 1})
    note = "Dots are the controls with 95% intervals, red strokes the probe on the same rows."
    if (shown["score"] < _FLOOR).any():
        note += f" Triangles lie below {_FLOOR:g}."
    style(fig, height=90 + 22 * len(shown), note=note)
    fig.update_xaxes(title_text="R² on test rows")
    fig.update_yaxes(
        autorange="reversed",
        categoryorder="array",
        categoryarray=labels,
        tickfont={"size": 11},
        ticks="",
    )
    return fig


def curve_figure(curve: pd.DataFrame, probe: float, surface: float) -> Figure:
    """R² of ridge on k directions, the mean over seeds and their range.

    Args:
        curve: `k`, `kind`, `seed`, `r2`.
        probe, surface: R² of the whole probe and of the surface, as lines.
    """
    need_columns(curve, "k", "kind", "seed", "r2")
    fig = Figure()
    for kind, part in curve.groupby("kind", sort=False):
        colour, symbol = _CURVES.get(str(kind), (MUTED, "circle"))
        stats = part.groupby("k")["r2"].agg(["mean", "min", "max"]).reset_index()
        fig.add_trace(
            Scatter(
                x=stats["k"],
                y=stats["mean"],
                mode="lines+markers",
                name=str(kind),
                line={"color": colour, "width": 2},
                marker={"size": 8, "symbol": symbol, "color": colour},
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": stats["max"] - stats["mean"],
                    "arrayminus": stats["mean"] - stats["min"],
                    "thickness": 1.5,
                    "width": 3,
                    "color": colour,
                },
                hovertemplate="k = %{x}<br>R² %{y:.3f}<extra>" + plain(kind) + "</extra>",
            )
        )
    for value, words, colour, dash in (
        (probe, "probe, all dimensions", ACCENT, "dash"),
        (surface, "surface", SURFACE, "dot"),
    ):
        below = value == min(probe, surface)
        fig.add_hline(y=value, line={"color": colour, "width": 1.5, "dash": dash})
        fig.add_annotation(
            x=0.01,
            xref="paper",
            y=value,
            text=f"{words} {value:.3f}",
            showarrow=False,
            xanchor="left",
            yanchor="top" if below else "bottom",
            font={"size": 12, "color": colour},
        )
    seeds = int(curve["seed"].max()) + 1
    style(fig, height=400, note=f"Bars span {seeds} random draws." if seeds > 1 else None)
    ks = sorted(curve["k"].unique())
    fig.update_xaxes(
        title_text="dimensions kept, k", type="log", tickvals=ks, ticktext=[f"{k:,}" for k in ks]
    )
    fig.update_yaxes(title_text="R² on test rows")
    return fig


def within_figure(blocks: pd.DataFrame) -> Figure:
    """Correlation inside blocks of the probe, the surface and the strongest baseline.

    Args:
        blocks: `block`, `predictor`, `r`, `r_low`, `r_high`, `blocks`, `rows`.
    """
    need_columns(blocks, "block", "predictor", "r", "r_low", "r_high", "blocks", "rows")
    fig = Figure()
    for name, colour in _BARS.items():
        part = blocks[blocks["predictor"] == name]
        if part.empty:
            continue
        names = [
            Markup(f"{plain(short(label(str(b))))}<br>{n:,} blocks, {rows:,} rows")
            for b, n, rows in zip(part["block"], part["blocks"], part["rows"], strict=True)
        ]
        fig.add_trace(
            Bar(
                x=names,
                y=part["r"],
                name=name,
                marker={"color": colour},
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": (part["r_high"] - part["r"]).fillna(0.0),
                    "arrayminus": (part["r"] - part["r_low"]).fillna(0.0),
                    "thickness": 1.5,
                    "width": 4,
                    "color": INK,
                },
                hovertemplate="%{x}<br>r %{y:.3f}<extra>" + plain(name) + "</extra>",
            )
        )
    style(fig, height=360, note="Blocks of ten test rows or more are pooled; lines are 95% intervals.")
    fig.update_layout(barmode="group", bargap=0.35)
    fig.update_yaxes(title_text="r inside blocks", rangemode="tozero")
    fig.update_xaxes(showgrid=False)
    return fig
