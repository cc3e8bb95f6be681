"""`Retest`: the verdict, the layer and the direction over other splits of the same rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from graticule.hooks.points import layer_of
from graticule.hooks.result import headed
from graticule.hooks.saved import SavedResult
from graticule.probes.core.findings import Findings
from graticule.probes.core.verdict import NOT_DECIDED
from graticule.probes.plots.primitives import dots_trace, level, new_figure
from graticule.probes.plots.style import ACCENT, FAINT, INK, error_bars, need_columns, rows_axis, style
from graticule.probes.scores.metrics import count_of, number_text

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_RUNS = {
    "run": "split",
    "label": "verdict",
    "gain": "gain",
    "low": "95% from",
    "high": "95% to",
    "score": "test R²",
    "layer": "layer",
    "point": "hook point",
}
_COSINES = {
    "target": "target",
    "read": "read directions, mean cosine",
    "read_least": "least",
    "write": "write directions, mean cosine",
    "write_least": "least ",
}


@dataclass(frozen=True)
class Retest(SavedResult):
    """The result of `graticule.retest`."""

    KIND: ClassVar[str] = "retest"

    model: str
    """The model's name."""
    table: str
    """The table's name."""
    target_names: tuple[str, ...]
    """One name per target."""
    label: str
    """The verdict on the findings' own split."""
    gain: float
    """Its gain."""
    chosen_point: str
    """The point that was chosen there, at which directions are compared."""
    runs: pd.DataFrame
    """One row per other split: `run`, `seed`, `label`, `gain`, `low`, `high`, `score`, `point`, `layer` (NaN
    outside the blocks), `n_train`, `n_test`."""
    cosines: pd.DataFrame
    """One row per target: `target`, and of `read` and `write` directions at the chosen point the mean cosine
    over pairs of splits, and the smallest (`read_least`, `write_least`)."""
    provenance: Mapping[str, Any]
    """Model, table, splits, seed and versions."""

    @property
    def title(self) -> str:
        """Model, table and target."""
        names = self.target_names if len(self.target_names) <= 3 else (*self.target_names[:2], "…")
        return f"{self.model} on {self.table}: {', '.join(names)} over {len(self.runs)} splits"

    @property
    def agreement(self) -> float:
        """Share of the splits whose verdict is that of the findings; of undecided ones the reason is left
        out."""
        kinds = [kind_of_verdict(label) for label in self.runs["label"]]
        return float(np.mean([kind == kind_of_verdict(self.label) for kind in kinds]))

    @property
    def line(self) -> str:
        """All of it in one line, for findings."""
        runs = len(self.runs)
        same = round(self.agreement * runs)
        others = Counter(map(kind_of_verdict, self.runs["label"]))
        others.pop(kind_of_verdict(self.label), None)
        rest = "".join(f", {label} in {count}" for label, count in others.most_common())
        names = ", ".join(
            f"{number_text(value, 2)}" + (f" ({name})" if len(self.cosines) > 1 else "")
            for name, value in zip(self.cosines["target"][:3], self.cosines["read"][:3], strict=True)
        )
        more = ", …" if len(self.cosines) > 3 else ""
        return (
            f"over {count_of(runs, 'other split')} the same verdict in {same}{rest}; gain "
            f"{self.runs['gain'].min():+z.3f} to {self.runs['gain'].max():+z.3f}; {self._layers()}; probe "
            f"directions there agree with mean cosine {names}{more}"
        )

    def _layers(self) -> str:
        points = Counter(self.runs["point"])
        first = layer_of(self.chosen_point)
        own = f"layer {first}" if first is not None else self.chosen_point
        layers = self.runs["layer"].dropna()
        if layers.empty or points[self.chosen_point] == len(self.runs):
            return f"{own} in {points[self.chosen_point]}"
        return f"layers {int(layers.min())} to {int(layers.max())}, {own} in {points[self.chosen_point]}"

    def summary(self) -> str:
        """Agreement of the verdict, spread of the layer, cosines of directions."""
        low, high = self.runs["gain"].quantile([0.25, 0.75])
        excluded = int((self.runs["low"] > 0).sum())
        lines = [
            f"{self.agreement:.0%} the same verdict: {self.line}",
            f"on the findings' own split: {self.label}, gain {self.gain:+z.3f}",
            f"half of the gains lie from {low:+z.3f} to {high:+z.3f}; {excluded} of {len(self.runs)} "
            "intervals lie above 0",
        ]
        for name in self.cosines.head(4).itertuples():
            row: Any = name
            lines.append(
                f"{row.target}: read directions of pairs of splits have cosine {number_text(row.read, 2)} "
                f"(least {number_text(row.read_least, 2)}), write directions {number_text(row.write, 2)} "
                f"({number_text(row.write_least, 2)})"
            )
        lines.append("splits share rows, so that they agree more than other samples would")
        return "\n".join(lines)

    def figures(self) -> dict[str, Figure]:
        """The gain on every split, with its interval."""
        return {"The gain on every split, 95% intervals": splits_figure(self.runs, self.gain)}

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every split, and the directions."""
        return {
            "Every split": headed(self.runs, _RUNS),
            f"Directions at {self.chosen_point} over pairs of splits": headed(self.cosines, _COSINES),
        }

    def under(self, findings: Findings) -> Findings:
        """The findings with this in one line under their verdict.

        Args:
            findings: those that were retested.

        Returns:
            The same with `retest`.
        """
        return replace(findings, retest=self.line)


def kind_of_verdict(label: str) -> str:
    """A verdict without the reason for which it is not decided."""
    return NOT_DECIDED if label.startswith(NOT_DECIDED) else label


def splits_figure(runs: pd.DataFrame, own: float) -> Figure:
    """Gains with their intervals, a line per split, the largest on top; dotted, the findings' own."""
    need_columns(runs, "run", "gain", "low", "high", "label")
    rows = runs.sort_values("gain", kind="stable").reset_index(drop=True)
    middle, low, high = (rows[name].to_numpy(np.float64) for name in ("gain", "low", "high"))
    places = np.arange(len(rows))
    hover = "%{text}<br>gain %{x:.3f}<extra></extra>"
    bars = error_bars(middle, low, high, INK, width=3)
    fig = new_figure(
        dots_trace(middle, places, None, INK, hover=hover, text=rows["label"].astype(str), error_x=bars)
    )
    level(fig, x=own, colour=ACCENT)
    level(fig, x=0, colour=FAINT, dash=None)
    names = [f"split {run}" for run in rows["run"]]
    return style(fig, height=130 + 22 * len(rows), x="gain over the surface", y=rows_axis(names))
