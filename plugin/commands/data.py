"""`graticule capture`, `tables`, `report` and `push`: files read, and written here or to the Hub."""

from pathlib import Path
from typing import Annotated, Any

import typer

from graticule.commands import arguments as a
from graticule.commands import options as o

# ruff: noqa: ARG001 (--debug and --verbose act in `graticule.cli.main` and in their callbacks)


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
    prepend_bos: o.PrependBos = None,
    include_bos: o.IncludeBos = None,
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
    from graticule.loading.gguf import check_depth

    check_depth(model, which, where)
    loaded = graticule.load_model(model, dtype=dtype, device=device)
    settings: dict[str, Any] = {
        "points": which, "layers": where, "pos": tokens, "prompt": prompt,
        "prepend_bos": prepend_bos, "include_bos": include_bos,
    }  # fmt: skip
    store = graticule.capture(loaded, inputs, **settings, rows=columns, store=out, progress=True)
    widths = ", ".join(map(str, sorted(set(store.widths.values()))))
    o.say(f"{store.n_rows:,} rows at {len(store.points)} points of width {widths}: {', '.join(store.points)}")
    o.say(f"The store: {out}")


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
            o.say(f"{each}: {len(table):,} rows, target {', '.join(table.target_names)}. {words}")
        return
    table = Table.packaged(name)
    if out is None:
        for line in table.describe().itertuples(index=False):
            o.say(f"{line[0]}: {line[1]}")
        return
    a.write_frame(table.frame, out)
    o.say(f"{len(table):,} rows of {name}: {out}")


# ruff: noqa: ARG001 (--debug and --verbose act in `graticule.cli.main` and in their callbacks)


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


# ruff: noqa: ARG001 (--debug and --verbose act in `graticule.cli.main` and in their callbacks)


def push(
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
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """Publish on the Hugging Face Hub: public by default; --private leaves it private.

    A new repository is private until what comes back is what was sent, and is made public only then.
    The login is the Hub's own: 'hf auth login', or HF_TOKEN in the environment. The same command run again
    finishes what was interrupted.

    \b
    Example:  graticule push runs/topk --repo user/my-saes --license mit
    """
    from graticule.hub import push as publish

    done = publish(
        run,
        repo,
        sae_id=sae_id,
        private=private,
        revision=revision,
        licence=licence,
        base_model=base_model,
        dry_run=dry_run,
    )
    o.say(done.summary())
