"""Running a study: each step once, its results on disk before the next begins."""

from __future__ import annotations

import difflib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from graticule.hooks.artifact import ArtifactError, read_json, write_json
from graticule.hooks.doors import MODEL, TABLE, door
from graticule.hooks.protocols import HookedModel
from graticule.hooks.saved import SavedResult
from graticule.probes.applicable import NotApplicable
from graticule.probes.calibration.result import Calibration, detected
from graticule.probes.probe import probe
from graticule.probes.tables.table import Table
from graticule.results import load_result
from graticule.studies.context import Context, Step
from graticule.studies.result import Study
from graticule.studies.settings import Settings
from graticule.studies.steps import STEPS

_log = logging.getLogger(__name__)

Say = Callable[[str], None]


@door(model=MODEL, table=TABLE)
def study(
    model: HookedModel,
    table: Table,
    out: Path | str,
    *,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    settings: Settings | None = None,
    prompt: str = "",
    pos: Any = "last",
    pages: bool = True,
    progress: bool | None = None,
    say: Say | None = None,
) -> Study:
    """The whole battery on one table, in steps that are kept on disk, with a page a part.

    The first step is `probe`, and its verdict stands first; the others (`studies.steps.STEPS`) go on
    from its findings. A step whose results are whole and were made from the same findings and settings is
    read, not run: a killed study called again goes on where it was. A step that does not apply to this
    table or model says why; one that fails is recorded with its error (`Study.failed`), and the others go on.

    **Arguments:** `out` the folder; `only`, `skip` names of steps; `settings` what they do; `prompt`, `pos`
    of the main capture; `pages=False` writes none; `say` is given a line a step.

    **Raises** `ValueError` for unknown steps, and what `probe` raises.
    """
    wanted = chosen_steps(only, skip)
    settings, folder, tell = settings or Settings(), Path(out), say or _log.info
    started = time.monotonic()
    tell(f"probe: {len(table):,} rows")
    shared: dict[str, Any] = {"prompt": prompt, "pos": pos, "seed": settings.seed, "progress": progress}
    findings = probe(model, table, out=folder / "probe", **shared)
    tell(f"probe: {findings.verdict.words} ({_took(started)})")
    context = Context(model, table, findings, folder, settings, progress=progress)
    failures: dict[str, str] = {}
    for number, step in enumerate(wanted, start=1):
        started = time.monotonic()
        tell(f"[{number}/{len(wanted)}] {step.name}: {step.title}")
        try:
            results = results_of(step, context)
        except NotApplicable as reason:
            failures[step.name] = f"not applicable: {reason}"
            tell(f"    {failures[step.name]}")
            continue
        except Exception as error:  # the other steps do not depend on this one
            _log.exception("the step %s failed", step.name)
            failures[step.name] = f"failed: {type(error).__name__}: {error}"
            tell(f"    {failures[step.name]}")
            continue
        context = context.with_made(step.name, results)
        if step.name == "calibrate":
            calibration = results["calibration"]
            assert isinstance(calibration, Calibration)
            context = replace(context, findings=detected(context.findings, calibration))
            context.findings.save(folder / "probe")
        for result in results.values():
            tell(f"    {result.summary().splitlines()[0]}")
        tell(f"    {_took(started)}")
    made = Study(context.findings, dict(context.made), failures)
    made.save(folder)
    if pages:
        tell("writing the pages")
        made.report(folder / "report.html")
    return made


def chosen_steps(only: Sequence[str], skip: Sequence[str]) -> list[Step]:
    """The steps of a study in their order. **Raises** `ValueError` for a name that is none."""
    names = [step.name for step in STEPS]
    for name in (*only, *skip):
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"no step {name!r} in a study{hint} There are: {', '.join(names)}")
    return [step for step in STEPS if (not only or step.name in only) and step.name not in skip]


def results_of(step: Step, context: Context) -> Mapping[str, SavedResult]:
    """Results of a step, read where they are whole and of this very request, made and saved otherwise."""
    folder, fingerprint = context.out / step.name, step.fingerprint(context)
    found = _already(folder, fingerprint)
    if found is not None:
        return found
    results = step.run(context)
    index = folder / "step.json"
    index.unlink(missing_ok=True)
    for name, result in results.items():
        result.save(folder / name)
    write_json(index, {"step": step.name, "fingerprint": fingerprint, "results": list(results)})
    return results


def _already(folder: Path, fingerprint: str) -> dict[str, SavedResult] | None:
    if not (folder / "step.json").is_file():
        return None
    try:
        index = read_json(folder / "step.json")
        if index.get("fingerprint") != fingerprint:
            return None
        return read_step(folder)
    except ArtifactError as error:
        _log.info("the step in %s is run again: %s", folder, error)
        return None


def read_step(folder: Path) -> dict[str, SavedResult]:
    """The saved results of a step, by name. **Raises** `ArtifactError` if they are not whole."""
    out: dict[str, SavedResult] = {}
    for name in read_json(folder / "step.json")["results"]:
        result = load_result(folder / name)
        assert isinstance(result, SavedResult)
        out[name] = result
    return out


def _took(started: float) -> str:
    seconds = time.monotonic() - started
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
