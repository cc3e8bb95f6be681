"""Maps as plain scatters over a packaged coastline: nothing is fetched, and true and predicted share axes."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.probes.plots.primitives import PlotTrace, by_block, dots_trace, line_trace, panels
from graticule.probes.plots.style import FAINT, INK, Markup, need_columns, plain, sampled, scored_rows, style

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

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
    true = [rows[f"true_{name}"].to_numpy(np.float64) for name in (lon, lat)]
    x_range, y_range = _window(*true)
    drawn, note = sampled(rows, limit, seed)
    fig, cells = panels(rows=2, columns=1, shared_xaxes=True, vertical_spacing=0.06)
    for kind, cell in zip(("true", "pred"), cells, strict=True):
        fig.add_trace(coast_trace(x_range, y_range), **cell)
        for name, colour, part in by_block(rows, block, drawn):
            x, y = (part[f"{kind}_{column}"].to_numpy(np.float64) for column in (lon, lat))
            ends = [_inside(x, x_range), _inside(y, y_range)]
            fig.add_trace(
                dots_trace(
                    ends[0], ends[1], name or "", colour, 4,
                    look={"opacity": 0.5 if colour == FAINT else 0.75},
                    hover=f"%{{text}}<br>%{{customdata[1]:.1f}}°, %{{customdata[0]:.1f}}°"
                    f"<extra>{plain(name or '')}</extra>",
                    legendgroup=name or "", showlegend=kind == "true", hoverlabel={"font": {"color": INK}},
                    text=part["text"].astype(str) if "text" in part.columns else None,
                    customdata=np.stack([x, y], axis=-1).round(2),
                ),
                **cell,
            )  # fmt: skip
    beyond = [
        int((_beyond(rows[f"{kind}_{lon}"], x_range) | _beyond(rows[f"{kind}_{lat}"], y_range)).sum())
        for kind in ("pred", "true")
    ]
    if any(beyond):
        note += f" Drawn on the edge, being beyond it: {beyond[0]:,} predicted and {beyond[1]:,} true places."
    aspect = 2 * (y_range[1] - y_range[0]) / (x_range[1] - x_range[0]) / _shrink(y_range)
    style(
        fig, height=820, aspect=min(aspect, 1.6), extra=120, note=note, phone=_PHONE, showlegend=bool(block),
        x={"range": x_range, "ticksuffix": "°", "nticks": 7}, legend_traceorder="normal",
        y={"range": y_range, "ticksuffix": "°", "nticks": 6, "title_text": "latitude"},
    )  # fmt: skip
    for row, kind in ((1, "true places"), (2, "predicted places")):
        fig.add_annotation(
            x=0, xref="paper", y=1, yref=f"y{'' if row == 1 else row} domain", xanchor="left", yanchor="top",
            text=Markup(f"<b>{kind}</b>"), showarrow=False, bgcolor="rgba(255,255,255,0.85)", xshift=4,
            yshift=-3,
        )  # fmt: skip
    fig.update_xaxes(title_text="longitude", row=2, col=1)
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


def _inside(values: Line, span: list[float]) -> Line:
    return np.clip(values, span[0], span[1]).astype(np.float32)


def _beyond(values: pd.Series[float], span: list[float]) -> pd.Series[bool]:
    return (values < span[0]) | (values > span[1])


def coast_trace(
    x_range: list[float],
    y_range: list[float],
    width: float = 0.8,
    colour: str = "#8a97a5",
    thin: bool = False,
) -> PlotTrace:
    """The coastline within reach of a window, as one grey line.

    Args:
        x_range: longitudes of the window.
        y_range: latitudes of the window.
        width: of the line.
        colour: of the line.
        thin: whether it is for a small panel: runs of gaps become one, and of three points one stays.
    """
    lon, lat = coastline()
    near = (lon > x_range[0] - 15) & (lon < x_range[1] + 15)
    near &= (lat > y_range[0] - 15) & (lat < y_range[1] + 15)
    x, y = np.where(near, lon, np.nan), np.where(near, lat, np.nan)
    if thin:
        gap = np.isnan(x)
        keep = ~(gap & np.concatenate([[False], gap[:-1]]))
        x, y = x[keep], y[keep]
        ends = np.isnan(x) | np.isnan(np.roll(x, 1)) | np.isnan(np.roll(x, -1))
        keep = ends | (np.arange(len(x)) % 3 == 0)
        x, y = x[keep], y[keep]
    return line_trace(x.astype(np.float32), y.astype(np.float32), None, colour, width, hover="")
