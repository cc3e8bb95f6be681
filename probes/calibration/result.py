"""`Calibration`: how often the instrument is wrong, and the smallest gain it sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from graticule.hooks.messages import UnknownNameError
from graticule.hooks.saved import SavedResult
from graticule.probes.calibration.rates import monotone
from graticule.probes.findings import Findings
from graticule.probes.findings_words import limit_words
from graticule.probes.scores.bootstrap import wilson
from graticule.probes.scores.in_words import FEW, signed
from graticule.probes.scores.verdict import STRUCTURE

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

NOISE, SURFACE, HIDDEN = "noise", "surface only", "hidden"
KINDS = (NOISE, SURFACE, HIDDEN)


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
    """R² of the findings' stacked baselines on test rows: surface-only targets are made to match it."""
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
    """A line a kind and true gain: `kind`, `true_gain`, `targets`, counts `above_0`, `structure`,
    `covered_aside` and `covered_resampled`, and means `surface`, `gain` and `known` (the gain, were the
    hidden part known)."""
    targets: pd.DataFrame
    """A line a synthetic target: `kind`, `number`, `true_gain`, `known`, `surface`, `gain`, `low`, `high`,
    `words`, `covered_aside`, `covered_resampled`."""
    surface_share: float
    """Share of a surface-only target's variance that its n-grams decide."""
    smooth: int
    """How often the n-gram functions were smoothed to be as easy as the real target."""
    provenance: Mapping[str, Any]
    """Settings, seed, the findings' own provenance and versions."""

    @property
    def title(self) -> str:
        """Model, table and point."""
        return f"Calibration: {self.model} on {self.table}, {self.point}"

    @property
    def limit_in_words(self) -> str:
        """What would have been seen 80% of the time, as under a verdict."""
        return limit_words(self.limit_of_detection, self.largest_tried, self.at_most)

    @property
    def largest_tried(self) -> float:
        """The largest hidden part tried, as a share of the target's variance."""
        return float(self.targets["true_gain"].max())

    def rate(self, kind: str, what: str = "structure", true_gain: float = 0.0) -> tuple[float, float, float]:
        """A rate with its 95% interval (Wilson). `what`: `structure`, `above_0`, `covered_aside` or
        `covered_resampled`.

        **Raises** `KeyError` if no such targets were tried.
        """
        lines = self.rates[(self.rates["kind"] == kind) & np.isclose(self.rates["true_gain"], true_gain)]
        if lines.empty:
            raise UnknownNameError(f"no {kind!r} targets of true gain {true_gain:g}; see rates")
        found, of = int(lines[what].iloc[0]), int(lines["targets"].iloc[0])
        return found / of, *wilson(found, of)

    def coverage(self, how: str = "aside") -> tuple[float, float, float]:
        """Coverage of the gain's interval over all targets, `aside` or `resampled`, with its 95% interval.

        The targets share their rows, so that the interval is a little too narrow.
        """
        found, of = int(self.rates[f"covered_{how}"].sum()), int(self.rates["targets"].sum())
        return found / of, *wilson(found, of)

    def summary(self) -> str:
        """The limit of detection, then false findings and coverage."""
        lines = [f"gain {signed(self.gain, FEW)}; with these rows, at this layer, {self.limit_in_words}"]
        if not np.isnan(self.limit_true):
            most = "at most " if self.at_most else ""
            lines.append(
                f"that is what ridge learns here of a hidden part of {most}{_short(self.limit_true)} of the "
                "target's variance"
            )
        for kind in (NOISE, SURFACE):
            called, above = self.rate(kind), self.rate(kind, "above_0")
            lines.append(
                f"{kind} targets called structure: {_percent(called)}; interval above 0: {_percent(above)}"
            )
        lines.append(
            f"the 95% interval holds the fitted predictors' own gain: {_percent(self.coverage())} "
            f"(rows held aside), {_percent(self.coverage('resampled'))} (rows resampled)"
        )
        words = self.limit_by_words
        share = f"from {_short(words)} of the variance in 80% of targets"
        called = "never in 80% of targets" if np.isnan(words) else share
        lines.append(f"a hidden part is called structure (a gain of {self.min_gain:g} or more) {called}")
        return "\n".join(lines)

    def figures(self) -> dict[str, Figure]:
        """False findings and coverage, the detection curve, measured against true gains."""
        from graticule.probes.plots.calibration import detection_figure, measured_figure, rates_figure

        limit = None if np.isnan(self.limit_true) else self.limit_true
        return {
            "How often a hidden part of known size is found, by the true gain": detection_figure(
                self.hidden, self.equivalent(self.gain), limit
            ),
            "False findings, and how often the 95% interval holds the gain": rates_figure(self.rates),
            "Measured against true gain": measured_figure(self.targets, self.gain),
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
        return self.rates[self.rates["kind"] != NOISE].sort_values("true_gain").reset_index(drop=True)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Rates a kind and gain, in percent with their intervals."""
        lines: list[dict[str, Any]] = []
        for row in self.rates.to_dict("records"):
            of = int(row["targets"])
            shown: dict[str, Any] = {
                "targets": row["kind"],
                "true gain": row["true_gain"],
                "how many": of,
                "surface R²": row["surface"],
                "measured gain": row["gain"],
                "gain if known": row["known"],
            }
            for name, what in (("called structure", "structure"), ("interval above 0", "above_0")):
                found = int(row[what])
                shown[name] = _percent((found / of, *wilson(found, of)))
            for name, what in (("held aside", "aside"), ("resampled", "resampled")):
                shown[f"covered, {name}"] = f"{row[f'covered_{what}'] / of:.1%}"
            lines.append(shown)
        return {"Synthetic targets on these rows (rates with 95% intervals)": pd.DataFrame(lines)}


def detected(findings: Findings, calibration: Calibration) -> Findings:
    """The findings with the limit of detection that stands under their verdict.

    **Raises** `ValueError` if the calibration is of other findings.
    """
    theirs = (calibration.model, calibration.table, calibration.point)
    ours = (findings.model, findings.table, findings.chosen_point)
    if theirs != ours:
        raise ValueError(f"this calibration is of {theirs}, these findings are of {ours}: calibrate these")
    return replace(
        findings,
        limit_of_detection=calibration.limit_of_detection,
        largest_gain_tried=calibration.largest_tried,
    )


def put_under(findings: Findings, calibration: Calibration) -> None:
    """Let the limit of detection stand under the verdict of these very findings, from now on.

    Args:
        findings: those that were calibrated.
        calibration: theirs.
    """
    made = detected(findings, calibration)
    for name in ("limit_of_detection", "largest_gain_tried"):
        object.__setattr__(findings, name, getattr(made, name))


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


def _short(gain: float) -> str:
    return f"{gain:.3f}".replace("0.", ".", 1)


def _percent(rate: tuple[float, float, float]) -> str:
    return f"{rate[0]:.1%} [{rate[1]:.1%}, {rate[2]:.1%}]"
