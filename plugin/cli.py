"""`graticule …`: every command is a call that a notebook could make; this file only reads words and prints.

Nothing heavy is imported before a command needs it: `graticule --help` loads no torch.
"""

# ruff: noqa: ARG001 (--debug, --verbose and --version act in `main` and in their callbacks)

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from graticule import arguments as a
from graticule import options as o

app = typer.Typer(
    name="graticule",
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> bool:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"graticule {version('graticule')}")
        raise typer.Exit
    return wanted


@app.callback()
def graticule(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """Which concepts a language model represents linearly, where, and how far to believe it.

    \b
    Example:  graticule demo
    """


@app.command()
def demo(
    rows: Annotated[int, typer.Option(help="Rows of each table.")] = 3000,
    full: Annotated[bool, typer.Option("--full", help="All rows.")] = False,
    out: o.Out = Path("graticule-demo"),
    model: o.ModelName = "gemma-3-270m",
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
    from graticule.report.page import write_page

    a.need_folder(out)
    tables = [graticule.Table.packaged(name) for name in ("world_cities", "historical_figures")]
    tables = tables if full else [table.head(rows, seed) if rows < len(table) else table for table in tables]
    typer.echo(f"loading {model}", err=True)
    loaded = graticule.load_model(model)
    found: list[Any] = []
    for table in tables:
        typer.echo(f"probing {table.name}: {len(table):,} rows", err=True)
        found.append(graticule.probe(loaded, table, twins=1, seed=seed, out=out / table.name, progress=True))
    page = write_page(found, out / "report.html", title=f"graticule demo: {model}")
    for findings in found:
        typer.echo(f"{findings.title}\n{findings.summary()}\n")
    words = "; ".join(f"{table.name}: {f.verdict.words}" for table, f in zip(tables, found, strict=True))
    typer.echo(f"{words}. The page: {page}")


@app.command()
def probe(
    model: o.ModelName,
    table: o.TableName,
    out: o.Out,
    text_column: o.TextColumn = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="Column to read out, NAME[:lat|lon|year|UNIT]; repeat for several.", show_default=False
        ),
    ] = None,
    split_column: Annotated[str | None, typer.Option(help="Column with the split, used as it is.")] = None,
    cluster_column: Annotated[str | None, typer.Option(help="Column of rows that belong together.")] = None,
    block_column: o.Blocks = None,
    prompt: o.Prompt = "",
    points: o.Points = "resid_post",
    layers: o.LayersWords = "all",
    pos: o.PosWords = "last",
    dtype: o.Dtype = "float32",
    device: o.Device = None,
    rows: Annotated[int | None, typer.Option(help="Only this many rows, drawn by whole clusters.")] = None,
    twins: Annotated[int, typer.Option(help="Untrained twins among the baselines.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of splits, draws and twins.")] = 0,
    on_bad: Annotated[str, typer.Option(help="Rows with a missing target: 'raise' or 'drop'.")] = "raise",
    min_gain: Annotated[float, typer.Option(help="Smallest gain that is called structure.")] = 0.01,
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
    where, which, tokens = a.read_layers(layers), a.read_points(points), a.read_pos(pos)
    a.need_folder(out)
    import graticule

    entities = a.read_table(
        table,
        text_column,
        target or (),
        split=split_column,
        cluster=cluster_column,
        blocks=block_column or (),
        on_bad=on_bad,
        seed=seed,
    )
    if rows is not None and rows < len(entities):
        entities = entities.head(rows, seed)
    loaded = graticule.load_model(model, dtype=dtype, device=device)
    settings: dict[str, Any] = {"prompt": prompt, "points": which, "layers": where, "pos": tokens}
    findings = graticule.probe(
        loaded, entities, **settings, twins=twins, seed=seed, min_gain=min_gain, out=out, progress=True
    )
    page = findings.report(out / "report.html")
    typer.echo(f"{findings.summary()}\nThe page: {page}")


@app.command()
def capture(
    model: o.ModelName,
    out: o.Out,
    table: Annotated[
        str | None, typer.Option(help="CSV, Parquet, a datasets folder, or a packaged name.")
    ] = None,
    texts: Annotated[Path | None, typer.Option(help="A .txt file, one text a line.")] = None,
    text_column: o.TextColumn = None,
    prompt: o.Prompt = "",
    points: o.Points = "resid_post",
    layers: o.LayersWords = "all",
    pos: o.PosWords = "last",
    dtype: o.Dtype = "float32",
    device: o.Device = None,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """Stream a model's activations on texts to a store on disk.

    The same command run again goes on after its last whole shard.

    \b
    Example:  graticule capture --model gemma-3-270m --texts lines.txt --layers 0.5 --out store
    """
    where, which, tokens = a.read_layers(layers), a.read_points(points), a.read_pos(pos)
    inputs, columns = a.read_texts(table, texts, text_column)
    a.need_folder(out)
    import graticule

    loaded = graticule.load_model(model, dtype=dtype, device=device)
    settings: dict[str, Any] = {"points": which, "layers": where, "pos": tokens, "prompt": prompt}
    store = graticule.capture(loaded, inputs, **settings, rows=columns, store=out, progress=True)
    widths = ", ".join(map(str, sorted(set(store.widths.values()))))
    typer.echo(
        f"{store.n_rows:,} rows at {len(store.points)} points of width {widths}: {', '.join(store.points)}"
    )
    typer.echo(f"The store: {out}")


@app.command()
def tables(
    name: Annotated[str | None, typer.Argument(help="A packaged table.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the table here, .csv or .parquet.")] = None,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """List the packaged tables, or export one.

    With a name, what is in that table; with --out, the table as a file.

    \b
    Example:  graticule tables world_cities --out cities.csv
    """
    from graticule.probes.tables.reading import packaged_tables
    from graticule.probes.tables.table import Table

    if name is None:
        if out is not None:
            raise ValueError(f"--out {out}: say which table, one of {', '.join(packaged_tables())}")
        for each, words in packaged_tables().items():
            table = Table.packaged(each)
            typer.echo(f"{each}: {len(table):,} rows, target {', '.join(table.target_names)}. {words}")
        return
    table = Table.packaged(name)
    if out is None:
        for line in table.describe().itertuples(index=False):
            typer.echo(f"{line[0]}: {line[1]}")
        return
    a.write_frame(table.frame, out)
    typer.echo(f"{len(table):,} rows of {name}: {out}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="What 'graticule probe --out' or 'graticule demo' wrote.")],
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """Write the page of saved findings anew, without a model.

    \b
    Example:  graticule report graticule-demo
    """
    here = (
        [folder]
        if (folder / "findings.json").is_file()
        else sorted(p.parent for p in folder.glob("*/findings.json"))
    )
    if not here:
        raise FileNotFoundError(f"{folder} holds no findings.json, nor does any folder in it")
    from graticule.probes.findings import Findings
    from graticule.report.page import write_page

    page = write_page([Findings.load(path) for path in here], folder / "report.html")
    typer.echo(f"The page: {page}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command: 0; 2 after an error, told in one line; 130 after Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(args=given or ["--help"], prog_name="graticule", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:  # the reader of a pipe has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if o.debugging(given):
            raise
        typer.echo(f"graticule: {o.one_line(error)}", err=True)
        return 2
    if code == 130:  # the parser turns Ctrl-C into this code
        words = "interrupted; the same command run again goes on from what is finished"
        typer.echo(f"graticule: {words}", err=True)
    return code if isinstance(code, int) else 0
