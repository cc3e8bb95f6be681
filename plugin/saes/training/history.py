"""What a run has logged, part of every checkpoint: one row per logged step, events between; its curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

LESS_THAN_MEAN = (
    "it explains less than the rows' mean does: give more tokens, a smaller batch_size, or a larger lr"
)
_PANELS = {
    "loss": "loss",
    "l0": "L0",
    "explained_variance": "explained variance",
    "dead": "dead latents",
}


def explained_late(variances: Sequence[float]) -> float:
    """Mean explained variance of the last tenth of the logged steps; NaN where nothing was logged."""
    last = variances[-max(1, len(variances) // 10) :]
    return sum(last) / len(last) if len(last) else float("nan")


class History:
    """Lines and events of one SAE's training, in order."""

    def __init__(self) -> None:
        self.lines: list[dict[str, float]] = []
        self.events: list[dict[str, Any]] = []

    def add(self, line: Mapping[str, float]) -> None:
        """One logged step."""
        self.lines.append(dict(line))

    def explained_late(self) -> float:
        """Mean explained variance of the last tenth of the logged steps."""
        return explained_late([line["explained_variance"] for line in self.lines])

    def table(self) -> pd.DataFrame:
        """One row per logged step; a loss term that came later is NaN before."""
        table = pd.DataFrame(self.lines)
        return table.astype({name: "int64" for name in ("step", "tokens", "dead") if name in table.columns})

    def state_dict(self) -> dict[str, Any]:
        """Lines as a tensor, for a checkpoint."""
        table = self.table().astype("float64")
        values = torch.tensor(table.to_numpy(), dtype=torch.float64)
        return {"columns": list(table.columns), "values": values, "events": self.events}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        columns = state["columns"]
        self.lines = [dict(zip(columns, row, strict=True)) for row in state["values"].tolist()]
        self.events = list(state["events"])


# Curves ------------------------------------------------------------------------------------------------
def curves_figure(
    histories: Mapping[str, pd.DataFrame], resampled: Mapping[str, Sequence[int]] | None = None
) -> Figure:
    """Loss (log scale), L0, explained variance and dead latents against tokens.

    Args:
        histories: one curve per history, by its name.
        resampled: tokens after which dead latents were brought back: a dotted line across all panels.
    """
    from graticule.probes.plots.drawing import Scatter, make_subplots
    from graticule.probes.plots.style import BLOCKS, plain, style

    fig = make_subplots(rows=2, cols=2, shared_xaxes=True, vertical_spacing=0.09, horizontal_spacing=0.1)
    for i, (name, history) in enumerate(histories.items()):
        colour = BLOCKS[i % len(BLOCKS)]
        for panel, column in enumerate(_PANELS):
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
    for panel, (column, title) in enumerate(_PANELS.items()):
        row, col = panel // 2 + 1, panel % 2 + 1
        log = column == "loss" and all((history[column] > 0).all() for history in histories.values())
        fig.update_yaxes(title_text=title, type="log" if log else "linear", row=row, col=col)
        if row == 2:
            fig.update_xaxes(title_text="tokens", row=row, col=col)
    return fig
