"""Steer along the probe's direction and watch what follows, beside displacements as large as its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from graticule.hooks.calls import renamed
from graticule.hooks.doors import FINDINGS, MODEL, door
from graticule.hooks.messages import UnknownNameError, bar
from graticule.hooks.points import layer_of
from graticule.hooks.protocols import HookedModel
from graticule.hooks.rows import PointKey
from graticule.hooks.running.session import packed, undisturbed
from graticule.hooks.same_model import check_one_model
from graticule.probes.causes.edited_runs import Span
from graticule.probes.causes.experiment import Experiment, asked_targets
from graticule.probes.causes.outcomes import READING, Outcome
from graticule.probes.causes.result import InterventionResult, effect_line, needed, row_interval
from graticule.probes.core.findings import Findings
from graticule.probes.linear.edits import AffineEdit
from graticule.probes.linear.leace import covariance_directions

SCALES = (-3.0, -2.0, -1.0, 1.0, 2.0, 3.0)
MOST_TARGETS = 4
"""Targets that are steered where none are named."""
_BAND = 10
"""Controls that are run at every dose, for the band of the dose-response figure."""
_SHUFFLED = 10
_CHUNK = 8
"""Directions whose runs are in memory at once."""


@dataclass(frozen=True)
class Steering(InterventionResult):
    """The result of `graticule.steer`."""

    KIND: ClassVar[str] = "steering"

    point: str
    """The hook point that was steered."""
    dose: float
    """Standard deviations of the reading at which effects are measured, plus and minus."""

    @property
    def title(self) -> str:
        """Model, table and point."""
        return f"Steering {self.model} on {self.table} at {self.point}"


@renamed("outcomes", point="hook_name")
@door(model=MODEL, findings=FINDINGS)
def steer(
    findings: Findings,
    model: HookedModel,
    *,
    outcomes: Sequence[Outcome] | None = None,
    targets: str | Sequence[str] | None = None,
    hook_name: PointKey | None = None,
    scales: Sequence[float] = SCALES,
    dose: float = 2.0,
    rows: int = 100,
    controls: int = 100,
    pos: Span = "from_entity",
    other: Findings | None = None,
    seed: int = 0,
    include_bos: bool | None = None,
    progress: bool | None = None,
) -> Steering:
    """Move the probe's reading by some standard deviations inside the model: a dose-response beside controls.

    At `hook_name` the activations are moved along the write direction until the target's reading has moved by
    `scale` standard deviations of the readings over training rows, the other targets' readings held.
    The effect is the slope between −`dose` and +`dose`, mean over test rows. Outcomes: the log-odds between
    stated answers, and the last later probe's reading with the displacement carried there by the skip path
    subtracted.

    Controls are displacements of the same norm along directions drawn with the activations' covariance, with
    what the probe reads of them taken out; beside them stand the write directions of shuffled targets and,
    with `other`, another concept's. p is the effect's rank among the controls, two-sided, Holm over all.

    Args:
        findings: Findings of a sweep.
        model: the model that the findings are of.
        outcomes: stated answers; by default the packaged ones (`default_outcomes`).
        targets: Targets that are intervened on; by default the first four.
        hook_name: The hook point; by default the chosen one.
        scales: Doses of steering; `dose` and its negative among them.
        dose: The dose at which effects are measured.
        rows: The prompts of at most so many test rows are run, drawn with `seed`.
        controls: At least so many control interventions beside each; more where fewer could not reach .05
            after Holm's correction.
        pos: which tokens are moved, as `graticule.capture` takes them (an index, a slice, a name, a
            `Sample`), or `"from_entity"`: the entity's last one and everything after it.
        other: findings of another concept at the same points.
        seed: The seed of rows and controls.
        include_bos: whether special tokens (BOS, `[CLS]`, `[SEP]`) may be among the tokens of `pos`, as in
            `graticule.capture`; by default they are left alone.
        progress: whether bars are shown.

    Raises:
        ValueError: for doses that are not among the scales, tables without texts, bad outcomes.
        KeyError: for an unknown target or point.
    """
    need_dose(dose, scales)
    experiment = Experiment(
        model, findings, outcomes, point=hook_name, rows=rows, span=pos, seed=seed, include_bos=include_bos
    )
    names = asked_targets(findings, targets, MOST_TARGETS)
    with undisturbed(model), packed(model):
        count = needed(controls, steering_tests(experiment, names))
        steer_targets(experiment, names, scales, dose, count, other, progress)
    fields = experiment.fields(
        point=experiment.point, scales=list(scales), dose=dose, rows=rows, controls=count
    )
    return Steering(**fields, point=experiment.point, dose=dose)


def need_dose(dose: float, scales: Sequence[float]) -> None:
    """Refuse scales that are no numbers, or lack the dose in either direction.

    Raises:
        ValueError: for such scales.
    """
    if isinstance(scales, str | int | float) or not all(isinstance(s, Real) for s in scales):
        raise ValueError(f"scales={scales!r}: expected several numbers, (-2, -1, 0, 1, 2)")
    if not {dose, -dose} <= set(scales):
        raise ValueError(f"dose={dose:g}: both it and {-dose:g} must be among scales={tuple(scales)}")


def steering_tests(experiment: Experiment, names: Sequence[str]) -> int:
    """How many outcomes steering these targets is tested on."""
    later = int(experiment.later is not None)
    return sum(sum(o.target == name for o in experiment.outcomes) + later for name in names)


def steer_targets(
    experiment: Experiment, names: Sequence[str], scales: Sequence[float], dose: float, controls: int,
    other: Findings | None, progress: bool | None,
) -> None:  # fmt: skip
    """Steer one target after the other, and note effects, controls and doses."""
    for name in names:
        _Steered(experiment, name, tuple(scales), dose).run(controls, other, progress)


@dataclass(frozen=True)
class _Direction:
    kind: str
    """`probe`, `control`, `shuffled` or `other`."""
    name: str
    shift: Float[np.ndarray, " width"]
    """The displacement of one standard deviation."""
    all_doses: bool
    """Whether every dose is run, or only those at which effects are measured."""


class _Steered:
    """One target: its directions, and what they do."""

    def __init__(self, experiment: Experiment, target: str, scales: tuple[float, ...], dose: float) -> None:
        self.experiment, self.target, self.scales, self.dose = experiment, target, scales, dose
        self.column = experiment.findings.target_names.index(target)
        self.shift: Float[np.ndarray, " width"] = (
            experiment.moves[:, self.column] * experiment.sd[self.column]
        )
        self.norm = float(np.linalg.norm(self.shift))
        self.name = f"steer {target}"
        later = experiment.later
        at = layer_of(later) if later else None
        self.later_name = f"{READING}{target} at layer {at}, skip path subtracted"

    def run(self, controls: int, other: Findings | None, progress: bool | None) -> None:
        """Every direction at its doses."""
        measured = self.experiment.measured
        directions = self._directions(controls, other)
        base = self._measure([np.zeros_like(self.shift)])[0]
        own: dict[str, np.ndarray] = {}
        among: dict[str, list[float]] = {name: [] for name in base}
        with bar(len(directions), self.name, "direction", progress) as done:
            for d, values in self._values(directions):
                slopes = {
                    name: (values[self.dose][name] - values[-self.dose][name]) / (2 * self.dose)
                    for name in base
                }
                for scale in values if d.all_doses else ():
                    for name, rows in values[scale].items():
                        change = float((rows - base[name]).mean())
                        measured.doses.append(self._key(name, d) | {"scale": scale, "value": change})
                if d.kind == "probe":
                    own = slopes
                else:
                    for name, rows in slopes.items():
                        effect = float(rows.mean())
                        measured.controls.append(self._key(name, d) | {"effect": effect})
                        if d.kind == "control":
                            among[name].append(effect)
                done.update()
        measured.doses += [self._key(name, directions[0]) | {"scale": 0.0, "value": 0.0} for name in own]
        measured.effects += [self._effect(name, rows, np.array(among[name])) for name, rows in own.items()]

    def _key(self, outcome: str, direction: _Direction) -> dict[str, Any]:
        names = {"kind": direction.kind, "direction": direction.name}
        return {"intervention": self.name, "outcome": outcome, **names}

    def _directions(self, controls: int, other: Findings | None) -> list[_Direction]:
        """The probe's, its controls, those of shuffled targets, and another concept's."""
        experiment = self.experiment
        rng = np.random.default_rng([experiment.seed, 2, self.column])
        drawn = covariance_directions(
            experiment.moments, controls, rng, experiment.probe.read_direction, experiment.moves
        )
        out = [_Direction("probe", self.target, self.shift, True)]
        for i, unit in enumerate(drawn):
            out.append(_Direction("control", f"control {i}", unit * self.norm, i < _BAND))
        centred, y = experiment.X - experiment.moments.mean, experiment.y[:, self.column]
        for i in range(_SHUFFLED):
            mixed = y[rng.permutation(len(y))]
            write = centred.T @ (mixed - mixed.mean())
            out.append(_Direction("shuffled", f"shuffled {i}", self._as_large(write), False))
        if other is None:
            return out
        if experiment.point not in other.probes:
            raise UnknownNameError(f"other= has no probe at {experiment.point}; sweep it at the same points")
        made, theirs = (f.provenance.get("activations") or {} for f in (experiment.findings, other))
        check_one_model("other=", ("the findings are", made), ("those of other=", theirs), "probe one model")
        columns = other.probes[experiment.point].write_direction.T[:MOST_TARGETS]
        for name, write in zip(other.target_names[:MOST_TARGETS], columns, strict=True):
            out.append(_Direction("other", f"{other.table}: {name}", self._as_large(write), True))
        return out

    def _as_large(self, write: np.ndarray) -> np.ndarray:
        return write / np.linalg.norm(write) * self.norm

    def _values(
        self, directions: Sequence[_Direction]
    ) -> Iterator[tuple[_Direction, dict[float, dict[str, np.ndarray]]]]:
        """Direction by direction: scale → outcome → its value row by row."""
        for start in range(0, len(directions), _CHUNK):
            doses = [
                (d, self.scales if d.all_doses else (-self.dose, self.dose))
                for d in directions[start : start + _CHUNK]
            ]
            values = iter(self._measure([d.shift * scale for d, scales in doses for scale in scales]))
            for d, scales in doses:
                yield d, {scale: next(values) for scale in scales}

    def _measure(self, shifts: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Outcome → its value row by row, displacement by displacement."""
        experiment = self.experiment
        out: list[dict[str, np.ndarray]] = [{} for _ in shifts]
        for prompt in experiment.prompts:
            runs = experiment.runs(prompt).runs([AffineEdit.translation(shift) for shift in shifts])
            for values, outputs, shift in zip(out, runs, shifts, strict=True):
                values |= experiment.odds(prompt, outputs)
                if experiment.later is not None and prompt == experiment.prompts[0]:
                    values[self.later_name] = experiment.readings(outputs, shift)[:, self.column]
        return out

    def _effect(self, name: str, rows: np.ndarray, among: np.ndarray) -> dict[str, Any]:
        stated = {o.name: o for o in self.experiment.outcomes}.get(name)
        return effect_line(
            intervention=self.name,
            outcome=name,
            unit="sd of the target per sd" if stated is None else "log-odds per sd",
            tested=stated is None or stated.target == self.target,
            effect=float(rows.mean()),
            interval=row_interval(rows, self.experiment.seed),
            controls=among,
            norm=self.norm,
            sensitivity=(
                (float("nan"), float("nan")) if stated is None else self.experiment.sensitivity(stated)
            ),
        )
