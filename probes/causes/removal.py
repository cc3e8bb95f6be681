"""The concept erased inside the model, beside erasers of other features that remove as much."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from graticule.hooks.bars import bar
from graticule.probes.causes.bench import KL, LOSS, Bench, next_tokens, row_interval
from graticule.probes.causes.controls import frame_of, matched_erasers
from graticule.probes.causes.effects import effect_line
from graticule.probes.causes.leace import Eraser
from graticule.probes.causes.rig import Ran

_CHUNK = 10
"""Runs whose ends are held before their logits are taken."""


def removal_tests(bench: Bench) -> int:
    """How many outcomes an erasure is tested on: every stated answer, KL and loss."""
    return len(bench.outcomes) + 1 + int(bench.text_rig() is not None)


def removal_tables(
    bench: Bench, names: Sequence[str], controls: int, progress: bool | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Effects (not adjusted) and control effects of erasing all of `names` at once.

    Outcomes: how far the stated answers stop following the truth (the slope of the log-odds on the target,
    per standard deviation, after less before); KL of the next token after the prompt; loss of the last token
    of the table's own texts.
    """
    columns = [bench.findings.target_names.index(n) for n in names]
    eraser = Eraser.fit(bench.X, bench.y[:, columns], moments=bench.moments)
    frame = frame_of(bench.moments, eraser)
    rng = np.random.default_rng([bench.seed, 3])
    drawn = matched_erasers(bench.moments, frame, controls, rng)
    name = f"erase {' and '.join(names)}"
    rows: dict[str, list[np.ndarray]] = {}
    with bar(len(drawn) + 1, name, "eraser", progress) as done:
        every = [eraser, *drawn]
        for start in range(0, len(every), _CHUNK):
            some = every[start : start + _CHUNK]
            for outcome, values in _measured(bench, some).items():
                rows.setdefault(outcome, []).append(values)
            done.update(len(some))
    norm = float(np.sqrt(eraser.removed))
    effects: list[dict[str, Any]] = []
    held: list[dict[str, Any]] = []
    for outcome, parts in rows.items():
        values = np.concatenate(parts)
        means = values.mean(axis=1)
        effects.append(
            effect_line(
                intervention=name,
                outcome=outcome,
                unit="nats" if outcome.startswith((KL, LOSS)) else "log-odds per sd of the target",
                tested=True,
                effect=float(means[0]),
                interval=row_interval(values[0], bench.seed),
                controls=means[1:],
                norm=norm,
            )
        )
        held += [
            {"intervention": name, "outcome": outcome, "kind": "control", "direction": f"control {i}",
             "effect": float(v)}
            for i, v in enumerate(means[1:])
        ]  # fmt: skip
    return pd.DataFrame(effects), pd.DataFrame(held)


def _measured(bench: Bench, erasers: Sequence[Eraser]) -> dict[str, np.ndarray]:
    """Outcome → `[eraser, row]` whose mean over rows is the effect."""
    out: dict[str, np.ndarray] = {}
    for k, prompt in enumerate(bench.prompts):
        rig, base = bench.rig(prompt), bench.base(prompt)
        runs = rig.runs([eraser.edit for eraser in erasers])
        out |= _slopes(bench, prompt, base, runs)
        if k == 0:
            out[f"{KL} after the prompt"] = next_tokens(rig, base, runs)[KL]
    texts = bench.text_rig()
    if texts is not None:
        rig, truth = texts
        base = bench.text_base()
        runs = rig.runs([eraser.edit for eraser in erasers])
        out[LOSS] = next_tokens(rig, base, runs, truth)[LOSS]
    return out


def _slopes(bench: Bench, prompt: str, base: Ran, runs: Sequence[Ran]) -> dict[str, np.ndarray]:
    """Per row the part it has in the slope's change: their mean is the slope after less the slope before."""
    plain = bench.odds(prompt, base)
    out: dict[str, np.ndarray] = {}
    for outcome in bench.outcomes:
        if outcome.prompt != prompt:
            continue
        truth = bench.truth[:, bench.findings.target_names.index(outcome.target)]
        z = (truth - truth.mean()) / max(float(truth.std()), 1e-300)
        after = np.stack([bench.odds(prompt, run)[outcome.name] for run in runs])
        out[f"{outcome.name}, following the truth"] = z * (after - plain[outcome.name])
    return out
