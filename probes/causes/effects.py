"""Effects of interventions beside their controls: ranks, p-values, and the rows of their tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.hooks.messages import NotApplicable
from graticule.probes.scores.significance import holm, share_reaching

LEVEL = 0.05
"""Of the adjusted p-values."""
NEGLIGIBLE = 1e-6
"""Effects below this (in log-odds, nats or standard deviations) are rounding."""


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
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (n_bootstrap, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


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
) -> dict[str, Any]:
    """One row of `effects`, not yet adjusted."""
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
    """`effects` with Holm's adjusted p-values over its tested rows.

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
    ) -> None:
        """Note an outcome of an intervention (the first of `values`) and of its named controls."""
        means = values.mean(axis=1)
        self.effects.append(
            effect_line(
                intervention=intervention, outcome=outcome, unit=unit, tested=True, effect=float(means[0]),
                interval=row_interval(values[0], self.seed), controls=means[1:], norm=norm,
            )
        )  # fmt: skip
        self.controls += [
            {"intervention": intervention, "outcome": outcome, "kind": "control", "direction": name,
             "effect": float(mean)}
            for name, mean in zip(controls, means[1:], strict=True)
        ]  # fmt: skip
