"""`graticule capture` and `graticule tables`: activations and packaged tables as files."""

# ruff: noqa: ARG001 (--debug and --verbose act in `graticule.cli.main` and in their callbacks)

from pathlib import Path
from typing import Annotated, Any

import typer

from graticule import arguments as a
from graticule import options as o


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
