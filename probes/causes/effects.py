"""Effects beside their controls: the lines, the correction, the sentences and the figures they share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.probes.applicable import NotApplicable
from graticule.probes.causes.controls import detection_limit, rank_p
from graticule.probes.scores.multiplicity import holm

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

LEVEL = 0.05
"""Of the adjusted p-values."""
_EFFECTS = "What the interventions change, beside matched controls"


class EffectTables:
    """For results with `effects`, `controls` and `doses`.

    `effects` has a line an intervention and outcome: `effect` (mean over rows), `low`, `high` (95%, rows
    resampled), `limit` (detection limit: the 97.5% quantile of the controls' sizes), `n_controls`,
    `norm` (of the displacement, per standard deviation for steering), `sensitivity` (Spearman correlation of
    the outcome with the truth in the model as it is) with `sensitivity_p`, `p` (rank among the controls),
    `p_holm` (over the lines with `tested`; NaN elsewhere).
    """

    effects: pd.DataFrame
    controls: pd.DataFrame
    doses: pd.DataFrame

    def effect_lines(self) -> list[str]:
        """A sentence an outcome that is tested, the strongest first."""
        tested = self.effects[self.effects["tested"]].sort_values("p", kind="stable")
        return [_sentence({str(k): v for k, v in line.items()}) for line in tested.to_dict("records")]

    def effect_figures(self) -> dict[str, Figure]:
        """Dose-response and histogram of every tested outcome."""
        from graticule.probes.plots.causes import control_figure, dose_figure

        out: dict[str, Figure] = {}
        for line in self.effects[self.effects["tested"]].to_dict("records"):
            name, outcome = str(line["intervention"]), str(line["outcome"])
            doses = _of(self.doses, name, outcome)
            held = _of(self.controls, name, outcome)
            among = held[held["kind"] == "control"]["effect"].to_numpy(dtype=float)
            unit = str(line["unit"])
            if len(doses):
                out[f"Dose-response, {name}: {outcome}"] = dose_figure(doses, unit.removesuffix(" per sd"))
            if len(among):
                out[f"{name[:1].upper()}{name[1:]} among its controls: {outcome}"] = control_figure(
                    among, float(line["effect"]), float(line["limit"]), name, unit
                )
        return out

    def effect_tables(self) -> dict[str, pd.DataFrame]:
        """The effects, for people."""
        named = {
            "p_holm": "p (Holm)",
            "limit": "detection limit",
            "n_controls": "controls",
            "low": "2.5%",
            "high": "97.5%",
            "sensitivity": "follows the truth (Spearman)",
        }
        shown = self.effects.drop(columns=["sensitivity_p"])
        return {_EFFECTS: shown.rename(columns=named)}


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
) -> dict[str, Any]:
    """One line of `effects`, not yet adjusted."""
    return {
        "intervention": intervention,
        "outcome": outcome,
        "effect": effect,
        "low": interval[0],
        "high": interval[1],
        "unit": unit,
        "limit": detection_limit(controls),
        "n_controls": len(controls),
        "norm": norm,
        "sensitivity": sensitivity[0],
        "sensitivity_p": sensitivity[1],
        "tested": tested,
        "p": rank_p(effect, controls),
    }


def adjusted(effects: pd.DataFrame) -> pd.DataFrame:
    """`effects` with Holm's adjusted p-values over its tested lines.

    Raises:
        NotApplicable: there is no outcome at all.
    """
    if not len(effects):
        raise NotApplicable(
            "nothing to measure: the table has no stated answers and no probe reads behind this point; give "
            "outcomes=[Outcome(…)], or an earlier point="
        )
    out = effects.copy()
    tested = out["tested"].to_numpy(dtype=bool)
    out["p_holm"] = holm(np.where(tested, out["p"].to_numpy(dtype=float), np.nan))
    return out


def _of(table: pd.DataFrame, intervention: str, outcome: str) -> pd.DataFrame:
    if not len(table):
        return table
    return table[(table["intervention"] == intervention) & (table["outcome"] == outcome)]


def _sentence(line: dict[str, Any]) -> str:
    seen = "within its controls"
    if line["p"] < LEVEL:
        seen = "beyond its controls" if line["p_holm"] < LEVEL else "beyond its controls, but not after Holm"
    return (
        f"{line['intervention']}, {line['outcome']}: {line['effect']:+.3g} [{line['low']:+.3g}, "
        f"{line['high']:+.3g}] {line['unit']}, {seen} (up to ±{line['limit']:.3g}; p {line['p']:.3f}, "
        f"Holm {line['p_holm']:.3f}, {line['n_controls']} controls)"
    )
