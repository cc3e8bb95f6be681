"""Hold-outs: nominal against held out by block, where unseen blocks were put, and hold-outs by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from graticule.probes.plots.maps import coast_trace
from graticule.probes.plots.primitives import dots_trace, level, line_trace, new_figure, panels
from graticule.probes.plots.style import (
    ACCENT,
    FAINT,
    INK,
    MUTED,
    SURFACE,
    Markup,
    axis,
    error_bars,
    layer_axis,
    left_out,
    need_columns,
    plain,
    rows_axis,
    sampled,
    short,
    short_labels,
    style,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_LEVELS = {
    "proximity error": ("proximity error (share of predictions that lie closer; lower is better)", 0.5),
    "accuracy": ("accuracy (share of rows right; higher is better)", None),
    "absolute error": ("mean absolute error (standard deviations of the training targets)", None),
}


def dumbbell_figure(blocks: pd.DataFrame, measure: str, by: str, top: int = 30) -> Figure:
    """Each block's score with its rows in training and held out, and what the training mean would score.

    Args:
        blocks: as `Holdouts.blocks`.
        measure: what they are scored by.
        by: what the blocks are, for the axis.
        top: how many are drawn, those with most rows, in the table's order.
    """
    need_columns(
        blocks, "block", "rows", "nominal", "held_out", "held_out_low", "held_out_high", "mean_level"
    )
    drawn = _Drawn.of(blocks, top)
    largest, place = drawn.blocks, drawn.place
    title, chance = _LEVELS.get(measure, (measure, None))
    fig = new_figure()
    for at, a, b in zip(place, largest["nominal"], largest["held_out"], strict=True):
        fig.add_trace(line_trace([a, b], [at, at], None, FAINT, 3, hover=""))
    middle, low, high = (largest[name] for name in ("held_out", "held_out_low", "held_out_high"))
    cross: dict[str, Any] = {"look": {"symbol": "x-thin", "line": {"width": 2, "color": MUTED}}, "size": 8}
    whiskers: dict[str, Any] = {"error_x": error_bars(middle, low, high, ACCENT, 1.2)}
    for column, what, colour, more in (
        ("mean_level", "training mean predicted", MUTED, cross),
        ("nominal", "block in training (test rows)", SURFACE, {}),
        ("held_out", "block held out (95% interval)", ACCENT, whiskers),
    ):
        hover = f"%{{text}}<br>{plain(what)} %{{x:.3f}}<extra></extra>"
        fig.add_trace(dots_trace(largest[column], place, what, colour, text=drawn.names, hover=hover, **more))
    if chance is not None:
        level(fig, x=chance)
        fig.add_annotation(
            x=chance, y=1, yref="paper", yanchor="top", xanchor="left", showarrow=False, xshift=3,
            font={"size": 11, "color": MUTED}, text="shuffled", textangle=90,
        )  # fmt: skip
    note, up = drawn.note("Numbers beside names are rows."), drawn.axis(title_text=by.replace("_", " "))
    across = {"title_text": title, "rangemode": "tozero"}
    return style(fig, 130 + 20 * len(drawn.names), note=note, phone={"extra": 40}, x=across, y=up)


@dataclass(frozen=True)
class _Drawn:
    """The blocks of a figure with a line for each: those with most rows, in the table's order."""

    blocks: pd.DataFrame
    names: list[str]
    place: np.ndarray
    """Heights: names may be numbers, which an axis would take as such."""
    beyond: int
    """Smaller blocks, which are not drawn."""

    @classmethod
    def of(cls, blocks: pd.DataFrame, top: int) -> _Drawn:
        keep = np.sort(blocks["rows"].to_numpy().argsort(kind="stable")[::-1][:top])
        rows = blocks.iloc[keep[::-1]]
        names = [f"{b}  {n:,}" for b, n in zip(short_labels(rows["block"]), rows["rows"], strict=True)]
        return cls(rows, names, np.arange(len(rows), dtype=np.float64), len(blocks) - len(rows))

    def axis(self, **more: Any) -> dict[str, Any]:
        """A vertical axis of their names."""
        return rows_axis(self.names, ticks="", tickfont={"size": 11}, **more)

    def note(self, text: str) -> str:
        """`text`, and how many blocks are left out."""
        return text + left_out(self.beyond, "blocks")


def held_out_maps_figure(
    predictions: pd.DataFrame,
    blocks: pd.DataFrame,
    lat: str,
    lon: str,
    top: int = 12,
    limit: int = 400,
    seed: int = 0,
) -> Figure:
    """Small maps of the largest blocks: true places, those predicted without the block, training mean ×.

    As Figures 11 and 12 of the paper. All panels share the window that holds the true places of all blocks;
    predictions beyond it are drawn on its edge.

    Args:
        predictions: as `Holdouts.predictions`.
        blocks: as `Holdouts.blocks`.
        lat: the target of latitude.
        lon: the target of longitude.
        top: how many panels.
        limit: rows drawn in each.
        seed: of the rows that are drawn.
    """
    need_columns(predictions, "block", *(f"{k}_{name}" for k in ("true", "pred") for name in (lat, lon)))
    largest = blocks.sort_values("rows", ascending=False, kind="stable").head(top)
    across = 3
    down = -(-len(largest) // across)
    titles = [
        Markup(f"<b>{plain(short(str(b), 18))}</b> {n:,} rows, {a:.0f}°")
        for b, n, a in zip(largest["block"], largest["rows"], largest["angle"], strict=True)
    ]
    spacing = {"horizontal_spacing": 0.015, "vertical_spacing": 0.2 / max(down, 2)}
    fig, cells = panels(titles, down, across, shared_xaxes=True, shared_yaxes=True, **spacing)
    inside = predictions[predictions["block"].isin(largest["block"])]
    x_range, y_range = (_window(inside[f"true_{name}"].to_numpy(np.float64)) for name in (lon, lat))
    coast = coast_trace(x_range, y_range, 0.7, "#a9b4bf", thin=True)
    for i, ((_, block), cell) in enumerate(zip(largest.iterrows(), cells, strict=False)):
        part, _ = sampled(predictions[predictions["block"] == block["block"]], limit, seed)
        fig.add_trace(coast, **cell)
        for kind, what, colour in (("pred", "predicted, never seen", ACCENT), ("true", "true", SURFACE)):
            x, y = _inside(part[f"{kind}_{lon}"], x_range), _inside(part[f"{kind}_{lat}"], y_range)
            more: dict[str, Any] = {
                "hover": f"%{{text}}<br>%{{y:.1f}}°, %{{x:.1f}}°<extra>{plain(what)}</extra>",
                "text": part["text"].astype(str) if "text" in part else None,
                "legendgroup": kind,
                "showlegend": i == 0,
            }
            fig.add_trace(dots_trace(x, y, what, colour, 3, look={"opacity": 0.6}, **more), **cell)
        fig.add_trace(
            dots_trace(
                [block[f"mean_{lon}"]], [block[f"mean_{lat}"]], "training mean", INK, 8, look={"symbol": "x"},
                hover="training mean %{y:.1f}°, %{x:.1f}°<extra></extra>", legendgroup="mean",
                showlegend=i == 0,
            ),
            **cell,
        )  # fmt: skip
    shape = (y_range[1] - y_range[0]) / (x_range[1] - x_range[0])
    note = (
        f"The {len(largest)} largest of {len(blocks)} blocks; at most {limit} rows of each are drawn. "
        "Degrees are the angle between where the block lies and where it was put, seen from the training "
        "mean (chance 90°)."
    )
    aspect = min(1.8, down * max(shape, 0.45) / across * 1.35 + 0.1)
    style(
        fig, height=140 + 190 * down, aspect=aspect, extra=110, note=note,
        legend_y=1.06 if down > 2 else 1.12,
        x={"range": x_range, "ticksuffix": "°", "nticks": 4},
        y={"range": y_range, "ticksuffix": "°", "nticks": 5},
    )  # fmt: skip
    fig.update_annotations(font={"size": 12})
    fig.update_xaxes(title_text="longitude", row=down)
    fig.update_yaxes(title_text="latitude", col=1)
    return fig


def held_out_spans_figure(
    predictions: pd.DataFrame, blocks: pd.DataFrame, name: str, unit: str | None, top: int = 30
) -> Figure:
    """One number: median and middle half of each block, true and predicted without it, and training mean ×.

    Args:
        predictions: as `Holdouts.predictions`.
        blocks: as `Holdouts.blocks`.
        name: of the target.
        unit: of the target.
        top: how many blocks are drawn, those with most rows, in the table's order.
    """
    need_columns(predictions, "block", f"true_{name}", f"pred_{name}")
    drawn = _Drawn.of(blocks, top)
    groups = predictions.groupby("block", sort=False)
    fig = new_figure()
    for kind, what, colour, shift in (
        ("true", "true", SURFACE, 0.16),
        ("pred", "predicted, never seen", ACCENT, -0.16),
    ):
        values = [groups.get_group(b)[f"{kind}_{name}"].to_numpy(np.float64) for b in drawn.blocks["block"]]
        low, middle, high = np.array([np.quantile(v, [0.25, 0.5, 0.75]) for v in values]).T
        bars = error_bars(middle, low, high, colour, 2.0)
        texts: dict[str, Any] = {
            "text": drawn.names,
            "hover": f"%{{text}}<br>{plain(what)}: median %{{x:.5~g}}<extra></extra>",
        }
        fig.add_trace(dots_trace(middle, drawn.place + shift, what, colour, 8, error_x=bars, **texts))
    texts = {"text": drawn.names, "hover": "%{text}<br>training mean %{x:.5~g}<extra></extra>"}
    texts["look"] = {"symbol": "x"}
    mean = drawn.blocks[f"mean_{name}"]
    fig.add_trace(dots_trace(mean, drawn.place, "training mean", INK, 7, **texts))
    note = drawn.note("Dots are medians, bars the middle half of the rows.")
    across = axis(name.replace("_", " "), unit, unit_in_title=unit if unit and unit in name else None)
    return style(fig, 130 + 26 * len(drawn.names), note=note, phone={"extra": 40}, x=across, y=drawn.axis())


def held_out_layers_figure(layers: pd.DataFrame, chosen: str) -> Figure:
    """R² with blocks in training and held out, layer by layer; the point of the hold-out is marked."""
    need_columns(layers, "layer", "point", "nominal_r2", "held_out_r2")
    fig = new_figure()
    for column, what, colour in (
        ("nominal_r2", "blocks in training", SURFACE),
        ("held_out_r2", "blocks held out", ACCENT),
    ):
        hover = f"layer %{{x}}<br>{plain(what)} %{{y:.3f}}<extra></extra>"
        fig.add_trace(line_trace(layers["layer"], layers[column], what, colour, 2, size=6, hover=hover))
    level(fig, y=0)
    at = layers[layers["point"] == chosen]
    if len(at):
        level(fig, x=float(at["layer"].iloc[0]), colour=FAINT, width=6, dash=None, layer="below")
    note = "The dotted line predicts the training mean; the grey one is the chosen layer."
    style(fig, height=340, note=note, y="R² against the training mean")
    layer_axis(fig, layers["layer"])
    return fig


def _window(values: np.ndarray) -> list[float]:
    """The middle 99% with room around."""
    low, high = np.quantile(values, [0.005, 0.995])
    room = 0.08 * (high - low) + 0.02
    return [float(low - room), float(high + room)]


def _inside(values: pd.Series[Any], span: list[float]) -> np.ndarray:
    return values.to_numpy(np.float64).clip(span[0], span[1]).astype(np.float32)
