"""Pin, zero or mean-ablate single neurons, beside neurons of the same layer that write as much.

Gurnee & Tegmark (2310.02207 v3, appendix B) pin a time neuron and watch the next token, beside nine random
neurons, and zero-ablate neurons without any. Here both, with matched controls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from graticule.hooks.calls import renamed
from graticule.hooks.doors import FINDINGS, MODEL, NEURONS, door
from graticule.hooks.limits import LimitError, check_indices
from graticule.hooks.messages import bar
from graticule.hooks.points import resolve
from graticule.hooks.protocols import HookedModel
from graticule.hooks.running.session import packed, undisturbed
from graticule.hooks.weights import output_norms
from graticule.probes.causes.edited_runs import Outputs, Span
from graticule.probes.causes.experiment import Experiment
from graticule.probes.causes.outcomes import KL, Outcome, next_tokens
from graticule.probes.causes.result import N_SWEPT, InterventionResult, needed, pin_figures
from graticule.probes.core.findings import Findings
from graticule.probes.linear.edits import AffineEdit

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PINS = (-4.0, -2.0, 0.0, 2.0, 4.0, 8.0)
_DOSE = 2.0
"""Standard deviations from its mean at which a neuron's effect is measured, plus and minus."""


@dataclass(frozen=True)
class Ablation(InterventionResult):
    """The result of `graticule.ablate`; its `doses` are empty, as neurons have `pins`."""

    KIND: ClassVar[str] = "ablation"

    pins: pd.DataFrame
    """One row per pinned value: `outcome`, `asked` (the neuron asked for), `kind`, `neuron`, `value`
    (standard deviations of that neuron from its mean), `effect` (change in log-odds)."""

    @property
    def title(self) -> str:
        """Model and table."""
        return f"Neurons pinned and ablated: {self.model} on {self.table}"

    def figures(self) -> dict[str, Figure]:
        """Pin sweeps, then effects among their controls."""
        return {**pin_figures(self.pins), **super().figures()}


@renamed("outcomes")
@door(model=MODEL, findings=FINDINGS, neurons=NEURONS)
def ablate(
    findings: Findings,
    model: HookedModel,
    neurons: Sequence[tuple[int, int]],
    *,
    outcomes: Sequence[Outcome] | None = None,
    values: Sequence[float] = PINS,
    rows: int = 100,
    controls: int = 100,
    pos: Span = "all",
    seed: int = 0,
    include_bos: bool | None = None,
    progress: bool | None = None,
) -> Ablation:
    """Pin MLP neurons to a sweep of values, and set them to zero and to their mean, one at a time.

    Effects: the slope of the stated answers' log-odds between pins at −2 and +2, and the next-token KL of
    zero- and mean-ablation. Controls are neurons of the same layer whose own spread writes most nearly as
    much (sd · |W_out|).

    Args:
        findings: Findings of a sweep.
        model: the model that the findings are of.
        neurons: (layer, index) pairs of `blocks.{layer}.mlp.hook_post`.
        outcomes: stated answers; by default the packaged ones (`default_outcomes`).
        values: What each neuron is pinned to, in standard deviations from its mean over the prompts' entity
            tokens; -2 and 2 must be among them, between which the slope is taken.
        rows: The prompts of at most so many test rows are run, drawn with `seed`.
        controls: At least so many control interventions beside each; more where fewer could not reach .05
            after Holm's correction.
        pos: which tokens are edited, as `graticule.capture` takes them (an index, a slice, a name, a
            `Sample`), or `"from_entity"`: the entity's last one and everything after it.
        seed: The seed of rows.
        include_bos: whether special tokens (BOS, `[CLS]`, `[SEP]`) may be among the tokens of `pos`, as in
            `graticule.capture`; by default they are left alone.
        progress: whether bars are shown.

    Raises:
        ValueError: for no neurons or values without −2 and 2.
        IndexError: for a neuron that the layer does not have.
    """
    if not len(neurons):
        raise ValueError("no neurons: give (layer, index) pairs")
    _check_once(neurons)
    if not {-_DOSE, _DOSE} <= set(values):
        raise ValueError(f"values={tuple(values)} must hold {-_DOSE:g} and {_DOSE:g}")
    experiment = Experiment(
        model, findings, outcomes, point=None, rows=rows, span=pos, seed=seed, include_bos=include_bos
    )
    with undisturbed(model), packed(model):
        count = needed(controls, neuron_tests(experiment, neurons))
        ablate_neurons(experiment, neurons, values, count, pos, progress)
    fields = experiment.fields(
        neurons=[list(n) for n in neurons], rows=rows, controls=count, values=list(values)
    )
    return Ablation(**fields, pins=pin_table(experiment))


def _check_once(neurons: Sequence[tuple[int, int]]) -> None:
    """Refuse what is no pair of whole numbers, and a neuron that is named twice."""
    pairs: set[tuple[int, int]] = set()
    for neuron in neurons:
        if not isinstance(neuron, tuple | list) or len(neuron) != 2:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise LimitError("neurons", neuron, "(layer, index) pairs")
        layer, index = (check_indices("neurons", [number])[0] for number in neuron)
        if (layer, index) in pairs:
            raise LimitError("neurons", (layer, index), "each of them once, and it is there twice")
        pairs.add((layer, index))


def neuron_tests(experiment: Experiment, neurons: Sequence[tuple[int, int]]) -> int:
    """How many outcomes these neurons are tested on."""
    return len(neurons) * (len(experiment.outcomes) + 2)


def ablate_neurons(
    experiment: Experiment, neurons: Sequence[tuple[int, int]], values: Sequence[float], controls: int,
    pos: Span, progress: bool | None,
) -> None:  # fmt: skip
    """Pin and ablate one neuron after the other, and note effects, controls and pin sweeps."""
    asked = {tuple(n) for n in neurons}
    layers: dict[int, _Layer] = {}
    each = len(experiment.prompts) + 1  # once a prompt pinned, once ablated
    with bar(len(neurons) * (1 + controls) * each, "neurons and controls", "run", progress) as done:
        for number, index in neurons:
            if number not in layers:
                layers[number] = _Layer(experiment, number, pos)
            layer = layers[number]
            alike = layer.alike(index, controls, [i for at, i in asked if at == number])
            done.total -= (controls - len(alike)) * each  # a small layer has fewer
            layer.measure(index, alike, tuple(values), done)


def pin_table(experiment: Experiment) -> pd.DataFrame:
    """One row per pinned value."""
    columns = ["outcome", "asked", "kind", "neuron", "value", "effect"]
    return pd.DataFrame(experiment.measured.pins, columns=columns)


class _Layer:
    """The prompts with one layer's neurons at hand."""

    def __init__(self, experiment: Experiment, layer: int, pos: Span) -> None:
        self.experiment, self.layer = experiment, layer
        (point,) = resolve(experiment.model, f"blocks.{layer}.mlp.hook_post")
        self.runs = {p: experiment.runs_at(p, point, pos, (point,)) for p in experiment.prompts}
        self.bases = {p: runs.run() for p, runs in self.runs.items()}
        own = self.bases[experiment.prompts[0]].later[point].double().numpy()
        self.mean, self.sd = own.mean(axis=0), own.std(axis=0)
        self.written = self.sd * output_norms(experiment.model, layer, len(self.sd))

    def alike(self, index: int, count: int, leave_out: Sequence[int]) -> list[int]:
        """The neurons of the layer whose spread writes most nearly as much as this one's."""
        if not 0 <= index < len(self.sd):
            raise IndexError(f"layer {self.layer} has {len(self.sd)} neurons; there is no {index}")
        gap = np.abs(np.log(np.maximum(self.written, 1e-30)) - np.log(max(self.written[index], 1e-30)))
        gap[[*leave_out, index]] = np.inf
        order = np.argsort(gap, kind="stable")
        return [int(i) for i in order[: min(count, int(np.isfinite(gap).sum()))]]

    def pinned(self, prompt: str, pins: Sequence[tuple[int, float]]) -> list[Outputs]:
        """One run per (neuron, value): that one neuron set to that value."""
        edits: list[AffineEdit] = []
        for index, value in pins:
            unit = np.zeros((len(self.sd), 1))
            unit[index] = 1.0
            edits.append(AffineEdit.setting(unit, np.array([value]), unit.T))
        return self.runs[prompt].runs(edits)

    def measure(self, index: int, controls: list[int], values: tuple[float, ...], done: Any) -> None:
        """Note everything about one neuron; `done` is the bar that its runs are counted on."""
        asked, neurons, note = self._name(index), [index, *controls], self.experiment.measured.add
        names, norm = [self._name(n) for n in controls], float(self.written[index])
        for outcome, slopes in self._slopes(neurons, values, done).items():
            note(f"pin {asked}", outcome, "log-odds per sd", slopes, names, norm)
        for kind, divergences in self._divergences(neurons).items():
            note(f"{kind} {asked}", f"{KL}, {kind}", "nats", divergences, names, norm)
        done.update(len(neurons))

    def _slopes(self, neurons: list[int], values: tuple[float, ...], done: Any) -> dict[str, np.ndarray]:
        """Outcome → slope of its log-odds between the pins of the dose, `[neuron, row]`."""
        asked = self._name(neurons[0])
        slopes: dict[str, list[np.ndarray]] = {}
        for prompt in self.experiment.prompts:
            base = self._odds(prompt, self.bases[prompt])
            if not base:
                done.update(len(neurons))
                continue
            for k, neuron in enumerate(neurons):
                all_pins = k <= N_SWEPT
                pins = values if all_pins else (-_DOSE, _DOSE)
                goals = [(neuron, float(self.mean[neuron] + value * self.sd[neuron])) for value in pins]
                outputs = self.pinned(prompt, goals)
                odds = {v: self._odds(prompt, o) for v, o in zip(pins, outputs, strict=True)}
                for value in pins if all_pins else ():
                    for outcome, row_odds in odds[value].items():
                        self.experiment.measured.pins.append(
                            {"outcome": outcome, "asked": asked, "kind": "control" if k else "neuron",
                             "neuron": self._name(neuron), "value": value,
                             "effect": float((row_odds - base[outcome]).mean())}
                        )  # fmt: skip
                done.update()
                for outcome in base:
                    slope = (odds[_DOSE][outcome] - odds[-_DOSE][outcome]) / (2 * _DOSE)
                    slopes.setdefault(outcome, []).append(slope)
        return {outcome: np.stack(rows) for outcome, rows in slopes.items()}

    def _divergences(self, neurons: list[int]) -> dict[str, np.ndarray]:
        """Kind of ablation → next-token KL `[neuron, row]` after the first prompt."""
        prompt = self.experiment.prompts[0]
        out: dict[str, np.ndarray] = {}
        for kind in ("zero", "mean-ablate"):
            goals = [(n, 0.0 if kind == "zero" else float(self.mean[n])) for n in neurons]
            outputs = self.pinned(prompt, goals)
            out[kind] = next_tokens(self.runs[prompt], self.bases[prompt], outputs)[KL]
        return out

    def _odds(self, prompt: str, outputs: Outputs) -> dict[str, np.ndarray]:
        return self.experiment.odds(prompt, outputs, self.runs[prompt])

    def _name(self, neuron: int) -> str:
        return f"L{self.layer}.{neuron}"
