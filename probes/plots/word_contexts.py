"""Figures of contexts beside word pairs: two languages, ambiguous words."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.probes.plots.counted import counted_bars
from graticule.probes.plots.drawing import Bar, Figure, Scatter, make_subplots
from graticule.probes.plots.style import ACCENT, BLOCKS, FAINT, INK, MUTED, need_columns, style
from graticule.probes.plots.words import EVERY_PANEL, METRIC_COLOURS, set_titles


def language_figure(scores: pd.DataFrame, pairs: Sequence[str], limit: int = 8) -> Figure:
    """Concepts by |cosine| with each pair of languages' mean context difference, the largest first.

    Args:
        scores: `pair`, `concept`, `cosine`, `low`, `high`, `level_random`, `matching` of one inner product.
        pairs: a panel each.
        limit: bars a panel.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(scores, "pair", "concept", "cosine", "low", "high", "level_random", "matching")
    columns = min(2, len(pairs))
    rows = -(-len(pairs) // columns)
    fig = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=list(pairs),
        horizontal_spacing=0.24,
        vertical_spacing=0.3 / rows,
        shared_xaxes=EVERY_PANEL,
    )
    for k, pair in enumerate(pairs):
        lines = scores[scores["pair"] == pair]
        lines = lines.reindex(lines["cosine"].abs().sort_values(ascending=False).index)[:limit]
        size = lines["cosine"].abs().to_numpy(float)
        sign = np.sign(lines["cosine"].to_numpy(float))
        ends = np.stack([sign * lines["low"].to_numpy(float), sign * lines["high"].to_numpy(float)])
        fig.add_trace(
            Bar(
                x=size,
                y=list(lines["concept"]),
                orientation="h",
                marker_color=[ACCENT if m else BLOCKS[3] for m in lines["matching"]],
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": ends.max(axis=0) - size,
                    "arrayminus": size - ends.min(axis=0),
                    "color": INK,
                    "thickness": 1,
                    "width": 2,
                },
                showlegend=False,
                customdata=lines["cosine"],
                hovertemplate="%{y}: %{customdata:.3f}<extra></extra>",
            ),
            row=k // columns + 1,
            col=k % columns + 1,
        )
        fig.add_trace(
            Scatter(
                x=lines["level_random"],
                y=list(lines["concept"]),
                mode="markers",
                marker={"symbol": "line-ns-open", "size": 12, "color": MUTED, "line": {"width": 2}},
                name="95% of random word pairs",
                showlegend=k == 0,
                hovertemplate="random: %{x:.3f}<extra></extra>",
            ),
            row=k // columns + 1,
            col=k % columns + 1,
        )
    shown = f"The {limit} largest concepts a panel; the matching one is dark. Whiskers: 95% intervals."
    style(fig, height=190 * rows + 90, aspect=0.24 * rows, extra=100, note=shown)
    legend = {"yref": "container", "y": 0.99, "yanchor": "top"}  # above the first panels' titles
    fig.update_layout(margin={"t": 80}, legend=legend)
    fig.update_xaxes(rangemode="tozero")
    fig.update_yaxes(autorange="reversed", ticks="", showgrid=False, tickfont={"size": 11}, type="category")
    for c in range(columns):
        fig.update_xaxes(title_text="|cosine|", row=rows, col=c + 1)
    set_titles(fig)
    return fig


def matching_figure(
    cosines: Float[np.ndarray, "metric item item"], metrics: Sequence[str], items: Sequence[str]
) -> Figure:
    """|Cosines| of context pairs with their own words (dark) over those with all others' (pale).

    Args:
        cosines: rows contexts, columns words; NaN entries are left out.
        metrics: a panel each.
        items: texts for hovering.
    """
    fig = make_subplots(
        rows=len(metrics),
        cols=1,
        subplot_titles=list(metrics),
        vertical_spacing=0.3 / len(metrics),
        shared_xaxes=True,
    )
    size = np.abs(cosines)
    own = np.eye(size.shape[1], dtype=bool)
    edges = np.linspace(0.0, float(np.nanmax(size)) or 1.0, 41)
    for i in range(len(metrics)):
        other = size[i][~own]
        kinds = (
            ("with others' words", other, FAINT),
            ("with its own words", np.diag(size[i]), METRIC_COLOURS["causal"]),
        )
        for name, values, colour in kinds:
            fig.add_trace(
                counted_bars(
                    values[~np.isnan(values)],
                    edges,
                    per=1.0,
                    marker={"color": colour, "line": {"width": 0}},
                    opacity=0.75 if name.endswith("own words") else 1.0,
                    name=name,
                    legendgroup=name,
                    showlegend=i == 0,
                    hovertemplate="%{x}: %{y:.1%}<extra></extra>",
                ),
                row=i + 1,
                col=1,
            )
    note = f"{len(items)} pairs of contexts."
    style(fig, height=130 * len(metrics) + 110, aspect=0.2 * len(metrics), extra=80, note=note)
    fig.update_layout(barmode="overlay", margin={"t": 60})
    fig.update_yaxes(tickformat=".0%", title_text="share")
    fig.update_xaxes(title_text="|cosine|", row=len(metrics), col=1)
    set_titles(fig)
    return fig
