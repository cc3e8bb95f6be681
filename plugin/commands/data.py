"""`graticule capture`, `tables`, `report` and `push`: files read, and written here or to the Hub."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graticule.commands import arguments as a
from graticule.commands import options as o
from graticule.hooks.names import user_path

if TYPE_CHECKING:
    import pandas


def capture_command(
    model: a.ModelOptions,
    out: o.Out,
    where: a.PointOptions,
    tokens: a.PositionOptions,
    table: Annotated[
        str | None, typer.Option(help="CSV, Parquet, a datasets folder, or a packaged name.")
    ] = None,
    texts: Annotated[Path | None, typer.Option(help="A .txt file, one text a line.")] = None,
    text_column: a.TextColumn = None,
) -> None:
    """Stream a model's activations on texts to a store on disk.

    The same command run again goes on after its last whole shard.

    \b
    Example:  graticule capture --model gemma-3-270m --texts lines.txt --layers 0.5 --out store
    """
    settings = where.arguments() | tokens.arguments()
    inputs, columns = _texts(table, texts, text_column)
    o.need_folder(out)
    import graticule

    model.check_depth(settings["points"], settings["layers"])
    store = graticule.capture(model.load(), inputs, **settings, rows=columns, store=out, progress=True)
    widths = ", ".join(map(str, sorted(set(store.widths.values()))))
    o.say(f"{store.n_rows:,} rows at {len(store.points)} points of width {widths}: {', '.join(store.points)}")
    o.say(f"The store: {out}")


def _texts(
    table: str | None, texts: Path | None, column: str | None
) -> "tuple[list[str], pandas.DataFrame | None]":
    """What a capture reads: the lines of a file, or a column of a table, whose other columns go along."""
    if (table is None) == (texts is None):
        raise ValueError("give either --table (with --text-column) or --texts")
    if texts is not None:
        from graticule.hooks.streams.files import plain_lines

        _need_lines(texts)
        lines = plain_lines(texts)
        if not lines:
            raise ValueError(f"--texts {texts} is empty")
        return lines, None
    from graticule.probes.tables.reading import packaged_settings, packaged_tables, read_frame

    name = str(table)
    if name in packaged_tables() and not user_path(name).exists():
        frame, settings = packaged_settings(name)
        column = column or str(settings["text"])
    elif column is None:
        raise ValueError(f"--table {name} needs --text-column")
    else:
        frame, _, _ = read_frame(name, column, [])
    if column not in frame.columns:
        from graticule.hooks.messages import UnknownNameError

        raise UnknownNameError(f"--text-column {column!r}: {name} has {', '.join(map(str, frame.columns))}")
    missing = frame[column].isna()
    if bool(missing.any()):
        raise ValueError(
            f"--text-column {column!r} is empty in row {int(missing.to_numpy().argmax())} of {name}"
        )
    return frame[column].astype(str).tolist(), frame


def _need_lines(texts: Path) -> None:
    """Refuse a file of records, whose lines are no texts."""
    endings = [ending.lower() for ending in texts.suffixes if ending.lower() != ".gz"]
    ending = endings[-1] if endings else ""
    if ending in (".csv", ".tsv", ".parquet", ".pq"):
        raise ValueError(
            f"--texts {texts}: expected a file with one text a line; {ending} holds a table: write --table "
            f"{texts} --text-column COLUMN"
        )
    if ending in (".json", ".jsonl", ".ndjson"):
        raise ValueError(
            f"--texts {texts}: expected a file with one text a line; {ending} holds records: write their "
            "texts to a .txt file, one a line, or to a .csv file, --table FILE.csv --text-column COLUMN"
        )


def _write_frame(frame: "pandas.DataFrame", out: Path) -> None:
    """Write a table as .csv or .parquet, atomically; its folder is made, as everything that writes does."""
    from graticule.hooks.artifact import write_table
    from graticule.hooks.replacing import replacing

    if out.suffix == ".parquet":
        write_table(out, frame)
    elif out.suffix == ".csv":
        with replacing(out) as temporary:
            frame.to_csv(temporary, index=False)
    else:
        raise ValueError(f"--out {out}: expected a name that ends in .csv or .parquet")


def tables_command(
    name: Annotated[str | None, typer.Argument(help="A packaged table.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the table here, .csv or .parquet.")] = None,
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
            o.say(f"{each}: {len(table):,} rows, target {', '.join(table.target_names)}. {words}")
        return
    table = Table.packaged(name)
    if out is None:
        for line in table.describe().itertuples(index=False):
            o.say(f"{line[0]}: {line[1]}")
        return
    _write_frame(table.frame, out)
    o.say(f"{len(table):,} rows of {name}: {out}")


def report_command(
    folder: Annotated[Path, typer.Argument(help="What a command wrote, or a result's save.")],
) -> None:
    """Write the page of saved results anew, without a model.

    \b
    Example:  graticule report graticule-demo
    """
    from graticule.hooks.artifact import as_damaged
    from graticule.report import page_in, write_page
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
            pages = Study.load(folder).report(page_in(folder))
        o.say(f"The pages: {pages}")
        return
    here = [p.parent for name in ("findings.json", "manifest.json") for p in folder.glob(name)]
    here = here or sorted(p.parent for p in folder.glob("*/findings.json"))
    if not here and (folder / "result" / "manifest.json").is_file():
        here = [folder / "result"]
    if not here:
        raise FileNotFoundError(f"{folder} holds no saved result, nor findings in any folder in it")
    results = [load_result(path) for path in here]
    with as_damaged(folder, "write it again", also=()):
        page = write_page(results, page_in(folder))
    o.say(f"The page: {page}")


def push_command(
    run: Annotated[
        Path, typer.Argument(help="A run, a SAELens folder, findings, a probe, or a folder of several.")
    ],
    repo: Annotated[str, typer.Option(help="Where to: OWNER/NAME.")],
    sae_id: Annotated[
        str | None, typer.Option(help="Folder in the repository; the hook name by default.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Leave a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch; main by default.")] = None,
    licence: Annotated[
        str | None, typer.Option("--license", help="The Hub's identifier: mit, apache-2.0, gemma …")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="The model's id on the Hub; as TransformerLens has it by default.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print files, sizes and card; touch nothing.")
    ] = False,
) -> None:
    """Publish on the Hugging Face Hub: public by default; --private leaves it private.

    A new repository is private until what comes back is what was sent, and is made public only then.
    The login is the Hub's own: 'hf auth login', or HF_TOKEN in the environment. The same command run again
    finishes what was interrupted.

    \b
    Example:  graticule push runs/topk --repo user/my-saes --license mit
    """
    from graticule.hub import push

    where: dict[str, Any] = {
        "sae_id": sae_id,
        "revision": revision,
        "licence": licence,
        "base_model": base_model,
    }
    o.say(push(run, repo, **where, private=private, dry_run=dry_run).summary())
