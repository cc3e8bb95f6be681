"""The paper's six tables: small files in the authors' column layout, and the real ones where they are."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from graticule.probes.papers.spacetime import (
    FOLDER_VARIABLE,
    SPACE_TIME,
    block_oracle,
    calendar_years,
    read_space_time,
    sae_probes_table,
    space_time_table,
)
from graticule.probes.tables.checks import ColumnError
from graticule.probes.tables.columns import TableError
from graticule.probes.tables.groups import block_oracle_predictions
from graticule.probes.tables.table import Table

FILES = {
    "world_place": """name,entity_subtype,country,latitude,longitude,has_thumbnail,page_views,entity_type,total_area,population,is_test
"Nan, Thailand",City,Thailand,18.78,100.78,1,9000.0,populated_place,,24000,False
NA,Village,Namibia,-22.5,17.1,0,5100.0,populated_place,,,False
Palau (island),Island,Palau,7.5,134.6,1,30000.0,natural_place,459.0,,False
Ford Rotunda,Building,United_States,42.3,-83.2,1,7000.0,structure,,,True
Prora,Building,Germany,54.4,13.6,1,8000.0,structure,,,True
""",  # noqa: E501
    "us_place": """name,latitude,longitude,state_id,state_name,county_fips,population,density,timezone,entity_type,entity_subtype,page_views,is_test
New York,40.7,-73.9,NY,New York,36081.0,18972871.0,10768.2,America/New_York,city,,,False
01001,42.06,-72.6,MA,Massachusetts,25013.0,16088.0,545.0,America/New_York,zip,,,False
Polk County,41.68,-93.57,IA,Iowa,19153.0,487204.0,,America/Chicago,county,,,False
Oberlin College,41.29,-82.22,OH,Ohio,39093.0,,,America/New_York,college,,,True
Paris,33.67,-95.55,TX,Texas,48277.0,24782.0,260.4,America/Chicago,city,,,True
""",  # noqa: E501
    "nyc_place": """name,source,complexid,saftype,facility_t,borough,latitude,longitude,nad83_x,nad83_y,borough_name,facility_t_name,is_test
CHURCH OF THE PS 11,DoITT,3378,N,6,4,40.79,-73.82,314.6,70.0,Queens,Religious Institution,False
BROOKLYN BRIDGE,DoITT,0,N,6,3,40.70,-73.99,300.5,59.6,Brooklyn,Transportation Facility,False
NYPD TOWER,DoITT,3378,N,6,1,40.70,-73.98,300.6,60.2,Manhattan,Public Safety,False
RIKERS ISLAND,DoITT,0,N,6,2,40.78,-73.88,309.6,68.8,,Transportation Facility,True
BORDEN AVENUE,DoITT,0,N,6,4,40.73,-73.94,304.8,63.5,Queens,Transportation Facility,True
""",  # noqa: E501
    "historical_figure": """wiki_id,name,description,gender,country,occupation,birth_year,death_year,cause_of_death,age,death_century,death_decade,is_test
Q1,Nan of Fars,poet,Female,Iran,artist,-10,55,,65.0,0,5,False
Q2,Sappho,poet,Female,Greece,artist,-630,-570,,60.0,-600,-57,False
Q23,George Washington,president,Male,United States,politician,1732,1799,natural causes,67.0,1700,179,False
Q42,Douglas Adams,writer,Male,United Kingdom,artist,1952,2001,natural causes,49.0,2000,200,True
Q254,Wolfgang Amadeus Mozart,composer,Male,Austria,,1756,1791,,35.0,1700,179,True
""",  # noqa: E501
    "art": """title,creator,release_date,length,page_name,page_views,entity_type,is_test,decade
It,Stephen King,1986-09-15,1138.0,It_(novel),4503905.0,book,False,1980
Nan,NA,1970-01-01,,Nan,6000.0,song,False,1970
Help!,The Beatles,1965-07-23,,Help!,90000.0,song,False,1960
"Catch-22, Again",Joseph Heller,1961-10-10,453.0,Catch-22,3238837.0,book,True,1960
1Q84,Haruki Murakami,2009-05-29,928.0,1Q84,956074.0,book,True,2000
The Stand,Stephen King,1978-10-03,823.0,The_Stand,3107749.0,book,False,1970
""",
    "headline": """headline,word_count,pub_date,print_section,print_page,section,news_desk,year,is_trump,is_biden,is_test
Pilgrims Arrive in Mecca for Annual Hajj.,900,2020-07-29T09:00:12+0000,A,1,World,Foreign,2020,False,False,False
A Senator Speaks.,300,2010-01-01T00:00:00+0000,A,10,U.S.,National,2010,False,False,False
Nan.,300,2015-06-01T00:00:00+0000,A,2,U.S.,Politics,2015,False,False,False
"John Doe, Chemist, Dies at 90.",700,2012-03-04T05:06:07+0000,B,8,Obituaries,Obits,2012,False,False,True
War Ends.,700,2013-03-04T05:06:07+0000,A,3,World,Foreign,2013,False,False,True
""",  # noqa: E501
}
TEXTS = {
    "world_place": ["Thailand's Nan", "NA", "island's Palau", "Ford Rotunda", "Prora"],
    "us_place": ["New York", "01001", "Polk County", "Oberlin College", "Paris"],
    "nyc_place": [
        "Church of the PS 11",
        "Brooklyn Bridge",
        "NYPD Tower",
        "Rikers Island",
        "Borden Avenue",
    ],
    "historical_figure": [
        "Nan of Fars",
        "Sappho",
        "George Washington",
        "Douglas Adams",
        "Wolfgang Amadeus Mozart",
    ],
    "art": [
        "Stephen King's It",
        "NA's Nan",
        "The Beatles' Help!",
        "Joseph Heller's Catch-22, Again",
        "Haruki Murakami's 1Q84",
        "Stephen King's The Stand",
    ],
    "headline": [
        "Pilgrims Arrive in Mecca for Annual Hajj.",
        "A Senator Speaks.",
        "Nan.",
        "John Doe, Chemist, Dies at 90.",
        "War Ends.",
    ],
}


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / f"{name}.csv").write_text(text)
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_the_authors_layout(folder, name):
    table = space_time_table(name, folder)
    frame = pd.read_csv(folder / f"{name}.csv", dtype=str, keep_default_na=False)
    assert table.name == name
    assert table.texts == TEXTS[name]
    assert table.is_test.tolist() == (frame["is_test"] == "True").tolist()
    assert table.units == SPACE_TIME[name].units
    assert len(table.dropped) == 0
    assert set(frame.columns) <= set(table.frame.columns)


def test_targets_and_blocks(folder):
    world = space_time_table("world_place", folder)
    assert world.target_names == ("latitude", "longitude")
    assert world.y[1].tolist() == [-22.5, 17.1]
    assert list(world.blocks) == ["country", "entity_type"]
    assert world.blocks["country"][1] == "Namibia"
    figures = space_time_table("historical_figure", folder)
    assert figures.y[:, 0].tolist() == [55, -570, 1799, 2001, 1791]
    assert figures.blocks["century"].tolist() == [0, -600, 1700, 2000, 1700]
    assert list(space_time_table("headline", folder).blocks) == ["year", "news_desk"]
    assert list(space_time_table("us_place", folder).blocks) == ["state_name", "entity_type"]
    borough = space_time_table("nyc_place", folder).blocks["borough_name"]
    assert borough.isna().tolist() == [False, False, False, True, False]


def test_years_are_the_papers_plus_1970(folder):
    art = space_time_table("art", folder)
    paper = pd.to_datetime(art.frame["release_date"]).to_numpy("datetime64[ns]").astype(np.int64)
    assert art.y[:, 0] - 1970 == pytest.approx(paper / (365.25 * 86400 * 1e9), abs=1e-9)
    assert art.y[1, 0] == 1970
    headlines = space_time_table("headline", folder)
    assert np.floor(headlines.y[:, 0]).tolist() == [2020, 2010, 2015, 2012, 2013]
    assert np.isnan(calendar_years(pd.Series(["no date"])))[0]


def test_clusters(folder):
    art = space_time_table("art", folder)
    assert art.clusters[0] == art.clusters[5]  # one creator
    assert len(set(art.clusters)) == 5
    nyc = space_time_table("nyc_place", folder)
    assert nyc.clusters[0] == nyc.clusters[2]  # one complex
    assert len(set(nyc.clusters)) == 4  # complex 0 is none


def test_raw_names_on_request(folder):
    raw = space_time_table("world_place", folder, entity="raw")
    assert raw.texts == ["Nan, Thailand", "NA", "Palau (island)", "Ford Rotunda", "Prora"]
    assert raw.name != space_time_table("world_place", folder).name
    with pytest.raises(TableError, match="title_case_place"):
        space_time_table("world_place", folder, entity="upside_down")


def test_parquet_and_datasets_are_the_same_table(folder, tmp_path):
    from datasets import Dataset, DatasetDict

    table = space_time_table("art", folder)
    frame = pd.read_csv(folder / "art.csv", keep_default_na=False)
    frame.to_parquet(tmp_path / "a.parquet")
    assert space_time_table("art", tmp_path / "a.parquet").digest == table.digest
    Dataset.from_pandas(frame).save_to_disk(tmp_path / "whole")
    assert space_time_table("art", tmp_path / "whole").digest == table.digest
    place = tmp_path / "many" / "art"
    parts = frame.drop(columns="is_test")
    test = frame["is_test"].to_numpy(bool)
    dealt = {"train": parts[~test], "test": parts[test]}
    DatasetDict({k: Dataset.from_pandas(v, preserve_index=False) for k, v in dealt.items()}).save_to_disk(
        place
    )
    other = space_time_table("art", tmp_path / "many")
    assert sorted(zip(other.texts, other.is_test, strict=True)) == sorted(
        zip(table.texts, table.is_test, strict=True)
    )
    assert space_time_table("art", frame).digest == table.digest


def test_where_files_are_looked_for(folder, tmp_path, monkeypatch):
    repository = tmp_path / "clone"
    (repository / "data" / "entity_datasets").mkdir(parents=True)
    (folder / "art.csv").rename(repository / "data" / "entity_datasets" / "art.csv")
    assert len(space_time_table("art", repository)) == 6
    monkeypatch.setenv(FOLDER_VARIABLE, str(repository))
    assert read_space_time("art").name == "art"
    with pytest.raises(FileNotFoundError, match=r"headline\.csv"):
        read_space_time("headline")
    monkeypatch.delenv(FOLDER_VARIABLE)
    with pytest.raises(FileNotFoundError, match=FOLDER_VARIABLE):
        read_space_time("art")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_space_time("art=nowhere.csv")


def test_words_of_the_command_line(folder):
    assert read_space_time("world_cities") is None
    assert read_space_time("names.csv") is None
    table = read_space_time(f"nyc_place={folder}", entity="raw")
    assert table.texts[0] == "CHURCH OF THE PS 11"


def test_what_is_not_in_the_layout_is_named(folder):
    frame = pd.read_csv(folder / "art.csv", keep_default_na=False)
    for column in ("release_date", "is_test", "creator", "title", "decade"):
        with pytest.raises(ColumnError, match=column):
            space_time_table("art", frame.drop(columns=column))
    with pytest.raises(TableError, match="world_place"):
        space_time_table("moon_place", folder)
    broken = frame.assign(release_date=["1986-09-15", "soon", *frame["release_date"][2:]])
    with pytest.raises(TableError, match="row 1: target 'release_year' is missing"):
        space_time_table("art", broken)
    assert len(space_time_table("art", broken, on_bad="drop")) == 5


# sae-probes ------------------------------------------------------------------------------------------
def test_rows_of_sae_probes(tmp_path):
    place = tmp_path / "sae_probes" / "data" / "cleaned_data"
    place.mkdir(parents=True)
    names = ["NA", "Nan", "Oslo", "Lima", "Oslo", "Oslo", *[f"Place {i}" for i in range(10)]]
    frame = pd.DataFrame(
        {"prompt": names, "prompt_len": 2, "target": [1.5, 2, 59.9, -12, 59.9, 59.9, *range(10)]}
    )
    frame.to_csv(place / "18_world_latitude.csv", index=False)
    table = read_space_time(f"sae-probes:world_latitude={tmp_path}")
    assert table.texts == names
    assert table.units == ("lat",)
    assert table.clusters[2] == table.clusters[4] == table.clusters[5]
    assert len(set(table.clusters)) == 14
    split = {table.is_test[i] for i in (2, 4, 5)}
    assert len(split) == 1  # one text, one side
    kinds = frame.assign(target=["a", "b"] * 8)
    kinds.to_csv(place / "27_art_type.csv", index=False)
    assert sae_probes_table("art_type", tmp_path).kind == "binary"
    with pytest.raises(FileNotFoundError, match="world_latitude"):
        sae_probes_table("world_longitude", tmp_path)
    kinds.drop(columns="prompt").to_csv(place / "1_us_lat.csv", index=False)
    with pytest.raises(TableError, match="prompt"):
        sae_probes_table("us_lat", tmp_path)


def test_compressed_rows_of_sae_probes(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    text = "prompt,prompt_len,target\n" + "".join(f"Name {i},3,{1900 + i}\n" for i in range(20))
    (tmp_path / "3_hist_fig_deathyear.csv.zst").write_bytes(zstandard.compress(text.encode()))
    table = sae_probes_table("hist_fig_deathyear", tmp_path)
    assert table.y[:, 0].tolist() == [1900 + i for i in range(20)]


# Oracles ---------------------------------------------------------------------------------------------
def test_block_oracle_by_hand():
    y = np.array([[1.0], [3.0], [10.0], [5.0], [0.0], [7.0]])
    blocks = ["a", "a", "b", "a", "new", None]
    is_test = np.array([False, False, False, True, True, True])
    mean = 14 / 3
    assert block_oracle_predictions(y, blocks, is_test)[:, 0] == pytest.approx([2, mean, mean])
    with pytest.raises(ValueError, match="3 of blocks"):
        block_oracle_predictions(y, blocks[:3], is_test)
    with pytest.raises(ValueError, match="no training row"):
        block_oracle_predictions(y, blocks, np.ones(6, bool))


def test_block_oracle_is_one_hot_least_squares():
    from sklearn.linear_model import LinearRegression
    from sklearn.metrics import r2_score

    rng = np.random.default_rng(0)
    blocks, is_test = rng.integers(0, 12, 300), rng.random(300) < 0.3
    y = rng.normal(size=(12, 2))[blocks] + rng.normal(size=(300, 2))
    table = Table.from_arrays(y, is_test=is_test, blocks={"block": blocks.tolist()}, target_names=["u", "v"])
    hot = np.eye(12)[blocks]
    fit = LinearRegression(fit_intercept=False).fit(hot[~is_test], y[~is_test])
    expected = r2_score(y[is_test], fit.predict(hot[is_test]), multioutput="raw_values")
    assert list(block_oracle(table, "block").values()) == pytest.approx(list(expected))
    with pytest.raises(KeyError, match="country"):
        block_oracle(table, "country")


# The real tables -------------------------------------------------------------------------------------
def _real(name: str) -> Table:
    place = os.environ.get(FOLDER_VARIABLE, "")
    if not place or not (Path(place) / f"{name}.csv").exists():
        # the tables are not ours to ship
        pytest.skip(f"set {FOLDER_VARIABLE} to a folder with {name}.csv")
    return space_time_table(name)


WORLD = {"populated_place": 30_783, "structure": 6_453, "natural_place": 2_349}
US = {
    "city": 12_904,
    "zip": 12_533,
    "county": 1_697,
    "college": 1_329,
    "structure": 1_052,
    "natural_place": 482,
}


def test_world_place_has_the_papers_counts_and_oracle():
    table = _real("world_place")
    assert (len(table), int(table.is_test.sum())) == (39_585, 7_917)
    assert table.frame["entity_type"].value_counts().to_dict() == WORLD
    assert table.blocks["country"].nunique() == 365
    oracle = block_oracle(table, "country")
    assert round(oracle["longitude"], 3) == 0.968
    assert round(oracle["latitude"], 3) == 0.956
    names = table.frame["name"]
    assert int(names.str.contains(r"\(.*?\)").sum()) == 1_431
    rewritten = names.to_numpy() != np.array(table.texts)
    assert int(rewritten.sum()) == 1_431 + 11_456
    assert all(text == text.strip() for text in table.texts)


def test_us_place_has_the_papers_counts_and_oracle():
    table = _real("us_place")
    assert (len(table), int(table.is_test.sum())) == (29_997, 5_999)
    assert table.frame["entity_type"].value_counts().to_dict() == US
    assert table.frame["state_id"].nunique() == 49
    for block in ("state_id", "state_name"):
        oracle = block_oracle(table, block)
        assert round(oracle["longitude"], 3) == 0.989
        assert round(oracle["latitude"], 3) == 0.940
    zips = table.frame.loc[table.frame["entity_type"] == "zip", "name"]
    assert set(zips.str.len()) == {5}
