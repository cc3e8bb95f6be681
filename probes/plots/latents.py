"""Figures of SAE latents: what every predictor adds, the best latent, decoder cosines against chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from graticule.probes.plots.counted import counted_bars, edges_of_size
from graticule.probes.plots.drawing import Figure, Scatter
from graticule.probes.plots.markup import plain
from graticule.probes.plots.style import (
    ACCENT,
    BLOCKS,
    FAINT,
    INK,
    MUTED,
    SURFACE,
    need_columns,
    sampled,
    short,
    style,
)

_COLOURS = {
    "dense probe": INK,
    "latents": ACCENT,
    "all latents": ACCENT,
    "reconstruction": SURFACE,
    "error term": BLOCKS[4],
    "coordinates": MUTED,
    "random latents": FAINT,
}
_ORDER = (
    "dense probe",
    "reconstruction",
    "error term",
    "all latents",
    "latents",
    "coordinates",
    "random latents",
)


def arms_figure(arms: pd.DataFrame) -> Figure:
    """Gain of every predictor over the surface, with its interval; several SAEs in one colour each.

    Args:
        arms: `sae`, `arm`, `k` (NaN where there is none), `gain`, `low`, `high`.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(arms, "sae", "arm", "k", "gain", "low", "high")
    held = arms.assign(name=[_arm(a, k) for a, k in zip(arms["arm"], arms["k"], strict=True)])
    rank = {name: i for i, name in enumerate(_ORDER)}
    held = held.assign(rank=held["arm"].map(rank), size=-held["k"].fillna(0))
    names = held.sort_values(["rank", "size"])["name"].drop_duplicates().to_list()
    place = {name: len(names) - 1 - i for i, name in enumerate(names)}
    fig = Figure()
    saes = held["sae"].drop_duplicates().to_list()
    for s, sae in enumerate(saes):
        rows = held[held["sae"] == sae]
        shift = 0.0 if len(saes) == 1 else 0.5 * (0.5 - (s + 0.5) / len(saes))
        colours = (
            [_COLOURS.get(a, MUTED) for a in rows["arm"]]
            if len(saes) == 1
            else [BLOCKS[s % len(BLOCKS)]] * len(rows)
        )
        for (_, row), colour in zip(rows.iterrows(), colours, strict=True):
            y = place[row["name"]] + shift
            fig.add_trace(
                Scatter(
                    x=[row["low"], row["high"]],
                    y=[y, y],
                    mode="lines",
                    line={"color": colour, "width": 2},
                    showlegend=False,
                    hoverinfo="skip",
                )
            )
        fig.add_trace(
            Scatter(
                x=rows["gain"],
                y=[place[n] + shift for n in rows["name"]],
                mode="markers",
                marker={"size": 9, "color": colours, "line": {"color": "white", "width": 1}},
                name=short(sae, 40),
                showlegend=len(saes) > 1,
                customdata=np.stack([rows["low"], rows["high"]], axis=1),
                text=rows["name"],
                hovertemplate="%{text}<br>gain %{x:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]"
                "<extra></extra>",
            )
        )
    fig.add_vline(x=0, line={"color": MUTED, "width": 1, "dash": "dot"})
    style(
        fig,
        height=110 + 26 * len(names),
        note="Bars are 95% intervals; of random latents the range of draws.",
    )
    fig.update_yaxes(
        tickvals=list(place.values()), ticktext=list(place), range=[-0.7, len(names) - 0.3], showgrid=False
    )
    fig.update_xaxes(title_text="gain over the surface (test R²)")
    return fig


def _arm(arm: str, k: float) -> str:
    if pd.isna(k):
        return arm
    return f"{int(k)} {arm if k != 1 else arm.removesuffix('s')}"


def count_figure(arms: pd.DataFrame) -> Figure:
    """Test R² against k for chosen latents, chosen coordinates and random latents, beside what has no k.

    Args:
        arms: one SAE's lines of `arm`, `k`, `score`.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(arms, "arm", "k", "score")
    fig = Figure()
    counted = arms[arms["k"].notna()]
    for arm in ("latents", "coordinates", "random latents"):
        rows = counted[counted["arm"] == arm].sort_values("k")
        fig.add_trace(
            Scatter(
                x=rows["k"],
                y=rows["score"],
                mode="lines+markers",
                line={"color": _COLOURS[arm], "width": 2.5 if arm == "latents" else 1.5},
                marker={"size": 7},
                name={"latents": "k chosen latents", "coordinates": "k chosen coordinates"}.get(arm, arm),
                hovertemplate="k = %{x}<br>test R² %{y:.3f}<extra></extra>",
            )
        )
    dashes = {"dense probe": "solid", "all latents": "dash", "reconstruction": "dash", "error term": "dash"}
    span = [float(counted["k"].min()), float(counted["k"].max())]
    for arm, dash in dashes.items():
        for _, row in arms[arms["arm"] == arm].iterrows():
            fig.add_trace(
                Scatter(
                    x=span,
                    y=[row["score"]] * 2,
                    mode="lines",
                    line={"color": _COLOURS[arm], "width": 1.5, "dash": dash},
                    name=f"{arm} {row['score']:.3f}",
                    hovertemplate=f"{plain(arm)}<br>test R² %{{y:.3f}}<extra></extra>",
                )
            )
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

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(rows, "activation", "value", "latent")
    shown, note = sampled(rows, limit, seed)
    fig = Figure()
    active = shown["activation"] != 0
    for part, name, colour in (
        (shown[~active], "silent", FAINT),
        (shown[active], "active", ACCENT),
    ):
        fig.add_trace(
            Scatter(
                x=part["activation"].to_numpy(np.float32),
                y=part["value"].to_numpy(np.float32),
                mode="markers",
                marker={"size": 4, "color": colour, "opacity": 0.55},
                name=f"{name} on {len(part):,} rows",
                hovertemplate="activation %{x:.4~g}<br>value %{y:.5~g}<extra></extra>",
            )
        )
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
        cosines: a line a latent, with `cos_read` and `cos_write`.
        levels: `direction` and `level`.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(cosines, "cos_read", "cos_write")
    need_columns(levels, "direction", "level")
    fig = Figure()
    colours = {"read": SURFACE, "write": ACCENT}
    largest = 0.0
    notes: list[str] = []
    for _, line in levels.iterrows():
        kind, level = str(line["direction"]), float(line["level"])
        values = cosines[f"cos_{kind}"].to_numpy(np.float64)
        values = values[np.isfinite(values)]
        if not len(values):
            continue
        largest = max(largest, float(np.abs(values).max()), level)
        beyond = int((np.abs(values) > level).sum())
        notes.append(f"{beyond:,} of {len(values):,} latents lie beyond it for {kind}.")
        fig.add_trace(
            counted_bars(
                values,
                edges_of_size(values, 0.01 if largest < 0.4 else 0.02),
                name=f"cosine to {kind}",
                marker={"color": colours[kind]},
                opacity=0.55,
                hovertemplate="cosine %{x}<br>%{y} latents<extra></extra>",
            )
        )
        for sign in (-1, 1):
            fig.add_vline(x=sign * level, line={"color": colours[kind], "width": 1.5, "dash": "dash"})
    style(
        fig,
        height=380,
        note=" ".join(
            ["Dashed: the largest of as many random decoders stays inside with probability .95.", *notes]
        ),
    )
    layout: dict[str, Any] = {"barmode": "overlay"}
    fig.update_layout(**layout)
    fig.update_xaxes(
        title_text="cosine of decoder vector and direction", range=[-1.1 * largest, 1.1 * largest]
    )
    fig.update_yaxes(title_text="latents (log scale)", type="log")
    return fig
