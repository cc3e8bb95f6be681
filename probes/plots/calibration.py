"""Figures of calibrations and comparisons: detection, false findings, differences, bands over layers."""

from typing import Any

import numpy as np
import pandas as pd

from graticule.probes.plots.drawing import Box, Figure, Scatter
from graticule.probes.plots.style import (
    ACCENT,
    FAINT,
    INK,
    MUTED,
    SURFACE,
    layer_axis,
    need_columns,
    short_labels,
    style,
)
from graticule.probes.scores.bootstrap import wilson

_NOMINAL = 0.05


def detection_figure(hidden: pd.DataFrame, gain: float | None, limit: float | None) -> Figure:
    """How often a hidden part is found, by its true gain, with 95% intervals.

    Args:
        hidden: a line a true gain, from 0: `true_gain`, `targets`, and counts `above_0` and `structure`.
        gain: the true gain at which the findings' own gain is measured, marked; None outside the curve.
        limit: the true gain at the limit of detection, marked; None where there is none.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(hidden, "true_gain", "targets", "above_0", "structure")
    gains = hidden["true_gain"].to_numpy(np.float64)
    positive = gains[gains > 0]
    least = float(positive.min()) if len(positive) else 0.001
    x = np.where(gains > 0, gains, least / 2)  # gain 0 stands left of a logarithmic axis
    fig = Figure()
    names = (("above_0", "interval above 0", SURFACE), ("structure", "called structure", INK))
    for what, name, colour in names:
        found, of = hidden[what].to_numpy(np.int64), hidden["targets"].to_numpy(np.int64)
        fig.add_trace(_rates(x, found, of, name, colour, "lines+markers", gains))
    style(fig, height=400)
    fig.add_hline(y=0.8, line={"color": FAINT, "width": 1, "dash": "dot"})
    ticks = [least / 2, *positive.tolist()]
    low, high = np.log10(min(ticks)) - 0.08, np.log10(max(ticks)) + 0.08
    middle = 10 ** float((low + high) / 2)
    if gain is not None and gain >= least:
        _mark(fig, gain, "where these findings' gain is measured", ACCENT, 0.95, middle)
    if limit is not None:
        _mark(fig, limit, "limit of detection", MUTED, 0.87, middle)
    fig.update_xaxes(
        type="log",
        title_text="true gain (share of the target's variance, R²)",
        tickvals=ticks,
        ticktext=["0", *(_short(g) for g in positive)],
        range=[low, high],
    )
    fig.update_yaxes(title_text="share of synthetic targets", range=[-0.02, 1.02], tickformat=".0%")
    return fig


def rates_figure(rates: pd.DataFrame) -> Figure:
    """False findings on targets that hold nothing, and coverage of the interval, with 95% intervals.

    Args:
        rates: a line a kind and true gain, as in a `Calibration`.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(rates, "kind", "targets", "above_0", "structure", "covered_aside", "covered_resampled")
    from graticule.probes.plots.drawing import make_subplots

    fig: Figure = make_subplots(
        rows=1, cols=2, subplot_titles=("false findings", "coverage of the 95% interval"), shared_yaxes=True
    )
    empty = rates[rates["true_gain"] == 0]
    sides = (
        (1, empty, (("structure", "called structure", INK), ("above_0", "interval above 0", SURFACE))),
        (
            2,
            rates,
            (("covered_aside", "rows held aside", INK), ("covered_resampled", "rows resampled", SURFACE)),
        ),
    )
    kinds = [str(kind) for kind in rates["kind"].drop_duplicates()]
    for column, lines, marks in sides:
        grouped = lines.groupby("kind", sort=False)[["targets", *(m[0] for m in marks)]].sum()
        places = np.array([kinds.index(str(kind)) for kind in grouped.index])
        for (what, name, colour), shift in zip(marks, (-0.1, 0.1), strict=True):
            found, of = grouped[what].to_numpy(np.int64), grouped["targets"].to_numpy(np.int64)
            trace = _rates(found / of, found, of, name, colour, "markers", None, places + shift)
            fig.add_trace(trace, row=1, col=column)
    style(fig, height=300)
    fig.update_layout(legend={"y": 1.12}, margin={"t": 60})
    fig.update_yaxes(tickvals=list(range(len(kinds))), ticktext=kinds, range=[len(kinds) - 0.5, -0.5])
    fig.add_vline(x=_NOMINAL, line={"color": FAINT, "dash": "dot"}, row=1, col=1)  # pyright: ignore[reportArgumentType]
    fig.add_vline(x=0.95, line={"color": FAINT, "dash": "dot"}, row=1, col=2)  # pyright: ignore[reportArgumentType]
    fig.update_xaxes(tickformat=".0%", title_text="share of targets", rangemode="tozero", row=1, col=1)
    fig.update_xaxes(tickformat=".0%", title_text="share of targets", row=1, col=2)
    return fig


def measured_figure(targets: pd.DataFrame, gain: float) -> Figure:
    """Measured gains of the synthetic targets, a box a true gain, with what a perfect reader would measure.

    Args:
        targets: a line a target: `kind`, `true_gain`, `gain`.
        gain: the findings' own gain, marked.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(targets, "kind", "true_gain", "gain")
    shown = targets.sort_values("true_gain", kind="stable")
    names = [
        str(kind) if true == 0 else _short(float(true))
        for kind, true in zip(shown["kind"], shown["true_gain"], strict=True)
    ]
    labels = list(dict.fromkeys(names))
    fig = Figure()
    fig.add_trace(
        Box(
            x=names,
            y=shown["gain"],
            boxpoints=False,
            line={"color": INK, "width": 1.2},
            fillcolor="white",
            name="measured",
            hoverinfo="y",
        )
    )
    truth = shown.assign(label=names).groupby("label")["true_gain"].first()
    fig.add_trace(
        Scatter(
            x=labels,
            y=[truth[label] for label in labels],
            mode="markers",
            marker={"symbol": "line-ew", "size": 26, "line": {"color": SURFACE, "width": 3}},
            name="true gain",
        )
    )
    style(fig, height=380)
    fig.add_hline(y=gain, line={"color": ACCENT, "width": 1.5, "dash": "dash"})
    fig.add_annotation(
        x=0,
        xref="paper",
        xanchor="left",
        y=gain,
        yanchor="bottom",
        text=f"measured here {_short(gain)}",
        showarrow=False,
        font={"size": 12, "color": ACCENT},
    )
    fig.update_xaxes(title_text="true gain of the synthetic targets (R²)", type="category")
    fig.update_yaxes(title_text="measured gain (R²)")
    return fig


def difference_figure(differences: pd.DataFrame) -> Figure:
    """Differences of R² with their intervals, a line each.

    Args:
        differences: `target`, `difference`, `low`, `high`.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(differences, "target", "difference", "low", "high")
    middle = differences["difference"].to_numpy(np.float64)
    fig = Figure(
        Scatter(
            x=middle,
            y=short_labels(differences["target"]),
            mode="markers",
            marker={"size": 9, "color": INK},
            error_x={
                "array": differences["high"].to_numpy(np.float64) - middle,
                "arrayminus": middle - differences["low"].to_numpy(np.float64),
                "color": INK,
                "thickness": 1.5,
            },
            showlegend=False,
        )
    )
    style(fig, height=120 + 28 * len(differences))
    fig.add_vline(x=0, line={"color": FAINT, "width": 1.5})
    fig.update_xaxes(title_text="difference of test R², first less second")
    fig.update_yaxes(autorange="reversed", type="category")
    return fig


def band_figure(layers: pd.DataFrame, chosen_point: str, name: str) -> Figure:
    """A simultaneous band over depth, each layer's own interval inside it, the chosen layer marked.

    Args:
        layers: a line a point: `point`, `layer`, `estimate`, `low`, `high`, `low_alone`, `high_alone`.
        chosen_point: the `point` chosen on training rows.
        name: of the quantity, for the axis.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(layers, "point", "layer", "estimate", "low", "high", "low_alone", "high_alone")
    numbered = bool(layers["layer"].notna().all())
    x = layers["layer"].astype(float) if numbered else layers["point"].astype(str)
    fig = Figure()
    sides = (
        ("low", "high", "rgba(0,99,156,0.15)", "all layers at once"),
        ("low_alone", "high_alone", "rgba(0,99,156,0.3)", "each layer alone"),
    )
    for low, high, colour, legend in sides:
        fig.add_trace(_edge(x, layers[high]))
        fig.add_trace(_edge(x, layers[low], fill="tonexty", fillcolor=colour, name=legend, showlegend=True))
    fig.add_trace(
        Scatter(x=x, y=layers["estimate"], mode="lines+markers", line={"color": INK}, showlegend=False)
    )
    at = (layers["point"] == chosen_point).to_numpy()
    fig.add_trace(
        Scatter(
            x=x[at],
            y=layers["estimate"][at],
            mode="markers",
            marker={"symbol": "diamond", "size": 12, "color": ACCENT},
            name="chosen on training rows",
        )
    )
    style(fig, height=380)
    fig.add_hline(y=0, line={"color": FAINT, "width": 1})
    fig.update_xaxes(title_text="hook point")
    layer_axis(fig, layers["layer"])
    fig.update_yaxes(title_text=name)
    return fig


def _edge(x: "pd.Series[Any]", y: "pd.Series[Any]", **settings: Any) -> Scatter:
    shown: dict[str, Any] = {"showlegend": False, "hoverinfo": "skip", **settings}
    return Scatter(x=x, y=y, mode="lines", line={"width": 0}, **shown)


def _rates(
    x: np.ndarray,
    found: np.ndarray,
    of: np.ndarray,
    name: str,
    colour: str,
    mode: str,
    gains: np.ndarray | None,
    places: np.ndarray | None = None,
) -> Scatter:
    """Rates with Wilson's intervals: upright over gains, or lying at the heights `places`."""
    ends = np.array([wilson(int(f), int(n)) for f, n in zip(found, of, strict=True)])
    rate = found / of
    bars = {
        "array": ends[:, 1] - rate,
        "arrayminus": rate - ends[:, 0],
        "color": colour,
        "thickness": 1.2,
        "width": 3,
    }
    shown: dict[str, Any] = {"y": rate, "error_y": bars} if places is None else {
        "y": places,
        "error_x": bars,
    }  # fmt: skip
    return Scatter(
        x=x,
        mode=mode,
        name=name,
        line={"color": colour, "width": 2},
        marker={"size": 8, "color": colour},
        customdata=gains if gains is not None else rate,
        hovertemplate="%{customdata:.3f}: %{y:.1%}<extra></extra>" if gains is not None else "%{x:.1%}",
        **shown,
    )


def _mark(fig: Figure, x: float, text: str, colour: str, y: float, middle: float) -> None:
    """A vertical line on a logarithmic axis, with its words on the side where the figure has more room."""
    left = x <= middle
    fig.add_vline(x=x, line={"color": colour, "width": 1.5, "dash": "dash"})
    fig.add_annotation(
        x=np.log10(x),
        y=y,
        text=text,
        showarrow=False,
        xanchor="left" if left else "right",
        xshift=4 if left else -4,
        font={"size": 12, "color": colour},
        bgcolor="rgba(255,255,255,0.8)",
    )


def _short(gain: float) -> str:
    return f"{gain:+.3f}".replace("0.", ".", 1) if gain < 0 else f"{gain:.3f}".replace("0.", ".", 1)
