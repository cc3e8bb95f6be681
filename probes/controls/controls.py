"""All controls of a probe in one call: what its score is worth."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from graticule.hooks.artifact import library_versions
from graticule.hooks.doors import FINDINGS, MODEL, door
from graticule.hooks.names import user_path
from graticule.hooks.protocols import HookedModel
from graticule.probes.controls.inputs import ControlInputs, Line, Question
from graticule.probes.controls.parts import block_lines, digit_lines, repeated_lines
from graticule.probes.controls.randomised import (
    dimension_lines,
    entity_lines,
    text_lines,
    token_lines,
    twin_lines,
)
from graticule.probes.controls.result import Controls
from graticule.probes.core.findings import Findings
from graticule.probes.scores.metrics import count_of, signed

_SHOW_PROGRESS = 2_000_000  # training rows × width from which a bar is shown


@door(findings=FINDINGS, model=MODEL)
def controls(
    findings: Findings,
    model: HookedModel | None = None,
    *,
    seeds: int = 3,
    seed: int = 0,
    store: Path | str | None = None,
    progress: bool | None = None,
) -> Controls:
    """What everything reaches that holds a part of the probe's recipe fixed, at the probe's own point.

    - a *control task* keyed on the last token (Hewitt & Liang 2019): a random target for every token, scored
      on test rows whose token training rows have; the difference is the probe's **selectivity**. The same
      keyed on the text is a train fit only: held out it is 0, every text being new;
    - *random features* of the text, and ridge on k directions of the activations (Altmeyer et al. 2024);
    - *untrained twins*: those of the findings' baselines, and others made from `model`;
    - scores *within blocks* and *block oracles*, for every block column of the table;
    - *digit-only names* and *repeated texts* set aside;
    - the findings' own null checks: shuffled targets, and the twin in the probe's place.

    Every control chooses its strength as the probe did. Intervals resample clusters of rows with all fits
    held fixed, paired between probe and control. What cannot be done has a line that says why.

    Args:
        findings: A sweep's findings, with their inputs.
        model: The model that was captured; twins that the baselines lack are made from it.
        seeds: Random draws per control, and twins.
        seed: The seed of all draws and of the bootstrap.
        store: A folder that keeps the twins' activations.
        progress: Whether to show a bar; by default for large findings.

    Returns:
        One line per control, beside the probe on the same rows.

    Raises:
        ValueError: If the findings come without their inputs (`Findings.with_inputs`), for fewer than one
            seed, or for another model than the baselines'.
    """
    inputs = ControlInputs.of(findings, seeds, seed)
    lines = _reference(inputs)
    frames: dict[str, pd.DataFrame] = {}
    folder = None if store is None else user_path(store)

    def dimensions() -> list[Line]:
        made, frames["curve"] = dimension_lines(inputs)
        return made

    def blocks() -> list[Line]:
        made, frames["blocks"] = block_lines(inputs)
        return made

    steps: Sequence[tuple[str, Callable[[], list[Line]]]] = (
        ("control task, token", lambda: token_lines(inputs)),
        ("twins", lambda: twin_lines(inputs, model, folder, progress)),
        ("random features", lambda: text_lines(inputs)),
        ("matched k", dimensions),
        ("blocks", blocks),
        ("digits", lambda: digit_lines(inputs)),
        ("repeated", lambda: repeated_lines(inputs)),
        ("control task, text", lambda: entity_lines(inputs)),
        ("shuffled", lambda: [_shuffled(inputs)]),
    )
    quiet = not (progress if progress is not None else inputs.x_train.size > _SHOW_PROGRESS)
    with tqdm(total=len(steps), desc="controls", disable=quiet, leave=False) as bar:
        for name, step in steps:
            bar.set_postfix_str(name)
            lines += step()
            bar.update()
    return Controls(
        model=findings.model,
        data=findings.table,
        point=findings.chosen_point,
        target_names=findings.target_names,
        seeds=seeds,
        table=pd.DataFrame([asdict(line) for line in lines]).astype({"rows": np.int64, "seeds": np.int64}),
        curve=frames["curve"],
        blocks=frames["blocks"],
        provenance={
            "findings": dict(findings.provenance),
            "judged_in": findings.verdict.metric,
            "point": findings.chosen_point,
            "seeds": seeds,
            "seed": seed,
            "draws": inputs.n_bootstrap,
            "with_model": model is not None,
            "versions": library_versions(),
            "made_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        },
    )


def _reference(inputs: ControlInputs) -> list[Line]:
    """The probe, the stack of all baselines, and the strongest of them."""
    y, verdict, judged = inputs.y_test, inputs.findings.verdict_in_r2, inputs.findings.verdict_of_split
    pairs = {"probe": (y, inputs.probe.test), "surface": (y, inputs.surface.test)}
    best = verdict.strongest_baseline
    if best is not None:
        pairs[best] = y, inputs.swept.baseline_predictions[best].test
    scores = inputs.scores(pairs)
    asks = {"probe": "the probe of the findings", "surface": "all baselines stacked: the verdict's surface"}
    gain = signed(judged.gain, count_of(len(y), "test row")) + (" bits" if judged.metric == "bits" else "")
    notes = {"surface": f"the probe adds {gain} to it: {judged.label}"}
    lines: list[Line] = []
    for name, score in scores.items():
        question = asks.get(name, "the strongest single baseline on training rows")
        beside = None if name == "probe" else scores["probe"]
        lines.append(
            Question("reference", name, question).line(score, beside, len(y), note=notes.get(name, ""))
        )
    return lines


def _shuffled(inputs: ControlInputs) -> Line:
    """The findings' own check, quoted: it keeps one number, so there is no interval."""
    asks = "the probe's fit to targets dealt anew among rows: must be nothing"
    question = Question("check", "shuffled targets", asks)
    check = inputs.findings.baselines.get("shuffled")
    if check is None:
        return question.not_applicable("the findings have no such check")
    score, probe = float(check["test"]["r2"]), inputs.findings.verdict_in_r2.score
    return Line(
        **asdict(question),
        score=score,
        probe=probe,
        difference=probe - score,
        rows=len(inputs.y_test),
        note="quoted from the findings; the text control task, held out, has the interval",
    )
