"""Where tables come from: DataFrames, CSV, Parquet, folders of ``datasets``, and those packaged here."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pandas as pd

from graticule.hooks.names import user_path
from graticule.probes.tables.files import read_file
from graticule.probes.tables.rows import TableError

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
    path = user_path(data)
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {str(data)!r}: pass a CSV, a Parquet file or a DataFrame")
    frame, split = read_file(path, text, literal)
    return _need_rows(frame, path.name), path.name.split(".")[0], split


def _need_rows(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    if len(frame) == 0:
        raise TableError(f"{name!r} has no rows")
    return frame
