"""Figures of directions: layer × layer heat-maps, cosines between concepts, rank by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from graticule.probes.plots.drawing import Figure, Heatmap, Scatter, make_subplots
from graticule.probes.plots.style import (
    ACCENT,
    FAINT,
    MUTED,
    SURFACE,
    layer_axis,
    need_columns,
    short,
    short_labels,
    style,
)

_SCALE = [[0.0, "#00639c"], [0.5, "#ffffff"], [1.0, "#b3003c"]]
_COLOURS = {"read": SURFACE, "write": ACCENT}


def layers_figure(cosines: pd.DataFrame) -> Figure:
    """Layer × layer cosines of one concept's read direction (left) and write direction (right).

    Above the diagonal the cosines, below it those of a noise target fitted at both layers.

    Args:
        cosines: `kind`, `point_a`, `point_b`, `layer_a`, `cosine`, `noise`, pairs in one order.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(cosines, "kind", "point_a", "point_b", "layer_a", "cosine", "noise")
    points = list(dict.fromkeys(cosines["point_a"]))
    place = {point: i for i, point in enumerate(points)}
    layer = cosines.drop_duplicates("point_a").set_index("point_a")["layer_a"]
    labels = [str(int(layer[p])) if pd.notna(layer[p]) else short(p, 14) for p in points]
    distinct = labels if len(set(labels)) == len(labels) else [short(p, 18) for p in points]
    fig: Figure = make_subplots(
        cols=2, subplot_titles=("read direction", "write direction"), horizontal_spacing=0.1
    )
    for col, kind in enumerate(("read", "write"), start=1):
        grid = np.full((len(points), len(points)), np.nan)
        for _, line in cosines[cosines["kind"] == kind].iterrows():
            i, j = place[line["point_a"]], place[line["point_b"]]
            grid[i, j] = line["cosine"]
            if i != j:
                grid[j, i] = line["noise"]
        fig.add_trace(
            Heatmap(
                z=grid.T,
                x=distinct,
                y=distinct,
                zmin=-1,
                zmax=1,
                colorscale=_SCALE,
                showscale=col == 2,
                colorbar={"title": {"text": "cosine"}, "thickness": 12},
                hovertemplate="layer %{x} and %{y}<br>cosine %{z:.2f}<extra></extra>",
            ),
            row=1,
            col=col,
        )
    style(
        fig,
        height=440,
        aspect=0.46,
        extra=70,
        note="Above the diagonal the concept; below it a noise target fitted at both layers.",
    )
    fig.update_layout(margin={"t": 36})
    ticks: dict[str, Any] = {"tickvals": distinct[:: max(1, len(distinct) // 9)], "showgrid": False}
    fig.update_xaxes(title_text="layer (block index)", type="category", **ticks)
    fig.update_yaxes(type="category", **ticks)
    fig.update_yaxes(title_text="layer (block index)", row=1, col=1)
    return fig


def angles_figure(
    angles: pd.DataFrame, alone: pd.DataFrame, concepts: Sequence[str], limit: int = 40
) -> Figure:
    """Cosines between concepts: a line each for few pairs, a heat-map for many.

    Args:
        angles: one geometry's lines of `kind`, `a`, `b`, `cosine`, `level`.
        alone: that geometry's lines of `concept`, `kind`, `split_half`.
        concepts: their order.
        limit: of concepts in the heat-map.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(angles, "kind", "a", "b", "cosine", "level")
    need_columns(alone, "concept", "kind", "split_half")
    if len(concepts) > 5:
        return _concept_grid(angles, alone, concepts[:limit])
    fig = Figure()
    pairs = list(dict.fromkeys(zip(angles["a"], angles["b"], strict=True)))
    rows = [f"{short(a, 26)} – {short(b, 26)}" for a, b in pairs] + [
        f"{short(c, 26)}, two halves" for c in concepts
    ]
    for k, kind in enumerate(("read", "write")):
        shift = 0.14 * (1 - 2 * k)
        held = angles[angles["kind"] == kind].set_index(["a", "b"])
        own = alone[alone["kind"] == kind].set_index("concept")["split_half"]
        values = [float(held.loc[pair, "cosine"]) for pair in pairs] + [float(own[c]) for c in concepts]  # pyright: ignore[reportArgumentType, reportCallIssue]
        levels = [float(held.loc[pair, "level"]) for pair in pairs]  # pyright: ignore[reportArgumentType, reportCallIssue]
        heights = [len(rows) - 1 - i + shift for i in range(len(rows))]
        for y, level in zip(heights, levels, strict=False):
            fig.add_trace(
                Scatter(
                    x=[-level, level],
                    y=[y, y],
                    mode="lines",
                    line={"color": FAINT, "width": 7},
                    showlegend=False,
                    hovertemplate=f"shuffled targets: |cosine| below {level:.2f} in 95%<extra></extra>",
                )
            )
        fig.add_trace(
            Scatter(
                x=values,
                y=heights,
                mode="markers",
                marker={"size": 10, "color": _COLOURS[kind], "line": {"color": "white", "width": 1}},
                name=f"{kind} direction",
                hovertemplate="cosine %{x:.3f}<extra></extra>",
            )
        )
    fig.add_vline(x=0, line={"color": MUTED, "width": 1, "dash": "dot"})
    style(
        fig,
        height=120 + 46 * len(rows),
        note="Grey: where 95% of cosines lie with one of the two targets shuffled. Two halves: one direction "
        "fitted on either half of the training rows.",
    )
    fig.update_xaxes(title_text="cosine", range=[-1.05, 1.05])
    fig.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=rows[::-1], range=[-0.6, len(rows) - 0.4], showgrid=False
    )
    return fig


def _concept_grid(angles: pd.DataFrame, alone: pd.DataFrame, concepts: Sequence[str]) -> Figure:
    """Read above the diagonal, write below it, the cosine of two halves of the rows (read) on it."""
    place = {concept: i for i, concept in enumerate(concepts)}
    grid = np.full((len(concepts), len(concepts)), np.nan)
    for _, line in angles.iterrows():
        i, j = place.get(line["a"]), place.get(line["b"])
        if i is None or j is None:
            continue
        grid[(i, j) if line["kind"] == "read" else (j, i)] = line["cosine"]
    for _, line in alone[alone["kind"] == "read"].iterrows():
        if line["concept"] in place:
            grid[place[line["concept"]], place[line["concept"]]] = line["split_half"]
    labels = short_labels(concepts)
    fig = Figure(
        Heatmap(
            z=grid,
            x=labels,
            y=labels,
            zmin=-1,
            zmax=1,
            colorscale=_SCALE,
            colorbar={"title": {"text": "cosine"}, "thickness": 12},
            hovertemplate="%{y} and %{x}<br>cosine %{z:.2f}<extra></extra>",
        )
    )
    style(
        fig,
        height=220 + 18 * len(concepts),
        aspect=0.8,
        extra=80,
        note="Above the diagonal read, below it write directions; on it one read direction from two halves.",
    )
    fig.update_yaxes(autorange="reversed", showgrid=False)
    fig.update_xaxes(showgrid=False, tickangle=-45)
    return fig


def rank_figure(ranks: pd.DataFrame) -> Figure:
    """Effective rank against depth, with that of shuffled targets faint.

    Args:
        ranks: `set`, `point`, `layer`, `kind`, `targets`, `effective_rank`, `shuffled`.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(ranks, "set", "point", "layer", "kind", "targets", "effective_rank", "shuffled")
    fig = Figure()
    by_layer = ranks.groupby("set").filter(lambda part: part["point"].nunique() > 1)
    dashes = ("solid", "dash", "dot", "dashdot")
    for s, (name, part) in enumerate(by_layer.groupby("set", sort=False)):
        for kind in ("read", "write"):
            rows = part[part["kind"] == kind]
            x = rows["layer"] if rows["layer"].notna().all() else rows["point"]
            for column, colour, width in (("effective_rank", _COLOURS[kind], 2.5), ("shuffled", FAINT, 1.5)):
                shown = column == "effective_rank"
                fig.add_trace(
                    Scatter(
                        x=x,
                        y=rows[column],
                        mode="lines+markers" if shown else "lines",
                        line={"color": colour, "width": width, "dash": dashes[s % len(dashes)]},
                        marker={"size": 5},
                        name=f"{name}, {kind} ({int(rows['targets'].iloc[0])} targets)"
                        if shown
                        else "shuffled",
                        legendgroup=column,
                        showlegend=shown or (s == 0 and kind == "read"),
                        hovertemplate="layer %{x}<br>effective rank %{y:.2f}<extra></extra>",
                    )
                )
    style(fig, height=380)
    fig.update_xaxes(showgrid=False)
    layer_axis(fig, by_layer["layer"])
    fig.update_yaxes(title_text="effective rank", rangemode="tozero")
    return fig
