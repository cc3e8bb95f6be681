"""All controls of a probe in one call."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from graticule.hooks.artifact import library_versions
from graticule.hooks.doors import FINDINGS, MODEL, door
from graticule.hooks.names import user_path
from graticule.hooks.protocols import HookedModel
from graticule.probes.controls.lines import Line, as_frame, line, not_applicable
from graticule.probes.controls.projections import dimension_lines, text_lines
from graticule.probes.controls.result import Controls
from graticule.probes.controls.setting import Setting
from graticule.probes.controls.subsets import digit_lines, repeated_lines
from graticule.probes.controls.tasks import entity_lines, token_lines
from graticule.probes.controls.twins import twin_lines
from graticule.probes.controls.within import block_lines
from graticule.probes.findings import Findings
from graticule.probes.scores.in_words import count_of, signed

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
    - `seeds` *untrained twins*; those that the findings' baselines lack are made from `model`, and kept in
      the folder `store` where one is given;
    - scores *within blocks* and *block oracles*, for every block column of the table;
    - *digit-only names* and *repeated texts* set aside;
    - the findings' own null checks: shuffled targets, and the twin in the probe's place.

    Every control chooses its strength as the probe did. Intervals resample clusters of rows with all fits
    held fixed, paired between probe and control. What cannot be done has a line that says why.

    **Raises** `ValueError` if the findings come without material (`Findings.with_material`), for fewer than
    one seed, or for another model than the baselines'.
    """
    setting = Setting.of(findings, seeds, seed)
    lines = _reference(setting)
    frames: dict[str, pd.DataFrame] = {}
    folder = None if store is None else user_path(store)

    def dimensions() -> list[Line]:
        made, frames["curve"] = dimension_lines(setting)
        return made

    def blocks() -> list[Line]:
        made, frames["blocks"] = block_lines(setting)
        return made

    steps: Sequence[tuple[str, Callable[[], list[Line]]]] = (
        ("control task, token", lambda: token_lines(setting)),
        ("twins", lambda: twin_lines(setting, model, folder, progress)),
        ("random features", lambda: text_lines(setting)),
        ("matched k", dimensions),
        ("blocks", blocks),
        ("digits", lambda: digit_lines(setting)),
        ("repeated", lambda: repeated_lines(setting)),
        ("control task, text", lambda: entity_lines(setting)),
        ("shuffled", lambda: _shuffled(setting)),
    )
    quiet = not (progress if progress is not None else setting.x_train.size > _SHOW_PROGRESS)
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
        table=as_frame(lines),
        curve=frames["curve"],
        blocks=frames["blocks"],
        provenance={
            "findings": dict(findings.provenance),
            "point": findings.chosen_point,
            "seeds": seeds,
            "seed": seed,
            "draws": setting.draws,
            "with_model": model is not None,
            "versions": library_versions(),
            "made_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        },
    )


def _reference(setting: Setting) -> list[Line]:
    """The probe, the stack of all baselines, and the strongest of them."""
    y, verdict = setting.y_test, setting.findings.verdict
    pairs = {"probe": (y, setting.probe.test), "surface": (y, setting.surface.test)}
    best = verdict.strongest_baseline
    if best is not None:
        pairs[best] = y, setting.material.rivals[best].test
    found = setting.scores(pairs)
    asks = {"probe": "the probe of the findings", "surface": "all baselines stacked: the verdict's surface"}
    return [
        line(
            "reference",
            name,
            asks.get(name, "the strongest single baseline on training rows"),
            score,
            None if name == "probe" else found["probe"],
            len(y),
            note=f"the probe adds {signed(verdict.gain, count_of(len(y), 'test row'))} to it: {verdict.words}"
            if name == "surface"
            else "",
        )
        for name, score in found.items()
    ]


def _shuffled(setting: Setting) -> list[Line]:
    """The findings' own check, quoted: it keeps one number, so there is no interval."""
    asks = "the probe's fit to targets dealt anew among rows: must be nothing"
    held = setting.findings.baselines.get("shuffled")
    if held is None:
        return [not_applicable("check", "shuffled targets", asks, "the findings have no such check")]
    score, probe = float(held["test"]["r2"]), setting.findings.verdict.score
    rows = len(setting.y_test)
    note = "quoted from the findings; the text control task, held out, has the interval"
    return [
        Line(
            "check",
            "shuffled targets",
            asks,
            score=score,
            probe=probe,
            difference=probe - score,
            rows=rows,
            note=note,
        )
    ]
