"""Figures of causes: re-probing after erasure, dose-response, effects among controls, pins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from graticule.probes.plots.counted import counted_bars, edges_over
from graticule.probes.plots.drawing import Figure, Scatter
from graticule.probes.plots.markup import plain
from graticule.probes.plots.style import (
    ACCENT,
    BLOCKS,
    FAINT,
    INK,
    MUTED,
    SURFACE,
    layer_axis,
    need_columns,
    style,
)


def erasure_figure(layers: pd.DataFrame, target: str, surface: float) -> Figure:
    """Test R² of a target against layer: before erasure, after (fresh rows), and with a matched eraser.

    **Raises** `KeyError` if a column is missing.
    """
    arms = {
        "before": ("before erasure", {"color": INK, "width": 2}, "circle"),
        "control": (
            "a matched random feature erased",
            {"color": MUTED, "width": 1.5, "dash": "dot"},
            "square",
        ),
        "after": ("concept erased, probed on fresh rows", {"color": ACCENT, "width": 2}, "diamond"),
    }
    need_columns(layers, "layer", *(f"{arm}_{target}" for arm in arms))
    fig = Figure()
    x = _places(layers)
    for arm, (name, line, symbol) in arms.items():
        fig.add_trace(
            Scatter(
                x=x,
                y=layers[f"{arm}_{target}"],
                mode="lines+markers",
                line=line,
                marker={"size": 7, "symbol": symbol},
                name=name,
                hovertemplate=f"%{{x}}: {plain(target)} %{{y:.3f}}<extra>{name}</extra>",
            )
        )
    return _finish(fig, layers, surface, list(arms), target)


def later_figure(later: pd.DataFrame, target: str, layer: int | None, surface: float) -> Figure:
    """Test R² of a target at the layers after an eraser in the model, and without it.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(later, "layer", f"before_{target}", f"after_{target}")
    fig = Figure()
    x = _places(later)
    for arm, name, colour in (
        ("before", "the model as it is", INK),
        ("after", f"erased at layer {layer}", ACCENT),
    ):
        fig.add_trace(
            Scatter(
                x=x,
                y=later[f"{arm}_{target}"],
                mode="lines+markers",
                line={"color": colour, "width": 2},
                marker={"size": 7},
                name=name,
                hovertemplate=f"%{{x}}: {plain(target)} %{{y:.3f}}<extra>{name}</extra>",
            )
        )
    return _finish(fig, later, surface, ["before", "after"], target)


def dose_figure(doses: pd.DataFrame, unit: str) -> Figure:
    """Effect against dose: the probe's direction over a band of its controls (5th to 95th percentile).

    Args:
        doses: lines with `kind` (`probe`, `control`, `shuffled`, `other`), `direction`, `scale` (standard
            deviations of the reading, or a displacement as large) and `value` (change from the model as it
            is).
        unit: of `value`, for the axis.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(doses, "kind", "direction", "scale", "value")
    fig = Figure()
    held: Any = doses[doses["kind"] == "control"].groupby("scale")["value"]
    band = held.quantile([0.05, 0.5, 0.95]).unstack()
    if len(band):
        band.loc[0.0] = 0.0
        band = band.sort_index()
        x = band.index.to_numpy(dtype=float)
        edges = np.concatenate([band[0.95].to_numpy(), band[0.05].to_numpy()[::-1]])
        fig.add_trace(
            Scatter(
                x=np.concatenate([x, x[::-1]]), y=edges, mode="lines",
                fill="toself", fillcolor="rgba(92,107,122,0.18)",
                line={"width": 0}, hoverinfo="skip", name="matched controls, 5 to 95%",
            )
        )  # fmt: skip
        fig.add_trace(
            Scatter(x=x, y=band[0.5], mode="lines", line={"color": MUTED, "width": 1.5, "dash": "dot"},
                    name="matched controls, median")
        )  # fmt: skip
    for k, (name, rows) in enumerate(doses[doses["kind"] == "other"].groupby("direction", sort=False)):
        rows = rows.sort_values("scale")
        fig.add_trace(
            Scatter(x=rows["scale"], y=rows["value"], mode="lines+markers", name=str(name),
                    line={"color": BLOCKS[k % len(BLOCKS)], "width": 1.5}, marker={"size": 6})
        )  # fmt: skip
    for name, rows in doses[doses["kind"] == "probe"].groupby("direction", sort=False):
        rows = rows.sort_values("scale")
        fig.add_trace(
            Scatter(x=rows["scale"], y=rows["value"], mode="lines+markers", name=str(name),
                    line={"color": ACCENT, "width": 2.5}, marker={"size": 8, "symbol": "diamond"})
        )  # fmt: skip
    style(fig, height=400, aspect=0.5, extra=90)
    fig.update_xaxes(
        title_text="dose (standard deviations of the probe's reading)", zeroline=True, zerolinecolor=FAINT
    )
    fig.update_yaxes(title_text=f"change in {unit}", zeroline=True, zerolinecolor=FAINT)
    return fig


def control_figure(controls: np.ndarray, effect: float, limit: float, name: str, unit: str) -> Figure:
    """Histogram of control effects, the probe's own marked, and the detection limit on either side."""
    fig = Figure(
        counted_bars(
            controls,
            edges_over(controls, 30),
            marker={"color": FAINT, "line": {"color": "white", "width": 1}},
            name=f"{len(controls)} matched controls",
        )
    )
    fig.add_vline(x=effect, line={"color": ACCENT, "width": 3})
    signed = bool((controls < 0).any())
    for edge in (-limit, limit) if signed else (limit,):
        fig.add_vline(x=edge, line={"color": SURFACE, "width": 1.5, "dash": "dash"})
    for label, line in (
        (f"{name}: {effect:+.3g}", {"color": ACCENT, "width": 3}),
        (f"97.5% of the controls' sizes: {limit:.3g}", {"color": SURFACE, "width": 1.5, "dash": "dash"}),
    ):
        fig.add_trace(Scatter(x=[None], y=[None], mode="lines", line=line, name=label))
    marks = np.concatenate([controls, [effect, limit], [-limit] if signed else []])
    pad = 0.04 * float(np.ptp(marks))
    style(fig, height=320, aspect=0.36, extra=90)
    fig.update_layout(bargap=0.02)
    limits = [float(marks.min()) - pad, float(marks.max()) + pad] if pad > 0 else None
    fig.update_xaxes(title_text=unit, zeroline=signed, zerolinecolor=FAINT, range=limits)
    fig.update_yaxes(title_text="controls")
    return fig


def pin_figure(pins: pd.DataFrame, unit: str) -> Figure:
    """Effect of pinning a neuron to a value, the neuron asked for over its control neurons.

    Args:
        pins: lines with `kind` (`neuron`, `control`), `neuron` (a name), `value` (the pinned activation, in
            standard deviations of that neuron's own) and `effect` (change from the model as it is).
        unit: of `effect`, for the axis.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(pins, "kind", "neuron", "value", "effect")
    fig = Figure()
    for kind, colour, width in (("control", FAINT, 1.0), ("neuron", ACCENT, 2.5)):
        first = True
        for k, (name, rows) in enumerate(pins[pins["kind"] == kind].groupby("neuron", sort=False)):
            rows = rows.sort_values("value")
            shown = colour if kind == "control" or k == 0 else BLOCKS[(k - 1) % len(BLOCKS)]
            fig.add_trace(
                Scatter(
                    x=rows["value"],
                    y=rows["effect"],
                    mode="lines" if kind == "control" else "lines+markers",
                    line={"color": shown, "width": width},
                    name="control neurons" if kind == "control" else str(name),
                    legendgroup="control" if kind == "control" else str(name),
                    showlegend=kind == "neuron" or first,
                    hovertemplate=f"{plain(name)} at %{{x:.2g}} sd: %{{y:.3f}}<extra></extra>",
                )
            )
            first = False
    style(fig, height=380, aspect=0.48, extra=90)
    fig.update_xaxes(title_text="pinned activation (standard deviations from the neuron's mean)")
    fig.update_yaxes(title_text=f"change in {unit}", zeroline=True, zerolinecolor=FAINT)
    return fig


def _places(table: pd.DataFrame) -> pd.Series:
    """Layers where every point has one, names otherwise."""
    return table["layer"] if bool(table["layer"].notna().all()) else table["point"]


def _finish(fig: Figure, table: pd.DataFrame, surface: float, arms: list[str], target: str) -> Figure:
    fig.add_hline(y=surface, line={"color": SURFACE, "width": 1.5, "dash": "dash"})
    fig.add_trace(
        Scatter(x=[None], y=[None], mode="lines", line={"color": SURFACE, "width": 1.5, "dash": "dash"},
                name=f"surface stack: {surface:.3f}")
    )  # fmt: skip
    style(fig, height=400, aspect=0.5, extra=90)
    values = np.concatenate([table[f"{arm}_{target}"].to_numpy(dtype=float) for arm in arms])
    low, high = min(float(values.min()), surface, 0.0), max(float(values.max()), surface)
    pad = 0.06 * (high - low)
    fig.update_yaxes(
        title_text=f"test R² of {target}", range=[low - pad, high + pad], zeroline=True, zerolinecolor=FAINT
    )
    layer_axis(fig, table["layer"])
    return fig
