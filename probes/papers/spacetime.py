"""The six tables of the space-and-time paper, read from wherever the user has them.

`world_place`, `us_place`, `nyc_place`, `historical_figure`, `art` and `headline` of Gurnee & Tegmark
(arXiv 2310.02207, section 2.1), in the authors' column layout: their CSV files, Parquet, or a folder saved by
`datasets`. The files are not part of graticule: their upstream terms are the user's to check.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import pandas as pd

from graticule.hooks.artifact import users_file
from graticule.hooks.names import user_path
from graticule.probes.papers.compat import entity_strings
from graticule.probes.scores.metrics import r2
from graticule.probes.tables.checks import need_column
from graticule.probes.tables.columns import TableError
from graticule.probes.tables.groups import block_oracle_predictions
from graticule.probes.tables.reading import read_frame
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
    """One unit per target."""
    entity: str
    """The paper's entity string."""
    blocks: tuple[tuple[str, ...], ...]
    """Levels, the main one first; of several names of one level the first that is there."""
    cluster: str | None = None
    """Column of dependent rows."""
    source: str | None = None
    """A column that `derive` or a target needs."""
    derive: Callable[[pd.DataFrame], Mapping[str, pd.Series]] = lambda _: {}
    """Columns made from the file's own."""


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
_DEGREES = ("lat", "lon")
SPACE_TIME: Mapping[str, Layout] = {
    "world_place": Layout(
        "name",
        _SPACE,
        _DEGREES,
        "possessive_place",
        (("country",), ("entity_type",)),
    ),
    "us_place": Layout(
        "name",
        _SPACE,
        _DEGREES,
        "raw",
        (("state_name", "state_id"), ("entity_type",)),
    ),
    "nyc_place": Layout(
        "name",
        _SPACE,
        _DEGREES,
        "title_case_place",
        (("borough_name",), ("facility_t_name",)),
        cluster="complex",
        source="complexid",
        derive=_complexes,
    ),
    "historical_figure": Layout(
        "name",
        ("death_year",),
        ("year",),
        "raw",
        (("century",), ("occupation",)),
        source="death_year",
        derive=_historical,
    ),
    "art": Layout(
        "title",
        ("release_year",),
        ("year",),
        "possessive_work",
        (("decade",), ("entity_type",)),
        cluster="creator",
        source="release_date",
        derive=lambda frame: {"release_year": calendar_years(frame["release_date"])},
    ),
    "headline": Layout(
        "headline",
        ("publication_year",),
        ("year",),
        "raw",
        (("year",), ("news_desk",)),
        source="pub_date",
        derive=lambda frame: {"publication_year": calendar_years(frame["pub_date"])},
    ),
}
"""Name → layout."""


def space_time_table(
    name: str,
    data: pd.DataFrame | Path | str | None = None,
    *,
    entity: str = "paper",
    on_bad: Literal["raise", "drop"] = "raise",
) -> Table:
    """One of the paper's six tables, with its targets, units, clusters, blocks and the authors' own split.

    The table's column `entity` holds what the model reads; the file's own columns stay. The `is_test` column
    is used as it is. Coordinates are (latitude, longitude); the authors' code has them the other
    way round.

    Args:
        name: `world_place`, `us_place`, `nyc_place`, `historical_figure`, `art` or `headline`.
        data: Rows, a file (CSV, Parquet), a folder saved by `datasets`, or a folder that holds any of these
            under the table's name (the authors' repository will do); by default the folder that the
            environment variable `GRATICULE_SPACE_TIME` names.
        entity: `"paper"` for the paper's entity strings, or one of `ENTITY_STRINGS` (`"raw"` for the name as
            it stands).
        on_bad: As for `Table`.

    Raises:
        TableError: The name or entity string is unknown, or rows cannot be used.
        ColumnError: The file lacks a column of the layout.
        FileNotFoundError: There is no such file or folder.
    """
    layout = _layout(name)
    source = data if isinstance(data, pd.DataFrame) else find_space_time(name, data)
    literal = [column for group in layout.blocks for column in group]
    frame, _, shipped = read_frame(source, layout.text, [*literal, "creator", "title"])
    split = "is_test" if "is_test" in frame.columns else shipped
    if split is None:
        need_column(frame, "is_test", "the frozen split")
    if layout.source is not None:
        need_column(frame, layout.source, f"table {name!r}")
    derived = layout.derive(frame)
    strings = entity_strings(frame, layout.text, layout.entity if entity == "paper" else entity)
    frame = frame.assign(**derived, entity=pd.Series(strings, dtype=object))
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

    Raises:
        FileNotFoundError: It is not there; the message says where was looked.
        TableError: The name is unknown.
    """
    _layout(name)
    place = place if place is not None else os.environ.get(FOLDER_VARIABLE)
    if not place:
        raise FileNotFoundError(
            f"table {name!r} is not part of graticule: give the file or folder that holds it "
            f"({name}=/path/to/{name}.csv), or set {FOLDER_VARIABLE} to a folder"
        )
    path = user_path(place)
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

    Raises:
        TableError, ColumnError, FileNotFoundError: As `space_time_table` and `sae_probes_table` do.
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


# The PyPI package sae-probes ---------------------------------------------------------------------------
PREFIX = "sae-probes:"
"""What the command line puts before a tag."""
_UNITS = {
    "world_latitude": "lat",
    "world_longitude": "lon",
    "us_lat": "lat",
    "us_long": "lon",
    "nyc_lat": "lat",
    "nyc_long": "lon",
    "hist_fig_birthyear": "year",
    "hist_fig_deathyear": "year",
    "art_year": "year",
    "headline_year": "year",
}


def sae_probes_table(
    tag: str,
    place: Path | str | None = None,
    *,
    on_bad: Literal["raise", "drop"] = "raise",
    test_size: float = 0.2,
    seed: int = 0,
) -> Table:
    """The rows of one target of sae-probes, by its tag: `world_latitude`, `us_long`, `hist_fig_deathyear`, ….

    The package (Kantamneni et al. 2025, "Are Sparse Autoencoders Useful?") carries a text and one target a
    file: 5,000 rows drawn with replacement from the authors' tables, each target on its own, so that latitude
    and longitude are of other rows. Repeated rows are kept, as clusters. There is no split: one is drawn
    here, in whole clusters, so that rows of one text stand on one side. Numbers are numbers, words classes.

    Args:
        tag: The target.
        place: A file, a folder that holds it anywhere below, or None for the installed package.
        on_bad: As for `Table`, and so are `test_size` and `seed`.

    Raises:
        FileNotFoundError: There is no such file, or the package is not installed.
        TableError: The file has no `prompt` or `target`.
    """
    path = _find_tag(tag, place)
    if path.name.endswith(".zst") and find_spec("zstandard") is None:
        raise ImportError(f"{path.name} is compressed: pip install zstandard")
    frame = pd.read_csv(
        users_file(path), keep_default_na=False, na_values={"target": [""]}, dtype={"prompt": str}
    )
    if missing := [column for column in ("prompt", "target") if column not in frame.columns]:
        raise TableError(f"{path.name} has no column {', '.join(missing)}; it has {', '.join(frame.columns)}")
    return Table(
        frame.rename(columns={"target": tag}),
        text="prompt",
        target=tag,
        units=_UNITS.get(tag),
        name=f"sae-probes {tag}",
        on_bad=on_bad,
        test_size=test_size,
        seed=seed,
    )


def _find_tag(tag: str, place: Path | str | None) -> Path:
    """`18_world_latitude.csv.zst` for `world_latitude`; the shortest number first where several end alike."""
    if place is None:
        spec = find_spec("sae_probes")  # found without being imported: it brings torch and a model library
        if spec is None or not spec.submodule_search_locations:
            raise FileNotFoundError(
                "sae-probes is not installed: pip install --no-deps sae-probes, or give the file or folder"
            )
        place = next(iter(spec.submodule_search_locations))
    path = user_path(place)
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"no file or folder {str(path)!r} for {PREFIX}{tag}")
    name = re.compile(rf"(\d+_)?{re.escape(tag)}\.csv(\.zst|\.gz)?")
    matches = sorted(p for p in path.rglob("*.csv*") if name.fullmatch(p.name))
    if not matches:
        tags = {re.sub(r"^\d+_|\.csv.*$", "", p.name) for p in path.rglob("*_*.csv*")}
        near = sorted(t for t in tags if t.split("_")[0] == tag.split("_")[0]) or sorted(tags)[:10]
        raise FileNotFoundError(f"no {tag}.csv in {path}; there are {', '.join(near) or 'none'}")
    return matches[0]


def block_oracle(table: Table, block: str) -> dict[str, float]:
    """Target → test R² of the training means of a block, or of any column of the table.

    The ceiling of a predictor that knows the block and nothing within it (Gurnee & Tegmark's tables: country
    .968 of the longitude, .956 of the latitude).

    Raises:
        ColumnError: There is no such column.
        ValueError: As `block_oracle_predictions` does.
    """
    if block not in table.blocks:
        block = need_column(table.frame, block, "block")
    labels = table.blocks[block] if block in table.blocks else table.frame[block]
    predicted = block_oracle_predictions(table.y, labels, table.is_test)
    scores = r2(table.y[table.is_test], predicted)
    return {name: float(score) for name, score in zip(table.target_names, scores, strict=True)}
