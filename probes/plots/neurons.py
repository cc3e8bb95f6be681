"""Single neurons: activation against the truth, rotated bases, cosines of weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.probes.plots.counted import counted_bars
from graticule.probes.plots.drawing import Figure, Scatter, make_subplots
from graticule.probes.plots.style import (
    ACCENT,
    BLOCKS,
    FAINT,
    INK,
    MUTED,
    block_colours,
    need_columns,
    short,
    style,
)

_WEIGHTS = {"in": BLOCKS[0], "gate": BLOCKS[1], "out": BLOCKS[2]}


def neuron_scatter(rows: pd.DataFrame, target: str, neuron: str, unit: str | None = None) -> Figure:
    """A neuron's activation against the truth on test rows (Gurnee & Tegmark 2023, figure 5).

    Args:
        rows: `true`, `activation`, `text`, and `block` if there is one (words are coloured).
        target, unit: of the horizontal axis.
        neuron: its name.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(rows, "true", "activation", "text")
    fig = Figure()
    words = "block" in rows.columns and not pd.api.types.is_numeric_dtype(rows["block"])
    colours, groups = block_colours(rows["block"]) if words else ({"": BLOCKS[0]}, None)
    for name, colour in colours.items():
        part = rows if groups is None else rows[groups == name]
        fig.add_trace(
            Scatter(
                x=part["true"].to_numpy(np.float32),
                y=part["activation"].to_numpy(np.float32),
                mode="markers",
                marker={"size": 4, "color": colour, "opacity": 0.55},
                name=short(name),
                showlegend=groups is not None,
                text=part["text"].astype(str),
                hovertemplate="%{text}<br>true %{x:.5~g}<br>activation %{y:.3g}<extra></extra>",
            )
        )
    _median(fig, rows["true"].to_numpy(np.float64), rows["activation"].to_numpy(np.float64))
    style(fig, height=440, aspect=0.5, extra=70, note=f"{len(rows):,} test rows.", phone={"extra": 150})
    kind = {"lat": " (degrees)", "lon": " (degrees)", None: "", "year": " (year)"}.get(unit, f" ({unit})")
    fig.update_xaxes(title_text=f"{target}{kind}", tickformat="d" if unit == "year" else None)
    fig.update_yaxes(title_text=f"activation of {neuron}")
    return fig


def _median(fig: Figure, x: Float[np.ndarray, " row"], y: Float[np.ndarray, " row"]) -> None:
    if len(x) < 100:
        return
    bins = np.array_split(np.argsort(x, kind="stable"), 20)
    fig.add_trace(
        Scatter(
            x=[float(np.median(x[b])) for b in bins],
            y=[float(np.median(y[b])) for b in bins],
            mode="lines",
            line={"color": ACCENT, "width": 2.5},
            name="median activation",
            hovertemplate="near %{x:.5~g}<br>median activation %{y:.3g}<extra></extra>",
        )
    )


def rotation_figure(rotated: Float[np.ndarray, " rotation"], observed: float, neuron: str) -> Figure:
    """|r| on test rows of the best neuron of every rotated basis, and of the best real one.

    Args:
        rotated: one a rotation.
        observed: of the real neuron.
        neuron: its name.
    """
    fig = Figure()
    low, high = float(min(rotated.min(), observed)), float(max(rotated.max(), observed))
    pad = 0.05 * (high - low) or 0.01
    bars = counted_bars(
        rotated,
        np.linspace(low - pad, high + pad, 41),
        marker={"color": FAINT, "line": {"color": "white", "width": 1}},
        name="best of a random rotation",
        hovertemplate="|r| %{x:.3f}: %{y} rotations<extra></extra>",
    )
    fig.add_trace(bars)
    drawn: Any = bars.y
    top = float(np.max(drawn))
    fig.add_trace(
        Scatter(
            x=[observed, observed],
            y=[0, top],
            mode="lines",
            line={"color": ACCENT, "width": 3},
            name=f"{neuron}, the best neuron",
            hovertemplate="|r| %{x:.3f}<extra></extra>",
        )
    )
    edge = float(np.quantile(rotated, 0.95))
    fig.add_trace(
        Scatter(
            x=[edge, edge],
            y=[0, top],
            mode="lines",
            line={"color": INK, "width": 1, "dash": "dot"},
            name="95th percentile",
            hovertemplate="|r| %{x:.3f}<extra></extra>",
        )
    )
    style(fig, height=320, aspect=0.36, extra=60)
    fig.update_xaxes(title_text="|r| on test rows of the neuron chosen on training rows")
    fig.update_yaxes(title_text="rotations")
    return fig


def cosine_figure(histogram: pd.DataFrame) -> Figure:
    """Cosines of all neurons' weights with both directions, and of vectors with the weights' covariance.

    Args:
        histogram: lines of one target with `direction`, `weight`, `cosine` (middle of a bin), `neurons` and
            `null` (shares).

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(histogram, "direction", "weight", "cosine", "neurons", "null")
    found = [d for d in ("read", "write") if (histogram["direction"] == d).any()]
    fig = make_subplots(
        rows=1, cols=len(found), shared_yaxes=True, horizontal_spacing=0.04,
        subplot_titles=[f"{d} direction" for d in found],
    )  # fmt: skip
    seen = histogram[(histogram["neurons"] > 0) | (histogram["null"] > 1e-5)]
    reach = float(seen["cosine"].abs().max()) + 0.02
    floor = 1e-5
    for c, name in enumerate(found, start=1):
        for weight, colour in _WEIGHTS.items():
            part = histogram[(histogram["direction"] == name) & (histogram["weight"] == weight)]
            if part.empty:
                continue
            for column, dash, width in (("null", "dot", 1.2), ("neurons", "solid", 1.8)):
                share = part[column].to_numpy(float)
                drawn = np.pad(share > floor, 1)
                alone = drawn[1:-1] & ~drawn[:-2] & ~drawn[2:]  # a line of one bin would not be seen
                fig.add_trace(
                    Scatter(
                        x=part["cosine"].to_numpy(float),
                        y=np.where(share > floor, share, np.nan),
                        mode="lines+markers",
                        line={"color": colour, "width": width, "dash": dash, "shape": "hvh"},
                        marker={"color": colour, "size": np.where(alone, 6, 0)},
                        name=f"{weight} weights" if column == "neurons" else f"{weight}, null",
                        legendgroup=f"{weight}{column}",
                        showlegend=c == 1,
                        hovertemplate="cosine %{x:.2f}: %{y:.2g}<extra></extra>",
                    ),
                    row=1,
                    col=c,
                )
    style(fig, height=380, aspect=0.42, extra=80, phone={"extra": 150})
    fig.update_layout(margin_t=70, legend_y=1.12)
    fig.update_annotations(font={"size": 13, "color": MUTED})
    fig.update_xaxes(title_text="cosine", range=[-reach, reach])
    fig.update_yaxes(type="log", exponentformat="power", dtick=1)
    fig.update_yaxes(title_text="share of neurons", col=1)
    return fig
