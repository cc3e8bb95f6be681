"""Running a study: each step once, its results on disk before the next begins."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from graticule.hooks.artifact import ArtifactError, as_damaged, check_schema, read_json, write_json
from graticule.hooks.calls import renamed
from graticule.hooks.capture_spec import CaptureSpec, check_pos, pos_to_data
from graticule.hooks.doors import MODEL, TABLE, door
from graticule.hooks.kinds import ForeignFolderError, working_folder
from graticule.hooks.messages import NotApplicable, did_you_mean
from graticule.hooks.names import inside
from graticule.hooks.protocols import HookedModel
from graticule.hooks.replacing import recover, replacing_entries
from graticule.hooks.saved import SavedResult
from graticule.probes.calibration.result import Calibration, detected
from graticule.probes.probe import probe
from graticule.probes.tables.table import Table
from graticule.report import page_in
from graticule.studies.result import Study, read_step
from graticule.studies.steps import STEPS, STUDY, Context, Settings, StepNames, StudyStep

_log = logging.getLogger(__name__)

Say = Callable[[str], None]


@renamed("out")
@door(model=MODEL, table=TABLE)
def study(
    model: HookedModel,
    table: Table,
    *,
    out: Path | str,
    only: StepNames = (),
    skip: StepNames = (),
    settings: Settings | None = None,
    prompt: str = "",
    pos: Any = "last",
    prepend_bos: bool | None = None,
    include_bos: bool | None = None,
    pages: bool = True,
    progress: bool | None = None,
    say: Say | None = None,
) -> Study:
    """The whole battery on one table, in steps that are kept on disk, with one page per part.

    The first step is `probe`, and its verdict stands first; the others (`studies.steps.STEPS`) go on
    from its findings. A step whose results are whole and were made from the same findings and settings is
    read, not run: a killed study called again goes on where it was. A step that does not apply to this
    table or model says why; one that fails is recorded with its error (`Study.failed`), and the others go on.

    Args:
        model: a hooked model.
        table: the table.
        out: the folder.
        only: names of the only steps to run.
        skip: names of steps to leave out.
        settings: what the steps do.
        prompt: of the main capture.
        pos: of the main capture.
        prepend_bos: of the main capture and of the other prompts' as well.
        include_bos: likewise.
        pages: False writes none.
        progress: bars; by default by size.
        say: is given a line per step.

    Raises:
        ValueError: for unknown steps, and what `probe` raises.
    """
    wanted = chosen_steps(only, skip)
    settings, tell = settings or Settings(), say or _log.info
    settings.check_names(table)
    check_pos(pos)
    spec = CaptureSpec(
        prompt=prompt, positions=pos_to_data(pos), prepend_bos=prepend_bos, include_bos=include_bos
    )
    shared = spec.arguments(seed=settings.seed, progress=progress)
    with working_folder(out, STUDY, "running a study in") as folder:
        _check_steps(folder, wanted)
        if pages:
            page_in(folder)
        return _study(model, table, folder, wanted, settings, shared, pages, tell)


def _study(
    model: HookedModel,
    table: Table,
    folder: Path,
    wanted: Sequence[StudyStep],
    settings: Settings,
    shared: Mapping[str, Any],
    pages: bool,
    tell: Say,
) -> Study:
    started = time.monotonic()
    tell(f"probe: {len(table):,} rows")
    findings = probe(model, table, out=folder / "probe", **shared)
    tell(f"probe: {findings.verdict.label} ({_took(started)})")
    context = Context(model, table, findings, folder, settings, progress=shared["progress"])
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
        context = replace(context, made={**context.made, step.name: results})
        for column, why in ({} if step.skips is None else step.skips(context)).items():
            failures[f"{step.name}: {column}"] = f"not applicable: {why}"
            tell(f"    {column}: not applicable: {why}")
        if step.name == "calibrate":
            calibration = results["calibration"]
            assert isinstance(calibration, Calibration)
            context = replace(context, findings=detected(context.findings, calibration))
            context.findings.save(folder / "probe", overwrite=True)
        for result in results.values():
            tell(f"    {result.summary().splitlines()[0]}")
        tell(f"    {_took(started)}")
    made = Study(context.findings, dict(context.made), failures)
    made.save(folder, overwrite=True)
    if pages:
        tell("writing the pages")
        made.report(page_in(folder))
    return made


def chosen_steps(only: StepNames, skip: StepNames) -> list[StudyStep]:
    """The steps of a study in their order.

    Raises:
        ValueError: for a name that is none.
    """
    names = [step.name for step in STEPS]
    only, skip = (
        [one] if isinstance(one, str) else one for one in (only, skip)
    )  # one name is not its letters
    for what, given in (("only", only), ("skip", skip)):
        if not isinstance(given, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"study: {what} is {given!r}; expected names of steps, {what}=['controls']")
    for name in (*only, *skip):
        if name not in names:
            parts = [part.strip() for part in str(name).split(",")]
            several = f"; did you mean {parts}?" if len(parts) > 1 and set(parts) <= set(names) else ""
            hint = several or did_you_mean(name, names) or "."
            raise ValueError(f"no step {name!r} in a study{hint} There are: {', '.join(names)}")
    return [step for step in STEPS if (not only or step.name in only) and step.name not in skip]


def results_of(step: StudyStep, context: Context) -> Mapping[str, SavedResult]:
    """Results of a step, read where they are whole and of this very request, made and saved otherwise."""
    folder, fingerprint = context.out / step.name, step.fingerprint(context)
    saved = _already(folder, fingerprint)
    if saved is not None:
        return saved
    results = step.run(context)
    with replacing_entries(folder, step.name) as place:
        for name, result in results.items():
            result.save(inside(place, name))
        index = {"step": step.name, "fingerprint": fingerprint, "results": list(results)}
        write_json(place / "step.json", index)
    return results


def _already(folder: Path, fingerprint: str) -> dict[str, SavedResult] | None:
    recover(folder)
    if not (folder / "step.json").is_file():
        return None
    try:
        index = read_json(folder / "step.json")
        if index.get("fingerprint") == fingerprint:
            return read_step(folder)
        _log.warning("the step in %s is run again: it was made by other settings or another version", folder)
    except ArtifactError as error:
        _log.warning("the step in %s is run again: %s", folder, error)
    return None


def _check_steps(folder: Path, wanted: Sequence[StudyStep]) -> None:
    """Raise `ForeignFolderError` if a finished study there has steps that this one would drop."""
    if not (folder / "study.json").is_file():
        return
    names = [step.name for step in wanted]
    with as_damaged(folder / "study.json", "choose another folder"):
        index = read_json(folder / "study.json")
        check_schema(index, STUDY.kind, folder)
        dropped = [str(step) for step in index["steps"] if step not in names]
    if dropped:
        raise ForeignFolderError(
            f"{folder} holds a study with the steps {', '.join(dropped)}, which this one leaves out; "
            "run them too, or choose another folder"
        )


def _took(started: float) -> str:
    seconds = time.monotonic() - started
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
