"""What tables are given, read as it was meant or refused in one line: files, labels, numbers, splits."""

from __future__ import annotations

import datetime
import gzip
import html
import json
import logging
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import as_installed

from graticule.probes.tables.checks import ColumnError
from graticule.probes.tables.columns import TableError
from graticule.probes.tables.table import Table

N = 40
NAMES = [f"place {i}" for i in range(N)]


def table_of(values: object, **settings: object) -> Table:
    return Table(pd.DataFrame({"name": NAMES, "t": values}), "name", "t", **settings)  # type: ignore[arg-type]


# Files -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_tabs_part_only_what_ends_in_tsv(tmp_path: Path, packed: str) -> None:
    data = pd.DataFrame({"name": NAMES, "t": np.arange(N)})
    for name, separator in (
        ("words.tsv.clean.csv", ","),
        ("a.csv.tsv", "\t"),
        ("B.TSV", "\t"),
        ("tsv.csv", ","),
    ):
        data.to_csv(tmp_path / f"{name}{packed}", index=False, sep=separator)
        assert Table(tmp_path / f"{name}{packed}", "name", "t").texts == NAMES
    (tmp_path / "x.csv.clean").write_text("a,b\n")
    with pytest.raises(TableError, match=r"'x\.csv\.clean' is not read"):
        Table(tmp_path / "x.csv.clean", "a", "b")


def test_quotes_in_tab_separated_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = [f'"Open {i}' if i in (5, 20) else f"plain {i}" for i in range(N)]
    texts[7] = 'a "word" inside'
    lines = [f"{text}\t{i}" for i, text in enumerate(texts)]
    (tmp_path / "lone.tsv").write_text("name\tt\n" + "\r\n".join(lines) + "\n")
    assert Table(tmp_path / "lone.tsv", "name", "t").texts == texts
    quoted = ['He said "hi"', "two\nlines", "a\ttab", '"', *NAMES[4:]]  # as pandas itself writes them
    pd.DataFrame({"name": quoted, "t": np.arange(N)}).to_csv(tmp_path / "q.tsv", sep="\t", index=False)
    assert Table(tmp_path / "q.tsv", "name", "t").texts == quoted
    assert "was left open" not in caplog.text


def test_a_quote_left_open_in_a_csv(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [f"{chr(34) if i in (5, 20) else ''}text {i},{i}" for i in range(N)]
    (tmp_path / "x.csv").write_text("name,t\n" + "\n".join(lines) + "\n")
    with caplog.at_level(logging.WARNING):
        Table(tmp_path / "x.csv", "name", "t", on_bad="drop")
    assert "text 'name' of row 5 spans 16 lines with separators in them" in caplog.text
    (tmp_path / "y.csv").write_text("name,t\n" + "\n".join(lines[:20]) + "\n")
    with pytest.raises(TableError, match=r"y\.csv cannot be read as a table \(EOF inside string"):
        Table(tmp_path / "y.csv", "name", "t")


@pytest.mark.parametrize("word", ["NA", "null", "None", "nan", "N/A"])
@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_a_class_whose_word_is_one_for_missing(
    word: str, ending: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The words are told, and how to keep them; what is written for a missing number is as it was."""
    path = tmp_path / f"grades{ending}"
    frame = pd.DataFrame({"name": NAMES, "t": ["a", "b", word, "a"] * 10, "n": [1, 2, 3, 4] * 10})
    frame.loc[39, "t"] = ""
    separator = "," if ending == ".csv" else "\t"
    frame.to_csv(path, index=False, sep=separator)
    told = (
        f"{word!r} in a file is read as missing: if it is a class, write another word for it there, or pass "
        "pandas.read_csv(FILE, keep_default_na=False, na_values=[''])"
    )
    for kind in (None, "categorical"):
        with pytest.raises(TableError) as refused:
            Table(path, "name", "t", kind=kind)
        assert f"row 2: target 't' is missing (written {word!r})" in str(refused.value)
        assert told in str(refused.value) and "11 of 40 rows" in str(refused.value)
    dropped = Table(path, "name", "t", on_bad="drop")
    assert len(dropped) == 29 and dropped.dropped.reason.tolist()[-1] == "target 't' is missing"
    assert "11 rows dropped; first: target 't' is missing (written" in caplog.text and told in caplog.text
    again = pd.read_csv(path, keep_default_na=False, na_values=[""], sep=separator)
    assert word in Table(again, "name", "t", on_bad="drop").classes
    frame.assign(t=np.where(frame["t"] == word, word, "a")).to_csv(path, index=False, sep=separator)
    with pytest.raises(TableError) as constant:
        Table(path, "name", "t")
    assert "the only value is 'a'" in str(constant.value) and told in str(constant.value)
    frame.assign(n=frame["n"].astype(str).replace("3", word)).to_csv(path, index=False, sep=separator)
    with pytest.raises(TableError) as number:
        Table(path, "name", "n")
    assert "row 2: target 'n' is missing" in str(number.value) and "if it is a class" not in str(number.value)
    with pytest.raises(TableError) as class_of_numbers:
        Table(path, "name", "n", kind="categorical")
    assert told in str(class_of_numbers.value)


def test_files_in_other_encodings_say_so(tmp_path: Path) -> None:
    data = pd.DataFrame({"name": [f"Côte {i}" for i in range(N)], "t": np.arange(N)})
    for suffix, separator in ((".csv", ","), (".tsv", "\t"), (".csv.gz", ",")):
        for encoding, told in (("cp1252", r"line 2 is not UTF-8 \(byte 0xf4\)"), ("utf-16", "is UTF-16")):
            file = tmp_path / f"{encoding}{suffix}"
            data.to_csv(file, index=False, sep=separator, encoding=encoding)
            with pytest.raises(ValueError, match=f"{encoding}{suffix}.*{told}.*iconv") as caught:
                Table(file, "name", "t")
            assert "\n" not in str(caught.value)
        data.to_csv(tmp_path / f"bom{suffix}", index=False, sep=separator, encoding="utf-8-sig")
        assert Table(tmp_path / f"bom{suffix}", "name", "t").texts == data.name.tolist()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("ragged.csv", b"name,t\n" + b"a,1\n" * 9 + b"a,1,2\n", r"ragged\.csv cannot .*line 11, saw 3"),
        ("wide.csv", b"name,t\n" + b"a,1,2\n" * 9, r"wide\.csv: header has 2 fields, rows have 3 \(line 2\)"),
        ("ends.csv", b"name,t\n" + b"a,1,\n" * 9, r"header has 2 fields, rows have 3 \(line 2\)"),
        ("wide.tsv", b"name\tt\n" + b"a\tb\t1\t2\n" * 9, r"header has 2 fields, rows have 4"),
        (
            "wide.csv.gz",
            gzip.compress(b"name,t\n" + b"a,1,2\n" * 9, mtime=0),
            r"header has 2 fields, rows have 3",
        ),
        ("twice.csv", b"name,t,t\n" + b"a,1,2\n" * 9, r"twice\.csv has 2 columns named 't'"),
        ("semi.csv", b"name;t\n" + b"a;1,5\n" * 9, r"separated by ';', not ',': .*sep=';'.*decimal=','"),
        ("tabs.csv", b"name\tt\n" + b"a\t1\n" * 9, r"separated by '\\t', not ','"),
        ("commas.tsv", b"name,t\n" + b"a,1\n" * 9, r"separated by ',', not '\\t'"),
        ("empty.csv", b"", r"empty\.csv cannot be read"),
        ("head.csv", b"name,t\n", "has no rows"),
        ("no.csv.gz", b"name,t\na,1\n", r"no\.csv\.gz cannot be read"),
        (
            "cut.csv.gz",
            gzip.compress(b"name,t\n" + bytes(range(65, 90)) * 99, mtime=0)[:60],
            r"cut\.csv\.gz cannot be",
        ),
        ("x.parquet", b"PAR1 no", r"x\.parquet is no Parquet file, or damaged"),
    ],
)
def test_files_that_are_no_tables(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TableError, match=told) as caught:
        Table(tmp_path / name, "name", "t")
    assert "\n" not in str(caught.value)


def test_a_feature_s_class_names(tmp_path: Path) -> None:
    """Of a folder, of its parts, and of a Parquet file that `datasets` wrote."""
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    names = ["World", "Sports", "Business", "10", "9"]
    features = Features({"name": Value("string"), "t": ClassLabel(names=names)})
    data = Dataset.from_dict({"name": NAMES, "t": [i % 5 for i in range(N)]}, features=features)
    data.save_to_disk(tmp_path / "one")
    data.to_parquet(tmp_path / "one.parquet")
    half = {"train": data.select(range(30)), "test": data.select(range(30, N))}
    DatasetDict(half).save_to_disk(tmp_path / "parts")
    for place in ("one", "one.parquet", "parts"):
        table = Table(tmp_path / place, "name", "t")
        assert (table.kind, list(table.classes)) == ("categorical", names)
        assert table.y.argmax(axis=1).tolist() == [i % 5 for i in range(N)]


def test_minus_one_is_a_missing_label(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"name": Value("string"), "t": ClassLabel(names=["no", "yes"])})
    labels = [-1 if i in (3, 8) else 1 - i % 2 for i in range(N)]
    Dataset.from_dict({"name": NAMES, "t": labels}, features=features).save_to_disk(tmp_path / "one")
    with pytest.raises(TableError, match=r"2 of 40 rows .*row 3: target 't' is missing"):
        Table(tmp_path / "one", "name", "t")
    table = Table(tmp_path / "one", "name", "t", on_bad="drop")
    assert (table.kind, table.classes, table.dropped.row.tolist()) == ("binary", ("no", "yes"), [3, 8])
    assert table.y[:, 0].tolist() == [v for v in labels if v >= 0]


# Labels and numbers ----------------------------------------------------------------------------------
DAYS = [f"2001-03-{1 + i % 28:02d}" for i in range(N)]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (DAYS, r"holds dates \(e\.g\. 2001-03-01\): .*pandas\.to_datetime"),
        ([f"{1 + i % 28}/3/01" for i in range(N)], "holds dates"),
        ([f"{d} 12:30" for d in DAYS], "holds dates"),
        ([datetime.date(2001, 3, 1 + i % 28) for i in range(N)], "holds dates"),
        (["TRUE", "True", "false", "no"] * 10, "writes yes and no in several ways .*'TRUE', 'True', 'false'"),
        (["yes", "No", "no", "yes"] * 10, "several ways"),
        (["1.5"] * 39 + ["1,5"], r"1 of 40 rows .*row 39: target 't' is '1,5', where 98% are numbers"),
        (["12", "about 300"] * 20, r"20 of 40 rows .*row 1: .*'about 300', where 50% .*kind='categorical'"),
        ([1.5] * 20 + ["x"] + [2] * 19, "row 20: target 't' is 'x'"),
        ([1, "1", 2, "2"] * 10, r"two classes named '1', 1 \(int\) and '1' \(str\)"),
        (pd.Categorical([1.0, "1"] * 20), r"two classes named '1'"),
        (np.arange(N) * 1e-300, r"'t' runs from 0 to 3\.9e-299: .*another unit"),
        (np.arange(N) * 1e300, "another unit"),
        (np.arange(N) + 1j, "holds complex numbers .*two targets"),
        (pd.Series([1j, 2j] * 20, dtype=object), "holds complex numbers"),
        (pd.to_timedelta(np.arange(N), unit="D"), r"holds durations .*total_seconds\(\)"),
        ([datetime.timedelta(i) for i in range(N)], "holds durations"),
        (NAMES, "text with 40 classes in 40 rows.*: name a column of numbers or of few classes"),
    ],
)
def test_targets_that_are_something_else(values: list[object], told: str) -> None:
    with pytest.raises(TableError, match=told) as caught:
        table_of(values)
    assert "\n" not in str(caught.value)


def test_a_typo_can_be_dropped_or_meant() -> None:
    values = [str(i % 7) for i in range(39)] + ["many"]
    dropped = table_of(values, on_bad="drop")
    assert (dropped.kind, dropped.dropped.row.tolist()) == ("numeric", [39])
    assert dropped.y[:, 0].tolist() == [float(i % 7) for i in range(39)]
    meant = [str(i % 2) for i in range(30)] + ["many"] * 10
    assert table_of(meant, kind="categorical").classes == ("0", "1", "many")
    mostly = ["3", "4"] * 5 + ["a", "b", "c"] * 10  # words in the main: labels
    assert table_of(mostly).kind == "categorical"


def test_classes_that_differ_in_capitals_are_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert table_of(["us", "US", "uk", "fr"] * 10).kind == "categorical"
    assert "'US', 'us'" in caplog.text


def test_classes_that_differ_in_unicode_form_are_said_apart(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(table_of(["\u00e9", "e\u0301", "x", "y"] * 10).classes) == 4
    assert r"['e\u0301', '\xe9'] differ in capitals, blanks, Unicode form or type alone" in caplog.text


@pytest.mark.parametrize("role", ["target", "cluster", "blocks"])
def test_labels_with_half_a_character_are_refused_by_row(role: str) -> None:
    labels = pd.Series(["a", "\ud800", "b", "c"] * 10, dtype=object)
    data = pd.DataFrame({"name": NAMES, "t": np.arange(N)}).assign(g=labels)
    with pytest.raises(TableError, match=rf"{role} 'g' holds half a character \('\\ud800'\) at row 1"):
        Table(data, "name", **{"target": "t", role: "g"})


def test_rows_without_a_cluster_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    labels = pd.Series([None, "", " ", "a"] * 10, dtype=object)
    data = pd.DataFrame({"name": NAMES, "t": np.arange(N), "g": labels})
    with caplog.at_level(logging.WARNING):
        table = Table(data, "name", "t", cluster="g")
    assert len(np.unique(table.clusters)) == 10 + 3
    assert "cluster 'g': 10 of 40 rows are missing, the first row 0, and each is a cluster" in caplog.text
    caplog.clear()
    Table(data.assign(g=np.arange(N)), "name", "t", cluster="g")
    assert not caplog.text


@pytest.mark.parametrize(
    ("role", "labels"), [("cluster", ["Fr", "Fr ", "De", "It"]), ("blocks", [1, "1", 2, 3])]
)
def test_groups_that_differ_in_blanks_are_said(
    role: str, labels: list[object], caplog: pytest.LogCaptureFixture
) -> None:
    data = pd.DataFrame({"name": NAMES, "t": np.arange(N), "g": pd.Series(labels * 10, dtype=object)})
    with caplog.at_level(logging.WARNING):
        Table(data, "name", "t", **{role: "g"})  # type: ignore[arg-type]
    assert (
        f"{role} 'g': labels {labels[:2]} differ in capitals, blanks, Unicode form or type alone"
        in caplog.text
    )


def test_decimals_are_numbers() -> None:
    values = [Decimal(i) / 8 for i in range(N)]
    assert table_of(values).kind == "numeric"
    assert table_of(values).y[:, 0].tolist() == [i / 8 for i in range(N)]


def test_text_that_is_none(caplog: pytest.LogCaptureFixture) -> None:
    halves = pd.Series(["\ud800x", *NAMES[1:]], dtype=object)
    data = pd.DataFrame({"name": NAMES, "t": ["yes", "no"] * 20, "n": np.arange(N)})
    with pytest.raises(TableError, match=r"row 0: text 'name' holds half a character \('\\ud800'\)"):
        Table(data.assign(name=halves), "name", "t")
    with pytest.raises(TableError, match="texts holds half a character at row 0"):
        Table.from_arrays(np.arange(N), halves.tolist())
    with pytest.raises(
        TableError, match=r"text 't' looks like labels \(2 in 40 rows\).*text='name', target='t'"
    ):
        Table(data, text="t", target="name")
    for thing in ([["a", 1]], {"name": NAMES}, None, 3):
        with pytest.raises(TypeError, match=r"Table: data is .*; expected a pandas DataFrame"):
            Table(thing, "name", "t")  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        Table(data, "n", "t")
    assert "text 'n' holds numbers, not text" in caplog.text


def test_columns_in_two_roles() -> None:
    data = pd.DataFrame({"name": NAMES, "t": np.arange(N), "u": np.arange(N) ** 2})
    with pytest.raises(TableError, match="target 't' is named twice"):
        Table(data, "name", ["t", "u", "t"])
    with pytest.raises(TableError, match="target 'name' is the text column"):
        Table(data, "name", "name")
    mixed = pd.DataFrame({"name": NAMES, 1: np.arange(N), "1": np.arange(N) ** 2})
    with pytest.raises(TableError, match="2 columns named '1'"):
        Table(mixed, "name", "1")
    with pytest.raises(ColumnError, match="no column 'x'"):
        Table(data, "name", "x")


# Names -----------------------------------------------------------------------------------------------
DAYS = pd.date_range("2020-01-01", periods=4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "labels",
    [(0, 1, 2, 3), tuple(np.arange(4)), (0.5, 1.0, 2.0, 3.0), (("a", 0), ("a", 1), ("b", 0), ("b", 1)),
     tuple(DAYS), tuple(DAYS.date), (None, True, "g", 7)],
    ids=["numbers", "numpy", "fractions", "tuples", "times", "days", "mixed"],
)  # fmt: skip
def test_columns_that_are_not_named_by_text(labels: tuple[object, ...], tmp_path: Path) -> None:
    """They are found by what they are called and by its text, and are text in all that comes after."""
    from graticule import Activations, Findings, sweep
    from graticule.probes.generalisation.blocks import find_blocks
    from graticule.probes.generalisation.popularity import popularity

    y = np.random.default_rng(0).normal(size=N)
    group, other, target, text = labels
    frame = pd.DataFrame({"g": list("ab") * 20, "o": np.arange(N), "t": y, "n": NAMES})
    frame.columns = pd.Index([group, other, target, text], dtype=object)
    named = {"text": text, "target": target, "blocks": [other], "units": {target: "kg"}}
    table = Table(frame, **named)  # type: ignore[arg-type]
    assert table.target_names == (str(target),) and list(table.blocks) == [str(other)]
    assert table.units == ("kg",) and str(target) in repr(table) and str(target) in str(table.describe())
    assert table.frame.columns.tolist() == list(map(str, labels)) and frame.columns.tolist() == list(labels)
    assert Table(frame, text=str(text), target=str(target)).digest == table.digest
    acts = Activations.from_tensors({"blocks.0.hook_resid_post": y[:, None] * [1.0, 0.5, -1.0]},
                                    frame.rename(columns={text: "text"}))  # fmt: skip
    findings = sweep(acts, table, n_bootstrap=20)
    assert findings.title.endswith(f": {target}")
    assert str(target) in html.unescape(findings.report(tmp_path / "page.html").read_text())
    findings.save(tmp_path / "findings")
    assert Findings.load(tmp_path / "findings").target_names == (str(target),)
    assert sweep(acts, str(target), n_bootstrap=20).target_names == (str(target),)
    assert f"true_{target}" in findings.predictions
    assert popularity(findings, other, strata=2, n_bootstrap=20).column == str(other)
    if isinstance(group, int):
        blocks = find_blocks(table, findings.inputs.problem, group, minimum=1)
        assert (blocks.by, sorted(blocks.names)) == (str(group), ["a", "b"])


def test_a_first_column_that_is_called_0_is_a_column() -> None:
    """As a split it was taken for none, and another was drawn."""
    frame = pd.DataFrame({0: np.arange(N) % 4 == 1, 1: NAMES, 2: np.arange(N)})
    assert Table(frame, text=1, target=2, split=0).is_test.tolist() == frame[0].tolist()
    several = pd.DataFrame(np.random.default_rng(0).normal(size=(N, 3))).assign(name=NAMES)
    assert Table(several, "name", several.columns[:3]).target_names == ("0", "1", "2")
    with pytest.raises(ColumnError, match="no column '7' for target; columns: '0', '1', '2', 'name'"):
        Table(several, "name", 7)
    with pytest.raises(TableError, match="2 columns named '1'"):
        Table(several.set_axis([1, "1", 2, "name"], axis=1), "name", 1)
    two = several.set_axis(pd.MultiIndex.from_product([["a", "b"], ["x", "y"]]), axis=1)
    assert Table(two, ("b", "y"), [("a", "x"), ("b", "x")]).target_names == ("('a', 'x')", "('b', 'x')")
    with pytest.raises(ColumnError, match="no column 'a' for target"):
        Table(two, ("b", "y"), "a")


@pytest.mark.slow
def test_findings_of_an_earlier_version_with_numbers_for_names(tmp_path: Path) -> None:
    from graticule import Activations, Findings, sweep
    from graticule.hooks.artifact import read_json, sealed, write_json
    from graticule.probes.linear.ridge import RidgeProbe

    y = np.random.default_rng(0).normal(size=(N, 2))
    acts = Activations.from_tensors({"blocks.0.hook_resid_post": y})
    findings = sweep(acts, Table.from_arrays(y, NAMES, target_names=["0", "1"]), n_bootstrap=20)
    findings.save(tmp_path)
    written = {k: v for k, v in read_json(tmp_path / "findings.json").items() if k != "seal"}
    write_json(tmp_path / "findings.json", sealed({**written, "target_names": [0, 1]}))
    again = Findings.load(tmp_path)
    assert again.target_names == ("0", "1") and again.title == findings.title
    again.save(tmp_path)
    with as_installed():
        assert RidgeProbe("blocks.0.hook_resid_post", [0, 1]).target_names == ("0", "1")  # type: ignore[list-item]


def test_names_of_arrays() -> None:
    from graticule import Activations, sweep

    y = np.random.default_rng(0).normal(size=(N, 2))
    named = Table.from_arrays(y, NAMES, target_names=pd.RangeIndex(2), blocks={3: list("ab") * 20})
    assert named.target_names == ("0", "1") and list(named.blocks) == ["3"]
    assert named.with_target(y[:, :1], [5]).target_names == ("5",)
    level = list("ab") * 20
    clash = Table.from_arrays(y, NAMES, blocks={"text": level, "split": level}, is_test=np.arange(N) > 30)
    assert clash.texts == NAMES and clash.is_test.sum() == 9 and clash.blocks["text"].tolist() == level
    acts = Activations.from_tensors({"blocks.0.hook_resid_post": y}, texts=NAMES)
    for block in ("text", "split", "source", "cluster", "pred_target_0"):
        table = Table.from_arrays(y, NAMES, blocks={block: level})
        with pytest.raises(ValueError, match=f"block '{block}' .* rename it"):
            sweep(acts, table)
    with pytest.raises(TableError, match="blocks 'target_1' has the name of a target"):
        Table.from_arrays(y, NAMES, blocks={"target_1": level})


# Splits ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["binary", "categorical"])
def test_a_drawn_split_has_every_class_in_both_parts(kind: str) -> None:
    values = np.zeros(N, int) if kind == "binary" else np.arange(N) % 3
    values[[3, 30]] = 1 if kind == "binary" else 7
    for seed in range(30):
        table = table_of(values.astype(str) if kind != "binary" else values, seed=seed, kind=kind)
        for part in (table.is_test, ~table.is_test):
            y = table.y[part]
            assert ((y.min(axis=0) < 1) & (y.max(axis=0) > 0)).all(), seed
        assert abs(int(table.is_test.sum()) - 8) <= 2


def test_splits_that_need_no_change_are_as_they_were() -> None:
    """The draw of 0.1, for classes that are in both parts anyway."""
    order = np.random.default_rng(0).permutation(N)
    table = table_of(np.arange(N) % 2, seed=0)
    assert (np.flatnonzero(table.is_test) == np.sort(order[:8])).all()


def test_a_class_of_one_cluster_or_one_part_is_refused() -> None:
    values = ["a", "b"] * 19 + ["c", "a"]
    with pytest.raises(TableError, match=r"1 row alone is of class 't=c'"):
        table_of(values)
    one = pd.DataFrame({"name": NAMES, "t": [1 if i < 5 else 0 for i in range(N)], "g": np.arange(N) // 5})
    with pytest.raises(TableError, match="5 rows, all in one cluster, are 't' is 1"):
        Table(one, "name", "t", cluster="g")
    shipped = one.assign(s=np.arange(N) >= 30)
    with pytest.raises(TableError, match=r"'t' is constant in the test rows \(always 0\)"):
        Table(shipped, "name", "t", split="s")


# NaN -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_activations_are_named_by_row_and_point(bad: float, tmp_path: Path) -> None:
    """Of the activations, of a streamed store, and of a baseline's features."""
    from graticule import Activations, Store, sweep
    from graticule.probes.core import fit as fitting
    from graticule.probes.surface.baselines import Baselines, text_digest

    X = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
    y, is_test = X @ np.arange(4.0), np.arange(N) % 5 == 3
    for row in (20, 23):  # of the training rows, and of the test rows
        broken = X.copy()
        broken[row, 1] = bad
        acts = Activations.from_tensors({"blocks.0.hook_resid_post": X, "blocks.1.hook_resid_post": broken})
        told = rf"blocks\.1\.hook_resid_post: 1 non-finite entries, the first in row {row}"
        with pytest.raises(ValueError, match=told):
            sweep(acts, y, split=is_test)
        acts.save(tmp_path / f"{row}{bad}")
        before, fitting.STREAM_BYTES = fitting.STREAM_BYTES, 0
        try:
            with pytest.raises(ValueError, match=told):
                sweep(Store(tmp_path / f"{row}{bad}"), y, split=is_test)
        finally:
            fitting.STREAM_BYTES = before  # pyright: ignore
        table = Table.from_arrays(y, NAMES, is_test)
        beside = Baselines(text_digest(table), {"embedding": acts.select(points=acts.points[1])}, False)
        with pytest.raises(ValueError, match=told):
            sweep(acts.select(points=acts.points[0]), table, baselines=beside)
    with pytest.raises(TableError, match=r"needs 40 finite rows; row 7 is .nan"):
        table.with_target(np.where(np.arange(N) == 7, np.nan, y))


def test_a_parquet_file_without_features(tmp_path: Path) -> None:
    pd.DataFrame({"name": NAMES, "t": np.arange(N)}).to_parquet(tmp_path / "x.parquet")
    assert Table(tmp_path / "x.parquet", "name", "t").kind == "numeric"
    assert json.dumps(Table(tmp_path / "x.parquet", "name", "t").classes) == "[]"


# Units -----------------------------------------------------------------------------------------------
def test_units_that_are_nearly_right_or_of_classes_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    numbers = np.arange(float(N))
    for unit, meant in (("yaer", "year"), ("latt", "lat"), ("Lat", "lat"), ("latitude", "lat"),
                        ("long", "lon"), ("lng", "lon"), ("Year", "year"), ("longitud", "lon")):  # fmt: skip
        for units in (unit, [unit], {"t": unit}):
            with pytest.raises(TableError, match=f"'t' has the unit '{unit}': did you mean '{meant}'"):
                table_of(numbers, units=units)
        with pytest.raises(TableError, match=f"did you mean '{meant}'"):
            table_of(numbers).with_target(numbers, ["t"], [unit])
    with as_installed(), pytest.raises(TableError, match="has the unit 3: expected a word"):
        table_of(numbers, units=[3])
    for classes in (["yes", "no"] * (N // 2), ["a", "b", "c", "d"] * (N // 4), np.arange(N) % 2):
        with pytest.raises(TableError, match=r"unit 'year' and holds classes .*leave the unit out"):
            table_of(classes, units={"t": "year"})
        assert table_of(classes, units={}).units == table_of(classes, units=[None]).units
    for unit in ("lat", "lon", "year", "kg", "km/h", "°C", "m2", "years", "kWh per day", "%"):
        assert table_of(numbers, units=unit).units == (unit,)
    assert "which is written on axes" not in caplog.text
    assert table_of(numbers, units="foo").units == ("foo",)
    assert "unit 'foo', which is written on axes and changes nothing else" in caplog.text


# Some rows -------------------------------------------------------------------------------------------
def test_few_rows_are_of_both_parts_of_the_split() -> None:
    data = pd.DataFrame({"name": [f"x {i}" for i in range(96)], "t": np.arange(96.0)})
    table = Table(data, "name", "t", seed=0)
    for n in (5, 6, 10, 20, 50, 95):
        for seed in range(6):
            part = table.head(n, seed)
            assert len(part) == n
            tests, fair = int(part.is_test.sum()), n * float(table.is_test.mean())
            assert tests >= 2 and n - tests >= 3
            assert tests >= fair / 2 - 1 and n - tests >= (n - fair) / 2 - 1
            assert np.array_equal(part.is_test, table.is_test[part.source_rows])
            assert part.digest == table.head(n, seed).digest
    for n in (2, 4):
        with pytest.raises(TableError, match="at least 3 and 2 are needed"):
            table.head(n)
    pairs = table.with_clusters(np.arange(96) // 2)
    assert np.isin(np.bincount(pairs.head(20, 3).clusters), (1, 2)).all() and len(pairs.head(20, 3)) >= 18
