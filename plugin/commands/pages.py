"""`graticule report`: the page of what was saved, without a model."""

# ruff: noqa: ARG001 (--debug and --verbose act in `graticule.cli.main` and in their callbacks)

from pathlib import Path
from typing import Annotated

import typer

from graticule import options as o


def report(
    folder: Annotated[Path, typer.Argument(help="What 'graticule probe', 'study' or 'demo' wrote.")],
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """Write the page of saved results anew, without a model.

    \b
    Example:  graticule report graticule-demo
    """
    if (folder / "study.json").is_file():
        from graticule.studies.result import Study

        o.say(f"The pages: {Study.load(folder).report(folder / 'report.html')}")
        return
    from graticule.report.page import write_page
    from graticule.results import load_result

    here = [p.parent for name in ("findings.json", "manifest.json") for p in folder.glob(name)]
    here = here or sorted(p.parent for p in folder.glob("*/findings.json"))
    if not here:
        raise FileNotFoundError(f"{folder} holds no saved result, nor findings in any folder in it")
    page = write_page([load_result(path) for path in here], folder / "report.html")
    o.say(f"The page: {page}")
