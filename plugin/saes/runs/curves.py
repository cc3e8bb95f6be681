"""Training curves: what a run has logged, against the tokens it has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from graticule.probes.plots.drawing import Figure, Scatter, make_subplots
from graticule.probes.plots.markup import plain
from graticule.probes.plots.style import BLOCKS, style

PANELS = {
    "loss": "loss",
    "l0": "L0",
    "explained_variance": "explained variance",
    "dead": "dead latents",
}
"""Column of a history → words on its axis."""


def curves_figure(
    histories: Mapping[str, pd.DataFrame], resampled: Mapping[str, Sequence[int]] | None = None
) -> Figure:
    """Loss (log scale), L0, explained variance and dead latents against tokens, a line a history.

    `resampled` names the tokens after which dead latents were brought back: a dotted line across all panels.
    """
    fig = make_subplots(rows=2, cols=2, shared_xaxes=True, vertical_spacing=0.09, horizontal_spacing=0.1)
    for i, (name, history) in enumerate(histories.items()):
        colour = BLOCKS[i % len(BLOCKS)]
        for panel, column in enumerate(PANELS):
            line = Scatter(
                x=history["tokens"],
                y=history[column],
                name=name or "training",
                legendgroup=name,
                showlegend=panel == 0 and len(histories) > 1,
                mode="lines" if len(history) > 1 else "markers",
                line={"color": colour, "width": 1.6},
                hovertemplate=f"%{{x:,}} tokens: %{{y:.4g}}<extra>{plain(name)}</extra>",
            )
            fig.add_trace(line, row=panel // 2 + 1, col=panel % 2 + 1)
        for tokens in (resampled or {}).get(name, ()):
            fig.add_vline(x=tokens, line={"color": colour, "width": 1, "dash": "dot"}, opacity=0.6)
    style(fig, height=560, aspect=0.6)
    for panel, (column, words) in enumerate(PANELS.items()):
        row, col = panel // 2 + 1, panel % 2 + 1
        positive = all((history[column] > 0).all() for history in histories.values())
        log = column == "loss" and positive
        fig.update_yaxes(title_text=words, type="log" if log else "linear", row=row, col=col)
        if row == 2:
            fig.update_xaxes(title_text="tokens", row=row, col=col)
    return fig
