"""The probe as a monitor: alarms at a rate of false ones that training rows set, and what they catch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.hooks.doors import FINDINGS, door
from graticule.hooks.messages import NotApplicable
from graticule.hooks.rows import PointKey
from graticule.hooks.saved import SavedResult
from graticule.probes.beyond.reliability import reliability, reliability_figure
from graticule.probes.core.bits import ClassOdds, class_odds
from graticule.probes.core.class_lines import class_names
from graticule.probes.core.class_scores import ClassScores, class_scores_of, share_interval
from graticule.probes.core.findings import Findings
from graticule.probes.core.findings_figures import rows_tested

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_CAPTION = "Alarms: thresholds chosen on training rows out of fold, applied to test rows"
_CAPTION_RELIABILITY = "Probability against what came true"
PROBE, SURFACE, BOTH = "probe", "stacked baselines", "baselines and probe"


@dataclass(frozen=True)
class Monitor(SavedResult):
    """The result of `graticule.monitor`."""

    KIND: ClassVar[str] = "monitor"

    model: str
    """The model's name."""
    table: str
    """The table's name."""
    target: str
    """What is watched for."""
    positive: str
    """The class that raises the alarm."""
    point: str
    """Where the probe reads."""
    alarms: pd.DataFrame
    """One row per rate asked for: `asked` (false-positive rate), `threshold` (probability of `positive`; NaN
    where training rows are too few to choose one), `recall`, `false_positives` (share of the other class) and
    `precision` on test rows, the first two with `_low` and `_high` (95%, over clusters)."""
    scores: Mapping[str, ClassScores]
    """The probe's AUROC, accuracy and Brier score on test rows: one entry, `probe`."""
    reliability: pd.DataFrame
    """`arm`, `low`, `high`, `rows`, `confidence`, `frequency` of every bin of probabilities on test rows."""
    provenance: Mapping[str, Any]
    """Model, table, settings and versions."""
    tested: str = "test rows"
    """Which rows all of it is of, in words."""

    @property
    def title(self) -> str:
        """Model, table and class."""
        return f"{self.model} on {self.table}: alarms for {self.positive}"

    def summary(self) -> str:
        """What is caught at each rate, and how far probabilities can be believed."""
        scores = self.scores[PROBE]
        rows: list[Any] = list(self.alarms.itertuples())
        lines = [self._line(row) for row in sorted(rows, key=lambda row: row.threshold != row.threshold)]
        lines.append(
            f"probabilities of {self.positive!r}: Brier score {scores.brier:z.4f}, Brier skill "
            f"{scores.brier_skill:z.3f}, AUROC {scores.auroc:z.3f}; {scores.prevalence:.1%} of {self.tested} "
            f"are {self.positive!r}"
        )
        lines.append(f"at {self.point}; thresholds from out-of-fold probabilities of training rows")
        return "\n".join(lines)

    def _line(self, row: Any) -> str:
        if row.threshold != row.threshold:
            return (
                f"false-positive rate {row.asked:g}: no threshold, which takes {1 / row.asked:.0f} training "
                "rows of the other class, and there are fewer"
            )
        ends = f"[{row.recall_low:z.3f}, {row.recall_high:z.3f}]"
        false = (
            f"{row.false_positives:z.3f} [{row.false_positives_low:z.3f}, {row.false_positives_high:z.3f}]"
        )
        return (
            f"false-positive rate {row.asked:g}: catches {row.recall:z.3f} {ends} of {self.positive!r} above "
            f"a probability of {row.threshold:z.3f}; on test rows it raises false alarms at {false}"
        )

    def figures(self) -> dict[str, Figure]:
        """Probability against what came true."""
        caption = f"{_CAPTION_RELIABILITY}, {self.tested}"
        return {caption: reliability_figure(self.reliability, self.positive)}

    def tables(self) -> dict[str, pd.DataFrame]:
        """Alarms, a rate each."""
        out = pd.DataFrame({"false-positive rate asked for": self.alarms["asked"]})
        out["threshold"] = self.alarms["threshold"]
        for key, name in (("recall", "recall"), ("false_positives", "false-positive rate, test")):
            ends = zip(self.alarms[f"{key}_low"], self.alarms[f"{key}_high"], strict=True)
            out[name] = self.alarms[key]
            out[f"{name}, 95%"] = ["" if low != low else f"{low:z.3f} to {high:z.3f}" for low, high in ends]
        return {_CAPTION: out.assign(precision=self.alarms["precision"])}


@door(findings=FINDINGS)
def monitor(
    findings: Findings,
    *,
    false_positive_rates: float | Sequence[float] = (0.01, 0.05),
    hook_name: PointKey | None = None,
) -> Monitor:
    """What a yes-or-no probe catches as a monitor, at alarms that stay below a rate of false ones.

    The probe's scores become probabilities by a map fitted on out-of-fold scores of training rows. The
    threshold of a rate is the lowest at which no larger share of the training rows of the other class, each
    out of fold, is above it; on test rows it is applied as it is. No activations are needed.

    Args:
        findings: of a target of two classes; class 1 raises the alarm (`Table(…, positive=…)`).
        false_positive_rates: shares of the other class that may raise it.
        hook_name: where the probe reads; the chosen point by default.

    Returns:
        Recall and false alarms at each rate, the Brier score and the calibration curve.

    Raises:
        ValueError: A rate is not above 0 and below 1.
        NotApplicable: The target has not two classes.
    """
    given = false_positive_rates
    rates = [given] if isinstance(given, int | float) else given
    asked = list(dict.fromkeys(float(rate) for rate in rates))
    if not asked or not all(0 < rate < 1 for rate in asked):
        raise ValueError(
            f"false_positive_rates={false_positive_rates}: expected shares above 0 and below 1, (0.01, 0.05)"
        )
    if findings.kind != "binary":
        raise NotApplicable(
            f"{findings.table} has no target of two classes; monitor(...) is for yes-or-no: kind='binary'"
        )
    problem, where = findings.problem, findings.point_of(hook_name)
    predictions = findings.predictions_at(hook_name)
    odds = class_odds(problem, predictions, findings.baseline_predictions)
    y_train, y, clusters = problem.y[problem.train], problem.y[problem.test], problem.clusters[problem.test]
    lines = [_alarm(rate, odds, y_train[:, 0] > 0.5, y[:, 0] > 0.5, clusters) for rate in asked]
    named = {PROBE: odds.probe, SURFACE: odds.surface, BOTH: odds.full}
    bins = [reliability(y, p, 10).assign(arm=name) for name, p in named.items() if name != BOTH]
    return Monitor(
        model=findings.model,
        table=findings.table,
        target=findings.target_names[0],
        positive=str(class_names(findings)[1]),
        point=where,
        alarms=pd.DataFrame(lines),
        scores={PROBE: class_scores_of(odds, y_train, y, clusters)},
        reliability=pd.concat(bins, ignore_index=True),
        provenance=findings.provenance_of(point=where, false_positive_rates=tuple(asked)),
        tested=rows_tested(findings),
    )


def threshold_at(rate: float, negatives: Float[np.ndarray, " row"]) -> float:
    """The lowest threshold that no larger share of these scores than `rate` is above; NaN for too few."""
    allowed = int(np.floor(rate * len(negatives) + 1e-9))
    if allowed < 1:
        return float("nan")
    return float(np.sort(negatives)[-allowed - 1]) if allowed < len(negatives) else -np.inf


def _alarm(
    rate: float, odds: ClassOdds, was: np.ndarray, is_positive: np.ndarray, clusters: np.ndarray
) -> dict[str, float]:
    """One line of `Monitor.alarms`."""
    threshold = threshold_at(rate, odds.probe_train[~was, 0])
    line = {"asked": float(rate), "threshold": threshold}
    alarm = odds.probe[:, 0] > threshold
    for name, rows in (("recall", is_positive), ("false_positives", ~is_positive)):
        nothing = threshold != threshold or not rows.any()
        raised = alarm[rows].astype(np.float64)
        low, high = (float("nan"),) * 2 if nothing else share_interval(raised, clusters[rows])
        line |= {name: float("nan") if nothing else float(raised.mean())}
        line |= {f"{name}_low": low, f"{name}_high": high}
    right = float(is_positive[alarm].mean()) if alarm.any() else float("nan")
    return {**line, "precision": right if threshold == threshold else float("nan")}
