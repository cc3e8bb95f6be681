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
    from graticule.hooks.artifact import as_damaged
    from graticule.report.page import write_page
    from graticule.results import load_result

    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is no folder, so no saved result: name what 'graticule probe' or 'study' wrote"
        )
    if (folder / "run.json").is_file() or (folder / "evaluation.json").is_file():
        raise ValueError(f"{folder} is an SAE's folder: graticule sae report {folder}")
    if (folder / "study.json").is_file():
        from graticule.studies.result import Study

        with as_damaged(folder, "write it again", also=()):
            pages = Study.load(folder).report(folder / "report.html")
        o.say(f"The pages: {pages}")
        return
    here = [p.parent for name in ("findings.json", "manifest.json") for p in folder.glob(name)]
    here = here or sorted(p.parent for p in folder.glob("*/findings.json"))
    if not here:
        raise FileNotFoundError(f"{folder} holds no saved result, nor findings in any folder in it")
    results = [load_result(path) for path in here]
    with as_damaged(folder, "write it again", also=()):
        page = write_page(results, folder / "report.html")
    o.say(f"The page: {page}")
