"""Where tables come from: DataFrames, CSV, Parquet, folders of ``datasets``, and those packaged here."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pandas as pd

from graticule.probes.tables.rows import TableError

_MISSING = ["", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "<NA>", "-nan", "#N/A"]

_PACKAGED: dict[str, dict[str, Any]] = {
    "world_cities": {
        "text": "name",
        "target": ["latitude", "longitude"],
        "units": ["lat", "lon"],
        "split": "is_test",
        "blocks": ["country", "continent"],
    },
    "historical_figures": {
        "text": "name",
        "target": "death_year",
        "units": "year",
        "split": "is_test",
        "blocks": ["century"],
    },
}
_DESCRIPTIONS = {
    "world_cities": "Cities of the world with latitude, longitude, country and population (GeoNames)",
    "historical_figures": "Historical figures with the year of their death",
}


def packaged_tables() -> dict[str, str]:
    """Names of the tables that come with graticule, with a line on each."""
    return dict(_DESCRIPTIONS)


def packaged_settings(name: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Rows of a packaged table, and the arguments that make it a Table.

    **Raises** TableError for another name, or if the installation lacks the file.
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

    In CSV files the columns in ``literal`` keep words such as "NA" (Namibia) or "Nan" (a city), and ``text``
    keeps leading zeros. A folder with parts (``train``, ``test``) becomes one table with their names as
    ``split``.

    **Raises** FileNotFoundError; TableError for a kind of file that is not read, or an empty one.
    """
    if isinstance(data, pd.DataFrame):
        return _need_rows(data.reset_index(drop=True), "table"), "table", None
    path = Path(data).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {str(data)!r}: pass a CSV, a Parquet file or a DataFrame")
    split = None
    if path.is_dir():
        frame, split = _read_folder(path)
    elif path.suffix.lower() in (".parquet", ".pq"):
        frame = pd.read_parquet(path)
    elif path.name.lower().endswith((".csv", ".csv.gz", ".tsv", ".tsv.gz")):
        separator = "\t" if ".tsv" in path.name.lower() else ","
        columns = pd.read_csv(path, sep=separator, nrows=0).columns
        frame = pd.read_csv(
            path,
            sep=separator,
            keep_default_na=False,
            na_values={c: [""] if c in literal else _MISSING for c in columns if c != text},
            dtype=None if text is None else {text: str},
            low_memory=False,
        )
    else:
        raise TableError(f"{path.name!r} is not read: pass .csv, .tsv, .parquet or a folder of datasets")
    return _need_rows(frame, path.name), path.name.split(".")[0], split


def _read_folder(path: Path) -> tuple[pd.DataFrame, str | None]:
    from datasets import DatasetDict, load_from_disk

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
    return dataset.to_pandas()


def _need_rows(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    if len(frame) == 0:
        raise TableError(f"{name!r} has no rows")
    return frame
