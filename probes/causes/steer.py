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
from graticule.probes.linear.edits import AffineEdit, unit_moves

SCALES = (-3.0, -2.0, -1.0, 1.0, 2.0, 3.0)
MOST_TARGETS = 4
"""Targets that are steered where none are named."""
_BAND = 10
"""Controls that are run at every dose, for the band of the dose-response figure."""
_OWN = "own"
"""What the later reader of a control's own target reads, beside the outcomes."""
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

    Controls are displacements of the same norm along the write directions of other targets, fitted on the
    same rows, with what the probe reads of them taken out: a random direction of the activations, as readable
    as the target, the rest the target itself dealt among clusters. The later probe is fitted on test rows, so
    that it shares no luck with the direction, and its reading is ranked a second time, among what later
    probes of the controls' own targets read of theirs. p is the effect's rank among the controls (the larger
    one of two), two-sided, Holm over all. Beside them stand, with `other`, another concept's directions.

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
    """`probe`, `own`, `control` or `other`."""
    name: str
    shift: Float[np.ndarray, " width"]
    """The displacement of one standard deviation."""
    all_doses: bool
    """Whether every dose is run, or only those at which effects are measured."""
    reads: Float[np.ndarray, " width"] | None = None
    """What the later reader of the control's own target reads."""


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
        base = self._measure([np.zeros_like(self.shift)], [None])[0]
        moved: dict[str, np.ndarray] = {}
        own: dict[str, float] = {}
        among: dict[str, list[float]] = {name: [] for name in [*base, _OWN]}
        with bar(len(directions), self.name, "direction", progress) as done:
            for d, values in self._values(directions):
                names = [*base, *([_OWN] if d.reads is not None else [])]
                slopes = {
                    name: (values[self.dose][name] - values[-self.dose][name]) / (2 * self.dose)
                    for name in names
                }
                for scale in values if d.all_doses else ():
                    for name in base:
                        change = float((values[scale][name] - base[name]).mean())
                        measured.doses.append(self._key(name, d.kind, d) | {"scale": scale, "value": change})
                if d.kind == "probe":
                    moved = slopes
                elif d.kind == "own":
                    own = {name: float(rows.mean()) for name, rows in slopes.items()}
                else:
                    for name, rows in slopes.items():
                        kind, outcome = ("shuffled", self.later_name) if name == _OWN else (d.kind, name)
                        effect = float(rows.mean())
                        measured.controls.append(self._key(outcome, kind, d) | {"effect": effect})
                        if d.kind == "control":
                            among[name].append(effect)
                done.update()
        measured.doses += [
            self._key(name, "probe", directions[0]) | {"scale": 0.0, "value": 0.0} for name in moved
        ]
        for name, rows in moved.items():
            alike = np.array(among[_OWN]) if name == self.later_name else None
            measured.effects.append(self._effect(name, rows, np.array(among[name]), alike, own[name]))

    def _key(self, outcome: str, kind: str, direction: _Direction) -> dict[str, Any]:
        names = {"kind": kind, "direction": direction.name}
        return {"intervention": self.name, "outcome": outcome, **names}

    def _directions(self, controls: int, other: Findings | None) -> list[_Direction]:
        """The probe's, its own line's, its controls, and another concept's."""
        experiment = self.experiment
        rng = np.random.default_rng([experiment.seed, 2, self.column])
        alike = experiment.alike(self.column, controls, rng)
        drawn = (alike.train - alike.train.mean(axis=0)).T @ (experiment.X - experiment.moments.mean)
        drawn -= (drawn @ experiment.probe.read_direction) @ experiment.moves.T
        reads = None
        if experiment.reader is not None and alike.later is not None:
            reads = experiment.reader.alike(alike.later)
        line = unit_moves(experiment.probe.read_direction, experiment.probe.read_direction)
        out = [
            _Direction("probe", self.target, self.shift, True),
            _Direction("own", self.target, line[:, self.column] * experiment.sd[self.column], False),
        ]
        for i, write in enumerate(drawn):
            read = None if reads is None else reads[:, i]
            out.append(_Direction("control", f"control {i}", self._as_large(write), i < _BAND, read))
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
            asked = [(d.shift * scale, d.reads) for d, scales in doses for scale in scales]
            values = iter(self._measure([shift for shift, _ in asked], [reads for _, reads in asked]))
            for d, scales in doses:
                yield d, {scale: next(values) for scale in scales}

    def _measure(
        self, shifts: Sequence[np.ndarray], reads: Sequence[np.ndarray | None]
    ) -> list[dict[str, np.ndarray]]:
        """Outcome → its value row by row, displacement by displacement; with `reads` what these read later
        on, too."""
        experiment = self.experiment
        out: list[dict[str, np.ndarray]] = [{} for _ in shifts]
        for prompt in experiment.prompts:
            runs = experiment.runs(prompt).runs([AffineEdit.translation(shift) for shift in shifts])
            for values, outputs, shift, coef in zip(out, runs, shifts, reads, strict=True):
                values |= experiment.odds(prompt, outputs)
                if experiment.later is not None and prompt == experiment.prompts[0]:
                    values[self.later_name] = experiment.readings(outputs, shift)[:, self.column]
                    if coef is not None:
                        values[_OWN] = experiment.alike_reading(coef, outputs, shift)
        return out

    def _effect(
        self, name: str, rows: np.ndarray, among: np.ndarray, alike: np.ndarray | None, own: float
    ) -> dict[str, Any]:
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
            alike=alike if alike is not None and len(alike) else None,
            alone=own,
            sensitivity=(
                (float("nan"), float("nan")) if stated is None else self.experiment.sensitivity(stated)
            ),
        )
