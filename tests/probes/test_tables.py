"""Tables: reading, checks, clusters and splits."""

from __future__ import annotations

import logging
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from graticule.hooks.activations import Activations
from graticule.probes.core.inputs import table_of
from graticule.probes.tables.checks import ColumnError
from graticule.probes.tables.columns import TableError
from graticule.probes.tables.groups import group_folds, link_clusters, plain_form
from graticule.probes.tables.reading import packaged_tables
from graticule.probes.tables.table import Table


def frame(n: int = 40, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "name": [f"place {i}" for i in range(n)],
            "latitude": rng.uniform(-80, 80, n),
            "longitude": rng.uniform(-180, 180, n),
            "country": rng.choice(["Chad", "Peru", "Oman"], n),
            "is_test": np.arange(n) % 4 == 0,
        }
    )


SPACE = {"text": "name", "target": ["latitude", "longitude"], "units": ["lat", "lon"]}


def test_columns_become_arrays() -> None:
    data = frame()
    table = Table(data, **SPACE, split="is_test", blocks="country", name="places")
    assert np.array_equal(table.y, data[["latitude", "longitude"]].to_numpy())
    assert table.texts == data.name.tolist()
    assert np.array_equal(table.is_test, data.is_test)
    assert (table.name, table.kind, table.units, table.classes) == ("places", "numeric", ("lat", "lon"), ())
    assert table.blocks["country"].tolist() == data.country.tolist()
    assert np.array_equal(table.clusters, np.arange(40))
    assert "30 training and 10 test rows; 0 clusters straddle" in table.split_note
    assert table.has_coordinates and table.coordinates() == (0, 1)
    flipped = Table(data, "name", ["longitude", "latitude"], {"latitude": "lat", "longitude": "lon"})
    assert flipped.coordinates() == (1, 0)
    with pytest.raises(TableError, match="no coordinates"):
        Table(data, "name", "latitude", "lat").coordinates()


def test_a_table_does_not_change() -> None:
    table = Table(frame(), **SPACE)
    with pytest.raises(AttributeError, match="does not change"):
        table.name = "other"
    with pytest.raises(ValueError, match="read-only"):
        table.y[0] = 0


def test_a_wrong_column_names_the_nearest() -> None:
    with pytest.raises(ColumnError, match=r"no column 'Lattitude' for target; nearest: 'latitude'"):
        Table(frame(), "name", "Lattitude")
    with pytest.raises(KeyError, match="columns: 'name', 'latitude'"):
        Table(frame(), "zzz", "latitude")
    with pytest.raises(TableError, match="no target"):
        Table(frame(), "name")


def test_bad_rows_are_listed_or_dropped() -> None:
    data = frame()
    data.loc[3, "latitude"] = np.nan
    data.loc[5, "longitude"] = np.inf
    data.loc[7, "name"] = "  "
    data.loc[8, "name"] = None
    data.loc[9, "latitude"] = 120.0
    with pytest.raises(TableError, match=r"5 of 40 rows.*row 3: target 'latitude' is missing.*row 5: .*inf"):
        Table(data, **SPACE)
    table = Table(data, **SPACE, on_bad="drop")
    assert table.dropped.row.tolist() == [3, 5, 7, 8, 9]
    assert "outside ±90 degrees" in table.dropped.reason[4]
    assert len(table) == 35 and np.isfinite(table.y).all()
    assert table.texts == data.name[table.source_rows].tolist()
    assert table.frame.index.tolist() == list(range(35))


@pytest.mark.parametrize(
    ("values", "kind", "match"),
    [
        ([5.0] * 40, None, "is constant"),
        ([str(i) for i in range(40)], None, r"numbers as text.*pandas.to_numeric"),
        (["a"] * 40, None, "constant: the only value is 'a'"),
        (pd.date_range("2020", periods=40), None, "holds dates"),
        ([[1, 2]] * 40, None, "holds list values"),
        (["a", "b", "c", "d"] * 10, "binary", "needs two classes"),
        (["a", "b"] * 20, "numeric", "not numeric"),
    ],
)
def test_targets_that_cannot_be_used(values: list[object], kind: str | None, match: str) -> None:
    with pytest.raises(TableError, match=match):
        Table(frame().assign(t=values), "name", "t", kind=kind)  # type: ignore[arg-type]


def test_kinds_are_told_from_the_values() -> None:
    data = frame()
    flag = Table(data.assign(t=data.latitude > 0), "name", "t")
    assert (flag.kind, flag.classes, flag.target_names) == ("binary", ("False", "True"), ("t",))
    assert np.array_equal(flag.y[:, 0], data.latitude > 0)
    assert Table(data.assign(t=np.arange(40) % 2), "name", "t").kind == "binary"
    assert Table(data.assign(t=np.arange(40) % 2), "name", "t", kind="numeric").kind == "numeric"
    country = Table(data, "name", "country")
    assert country.classes == ("Chad", "Oman", "Peru")
    assert country.target_names == ("country=Chad", "country=Oman", "country=Peru")
    assert (country.y.sum(axis=1) == 1).all()
    assert [country.classes[i] for i in country.y.argmax(axis=1)] == data.country.tolist()
    decade = Table(data.assign(t=np.arange(40) % 3 * 10), "name", "t", kind="categorical")
    assert decade.classes == ("0", "10", "20")
    as_text = Table(data.assign(t=(np.arange(40) % 3).astype(str)), "name", "t", kind="categorical")
    assert as_text.kind == "categorical"


def test_several_targets_must_be_numbers() -> None:
    with pytest.raises(TableError, match=r"'country'.*must all be numbers"):
        Table(frame(), "name", ["latitude", "country"])


def test_shipped_splits_are_used_as_they_are() -> None:
    data = frame()
    words = np.where(data.is_test, "Test", "train").astype(object)
    for column in (data.is_test, data.is_test.astype(int), words, data.is_test.astype(float)):
        assert np.array_equal(Table(data.assign(s=column), **SPACE, split="s").is_test, data.is_test)
    words[3] = "validation"
    with pytest.raises(TableError, match=r"row 3: split 's' is 'validation'"):
        Table(data.assign(s=words), **SPACE, split="s")
    assert len(Table(data.assign(s=words), **SPACE, split="s", on_bad="drop")) == 39
    with pytest.raises(TableError, match="40 training and 0 test rows"):
        Table(data.assign(s=False), **SPACE, split="s")


def test_a_shipped_split_may_straddle_and_says_so() -> None:
    data = frame()
    data.loc[1, "name"] = data.loc[0, "name"] + " "
    table = Table(data, **SPACE, split="is_test")
    assert table.clusters[0] == table.clusters[1]
    assert table.is_test[0] != table.is_test[1]
    assert "1 clusters straddle" in table.split_note
    assert (table.duplicate_texts, table.conflicting_texts) == (1, 1)


def test_clusters_are_the_union_of_column_and_texts() -> None:
    rng = np.random.default_rng(0)
    column = pd.Series(rng.integers(0, 60, 120)).astype(object).where(rng.random(120) > 0.3, None)
    texts = [f"t{i}" + " " * int(i % 2) for i in rng.integers(0, 90, 120)]
    found = link_clusters([column, pd.Series([t.strip() for t in texts])], 120)
    labels = np.arange(120)  # brute force: spread the smallest label until nothing changes
    same = np.array([[t.strip() == u.strip() for u in texts] for t in texts])
    same |= np.array([[a is not None and a == b for b in column] for a in column])
    for _ in range(120):
        labels = np.where(same, labels, 120).min(axis=1)
    assert np.array_equal(labels[:, None] == labels, found[:, None] == found)
    assert len(np.unique(found)) == found.max() + 1


@pytest.mark.parametrize("seed", range(5))
def test_our_splits_and_folds_never_take_a_cluster_apart(seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = frame(300).assign(who=rng.zipf(1.6, 300).clip(max=60))
    data["name"] = rng.choice([f"n{i}" for i in range(400)], 300)
    table = Table(data, **SPACE, cluster="who", seed=seed, test_size=0.3)
    assert not set(table.clusters[table.is_test]) & set(table.clusters[~table.is_test])
    assert np.array_equal(
        Table(data, **SPACE, cluster="who", seed=seed, test_size=0.3).is_test, table.is_test
    )
    folds = group_folds(table.clusters, 5, seed)
    for cluster in np.unique(table.clusters):
        assert len(set(folds[table.clusters == cluster])) == 1
    assert np.array_equal(np.unique(group_folds(np.arange(50), 5, seed), return_counts=True)[1], [10] * 5)


def test_the_drawn_split_has_the_size_asked_for_and_keeps_every_class_in_train() -> None:
    table = Table(frame(1000), **SPACE, test_size=0.25, seed=3)
    assert table.is_test.sum() == 250
    rare = frame(200).assign(t=["x"] * 100 + ["y"] * 98 + ["z"] * 2)
    for seed in range(10):
        kept = Table(rare, "name", "t", seed=seed, test_size=0.5)
        assert (kept.y[~kept.is_test].sum(axis=0) > 0).all()
        assert (kept.y[kept.is_test].sum(axis=0) > 0).all()


def test_a_class_without_training_rows_is_refused() -> None:
    data = frame().assign(t=["a", "b", "c", "a"] * 10)
    with pytest.raises(TableError, match=r"no row is of class 't=c' in the training rows"):
        Table(data.assign(s=np.arange(40) % 4 == 2), "name", "t", split="s")


def test_take_head_and_with_target() -> None:
    data = frame(200)
    data["name"] = [f"p{i // 2}" for i in range(200)]
    data["is_test"] = np.arange(200) // 2 % 4 == 0
    table = Table(data, **SPACE, split="is_test", blocks="country")
    part = table.head(51, seed=1)
    assert len(part) == 50  # whole clusters of two
    assert np.array_equal(part.y, table.y[part.source_rows])
    assert np.array_equal(part.is_test, table.is_test[part.source_rows])
    assert (np.bincount(part.clusters) == 2).all()
    assert part.blocks["country"].tolist() == [data.country[i] for i in part.source_rows]
    assert part.digest == table.take(part.source_rows).digest != table.digest
    assert table.head(1000) is table
    again = part.take(np.arange(len(part)) > 9)
    assert np.array_equal(again.y, table.y[again.source_rows])
    with pytest.raises(TableError, match="0 test rows"):
        table.take(~table.is_test)
    shuffled = table.with_target(table.y[::-1].copy())
    assert shuffled.units == ("lat", "lon") and shuffled.digest != table.digest
    other = table.with_target(np.arange(200.0), ["rank"])
    assert (other.target_names, other.y.shape, other.has_coordinates) == (("rank",), (200, 1), False)
    with pytest.raises(TableError, match="200 finite rows"):
        table.with_target(np.ones(3))


def test_from_arrays() -> None:
    y = np.random.default_rng(0).normal(size=(30, 2))
    table = Table.from_arrays(y, clusters=np.arange(30) // 3, units=["lat", "lon"])
    assert table.texts is None and np.array_equal(table.y, y)
    assert not set(table.clusters[table.is_test]) & set(table.clusters[~table.is_test])
    labels = Table.from_arrays(["a", "b"] * 15, [f"w{i}" for i in range(30)], np.arange(30) < 9)
    assert (labels.kind, labels.target_names, labels.is_test.sum()) == ("binary", ("target",), 9)
    with pytest.raises(TableError, match="'text': 29"):
        Table.from_arrays(y, ["x"] * 29)
    with pytest.raises(TableError, match="ragged"):
        Table.from_arrays([[1.0, 2.0], [3.0]] * 10)


def test_files_keep_words_that_look_missing(tmp_path: Path) -> None:
    """Nan is a city, NA a country code, 00501 a name: none is a missing value or a number."""
    data = frame(20)
    data.loc[[0, 1, 2], "name"] = ["Nan", "Null", "00501"]
    data["country"] = ["NA", "PE"] * 10
    data.loc[4, "latitude"] = np.nan
    data.to_csv(tmp_path / "cities.csv", index=False)
    data.to_parquet(tmp_path / "cities.parquet")
    for file in ("cities.csv", "cities.parquet"):
        table = Table(tmp_path / file, **SPACE, split="is_test", blocks=["country"], on_bad="drop")
        assert table.texts is not None and table.texts[:3] == ["Nan", "Null", "00501"]
        assert table.blocks["country"].tolist()[:2] == ["NA", "PE"]
        assert table.dropped.row.tolist() == [4]
        assert table.name == "cities"
        np.testing.assert_allclose(table.y[:, 0], data.latitude.drop(4), rtol=1e-15)
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        Table(tmp_path / "none.csv", **SPACE)
    (tmp_path / "x.xlsx").touch()
    with pytest.raises(TableError, match="not read"):
        Table(tmp_path / "x.xlsx", **SPACE)


def test_a_datasets_folder(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    data = frame().drop(columns="is_test")
    Dataset.from_pandas(data).save_to_disk(tmp_path / "one")
    assert Table(tmp_path / "one", **SPACE).texts == data.name.tolist()
    both = DatasetDict(
        {k: Dataset.from_pandas(data[a:b]) for k, a, b in (("train", 0, 30), ("test", 30, 40))}
    )
    both.save_to_disk(tmp_path / "two")
    assert np.array_equal(Table(tmp_path / "two", **SPACE).is_test, np.arange(40) >= 30)
    (tmp_path / "empty").mkdir()
    with pytest.raises(TableError, match="save_to_disk"):
        Table(tmp_path / "empty", **SPACE)


def test_duplicates_and_drops_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    data = frame()
    data.loc[[1, 2], ["name", "latitude", "longitude"]] = ["twin", 1.0, 2.0]
    data.loc[[4, 5], "name"] = "conflict"
    data.loc[6, "latitude"] = np.nan
    with caplog.at_level(logging.WARNING):
        table = Table(data, **SPACE, on_bad="drop", name="mine")
    assert "mine: 1 rows dropped" in caplog.text
    assert (table.duplicate_texts, table.conflicting_texts) == (2, 1)
    lines = dict(table.describe().itertuples(index=False))
    assert (lines["rows"], lines["rows dropped"], lines["clusters"]) == ("39", "1", "37")


@pytest.mark.parametrize("name", list(packaged_tables()))
def test_packaged_tables(name: str) -> None:
    table = Table.packaged(name)
    assert table.name == name and len(table) > 3000
    assert "0 clusters straddle" in table.split_note
    assert table.has_coordinates == (name == "world_cities")
    with pytest.raises(TableError, match="'world_cities', 'historical_figures'"):
        Table.packaged("moon")


ALIKE = {
    "Unicode form": lambda w: unicodedata.normalize("NFD", w),
    "compatibility form": lambda w: w.replace("f", "ｆ"),
    "case": str.upper,
    "blanks": lambda w: w.replace(" ", " \u00a0 "),
    "a full stop": lambda w: w + ".",
    "quotes": lambda w: f"“{w}”",
    "a hyphen": lambda w: w.replace(" ", "-"),
    "a mark that nobody sees": lambda w: w[:2] + "\u200b" + w[2:],
}


@pytest.mark.slow
@pytest.mark.parametrize("form", ALIKE)
def test_texts_that_are_alike_belong_together(form: str, caplog: pytest.LogCaptureFixture) -> None:
    """Otherwise what memorises a text is tested on its other form, and luck is called structure."""
    base = [f"éf{a}{b} xy" for a in "abcde" for b in "klmn"]
    texts, y = base + [ALIKE[form](w) for w in base], np.tile(np.random.default_rng(0).normal(size=20), 2)
    table = Table.from_arrays(y, texts)
    assert table.clusters.tolist() == [*range(20), *range(20)]
    assert np.array_equal(table.is_test[:20], table.is_test[20:])
    assert "alike but for case" in table.split_note and "alike" in table.head(30).split_note
    assert not caplog.records
    shipped = Table.from_arrays(y, texts, is_test=np.arange(40) >= 20)
    assert shipped.clusters.tolist() == table.clusters.tolist()
    assert "20 clusters straddle it" in shipped.split_note
    assert "20 texts stand in training and test rows alike" in caplog.text and repr(base[0]) in caplog.text
    caplog.clear()
    said = Table.from_arrays(y, texts, is_test=np.arange(40) >= 20, clusters=np.arange(40))
    assert len(set(said.clusters)) == 40 and not caplog.records  # who says what belongs together is believed
    acts = Activations.from_tensors({"x": np.eye(40)}, pd.DataFrame({"text": texts}))
    of_rows = table_of(acts, y, None, None)[0]
    assert of_rows.clusters.tolist() == table.clusters.tolist()


APART = (
    ["1.5", "15", "1,5", "!", "?", "C", "C+", "résumé", "resume", "a b", "ab", "1/2", "12", "α", "a"],
    ["7", "-7", "7%", "7‰", "#7", "+7", "7*", "/7", "@7", ".7", "-.7", "$7", "-$7", "7°", "~7", "^7"],
    ["c", "C", "C#", "c#", "C++", "C&"],
    ["12.5 -3.1", "-12.5 3.1", "12.5 3.1", "-12.5 -3.1"],
    ["x=1", "x!=1", "x=-1", "x = 1", "X=1", "x<1", "x>=1"],
    ["ATT", "AT&T", "AC/DC", "ACDC", "AC\\DC", "user@home", "userhome", "p*q", "pq", "a^b"],
)


@pytest.mark.parametrize("texts", APART, ids=lambda texts: texts[-1])
def test_texts_that_are_not_alike_stay_apart(texts: list[str]) -> None:
    texts = [*texts, *(f"other {c}" for c in "defghijkl")]
    table = Table.from_arrays(np.arange(float(len(texts))), texts)
    assert len(set(table.clusters)) == len(texts)
    assert "alike" not in table.split_note


TWINS = (
    ["-15", "−15", "－15", "“-15”", "(-15)", "–15", "-15.", " -１５"],
    ["C#", "Ｃ＃", "“C#”", "C#.", "C\u200b#"],
    ["x!=1", "x！＝1", "‘x!=1’,"],
    ["AT&T", "at&t", "AT＆T", '"AT&T"'],
    ["COVID-19", "covid 19", "COVID–19", "Covid_19", "COVID—19!"],
    ["New York", "NEW-YORK", "(new york)", "New York, ", "‘New’ York"],
    ["É", "E\u0301", "É."],
)


def test_texts_that_are_alike_though_they_hold_signs() -> None:
    forms = [{plain_form(text) for text in twins} for twins in TWINS]
    assert [len(form) for form in forms] == [1] * len(TWINS)
    assert len(set.union(*forms)) == len(TWINS)
    every = [text for twins in TWINS for text in twins]
    table = Table.from_arrays(np.arange(float(len(every))), every)
    assert table.clusters.tolist() == [i for i, twins in enumerate(TWINS) for _ in twins]


def test_packaged_names_are_entities_of_their_own(caplog: pytest.LogCaptureFixture) -> None:
    """Saint Paul in Minnesota is not Saint-Paul in La Réunion: the tables say which rows belong together."""
    table = Table.packaged("world_cities")
    assert {"Saint Paul", "Saint-Paul"} < set(table.texts or ())
    assert len(set(table.clusters)) == len(table) and not caplog.records


def test_numbers_that_float64_hardly_tells_apart_are_refused() -> None:
    small = np.random.default_rng(0).integers(-3000, 3000, 40)
    with pytest.raises(
        TableError, match=r"target 'y' varies by .* float64 tells 256 apart: subtract a constant"
    ):
        Table(pd.DataFrame({"w": [f"w{i}" for i in range(40)], "y": small + 2**60}), "w", "y")
    assert len(Table(pd.DataFrame({"w": [f"w{i}" for i in range(40)], "y": small + 10**9}), "w", "y")) == 40
