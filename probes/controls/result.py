"""`Controls`: what each control reaches, beside the probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from graticule.hooks.meant import UnknownNameError
from graticule.hooks.saved import SavedResult
from graticule.probes.scores.in_words import count_of, plain, with_interval

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from graticule.hooks.result import Part

_SCORES = "What each control reaches on test rows, beside the probe on the same rows"
_GAINS = "What the probe adds to the surface, on parts of the rows and inside blocks"
_FITS = "Memory: R² on training rows, where a random target can be learnt by heart"
_ASKS = "What each line asks, what it rests on, and which controls do not apply to these rows"
_CAPTION_DOTS = "Every control beside the probe on the same test rows, with 95% intervals"
_CAPTION_CURVE = "How many dimensions matter: ridge on k directions of the activations"
_CAPTION_BLOCKS = "Inside blocks: correlation once the mean of every block is taken out"


@dataclass(frozen=True)
class Controls(SavedResult):
    """The result of `controls`."""

    KIND: ClassVar[str] = "controls"

    model: str
    """The model's name."""
    data: str
    """The table's name."""
    point: str
    """The hook point that the probe is at."""
    target_names: tuple[str, ...]
    """A name a target."""
    seeds: int
    """Random draws a control."""
    table: pd.DataFrame
    """A line a control: the fields of `graticule.probes.controls.lines.Line`."""
    curve: pd.DataFrame
    """Ridge on k directions of the activations: `k`, `kind`, `seed`, `r2`."""
    blocks: pd.DataFrame
    """Scores inside blocks: `block`, `predictor`, `r`, `r2` with their intervals, `blocks`, `rows`."""
    provenance: Mapping[str, Any]
    """Model, table, point, settings and versions."""

    def line(self, control: str) -> pd.Series:
        """One line of `table`. **Raises** `KeyError` naming the controls there are."""
        found = self.table[self.table["control"] == control]
        if found.empty:
            raise UnknownNameError(f"no control {control!r}; there are {', '.join(self.table['control'])}")
        return found.iloc[0]

    @property
    def applicable(self) -> pd.DataFrame:
        """The lines that have a score."""
        return self.table[self.table["score"].notna()]

    @property
    def title(self) -> str:
        """Model, table and point."""
        return f"Controls: {self.model} on {self.data} at {self.point}"

    # In words ----------------------------------------------------------------------------------------
    def summary(self) -> str:
        """The probe against the nearest control, then the surface, selectivity, twins and blocks."""
        found = self.applicable
        lines = [self._headline(found), self._surface()]
        lines += [*self._selectivity(found), *self._twins(found), *self._within(found)]
        absent = len(self.table) - len(found)
        if absent:
            lines.append(f"{absent} of {len(self.table)} controls do not apply here; the table says why")
        return "\n".join(lines)

    def _headline(self, found: pd.DataFrame) -> str:
        whole = self.line("probe")
        probe, rows = float(whole["score"]), int(whole["rows"])
        rivals = found[found["group"] == "control"]
        if rivals.empty:
            return f"no control applies: the probe's R² of {plain(probe)} stands by itself"
        nearest = rivals.sort_values("difference", kind="stable").iloc[0]
        if int(nearest["rows"]) == rows:
            reads, on = f"the probe ({probe:.3f} R²)", f"on the same {rows:,} test rows"
        else:  # what applies to some rows alone stands beside the probe on these
            reads = f"the probe ({probe:.3f} R² on all {rows:,} test rows)"
            on = f"on {nearest['rows']:,} of these rows, where the probe reaches {nearest['probe']:.3f}"
        if (rivals["difference_low"] > 0).all():
            words = f"{reads} is above every control"
        elif (rivals["difference_high"] < 0).any():
            words = f"a control is above {reads}"
        else:
            words = f"{reads} is not clearly above every control"
        return f"{words}; nearest is {nearest['control']} at {nearest['score']:.3f} {on}: {_gap(nearest)}"

    def _surface(self) -> str:
        surface = self.line("surface")
        return f"the surface reaches {plain(surface['score'])} on all test rows, {surface['note']}"

    def _selectivity(self, found: pd.DataFrame) -> list[str]:
        task = found[(found["group"] == "control") & found["control"].str.startswith("control task")]
        return [
            f"selectivity {_gap(one)}: a random target per "
            f"{one['control'].removeprefix('control task, ')} reaches {one['score']:.3f}; {one['note']}"
            for _, one in task.iterrows()
        ]

    def _twins(self, found: pd.DataFrame) -> list[str]:
        twins = found[found["control"] == "untrained twin"]
        return [
            f"untrained twin {one['score']:.3f}"
            + (
                f" (mean of {one['seeds']} seeds, {one['seed_low']:.3f} to {one['seed_high']:.3f})"
                if one["seeds"] > 1
                else " (one seed)"
            )
            + f", the probe {_gap(one)} above"
            for _, one in twins.iterrows()
        ]

    def _within(self, found: pd.DataFrame) -> list[str]:
        inside = found[(found["group"] == "within blocks") & (found["metric"] == "gain")]
        lines: list[str] = []
        for _, one in inside.iterrows():
            block = str(one["control"]).removeprefix("within ").removesuffix(", gain")
            beside = self.line(f"within {block}, the surface")
            lines.append(
                f"within {block}: probe r {beside['probe']:.3f} beside the surface's {beside['score']:.3f}; "
                f"gain {_gap(one)} R² of what is left"
            )
        return lines

    # For a page --------------------------------------------------------------------------------------
    def figures(self) -> dict[str, Figure]:
        """Dots with intervals, the matched-k curve, bars inside blocks."""
        from graticule.probes.plots.controls import control_figure, curve_figure, within_figure

        probe, surface = self.line("probe"), self.line("surface")
        out = {_CAPTION_DOTS: control_figure(self.table)}
        if not self.curve.empty:
            out[_CAPTION_CURVE] = curve_figure(self.curve, float(probe["score"]), float(surface["score"]))
        if not self.blocks.empty:
            out[_CAPTION_BLOCKS] = within_figure(self.blocks)
        return out

    def tables(self) -> dict[str, pd.DataFrame]:
        """Scores, gains, train fits, and what each line asks."""
        found = self.applicable
        fits, gains = found["group"] == "train fit", found["metric"] == "gain"
        parts = {
            _SCORES: people(found[~fits & ~gains], "score", "probe"),
            _GAINS: people(found[gains], "surface", "with the probe"),
            _FITS: people(found[fits], "control", "probe"),
            _ASKS: asked(self.table),
        }
        return {caption: frame for caption, frame in parts.items() if len(frame)}

    def layout(self, figures: Sequence[str], tables: Sequence[str]) -> list[Part]:
        """The dots, the table behind them, then the rest."""
        return self.figure_then_table(figures, tables)


def people(lines: pd.DataFrame, score: str, probe: str) -> pd.DataFrame:
    """Lines with headings for people, intervals as words, and columns that say nothing left out."""
    out = pd.DataFrame(
        {
            "what": _names(lines),
            "metric": lines["metric"],
            score: lines["score"],
            "95% interval": [_span(one) for _, one in lines.iterrows()],
            probe: lines["probe"],
            "difference": lines["difference"],
            "its 95% interval": [_span(one, "difference_") for _, one in lines.iterrows()],
            "rows": lines["rows"],
            "seeds": [_seeds(one) for _, one in lines.iterrows()],
        }
    ).reset_index(drop=True)
    if out["metric"].nunique() == 1:
        out = out.drop(columns="metric")
    return out if (out["seeds"] != "").any() else out.drop(columns="seeds")


def asked(lines: pd.DataFrame) -> pd.DataFrame:
    """Name, question and note of every line."""
    named = {"what": _names(lines), "it asks": lines["asks"], "note": lines["note"]}
    return pd.DataFrame(named).reset_index(drop=True)


def _names(lines: pd.DataFrame) -> list[str]:
    from graticule.probes.plots.style import label

    return [label(str(name)) for name in lines["control"]]


def _gap(line: pd.Series) -> str:
    """The probe's lead with its interval, as everywhere in a summary."""
    low, high = float(line["difference_low"]), float(line["difference_high"])
    rows = count_of(int(line["rows"]), "test row")
    if np.isnan([line["difference"], low, high]).any():
        return with_interval(float(line["difference"]), (low, high), rows)
    return f"{line['difference']:+.3f} [{_span(line, 'difference_')}]"


def _span(line: pd.Series, prefix: str = "") -> str:
    low, high = float(line[f"{prefix}low"]), float(line[f"{prefix}high"])
    sign = "+" if prefix else ""
    return "" if np.isnan(low) else f"{low:{sign}.3f} to {high:{sign}.3f}"


def _seeds(line: pd.Series) -> str:
    if int(line["seeds"]) < 2:
        return ""
    return f"{int(line['seeds'])}: {float(line['seed_low']):.3f} to {float(line['seed_high']):.3f}"
