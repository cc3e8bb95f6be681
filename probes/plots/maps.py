"""Maps as plain scatters over a packaged coastline: nothing is fetched, and true and predicted share axes."""

import json
from functools import cache
from importlib import resources

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.probes.plots.drawing import Figure, Scatter, make_subplots
from graticule.probes.plots.style import (
    BLOCKS,
    FAINT,
    INK,
    Markup,
    block_colours,
    need_columns,
    plain,
    sampled,
    scored_rows,
    short,
    style,
)

Line = Float[np.ndarray, " point"]


_PHONE = {"extra": 230, "yaxis.title.text": "", "yaxis2.title.text": "", "margin.l": 40, "margin.r": 8}
"""A narrow map needs its width: the ticks carry the degree sign, and the legend takes more lines."""


@cache
def coastline() -> tuple[Line, Line]:
    """Longitudes and latitudes of the packaged public-domain coastline in degrees, NaN between polylines."""
    text = (resources.files("graticule.probes.data") / "coastline.json").read_text(encoding="utf-8")
    lon: list[float] = []
    lat: list[float] = []
    for xs, ys in json.loads(text):
        lon += [*xs, float("nan")]
        lat += [*ys, float("nan")]
    x, y = np.asarray(lon, dtype=np.float64), np.asarray(lat, dtype=np.float64)
    jumps = np.flatnonzero(np.abs(np.diff(x)) > 180) + 1  # across the antimeridian, not across the map
    return np.insert(x, jumps, np.nan), np.insert(y, jumps, np.nan)


def map_figure(
    predictions: pd.DataFrame,
    lat: str,
    lon: str,
    block: str | None = None,
    limit: int = 4000,
    seed: int = 0,
) -> Figure:
    """True places (above) and predicted places (below) of the test rows, coloured by block, on shared axes.

    Args:
        predictions: One row per prediction, with `true_<lat>`, `pred_<lat>`, `true_<lon>`, `pred_<lon>` in
            degrees; a `split` column, if there is one, picks the test rows; a `text` column is shown on
            hover.
        lat, lon: names of the two targets.
        block: column of groups; the nine largest have a colour, the rest are grey.
        limit, seed: at most `limit` rows are drawn, sampled with `seed`.

    Where the true places fill a small part of the world, the axes are zoomed to it. Predictions beyond the
    axes are drawn on their edge, and the note (`note_of`) says how many there are.

    Raises:
        KeyError: If a column is missing.
        ValueError: If there is no test row.
    """
    names = {f"{kind}_{axis}": f"{kind}_{axis}" for kind in ("true", "pred") for axis in (lat, lon)}
    need_columns(predictions, *names, *([block] if block else []))
    rows = scored_rows(predictions)
    finite = np.isfinite(rows[list(names)].to_numpy(np.float64)).all(axis=1)
    rows = rows.iloc[np.flatnonzero(finite)]
    x_range, y_range = _window(
        rows[f"true_{lon}"].to_numpy(np.float64), rows[f"true_{lat}"].to_numpy(np.float64)
    )
    sample, note = sampled(rows, limit, seed)
    colours, groups = block_colours(rows[block]) if block else ({"": BLOCKS[0]}, None)
    fig = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    for row, kind in ((1, "true"), (2, "pred")):
        _draw_coast(fig, row, x_range, y_range)
        for name, colour in colours.items():
            part = sample if groups is None else sample[groups[sample.index] == name]
            _draw_places(
                fig, row, part, (f"{kind}_{lon}", f"{kind}_{lat}"), (x_range, y_range), short(name), colour
            )
    beyond = [
        int((_beyond(rows[f"{kind}_{lon}"], x_range) | _beyond(rows[f"{kind}_{lat}"], y_range)).sum())
        for kind in ("pred", "true")
    ]
    if any(beyond):
        note += f" Drawn on the edge, being beyond it: {beyond[0]:,} predicted and {beyond[1]:,} true places."
    aspect = 2 * (y_range[1] - y_range[0]) / (x_range[1] - x_range[0]) / _shrink(y_range)
    style(fig, height=820, aspect=min(aspect, 1.6), extra=120, note=note, phone=_PHONE)
    for row, word in ((1, "true places"), (2, "predicted places")):
        fig.update_yaxes(range=y_range, row=row, col=1, ticksuffix="°", title_text="latitude", nticks=6)
        fig.update_xaxes(range=x_range, row=row, col=1, ticksuffix="°", nticks=7)
        fig.add_annotation(
            x=0, xref="paper", y=1, yref=f"y{'' if row == 1 else row} domain", xanchor="left", yanchor="top",
            text=Markup(f"<b>{word}</b>"), showarrow=False, bgcolor="rgba(255,255,255,0.85)", xshift=4,
            yshift=-3,
        )  # fmt: skip
    fig.update_xaxes(title_text="longitude", row=2, col=1)
    fig.update_layout(showlegend=bool(block), legend={"traceorder": "normal"})
    return fig


def _window(lon: Line, lat: Line) -> tuple[list[float], list[float]]:
    """Axis ranges: the whole world, or the middle 99 % of the true places with room around them."""
    x = np.quantile(lon, [0.005, 0.995])
    y = np.quantile(lat, [0.005, 0.995])
    if x[1] - x[0] > 150 or y[1] - y[0] > 90:
        return [-180.0, 180.0], [-60.0, 84.0] if y[0] > -60 else [-90.0, 90.0]
    room = 0.12 * max(x[1] - x[0], y[1] - y[0]) + 0.02
    return (
        [float(max(x[0] - room, -180)), float(min(x[1] + room, 180))],
        [float(max(y[0] - room, -90)), float(min(y[1] + room, 90))],
    )


def _shrink(y_range: list[float]) -> float:
    """How much a degree of longitude is narrower than one of latitude in the middle of a zoomed map."""
    middle = sum(y_range) / 2
    return float(np.cos(np.radians(middle))) if y_range[1] - y_range[0] < 90 else 1.0


def _beyond(values: "pd.Series[float]", span: list[float]) -> "pd.Series[bool]":
    return (values < span[0]) | (values > span[1])


def _draw_coast(fig: Figure, row: int, x_range: list[float], y_range: list[float]) -> None:
    """The coastline within reach of the window, as one grey line."""
    lon, lat = coastline()
    room = 15.0
    near = (
        (lon > x_range[0] - room)
        & (lon < x_range[1] + room)
        & (lat > y_range[0] - room)
        & (lat < y_range[1] + room)
    )
    fig.add_trace(
        Scatter(
            x=np.where(near, lon, np.nan).astype(np.float32),
            y=np.where(near, lat, np.nan).astype(np.float32),
            mode="lines",
            line={"color": "#8a97a5", "width": 0.8},
            hoverinfo="skip",
            showlegend=False,
            name="coastline",
        ),
        row=row,
        col=1,
    )


def _draw_places(
    fig: Figure,
    row: int,
    rows: pd.DataFrame,
    columns: tuple[str, str],
    window: tuple[list[float], list[float]],
    name: str,
    colour: str,
) -> None:
    """One block's places; what falls beyond the window is drawn on its edge."""
    x = rows[columns[0]].to_numpy(np.float64)
    y = rows[columns[1]].to_numpy(np.float64)
    fig.add_trace(
        Scatter(
            x=np.clip(x, window[0][0], window[0][1]).astype(np.float32),
            y=np.clip(y, window[1][0], window[1][1]).astype(np.float32),
            mode="markers",
            marker={"size": 4, "color": colour, "opacity": 0.5 if colour == FAINT else 0.75},
            name=name,
            legendgroup=name,
            showlegend=row == 1,
            text=rows["text"].astype(str) if "text" in rows.columns else None,
            customdata=np.stack([x, y], axis=-1).round(2),
            hovertemplate="%{text}<br>%{customdata[1]:.1f}°, %{customdata[0]:.1f}°<extra>"
            + plain(name)
            + "</extra>",
            hoverlabel={"font": {"color": INK}},
        ),
        row=row,
        col=1,
    )
