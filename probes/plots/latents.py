"""Figures of SAE latents: what every predictor adds, the best latent, decoder cosines against chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from graticule.probes.plots.primitives import (
    dots_trace,
    edges_of_size,
    histogram_trace,
    level,
    line_trace,
    new_figure,
)
from graticule.probes.plots.style import (
    ACCENT,
    BLOCKS,
    FAINT,
    INK,
    MUTED,
    SURFACE,
    axis,
    log_axis,
    need_columns,
    plain,
    rows_axis,
    sampled,
    short,
    style,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_COLOURS = {
    "dense probe": INK,
    "reconstruction": SURFACE,
    "error term": BLOCKS[4],
    "all latents": ACCENT,
    "latents": ACCENT,
    "coordinates": MUTED,
    "untrained latents": BLOCKS[1],
    "random latents": FAINT,
}
"""Arm → colour, in drawing order."""
_ENDS = "[%{customdata[0]:.3f}, %{customdata[1]:.3f}]"
_COUNTED = {
    "latents": "k chosen latents",
    "coordinates": "k chosen coordinates",
    "untrained latents": "k latents of untrained SAEs",
    "random latents": "random latents",
}
_UNCOUNTED = {"dense probe": "solid", "all latents": "dash", "reconstruction": "dash", "error term": "dash"}


def arms_figure(predictors: pd.DataFrame, unit: str = "R²") -> Figure:
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
    fig = new_figure()
    saes = predictors["sae"].drop_duplicates().to_list()
    for s, sae in enumerate(saes):
        rows = predictors[predictors["sae"] == sae]
        shift, colours = 0.0, [_COLOURS.get(arm, MUTED) for arm in rows["arm"]]
        if len(saes) > 1:
            shift, colours = 0.5 * (0.5 - (s + 0.5) / len(saes)), [BLOCKS[s % len(BLOCKS)]] * len(rows)
        heights = [place[name] + shift for name in rows["name"]]
        ends = rows[["low", "high"]].to_numpy(float)
        for interval, y, colour in zip(ends.tolist(), heights, colours, strict=True):
            fig.add_trace(line_trace(interval, [y, y], None, colour, 2, hover=""))
        fig.add_trace(
            dots_trace(
                rows["gain"], heights, short(sae, 40), colours, look={"line": {"color": "white", "width": 1}},
                hover=f"%{{text}}<br>gain %{{x:.3f}} {_ENDS}<extra></extra>", text=rows["name"],
                showlegend=len(saes) > 1, customdata=ends,
            )
        )  # fmt: skip
    level(fig, x=0)
    note = "Bars are 95% intervals; of random latents and untrained SAEs the range of draws."
    up = rows_axis(names[::-1], showgrid=False)
    return style(fig, 110 + 26 * len(names), note=note, x=f"gain over the surface (test {unit})", y=up)


def _name(arm: str, k: float) -> str:
    if pd.isna(k):
        return arm
    return f"{int(k)} {arm if k != 1 else arm.removesuffix('s')}"


def count_figure(predictors: pd.DataFrame, unit: str = "R²") -> Figure:
    """Test score against k for chosen latents, chosen coordinates and random latents, beside what has no k.

    Args:
        arms: `arm`, `k`, `score` of one SAE.

    Raises:
        KeyError: a column is missing.
    """
    need_columns(predictors, "arm", "k", "score")
    fig = new_figure()
    counted = predictors[predictors["k"].notna()]
    for arm, name in _COUNTED.items():
        rows = counted[counted["arm"] == arm].sort_values("k")
        if rows.empty:  # earlier results have no untrained SAEs
            continue
        width, hover = (
            2.5 if arm == "latents" else 1.5,
            f"k = %{{x}}<br>test {unit} %{{y:.3f}}<extra></extra>",
        )
        fig.add_trace(line_trace(rows["k"], rows["score"], name, _COLOURS[arm], width, size=7, hover=hover))
    span = [float(counted["k"].min()), float(counted["k"].max())]
    for arm, dash in _UNCOUNTED.items():
        for score in predictors["score"][predictors["arm"] == arm]:
            name, hover = f"{arm} {score:z.3f}", f"{plain(arm)}<br>test {unit} %{{y:.3f}}<extra></extra>"
            fig.add_trace(line_trace(span, [score] * 2, name, _COLOURS[arm], 1.5, dash=dash, hover=hover))
    across = log_axis(sorted(int(k) for k in counted["k"].unique()), "k (log scale)")
    return style(fig, height=420, x=across, y={"title_text": f"test {unit}", "rangemode": "tozero"})


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
    fig, active = new_figure(), drawn["activation"] != 0
    hover = "activation %{x:.4~g}<br>value %{y:.5~g}<extra></extra>"
    for part, kind, colour in ((drawn[~active], "silent", FAINT), (drawn[active], "active", ACCENT)):
        x, y = (part[column].to_numpy(np.float32) for column in ("activation", "value"))
        name, look = f"{kind} on {len(part):,} rows", {"opacity": 0.55}
        fig.add_trace(dots_trace(x, y, name, colour, 4, look=look, hover=hover))
    across = f"activation of latent {int(rows['latent'].iloc[0])}"
    return style(
        fig, 420, aspect=0.5, extra=60, note=note, x=across, y=axis(target, unit, unit_in_title="year")
    )


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
    fig = new_figure()
    colours = {"read": SURFACE, "write": ACCENT}
    largest = 0.0
    notes = ["Dashed: the largest of as many random decoders stays inside with probability .95."]
    for kind, chance in zip(levels["direction"].astype(str), levels["level"].astype(float), strict=True):
        values = cosines[f"cos_{kind}"].to_numpy(np.float64)
        values = values[np.isfinite(values)]
        if not len(values):
            continue
        largest = max(largest, float(np.abs(values).max()), chance)
        beyond = int((np.abs(values) > chance).sum())
        notes.append(f"{beyond:,} of {len(values):,} latents lie beyond it for {kind}.")
        edges = edges_of_size(values, 0.01 if largest < 0.4 else 0.02)
        look: dict[str, Any] = {"opacity": 0.55, "marker": {"color": colours[kind]}}
        hover = "cosine %{x}<br>%{y} latents<extra></extra>"
        fig.add_trace(histogram_trace(values, edges, f"cosine to {kind}", colours[kind], hover=hover, **look))
        for sign in (-1, 1):
            level(fig, x=sign * chance, colour=colours[kind], width=1.5, dash="dash")
    across = {
        "title_text": "cosine of decoder vector and direction",
        "range": [-1.1 * largest, 1.1 * largest],
    }
    up = {"title_text": "latents (log scale)", "type": "log"}
    return style(fig, height=380, note=" ".join(notes), x=across, y=up, barmode="overlay")
