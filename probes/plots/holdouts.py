"""Hold-outs: nominal against held out by block, where unseen blocks were put, and hold-outs by layer."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from graticule.probes.plots.drawing import Figure, Scatter, make_subplots
from graticule.probes.plots.maps import coastline
from graticule.probes.plots.style import (
    ACCENT,
    FAINT,
    INK,
    MUTED,
    SURFACE,
    Markup,
    error_bars,
    layer_axis,
    need_columns,
    plain,
    sampled,
    short,
    short_labels,
    style,
)

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
    fig = Figure()
    for at, a, b in zip(place, largest["nominal"], largest["held_out"], strict=True):
        fig.add_trace(
            Scatter(
                x=[a, b], y=[at, at], mode="lines", line={"color": FAINT, "width": 3},
                showlegend=False, hoverinfo="skip",
            )
        )  # fmt: skip
    low, high = largest["held_out_low"], largest["held_out_high"]
    bars = error_bars(largest["held_out"], low, high, ACCENT, 1.2)
    cross: dict[str, Any] = {"symbol": "x-thin", "size": 8, "line": {"width": 2, "color": MUTED}}
    for column, what, mark in (
        ("mean_level", "training mean predicted", cross),
        ("nominal", "block in training (test rows)", {"size": 9, "color": SURFACE}),
        ("held_out", "block held out (95% interval)", {"size": 9, "color": ACCENT}),
    ):
        fig.add_trace(
            Scatter(
                x=largest[column], y=place, mode="markers", marker=mark, name=what, text=drawn.names,
                error_x=bars if column == "held_out" else None,
                hovertemplate="%{text}<br>" + plain(what) + " %{x:.3f}<extra></extra>",
            )
        )  # fmt: skip
    if chance is not None:
        fig.add_vline(x=chance, line={"color": MUTED, "width": 1, "dash": "dot"})
        fig.add_annotation(
            x=chance, y=1, yref="paper", yanchor="top", xanchor="left", showarrow=False, xshift=3,
            font={"size": 11, "color": MUTED}, text="shuffled", textangle=90,
        )  # fmt: skip
    note = drawn.note("Numbers beside names are rows.")
    style(fig, height=130 + 20 * len(drawn.names), note=note, phone={"extra": 40})
    fig.update_xaxes(title_text=title, rangemode="tozero")
    fig.update_yaxes(title_text=by.replace("_", " "), **drawn.axis)
    return fig


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
    def of(cls, blocks: pd.DataFrame, top: int) -> "_Drawn":
        keep = np.sort(blocks["rows"].to_numpy().argsort(kind="stable")[::-1][:top])
        rows = blocks.iloc[keep[::-1]]
        names = [f"{b}  {n:,}" for b, n in zip(short_labels(rows["block"]), rows["rows"], strict=True)]
        return cls(rows, names, np.arange(len(rows), dtype=np.float64), len(blocks) - len(rows))

    @property
    def axis(self) -> dict[str, Any]:
        """Of a vertical axis of their names."""
        span = [-0.7, len(self.names) - 0.3]
        font = {"size": 11}
        return {
            "tickvals": self.place, "ticktext": self.names, "ticks": "", "tickfont": font, "range": span
        }  # fmt: skip

    def note(self, text: str) -> str:
        """`text`, and how many blocks are left out."""
        return text + (f" {self.beyond:,} smaller blocks are not drawn." if self.beyond else "")


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
    need_columns(predictions, "block", *(f"{k}_{axis}" for k in ("true", "pred") for axis in (lat, lon)))
    largest = blocks.sort_values("rows", ascending=False, kind="stable").head(top)
    across = 3
    down = -(-len(largest) // across)
    titles = [
        Markup(f"<b>{plain(short(str(b), 18))}</b> {n:,} rows, {a:.0f}°")
        for b, n, a in zip(largest["block"], largest["rows"], largest["angle"], strict=True)
    ]
    fig = make_subplots(
        rows=down, cols=across, shared_xaxes=True, shared_yaxes=True, subplot_titles=titles,
        horizontal_spacing=0.015, vertical_spacing=0.2 / max(down, 2),
    )  # fmt: skip
    inside = predictions[predictions["block"].isin(largest["block"])]
    x_range, y_range = (_window(inside[f"true_{axis}"].to_numpy(np.float64)) for axis in (lon, lat))
    coast_x, coast_y = coastline()
    near_x = (coast_x > x_range[0] - 15) & (coast_x < x_range[1] + 15)
    near = near_x & (coast_y > y_range[0] - 15) & (coast_y < y_range[1] + 15)
    coast = _thin(np.where(near, coast_x, np.nan), np.where(near, coast_y, np.nan))
    for i, (_, block) in enumerate(largest.iterrows()):
        cell: dict[str, Any] = {"row": i // across + 1, "col": i % across + 1}
        part, _ = sampled(predictions[predictions["block"] == block["block"]], limit, seed)
        shore = {"color": "#a9b4bf", "width": 0.7}
        outline = Scatter(
            x=coast[0], y=coast[1], mode="lines", line=shore, hoverinfo="skip", showlegend=False
        )
        fig.add_trace(outline, **cell)
        for kind, what, colour in (("pred", "predicted, never seen", ACCENT), ("true", "true", SURFACE)):
            fig.add_trace(
                Scatter(
                    x=_inside(part[f"{kind}_{lon}"], x_range), y=_inside(part[f"{kind}_{lat}"], y_range),
                    mode="markers", marker={"size": 3, "color": colour, "opacity": 0.6}, name=what,
                    legendgroup=kind, showlegend=i == 0,
                    text=part["text"].astype(str) if "text" in part else None,
                    hovertemplate="%{text}<br>%{y:.1f}°, %{x:.1f}°<extra>" + plain(what) + "</extra>",
                ),
                **cell,
            )  # fmt: skip
        fig.add_trace(
            Scatter(
                x=[block[f"mean_{lon}"]], y=[block[f"mean_{lat}"]], mode="markers", name="training mean",
                marker={"symbol": "x", "size": 8, "color": INK}, legendgroup="mean", showlegend=i == 0,
                hovertemplate="training mean %{y:.1f}°, %{x:.1f}°<extra></extra>",
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
    style(fig, height=140 + 190 * down, aspect=aspect, extra=110, note=note)
    fig.update_layout(legend={"y": 1.06 if down > 2 else 1.12})
    fig.update_xaxes(range=x_range, ticksuffix="°", nticks=4)
    fig.update_yaxes(range=y_range, ticksuffix="°", nticks=5)
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
    fig = Figure()
    for kind, what, colour, shift in (
        ("true", "true", SURFACE, 0.16),
        ("pred", "predicted, never seen", ACCENT, -0.16),
    ):
        values = [groups.get_group(b)[f"{kind}_{name}"].to_numpy(np.float64) for b in drawn.blocks["block"]]
        low, middle, high = np.array([np.quantile(v, [0.25, 0.5, 0.75]) for v in values]).T
        fig.add_trace(
            Scatter(
                x=middle, y=drawn.place + shift, mode="markers", name=what, text=drawn.names,
                marker={"size": 8, "color": colour}, error_x=error_bars(middle, low, high, colour, 2.0),
                hovertemplate="%{text}<br>" + plain(what) + ": median %{x:.5~g}<extra></extra>",
            )
        )  # fmt: skip
    fig.add_trace(
        Scatter(
            x=drawn.blocks[f"mean_{name}"], y=drawn.place, mode="markers", name="training mean",
            text=drawn.names, marker={"symbol": "x", "size": 7, "color": INK},
            hovertemplate="%{text}<br>training mean %{x:.5~g}<extra></extra>",
        )
    )  # fmt: skip
    note = drawn.note("Dots are medians, bars the middle half of the rows.")
    style(fig, height=130 + 26 * len(drawn.names), note=note, phone={"extra": 40})
    suffix = f" ({unit})" if unit and unit != name and unit not in name else ""
    fig.update_xaxes(title_text=name.replace("_", " ") + suffix, tickformat="d" if unit == "year" else None)
    fig.update_yaxes(**drawn.axis)
    return fig


def held_out_layers_figure(layers: pd.DataFrame, chosen: str) -> Figure:
    """R² with blocks in training and held out, layer by layer; the point of the hold-out is marked."""
    need_columns(layers, "layer", "point", "nominal_r2", "held_out_r2")
    fig = Figure()
    for column, what, colour in (
        ("nominal_r2", "blocks in training", SURFACE),
        ("held_out_r2", "blocks held out", ACCENT),
    ):
        fig.add_trace(
            Scatter(
                x=layers["layer"], y=layers[column], mode="lines+markers", name=what,
                line={"color": colour, "width": 2}, marker={"size": 6},
                hovertemplate="layer %{x}<br>" + plain(what) + " %{y:.3f}<extra></extra>",
            )
        )  # fmt: skip
    fig.add_hline(y=0, line={"color": MUTED, "width": 1, "dash": "dot"})
    at = layers[layers["point"] == chosen]
    if len(at):
        fig.add_vline(x=float(at["layer"].iloc[0]), line={"color": FAINT, "width": 6}, layer="below")
    note = "The dotted line predicts the training mean; the grey one is the chosen layer."
    style(fig, height=340, note=note)
    layer_axis(fig, layers["layer"])
    fig.update_yaxes(title_text="R² against the training mean")
    return fig


def _window(values: np.ndarray) -> list[float]:
    """The middle 99% with room around."""
    low, high = np.quantile(values, [0.005, 0.995])
    room = 0.08 * (high - low) + 0.02
    return [float(low - room), float(high + room)]


def _inside(values: "pd.Series[Any]", span: list[float]) -> np.ndarray:
    return values.to_numpy(np.float64).clip(span[0], span[1]).astype(np.float32)


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A coastline for a small panel: runs of gaps become one, and every other point goes."""
    gap = np.isnan(x)
    keep = ~(gap & np.concatenate([[False], gap[:-1]]))
    x, y = x[keep], y[keep]
    ends = np.isnan(x) | np.isnan(np.roll(x, 1)) | np.isnan(np.roll(x, -1))
    keep = ends | (np.arange(len(x)) % 3 == 0)
    return x[keep].astype(np.float32), y[keep].astype(np.float32)
