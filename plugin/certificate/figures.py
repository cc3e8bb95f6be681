"""The certificate's figures: pure functions of its tables."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from graticule.certificate.requirements import DIRECTION, FALSE, short_point
from graticule.probes.plots.drawing import Bar, Figure, Heatmap, Scatter, make_subplots
from graticule.probes.plots.style import (
    ACCENT,
    BLOCKS,
    FAINT,
    INK,
    MUTED,
    SURFACE,
    Markup,
    need_columns,
    plain,
    style,
)

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
    fig: Figure = make_subplots(rows=1, cols=3, subplot_titles=titles, shared_yaxes=True)
    for k, column in enumerate(columns):
        table = concepts.pivot_table(index="point", columns="concept", values=column, sort=False)
        values = table.to_numpy(np.float64)
        heat = Heatmap(
            z=values,
            x=[f"C{c}" for c in table.columns],
            y=[short_point(str(p)) for p in table.index],
            zmin=0,
            zmax=1,
            colorscale="Blues",
            texttemplate="%{z:.2f}",
            textfont={"size": 10},
            showscale=k == 2,
            hovertemplate="%{y}, %{x}: R² %{z:.3f}<extra></extra>",
            colorbar={"title": "R²", "thickness": 12},
        )
        fig.add_trace(heat, row=1, col=k + 1)
    style(
        fig, height=130 + 34 * concepts["point"].nunique(), aspect=0.2, extra=34 * concepts["point"].nunique()
    )
    fig.update_layout(margin={"t": 36, "l": 110})
    fig.update_yaxes(autorange="reversed", ticks="")
    fig.update_xaxes(ticks="")
    return fig


def levels_figure(concepts: pd.DataFrame, title: str, log: bool = False) -> Figure:
    """Mean R² over concepts of every instrument against a condition's level, at one point."""
    need_columns(concepts, "level", *MEASURES)
    means = concepts.groupby("level")[list(MEASURES)].mean()
    fig = Figure()
    for column, (name, colour, dash) in MEASURES.items():
        fig.add_trace(_line(means[column], name, colour, dash, "lines+markers", "R² %{y:.3f}"))
    return _finish(fig, means.index, title, log, "R² of the posterior, mean over concepts", (-0.12, 1.03))


def _line(means: pd.Series[float], name: str, colour: str, dash: str, mode: str, figure: str) -> Scatter:
    return Scatter(
        x=means.index,
        y=means,
        name=name,
        mode=mode,
        line={"color": colour, "width": 2, "dash": dash},
        hovertemplate="%{x:g}: " + figure + "<extra>" + plain(name) + "</extra>",
    )


def _finish(
    fig: Figure, levels: Iterable[float], title: str, log: bool, y_title: str, y_range: tuple[float, float]
) -> Figure:
    """The figure with its axes: a condition's levels across, ticked where they were measured."""
    style(fig, height=380, aspect=0.42, extra=90)
    fig.update_xaxes(title_text=title, type="log" if log else "linear", tickvals=list(levels))
    fig.update_yaxes(title_text=y_title, range=list(y_range))
    return fig


def directions_figure(concepts: pd.DataFrame, title: str, log: bool = False) -> Figure:
    """Cosines of the ridge's directions with their truth against a condition's level: every concept a mark,
    lines their means; dashed what is required where there are as many dimensions as concepts."""
    need_columns(concepts, "level", "write_cosine", "read_agreement", "read_cosine")
    names = {
        "write_cosine": ("write direction", ACCENT, "solid"),
        "read_agreement": ("read direction, on the covariance", INK, "solid"),
        "read_cosine": ("read direction, plain", MUTED, "dot"),
    }
    fig = Figure()
    for column, (name, colour, dash) in names.items():
        means = concepts.groupby("level")[column].mean()
        fig.add_trace(_line(means, name, colour, dash, "lines", "%{y:.4f}"))
        fig.add_trace(
            Scatter(
                x=concepts["level"],
                y=concepts[column],
                mode="markers",
                marker={"color": colour, "size": 5, "opacity": 0.5},
                showlegend=False,
                hovertemplate="%{x:g}: %{y:.4f}<extra>" + plain(name) + "</extra>",
            )
        )
    low = float(np.nanmin(concepts[list(names)].to_numpy(np.float64)))
    levels, extent = sorted(concepts["level"].unique()), (min(low, 0.94) - 0.02, 1.005)
    _finish(fig, levels, title, log, "cosine with the truth", extent)
    fig.add_hline(y=DIRECTION, line={"color": MUTED, "width": 1, "dash": "dash"})
    return fig


def nothing_figure(nothing: pd.DataFrame) -> Figure:
    """How often random labels of contexts were called structure, with 95% intervals, one row per
    instrument."""
    need_columns(nothing, "learner", "instrument", "rate", "low", "high", "above_0", "labellings")
    fig = Figure()
    for learner, colour in zip(nothing["learner"].drop_duplicates(), (INK, ACCENT), strict=False):
        rates = nothing[nothing["learner"] == learner]
        fig.add_trace(
            Scatter(
                x=rates["rate"],
                y=rates["instrument"],
                name=f"{learner} learner",
                mode="markers",
                orientation="h",  # learners are set apart along y
                marker={"color": colour, "size": 9},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": rates["high"] - rates["rate"],
                    "arrayminus": rates["rate"] - rates["low"],
                    "color": colour,
                },
                customdata=rates[["above_0", "labellings"]],
                hovertemplate="%{y}: %{x:.1%}; interval above 0 in %{customdata[0]} of %{customdata[1]}"
                "<extra></extra>",
            )
        )
    style(fig, height=300, aspect=0.3, extra=80)
    fig.add_vline(x=FALSE, line={"color": MUTED, "width": 1, "dash": "dash"})
    fig.update_layout(scattermode="group")
    most = max(0.1, 1.08 * float(nothing["high"].max()))
    fig.update_xaxes(
        title_text="share of random labellings called structure", tickformat=".0%", range=[-0.004, most]
    )
    fig.update_yaxes(autorange="reversed", showgrid=False)
    return fig


def parity_figure(parities: pd.DataFrame) -> Figure:
    """R² of the parity of two concepts, mean over pairs: ridge, the best linear reader and the MLP, a group
    of bars a learner, width and point."""
    need_columns(parities, "learner", "level", "point", "ridge", "mlp", "best_linear")
    means = parities.groupby(["learner", "level", "point"], sort=False)[
        ["ridge", "best_linear", "mlp"]
    ].mean()
    labels = [Markup(f"{plain(le)}, d/m={d:g}<br>{plain(short_point(str(p)))}") for le, d, p in means.index]
    fig = Figure()
    names = {"ridge": ("ridge", INK), "best_linear": ("best linear reader", SURFACE), "mlp": ("MLP", ACCENT)}
    for column, (name, colour) in names.items():
        bar = Bar(
            x=labels,
            y=means[column].clip(lower=LOWEST),
            name=name,
            marker={"color": colour},
            customdata=means[column],
            hovertemplate="%{x}: R² %{customdata:.3f}<extra>" + plain(name) + "</extra>",
        )
        fig.add_trace(bar)
    below = bool((means < LOWEST).any(axis=None))
    style(fig, height=400, aspect=0.45, extra=90, note=f"Bars end at {LOWEST:g}." if below else None)
    fig.update_layout(barmode="group", bargap=0.3)
    fig.update_xaxes(showgrid=False, tickfont={"size": 10})
    fig.update_yaxes(title_text="R² of the parity's posterior", range=[-0.12, 1.03])
    return fig
