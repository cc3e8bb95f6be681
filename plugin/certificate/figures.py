"""The certificate's figures: pure functions of its tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from graticule.certificate.requirements import DIRECTION, FALSE, short_point
from graticule.probes.plots.primitives import (
    bar_trace,
    dots_trace,
    heat_trace,
    level,
    line_trace,
    new_figure,
    panels,
)
from graticule.probes.plots.style import (
    ACCENT,
    BLOCKS,
    FAINT,
    INK,
    MUTED,
    SURFACE,
    Markup,
    error_bars,
    need_columns,
    plain,
    style,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MEASURES = {
    "ridge_r2": ("ridge", INK, "solid"),
    "best_r2": ("best linear reader", SURFACE, "dot"),
    "untrained_r2": ("ridge, untrained learner", FAINT, "solid"),
    "logistic_r2": ("logistic", BLOCKS[2], "solid"),
    "mlp_r2": ("MLP", ACCENT, "solid"),
    "pca_r2": ("PCA, all components", BLOCKS[4], "dash"),
}
"""Column of the table of concepts → name, colour and dash."""
LOWEST = -0.1
"""R² at which bars of parities end."""


def points_figure(concepts: pd.DataFrame) -> Figure:
    """R² of the ridge by point and concept, with that of the best linear reader and of the untrained learner
    beside it."""
    need_columns(concepts, "point", "concept", "ridge_r2", "best_r2", "untrained_r2")
    columns = ("ridge_r2", "best_r2", "untrained_r2")
    titles = ["ridge", "best linear reader", "untrained learner"]
    fig, cells = panels(titles, shared_yaxes=True)
    hover = "%{y}, %{x}: R² %{z:.3f}<extra></extra>"
    for column, cell in zip(columns, cells, strict=True):
        table = concepts.pivot_table(index="point", columns="concept", values=column, sort=False)
        names, points = [f"C{c}" for c in table.columns], [short_point(str(p)) for p in table.index]
        look: dict[str, Any] = {"bar": "R²", "texttemplate": "%{z:.2f}", "textfont": {"size": 10}}
        look["showscale"] = cell["col"] == 3
        values = table.to_numpy(np.float64)
        fig.add_trace(heat_trace(values, names, points, "Blues", (0, 1), hover, **look), **cell)
    size = 34 * concepts["point"].nunique()
    up = {"autorange": "reversed", "ticks": ""}
    return style(
        fig, height=130 + size, aspect=0.2, extra=size, margin={"t": 36, "l": 110}, x={"ticks": ""}, y=up
    )


def levels_figure(concepts: pd.DataFrame, title: str, log: bool = False) -> Figure:
    """Mean R² over concepts of every instrument against a condition's level, at one point."""
    need_columns(concepts, "level", *MEASURES)
    means = concepts.groupby("level")[list(MEASURES)].mean()
    fig = new_figure()
    for column, (name, colour, dash) in MEASURES.items():
        hover, y = f"%{{x:g}}: R² %{{y:.3f}}<extra>{plain(name)}</extra>", means[column]
        fig.add_trace(
            line_trace(means.index, y, name, colour, 2, dash=dash, hover=hover, mode="lines+markers")
        )
    up = {"title_text": "R² of the posterior, mean over concepts", "range": [-0.12, 1.03]}
    return style(fig, height=380, aspect=0.42, extra=90, x=_by_level(means.index, title, log), y=up)


def _by_level(levels: Iterable[float], title: str, log: bool) -> dict[str, Any]:
    """A condition's levels across, ticked where they were measured."""
    return {"title_text": title, "type": "log" if log else "linear", "tickvals": list(levels)}


def directions_figure(concepts: pd.DataFrame, title: str, log: bool = False) -> Figure:
    """Cosines of the ridge's directions with their truth against a condition's level: every concept a mark,
    lines their means; dashed what is required where there are as many dimensions as concepts."""
    need_columns(concepts, "level", "write_cosine", "read_agreement", "read_cosine")
    names = {
        "write_cosine": ("write direction", ACCENT, "solid"),
        "read_agreement": ("read direction, on the covariance", INK, "solid"),
        "read_cosine": ("read direction, plain", MUTED, "dot"),
    }
    fig = new_figure()
    for column, (name, colour, dash) in names.items():
        means, look = concepts.groupby("level")[column].mean(), {"opacity": 0.5}
        hover = f"%{{x:g}}: %{{y:.4f}}<extra>{plain(name)}</extra>"
        fig.add_trace(line_trace(means.index, means, name, colour, 2, dash=dash, hover=hover))
        x, y = concepts["level"], concepts[column]
        fig.add_trace(dots_trace(x, y, None, colour, 5, look=look, hover=hover))
    low = float(np.nanmin(concepts[list(names)].to_numpy(np.float64)))
    across = _by_level(sorted(concepts["level"].unique()), title, log)
    up = {"title_text": "cosine with the truth", "range": [min(low, 0.94) - 0.02, 1.005]}
    style(fig, height=380, aspect=0.42, extra=90, x=across, y=up)
    level(fig, y=DIRECTION, dash="dash")
    return fig


def nothing_figure(nothing: pd.DataFrame) -> Figure:
    """How often random labels of contexts were called structure, with 95% intervals, one row per
    instrument."""
    need_columns(nothing, "learner", "instrument", "rate", "low", "high", "above_0", "labellings")
    fig = new_figure()
    hover = "%{y}: %{x:.1%}; interval above 0 in %{customdata[0]} of %{customdata[1]}<extra></extra>"
    for learner, colour in zip(nothing["learner"].drop_duplicates(), (INK, ACCENT), strict=False):
        rates = nothing[nothing["learner"] == learner]
        bars = error_bars(rates["rate"], rates["low"], rates["high"], colour, None, None)
        more: dict[str, Any] = {"orientation": "h", "hover": hover}  # learners are set apart along y
        more["customdata"] = rates[["above_0", "labellings"]]
        name = f"{learner} learner"
        fig.add_trace(dots_trace(rates["rate"], rates["instrument"], name, colour, error_x=bars, **more))
    level(fig, x=FALSE, dash="dash")
    most = max(0.1, 1.08 * float(nothing["high"].max()))
    across = {
        "title_text": "share of random labellings called structure",
        "tickformat": ".0%",
        "range": [-0.004, most],
    }
    up = {"autorange": "reversed", "showgrid": False}
    return style(fig, height=300, aspect=0.3, extra=80, x=across, y=up, scattermode="group")


def parity_figure(parities: pd.DataFrame) -> Figure:
    """R² of the parity of two concepts, mean over pairs: ridge, the best linear reader and the MLP, a group
    of bars a learner, width and point."""
    need_columns(parities, "learner", "level", "point", "ridge", "mlp", "best_linear")
    means = parities.groupby(["learner", "level", "point"], sort=False)[
        ["ridge", "best_linear", "mlp"]
    ].mean()
    labels = [Markup(f"{plain(le)}, d/m={d:g}<br>{plain(short_point(str(p)))}") for le, d, p in means.index]
    fig = new_figure()
    names = {"ridge": ("ridge", INK), "best_linear": ("best linear reader", SURFACE), "mlp": ("MLP", ACCENT)}
    for column, (name, colour) in names.items():
        hover = f"%{{x}}: R² %{{customdata:.3f}}<extra>{plain(name)}</extra>"
        drawn = means[column].clip(lower=LOWEST)
        fig.add_trace(bar_trace(labels, drawn, name, colour, hover=hover, customdata=means[column]))
    below = bool((means < LOWEST).any(axis=None))
    return style(
        fig, height=400, aspect=0.45, extra=90, note=f"Bars end at {LOWEST:g}." if below else None,
        barmode="group", bargap=0.3, x={"showgrid": False, "tickfont": {"size": 10}},
        y={"title_text": "R² of the parity's posterior", "range": [-0.12, 1.03]},
    )  # fmt: skip
