"""The packaged tables and the coastline, and the rules of the script that made them."""

import json
from importlib.resources import files
from itertools import pairwise

import pandas as pd
import pytest

from graticule.probes.data import make

DATA = files("graticule.probes.data")


def table(name: str) -> pd.DataFrame:
    with DATA.joinpath(f"{name}.parquet").open("rb") as file:
        return pd.read_parquet(file)


def test_world_cities() -> None:
    cities = table("world_cities")
    assert list(cities.columns) == [
        "name", "country", "continent", "latitude", "longitude", "population", "is_test",
    ]  # fmt: skip
    assert len(cities) == 8000
    assert not cities.isna().any(axis=None)
    assert cities["name"].str.casefold().is_unique
    assert cities["latitude"].between(-90, 90).all() and cities["longitude"].between(-180, 180).all()
    assert cities["population"].is_monotonic_decreasing and cities["population"].min() > 15_000
    assert cities["is_test"].dtype == bool and cities["is_test"].mean() == pytest.approx(0.2, abs=1e-3)
    assert cities["country"].nunique() > 150 and cities["continent"].nunique() == 6
    # known places, so that swapped or shifted columns cannot pass
    at = cities.set_index("name").loc
    assert at["Paris", "country"] == "France"
    assert at["Paris", ["latitude", "longitude"]].tolist() == pytest.approx([48.85, 2.35], abs=0.1)
    assert at["Sydney", ["latitude", "longitude"]].tolist() == pytest.approx([-33.87, 151.21], abs=0.1)


def test_historical_figures() -> None:
    figures = table("historical_figures")
    assert list(figures.columns) == ["name", "death_year", "century", "is_test"]
    assert len(figures) == 4667
    assert figures["name"].is_unique and not figures.isna().any(axis=None)
    assert figures["death_year"].between(-1000, 2025).all()
    offset = figures["death_year"] - figures["century"]
    assert (figures["century"] % 100 == 0).all() and offset.between(0, 99).all()
    assert figures["is_test"].dtype == bool and figures["is_test"].mean() == pytest.approx(0.2, abs=1e-3)
    assert figures.set_index("name").loc["Ignacio Merino", "death_year"] == 1876


def test_the_split_is_the_scripts_own() -> None:
    for name in ("world_cities", "historical_figures"):
        found = table(name)
        assert make.test_rows(list(found["name"])) == found["is_test"].tolist()


def test_coastline() -> None:
    text = DATA.joinpath("coastline.json").read_text(encoding="utf-8")
    assert len(text) < 120_000
    lines = json.loads(text)
    assert len(lines) > 100
    for longitudes, latitudes in lines:
        assert len(longitudes) == len(latitudes) > 1
        assert all(-180 <= x <= 180 for x in longitudes) and all(-90 <= y <= 90 for y in latitudes)
        assert max(abs(a - b) for a, b in pairwise(longitudes)) < 15
    # the southern tip of Africa and the northern tip of Scotland are on it
    points = [(x, y) for line in lines for x, y in zip(*line, strict=True)]
    for x, y in ((20.0, -34.8), (-3.0, 58.6)):
        assert min(abs(a - x) + abs(b - y) for a, b in points) < 1.0


@pytest.mark.parametrize("name", ["README.md", "LICENSE-geonames.txt", "LICENSE-historical-figures.txt"])
def test_sources_and_licences_are_packaged(name: str) -> None:
    assert len(DATA.joinpath(name).read_text(encoding="utf-8")) > 300


def test_rows_for_testing_do_not_depend_on_order() -> None:
    names = [f"name {i}" for i in range(50)]
    chosen = {n for n, t in zip(names, make.test_rows(names), strict=True) if t}
    again = {n for n, t in zip(names[::-1], make.test_rows(names[::-1]), strict=True) if t}
    assert chosen == again and len(chosen) == 10
    other = {n for n, t in zip(names, make.test_rows(names, seed="other"), strict=True) if t}
    assert other != chosen


def test_ambiguous_names() -> None:
    cities = pd.DataFrame(
        {
            "geonameid": range(8),
            "name": ["Clear", "Big", "big", "Twin", "Twin", "Edge", "Edge", "Small"],
            "population": [10, 100, 49, 50, 40, 80, 40, 5],
        }
    )
    kept = make.without_ambiguous_names(cities)
    # Big has more than twice the people of big; Twin does not, and exactly twice is not more than twice
    assert kept["name"].tolist() == ["Big", "Clear", "Small"]
    assert kept["population"].tolist() == [100, 10, 5]


def test_figures_drawn_with_replacement() -> None:
    drawn = pd.DataFrame({"prompt": ["B", "A", "B", "C", "C"], "target": [-44.0, 1790.0, -44.0, 1.0, 2.0]})
    table_, dropped = make.distinct_figures(drawn)
    assert dropped == 1
    assert table_["name"].tolist() == ["A", "B"]
    assert table_["death_year"].tolist() == [1790, -44]
    assert table_["century"].tolist() == [1700, -100]


def test_topojson_arcs() -> None:
    topology = {
        "transform": {"scale": [0.5, 2.0], "translate": [-10.0, 5.0]},
        "arcs": [[[2, 1], [2, -1], [0, 3]], [[0, 0], [1, 1]]],
    }
    assert make.decode_arcs(topology) == [
        [(-9.0, 7.0), (-8.0, 5.0), (-8.0, 11.0)],
        [(-10.0, 5.0), (-9.5, 7.0)],
    ]


def test_lines_are_cut_at_the_antimeridian() -> None:
    crossing = [(178.0, 60.0), (179.5, 61.0), (-179.5, 62.0), (-178.0, 63.0)]
    assert make.coast_lines([crossing]) == [[[178.0, 179.5], [60.0, 61.0]], [[-179.5, -178.0], [62.0, 63.0]]]
    following = [(170.0, -80.0), (180.0, -81.0), (180.0, -85.0), (170.0, -85.0)]
    assert make.coast_lines([following]) == [
        [[170.0, 180.0], [-80.0, -81.0]],
        [[180.0, 170.0], [-85.0, -85.0]],
    ]
    standing = [(1.001, 1.0), (1.002, 1.0), (2.0, 2.0)]  # the first two points are one when rounded
    assert make.coast_lines([standing]) == [[[1.0, 2.0], [1.0, 2.0]]]


def test_main_writes_the_coastline(tmp_path) -> None:
    source = tmp_path / "land-110m.json"
    arc = {"transform": {"scale": [1, 1], "translate": [0, 0]}, "arcs": [[[0, 0], [1, 1]]]}
    source.write_text(json.dumps(arc))
    make.main(["--coastline", str(source), "--out", str(tmp_path)])
    assert json.loads((tmp_path / "coastline.json").read_text()) == [[[0, 1], [0, 1]]]
