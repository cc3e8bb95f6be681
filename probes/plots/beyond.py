"""Figures of probes beyond ridge: MLP, losses, components, longitude, few coordinates, reliability."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.probes.plots.drawing import Figure, Scatter
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


def _line(x: Any, y: Any, name: str, colour: str, **more: Any) -> Scatter:
    marked = {
        "mode": "lines+markers",
        "marker": {"size": 5, "color": colour},
        "line": {"color": colour, "width": 2.5},
    }
    return Scatter(x=x, y=y, name=name, **{**marked, **more})


def mlp_depth_figure(layers: pd.DataFrame, mlp_point: str, ridge_point: str) -> Figure:
    """Validation scores of MLP and ridge against depth, each one's test score at its chosen layer marked.

    Args:
        layers: a row a point, with `point`, `layer`, `validation`, `test_r2`, `ridge_validation` and
            `ridge_test_r2`.
        mlp_point, ridge_point: the points chosen inside the training rows.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(layers, "point", "layer", "validation", "test_r2", "ridge_validation", "ridge_test_r2")
    numbered = bool(layers["layer"].notna().all())
    x = layers["layer"].astype(float) if numbered else layers["point"].astype(str)
    fig = Figure()
    kinds = (("MLP", "", mlp_point, ACCENT), ("ridge", "ridge_", ridge_point, SURFACE))
    for name, prefix, chosen, colour in kinds:
        at = layers["point"] == chosen
        fig.add_trace(_line(x, layers[f"{prefix}validation"], f"{name}, validation", colour))
        fig.add_trace(
            Scatter(
                x=x[~at],
                y=layers[f"{prefix}test_r2"][~at],
                mode="markers",
                marker={"size": 7, "color": "white", "line": {"color": colour, "width": 1.2}},
                name=f"{name}, test (exploratory)",
            )
        )
        fig.add_trace(
            Scatter(
                x=x[at],
                y=layers[f"{prefix}test_r2"][at],
                mode="markers",
                marker={
                    "symbol": "diamond",
                    "size": 13,
                    "color": colour,
                    "line": {"color": "white", "width": 1},
                },
                name=f"{name}, test at its chosen layer: {float(layers[f'{prefix}test_r2'][at].iloc[0]):.3f}",
            )
        )
    style(fig, height=440)
    fig.update_yaxes(title_text="R² (mean over targets)")
    fig.update_xaxes(showgrid=False)
    layer_axis(fig, layers["layer"])
    return fig


def loss_figure(losses: Float[np.ndarray, "decay epoch"], decays: Sequence[float]) -> Figure:
    """Validation loss after each epoch, a line a weight decay, the kept epoch marked."""
    fig = Figure()
    for i, (decay, values) in enumerate(zip(decays, losses, strict=True)):
        held = np.flatnonzero(~np.isnan(values))
        fig.add_trace(_line(held + 1, values[held], f"weight decay {decay:g}", BLOCKS[i % len(BLOCKS)]))
        if len(held):
            best = int(np.nanargmin(values))
            mark = {"symbol": "circle-open", "size": 13, "color": INK, "line": {"width": 2}}
            fig.add_trace(
                Scatter(
                    x=[best + 1],
                    y=[values[best]],
                    mode="markers",
                    marker=mark,
                    name="kept",
                    showlegend=i == 0,
                )
            )
    style(fig, height=360)
    fig.update_yaxes(title_text="validation loss (variances of the target)")
    fig.update_xaxes(title_text="epoch", showgrid=False)
    return fig


def pca_figure(
    curve: pd.DataFrame, score: str, targets: Sequence[str] = (), needed: int | None = None
) -> Figure:
    """A score against the number of components on a log axis, with all components as a dashed line.

    Args:
        curve: a row a k, ascending, with `k`, the score's column (`test_r2` and `validation`, or `spearman`),
            `low` and `high` for R², and `r2_TARGET` or `spearman_TARGET` for `targets`.
        score: `r2` or `spearman`.
        targets: drawn as thinner lines.
        needed: the k to mark.

    **Raises** `KeyError` if a column is missing.
    """
    column = "test_r2" if score == "r2" else "spearman"
    need_columns(curve, "k", column)
    fig = Figure()
    for i, name in enumerate(targets):
        thin = {"line": {"color": BLOCKS[i], "width": 1.5}, "mode": "lines"}
        fig.add_trace(_line(curve["k"], curve[f"{score}_{name}"], f"{name}, test", BLOCKS[i], **thin))
    if score == "r2":
        fig.add_trace(_band(curve["k"], curve["low"], curve["high"]))
        dots = {"line": {"color": MUTED, "width": 1.5, "dash": "dot"}, "mode": "lines"}
        fig.add_trace(
            _line(curve["k"], curve["validation"], "validation (train, out of fold)", MUTED, **dots)
        )
    fig.add_trace(_line(curve["k"], curve[column], "test", INK))
    full = float(curve[column].iloc[-1])
    ends = [float(curve["k"].iloc[0]), float(curve["k"].iloc[-1])]
    dashed = {"mode": "lines", "line": {"color": ACCENT, "width": 1.5, "dash": "dash"}}
    fig.add_trace(_line(ends, [full, full], f"all {int(ends[1])} components: {full:.3f}", ACCENT, **dashed))
    if needed is not None:
        at = curve[curve["k"] == needed]
        mark = {"symbol": "diamond", "size": 12, "color": ACCENT, "line": {"color": "white", "width": 1}}
        fig.add_trace(
            Scatter(
                x=at["k"], y=at[column], mode="markers", marker=mark, name=f"needed: {needed} (validation)"
            )
        )
    style(fig, height=420)
    _log_ticks(fig, curve["k"].astype(int).tolist(), "principal components (log scale)")
    fig.update_yaxes(
        title_text="R² (mean over targets)" if score == "r2" else "Spearman ρ (mean over targets)"
    )
    return fig


def _band(
    x: Any, low: Any, high: Any, colour: str = "rgba(28,39,51,.12)", name: str = "95% interval"
) -> Scatter:
    return Scatter(
        x=[*x, *list(x)[::-1]],
        y=[*high, *list(low)[::-1]],
        fill="toself",
        fillcolor=colour,
        line={"width": 0},
        mode="lines",
        name=name,
        hoverinfo="skip",
    )


def _log_ticks(fig: Figure, ks: Sequence[int], title: str, ticks: Sequence[int] | None = None) -> None:
    wanted = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000]
    shown = list(ticks or sorted({k for k in wanted if min(ks) <= k <= 0.75 * max(ks)} | {max(ks)}))
    fig.update_xaxes(
        type="log",
        tickvals=shown,
        ticktext=[str(k) for k in shown],
        title_text=title,
        showgrid=False,
        tickangle=0,
    )


def longitude_figure(bands: pd.DataFrame, edge: float) -> Figure:
    """Mean error of two probes in bands of true longitude; the strip near the date line is shaded.

    Args:
        bands: a row a band, with `low`, `high`, `rows`, `sphere_km` and `degrees_km`.
        edge: degrees from the date line that are shaded.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(bands, "low", "high", "rows", "sphere_km", "degrees_km")
    middle = (bands["low"] + bands["high"]) / 2
    fig = Figure()
    for low, high in ((-180.0, -180 + edge), (180 - edge, 180.0)):
        fig.add_vrect(x0=low, x1=high, fillcolor=FAINT, opacity=0.25, line_width=0, layer="below")
    for name, column, colour in (
        ("latitude and longitude probe", "degrees_km", SURFACE),
        ("unit-sphere probe", "sphere_km", ACCENT),
    ):
        hover = "%{x:.0f}°E, %{customdata} rows<br>%{y:,.0f} km<extra></extra>"
        fig.add_trace(
            _line(middle, bands[column], name, colour, customdata=bands["rows"], hovertemplate=hover)
        )
    style(fig, height=380, note=f"Shaded: within {edge:g}° of the date line.")
    fig.update_yaxes(title_text="mean error (km)", rangemode="tozero", tickformat=",.0f")
    fig.update_xaxes(title_text="true longitude (°E)", range=[-180, 180], dtick=60, showgrid=False)
    return fig


def few_figure(
    scores: pd.DataFrame, arms: Mapping[str, str], dense: float, needed: int | None = None
) -> Figure:
    """AUROC against the number of coordinates, with the dense probe as a dashed line.

    Args:
        scores: a row an arm and k, with `arm`, `k`, `auroc`, `auroc_low`, `auroc_high`.
        arms: which arms to draw → their names in the legend; the first is the one the figure is about.
        dense: AUROC of the probe on all coordinates.
        needed: the k to mark on the first arm.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(scores, "arm", "k", "auroc", "auroc_low", "auroc_high")
    fig = Figure()
    ks = sorted({int(k) for k in scores["k"] if k > 0})
    colours = (ACCENT, SURFACE, MUTED)
    for i, (arm, name) in enumerate(arms.items()):
        lines = scores[scores["arm"] == arm].sort_values("k")
        low, high = lines["auroc"] - lines["auroc_low"], lines["auroc_high"] - lines["auroc"]
        bars = {"type": "data", "array": high, "arrayminus": low, "thickness": 1.2, "width": 3}
        fig.add_trace(_line(lines["k"], lines["auroc"], name, colours[i % 3], error_y=bars))
    if needed is not None:
        at = scores[(scores["arm"] == next(iter(arms))) & (scores["k"] == needed)]
        mark = {"symbol": "diamond", "size": 13, "color": ACCENT, "line": {"color": "white", "width": 1}}
        name = f"needed: {needed} (validation)"
        fig.add_trace(Scatter(x=at["k"], y=at["auroc"], mode="markers", marker=mark, name=name))
    ends = {"mode": "lines", "line": {"color": INK, "width": 1.5, "dash": "dash"}}
    fig.add_trace(_line([ks[0], ks[-1]], [dense, dense], f"all coordinates: {dense:.3f}", INK, **ends))
    style(fig, height=420)
    _log_ticks(fig, ks, "coordinates (log scale)", ks)
    fig.update_yaxes(title_text="AUROC")
    return fig


def reliability_figure(bins: pd.DataFrame, binary: bool) -> Figure:
    """Confidence against frequency, a point a bin as large as its rows, a colour an arm.

    Args:
        bins: a row an arm and bin, with `arm`, `rows`, `confidence`, `frequency`.
        binary: whether confidence is P(class 1), or the largest probability of several.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(bins, "arm", "rows", "confidence", "frequency")
    fig = Figure()
    diagonal = {"mode": "lines", "line": {"color": FAINT, "width": 1.5, "dash": "dash"}, "hoverinfo": "skip"}
    fig.add_trace(_line([0, 1], [0, 1], "calibrated", FAINT, **diagonal))
    for (arm, rows), colour in zip(bins.groupby("arm", sort=False), (ACCENT, SURFACE), strict=False):
        size = 6 + 20 * np.sqrt(rows["rows"] / bins["rows"].max())
        marker = {"size": size, "color": colour, "opacity": 0.75, "line": {"color": "white", "width": 1}}
        hover = "confidence %{x:.3f}<br>came true %{y:.3f}<br>%{customdata} rows<extra></extra>"
        line = {"color": colour, "width": 1.5}
        fig.add_trace(
            _line(
                rows["confidence"],
                rows["frequency"],
                str(arm),
                colour,
                marker=marker,
                line=line,
                customdata=rows["rows"],
                hovertemplate=hover,
            )
        )
    style(fig, height=440, aspect=0.8, note="A point's area grows with the rows of its bin.")
    fig.update_xaxes(title_text="P(class 1)" if binary else "largest probability", range=[-0.02, 1.02])
    fig.update_yaxes(title_text="share of class 1" if binary else "share right", range=[-0.02, 1.02])
    return fig
