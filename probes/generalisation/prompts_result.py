"""What a table's prompts showed: every prompt's line, its verdict, and its difference to the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from graticule.hooks.saved import SavedResult
from graticule.probes.findings import Findings
from graticule.probes.scores.in_words import FEW, with_interval
from graticule.probes.scores.verdict import Verdict

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_CAPTION = "Score against depth, one line a prompt: out of fold on training rows; the mark is the test score"
_CAPTION_GAIN = "What the probe adds to the strings and the untrained twin, prompt by prompt, test rows"
_CAPTION_TABLE = "Prompts, each at the layer chosen on its own training rows"
_NOT_SAVED = {"saved": False}


@dataclass(frozen=True)
class Prompts(SavedResult):
    """The result of `prompts`."""

    KIND: ClassVar[str] = "prompts"

    model: str
    """The model's name."""
    table: str
    """The table's name."""
    target_names: tuple[str, ...]
    """A name a target."""
    reference: str
    """The prompt that the others are compared with."""
    surface: tuple[str, ...]
    """The baselines behind every verdict, fitted once and captured from the bare names."""
    words: Mapping[str, str]
    """Prompt → how it reads, the entity as `…`."""
    verdicts: Mapping[str, Verdict]
    """Prompt → its verdict, at its own chosen layer, all against one surface."""
    chosen: pd.DataFrame
    """A line a prompt: `prompt`, `tokens` (median, BOS included), `layer`, `point`, `validation`, `test_r2`,
    `surface`, `gain`, `low`, `high`, `verdict`; against the reference `difference`, `diff_low`, `diff_high`,
    `p`, `p_holm` (NaN for the reference itself)."""
    layers: pd.DataFrame
    """A line a prompt and point: `prompt`, `layer`, `point`, `depth`, `validation`, `test_r2`, `chosen`; test
    scores of points that were not chosen are exploratory."""
    provenance: Mapping[str, Any]
    """Model, table, prompts, settings and versions."""
    findings: Mapping[str, Findings] = field(
        default_factory=dict[str, Findings], repr=False, compare=False, metadata=_NOT_SAVED
    )
    """Prompt → its findings; not saved here: `prompts(…, out=folder)` keeps them in `folder/PROMPT`."""

    @property
    def title(self) -> str:
        """Model and table."""
        return f"{self.model} on {self.table}: {len(self.words)} prompts"

    def summary(self) -> str:
        """The best prompt and how far the others are from the reference."""
        order = self.chosen.sort_values("validation", ascending=False)
        best = order.iloc[0]
        lines = [
            f"best prompt {best['prompt']!r}: test R² {best['test_r2']:.3f}, chosen among "
            f"{len(order)} on training rows; gain over the same surface "
            f"{with_interval(best['gain'], (best['low'], best['high']), FEW)}, {best['verdict']}"
        ]
        for _, line in order.iterrows():
            if line["prompt"] == self.reference:
                lines.append(f"{line['prompt']}: test R² {line['test_r2']:.3f} (the reference)")
                continue
            lines.append(
                f"{line['prompt']}: test R² {line['test_r2']:.3f}, "
                f"{with_interval(line['difference'], (line['diff_low'], line['diff_high']), FEW)} "
                f"against {self.reference} "
                f"(p {line['p']:.3g}, Holm {line['p_holm']:.3g})"
            )
        names = ", ".join(name.replace("_", " ") for name in self.surface)
        lines.append(f"one surface for all prompts, from the bare names: {names or 'none'}")
        return "\n".join(lines)

    def figures(self) -> dict[str, Figure]:
        """Score against depth by prompt; the gain of each."""
        from graticule.probes.plots.prompts import prompt_depth_figure, prompt_gain_figure

        surface = float(self.chosen["surface"].iloc[0])
        return {
            _CAPTION: prompt_depth_figure(self.layers, self.chosen, surface),
            _CAPTION_GAIN: prompt_gain_figure(self.chosen),
        }

    def tables(self) -> dict[str, pd.DataFrame]:
        """Prompts, best first."""
        names = {
            "prompt": "prompt",
            "tokens": "tokens (median)",
            "layer": "layer",
            "validation": "validation R²",
            "test_r2": "test R²",
            "gain": "gain",
            "low": "gain, low",
            "high": "gain, high",
            "verdict": "verdict",
            "difference": f"R² − {self.reference}",
            "diff_low": "low",
            "diff_high": "high",
            "p": "p",
            "p_holm": "p (Holm)",
        }
        shown = self.chosen.sort_values("validation", ascending=False)[list(names)].rename(columns=names)
        shown.insert(1, "reads", [self.words[p] for p in shown["prompt"]])
        return {_CAPTION_TABLE: shown.reset_index(drop=True)}
