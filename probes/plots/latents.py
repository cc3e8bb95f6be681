"""Figures of SAE latents: what every predictor adds, the best latent, decoder cosines against chance."""

from __future__ import annotations

import numpy as np
import pandas as pd

from graticule.probes.plots.drawing import Figure, Scatter, counted_bars, edges_of_size
from graticule.probes.plots.style import (
    ACCENT,
    BLOCKS,
    FAINT,
    INK,
    MUTED,
    SURFACE,
    need_columns,
    plain,
    sampled,
    short,
    style,
)

_COLOURS = {
    "dense probe": INK,
    "reconstruction": SURFACE,
    "error term": BLOCKS[4],
    "all latents": ACCENT,
    "latents": ACCENT,
    "coordinates": MUTED,
    "random latents": FAINT,
}
"""Arm → colour, in drawing order."""
_ENDS = "[%{customdata[0]:.3f}, %{customdata[1]:.3f}]"
_COUNTED = {
    "latents": "k chosen latents",
    "coordinates": "k chosen coordinates",
    "random latents": "random latents",
}
_UNCOUNTED = {"dense probe": "solid", "all latents": "dash", "reconstruction": "dash", "error term": "dash"}


def arms_figure(predictors: pd.DataFrame) -> Figure:
    """Gain of every predictor over the surface, with its interval; several SAEs in one colour each.

    Args:
        arms: `sae`, `arm`, `k` (NaN where there is none), `gain`, `low`, `high`.

    Raises:
        KeyError: a column is missing.
    """
    need_columns(predictors, "sae", "arm", "k", "gain", "low", "high")
    rank = {arm: i for i, arm in enumerate(_COLOURS)}
    predictors = predictors.assign(
        name=[_name(arm, k) for arm, k in zip(predictors["arm"], predictors["k"], strict=True)],
        rank=predictors["arm"].map(rank),
        size=-predictors["k"].fillna(0),
    )
    names = predictors.sort_values(["rank", "size"])["name"].drop_duplicates().to_list()
    place = {name: len(names) - 1 - i for i, name in enumerate(names)}
    fig = Figure()
    saes = predictors["sae"].drop_duplicates().to_list()
    for s, sae in enumerate(saes):
        rows = predictors[predictors["sae"] == sae]
        shift, colours = 0.0, [_COLOURS.get(arm, MUTED) for arm in rows["arm"]]
        if len(saes) > 1:
            shift, colours = 0.5 * (0.5 - (s + 0.5) / len(saes)), [BLOCKS[s % len(BLOCKS)]] * len(rows)
        heights = [place[name] + shift for name in rows["name"]]
        ends = rows[["low", "high"]].to_numpy(float)
        for interval, y, colour in zip(ends.tolist(), heights, colours, strict=True):
            line = {"color": colour, "width": 2}
            fig.add_trace(
                Scatter(x=interval, y=[y, y], mode="lines", line=line, showlegend=False, hoverinfo="skip")
            )
        marks = Scatter(
            x=rows["gain"],
            y=heights,
            mode="markers",
            marker={"size": 9, "color": colours, "line": {"color": "white", "width": 1}},
            name=short(sae, 40),
            showlegend=len(saes) > 1,
            customdata=ends,
            text=rows["name"],
            hovertemplate=f"%{{text}}<br>gain %{{x:.3f}} {_ENDS}<extra></extra>",
        )
        fig.add_trace(marks)
    fig.add_vline(x=0, line={"color": MUTED, "width": 1, "dash": "dot"})
    note = "Bars are 95% intervals; of random latents the range of draws."
    style(fig, height=110 + 26 * len(names), note=note)
    fig.update_yaxes(
        tickvals=list(place.values()), ticktext=list(place), range=[-0.7, len(names) - 0.3], showgrid=False
    )
    fig.update_xaxes(title_text="gain over the surface (test R²)")
    return fig


def _name(arm: str, k: float) -> str:
    if pd.isna(k):
        return arm
    return f"{int(k)} {arm if k != 1 else arm.removesuffix('s')}"


def count_figure(predictors: pd.DataFrame) -> Figure:
    """Test R² against k for chosen latents, chosen coordinates and random latents, beside what has no k.

    Args:
        arms: `arm`, `k`, `score` of one SAE.

    Raises:
        KeyError: a column is missing.
    """
    need_columns(predictors, "arm", "k", "score")
    fig = Figure()
    counted = predictors[predictors["k"].notna()]
    for arm, name in _COUNTED.items():
        rows = counted[counted["arm"] == arm].sort_values("k")
        curve = Scatter(
            x=rows["k"],
            y=rows["score"],
            mode="lines+markers",
            line={"color": _COLOURS[arm], "width": 2.5 if arm == "latents" else 1.5},
            marker={"size": 7},
            name=name,
            hovertemplate="k = %{x}<br>test R² %{y:.3f}<extra></extra>",
        )
        fig.add_trace(curve)
    span = [float(counted["k"].min()), float(counted["k"].max())]
    for arm, dash in _UNCOUNTED.items():
        for score in predictors["score"][predictors["arm"] == arm]:
            level = Scatter(
                x=span,
                y=[score] * 2,
                mode="lines",
                line={"color": _COLOURS[arm], "width": 1.5, "dash": dash},
                name=f"{arm} {score:.3f}",
                hovertemplate=f"{plain(arm)}<br>test R² %{{y:.3f}}<extra></extra>",
            )
            fig.add_trace(level)
    style(fig, height=420)
    ks = sorted(int(k) for k in counted["k"].unique())
    fig.update_xaxes(type="log", tickvals=ks, ticktext=[str(k) for k in ks], title_text="k (log scale)")
    fig.update_yaxes(title_text="test R²", rangemode="tozero")
    return fig


def latent_figure(
    rows: pd.DataFrame, target: str, unit: str | None = None, limit: int = 4000, seed: int = 0
) -> Figure:
    """A latent's activation against the target on test rows; rows where it is silent are faint.

    Args:
        rows: `activation`, `value` and `latent` (one number).
        target, unit: for the axis title.
        limit, seed: at most `limit` points are drawn, sampled with `seed`.

    Raises:
        KeyError: a column is missing.
    """
    need_columns(rows, "activation", "value", "latent")
    drawn, note = sampled(rows, limit, seed)
    fig = Figure()
    active = drawn["activation"] != 0
    for part, name, colour in ((drawn[~active], "silent", FAINT), (drawn[active], "active", ACCENT)):
        points = Scatter(
            x=part["activation"].to_numpy(np.float32),
            y=part["value"].to_numpy(np.float32),
            mode="markers",
            marker={"size": 4, "color": colour, "opacity": 0.55},
            name=f"{name} on {len(part):,} rows",
            hovertemplate="activation %{x:.4~g}<br>value %{y:.5~g}<extra></extra>",
        )
        fig.add_trace(points)
    latent = int(rows["latent"].iloc[0])
    style(fig, height=420, aspect=0.5, extra=60, note=note)
    fig.update_xaxes(title_text=f"activation of latent {latent}")
    suffix = f" ({unit})" if unit and unit != "year" else ""
    fig.update_yaxes(title_text=f"{target}{suffix}", tickformat="d" if unit == "year" else None)
    return fig


def cosine_figure(cosines: pd.DataFrame, levels: pd.DataFrame) -> Figure:
    """Histogram of decoder cosines to the read and the write direction, with the level that the largest of as
    many random decoders stays below.

    Args:
        cosines: one row per latent, with `cos_read` and `cos_write`.
        levels: `direction` and `level`.

    Raises:
        KeyError: a column is missing.
    """
    need_columns(cosines, "cos_read", "cos_write")
    need_columns(levels, "direction", "level")
    fig = Figure()
    colours = {"read": SURFACE, "write": ACCENT}
    largest = 0.0
    notes = ["Dashed: the largest of as many random decoders stays inside with probability .95."]
    for kind, level in zip(levels["direction"].astype(str), levels["level"].astype(float), strict=True):
        values = cosines[f"cos_{kind}"].to_numpy(np.float64)
        values = values[np.isfinite(values)]
        if not len(values):
            continue
        largest = max(largest, float(np.abs(values).max()), level)
        beyond = int((np.abs(values) > level).sum())
        notes.append(f"{beyond:,} of {len(values):,} latents lie beyond it for {kind}.")
        bars = counted_bars(
            values,
            edges_of_size(values, 0.01 if largest < 0.4 else 0.02),
            name=f"cosine to {kind}",
            marker={"color": colours[kind]},
            opacity=0.55,
            hovertemplate="cosine %{x}<br>%{y} latents<extra></extra>",
        )
        fig.add_trace(bars)
        for sign in (-1, 1):
            fig.add_vline(x=sign * level, line={"color": colours[kind], "width": 1.5, "dash": "dash"})
    style(fig, height=380, note=" ".join(notes))
    fig.update_layout(barmode="overlay")
    reach = [-1.1 * largest, 1.1 * largest]
    fig.update_xaxes(title_text="cosine of decoder vector and direction", range=reach)
    fig.update_yaxes(title_text="latents (log scale)", type="log")
    return fig
