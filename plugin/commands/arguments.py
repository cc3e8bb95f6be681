"""From the words of a command line to the arguments of a call; wrong words name their option."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from graticule.hooks.names import user_path

if TYPE_CHECKING:
    import pandas

    import graticule.probes.tables.table

Number = int | float
Layers = str | int | float | slice | list[Number]


def number(text: str, option: str) -> Number:
    """`text` as an int, or as a float.

    **Raises** `ValueError` naming the option.
    """
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise ValueError(f"{option} {text!r}: expected a number")


def read_max_norm(text: str, trained: bool = False) -> Number | str | None:
    """`--max-norm`: a multiple of the median norm, `none`, or, of an SAE (`trained`), `trained` as it was.

    **Raises** `ValueError` naming the option.
    """
    word = text.strip().lower()
    if word == "none" or (trained and word == "trained"):
        return None if word == "none" else word
    return number(text, "--max-norm (a multiple of the median norm, or none)")


def read_slice(text: str, option: str) -> slice:
    """`start:stop[:step]`, each part optional.

    **Raises** `ValueError` naming the option.
    """
    parts = text.split(":")
    try:
        if len(parts) > 3:
            raise ValueError
        return slice(*(int(part) if part.strip() else None for part in parts))
    except ValueError:
        raise ValueError(f"{option} {text!r}: expected a slice of whole numbers, start:stop[:step]") from None


def read_layers(text: str) -> Layers:
    """`all`, an index, a depth fraction, a slice, or several numbers between commas.

    **Raises** `ValueError` if `text` is none of these.
    """
    text = text.strip()
    if text == "all":
        return text
    if ":" in text:
        return read_slice(text, "--layers")
    try:
        if "," in text:
            return [number(part.strip(), "--layers") for part in text.split(",") if part.strip()]
        return number(text, "--layers")
    except ValueError:
        raise ValueError(
            f"--layers {text!r}: expected all, an index 7, several 3,7,11, a slice 0:18:2, or a fraction 0.5"
        ) from None


def read_pos(text: str) -> str | int | slice:
    """A position's name, an index, or a slice. **Raises** `ValueError` for another word."""
    from graticule.hooks.positions import check_pos

    text = text.strip()
    if ":" in text:
        return read_slice(text, "--pos")
    pos = int(text) if text.lstrip("-").isdigit() else text
    check_pos(pos)
    return pos


def read_points(text: str) -> str | list[str]:
    """One hook point or pattern, or several between commas."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ValueError(f"--points {text!r}: expected a hook point, e.g. resid_post")
    return names[0] if len(names) == 1 else names


def read_targets(words: Sequence[str], columns: Sequence[str] = ()) -> tuple[list[str], dict[str, str]]:
    """`NAME[:UNIT]`, repeated, as the columns and the units of those that have one.

    A word that is one of `columns` as it stands is that column, colons and all.
    """
    names: list[str] = []
    units: dict[str, str] = {}
    for word in words:
        whole = word in columns or ":" not in word
        name, _, unit = (word, "", "") if whole else word.rpartition(":")
        if not name:
            raise ValueError(f"--target {word!r}: expected NAME or NAME:UNIT, e.g. latitude:lat")
        names.append(name)
        if unit:
            units[name] = unit
    return names, units


def read_names(text: str) -> list[str]:
    """Names between commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def read_pairs(words: Sequence[str], option: str) -> dict[str, str]:
    """`NAME=VALUE`, repeated.

    **Raises** `ValueError` naming the option for a word without a name, or a name given twice.
    """
    out: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise ValueError(f"{option} {word!r}: expected NAME=VALUE")
        if name in out:
            raise ValueError(f"{option} {name!r} is given twice")
        out[name] = value
    return out


def read_saes(words: Sequence[str]) -> dict[str, str]:
    """SAELens folders, `NAME=FOLDER` or a folder whose name is taken.

    **Raises** `FileNotFoundError` if a folder is no SAELens folder, nor a run's.
    """
    from graticule.hooks.coders import sae_folder

    folders = [word for word in words if "=" not in word or user_path(word).is_dir()]
    named = [
        f"{user_path(word).name.replace('=', '_')}={word}" if word in folders else word for word in words
    ]
    out = read_pairs(named, "--sae")
    for folder in out.values():
        sae_folder(folder)
    return out


def read_table(
    table: str,
    text: str | None = None,
    targets: Sequence[str] = (),
    *,
    split: str | None = None,
    cluster: str | None = None,
    blocks: Sequence[str] = (),
    on_bad: str = "raise",
    seed: int = 0,
    rows: int | None = None,
    kind: str | None = None,
) -> "graticule.probes.tables.table.Table":
    """The packaged table of that name, or the table that the options describe; `rows` of it, if it has more.

    **Raises** `ValueError` if a file comes without columns, or a packaged table with them.
    """
    described = _described(table, text, targets, split, cluster, blocks, on_bad, seed, kind)
    return described if rows is None or rows >= len(described) else described.head(rows, seed)


def _described(
    table: str,
    text: str | None,
    targets: Sequence[str],
    split: str | None,
    cluster: str | None,
    blocks: Sequence[str],
    on_bad: str,
    seed: int,
    kind: str | None,
) -> "graticule.probes.tables.table.Table":
    from graticule.probes.papers.spacetime import read_space_time
    from graticule.probes.tables.reading import packaged_tables
    from graticule.probes.tables.table import Table

    if table in packaged_tables() and not user_path(table).exists():
        given = [*targets, *blocks, *(column for column in (text, split, cluster, kind) if column)]
        if given:
            raise ValueError(
                f"--table {table} is packaged, its columns are settled (given: {', '.join(given)}); "
                f"'graticule tables {table} --out FILE.csv' writes it as a file to describe anew"
            )
        return Table.packaged(table)
    known = read_space_time(table, on_bad="drop" if on_bad == "drop" else "raise")
    if known is not None:
        return known
    if not user_path(table).exists():
        names = ", ".join(packaged_tables())
        raise FileNotFoundError(f"--table {table}: no such file or folder, and no packaged table ({names})")
    if text is None or not targets:
        raise ValueError(f"--table {table} needs {_lacking(text, targets)}; {_columns(table)}")
    if kind not in (None, "numeric", "binary", "categorical"):
        raise ValueError(f"--kind {kind!r}: expected numeric, binary or categorical")
    if on_bad not in ("raise", "drop"):
        raise ValueError(f"--on-bad {on_bad!r}: expected 'raise' or 'drop'")
    colons = any(":" in word for word in targets)
    names, units = read_targets(targets, _names_of_columns(table) if colons else ())
    return Table(
        table,
        text=text,
        target=names,
        units=units or None,
        split=split,
        cluster=cluster,
        blocks=list(blocks),
        on_bad="drop" if on_bad == "drop" else "raise",
        seed=seed,
        kind=cast("Any", kind),
    )


def _lacking(text: str | None, targets: Sequence[str]) -> str:
    """The options that a table in a file cannot do without, and that are not there."""
    lacking = ["--text-column, what the model reads"] if text is None else []
    return " and ".join([*lacking, *([] if targets else ["--target, what is to be read out (NAME[:UNIT])"])])


def _names_of_columns(table: str) -> list[str]:
    from graticule.probes.tables.reading import read_frame

    return list(map(str, read_frame(table, None, [])[0].columns))


def _columns(table: str) -> str:
    """The columns of a file, for people."""
    return f"its columns are {', '.join(_names_of_columns(table)[:20])}"


def need_folder(out: Path) -> None:
    """**Raises** `FileExistsError` if `out` is a file: before the long work, not after it."""
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"--out {out} is a file; name a folder")


def read_texts(
    table: str | None, texts: Path | None, column: str | None
) -> "tuple[list[str], pandas.DataFrame | None]":
    """What a capture reads: the lines of a file, or a column of a table, whose other columns go along.

    **Raises** `ValueError` unless exactly one source is given, or if it is empty.
    """
    if (table is None) == (texts is None):
        raise ValueError("give either --table (with --text-column) or --texts")
    if texts is not None:
        from graticule.hooks.lines import plain_lines

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
    """**Raises** `ValueError` for a file of records, whose lines are no texts."""
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


def write_frame(frame: "pandas.DataFrame", out: Path) -> None:
    """Write a table as .csv or .parquet, atomically; its folder is made, as everything that writes does.

    **Raises** `ValueError` for another suffix.
    """
    from graticule.hooks.artifact import write_table
    from graticule.hooks.replacing import replacing

    if out.suffix == ".parquet":
        write_table(out, frame)
    elif out.suffix == ".csv":
        with replacing(out) as temporary:
            frame.to_csv(temporary, index=False)
    else:
        raise ValueError(f"--out {out}: expected a name that ends in .csv or .parquet")
