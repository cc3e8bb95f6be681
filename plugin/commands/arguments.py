"""From the words of a command line to the arguments of a call; wrong words name their option.

Options that several commands have stand together in a dataclass (`TableOptions`, `ModelOptions`, …), which a
command takes as one argument; `options.command` writes its fields out for the command line.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from graticule.hooks.names import user_path

if TYPE_CHECKING:
    import graticule.probes.tables.table

Number = int | float
Layers = str | int | float | slice | list[Number]

MODEL = typer.Option(
    "--model", help="gemma-3-270m (packaged), a local Hugging Face folder, a .gguf file, or a name."
)
TextColumn = Annotated[str | None, typer.Option(help="Column that the model reads.")]


# Words -------------------------------------------------------------------------------------------------
def read_number(text: str, option: str) -> Number:
    """`text` as an int, or as a float; a `ValueError` names the option."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise ValueError(f"{option} {text!r}: expected a number")


def read_max_norm(text: str, trained: bool = False) -> Number | str | None:
    """`--max-norm`: a multiple of the median norm, `none`, or, of an SAE (`trained`), `trained` as it was."""
    word = text.strip().lower()
    if word == "none" or (trained and word == "trained"):
        return None if word == "none" else word
    return read_number(text, "--max-norm (a multiple of the median norm, or none)")


def read_slice(text: str, option: str) -> slice:
    """`start:stop[:step]`, each part optional; a `ValueError` names the option."""
    parts = text.split(":")
    try:
        if len(parts) > 3:
            raise ValueError
        return slice(*(int(part) if part.strip() else None for part in parts))
    except ValueError:
        raise ValueError(f"{option} {text!r}: expected a slice of whole numbers, start:stop[:step]") from None


def read_layers(text: str) -> Layers:
    """`all`, an index, a depth fraction, a slice, or several numbers between commas."""
    text = text.strip()
    if text == "all":
        return text
    if ":" in text:
        return read_slice(text, "--layers")
    try:
        if "," in text:
            return [read_number(part.strip(), "--layers") for part in text.split(",") if part.strip()]
        return read_number(text, "--layers")
    except ValueError:
        raise ValueError(
            f"--layers {text!r}: expected all, an index 7, several 3,7,11, a slice 0:18:2, or a fraction 0.5"
        ) from None


def read_pos(text: str) -> str | int | slice:
    """A position's name, an index, or a slice."""
    from graticule.hooks.capture_spec import check_pos

    text = text.strip()
    if ":" in text:
        return read_slice(text, "--pos")
    pos = int(text) if text.lstrip("-").isdigit() else text
    try:
        check_pos(pos)
    except ValueError:
        names = "last, all, entity, entity_last, entity_mean"
        raise ValueError(f"pos={text!r}: expected {names}, an index such as -1, or a slice 1:") from None
    return pos


def read_points(text: str) -> str | list[str]:
    """One hook point or pattern, or several between commas."""
    names = read_names(text)
    if not names:
        raise ValueError(f"--points {text!r}: expected a hook point, e.g. resid_post")
    return names[0] if len(names) == 1 else names


def read_names(text: str) -> list[str]:
    """Names between commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def targets_and_units(words: Sequence[str], columns: Sequence[str] = ()) -> tuple[list[str], dict[str, str]]:
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


def read_assignments(words: Sequence[str], option: str) -> dict[str, str]:
    """`NAME=VALUE`, repeated; a `ValueError` names the option for a word without a name, or a name given
    twice."""
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
    """SAELens folders, `NAME=FOLDER` or a folder whose name is taken; each is one, or a run's."""
    from graticule.hooks.coders import sae_folder

    folders = [word for word in words if "=" not in word or user_path(word).is_dir()]
    named = [
        f"{user_path(word).name.replace('=', '_')}={word}" if word in folders else word for word in words
    ]
    out = read_assignments(named, "--sae")
    for folder in out.values():
        sae_folder(folder)
    return out


# Options that go together --------------------------------------------------------------------------------
@dataclass(frozen=True)
class ModelOptions:
    """Which model, and how it is loaded."""

    model: Annotated[str, MODEL]
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16, or auto (the faster here).")] = (
        "float32"
    )
    device: Annotated[str | None, typer.Option(help="cpu, cuda …; by default CUDA where there is one.")] = (
        None
    )

    def load(self) -> Any:
        """The model."""
        import graticule

        return graticule.load_model(self.model, dtype=self.dtype, device=self.device)

    def check_depth(self, points: str | Sequence[str], layers: Layers) -> None:
        """Refuse layers and points that the model will not have, before it is loaded."""
        from graticule.loading.gguf import check_depth

        check_depth(self.model, points, layers)


@dataclass(frozen=True)
class PositionOptions:
    """What stands before a text, and which of its tokens are read."""

    prompt: Annotated[
        str,
        typer.Option(help="Text before every row, or a template with one slot {}; a trailing space counts."),
    ] = ""
    pos: Annotated[
        str,
        typer.Option("--pos", help="last, all, entity, entity_last, entity_mean, an index, or a slice 1:."),
    ] = "last"
    prepend_bos: Annotated[
        bool | None,
        typer.Option(
            help="Whether texts get special tokens (BOS, [CLS] … [SEP]); by default as the model has it.",
            show_default=False,
        ),
    ] = None
    include_bos: Annotated[
        bool | None,
        typer.Option(
            help="Whether special tokens may be among the tokens of --pos; by default they may.",
            show_default=False,
        ),
    ] = None

    def arguments(self) -> dict[str, Any]:
        """As `capture` takes them."""
        return {
            "prompt": self.prompt,
            "pos": read_pos(self.pos),
            "prepend_bos": self.prepend_bos,
            "include_bos": self.include_bos,
        }


@dataclass(frozen=True)
class PointOptions:
    """Where in the model activations are taken."""

    points: Annotated[
        str, typer.Option(help="Hook points, comma-separated: resid_post, mlp_out, blocks.*.hook_…")
    ] = "resid_post"
    layers: Annotated[
        str, typer.Option("--layers", help="all, 7, 3,7,11, a slice 0:18:2, or a depth fraction 0.5.")
    ] = "all"

    def arguments(self) -> dict[str, Any]:
        """As `capture` takes them."""
        return {"layers": read_layers(self.layers), "points": read_points(self.points)}


@dataclass(frozen=True)
class TableOptions:
    """A packaged table, or a file and which of its columns mean what."""

    table: Annotated[
        str,
        typer.Option(
            "--table",
            help="CSV, Parquet, a datasets folder, a packaged name, or a table of the space-and-time paper, "
            "world_place=FILE.",
        ),
    ]
    text_column: TextColumn = None
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="Column to read out, NAME[:lat|lon|year|UNIT]; may be repeated.", show_default=False
        ),
    ] = None
    split_column: Annotated[str | None, typer.Option(help="Column with the split, used as it is.")] = None
    cluster_column: Annotated[str | None, typer.Option(help="Column of rows that belong together.")] = None
    block_column: Annotated[
        list[str] | None,
        typer.Option(help="Column of groups for maps and errors; may be repeated.", show_default=False),
    ] = None
    confound: Annotated[
        list[str] | None,
        typer.Option(
            "--confound",
            "--confounds",
            help="What could tell the target without the concept: a column, or length, case, digits, "
            "punctuation, script, template, position; may be repeated.",
            show_default=False,
        ),
    ] = None
    rows: Annotated[int | None, typer.Option(help="Only this many rows, drawn by whole clusters.")] = None
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            help="numeric, ordinal (judged by ranks: grades, counts, heavy tails), binary or categorical; by "
            "default as the column tells.",
            show_default=False,
        ),
    ] = None
    positive: Annotated[
        str | None,
        typer.Option(
            help="Of two classes the one that is 1; by default the later in order: true, 1, yes.",
            show_default=False,
        ),
    ] = None
    on_bad: Annotated[str, typer.Option(help="Rows with a missing target: 'raise' or 'drop'.")] = "raise"

    def read(self, seed: int = 0) -> "graticule.probes.tables.table.Table":
        """The packaged table of that name, or the table that the options describe; `rows` of it, if it has
        more.

        Raises:
            ValueError: if a file comes without columns, or a packaged table with them.
        """
        from graticule.probes.papers.spacetime import read_space_time
        from graticule.probes.tables.reading import packaged_tables
        from graticule.probes.tables.table import Table

        table, on_bad = self.table, cast("Any", self.on_bad)
        if table in packaged_tables() and not user_path(table).exists():
            self._check_packaged()
            whole = Table.packaged(table)
        elif (paper := read_space_time(table, on_bad="drop" if on_bad == "drop" else "raise")) is not None:
            whole = paper
        else:
            self._check_file()
            target = self.target or []
            colons = any(":" in word for word in target)
            names, units = targets_and_units(target, _names_of_columns(table) if colons else ())
            whole = Table(
                table,
                text=self.text_column,
                target=names,
                units=units or None,
                split=self.split_column,
                cluster=self.cluster_column,
                blocks=list(self.block_column or ()),
                on_bad=on_bad,
                seed=seed,
                kind=cast("Any", self.kind),
                positive=self.positive,
                confounds=list(self.confound or ()),
            )
        return whole if self.rows is None or self.rows >= len(whole) else whole.head(self.rows, seed)

    def _check_packaged(self) -> None:
        columns = (self.text_column, self.split_column, self.cluster_column, self.kind, self.positive)
        several = (self.target, self.block_column, self.confound)
        given = [*(name for names in several for name in names or ()), *filter(None, columns)]
        if given:
            raise ValueError(
                f"--table {self.table} is packaged, its columns are settled (given: {', '.join(given)}); "
                f"'graticule tables {self.table} --out FILE.csv' writes it as a file to describe anew"
            )

    def _check_file(self) -> None:
        """Refuse options that describe no table in a file."""
        table = self.table
        if not user_path(table).exists():
            from graticule.probes.tables.reading import packaged_tables

            names = ", ".join(packaged_tables())
            raise FileNotFoundError(
                f"--table {table}: no such file or folder, and no packaged table ({names})"
            )
        if self.text_column is None or not self.target:
            lacking = ["--text-column, what the model reads"] if self.text_column is None else []
            lacking += [] if self.target else ["--target, what is to be read out (NAME[:UNIT])"]
            columns = ", ".join(_names_of_columns(table)[:20])
            raise ValueError(f"--table {table} needs {' and '.join(lacking)}; its columns are {columns}")
        if self.kind not in (None, "numeric", "ordinal", "binary", "categorical"):
            raise ValueError(f"--kind {self.kind!r}: expected numeric, ordinal, binary or categorical")
        if self.on_bad not in ("raise", "drop"):
            raise ValueError(f"--on-bad {self.on_bad!r}: expected 'raise' or 'drop'")


def _names_of_columns(table: str) -> list[str]:
    from graticule.probes.tables.reading import read_frame

    return list(map(str, read_frame(table, None, [])[0].columns))
