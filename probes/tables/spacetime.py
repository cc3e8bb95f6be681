"""The six tables of the space-and-time paper, read from wherever the user has them.

`world_place`, `us_place`, `nyc_place`, `historical_figure`, `art` and `headline` of Gurnee & Tegmark
(arXiv 2310.02207, section 2.1), in the authors' column layout: their CSV files, Parquet, or a folder saved by
`datasets`. The files are not part of graticule: their upstream terms are the user's to check.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from graticule.hooks.names import user_path
from graticule.probes.tables.checks import need_column
from graticule.probes.tables.entity_strings import entity_strings
from graticule.probes.tables.reading import read_frame
from graticule.probes.tables.rows import TableError
from graticule.probes.tables.spacetime_saeprobes import PREFIX, sae_probes_table
from graticule.probes.tables.table import Table

FOLDER_VARIABLE = "GRATICULE_SPACE_TIME"
"""Environment variable that names the folder to look in where none is given."""
_SUFFIXES = (".csv", ".csv.gz", ".parquet", "")
_INSIDE = ("", "entity_datasets", "data/entity_datasets")


@dataclass(frozen=True)
class Layout:
    """What the columns of one of the six tables mean."""

    text: str
    """Column with the name."""
    targets: tuple[str, ...]
    """Columns to probe for; those that files do not have are made by `derive`."""
    units: tuple[str, ...]
    """A unit a target."""
    entity: str
    """The paper's entity string."""
    blocks: tuple[tuple[str, ...], ...]
    """Levels, the main one first; of several names of one level the first that is there."""
    cluster: str | None = None
    """Column of dependent rows."""
    derive: Callable[[pd.DataFrame], Mapping[str, pd.Series]] = lambda _: {}
    """Columns made from the file's own."""
    description: str = ""
    """A line for lists."""


def calendar_years(dates: pd.Series) -> pd.Series:
    """Dates as fractional calendar years, 1970 + days / 365.25; NaN for what is no date.

    The paper's unit, nanoseconds / (365.25 · 86400 · 10⁹), with the year 1970 added: every score is the same.
    """
    stamps = pd.to_datetime(dates, errors="coerce", utc=True, format="mixed").dt.tz_localize(None)
    return 1970 + (stamps - pd.Timestamp(1970, 1, 1)) / pd.Timedelta(days=365.25)


def _historical(frame: pd.DataFrame) -> Mapping[str, pd.Series]:
    year = pd.to_numeric(frame["death_year"], errors="coerce")
    return {"century": 100 * (year // 100), "decade": 10 * (year // 10)}


def _complexes(frame: pd.DataFrame) -> Mapping[str, pd.Series]:
    ids = frame["complexid"].astype("string")
    return {"complex": ids.where(ids.notna() & ~ids.isin(["0", "0.0", ""])).astype(object)}


_SPACE = ("latitude", "longitude")
SPACE_TIME: Mapping[str, Layout] = {
    "world_place": Layout(
        "name",
        _SPACE,
        ("lat", "lon"),
        "possessive_place",
        (("country",), ("entity_type",)),
        description="Places of the world (DBpedia), 39,585 rows",
    ),
    "us_place": Layout(
        "name",
        _SPACE,
        ("lat", "lon"),
        "raw",
        (("state_name", "state_id"), ("entity_type",)),
        description="Places of the United States, 29,997 rows, 12,533 of them zip codes",
    ),
    "nyc_place": Layout(
        "name",
        _SPACE,
        ("lat", "lon"),
        "title_case_place",
        (("borough_name",), ("facility_t_name",)),
        cluster="complex",
        derive=_complexes,
        description="Places of New York City, 19,838 rows",
    ),
    "historical_figure": Layout(
        "name",
        ("death_year",),
        ("year",),
        "raw",
        (("century",), ("occupation",)),
        derive=_historical,
        description="Historical figures with the year of their death, 37,539 rows",
    ),
    "art": Layout(
        "title",
        ("release_year",),
        ("year",),
        "possessive_work",
        (("decade",), ("entity_type",)),
        cluster="creator",
        derive=lambda frame: {"release_year": calendar_years(frame["release_date"])},
        description="Songs, movies and books with their release dates, 31,321 rows",
    ),
    "headline": Layout(
        "headline",
        ("publication_year",),
        ("year",),
        "raw",
        (("year",), ("news_desk",)),
        derive=lambda frame: {"publication_year": calendar_years(frame["pub_date"])},
        description="New York Times headlines with their dates, 28,389 rows",
    ),
}
"""Name → layout."""
_SOURCES = {
    "nyc_place": "complexid",
    "historical_figure": "death_year",
    "art": "release_date",
    "headline": "pub_date",
}


def space_time_table(
    name: str,
    data: pd.DataFrame | Path | str | None = None,
    *,
    entity: str = "paper",
    on_bad: Literal["raise", "drop"] = "raise",
) -> Table:
    """One of the paper's six tables, with its targets, units, clusters, blocks and the authors' own split.

    **Arguments:**

    - `name`: `world_place`, `us_place`, `nyc_place`, `historical_figure`, `art` or `headline`.
    - `data`: rows, a file (CSV, Parquet), a folder saved by `datasets`, or a folder that holds any of these
      under the table's name (the authors' repository will do); by default the folder that the environment
      variable `GRATICULE_SPACE_TIME` names.
    - `entity`: `"paper"` for the paper's entity strings, or one of `ENTITY_STRINGS` (`"raw"` for the name as
      it stands).
    - `on_bad`: as for `Table`.

    The table's column `entity` holds what the model reads; the file's own columns stay. The `is_test` column
    is used as it is. Coordinates are (latitude, longitude); the authors' code has them the other
    way round.

    **Raises** `TableError` for an unknown name or entity string and for rows that cannot be used,
    `ColumnError` where the file lacks a column of the layout, `FileNotFoundError`.
    """
    layout = _layout(name)
    if isinstance(data, pd.DataFrame):
        given: pd.DataFrame | Path = data
    else:
        given = find_space_time(name, data)
    literal = [column for group in layout.blocks for column in group]
    frame, _, shipped = read_frame(given, layout.text, [*literal, "creator", "title"])
    split = "is_test" if "is_test" in frame.columns else shipped
    if split is None:
        need_column(frame, "is_test", "the frozen split")
    if name in _SOURCES:
        need_column(frame, _SOURCES[name], f"table {name!r}")
    how = layout.entity if entity == "paper" else entity
    made = {
        **layout.derive(frame),
        "entity": pd.Series(entity_strings(frame, layout.text, how), dtype=object),
    }
    frame = frame.assign(**made)
    return Table(
        frame,
        text="entity",
        target=layout.targets,
        units=layout.units,
        split=split,
        cluster=layout.cluster,
        blocks=[_present(frame, group) for group in layout.blocks],
        name=name if entity == "paper" else f"{name} ({entity})",
        on_bad=on_bad,
    )


def find_space_time(name: str, place: Path | str | None = None) -> Path:
    """The file or folder that holds a table: `place` itself, or what is in it under the table's name.

    **Raises** `FileNotFoundError` that says where was looked, `TableError` for an unknown name.
    """
    _layout(name)
    given = place if place is not None else os.environ.get(FOLDER_VARIABLE)
    if not given:
        raise FileNotFoundError(
            f"table {name!r} is not part of graticule: give the file or folder that holds it "
            f"({name}=/path/to/{name}.csv), or set {FOLDER_VARIABLE} to a folder"
        )
    path = user_path(given)
    if path.is_dir() and not _is_dataset(path):
        tried = [path / inside / f"{name}{suffix}" for inside in _INSIDE for suffix in _SUFFIXES]
        for candidate in tried:
            if candidate.is_file() or _is_dataset(candidate):
                return candidate
        raise FileNotFoundError(f"no {name}.csv, {name}.parquet or {name}/ (datasets) in {path}")
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {str(path)!r} for table {name!r}")
    return path


def read_space_time(
    word: str, *, entity: str = "paper", on_bad: Literal["raise", "drop"] = "raise"
) -> Table | None:
    """A table by the word of a command line, or None if the word is not about one of these.

    `world_place=FILE_OR_FOLDER`; `world_place`, with the folder in `GRATICULE_SPACE_TIME`;
    `sae-probes:world_latitude[=FILE_OR_FOLDER]`, rows of the PyPI package sae-probes.

    **Raises** as `space_time_table` and `sae_probes_table` do.
    """
    name, _, place = word.partition("=")
    if name.startswith(PREFIX):
        return sae_probes_table(name.removeprefix(PREFIX), place or None, on_bad=on_bad)
    if name not in SPACE_TIME or (not place and user_path(word).exists()):
        return None
    return space_time_table(name, place or None, entity=entity, on_bad=on_bad)


def _layout(name: str) -> Layout:
    if name not in SPACE_TIME:
        raise TableError(f"no space-and-time table {name!r}; there are {', '.join(SPACE_TIME)}")
    return SPACE_TIME[name]


def _is_dataset(path: Path) -> bool:
    return any((path / marker).is_file() for marker in ("dataset_dict.json", "state.json"))


def _present(frame: pd.DataFrame, names: tuple[str, ...]) -> str:
    return next((column for column in names if column in frame.columns), names[0])
