"""The result of `prompts`: each prompt's scores and verdict, its difference to the reference, and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from graticule.hooks.saved import SavedResult
from graticule.probes.core.findings import Findings
from graticule.probes.core.verdict import Verdict, score_unit
from graticule.probes.plots.primitives import dots_trace, level, line_trace, mark_trace, new_figure
from graticule.probes.plots.style import (
    BLOCKS,
    INK,
    SURFACE,
    depth_of,
    error_bars,
    layer_axis,
    need_columns,
    plain,
    style,
)
from graticule.probes.scores.metrics import FEW, with_interval

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_CAPTION_DEPTH = (
    "Score against depth, one line a prompt: out of fold on training rows; the mark is the test score"
)
_CAPTION_GAIN = "What the probe adds to the strings and the untrained twin, prompt by prompt, test rows"
_CAPTION_TABLE = "Prompts, each at the layer chosen on its own training rows"
_DASHES = ("solid", "dash", "dot", "dashdot")


@dataclass(frozen=True)
class Prompts(SavedResult):
    """The result of `prompts`.

    The findings of every prompt are not saved with it: `prompts(…, out=folder)` leaves them in
    `folder/PROMPT`, and the same call takes them up again, with all that `transfer` needs, without a run.
    """

    KIND: ClassVar[str] = "prompts"

    model: str
    table: str
    target_names: tuple[str, ...]
    """One name per target."""
    reference: str
    """The prompt that the others are compared with."""
    surface: tuple[str, ...]
    """The baselines behind every verdict, fitted once and captured from the bare names."""
    words: Mapping[str, str]
    """Prompt → how it reads, the entity as `…`."""
    verdicts: Mapping[str, Verdict]
    """Prompt → its verdict, at its own chosen layer, all against one surface."""
    chosen: pd.DataFrame
    """One row per prompt: `prompt`, `tokens` (median, BOS included), `layer`, `point`, `validation`,
    `test_r2`, `surface` (both R²), `gain`, `low`, `high` (as the verdict has them), `verdict`; against the
    reference `difference`, `diff_low`, `diff_high`, `p`, `p_holm` (NaN for the reference itself). Where the
    verdicts are in bits, differences are too, and so are `validation_bits`, `test_bits`, `surface_bits`."""
    layers: pd.DataFrame
    """One row per prompt and point: `prompt`, `layer`, `point`, `depth`, `validation`, `test_r2`, `chosen`,
    and in bits `validation_bits`, `test_bits`; test scores of points that were not chosen are exploratory."""
    provenance: Mapping[str, Any]
    """Model, table, prompts, settings and versions."""
    findings: Mapping[str, Findings] = field(
        default_factory=dict[str, Findings], repr=False, compare=False, metadata={"saved": False}
    )
    """Prompt → its findings; not saved here: `prompts(…, out=folder)` keeps them in `folder/PROMPT`."""

    @property
    def title(self) -> str:
        """Model and table."""
        return f"{self.model} on {self.table}: {len(self.words)} prompts"

    def summary(self) -> str:
        """The best prompt and how far the others are from the reference."""
        order = self._in_unit(self.chosen).sort_values("validation", ascending=False)
        best = order.iloc[0]
        lines = [
            f"best prompt {best['prompt']!r}: test {self._unit} {best['test_r2']:z.3f}, chosen among "
            f"{len(order)} on training rows; gain over the same surface "
            f"{with_interval(best['gain'], (best['low'], best['high']), FEW)}, {best['verdict']}"
        ]
        for _, row in order.iterrows():
            difference = with_interval(row["difference"], (row["diff_low"], row["diff_high"]), FEW)
            against = (
                " (the reference)"
                if row["prompt"] == self.reference
                else f", {difference} against {self.reference} (p {row['p']:.3g}, Holm {row['p_holm']:.3g})"
            )
            lines.append(f"{row['prompt']}: test {self._unit} {row['test_r2']:z.3f}{against}")
        names = ", ".join(name.replace("_", " ") for name in self.surface)
        lines.append(f"one surface for all prompts, from the bare names: {names or 'none'}")
        return "\n".join(lines)

    @property
    def _unit(self) -> str:
        """What scores, gains and differences are in."""
        return score_unit(next(iter(self.verdicts.values())).metric)

    def _in_unit(self, table: pd.DataFrame) -> pd.DataFrame:
        """Scores in the verdicts' unit, under the names of those in R²."""
        names = {"validation_bits": "validation", "test_bits": "test_r2", "surface_bits": "surface"}
        there = {name: table[bits] for bits, name in names.items() if bits in table}
        return table.assign(**there) if self._unit == "bits" else table

    def figures(self) -> dict[str, Figure]:
        """Score against depth by prompt; the gain of each."""
        layers, chosen = self._in_unit(self.layers), self._in_unit(self.chosen)
        surface = float(chosen["surface"].iloc[0])
        return {
            _CAPTION_DEPTH: prompt_depth_figure(layers, chosen, surface, self._unit),
            _CAPTION_GAIN: prompt_gain_figure(chosen, self._unit),
        }

    def tables(self) -> dict[str, pd.DataFrame]:
        """Prompts, best first."""
        of = self._unit
        unit = "" if of == "R²" else f" ({of})"
        names = {
            "prompt": "prompt",
            "tokens": "tokens (median)",
            "layer": "layer",
            "validation": f"validation {of}",
            "test_r2": f"test {of}",
            "gain": f"gain{unit}",
            "low": f"gain{unit}, low",
            "high": f"gain{unit}, high",
            "verdict": "verdict",
            "difference": f"{of} − {self.reference}",
            "diff_low": "low",
            "diff_high": "high",
            "p": "p",
            "p_holm": "p (Holm)",
        }
        rows = self._in_unit(self.chosen).sort_values("validation", ascending=False)
        rows = rows[list(names)].rename(columns=names)
        rows.insert(1, "reads", [self.words[prompt] for prompt in rows["prompt"]])
        return {_CAPTION_TABLE: rows.reset_index(drop=True)}


# Figures ---------------------------------------------------------------------------------------------
def prompt_depth_figure(
    layers: pd.DataFrame, chosen: pd.DataFrame, surface: float | None = None, unit: str = "R²"
) -> Figure:
    """Validation score against depth, a line per prompt; the test score at its chosen layer as a diamond.

    `surface`, the test score of the stacked baselines, is a dashed line.
    """
    need_columns(layers, "prompt", "layer", "point", "validation")
    need_columns(chosen, "prompt", "point", "test_r2")
    fig, x = new_figure(), depth_of(layers)
    for k, (_, row) in enumerate(chosen.iterrows()):
        name, colour, own = row["prompt"], BLOCKS[k % len(BLOCKS)], layers["prompt"] == row["prompt"]
        more: dict[str, Any] = {
            "dash": _DASHES[k // len(BLOCKS) % len(_DASHES)],
            "hover": f"{plain(name)}<br>%{{customdata}}<br>validation %{{y:.3f}}<extra></extra>",
            "customdata": layers["point"][own].astype(str),
        }
        group = {"legendgroup": str(name)}
        y = layers["validation"][own]
        fig.add_trace(line_trace(x[own], y, str(name), colour, 2, size=4, **more, **group))
        at = x[own & (layers["point"] == row["point"])]
        hover = f"{plain(name)}<br>test {unit} %{{y:.3f}}<extra>chosen on training rows</extra>"
        fig.add_trace(mark_trace(at, [row["test_r2"]] * len(at), None, colour, 11, hover=hover, **group))
    note = "Lines are out-of-fold scores on training rows; diamonds test scores at the chosen layer."
    low = float(np.nanmin([layers["validation"].min(), chosen["test_r2"].min(), 0.0]))
    high = float(np.nanmax([layers["validation"].max(), chosen["test_r2"].max(), surface or 0.0, 0.05]))
    up = {"title_text": unit, "range": [max(low, -0.25) - 0.03, high + 0.05]}
    style(fig, height=430, note=note, x={"showgrid": False}, y=up)
    if surface is not None and np.isfinite(surface):
        label = {"text": f"surface stack {surface:z.3f}", "font": {"size": 11, "color": SURFACE}}
        place = {"xanchor": "left", "x": 0.01, "yanchor": "bottom"}
        level(fig, y=surface, colour=SURFACE, width=2, dash="dash", annotation={**label, **place})
    layer_axis(fig, layers["layer"])
    return fig


def prompt_gain_figure(chosen: pd.DataFrame, unit: str = "R²") -> Figure:
    """Gain over the surface with its 95% interval, a mark per prompt, the largest on top."""
    need_columns(chosen, "prompt", "gain", "low", "high")
    rows = chosen.sort_values("gain", kind="stable")
    bars = error_bars(rows["gain"], rows["low"], rows["high"], INK, 2.0)
    hover = "%{y}<br>gain %{x:+.3f}<extra></extra>"
    fig = new_figure(dots_trace(rows["gain"], rows["prompt"], None, INK, error_x=bars, hover=hover))
    level(fig, x=0)
    note = "Bars are 95% intervals, paired over clusters of test rows."
    across = {"title_text": f"gain over the surface ({unit})", "tickformat": "+.2f"}
    up = {"ticks": "", "range": [-0.6, len(rows) - 0.4]}
    return style(fig, height=110 + 34 * len(rows), note=note, x=across, y=up)
