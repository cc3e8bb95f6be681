"""The result of `calibrate`: how often the instrument is wrong, and the smallest gain it sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from graticule.hooks.calls import renamed
from graticule.hooks.messages import UnknownNameError
from graticule.hooks.saved import SavedResult
from graticule.probes.calibration.judging import monotone
from graticule.probes.core.detection import limit_words
from graticule.probes.core.findings import Findings
from graticule.probes.core.gates import Gates
from graticule.probes.core.resample import wilson
from graticule.probes.core.verdict import STRUCTURE, score_unit
from graticule.probes.plots.primitives import (
    dots_trace,
    level,
    line_trace,
    named_level,
    named_place,
    new_figure,
    panels,
)
from graticule.probes.plots.style import ACCENT, FAINT, INK, MUTED, error_bars, log_axis, need_columns, style
from graticule.probes.plots.style import SURFACE as SURFACE_COLOUR
from graticule.probes.scores.metrics import FEW, signed

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

NOISE, SURFACE, ODD, HIDDEN = "noise", "surface only", "nonlinear strings", "hidden"
KINDS = (NOISE, SURFACE, ODD, HIDDEN)
TOO_MANY = 0.05
"""Share of targets that hold nothing which may be called structure."""


@dataclass(frozen=True)
class Calibration(SavedResult):
    """The result of `graticule.calibrate`: the findings' instrument on targets whose truth is known."""

    KIND: ClassVar[str] = "calibration"

    model: str
    table: str
    point: str
    """The chosen hook point: all of this holds there."""
    gain: float
    """The findings' own gain."""
    surface: float
    """The score of the findings' stacked baselines on test rows: surface-only targets are made to match that
    in R²."""
    min_gain: float
    """The smallest gain called structure."""
    limit_of_detection: float
    """What is measured, on average, where the interval lies above 0 in 80% of targets: on the scale of the
    findings' own gain. NaN if no part tried was found so often."""
    limit_true: float
    """The share of the target's variance that the hidden part has there."""
    at_most: bool
    """The limits are upper bounds: even the smallest part tried was found that often."""
    limit_by_words: float
    """The true gain *called structure* 80% of the time, as a share of the variance; NaN if none tried was."""
    rates: pd.DataFrame
    """One row per kind and true gain: `kind`, `true_gain`, `targets`, counts `above_0`, `structure`,
    `covered_aside` and `covered_resampled`, and means `surface`, `gain` and `known` (the gain, were the
    hidden part known)."""
    targets: pd.DataFrame
    """One row per synthetic target: `kind`, `number`, `true_gain`, `known`, `surface`, `gain`, `low`, `high`,
    `words`, `covered_aside`, `covered_resampled`."""
    surface_share: float
    """Share of a surface-only target's variance that its n-grams decide."""
    smooth: int
    """How often the n-gram functions were smoothed to be as easy as the real target."""
    provenance: Mapping[str, Any]
    """Settings, seed, the findings' own provenance and versions."""
    metric: str = "r2"
    """What gains and surfaces are in, that of the findings' verdict: `r2`, or `bits` a row."""
    classes: int = 0
    """Of the findings. Of several, each synthetic target in bits is one of them against the rest."""
    tested: str = "test rows"
    """Which rows all of it is of, in words."""

    @property
    def title(self) -> str:
        """Model, table and point."""
        return f"Calibration: {self.model} on {self.table}, {self.point}"

    @property
    def limit_in_words(self) -> str:
        """The smallest detectable gain (in 80% of targets), as under a verdict."""
        return limit_words(self.limit_of_detection, self.largest_tried, self.at_most, unit=self._unit)

    @property
    def _unit(self) -> str:
        """After a figure; of R² nothing."""
        return " bits" if self.metric == "bits" else ""

    @property
    def largest_tried(self) -> float:
        """The largest hidden part tried, as a share of the target's variance."""
        return float(self.targets["true_gain"].max())

    @property
    def gates(self) -> Gates:
        """Why no structure is to be called here: targets that hold none surely were called so too often."""
        nothing = self.rates[self.rates["true_gain"] == 0]
        columns = (nothing[name] for name in ("kind", "structure", "targets"))
        called = [(str(kind), int(count), int(of)) for kind, count, of in zip(*columns, strict=True)]
        return Gates(
            tuple(
                f"calibration called {count} of {of} {kind} targets structure"
                for kind, count, of in called
                if wilson(count, of)[0] > TOO_MANY
            )
        )

    @renamed("what", "true_gain")
    def rate(
        self, kind: str, *, what: str = "structure", true_gain: float = 0.0
    ) -> tuple[float, float, float]:
        """A rate with its 95% interval (Wilson).

        Args:
            kind: of targets.
            what: `structure`, `above_0`, `covered_aside` or `covered_resampled`.
            true_gain: of the targets.

        Raises:
            KeyError: No such targets were tried.
        """
        rows = self.rates[(self.rates["kind"] == kind) & np.isclose(self.rates["true_gain"], true_gain)]
        if rows.empty:
            raise UnknownNameError(f"no {kind!r} targets of true gain {true_gain:g}; see rates")
        return _rate(int(rows[what].iloc[0]), int(rows["targets"].iloc[0]))

    def coverage(self, how: str = "aside") -> tuple[float, float, float]:
        """Coverage of the gain's interval over all targets, `aside` or `resampled`, with its 95% interval.

        The targets share their rows, so that the interval is a little too narrow.
        """
        return _rate(int(self.rates[f"covered_{how}"].sum()), int(self.rates["targets"].sum()))

    def summary(self) -> str:
        """The limit of detection, then false findings and coverage."""
        gain = f"gain {signed(self.gain, FEW)}{self._unit}"
        lines = [f"{gain}; with these rows, at this layer, {self.limit_in_words}"]
        if self.metric == "bits" and self.classes > 2:
            lines.append("each synthetic target is one class against the rest, and so are all figures here")
        if self.tested != "test rows":
            lines.append(f"measured on {self.tested}, by the rules of a verdict on one part")
        if not np.isnan(self.limit_true):
            most = "at most " if self.at_most else ""
            lines.append(
                f"that is what ridge learns here of a hidden part of {most}{_short(self.limit_true)} of the "
                "target's variance"
            )
        for kind in (one for one in (NOISE, SURFACE, ODD) if (self.rates["kind"] == one).any()):
            called, above = self.rate(kind), self.rate(kind, what="above_0")
            lines.append(
                f"{kind} targets called structure: {_percent(called)}; interval above 0: {_percent(above)}"
            )
        lines.append(
            f"the 95% interval holds the fitted predictors' own gain: {_percent(self.coverage())} "
            f"(rows held aside), {_percent(self.coverage('resampled'))} (rows resampled)"
        )
        limit = self.limit_by_words
        share = f"from {_short(limit)} of the variance in 80% of targets"
        called = "never in 80% of targets" if np.isnan(limit) else share
        needed = f"{self.min_gain:.2g} bits" if self.metric == "bits" else f"{self.min_gain:g}"
        lines.append(f"a hidden part is called structure (a gain of {needed} or more) {called}")
        return "\n".join(lines)

    def figures(self) -> dict[str, Figure]:
        """False findings and coverage, the detection curve, measured against true gains."""
        limit = None if np.isnan(self.limit_true) else self.limit_true
        return {
            "How often a hidden part of known size is found, by the true gain": detection_figure(
                self.hidden, self.equivalent(self.gain), limit
            ),
            "False findings, and how often the 95% interval holds the gain": rates_figure(self.rates),
            "Measured against true gain": measured_figure(self.targets, self.gain, self.metric),
        }

    def equivalent(self, gain: float) -> float | None:
        """The true gain at which `gain` is measured on average; None outside what was tried."""
        hidden = self.hidden
        counts = hidden["targets"].to_numpy(np.float64)
        measured = monotone(hidden["gain"].to_numpy(np.float64), counts)
        if not measured[0] < gain <= measured[-1]:
            return None
        return float(np.interp(gain, measured, hidden["true_gain"].to_numpy(np.float64)))

    @property
    def hidden(self) -> pd.DataFrame:
        """The detection curve: `true_gain`, `targets`, `above_0` and `structure`, from gain 0 upwards."""
        return (
            self.rates[self.rates["kind"].isin([SURFACE, HIDDEN])]
            .sort_values("true_gain")
            .reset_index(drop=True)
        )

    def tables(self) -> dict[str, pd.DataFrame]:
        """Rates a kind and gain, in percent with their intervals."""
        lines: list[dict[str, Any]] = []
        for row in self.rates.to_dict("records"):
            of = int(row["targets"])
            line: dict[str, Any] = {
                "targets": row["kind"],
                "true gain": row["true_gain"],
                "how many": of,
                f"surface {score_unit(self.metric)}": row["surface"],
                "measured gain": row["gain"],
                "gain if known": row["known"],
            }
            for name, what in (("called structure", "structure"), ("interval above 0", "above_0")):
                line[name] = _percent(_rate(int(row[what]), of))
            for name, what in (("held aside", "aside"), ("resampled", "resampled")):
                line[f"covered, {name}"] = f"{row[f'covered_{what}'] / of:.1%}"
            lines.append(line)
        return {"Synthetic targets on these rows (rates with 95% intervals)": pd.DataFrame(lines)}


def detected(findings: Findings, calibration: Calibration) -> Findings:
    """The findings with the limit of detection that stands under their verdict.

    Raises:
        ValueError: The calibration is of other findings.
    """
    theirs = (calibration.model, calibration.table, calibration.point)
    ours = (findings.model, findings.table, findings.chosen_point)
    if theirs != ours:
        raise ValueError(f"this calibration is of {theirs}, these findings are of {ours}: calibrate these")
    gates = (findings.gates or Gates()) | calibration.gates
    swept = findings.swept
    return replace(
        findings,
        limit_of_detection=calibration.limit_of_detection,
        largest_gain_tried=calibration.largest_tried,
        verdict=gates.through(findings.verdict),
        split_verdict=None if findings.split_verdict is None else gates.through(findings.split_verdict),
        gates=gates,
        swept=None if swept is None else replace(swept, gates=gates),
    )


def put_under(findings: Findings, calibration: Calibration) -> None:
    """Let the limit of detection stand under the verdict of these very findings, from now on."""
    calibrated = detected(findings, calibration)
    for name in ("limit_of_detection", "largest_gain_tried", "verdict", "split_verdict", "gates", "swept"):
        object.__setattr__(findings, name, getattr(calibrated, name))


def tally(targets: pd.DataFrame) -> pd.DataFrame:
    """The `rates` of a `Calibration` from its `targets`."""
    marked = targets.assign(above_0=targets["low"] > 0, structure=targets["words"] == STRUCTURE, targets=1)
    counts = ["targets", "above_0", "structure", "covered_aside", "covered_resampled"]
    groups = marked.groupby(["kind", "true_gain"], sort=False)
    out = groups[counts].sum().astype(int).join(groups[["surface", "gain", "known"]].mean())
    order = {kind: i for i, kind in enumerate(KINDS)}
    return out.reset_index().sort_values(
        ["kind", "true_gain"], key=lambda c: c.map(order) if c.name == "kind" else c, ignore_index=True
    )


def _rate(count: int, of: int) -> tuple[float, float, float]:
    """A share of targets with its 95% interval."""
    return count / of, *wilson(count, of)


def _percent(rate: tuple[float, float, float]) -> str:
    return f"{rate[0]:.1%} [{rate[1]:.1%}, {rate[2]:.1%}]"


def _short(gain: float) -> str:
    return f"{gain:z.3f}".replace("0.", ".", 1)


# Figures ---------------------------------------------------------------------------------------------
def detection_figure(hidden: pd.DataFrame, gain: float | None, limit: float | None) -> Figure:
    """How often a hidden part is found, by its true gain, with 95% intervals.

    Args:
        hidden: as `Calibration.hidden`.
        gain: the true gain at which the findings' own gain is measured, marked; None outside the curve.
        limit: the true gain at the limit of detection, marked; None where there is none.
    """
    need_columns(hidden, "true_gain", "targets", "above_0", "structure")
    gains = hidden["true_gain"].to_numpy(np.float64)
    positive = gains[gains > 0]
    least = float(positive.min()) if len(positive) else 0.001
    x = np.where(gains > 0, gains, least / 2)  # gain 0 stands left of a logarithmic axis
    fig = new_figure()
    for what, name, colour in (
        ("above_0", "interval above 0", SURFACE_COLOUR),
        ("structure", "called structure", INK),
    ):
        rate, bars = _with_bars(hidden, what, colour)
        texts: dict[str, Any] = {"customdata": gains, "hover": "%{customdata:.3f}: %{y:.1%}<extra></extra>"}
        fig.add_trace(line_trace(x, rate, name, colour, 2, size=8, error_y=bars, **texts))
    ticks = [least / 2, *positive.tolist()]
    low, high = np.log10(min(ticks)) - 0.08, np.log10(max(ticks)) + 0.08
    middle = 10 ** float((low + high) / 2)
    written = ["0", *(_short(g) for g in positive)]
    across = log_axis(ticks, "true gain (share of the target's variance, R²)", written, range=[low, high])
    up = {"title_text": "share of synthetic targets", "range": [-0.02, 1.02], "tickformat": ".0%"}
    style(fig, height=400, x=across, y=up)
    level(fig, y=0.8, colour=FAINT)
    if gain is not None and gain >= least:
        named_place(fig, gain, "where these findings' gain is measured", ACCENT, 0.95, middle)
    if limit is not None:
        named_place(fig, limit, "limit of detection", MUTED, 0.87, middle)
    return fig


def rates_figure(rates: pd.DataFrame) -> Figure:
    """False findings on targets that hold nothing, and coverage of the interval, with 95% intervals."""
    need_columns(rates, "kind", "targets", "above_0", "structure", "covered_aside", "covered_resampled")
    sides = (
        (
            "false findings",
            rates[rates["true_gain"] == 0],
            (("structure", "called structure", INK), ("above_0", "interval above 0", SURFACE_COLOUR)),
        ),
        (
            "coverage of the 95% interval",
            rates,
            (
                ("covered_aside", "rows held aside", INK),
                ("covered_resampled", "rows resampled", SURFACE_COLOUR),
            ),
        ),
    )
    fig, cells = panels([title for title, _, _ in sides], shared_yaxes=True)
    kinds = [str(kind) for kind in rates["kind"].drop_duplicates()]
    for cell, (_, rows, marks) in zip(cells, sides, strict=True):
        grouped = rows.groupby("kind", sort=False)[["targets", *(m[0] for m in marks)]].sum()
        places = np.array([kinds.index(str(kind)) for kind in grouped.index])
        for (what, name, colour), shift in zip(marks, (-0.1, 0.1), strict=True):
            rate, bars = _with_bars(grouped, what, colour)
            texts: dict[str, Any] = {"customdata": rate, "hover": "%{x:.1%}"}
            texts["line"] = {"color": colour, "width": 2}
            fig.add_trace(dots_trace(rate, places + shift, name, colour, 8, error_x=bars, **texts), **cell)
    up = {"tickvals": list(range(len(kinds))), "ticktext": kinds, "range": [len(kinds) - 0.5, -0.5]}
    across = {"tickformat": ".0%", "title_text": "share of targets"}
    style(fig, height=300, x=across, y=up, legend_y=1.12, margin_t=60)
    for cell, nominal in zip(cells, (0.05, 0.95), strict=True):
        level(fig, x=nominal, colour=FAINT, width=2, **cell)
    fig.update_xaxes(rangemode="tozero", row=1, col=1)
    return fig


def measured_figure(targets: pd.DataFrame, gain: float, metric: str = "r2") -> Figure:
    """Measured gains of the synthetic targets, a box per true gain, with what a perfect reader would measure.

    `gain`, the findings' own, is a dashed line. In bits a perfect reader's gain is the mean of `known`.
    """
    need_columns(targets, "kind", "true_gain", "gain")
    unit = score_unit(metric)
    rows = targets.sort_values("true_gain", kind="stable")
    names = [
        str(kind) if true == 0 else _short(float(true))
        for kind, true in zip(rows["kind"], rows["true_gain"], strict=True)
    ]
    own = rows["true_gain"]
    if metric == "bits":
        own = rows.groupby("true_gain")["known"].transform("mean").where(own > 0, 0.0)
    truth: dict[str, float] = {}
    for name, true in zip(names, own, strict=True):
        truth.setdefault(name, true)
    box = {"boxpoints": False, "line": {"color": INK, "width": 1.2}, "fillcolor": "white"}
    bar = {"symbol": "line-ew", "line": {"color": SURFACE_COLOUR, "width": 3}}
    fig = new_figure(
        {"type": "box", "x": names, "y": rows["gain"], "name": "measured", "hoverinfo": "y", **box}
    )
    fig.add_trace(dots_trace([*truth], [*truth.values()], "true gain", None, 26, look=bar))
    of = "R²" if metric == "r2" else "share of the variance"
    across = {"title_text": f"true gain of the synthetic targets ({of})", "type": "category"}
    style(fig, height=380, x=across, y=f"measured gain ({unit})")
    named_level(fig, gain, f"measured here {_short(gain)}", ACCENT)
    return fig


def _with_bars(counts: pd.DataFrame, what: str, colour: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Rates of a column of counts, and Wilson's intervals as bars."""
    pairs = zip(counts[what], counts["targets"], strict=True)
    rate, low, high = np.array([_rate(int(count), int(of)) for count, of in pairs]).T
    return rate, error_bars(rate, low, high, colour, 1.2, 3)
