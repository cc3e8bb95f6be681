"""Does it carry? A probe and its baselines from one data set, scored on others that nothing was chosen on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.hooks.artifact import json_ready
from graticule.hooks.doors import FINDINGS, door
from graticule.hooks.forms import WrongKindError
from graticule.hooks.messages import bar, brief
from graticule.hooks.points import layer_text
from graticule.hooks.same_model import check_one_model
from graticule.hooks.saved import SavedResult
from graticule.probes.beyond.monitor import monitor
from graticule.probes.core.bits import calibrated
from graticule.probes.core.findings import Findings
from graticule.probes.core.fit import Predictions
from graticule.probes.core.sweep import sweep
from graticule.probes.core.verdict import NO_BETTER, NOT_DECIDED, STRUCTURE, Verdict
from graticule.probes.generalisation.joined import copies_of, in_classes_of, joined
from graticule.probes.plots.primitives import dots_trace, level, new_figure
from graticule.probes.plots.style import FAINT, INK, error_bars, short_labels, style
from graticule.probes.scores.metrics import count_of, with_interval

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

CARRIES = "carries"
NOT_SHOWN = "not shown to carry"
AS_MUCH = "not shown to carry: the other table's own surface reads as much"
NOT_BEYOND = "not shown to carry: that it adds to the other table's own surface is not shown"
LOST = "does not carry"
MIN_ROWS = 10
FALSE_ALARMS = 0.05
_CLASSIFIER = (
    *("auroc", "auroc_low", "auroc_high", "brier", "brier_before"),
    *("recall", "recall_low", "recall_high", "false_positives", "shift"),
)
_IN_UNIT = ("score", "surface", "gain", "own_gain", "full_gain")
_CAPTION = "Gain on each table over the surface carried along, and over the table's own"
_CAPTION_ROWS = "Every table that was scored"


@dataclass(frozen=True)
class Carried(SavedResult):
    """The result of `judge_on`."""

    KIND: ClassVar[str] = "carried"

    model: str
    """The model's name."""
    table: str
    """What was learned from."""
    point: str
    """The hook point that was chosen there."""
    metric: str
    """`r2`, or for classes `bits` a row."""
    scored: pd.DataFrame
    """One row per other table: `table`, `label`, `rows`, `copies_left_out`, `clusters`, `score` of the probe
    there; `gain`, `low`, `high` over the surface learned on the first table; `own_gain`, `own_low`,
    `own_high` over the table's own surface on its one held-out part; `full_gain`, what the table's own probe
    adds to it there; `arrives`,
    the share of that which the first table's probe adds (NaN where there is none to speak of). Of classes
    judged in bits, of the probe alone as it was calibrated on the first table: `auroc`, `auroc_low`,
    `auroc_high`, `brier` and `brier_before`, that on the first table's test rows; of two classes `recall`,
    `recall_low`, `recall_high` and `false_positives` at the threshold that raised 5% of false alarms there,
    and `shift`, the log odds that its probabilities are too low by; of numbers `shift` in standard
    deviations."""
    min_gain: float
    """The smallest gain called structure."""
    provenance: Mapping[str, Any]
    """Model, table, settings and versions."""

    @property
    def title(self) -> str:
        """Model and table."""
        count = count_of(len(self.scored), "other table")
        return f"{self.model}: learned on {self.table}, scored on {count}"

    def summary(self) -> str:
        """One line per table."""
        unit = "bits a row" if self.metric == "bits" else "R²"
        rows: list[dict[Any, Any]] = self.scored.to_dict("records")
        to = [row["table"] for row in rows if row["label"] == CARRIES]
        names = f": {', '.join(to)}" if to else ""
        lines = [f"carries to {len(to)} of {len(rows)} tables{names}"] if len(rows) > 1 else []
        for row in rows:
            why = count_of(row["rows"], "row")
            gain = with_interval(row["gain"], (row["low"], row["high"]), why)
            own = with_interval(row["own_gain"], (row["own_low"], row["own_high"]), why)
            arrives = row["arrives"]
            share = "" if np.isnan(arrives) else f", {arrives:.0%} of what a probe of its own adds"
            lines.append(
                f"{row['table']}: {row['label']}: gain {gain} {unit} over the surface learned on "
                f"{self.table}, {own} over its own on its one held-out part{share}"
            )
            lines += _classifier_lines(row)
            if row["copies_left_out"]:
                count = count_of(row["copies_left_out"], "row")
                lines.append(f"{count} of {row['table']} left out: {self.table} has them, or near copies")
        return "\n".join(
            [
                *lines,
                f"probe, strength, layer ({layer_text(self.point)}) and surface are those of {self.table}'s "
                f"training rows; structure needs a gain of {self.min_gain:.3g} and an interval above 0",
            ]
        )

    def figures(self) -> dict[str, Figure]:
        """Gains with their intervals."""
        return {_CAPTION: carried_figure(self.scored, self.metric)}

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table scored."""
        unit = "bits" if self.metric == "bits" else "R²"
        return {_CAPTION_ROWS: self.scored.rename(columns={c: f"{c}, {unit}" for c in _IN_UNIT})}


@door(findings=FINDINGS)
def judge_on(
    findings: Findings, others: Findings | Mapping[str, Findings], *, progress: bool | None = None
) -> Carried:
    """Score what one table taught on others: probe, layer, strengths and surface carried over as they are.

    Probes of truth, of deception, of anything that a data set's format gives away score well on rows like
    those that they learned from. Here the probe, its baselines and both stacks are fitted on the training
    rows of `findings` alone, at the layer chosen there, and every row of the other table is scored. Beside
    it stands what the probe adds to the other table's *own* surface (weights of the stack alone are fitted
    there, on its training rows), and how much of what a probe of its own adds that is.

    Rows of the other table whose text is also one of the first's (but for case, blanks and punctuation), or a
    near copy by letters or embedding, are left out. Of several tables each may be the first in turn:
    `{name: judge_on(one, all_of_them) for name, one in all_of_them.items()}` is the matrix; what a table
    would be to itself is left out.

    Args:
        findings: of the first table, with their inputs.
        others: findings of the same model and target on another table, with theirs; or several by name.
        progress: whether a bar is drawn; by default where it takes long.

    Returns:
        For every other table whether it carries, by how much, and what arrives.

    Raises:
        ValueError: Another model or kind of target, findings without inputs or baselines, or fewer than ten
            rows are left.
    """
    given: Any = others
    if not isinstance(given, Findings | Mapping):
        raise WrongKindError(f"judge_on: others={brief(given)}: expected findings, or several by name")
    several = {others.table: others} if isinstance(others, Findings) else dict(others)
    several = {name: other for name, other in several.items() if other is not findings}
    if not several:
        none = "others are the findings themselves" if given else "others is empty"
        raise ValueError(f"judge_on: {none}; expected findings of another table, or several by name")
    lines: list[dict[str, Any]] = []
    verdict = None
    with bar(len(several), "judge_on", "table", progress) as advance:
        for name, other in several.items():
            line, verdict = _scored(findings, name, other)
            lines.append(line)
            advance.update()
    assert verdict is not None
    return Carried(
        model=findings.model,
        table=findings.table,
        point=findings.chosen_point,
        metric=verdict.metric,
        scored=pd.DataFrame(lines),
        min_gain=verdict.min_gain,
        provenance=json_ready(findings.provenance_of(others=list(several))),
    )


def _scored(findings: Findings, name: str, other: Findings) -> tuple[dict[str, Any], Any]:
    """One line of `Carried.scored`, and the verdict behind it."""
    ours, theirs, point = findings.inputs, other.inputs, findings.chosen_point
    check_one_model(
        "judge_on", (f"the findings of {findings.table!r} are", ours.activations.provenance),
        (f"those of the other table, {name!r},", theirs.activations.provenance),
        "sweep both tables with one model",
    )  # fmt: skip
    if point not in theirs.activations:
        raise ValueError(
            f"judge_on: {findings.table!r} was read at {point}, which the other table, {name!r}, lacks: "
            "give both the same points= and layers="
        )
    copies = copies_of(ours, theirs)
    if (left := int((~copies).sum())) < MIN_ROWS:
        raise ValueError(
            f"judge_on: {left} rows of the other table, {name!r}, are left without those that the first, "
            f"{findings.table!r}, has too; at least {MIN_ROWS} are needed"
        )
    activations, table, beside = joined(findings, other, ~copies)
    made = sweep(
        activations,
        table,
        baselines=beside,
        alphas=ours.alphas,
        crossfit=False,
        progress=False,
        **_settings(findings),
    )
    carried = made.verdict
    predicted = in_classes_of(other, findings, findings.probes[point].predict(theirs.rows(point)))
    problem, full = theirs.problem, other.verdict_of_split
    own = theirs.judge(Predictions(predicted[problem.train], predicted[problem.test]))
    label = _label(carried, own)
    line = {
        "table": name,
        "label": label,
        "rows": left,
        "copies_left_out": int(copies.sum()),
        "clusters": carried.clusters,
        "score": carried.score,
        "surface": carried.surface,
        "gain": carried.gain,
        "low": carried.ci95[0],
        "high": carried.ci95[1],
        "own_gain": own.gain,
        "own_low": own.ci95[0],
        "own_high": own.ci95[1],
        "full_gain": full.gain,
        "arrives": own.gain / full.gain if full.ci95[0] > 0 else float("nan"),
        **_as_classifier(made, findings),
    }
    return line, carried


def _as_classifier(made: Findings, findings: Findings) -> dict[str, float]:
    """What the first table's probe is worth as a classifier of the other's rows, at its own calibration and
    threshold; of numbers the shift alone."""
    scores, before, problem = made.class_scores, findings.class_scores, made.problem
    y, predictions = problem.y[problem.test], made.predictions_at()
    out = dict.fromkeys(_CLASSIFIER, float("nan"))
    if made.kind == "numeric":
        unit = problem.y[problem.train].std(axis=0)
        return {**out, "shift": float(np.mean((y.mean(axis=0) - predictions.test.mean(axis=0)) / unit))}
    if scores is None or before is None:
        return out
    out |= {"auroc": scores.auroc, "auroc_low": scores.auroc_ci95[0], "auroc_high": scores.auroc_ci95[1]}
    out |= {"brier": scores.brier, "brier_before": before.brier}
    if made.kind != "binary":
        return out
    alarms = monitor(made, false_positive_rates=FALSE_ALARMS).alarms.iloc[0]
    names = ("recall", "recall_low", "recall_high", "false_positives")
    out |= {name: float(alarms[name]) for name in names}
    return {**out, "shift": _shift(calibrated(problem, predictions)[:, 0], y[:, 0])}


def _shift(p: Float[np.ndarray, " row"], y: Float[np.ndarray, " row"]) -> float:
    """Log odds that must be added to probabilities for them to add up to the rows of class 1."""
    odds, wanted, shift = np.log(p / (1 - p)), float(np.clip(y.sum(), 0.5, len(y) - 0.5)), 0.0
    for _ in range(100):
        now = 1 / (1 + np.exp(-odds - shift))
        step = (wanted - now.sum()) / max(float((now * (1 - now)).sum()), 1e-9)
        shift += float(np.clip(step, -1, 1))
    return shift


def _settings(findings: Findings) -> dict[str, Any]:
    """How the first table was judged."""
    judged_by = findings.judged_by
    settings = {"score": judged_by.score, "min_gain": judged_by.min_gain}
    return settings | {"n_bootstrap": judged_by.n_bootstrap, "seed": judged_by.seed}


def _label(carried: Verdict, own: Verdict) -> str:
    def is_little(one: Verdict) -> bool:  # where nothing is added to any row there is no interval
        return one.label == NO_BETTER or one.ci95[1] < carried.min_gain

    if carried.label == STRUCTURE:
        if own.ci95[0] > 0:
            return CARRIES
        return AS_MUCH if is_little(own) else NOT_BEYOND
    if is_little(carried):
        return LOST
    open_by = carried.label.startswith(NOT_DECIDED)
    return NOT_SHOWN + (carried.label.removeprefix(NOT_DECIDED) if open_by else "")


def _classifier_lines(row: Mapping[Any, Any]) -> list[str]:
    """The probe alone as a classifier there; nothing of numbers, and in results that were saved before."""
    values = {name: float(row.get(name, float("nan"))) for name in _CLASSIFIER}
    if np.isnan(values["auroc"]):
        return []
    area = f"{values['auroc']:z.3f} [{values['auroc_low']:z.3f}, {values['auroc_high']:z.3f}]"
    line = f"{row['table']}: the probe alone: AUROC {area}, Brier {values['brier']:z.3f} "
    line += f"({values['brier_before']:z.3f} on the first table)"
    if np.isnan(values["recall"]) and not np.isnan(values["shift"]):
        line += (
            f"; no threshold raises {FALSE_ALARMS:.0%} of false alarms among the first table's training rows"
        )
    elif not np.isnan(values["recall"]):
        caught = f"{values['recall']:z.3f} [{values['recall_low']:z.3f}, {values['recall_high']:z.3f}]"
        line += f"; at the threshold of {FALSE_ALARMS:.0%} false alarms there it catches {caught}, with "
        line += f"{values['false_positives']:.1%} false alarms"
    if not np.isnan(values["shift"]):
        line += f"; its log odds are off by {values['shift']:+z.2f}"
    return [line]


def carried_figure(scored: pd.DataFrame, metric: str) -> Figure:
    """Gains with their intervals, two rows per table."""
    both = [
        ("over the surface carried", "gain", "low", "high"),
        ("over its own", "own_gain", "own_low", "own_high"),
    ]
    names = [f"{table}, {what}" for table in scored["table"] for what, *_ in both]
    rows: list[dict[Any, Any]] = scored.to_dict("records")
    values = np.array([[row[c] for c in columns] for row in rows for _, *columns in both], np.float64)
    middle, low, high = values.T
    bars = error_bars(middle, low, high, INK, width=4)
    fig = new_figure(dots_trace(middle, short_labels(pd.Series(names)), None, INK, error_x=bars))
    across = "gain, bits a row" if metric == "bits" else "gain of test R²"
    style(fig, height=140 + 28 * len(names), x=across, y={"autorange": "reversed", "type": "category"})
    level(fig, x=0, colour=FAINT, width=1.5, dash=None)
    return fig
