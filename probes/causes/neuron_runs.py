"""Runs of pinned and ablated neurons, and of the neurons of their layer that write as much."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from graticule.hooks.bars import bar
from graticule.hooks.points import resolve
from graticule.hooks.protocols import HookedModel
from graticule.probes.causes.bench import KL, Bench, next_tokens, row_interval
from graticule.probes.causes.effects import effect_line
from graticule.probes.causes.rig import Ran, Rig, Span, edited_tokens
from graticule.probes.estimators.edits import AffineEdit

PIN_DOSE = 2.0
"""Standard deviations from its mean at which a neuron's effect is measured, plus and minus."""
DRAWN = 9
"""Control neurons whose whole sweep is kept for the figure, as many as in the paper."""


def neuron_tests(bench: Bench, neurons: Sequence[tuple[int, int]]) -> int:
    """How many outcomes these neurons are tested on."""
    return len(neurons) * (len(bench.outcomes) + 2)


def neuron_tables(
    bench: Bench, neurons: Sequence[tuple[int, int]], values: Sequence[float], controls: int, pos: Span,
    progress: bool | None,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Effects (not adjusted), control effects and pin sweeps."""
    parts: list[tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]] = []
    asked = {tuple(n) for n in neurons}
    layers: dict[int, _Layer] = {}
    each = len(bench.prompts) + 1  # once a prompt pinned, once ablated
    with bar(len(neurons) * (1 + controls) * each, "neurons and controls", "run", progress) as done:
        for layer, index in neurons:
            if layer not in layers:
                layers[layer] = _Layer(bench, layer, pos)
            held = layers[layer]
            alike = held.alike(index, controls, [i for at, i in asked if at == layer])
            done.total -= (controls - len(alike)) * each  # a small layer has fewer
            parts.append(_neuron(held, index, alike, tuple(values), done))
    effects, found, pins = (pd.concat(list(p), ignore_index=True) for p in zip(*parts, strict=True))
    return effects, found, pins


class _Layer:
    """The prompts with one layer's neurons at hand."""

    def __init__(self, bench: Bench, layer: int, pos: Span) -> None:
        self.bench, self.layer = bench, layer
        (self.point,) = resolve(bench.model, f"blocks.{layer}.mlp.hook_post")
        self.rigs: dict[str, Rig] = {}
        for prompt in bench.prompts:
            rows = bench.tokens(prompt)
            read = np.array([end - 1 for _, end in rows.spans])
            self.rigs[prompt] = Rig(
                bench.model,
                rows,
                self.point,
                edited_tokens(rows, pos, bench.include_bos),
                read,
                (self.point,),
            )
        self.bases = {p: rig.run() for p, rig in self.rigs.items()}
        own = self.bases[bench.prompts[0]].later[self.point].double().numpy()
        self.mean, self.sd = own.mean(axis=0), own.std(axis=0)
        self.written = self.sd * _write_norms(bench.model, layer, len(self.sd))

    def alike(self, index: int, count: int, leave_out: Sequence[int]) -> list[int]:
        """The neurons of the layer whose spread writes most nearly as much as this one's."""
        if not 0 <= index < len(self.sd):
            raise IndexError(f"layer {self.layer} has {len(self.sd)} neurons; there is no {index}")
        gap = np.abs(np.log(np.maximum(self.written, 1e-30)) - np.log(max(self.written[index], 1e-30)))
        gap[[*leave_out, index]] = np.inf
        order = np.argsort(gap, kind="stable")
        return [int(i) for i in order[: min(count, int(np.isfinite(gap).sum()))]]

    def pinned(self, prompt: str, pins: Sequence[tuple[int, float]]) -> list[Ran]:
        """A run a (neuron, value): that one neuron held at that value."""
        edits: list[AffineEdit] = []
        for index, value in pins:
            unit = np.zeros((len(self.sd), 1))
            unit[index] = 1.0
            edits.append(AffineEdit.setting(unit, np.array([value]), unit.T))
        return self.rigs[prompt].runs(edits)

    def odds(self, prompt: str, ran: Ran) -> dict[str, np.ndarray]:
        """Outcome → log-odds, row by row."""
        return self.bench.odds(prompt, ran, self.rigs[prompt])


def _neuron(
    layer: _Layer, index: int, controls: list[int], values: tuple[float, ...], done: Any
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Effects, control effects and pins of one neuron; `done` is the bar that they are counted on."""
    bench, asked = layer.bench, f"L{layer.layer}.{index}"
    effects: list[dict[str, Any]] = []
    held: list[dict[str, Any]] = []
    pins: list[dict[str, Any]] = []
    slopes: dict[str, list[np.ndarray]] = {}
    for prompt in bench.prompts:
        base = layer.odds(prompt, layer.bases[prompt])
        if not base:
            done.update(1 + len(controls))
            continue
        for k, neuron in enumerate([index, *controls]):
            drawn = values if k <= DRAWN else (-PIN_DOSE, PIN_DOSE)
            found: dict[float, dict[str, np.ndarray]] = {}
            goals = [(neuron, float(layer.mean[neuron] + value * layer.sd[neuron])) for value in drawn]
            for value, run in zip(drawn, layer.pinned(prompt, goals), strict=True):
                found[value] = layer.odds(prompt, run)
                if k <= DRAWN:
                    pins += [
                        {"outcome": o, "asked": asked, "kind": "control" if k else "neuron",
                         "neuron": f"L{layer.layer}.{neuron}", "value": value,
                         "effect": float((v - base[o]).mean())}
                        for o, v in found[value].items()
                    ]  # fmt: skip
            done.update()
            for o in base:
                slopes.setdefault(o, []).append((found[PIN_DOSE][o] - found[-PIN_DOSE][o]) / (2 * PIN_DOSE))
    settings = {o: ("pin", np.stack(v), "log-odds per sd") for o, v in slopes.items()}
    ablated = _ablated(layer, [index, *controls])
    done.update(1 + len(controls))
    for kind, rows in ablated.items():
        settings[f"{KL}, {kind}"] = (kind, rows, "nats")
    for outcome, (kind, rows, unit) in settings.items():
        name, means = f"{kind} {asked}", rows.mean(axis=1)
        effects.append(
            effect_line(
                intervention=name, outcome=outcome, unit=unit, tested=True, effect=float(means[0]),
                interval=row_interval(rows[0], bench.seed), controls=means[1:],
                norm=float(layer.written[index]),
            )
        )  # fmt: skip
        held += [
            {"intervention": name, "outcome": outcome, "kind": "control",
             "direction": f"L{layer.layer}.{n}", "effect": float(m)}
            for n, m in zip(controls, means[1:], strict=True)
        ]  # fmt: skip
    columns = ["outcome", "asked", "kind", "neuron", "value", "effect"]
    return pd.DataFrame(effects), pd.DataFrame(held), pd.DataFrame(pins, columns=columns)


def _ablated(layer: _Layer, neurons: list[int]) -> dict[str, np.ndarray]:
    """Kind of ablation → next-token KL `[neuron, row]` after the first prompt."""
    prompt = layer.bench.prompts[0]
    rig, base = layer.rigs[prompt], layer.bases[prompt]
    out: dict[str, np.ndarray] = {}
    for kind in ("zero", "mean-ablate"):
        goals = [(n, 0.0 if kind == "zero" else float(layer.mean[n])) for n in neurons]
        runs = layer.pinned(prompt, goals)
        out[kind] = next_tokens(rig, base, runs)[KL]
    return out


def _write_norms(model: HookedModel, layer: int, count: int) -> np.ndarray:
    """Norm of every neuron's output weights; ones where the model keeps them elsewhere."""
    try:
        blocks: Any = model.blocks  # pyright: ignore[reportAttributeAccessIssue]
        weight: torch.Tensor = blocks[layer].mlp.W_out.detach()
    except AttributeError:
        return np.ones(count)
    if weight.ndim != 2 or weight.shape[0] != count:
        return np.ones(count)
    return weight.double().norm(dim=1).cpu().numpy()
