"""`Controls`: what each control reaches, beside the probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from graticule.hooks.messages import UnknownNameError
from graticule.hooks.saved import SavedResult
from graticule.probes.core.class_lines import IN_R2
from graticule.probes.plots.primitives import (
    bar_trace,
    dots_trace,
    level,
    line_trace,
    named_level,
    new_figure,
)
from graticule.probes.plots.style import (
    ACCENT,
    BLOCKS,
    FAINT,
    INK,
    MUTED,
    SURFACE,
    Markup,
    error_bars,
    label,
    log_axis,
    need_columns,
    plain,
    short,
    style,
)
from graticule.probes.scores.metrics import count_of, number_text, with_interval

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from graticule.hooks.result import Part

_SCORES = "What each control reaches on test rows, beside the probe on the same rows"
_GAINS = "What the probe adds to the surface, on parts of the rows and inside blocks"
_FITS = "Memory: R² on training rows, where a random target can be learnt by heart"
_ASKS = "What each line asks, what it rests on, and which controls do not apply to these rows"
_CAPTION_DOTS = "Controls, surface and parts of the activations beside the probe on the same test rows"
_CAPTION_CURVE = "How many dimensions matter: ridge on k directions of the activations"
_CAPTION_BLOCKS = "Inside blocks: correlation once the mean of every block is taken out"
_FLOOR = -0.25
"""Scores below it are drawn on the edge: a control that is far under 0 must not flatten the others."""


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
    """One name per target."""
    seeds: int
    """Random draws per control."""
    table: pd.DataFrame
    """One row per control: the fields of `graticule.probes.controls.inputs.Line`."""
    curve: pd.DataFrame
    """Ridge on k directions of the activations: `k`, `kind`, `seed`, `r2`."""
    blocks: pd.DataFrame
    """Scores inside blocks: `block`, `predictor`, `r`, `r2` with their intervals, `blocks`, `rows`."""
    provenance: Mapping[str, Any]
    """Model, table, point, settings and versions."""

    def line(self, control: str) -> pd.Series:
        """One row of `table`.

        Raises:
            KeyError: Naming the controls there are.
        """
        rows = self.table[self.table["control"] == control]
        if rows.empty:
            raise UnknownNameError(f"no control {control!r}; there are {', '.join(self.table['control'])}")
        return rows.iloc[0]

    @property
    def applicable(self) -> pd.DataFrame:
        """The rows of `table` that have a score."""
        return self.table[self.table["score"].notna()]

    @property
    def title(self) -> str:
        """Model, table and point."""
        return f"Controls: {self.model} on {self.data} at {self.point}"

    # In words ----------------------------------------------------------------------------------------
    def summary(self) -> str:
        """The probe against the nearest control, then the surface, selectivity, twins and blocks."""
        rows, surface = self.applicable, self.line("surface")
        lines = [
            self._headline(rows),
            f"the surface reaches {number_text(surface['score'])} on all test rows, {surface['note']}",
            *self._selectivity(rows),
            *self._twins(rows),
            *self._within(rows),
        ]
        if self.provenance.get("judged_in") == "bits":
            lines.append(IN_R2)
        absent = len(self.table) - len(rows)
        if absent:
            lines.append(f"{absent} of {len(self.table)} controls do not apply here; the table says why")
        return "\n".join(lines)

    def _headline(self, rows: pd.DataFrame) -> str:
        whole = self.line("probe")
        probe, count = float(whole["score"]), int(whole["rows"])
        controls = rows[rows["group"] == "control"]
        if controls.empty:
            return f"no control applies: the probe's R² of {number_text(probe)} stands by itself"
        nearest = controls.sort_values("difference", kind="stable").iloc[0]
        if int(nearest["rows"]) == count:
            reads, on = f"the probe ({probe:z.3f} R²)", f"on the same {count:,} test rows"
        else:  # what applies to some rows alone stands beside the probe on these
            reads = f"the probe ({probe:z.3f} R² on all {count:,} test rows)"
            on = f"on {nearest['rows']:,} of these rows, where the probe reaches {nearest['probe']:z.3f}"
        if (controls["difference_low"] > 0).all():
            verdict = f"{reads} is above every control"
        elif (controls["difference_high"] < 0).any():
            verdict = f"a control is above {reads}"
        else:
            verdict = f"{reads} is not clearly above every control"
        nearby = f"nearest is {nearest['control']} at {nearest['score']:z.3f} {on}"
        return f"{verdict}; {nearby}: {_difference(nearest)}{self._beyond_controls(probe)}"

    def _beyond_controls(self, probe: float) -> str:
        """What else the figure draws: the lines that lie above the probe, or the nearest below it."""
        drawn = _drawn(self.table)
        others = drawn[(drawn["group"] != "control") & (drawn["control"] != "probe")]
        if others.empty:
            return ""
        others = others.assign(lead=others["probe"].fillna(probe) - others["score"]).sort_values("lead")
        lines = zip(_names(others), others["score"], strict=True)
        named = [f"{name} at {score:z.3f}" for name, score in lines]
        whole, above = f"; of the figure's {len(others)} other lines", int((others["lead"] < 0).sum())
        if not above:
            return f"{whole} none is above it, nearest is {named[0]}"
        more = f" and {above - 3} more" if above > 3 else ""
        first = ", ".join(named[: min(above, 3)])
        return f"{whole} {above} {'is' if above == 1 else 'are'} above it: {first}{more}"

    def _selectivity(self, rows: pd.DataFrame) -> list[str]:
        task = rows[(rows["group"] == "control") & rows["control"].str.startswith("control task")]
        return [
            f"selectivity {_difference(row)}: a random target per "
            f"{row['control'].removeprefix('control task, ')} reaches {row['score']:z.3f}; {row['note']}"
            for _, row in task.iterrows()
        ]

    def _twins(self, rows: pd.DataFrame) -> list[str]:
        lines: list[str] = []
        for _, row in rows[rows["control"] == "untrained twin"].iterrows():
            seeds = " (one seed)"
            if row["seeds"] > 1:
                span = f"{row['seed_low']:z.3f} to {row['seed_high']:z.3f}"
                seeds = f" (mean of {row['seeds']} seeds, {span})"
            twin = f"untrained twin {row['score']:z.3f}{seeds}"
            lines.append(f"{twin}, the probe {_difference(row)} above")
        return lines

    def _within(self, rows: pd.DataFrame) -> list[str]:
        lines: list[str] = []
        for _, row in rows[(rows["group"] == "within blocks") & (rows["metric"] == "gain")].iterrows():
            block = str(row["control"]).removeprefix("within ").removesuffix(", gain")
            beside = self.line(f"within {block}, the surface")
            lines.append(
                f"within {block}: probe r {beside['probe']:z.3f} beside the surface's {beside['score']:z.3f}"
                f"; gain {_difference(row)} R² of what is left"
            )
        return lines

    # For a page --------------------------------------------------------------------------------------
    def figures(self) -> dict[str, Figure]:
        """Dots with intervals, the matched-k curve, bars inside blocks."""
        out = {_CAPTION_DOTS: _control_figure(self.table)}
        if not self.curve.empty:
            probe, surface = (float(self.line(name)["score"]) for name in ("probe", "surface"))
            out[_CAPTION_CURVE] = _curve_figure(self.curve, probe, surface)
        if not self.blocks.empty:
            out[_CAPTION_BLOCKS] = within_blocks_figure(self.blocks)
        return out

    def tables(self) -> dict[str, pd.DataFrame]:
        """Scores, gains, train fits, and what each line asks."""
        rows = self.applicable
        fits, gains = rows["group"] == "train fit", rows["metric"] == "gain"
        asks = {"what": _names(self.table), "it asks": self.table["asks"], "note": self.table["note"]}
        parts = {
            _SCORES: _scores_table(rows[~fits & ~gains], "score", "probe"),
            _GAINS: _scores_table(rows[gains], "surface", "with the probe"),
            _FITS: _scores_table(rows[fits], "control", "probe"),
            _ASKS: pd.DataFrame(asks).reset_index(drop=True),
        }
        return {caption: frame for caption, frame in parts.items() if len(frame)}

    def layout(self, figures: Sequence[str], tables: Sequence[str]) -> list[Part]:
        """The dots, the table behind them, then the rest."""
        return self.figure_then_table(figures, tables)


def _drawn(lines: pd.DataFrame) -> pd.DataFrame:
    """The lines of the figure: R² on test rows; fits to training rows, gains and r left out."""
    return lines[(lines["metric"] == "R²") & (lines["group"] != "train fit") & lines["score"].notna()]


def _scores_table(lines: pd.DataFrame, score: str, probe: str) -> pd.DataFrame:
    """Lines with headings for people, intervals as text, and columns that say nothing left out."""
    rows = [row for _, row in lines.iterrows()]
    out = pd.DataFrame(
        {
            "what": _names(lines),
            "metric": lines["metric"],
            score: lines["score"],
            "95% interval": [_span(row) for row in rows],
            probe: lines["probe"],
            "difference": lines["difference"],
            "its 95% interval": [_span(row, "difference_") for row in rows],
            "rows": lines["rows"],
            "seeds": [_seeds(row) for row in rows],
        }
    ).reset_index(drop=True)
    if out["metric"].nunique() == 1:
        out = out.drop(columns="metric")
    return out if (out["seeds"] != "").any() else out.drop(columns="seeds")


def _names(lines: pd.DataFrame) -> list[str]:

    return [label(str(name)) for name in lines["control"]]


def _difference(line: pd.Series) -> str:
    """The probe's lead with its interval, as everywhere in a summary."""
    low, high = float(line["difference_low"]), float(line["difference_high"])
    rows = count_of(int(line["rows"]), "test row")
    if np.isnan([line["difference"], low, high]).any():
        return with_interval(float(line["difference"]), (low, high), rows)
    return f"{line['difference']:+z.3f} [{_span(line, 'difference_')}]"


def _span(line: pd.Series, prefix: str = "") -> str:
    low, high = float(line[f"{prefix}low"]), float(line[f"{prefix}high"])
    sign = "+" if prefix else ""
    return "" if np.isnan(low) else f"{low:{sign}.3f} to {high:{sign}.3f}"


def _seeds(line: pd.Series) -> str:
    if int(line["seeds"]) < 2:
        return ""
    return f"{int(line['seeds'])}: {float(line['seed_low']):z.3f} to {float(line['seed_high']):z.3f}"


# Figures ---------------------------------------------------------------------------------------------
def _control_figure(lines: pd.DataFrame) -> Figure:
    """R² of every control on test rows, and of the probe on the same rows; fits, gains and r left out."""
    need_columns(lines, "group", "control", "metric", "score", "low", "high", "probe", "rows")
    rows = _drawn(lines)
    rows = rows.assign(label=[short(name, 40) for name in _names(rows)])
    colours = {"reference": SURFACE, "dimensions": BLOCKS[2], "oracle": BLOCKS[4]}
    fig = new_figure()
    for kind, part in rows.groupby("group", sort=False):
        colour = colours.get(str(kind), MUTED)
        score = part["score"].clip(lower=_FLOOR)
        low, high = part["low"].fillna(part["score"]), part["high"].fillna(part["score"])
        ends = np.minimum(low.clip(lower=_FLOOR), score), np.maximum(high.clip(lower=_FLOOR), score)
        each = [ACCENT if name == "probe" else colour for name in part["control"]]
        symbols = ["triangle-left" if s < _FLOOR else "circle" for s in part["score"]]
        fig.add_trace(
            dots_trace(
                score, list(part["label"]), str(kind), each, look={"symbol": symbols}, showlegend=False,
                error_x=error_bars(score, *ends, colour),
                customdata=np.stack([part["score"], low, high, part["rows"]], axis=-1),
                hover="%{y}<br>R² %{customdata[0]:.3f} [%{customdata[1]:.3f}, %{customdata[2]:.3f}]<br>"
                "%{customdata[3]} rows<extra></extra>",
            )
        )  # fmt: skip
    beside, stroke = rows[rows["probe"].notna()], {"symbol": "line-ns-open", "line": {"width": 2}}
    hover = "%{y}<br>probe on the same rows %{x:.3f}<extra></extra>"
    fig.add_trace(
        dots_trace(beside["probe"], list(beside["label"]), None, ACCENT, 12, look=stroke, hover=hover)
    )
    level(fig, x=0, colour=FAINT, dash=None)
    note = "Dots are the controls with 95% intervals, red strokes the probe on the same rows."
    if (rows["score"] < _FLOOR).any():
        note += f" Triangles lie below {_FLOOR:g}."
    order = {"autorange": "reversed", "categoryorder": "array", "categoryarray": list(rows["label"])}
    up = {**order, "tickfont": {"size": 11}, "ticks": ""}
    return style(fig, height=90 + 22 * len(rows), note=note, x="R² on test rows", y=up)


def _curve_figure(curve: pd.DataFrame, probe: float, surface: float) -> Figure:
    """R² of ridge on k directions, the mean over seeds and their range; whole probe and surface as lines."""
    need_columns(curve, "k", "kind", "seed", "r2")
    marks = {
        "principal components": (INK, "circle"),
        "random directions": (BLOCKS[1], "square"),
        "random whitened directions": (BLOCKS[3], "diamond"),
    }
    fig = new_figure()
    for kind, part in curve.groupby("kind", sort=False):
        colour, symbol = marks.get(str(kind), (MUTED, "circle"))
        stats = part.groupby("k")["r2"].agg(["mean", "min", "max"]).reset_index()
        more: dict[str, Any] = {
            "marker": {"size": 8, "symbol": symbol, "color": colour},
            "error_y": error_bars(stats["mean"], stats["min"], stats["max"], colour, width=3),
            "hover": f"k = %{{x}}<br>R² %{{y:.3f}}<extra>{plain(kind)}</extra>",
        }
        fig.add_trace(line_trace(stats["k"], stats["mean"], str(kind), colour, 2, size=8, **more))
    for value, name, colour, dash in (
        (probe, "probe, all dimensions", ACCENT, "dash"),
        (surface, "surface", SURFACE, "dot"),
    ):
        below = value == min(probe, surface)
        named_level(fig, value, f"{name} {value:z.3f}", colour, dash, x=0.01, below=below)
    seeds = int(curve["seed"].max()) + 1
    ks = sorted({int(k) for k in curve["k"]})
    across = log_axis(ks, "dimensions kept, k", [f"{k:,}" for k in ks])
    note = f"Bars span {seeds} random draws." if seeds > 1 else None
    return style(fig, height=400, note=note, x=across, y="R² on test rows")


def within_blocks_figure(blocks: pd.DataFrame) -> Figure:
    """Correlation inside blocks of the probe, the surface and the strongest baseline.

    Args:
        blocks: As `Controls.blocks`.

    Raises:
        KeyError: A column is missing.
    """
    need_columns(blocks, "block", "predictor", "r", "r_low", "r_high", "blocks", "rows")
    fig = new_figure()
    for name, colour in (("probe", ACCENT), ("surface", SURFACE), ("best baseline", FAINT)):
        part = blocks[blocks["predictor"] == name]
        if part.empty:
            continue
        names = [
            Markup(f"{plain(short(label(str(b))))}<br>{n:,} blocks, {rows:,} rows")
            for b, n, rows in zip(part["block"], part["blocks"], part["rows"], strict=True)
        ]
        ends = part["r_low"].fillna(part["r"]), part["r_high"].fillna(part["r"])
        bars = error_bars(part["r"], *ends, INK, width=4)
        hover = f"%{{x}}<br>r %{{y:.3f}}<extra>{plain(name)}</extra>"
        fig.add_trace(bar_trace(names, part["r"], name, colour, hover=hover, error_y=bars))
    note = "Blocks of ten test rows or more are pooled; lines are 95% intervals."
    up = {"title_text": "r inside blocks", "rangemode": "tozero"}
    return style(fig, height=360, note=note, x={"showgrid": False}, y=up, barmode="group", bargap=0.35)
