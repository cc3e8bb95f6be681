"""Figures of causes: re-probing after erasure, dose-response, effects among controls, pins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from graticule.probes.plots.drawing import Figure, Histogram, Scatter
from graticule.probes.plots.markup import plain
from graticule.probes.plots.style import (
    ACCENT,
    BLOCKS,
    FAINT,
    INK,
    MUTED,
    SURFACE,
    depth_of,
    layer_axis,
    need_columns,
    style,
)

_Curve = tuple[str, dict[str, Any], str | None]
"""Name, line and marker."""
_DASHED: dict[str, Any] = {"color": SURFACE, "width": 1.5, "dash": "dash"}


def erasure_figure(layers: pd.DataFrame, target: str, surface: float) -> Figure:
    """Test R² of a target against layer: before erasure, after (fresh rows), and with a matched eraser.

    Raises:
        KeyError: if a column is missing.
    """
    curves: dict[str, _Curve] = {
        "before": ("before erasure", {"color": INK, "width": 2}, "circle"),
        "control": (
            "a matched random feature erased",
            {"color": MUTED, "width": 1.5, "dash": "dot"},
            "square",
        ),
        "after": ("concept erased, probed on fresh rows", {"color": ACCENT, "width": 2}, "diamond"),
    }
    return _by_layer(layers, target, surface, curves)


def later_figure(later: pd.DataFrame, target: str, layer: int | None, surface: float) -> Figure:
    """Test R² of a target at the layers after an eraser in the model, and without it.

    Raises:
        KeyError: if a column is missing.
    """
    curves: dict[str, _Curve] = {
        "before": ("the model as it is", {"color": INK, "width": 2}, None),
        "after": (f"erased at layer {layer}", {"color": ACCENT, "width": 2}, None),
    }
    return _by_layer(later, target, surface, curves)


def _by_layer(
    table: pd.DataFrame,
    target: str,
    surface: float,
    curves: dict[str, _Curve],
) -> Figure:
    """Curves of the columns `{prefix}_{target}`, by prefix, and the surface's level."""
    columns = {f"{prefix}_{target}": curve for prefix, curve in curves.items()}
    need_columns(table, "layer", *columns)
    fig = Figure()
    x = depth_of(table)
    for column, (name, line, symbol) in columns.items():
        fig.add_trace(
            Scatter(
                x=x,
                y=table[column],
                mode="lines+markers",
                line=line,
                marker={"size": 7} if symbol is None else {"size": 7, "symbol": symbol},
                name=name,
                hovertemplate=f"%{{x}}: {plain(target)} %{{y:.3f}}<extra>{name}</extra>",
            )
        )
    fig.add_hline(y=surface, line=_DASHED)
    _legend_entry(fig, f"surface stack: {surface:.3f}", _DASHED)
    style(fig, height=400, aspect=0.5, extra=90)
    values = np.concatenate([table[column].to_numpy(dtype=float) for column in columns])
    low, high = min(float(values.min()), surface, 0.0), max(float(values.max()), surface)
    pad = 0.06 * (high - low)
    fig.update_yaxes(
        title_text=f"test R² of {target}", range=[low - pad, high + pad], zeroline=True, zerolinecolor=FAINT
    )
    layer_axis(fig, table["layer"])
    return fig


def dose_figure(doses: pd.DataFrame, unit: str) -> Figure:
    """Effect against dose: the probe's direction over a band of its controls (5th to 95th percentile).

    Args:
        doses: rows with `kind` (`probe`, `control`, `shuffled`, `other`), `direction`, `scale` (standard
            deviations of the reading, or a displacement as large) and `value` (change from the model as it
            is).
        unit: of `value`, for the axis.

    Raises:
        KeyError: if a column is missing.
    """
    need_columns(doses, "kind", "direction", "scale", "value")
    fig = Figure()
    controls: Any = doses[doses["kind"] == "control"].groupby("scale")["value"]
    band = controls.quantile([0.05, 0.5, 0.95]).unstack()
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
    for kind, width, marker in (
        ("other", 1.5, {"size": 6}),
        ("probe", 2.5, {"size": 8, "symbol": "diamond"}),
    ):
        directions = doses[doses["kind"] == kind].groupby("direction", sort=False)
        for k, (name, rows) in enumerate(directions):
            rows = rows.sort_values("scale")
            colour = ACCENT if kind == "probe" else BLOCKS[k % len(BLOCKS)]
            fig.add_trace(
                Scatter(x=rows["scale"], y=rows["value"], mode="lines+markers", name=str(name),
                        line={"color": colour, "width": width}, marker=marker)
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
        Histogram(
            x=controls,
            nbinsx=30,
            marker={"color": FAINT, "line": {"color": "white", "width": 1}},
            name=f"{len(controls)} matched controls",
        )
    )
    own = {"color": ACCENT, "width": 3}
    fig.add_vline(x=effect, line=own)
    signed = bool((controls < 0).any())
    for edge in (-limit, limit) if signed else (limit,):
        fig.add_vline(x=edge, line=_DASHED)
    _legend_entry(fig, f"{name}: {effect:+.3g}", own)
    _legend_entry(fig, f"97.5% of the controls' sizes: {limit:.3g}", _DASHED)
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
        pins: rows with `kind` (`neuron`, `control`), `neuron` (a name), `value` (the pinned activation, in
            standard deviations of that neuron's own) and `effect` (change from the model as it is).
        unit: of `effect`, for the axis.

    Raises:
        KeyError: if a column is missing.
    """
    need_columns(pins, "kind", "neuron", "value", "effect")
    fig = Figure()
    for kind, width in (("control", 1.0), ("neuron", 2.5)):
        own = kind == "neuron"
        for k, (name, rows) in enumerate(pins[pins["kind"] == kind].groupby("neuron", sort=False)):
            rows = rows.sort_values("value")
            colour = (ACCENT if k == 0 else BLOCKS[(k - 1) % len(BLOCKS)]) if own else FAINT
            fig.add_trace(
                Scatter(
                    x=rows["value"],
                    y=rows["effect"],
                    mode="lines+markers" if own else "lines",
                    line={"color": colour, "width": width},
                    name=str(name) if own else "control neurons",
                    legendgroup=str(name) if own else "control",
                    showlegend=own or k == 0,
                    hovertemplate=f"{plain(name)} at %{{x:.2g}} sd: %{{y:.3f}}<extra></extra>",
                )
            )
    style(fig, height=380, aspect=0.48, extra=90)
    fig.update_xaxes(title_text="pinned activation (standard deviations from the neuron's mean)")
    fig.update_yaxes(title_text=f"change in {unit}", zeroline=True, zerolinecolor=FAINT)
    return fig


def _legend_entry(fig: Figure, name: str, line: dict[str, Any]) -> None:
    """A line in the legend alone."""
    fig.add_trace(Scatter(x=[None], y=[None], mode="lines", line=line, name=name))
