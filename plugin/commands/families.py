"""`graticule family` and `monitor`: what goes on from saved findings, without a model."""

from pathlib import Path
from typing import Annotated, Any

import typer

from graticule.commands import options as o


def family_command(
    folders: Annotated[
        list[Path],
        typer.Argument(help="What 'graticule probe' or 'study' wrote; or a folder of such folders."),
    ],
    out: o.Out = Path("runs/family"),
    method: Annotated[
        str,
        typer.Option(help="What decides: benjamini-hochberg, benjamini-yekutieli or max-t; all are listed."),
    ] = "benjamini-hochberg",
    level: Annotated[
        float, typer.Option(help="The share of false ones among those named; of max-t, the chance of any.")
    ] = 0.05,
    seed: Annotated[int, typer.Option(min=0, help="Seed of max-t's sign turns.")] = 0,
) -> None:
    """Judge the findings of many concepts, layers or models together: which stand with all tests counted.

    One verdict in a few hundred is structure by luck, so that a hundred concepts without any give a false one
    in every second or third study. No model is loaded; the page lists every finding with its p-values.

    \b
    Example:  graticule family runs/colours runs/animals runs/tenses --out together
              graticule family runs --level 0.1
    """
    from graticule.hooks.kinds import working_folder
    from graticule.probes.families.family import judge_family
    from graticule.probes.families.result import METHODS
    from graticule.results import FAMILY

    if method not in METHODS:
        raise ValueError(f"--method {method!r}: expected {', '.join(METHODS)}")
    FAMILY.check(out)
    places = [place for folder in folders for place in _findings_in(folder)]
    names = [str(place) for place in dict.fromkeys(places)]
    options: dict[str, Any] = {"method": method, "level": level, "seed": seed}
    with working_folder(out, FAMILY, "writing into"):
        family = judge_family({name: name for name in names}, **options, progress=True)
        family.save(out / "family")
        page = family.report(out / "report.html")
    o.say(f"{family.summary()}\nThe page: {page}")


def monitor_command(
    folder: Annotated[Path, typer.Argument(help="What 'graticule probe' or 'study' wrote, of yes or no.")],
    out: o.Out = Path("runs/monitor"),
    false_positive_rate: Annotated[
        list[float] | None,
        typer.Option(
            help="Share of the other class that may raise an alarm; may be repeated (0.01 and 0.05).",
            show_default=False,
        ),
    ] = None,
) -> None:
    """A yes-or-no probe as a monitor: what it catches at alarms that are rarely false.

    Thresholds are chosen on training rows, recall and false alarms are those of test rows; beside them the
    Brier score and the calibration curve. No model is loaded.

    \b
    Example:  graticule monitor runs/harmful --false-positive-rate 0.01 --out alarms
    """
    from graticule.hooks.kinds import working_folder
    from graticule.probes.beyond.monitor import monitor
    from graticule.probes.core.findings import Findings
    from graticule.results import MONITOR

    MONITOR.check(out)
    (place,) = _findings_in(folder)[:1]
    with working_folder(out, MONITOR, "writing into"):
        alarms = monitor(Findings.load(place), false_positive_rates=false_positive_rate or (0.01, 0.05))
        alarms.save(out / "monitor")
        page = alarms.report(out / "report.html")
    o.say(f"{alarms.summary()}\nThe page: {page}")


def _findings_in(folder: Path) -> list[Path]:
    """Folders of findings: this one, a study's, or those in it.

    Raises:
        FileNotFoundError: There are none.
    """
    for place in (folder, folder / "probe"):
        if (place / "findings.json").is_file():
            return [place]
    several = [p.parent for name in ("*", "*/probe") for p in folder.glob(f"{name}/findings.json")]
    if not several:
        raise FileNotFoundError(
            f"{folder} holds no findings, nor do the folders in it: name what 'graticule probe' wrote"
        )
    return sorted(several)
