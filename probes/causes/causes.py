"""Is what the probe reads used by the model? Steering, erasing, ablating: the second verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from graticule.hooks.calls import old_name, renamed
from graticule.hooks.doors import FINDINGS, MODEL, door
from graticule.hooks.messages import bar
from graticule.hooks.names import user_path
from graticule.hooks.protocols import HookedModel
from graticule.hooks.result import check_beforehand
from graticule.hooks.rows import PointKey
from graticule.hooks.running.session import packed, undisturbed
from graticule.probes.causes.ablate import PINS, ablate_neurons, neuron_tests, pin_table
from graticule.probes.causes.criteria import criteria_table
from graticule.probes.causes.edited_runs import Span
from graticule.probes.causes.experiment import Experiment, asked_targets
from graticule.probes.causes.followed import followed
from graticule.probes.causes.outcomes import KL, LOSS, READING, Outcome, next_tokens
from graticule.probes.causes.readable import correlated_readings, readable_targets
from graticule.probes.causes.result import LEVEL, InterventionResult, needed, pin_figures
from graticule.probes.causes.second_verdict import ERASE, STEER
from graticule.probes.causes.second_verdict import NOT_SEEN as NOT_SEEN
from graticule.probes.causes.second_verdict import UNDECIDED as UNDECIDED
from graticule.probes.causes.second_verdict import USED as USED
from graticule.probes.causes.second_verdict import USED_OR_CORRELATED as USED_OR_CORRELATED
from graticule.probes.causes.second_verdict import second_verdict as second_verdict
from graticule.probes.causes.steer import MOST_TARGETS, SCALES, need_dose, steer_targets, steering_tests
from graticule.probes.core.findings import Findings
from graticule.probes.linear.edits import AffineEdit
from graticule.probes.linear.leace import Eraser, matched_erasers, whitened_frame

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_CRITERIA = "What must be said of a direction"
_CORRELATED = "What else is read with the targets: correlations of readings over test rows"
_CHUNK = 10
"""Erasers whose runs are in memory at once."""


@dataclass(frozen=True)
class Causes(InterventionResult):
    """The result of `graticule.causes`."""

    KIND: ClassVar[str] = "causes"

    target_names: tuple[str, ...]
    """Targets that were steered and erased."""
    label: str = field(metadata={"saved_as": "words"})
    """The second verdict: `used`, `used, or correlated with what is used`, `present, no effect seen` or
    `not decided`."""
    reason: str
    """Why, in a sentence."""
    first_verdict: str
    """The verdict of the findings, in words."""
    point: str
    """The hook point of the interventions."""
    dose: float
    """Standard deviations of the reading at which steering is measured, plus and minus."""
    pins: pd.DataFrame
    """Pin sweeps of the neurons asked for; empty without any."""
    correlated: pd.DataFrame = field(default_factory=pd.DataFrame)
    """What else is read with the targets: `target`, `beside`, `correlation` of the two readings over test
    rows, of at least .2; other targets, and those of `other`. Empty for results of 0.1."""
    criteria: pd.DataFrame = field(default_factory=pd.DataFrame)
    """What must be said of a direction: `criterion`, `what` and `figure`. Empty for results of 0.1."""

    @property
    def words(self) -> str:
        """The old name of `label`."""
        old_name("Causes.words", "label")
        return self.label

    @property
    def title(self) -> str:
        """Model, table and point."""
        return f"Causes: {', '.join(self.target_names)} in {self.model} on {self.table}, at {self.point}"

    def summary(self) -> str:
        """The second verdict, why, and every outcome with what its controls reach."""
        headline = f"{self.label}: {self.reason}{self._of_behaviour()}"
        return "\n".join([headline, *self.effect_lines(), *self._beside()])

    def _of_behaviour(self) -> str:
        """Where something moved: how many of the outcomes that are the model's own, not a later probe's."""
        tested = self.effects[self.effects["tested"]]
        moved = tested["p_holm"] < LEVEL
        own = ~tested["outcome"].str.startswith(READING)
        if not moved.any():
            return ""
        count = f"{int((moved & own).sum())} of {int(own.sum())} of the model's own outcomes moved"
        if (moved & own).any():
            return f"; {count} beyond their controls"
        return f"; that is what a later probe reads, not what the model does: {count} beyond their controls"

    @property
    def p_used(self) -> float:
        """The smallest adjusted p-value; 1 where something lies beyond its controls and the direction is not
        called used all the same."""
        smallest = float(self.effects["p_holm"].min())
        return smallest if self.label == USED or not smallest < LEVEL else 1.0

    def _beside(self) -> list[str]:
        """What targets made like the probed ones and another concept reach, where they were run."""
        lines: list[str] = []
        for kind, name in (("shuffled", "shuffled targets, as readable"), ("other", "another concept")):
            for line in self.effects[self.effects["tested"]].to_dict("records"):
                effects = self.controls[
                    (self.controls["kind"] == kind)
                    & (self.controls["intervention"] == line["intervention"])
                    & (self.controls["outcome"] == line["outcome"])
                ]["effect"]
                if len(effects):
                    lines.append(
                        f"{name} in place of {str(line['intervention']).removeprefix('steer ')}, "
                        f"{line['outcome']}: up to ±{effects.abs().max():.3g}"
                    )
        return lines

    def figures(self) -> dict[str, Figure]:
        """Dose-response and control effects, outcome by outcome; pin sweeps."""
        return {**super().figures(), **pin_figures(self.pins)}

    def tables(self) -> dict[str, pd.DataFrame]:
        """What must be said of the direction, what else is read with it, effects."""
        more = {_CRITERIA: self.criteria, _CORRELATED: self.correlated}
        return {**{caption: table for caption, table in more.items() if len(table)}, **super().tables()}


@renamed(point="hook_name")
@door(model=MODEL, findings=FINDINGS)
def causes(
    findings: Findings,
    model: HookedModel,
    *,
    outcomes: Sequence[Outcome] | None = None,
    targets: str | Sequence[str] | None = None,
    hook_name: PointKey | None = None,
    rows: int = 100,
    controls: int = 100,
    neurons: Sequence[tuple[int, int]] | None = None,
    other: Findings | None = None,
    pos: Span = "from_entity",
    scales: Sequence[float] = SCALES,
    dose: float = 2.0,
    seed: int = 0,
    include_bos: bool | None = None,
    progress: bool | None = None,
    out: Path | str | None = None,
) -> Causes:
    """Does the model use what the probe reads at `hook_name`? Interventions beside matched controls.

    Every target is steered (`steer`), all of them together are erased (LEACE), and `neurons` are pinned and
    ablated (`ablate`), on at most `rows` test rows, their names set into the prompts of `outcomes`. Every
    effect is ranked among at least `controls` interventions as large as itself (more, where fewer could not
    reach .05 after Holm's correction). Later layers are read by a probe of the test rows, which shares no
    luck with the direction, and what it reads is ranked as well among shuffled targets that are as readable
    and go through the same fits, each with a later reader of its own.

    **The verdict.** *Used*: on at least 20 rows an outcome lies beyond its controls (Holm-adjusted p below
    .05), the direction is read at all (the correlation of reading and truth on test rows has an interval
    above 0), and the outcome follows the direction itself: of the reading that the intervention moves, at
    least a quarter stands on the lines along which the outcome's gradient lies. *Used, or correlated with
    what is used*: it is moved, but by other lines, as a feature would that only goes with the target, for
    erasing takes away all that is correlated, and the write direction holds it; what else is read with the
    target, and whether steering and erasing agree, is said. *Present, no effect seen*: nothing lies beyond
    its controls although the findings show structure, on as many rows, and the controls move what was
    measured. Else *not decided*. Findings that are not structure are said beside. Under every outcome stands
    its detection limit, the 97.5% quantile of its controls' sizes: smaller effects could not have been told
    from displacements in general.

    Args:
        findings: Findings of a sweep.
        model: the model that the findings are of.
        outcomes: stated answers; by default those packaged for latitude, longitude and year.
        targets: Targets that are intervened on; by default the first four.
        hook_name: The hook point; by default the chosen one.
        rows: The prompts of at most so many test rows are run, drawn with `seed`.
        controls: At least so many control interventions beside each outcome.
        neurons: Neurons that are pinned and ablated, as (layer, index) pairs.
        other: findings of another concept at the same points, to steer beside.
        pos: which tokens are steered and erased, as `graticule.capture` takes them (an index, a slice, a
            name, a `Sample`), or `"from_entity"`: the entity's last one and everything after it.
        scales: Doses of steering; `dose` and its negative among them.
        dose: The dose at which steering is measured.
        seed: The seed of rows and controls.
        include_bos: whether special tokens (BOS, `[CLS]`, `[SEP]`) may be among the tokens of `pos`, as in
            `graticule.capture`; by default they are left alone.
        progress: whether bars are shown.
        out: a folder in which the result is saved.

    Raises:
        ValueError: as `steer` and `ablate`.
        KeyError: as `steer`.
    """
    need_dose(dose, scales)
    if out is not None:
        asked = {"model": findings.model, "table": findings.table}
        check_beforehand(user_path(out), Causes, **asked)
    experiment = Experiment(
        model, findings, outcomes, point=hook_name, rows=rows, span=pos, seed=seed, include_bos=include_bos
    )
    names = asked_targets(findings, targets, MOST_TARGETS)
    with undisturbed(model), packed(model):
        tests = steering_tests(experiment, names) + _erasure_tests(experiment)
        tests += neuron_tests(experiment, neurons) if neurons else 0
        count = needed(controls, tests)
        steer_targets(experiment, names, scales, dose, count, other, progress)
        _erase_targets(experiment, names, count, progress)
        if neurons:
            ablate_neurons(experiment, neurons, PINS, count, "all", progress)
        settings = {"point": experiment.point, "rows": rows, "controls": count, "scales": list(scales)}
        settings |= {"dose": dose, "neurons": [list(n) for n in neurons or ()]}
        fields = experiment.fields(**settings, other=None if other is None else other.table)
        fields["effects"] = _with_followed(experiment, fields["effects"], names)
    readable = readable_targets(findings, experiment.point, names)
    beside = correlated_readings(findings, experiment.point, names, other)
    first = findings.verdict.label
    label, reason = second_verdict(fields["effects"], first, fields["rows"], readable, beside)
    result = Causes(
        **fields,
        target_names=tuple(names),
        label=label,
        reason=reason,
        first_verdict=first,
        point=experiment.point,
        dose=dose,
        pins=pin_table(experiment) if neurons else pd.DataFrame(),
        correlated=beside,
        criteria=criteria_table(experiment, fields["effects"], names, readable),
    )
    if out is not None:
        result.save(out)
    return result


def _with_followed(experiment: Experiment, effects: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The effects with `followed`: what part of the reading stands on the lines that the outcome follows."""
    every = {name: experiment.findings.target_names.index(name) for name in names}
    columns = {f"{STEER}{name}": [k] for name, k in every.items()}
    columns[f"{ERASE}{' and '.join(names)}"] = list(every.values())
    return effects.assign(followed=followed(experiment, effects, columns))


# Erasing inside the model ------------------------------------------------------------------------------
def _erasure_tests(experiment: Experiment) -> int:
    """How many outcomes an erasure is tested on: every stated answer, KL and loss."""
    return len(experiment.outcomes) + 1 + int(experiment.text_runs is not None)


def _erase_targets(
    experiment: Experiment, names: Sequence[str], controls: int, progress: bool | None
) -> None:
    """Erase all of `names` at once, beside erasers of other features that remove as much, and note effects.

    Outcomes: how far the stated answers stop following the truth (the slope of the log-odds on the target,
    per standard deviation, after less before); KL of the next token after the prompt; loss of the last token
    of the table's own texts.
    """
    moments = experiment.moments
    columns = [experiment.findings.target_names.index(n) for n in names]
    eraser = Eraser.fit(experiment.X, experiment.y[:, columns], covariance=moments)
    rng = np.random.default_rng([experiment.seed, 3])
    erasers = [eraser, *matched_erasers(moments, whitened_frame(moments, eraser), controls, rng)]
    edits = [*(one.edit for one in erasers), _alone(experiment, columns)]
    name = f"{ERASE}{' and '.join(names)}"
    parts: dict[str, list[np.ndarray]] = {}
    with bar(len(edits), name, "eraser", progress) as done:
        for start in range(0, len(edits), _CHUNK):
            some = edits[start : start + _CHUNK]
            for outcome, values in _erased(experiment, some).items():
                parts.setdefault(outcome, []).append(values)
            done.update(len(some))
    norm, directions = float(np.sqrt(eraser.removed)), [f"control {i}" for i in range(controls)]
    for outcome, values in parts.items():
        unit = "nats" if outcome.startswith((KL, LOSS)) else "log-odds per sd of the target"
        every = np.concatenate(values)
        alone = float(every[-1].mean())
        experiment.measured.add(name, outcome, unit, every[:-1], directions, norm, alone)


def _alone(experiment: Experiment, columns: list[int]) -> AffineEdit:
    """What the probe reads, set to its mean along its own line: nothing else of the activations moves."""
    read = experiment.probe.read_direction[:, columns]
    left, size, _ = np.linalg.svd(read, full_matrices=False)
    basis = left[:, size > 1e-10 * size.max(initial=0.0)]
    return AffineEdit.setting(basis, experiment.moments.mean @ basis, basis.T)


def _erased(experiment: Experiment, edits: Sequence[AffineEdit]) -> dict[str, np.ndarray]:
    """Outcome → `[edit, row]` whose mean over rows is the effect."""
    out: dict[str, np.ndarray] = {}
    for prompt in experiment.prompts:
        runs, base = experiment.runs(prompt), experiment.base(prompt)
        edited = runs.runs(edits)
        plain = experiment.odds(prompt, base)
        odds = [experiment.odds(prompt, outputs) for outputs in edited]
        for outcome in experiment.outcomes:
            if outcome.prompt == prompt:
                truth = experiment.truth[:, experiment.findings.target_names.index(outcome.target)]
                z = (truth - truth.mean()) / max(float(truth.std()), 1e-300)
                # per row the part it has in the slope's change: their mean is the slope after less before
                after = np.stack([values[outcome.name] for values in odds])
                out[f"{outcome.name}, following the truth"] = z * (after - plain[outcome.name])
        if prompt == experiment.prompts[0]:
            out[f"{KL} after the prompt"] = next_tokens(runs, base, edited)[KL]
    if experiment.text_runs is not None:
        runs, truth = experiment.text_runs
        out[LOSS] = next_tokens(runs, experiment.text_base, runs.runs(edits), truth)[LOSS]
    return out
