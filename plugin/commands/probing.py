"""`graticule demo` and `graticule probe`: verdicts and a page."""

# ruff: noqa: ARG001 (--debug and --verbose act in `graticule.cli.main` and in their callbacks)

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from graticule import arguments as a
from graticule import options as o

_QUICK = 5000  # training rows up to which a calibration takes a minute at most


def demo(
    rows: Annotated[int, typer.Option(help="Rows of each table.")] = 3000,
    full: Annotated[bool, typer.Option("--full", help="All rows.")] = False,
    out: o.Out = Path("graticule-demo"),
    model: o.ModelName = "gemma-3-270m",
    calibrate: o.Calibrate = None,
    seed: Annotated[int, typer.Option(help="Seed of the rows drawn and of the twin.")] = 0,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """Space and time in a small language model, on one page.

    Both packaged tables, baselines with one untrained twin, and a verdict on each.

    \b
    Example:  graticule demo --rows 1000 --out my-demo
    """
    import graticule
    from graticule.commands.folders import DEMO
    from graticule.hooks.kinds import working_folder
    from graticule.report.page import write_page

    _need_several(calibrate)
    DEMO.check(out)
    tables = [graticule.Table.packaged(name) for name in ("world_cities", "historical_figures")]
    tables = tables if full else [table.head(rows, seed) if rows < len(table) else table for table in tables]
    o.say(f"loading {model}", err=True)
    loaded = graticule.load_model(model)
    found: list[Any] = []
    with working_folder(out, DEMO, "running the demo in"):
        for table in tables:
            o.say(f"probing {table.name}: {len(table):,} rows", err=True)
            findings = graticule.probe(loaded, table, twins=1, seed=seed, out=out / table.name, progress=True)
            calibrated = _calibrated(findings, out / table.name, calibrate, seed)
            found.append(replace(calibrated, made_of=None))  # not held beside the next table's twin
        page = write_page(found, out / "report.html", title=f"graticule demo: {model}")
    for findings in found:
        o.say(f"{findings.title}\n{findings.summary()}\n")
    words = "; ".join(f"{table.name}: {f.verdict.words}" for table, f in zip(tables, found, strict=True))
    o.say(f"{words}. The page: {page}")


def probe(
    model: o.ModelName,
    table: o.TableName,
    out: o.Out,
    text_column: o.TextColumn = None,
    target: o.Targets = None,
    split_column: o.SplitColumn = None,
    cluster_column: o.ClusterColumn = None,
    block_column: o.Blocks = None,
    prompt: o.Prompt = "",
    points: o.Points = "resid_post",
    layers: o.LayersWords = "all",
    pos: o.PosWords = "last",
    prepend_bos: o.PrependBos = None,
    include_bos: o.IncludeBos = None,
    dtype: o.Dtype = "float32",
    device: o.Device = None,
    rows: o.Rows = None,
    twins: Annotated[int, typer.Option(help="Untrained twins among the baselines.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of splits, draws and twins.")] = 0,
    kind: o.KindOfTarget = None,
    on_bad: o.OnBad = "raise",
    min_gain: Annotated[float, typer.Option(help="Smallest gain that is called structure.")] = 0.01,
    calibrate: o.Calibrate = None,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """Probe every layer for your targets: a verdict and a page.

    Activations, baselines and probes are left in the folder; the same command run again resumes.

    \b
    Example:  graticule probe --model gemma-3-270m --table places.csv --text-column name
                --target latitude:lat --target longitude:lon --split-column is_test
                --block-column country --out places
    """
    from graticule.hooks.kinds import working_folder
    from graticule.probes.findings import FINDINGS

    where, which, tokens = a.read_layers(layers), a.read_points(points), a.read_pos(pos)
    _need_several(calibrate)
    FINDINGS.check(out)
    import graticule
    from graticule.loading.gguf import check_depth

    check_depth(model, which, where)
    entities = a.read_table(
        table,
        text_column,
        target or (),
        split=split_column,
        cluster=cluster_column,
        blocks=block_column or (),
        on_bad=on_bad,
        seed=seed,
        rows=rows,
        kind=kind,
    )
    loaded = graticule.load_model(model, dtype=dtype, device=device)
    settings: dict[str, Any] = {
        "points": which, "layers": where, "pos": tokens, "prompt": prompt,
        "prepend_bos": prepend_bos, "include_bos": include_bos,
    }  # fmt: skip
    with working_folder(out, FINDINGS, "probing into"):
        findings = graticule.probe(
            loaded, entities, **settings, twins=twins, seed=seed, min_gain=min_gain, out=out, progress=True
        )
        findings = _calibrated(findings, out, calibrate, seed)
        page = findings.report(out / "report.html")
    o.say(f"{o.in_options(findings.summary())}\nThe page: {page}")


def _need_several(targets: int | None) -> None:
    """**Raises** `ValueError` for one synthetic target, of which there is no rate."""
    if targets == 1:
        raise ValueError("--calibrate 1: expected 0 to leave it out, or at least 2 targets of each kind")


def _calibrated(findings: Any, out: Path, targets: int | None, seed: int) -> Any:
    """The findings with the gain that would have been seen; measured once, and kept."""
    import graticule
    from graticule.hooks.messages import NotApplicable
    from graticule.probes.calibration.result import detected

    if targets is None:
        targets = 100 if len(findings.material.problem.train) <= _QUICK else 0
    if targets == 0 or findings.limit_of_detection is not None:
        return findings
    o.say("measuring how small a gain would have been seen", err=True)
    try:
        calibration = graticule.calibrate(findings, targets=targets, seed=seed, progress=True)
    except NotApplicable as reason:
        o.say(f"left out: {reason}", err=True)
        return findings
    calibration.save(out / "calibration", overwrite=True)
    found = detected(findings, calibration)
    found.save(out, overwrite=True)
    return found
