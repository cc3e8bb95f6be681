"""What steering, ablating and erasing inside a model share: effects ranked among controls, and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.hooks.messages import NotApplicable
from graticule.hooks.saved import SavedResult
from graticule.probes.causes.outcomes import Outcome
from graticule.probes.core.resample import resampled_interval
from graticule.probes.plots.primitives import (
    band_traces,
    edges_over,
    histogram_trace,
    legend_line,
    level,
    line_trace,
    new_figure,
)
from graticule.probes.plots.style import ACCENT, BLOCKS, FAINT, MUTED, SURFACE, need_columns, plain, style
from graticule.probes.scores.significance import holm, share_reaching

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


LEVEL = 0.05
"""Of the adjusted p-values."""
NEGLIGIBLE = 1e-6
"""Effects below this (in log-odds, nats or standard deviations) are rounding."""
N_SWEPT = 9
"""Control neurons whose whole pin sweep is kept for the figure, as many as in the paper."""
_EFFECTS = "What the interventions change, beside matched controls"


@dataclass(frozen=True)
class InterventionResult(SavedResult):
    """What steering, ablating and erasing inside a model have in common.

    `effects` has one row per intervention and outcome: `effect` (mean over rows), `low`, `high` (95%, rows
    resampled), `limit` (detection limit: the 97.5% quantile of the controls' sizes), `n_controls`,
    `norm` (of the displacement, per standard deviation for steering), `alone` (the effect where nothing but
    the read direction's own line is moved, as far as it reads), `followed` (of `causes`, for what lies beyond
    its controls: the share of the reading on the lines that the outcome follows), `sensitivity` (Spearman
    correlation of the outcome with the truth in the model as it is) with `sensitivity_p`, `p` (rank among the
    controls), `p_holm` (over the rows with `tested`; NaN elsewhere).
    """

    model: str
    """The model's name."""
    table: str
    """The table's name."""
    span: str
    """Which tokens were edited."""
    rows: int
    """Test rows whose prompts were run."""
    effects: pd.DataFrame
    """One row per intervention and outcome; see above."""
    controls: pd.DataFrame
    """One row per control and outcome: `intervention`, `outcome`, `kind`, `direction`, `effect`."""
    doses: pd.DataFrame
    """Dose-response of steering: `intervention`, `outcome`, `kind`, `direction`, `scale`, `value`; empty
    without any."""
    outcomes: tuple[Outcome, ...]
    """As stated beforehand."""
    provenance: Mapping[str, Any]
    """Model, table, settings and versions."""

    def asked(self) -> dict[str, Any]:
        """Which interventions were made."""
        return {"interventions": list(map(str, pd.unique(self.effects["intervention"])))}

    def effect_lines(self) -> list[str]:
        """One sentence per tested outcome, the strongest first."""
        tested = self.effects[self.effects["tested"]].sort_values("p", kind="stable")
        return [_sentence({str(k): v for k, v in line.items()}) for line in tested.to_dict("records")]

    def summary(self) -> str:
        """Every outcome with what its controls reach, the strongest first."""
        return "\n".join(self.effect_lines())

    def figures(self) -> dict[str, Figure]:
        """Dose-response and control effects, outcome by outcome."""
        out: dict[str, Figure] = {}
        for line in self.effects[self.effects["tested"]].to_dict("records"):
            name, outcome = str(line["intervention"]), str(line["outcome"])
            doses = _of(self.doses, name, outcome)
            controls = _of(self.controls, name, outcome)
            among = controls[controls["kind"] == "control"]["effect"].to_numpy(dtype=float)
            unit = str(line["unit"])
            if len(doses):
                out[f"Dose-response, {name}: {outcome}"] = _dose_figure(doses, unit.removesuffix(" per sd"))
            if len(among):
                out[f"{name[:1].upper()}{name[1:]} among its controls: {outcome}"] = control_figure(
                    among, float(line["effect"]), float(line["limit"]), name, unit
                )
        return out

    def tables(self) -> dict[str, pd.DataFrame]:
        """Effects."""
        headings = {
            "p_holm": "p (Holm)",
            "limit": "detection limit",
            "n_controls": "controls",
            "alone": "its own line alone",
            "followed": "share of the reading on what is followed",
            "low": "2.5%",
            "high": "97.5%",
            "sensitivity": "follows the truth (Spearman)",
        }
        return {_EFFECTS: self.effects.drop(columns=["sensitivity_p"]).rename(columns=headings)}


def _of(table: pd.DataFrame, intervention: str, outcome: str) -> pd.DataFrame:
    if not len(table):
        return table
    return table[(table["intervention"] == intervention) & (table["outcome"] == outcome)]


def _sentence(line: dict[str, Any]) -> str:
    place = "within its controls"
    if line["p"] < LEVEL:
        place = "beyond its controls" if line["p_holm"] < LEVEL else "beyond its controls, but not after Holm"
    followed = line.get("followed", float("nan"))
    of_it = "" if followed != followed else f"; {followed:.0%} of the reading is on what this follows"
    return (
        f"{line['intervention']}, {line['outcome']}: {line['effect']:+.3g} [{line['low']:+.3g}, "
        f"{line['high']:+.3g}] {line['unit']}, {place} (up to ±{line['limit']:.3g}; p {line['p']:z.3f}, "
        f"Holm {line['p_holm']:z.3f}, {line['n_controls']} controls){of_it}"
    )


# Ranks among controls ----------------------------------------------------------------------------------
def rank_p(effect: float, controls: Float[np.ndarray, " control"]) -> float:
    """Two-sided p of an effect by its rank among the controls' sizes: (1 + #{|c| ≥ |e|}) / (1 + n); 1 for an
    effect that is rounding."""
    if abs(effect) < NEGLIGIBLE:
        return 1.0
    return float(share_reaching(np.abs(controls), abs(effect)))


def needed(controls: int, tests: int, level: float = 0.05) -> int:
    """`controls`, or as many as one of `tests` outcomes needs to reach `level` after Holm's correction."""
    return max(controls, int(np.ceil(tests / level)))


def detection_limit(controls: Float[np.ndarray, " control"]) -> float:
    """The smallest effect that these controls could have shown: the 97.5% quantile of their sizes."""
    return float(np.quantile(np.abs(controls), 0.975)) if len(controls) else float("nan")


def row_interval(
    values: Float[np.ndarray, " row"], seed: int, n_bootstrap: int = 2000
) -> tuple[float, float]:
    """95% percentile interval of the mean, rows resampled."""
    return resampled_interval(lambda weights: weights @ values / len(values), len(values), n_bootstrap, seed)


# Rows --------------------------------------------------------------------------------------------------
def effect_line(
    *,
    intervention: str,
    outcome: str,
    unit: str,
    tested: bool,
    effect: float,
    interval: tuple[float, float],
    controls: Float[np.ndarray, " control"],
    norm: float,
    sensitivity: tuple[float, float] = (float("nan"), float("nan")),
    alike: Float[np.ndarray, " control"] | None = None,
    alone: float = float("nan"),
) -> dict[str, Any]:
    """One row of `effects`, not yet adjusted: beyond its controls is what is beyond those `alike`, too."""
    families = [controls] if alike is None else [controls, alike]
    return {
        "intervention": intervention,
        "outcome": outcome,
        "effect": effect,
        "low": interval[0],
        "high": interval[1],
        "unit": unit,
        "limit": max(map(detection_limit, families)),
        "alone": alone,
        "n_controls": len(controls),
        "norm": norm,
        "sensitivity": sensitivity[0],
        "sensitivity_p": sensitivity[1],
        "tested": tested,
        "p": max(rank_p(effect, family) for family in families),
    }


def adjusted(effects: pd.DataFrame) -> pd.DataFrame:
    """`effects` with Holm's adjusted p-values over its tested rows.

    Raises:
        NotApplicable: there is no outcome at all.
    """
    if not len(effects):
        raise NotApplicable(
            "nothing to measure: the table has no stated answers and no probe reads behind this point; give "
            "outcomes=[Outcome(…)], or an earlier hook_name="
        )
    out = effects.copy()
    tested = out["tested"].to_numpy(dtype=bool)
    out["p_holm"] = holm(np.where(tested, out["p"].to_numpy(dtype=float), np.nan))
    return out


class EffectRows:
    """Rows of a result's tables, collected while interventions run."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.effects: list[dict[str, Any]] = []
        self.controls: list[dict[str, Any]] = []
        self.doses: list[dict[str, Any]] = []
        self.pins: list[dict[str, Any]] = []

    def add(
        self,
        intervention: str,
        outcome: str,
        unit: str,
        values: Float[np.ndarray, "version row"],
        controls: Sequence[str],
        norm: float,
        alone: float = float("nan"),
    ) -> None:
        """Note an outcome of an intervention (the first of `values`) and of its named controls; `alone` is
        what its own line does by itself."""
        means = values.mean(axis=1)
        self.effects.append(
            effect_line(
                intervention=intervention, outcome=outcome, unit=unit, tested=True, effect=float(means[0]),
                interval=row_interval(values[0], self.seed), controls=means[1:], norm=norm, alone=alone,
            )
        )  # fmt: skip
        self.controls += [
            {"intervention": intervention, "outcome": outcome, "kind": "control", "direction": name,
             "effect": float(mean)}
            for name, mean in zip(controls, means[1:], strict=True)
        ]  # fmt: skip


# Figures ---------------------------------------------------------------------------------------------
def _dose_figure(doses: pd.DataFrame, unit: str) -> Figure:
    """Effect against dose: the probe's direction over a band of its controls (5th to 95th percentile)."""
    need_columns(doses, "kind", "direction", "scale", "value")
    fig = new_figure()
    controls: Any = doses[doses["kind"] == "control"].groupby("scale")["value"]
    band = controls.quantile([0.05, 0.5, 0.95]).unstack()
    if len(band):
        band.loc[0.0] = 0.0
        band = band.sort_index()
        x = band.index.to_numpy(dtype=float)
        name = "matched controls, 5 to 95%"
        fig.add_traces(band_traces(x, band[0.05], band[0.95], name, "rgba(92,107,122,0.18)"))
        fig.add_trace(line_trace(x, band[0.5], "matched controls, median", MUTED, 1.5, dash="dot"))
    for kind, width, marker in (
        ("other", 1.5, {"size": 6}),
        ("probe", 2.5, {"size": 8, "symbol": "diamond"}),
    ):
        for k, (name, rows) in enumerate(doses[doses["kind"] == kind].groupby("direction", sort=False)):
            rows = rows.sort_values("scale")
            colour = ACCENT if kind == "probe" else BLOCKS[k % len(BLOCKS)]
            fig.add_trace(
                line_trace(rows["scale"], rows["value"], str(name), colour, width, size=6, marker=marker)
            )
    zero = {"zeroline": True, "zerolinecolor": FAINT}
    across = {"title_text": "dose (standard deviations of the probe's reading)", **zero}
    up = {"title_text": f"change in {unit}", **zero}
    return style(fig, height=400, aspect=0.5, extra=90, x=across, y=up)


def control_figure(controls: np.ndarray, effect: float, limit: float, name: str, unit: str) -> Figure:
    """Histogram of control effects, the probe's own marked, and the detection limit on either side."""
    edges, all_of_them = edges_over(controls, 30), f"{len(controls)} matched controls"
    fig = new_figure(histogram_trace(controls, edges, all_of_them, FAINT, outline=1))
    level(fig, x=effect, colour=ACCENT, width=3, dash=None)
    signed = bool((controls < 0).any())
    for edge in (-limit, limit) if signed else (limit,):
        level(fig, x=edge, colour=SURFACE, width=1.5, dash="dash")
    fig.add_trace(legend_line(f"{name}: {effect:+.3g}", ACCENT, 3))
    fig.add_trace(legend_line(f"97.5% of the controls' sizes: {limit:.3g}", SURFACE, 1.5, "dash"))
    marks = np.concatenate([controls, [effect, limit], [-limit] if signed else []])
    pad = 0.04 * float(np.ptp(marks))
    limits = [float(marks.min()) - pad, float(marks.max()) + pad] if pad > 0 else None
    across = {"title_text": unit, "zeroline": signed, "zerolinecolor": FAINT, "range": limits}
    return style(fig, height=320, aspect=0.36, extra=90, x=across, y="controls", bargap=0.02)


def pin_figures(pins: pd.DataFrame) -> dict[str, Figure]:
    """Caption → pin sweep, one figure per neuron asked for and outcome."""
    return {
        f"Neuron {asked} pinned, beside {N_SWEPT} neurons that write as much: {outcome}": _pin_figure(rows)
        for (asked, outcome), rows in (pins.groupby(["asked", "outcome"], sort=False) if len(pins) else ())
    }


def _pin_figure(pins: pd.DataFrame) -> Figure:
    """Change in log-odds by pinning a neuron to a value, the neuron asked for over its control neurons."""
    need_columns(pins, "kind", "neuron", "value", "effect")
    fig = new_figure()
    for kind, colour, width in (("control", FAINT, 1.0), ("neuron", ACCENT, 2.5)):
        own = kind == "neuron"
        for k, (name, rows) in enumerate(pins[pins["kind"] == kind].groupby("neuron", sort=False)):
            rows, label = rows.sort_values("value"), str(name) if own else "control neurons"
            hover = f"{plain(name)} at %{{x:.2g}} sd: %{{y:.3f}}<extra></extra>"
            group = {"legendgroup": str(name) if own else "control", "showlegend": own or k == 0}
            more: dict[str, Any] = {"size": 6 if own else None, "hover": hover, **group}
            fig.add_trace(line_trace(rows["value"], rows["effect"], label, colour, width, **more))
    across = "pinned activation (standard deviations from the neuron's mean)"
    up = {"title_text": "change in log-odds", "zeroline": True, "zerolinecolor": FAINT}
    return style(fig, height=380, aspect=0.48, extra=90, x=across, y=up)
