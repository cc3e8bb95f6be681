"""Readings taken apart, and readings over a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.probes.plots.drawing import Bar, Figure, Heatmap, Scatter
from graticule.probes.plots.markup import plain
from graticule.probes.plots.style import (
    ACCENT,
    BLOCKS,
    FAINT,
    INK,
    MUTED,
    SURFACE,
    need_columns,
    short,
    style,
)

_ATTENTION, _MLP, _OTHER = BLOCKS[1], BLOCKS[0], BLOCKS[4]
_DIVERGING = [[0.0, SURFACE], [0.5, "#f7f7f7"], [1.0, ACCENT]]


def _axis(name: str, unit: str | None) -> str:
    if unit is None:
        return name
    return f"{name} (degrees)" if unit in ("lat", "lon") else f"{name} ({unit})"


def _bars(rows: pd.DataFrame, value: str, **marks: Any) -> dict[str, Any]:
    """Error bars from `value`'s interval, where there is one."""
    low, high = rows[value] - rows[f"{value}_low"], rows[f"{value}_high"] - rows[value]
    if not bool(low.notna().any()):
        return {}
    return {
        "type": "data",
        "symmetric": False,
        "array": high.clip(lower=0).to_numpy(float),
        "arrayminus": low.clip(lower=0).to_numpy(float),
        "color": MUTED,
        "thickness": 1,
        "width": 2,
        **marks,
    }


def shares_figure(terms: pd.DataFrame) -> Figure:
    """Share of the reading's variance written by every layer's attention and MLP, with intervals.

    Args:
        terms: lines of one target with `kind`, `layer`, `share`, `share_low`, `share_high`; embeddings are
            drawn left of the first layer.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(terms, "kind", "layer", "share", "share_low", "share_high")
    fig = Figure()
    layers = sorted(int(v) for v in terms["layer"].dropna().unique())
    start = terms[terms["layer"].isna()]
    if len(start):
        fig.add_trace(
            Bar(
                x=[str(t) for t in start["term"]],
                y=start["share"].to_numpy(float),
                name="embedding",
                marker_color=_OTHER,
                error_y=_bars(start, "share"),
                hovertemplate="%{x}: %{y:.1%}<extra></extra>",
            )
        )
    for kind, name, colour in (("attention", "attention", _ATTENTION), ("mlp", "MLP", _MLP)):
        rows = terms[terms["kind"] == kind]
        fig.add_trace(
            Bar(
                x=[str(int(v)) for v in rows["layer"]],
                y=rows["share"].to_numpy(float),
                name=name,
                marker_color=colour,
                error_y=_bars(rows, "share"),
                hovertemplate=f"layer %{{x}}, {plain(name)}: %{{y:.1%}}<extra></extra>",
            )
        )
    style(fig, height=380, aspect=0.42, extra=60)
    fig.update_layout(barmode="group", bargap=0.25, bargroupgap=0.05)
    order = [*(str(t) for t in start["term"]), *map(str, layers)]
    fig.update_xaxes(title_text="layer", type="category", categoryorder="array", categoryarray=order)
    fig.update_yaxes(title_text="share of the reading's variance", tickformat=".0%", rangemode="tozero")
    fig.add_hline(y=0, line={"color": INK, "width": 1})
    return fig


def build_up_figure(terms: pd.DataFrame, intercept: float, unit: str | None = None) -> Figure:
    """The mean reading summed up to each write: intercept, embeddings, then attention and MLP in turn.

    Args:
        terms: lines of one target in model order, with `term`, `mean`, `kind`, `layer`.
        intercept: where the sum starts.
        unit: of the target.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(terms, "term", "mean", "kind", "layer")
    running = intercept + np.cumsum(terms["mean"].to_numpy(float))
    place = [0.0 if pd.isna(v) else float(v) + 1.0 for v in terms["layer"]]
    position = [p + (0.5 if k in ("mlp",) else 0.0) for p, k in zip(place, terms["kind"], strict=True)]
    fig = Figure(
        Scatter(
            x=[-0.5, *position],
            y=[intercept, *running],
            mode="lines+markers",
            line={"color": BLOCKS[0], "width": 2, "shape": "hv"},
            marker={"size": 5},
            text=["intercept", *terms["term"]],
            hovertemplate="after %{text}: %{y:.4~g}<extra></extra>",
            showlegend=False,
        )
    )
    fig.add_hline(y=float(running[-1]), line={"color": ACCENT, "width": 1, "dash": "dot"})
    style(fig, height=360, aspect=0.42, extra=40)
    layers = sorted(int(v) for v in terms["layer"].dropna().unique())
    wide, narrow = (_ticks_of_writes(layers, most) for most in (12, 5))
    fig.update_layout(xaxis=wide)
    fig.update_xaxes(title_text="written by layer (attention, then MLP)", tickangle=0)
    layout: Any = fig.layout
    phone = {f"xaxis.{key}": value for key, value in narrow.items()}
    fig.update_layout(meta={**layout.meta, "phone": phone})
    fig.update_yaxes(title_text=_axis("mean reading so far", unit))
    return fig


def _ticks_of_writes(layers: list[int], most: int) -> dict[str, list[Any]]:
    """The embeddings at 0, and about `most` of the layers, none so near that it touches their name."""
    step = max(1, round(len(layers) / most))
    shown = layers[step - 1 :: step] if step > 1 else layers[1 if len(layers) > most / 2 else 0 :]
    return {"tickvals": [0, *(v + 1 for v in shown)], "ticktext": ["embed", *map(str, shown)]}


def heads_figure(terms: pd.DataFrame) -> Figure:
    """Share of the reading's variance by layer and head.

    Args:
        terms: lines of one target; those of kind `head` are drawn.

    **Raises** `KeyError` if a column is missing, `ValueError` where no line is a head's.
    """
    need_columns(terms, "kind", "layer", "index", "share")
    heads = terms[terms["kind"] == "head"]
    if heads.empty:
        raise ValueError("no line is a head's: attribute(..., unit='head') gives them")
    grid = heads.pivot_table(index="index", columns="layer", values="share")
    top = float(np.nanmax(np.abs(grid.to_numpy(float)))) or 1.0
    fig = Figure(
        Heatmap(
            z=grid.to_numpy(float),
            x=[int(c) for c in grid.columns],
            y=[int(r) for r in grid.index],
            zmin=-top,
            zmax=top,
            colorscale=_DIVERGING,
            colorbar={"title": {"text": "share"}, "tickformat": ".0%", "thickness": 12},
            hovertemplate="layer %{x}, head %{y}: %{z:.1%}<extra></extra>",
            xgap=1,
            ygap=1,
        )
    )
    style(fig, height=max(240, 26 * len(grid) + 120), aspect=0.3, extra=60)
    fig.update_xaxes(title_text="layer", dtick=max(1, len(grid.columns) // 18), showgrid=False)
    fig.update_yaxes(title_text="head", dtick=max(1, len(grid) // 16), showgrid=False)
    return fig


def terms_figure(terms: pd.DataFrame, unit: str | None = None, by: str = "mean", limit: int = 25) -> Figure:
    """The largest terms as bars, with intervals where there are any.

    Args:
        terms: lines of one target; means are drawn less their `reference` where there is one.
        unit: of the target.
        by: `mean` (target units) or `share` (of the reading's variance).
        limit: bars drawn.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(terms, "term", by, f"{by}_low", f"{by}_high", "reference")
    compared = by == "mean" and bool(terms["reference"].notna().any())
    size = terms[by] - terms["reference"] if compared else terms[by]
    order = size.abs().sort_values(ascending=False).index[:limit][::-1]
    rows, value = terms.loc[order], size.loc[order]
    fig = Figure(
        Bar(
            x=value.to_numpy(float),
            y=[str(t) for t in rows["term"]],
            orientation="h",
            marker_color=[ACCENT if v < 0 else BLOCKS[0] for v in value],
            error_x=_bars(rows, by),
            hovertemplate="%{y}: %{x:.4~g}<extra></extra>",
            showlegend=False,
        )
    )
    note = f"The {len(order)} largest of {len(terms)} terms." if len(order) < len(terms) else None
    style(fig, height=90 + 20 * len(order), aspect=0.6, extra=6 * len(order), note=note)
    what = "share of the reading's variance" if by == "share" else _axis("term", unit)
    fig.update_xaxes(
        title_text=f"{what}, less its mean over training rows" if compared else what,
        tickformat=".0%" if by == "share" else None,
    )
    fig.update_yaxes(showgrid=False, ticks="", showline=False)
    fig.add_vline(x=0, line={"color": INK, "width": 1})
    return fig


def _token_labels(tokens: Sequence[str]) -> list[str]:
    return [short(t.replace("\n", "⏎").replace(" ", "·") if not t.strip() else t.strip(), 14) for t in tokens]


def trace_figure(
    tokens: Sequence[str],
    reading: Float[np.ndarray, " token"],
    n_special: int,
    name: str,
    unit: str | None = None,
    mean: float | None = None,
    scale: float | None = None,
) -> Figure:
    """A reading over the tokens of a text; special tokens are left out.

    Args:
        tokens: strings, special ones first.
        reading: one a token, in target units.
        n_special: leading tokens that are not drawn.
        name, unit: of the target.
        mean, scale: of the target over the training rows, drawn as a band of one standard deviation.
    """
    shown, labels = reading[n_special:], _token_labels(tokens[n_special:])
    x = np.arange(len(shown))
    fig = Figure()
    if mean is not None and scale is not None:
        fig.add_hrect(
            y0=mean - scale, y1=mean + scale, fillcolor=FAINT, opacity=0.25, line_width=0, layer="below"
        )
        fig.add_hline(y=mean, line={"color": MUTED, "width": 1, "dash": "dot"})
    fig.add_trace(
        Scatter(
            x=x,
            y=shown,
            mode="lines+markers",
            line={"color": BLOCKS[0], "width": 2},
            marker={"size": 7},
            text=labels,
            hovertemplate="%{text}: %{y:.4~g}<extra></extra>",
            showlegend=False,
        )
    )
    note = "Band: mean of the training rows and one standard deviation." if mean is not None else None
    style(fig, height=340, aspect=0.38, extra=60, note=note)
    fig.update_xaxes(
        tickvals=x,
        ticktext=labels,
        tickangle=-60 if len(labels) > 8 else 0,
        showgrid=False,
        title_text="token",
        range=[-0.5, len(labels) - 0.5],
    )
    fig.update_yaxes(title_text=_axis(name, unit), tickformat="d" if unit == "year" else None)
    return fig


def trace_map(
    tokens: Sequence[str],
    layers: Sequence[str],
    readings: Float[np.ndarray, "layer token"],
    n_special: int,
    name: str,
    unit: str | None = None,
    mean: float | None = None,
    scale: float | None = None,
) -> Figure:
    """Readings by layer and token; colours span two standard deviations of the training rows' target.

    Args:
        tokens: strings, special ones first.
        layers: a label a row.
        readings: in target units.
        n_special: leading tokens that are not drawn.
        name, unit: of the target.
        mean, scale: of the target over the training rows: the middle and the span of the colours.
    """
    shown, labels = readings[:, n_special:], _token_labels(tokens[n_special:])
    middle = float(np.median(shown)) if mean is None else mean
    span = 2 * scale if scale else float(np.abs(shown - middle).max()) or 1.0
    fig = Figure(
        Heatmap(
            z=shown,
            x=np.arange(len(labels)),
            y=list(layers),
            zmid=middle,
            zmin=middle - span,
            zmax=middle + span,
            colorscale=_DIVERGING,
            colorbar={"title": {"text": _axis(name, unit), "side": "right"}, "thickness": 12},
            text=[labels] * len(layers),
            hovertemplate="layer %{y}, %{text}: %{z:.4~g}<extra></extra>",
            xgap=1,
            ygap=1,
        )
    )
    note = "Colours end two standard deviations from the training rows' mean." if scale else None
    style(fig, height=max(280, 18 * len(layers) + 130), aspect=0.45, extra=60, note=note)
    fig.update_xaxes(
        tickvals=np.arange(len(labels)),
        ticktext=labels,
        tickangle=-60 if len(labels) > 8 else 0,
        showgrid=False,
        title_text="token",
    )
    fig.update_yaxes(title_text="layer", type="category", showgrid=False)
    return fig
