"""Where tables come from: DataFrames, CSV, Parquet, folders of `datasets`, and those packaged here."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from graticule.hooks.artifact import users_file, users_folder
from graticule.hooks.names import user_path
from graticule.hooks.streams.files import numbered_lines
from graticule.probes.tables.columns import TableError

logger = logging.getLogger(__name__)

_MISSING = ["", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "<NA>", "-nan", "#N/A"]
_DECIMAL = " (with decimal=',' where numbers are written so)"
_SEPARATORS = {".csv": ",", ".tsv": "\t"}

_PACKAGED: dict[str, dict[str, Any]] = {
    "world_cities": {
        "text": "name",
        "target": ["latitude", "longitude"],
        "units": ["lat", "lon"],
        "split": "is_test",
        "cluster": "name",
        "blocks": ["country", "continent"],
    },
    "historical_figures": {
        "text": "name",
        "target": "death_year",
        "units": "year",
        "split": "is_test",
        "cluster": "name",
        "blocks": ["century"],
    },
}
_DESCRIPTIONS = {
    "world_cities": "Cities of the world with latitude, longitude, country and population (GeoNames)",
    "historical_figures": "Historical figures with the year of their death",
}


def packaged_tables() -> dict[str, str]:
    """Names of the tables that come with graticule, with one line on each."""
    return dict(_DESCRIPTIONS)


def packaged_settings(name: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Rows of a packaged table, and the arguments that make it a Table.

    Raises:
        TableError: It is another name, or the installation lacks the file.
    """
    if name not in _PACKAGED:
        raise TableError(f"no packaged table {name!r}; there are {', '.join(map(repr, _PACKAGED))}")
    resource = files("graticule.probes.data") / f"{name}.parquet"
    if not resource.is_file():
        raise TableError(f"this installation of graticule lacks {name}.parquet: install it again")
    with as_file(resource) as path:
        return pd.read_parquet(path), dict(_PACKAGED[name])


def read_frame(
    data: pd.DataFrame | str | Path, text: str | None, literal: Sequence[str]
) -> tuple[pd.DataFrame, str, str | None]:
    """A DataFrame of the data, a name for it, and a split column that comes with its format.

    A folder with parts (``train``, ``test``) becomes one table with their names as ``split``.

    Args:
        data: Rows, a file or a folder.
        text: The column that keeps leading zeros in CSV files.
        literal: Columns that keep words such as "NA" (Namibia) or "Nan" (a city) there.

    Raises:
        FileNotFoundError: There is no such file or folder.
        TableError: It is of a kind that is not read, cannot be read, or has no rows.
    """
    if isinstance(data, pd.DataFrame):
        return _need_rows(data.reset_index(drop=True), "table"), "table", None
    path = user_path(data)
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {str(data)!r}: pass a CSV, a Parquet file or a DataFrame")
    frame, split = _read_folder(path) if path.is_dir() else (_read_file(path, text, literal), None)
    return _need_rows(frame, path.name), path.name.split(".")[0], split


def _need_rows(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    if len(frame) == 0:
        raise TableError(f"{name!r} has no rows")
    return frame


def _read_file(path: Path, text: str | None, literal: Sequence[str]) -> pd.DataFrame:
    users_file(path)
    suffix = _suffix(path)
    if suffix in (".parquet", ".pq"):
        return _read_parquet(path)
    if suffix in _SEPARATORS:
        return _read_separated(path, _SEPARATORS[suffix], text, literal)
    raise TableError(f"{path.name!r} is not read: pass .csv, .tsv, .parquet or a folder of datasets")


def _suffix(path: Path) -> str:
    """What a name ends with, before `.gz`: nothing inside a name is a suffix."""
    return Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()


# Text ------------------------------------------------------------------------------------------------
def _read_separated(path: Path, separator: str, text: str | None, literal: Sequence[str]) -> pd.DataFrame:
    try:
        how = _how(path, separator)
        columns = pd.read_csv(path, nrows=0, **how).columns
        _need_its_separator(path, separator, columns, text)
        frame = pd.read_csv(
            path,
            keep_default_na=False,
            na_values={c: [""] if c in literal else _MISSING for c in columns if c != text},
            dtype=None if text is None else {text: str},
            low_memory=False,
            **how,
        )
    except UnicodeError:
        for _ in numbered_lines(path):  # which finds the line, and says what to do
            pass
        raise
    except pd.errors.EmptyDataError as error:
        raise TableError(
            f"{path.name} cannot be read as a table: it is empty; expected a line with names of columns, "
            "then rows"
        ) from error
    except (pd.errors.ParserError, OSError, EOFError) as error:
        reason = " ".join(str(error).split()).removeprefix("Error tokenizing data. C error: ")
        raise TableError(
            f"{path.name} cannot be read as a table ({reason}): quote fields that hold the separator, double "
            "the quotes in them, or pass a DataFrame"
        ) from error
    _need_its_header(path, frame, how)
    if text is not None and text in frame:
        _say_swallowed(frame, text, separator, path)
    return frame


def words_for_missing(path: Path, column: str, rows: Sequence[int]) -> dict[int, str]:
    """What a CSV has written where a column was read as missing: row → word, for those that are not empty."""
    separator = _SEPARATORS.get(_suffix(path))
    if separator is None or path.is_dir():
        return {}
    how = _how(path, separator)
    written = pd.read_csv(path, usecols=[column], dtype=str, na_filter=False, low_memory=False, **how)[column]
    return {row: written.iloc[row] for row in rows if written.iloc[row].strip()}


def _how(path: Path, separator: str) -> dict[str, Any]:
    """How pandas parts a file into fields."""
    plain = separator == "\t" and _has_no_quoting(path)
    return {"sep": separator, **({"quoting": csv.QUOTE_NONE} if plain else {})}


def _need_its_separator(path: Path, separator: str, columns: pd.Index, text: str | None) -> None:
    """Refuse a header that is one column by this separator and several by another."""
    if len(columns) != 1 or columns[0] == text:
        return
    for other in (";", "\t", ",", "|"):
        if other != separator and other in str(columns[0]):
            raise TableError(
                f"{path.name} is separated by {other!r}, not {separator!r}: pass "
                f"pandas.read_csv({path.name!r}, sep={other!r}){_DECIMAL if other == ';' else ''}"
            )


def _need_its_header(path: Path, frame: pd.DataFrame, how: Mapping[str, Any]) -> None:
    """Refuse rows of more fields than the header, and a header that names two columns alike.

    pandas takes the first fields of such rows for an index, which moves every column to the side, and
    writes a number behind a repeated name.
    """
    if not isinstance(frame.index, pd.RangeIndex):
        n = len(frame.columns)
        raise TableError(
            f"{path.name}: header has {n} fields, rows have {n + frame.index.nlevels} (line 2): name every "
            "column, and quote fields that hold the separator"
        )
    header = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False, **how).iloc[0].tolist()
    if twice := [name for i, name in enumerate(header) if name.strip() and name in header[:i]]:
        raise TableError(
            f"{path.name} has {header.count(twice[0])} columns named {twice[0]!r}: rename all but one"
        )


def _has_no_quoting(path: Path) -> bool:
    """Whether quotes are plain characters: some are left open, and every line is a whole row without them."""
    fields, lone = None, False
    for _, line in numbered_lines(path):
        parts = line.rstrip("\r\n").split("\t")
        fields = len(parts) if fields is None else fields
        if len(parts) != fields and any(part.strip() for part in parts):
            return False
        lone = lone or any(part.startswith('"') and not _closed(part) for part in parts)
    return lone


def _closed(field: str) -> bool:
    inner = field[1:-1].replace('""', "")
    return len(field) > 1 and field.endswith('"') and '"' not in inner


def _say_swallowed(frame: pd.DataFrame, text: str, separator: str, path: Path) -> None:
    """Warn of a text that looks like several rows: a quote left open takes all up to the next one."""
    before = frame.columns.tolist().index(text)
    for row, value in enumerate(frame[text]):
        if not isinstance(value, str) or "\n" not in value:
            continue
        first, *_, last = value.split("\n")
        after = len(frame.columns) - 1 - before
        if after + before and first.count(separator) == after and last.count(separator) == before:
            logger.warning(
                "%s: text %r of row %d spans %d lines with separators in them; if its quote was left open, "
                "double it",
                path.name,
                text,
                row,
                value.count("\n") + 1,
            )
            return


# Parquet and datasets --------------------------------------------------------------------------------
def _read_parquet(path: Path) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        frame = pd.read_parquet(path)
        described = (parquet.read_schema(path).metadata or {}).get(b"huggingface", b"{}")
    except (pa.ArrowException, OSError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise TableError(f"{path.name} is no Parquet file, or damaged ({first})") from error
    features = json.loads(described).get("info", {}).get("features", {})
    named = {
        column: feature["names"]
        for column, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
    }
    return _with_names(frame, named)


def _read_folder(path: Path) -> tuple[pd.DataFrame, str | None]:
    from datasets import DatasetDict, load_from_disk

    users_folder(path)
    try:
        loaded = load_from_disk(str(path))
    except (FileNotFoundError, ValueError) as error:
        raise TableError(f"{str(path)!r} is no folder written by datasets' save_to_disk: {error}") from error
    if not isinstance(loaded, DatasetDict):
        return _to_frame(loaded), None
    parts = {str(name): _to_frame(part) for name, part in loaded.items()}
    if any("split" in part.columns for part in parts.values()):
        return pd.concat(list(parts.values()), ignore_index=True), "split"
    return pd.concat([part.assign(split=name) for name, part in parts.items()], ignore_index=True), "split"


def _to_frame(dataset: Any) -> pd.DataFrame:
    from datasets import ClassLabel

    features: Mapping[str, Any] = dataset.features
    named = {str(c): list(f.names) for c, f in features.items() if isinstance(f, ClassLabel)}
    return _with_names(dataset.to_pandas(), named)


def _with_names(frame: pd.DataFrame, named: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Class numbers as the names that their feature has for them, in its order; -1 is a missing label."""
    for column, names in named.items():
        codes = frame[column].fillna(-1).to_numpy(np.int64)
        if codes.max(initial=-1) >= len(names) or codes.min(initial=0) < -1:
            raise TableError(
                f"column {column!r} holds class {codes.max()}, its feature names {len(names)}: {list(names)}"
            )
        labels = np.array([*names, None], dtype=object)[codes]  # -1 is the last of these: missing
        frame[column] = pd.Categorical(labels, categories=list(names))
    return frame
