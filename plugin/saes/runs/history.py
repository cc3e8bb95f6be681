"""What a run has logged: a line a logged step, events between them; part of every checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch

INTEGERS = ("step", "tokens", "dead")
"""Columns of whole numbers."""


LESS_THAN_MEAN = (
    "it explains less than the rows' mean does: give more tokens, a smaller batch_size, or a larger lr"
)


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
        """A line a logged step; a loss term that came later is NaN before."""
        table = pd.DataFrame(self.lines)
        whole = [name for name in INTEGERS if name in table.columns]
        return table.astype(dict.fromkeys(whole, "int64"))

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
