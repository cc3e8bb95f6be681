"""What does not fit is refused in one line that says what came and what was expected; what fits is taken."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import as_installed

from graticule import Activations, Findings, Table, World, baselines, pca, sweep
from graticule.cli import main
from graticule.sims.worlds import smooth_world

POINT = "blocks.0.hook_resid_post"
ROWS = 40


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame({"name": [f"place {i}" for i in range(ROWS)], "value": rng.normal(size=ROWS)})


@pytest.fixture(scope="module")
def acts() -> Activations:
    values = np.random.default_rng(1).normal(size=(ROWS, 4))
    return Activations.from_tensors({POINT: torch.from_numpy(values)})


@pytest.fixture(scope="module")
def findings(frame: pd.DataFrame, acts: Activations) -> Findings:
    table = Table(frame, text="name", target="value")
    return sweep(acts, table, baselines=baselines(None, table), n_bootstrap=20, progress=False)


def _refused(call: Callable[[], Any], *words: str) -> None:
    with as_installed(), pytest.raises((ValueError, TypeError, LookupError, OSError)) as told:
        call()
    assert "\n" not in str(told.value)
    assert "Errno" not in str(told.value)
    for word in words:
        assert word in str(told.value), str(told.value)


@pytest.mark.parametrize("op", ["add", "clamp", "erase"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_an_edit_takes_tensors_and_arrays(findings: Findings, op: Any, dtype: torch.dtype) -> None:
    """A tensor is edited as the array of its values, and stays of its dtype."""
    edit = findings.probe.edit(op, 0.0 if op == "erase" else 1.5)
    rows = torch.from_numpy(np.random.default_rng(2).normal(size=(6, 4))).to(dtype)
    exact = edit.apply(rows.double().numpy())
    got = edit.apply(rows)
    assert got.dtype == dtype
    torch.testing.assert_close(got, torch.from_numpy(exact).to(dtype), rtol=1e-12, atol=1e-12)
    assert np.array_equal(edit.apply(rows.double().tolist()), exact)
    _refused(lambda: edit.apply(rows[:, :3]), "X has shape (6, 3)", "[row, 4]")
    _refused(lambda: edit.apply(rows[0]), "X has shape (4,)", "[row, 4]")
    given: Any = [[1.0] * 4]
    _refused(lambda: findings.probe.predict(given), "X is a list", "numpy.asarray(X)")


@pytest.mark.parametrize("role", ["cluster", "blocks"])
@pytest.mark.parametrize("entry", [[1], {"a": 1}, np.ones(2)])
def test_what_groups_rows_names_a_group(frame: pd.DataFrame, role: str, entry: Any) -> None:
    """A list is no name of a group."""
    given: dict[str, Any] = {role: "group"}
    for row in (0, 7):
        column = pd.Series(["a"] * row + [entry] * (ROWS - row), dtype=object)
        table = frame.assign(group=column)
        _refused(
            lambda table=table: Table(table, text="name", target="value", **given),
            f"{role} 'group' holds {type(entry).__name__} at row {row}",
            "one name or number a row",
        )


@pytest.mark.parametrize("role", ["split", "cluster"])
def test_a_split_and_clusters_have_an_entry_a_row(frame: pd.DataFrame, acts: Activations, role: str) -> None:
    y = frame["value"].to_numpy()
    for given, came in (
        (np.zeros(3, bool), "shape (3,)"),
        ([True, False], "shape (2,)"),
        (pd.Series([1, 2]), "shape (2,)"),
        (np.zeros((ROWS, 2)), f"shape ({ROWS}, 2)"),
        (7, "the single entry 7"),
    ):
        values: dict[str, Any] = {role: given}
        _refused(
            lambda values=values: sweep(acts, y, n_bootstrap=20, progress=False, **values),
            f"sweep: {role} is of {came}",
            f"one entry for each of {ROWS} activation rows",
        )


def test_numbers_that_must_be_whole(frame: pd.DataFrame, findings: Findings) -> None:
    table, graph = Table(frame, text="name", target="value"), nx.DiGraph([(0, 1)])
    whole: Any = [2.5]
    _refused(lambda: pca(findings, ks=whole), "ks=2.5", "whole number")
    assert list(pca(findings, ks=2).curve["k"]) == [2, 4]
    counts: list[Any] = [-5, 0, 2.5, "3"]
    for n in counts:
        _refused(lambda n=n: table.head(n), f"rows={n!r}", "whole number")
    _refused(lambda: table.head(5, seed=-1), "seed=-1")
    for make in (World.random, World.independent, World.dense, World.chain, World.forest):
        _refused(lambda make=make: make(3, seed=-1), "seed=-1", "at least 0")
    _refused(lambda: World.on(graph, seed=-1), "seed is -1")
    sizes: list[Any] = [[2.5, 2], [2, 1], [2, 2, 2]]
    for values in sizes:
        _refused(lambda values=values: World.on(graph, values=values), f"values={values}")
        _refused(lambda values=values: smooth_world(graph, values), f"values={values}")


def test_columns_and_strengths_are_what_they_are_called(frame: pd.DataFrame, acts: Activations) -> None:
    number: Any = 7
    y = frame["value"].to_numpy()
    _refused(lambda: Table(frame, text="name", target="value", blocks=number), "blocks", "7")
    _refused(lambda: Table(frame, text="name", target=number), "target", "7")
    for alphas in ("a", ["a"], [-1.0]):
        words: Any = alphas
        _refused(lambda words=words: sweep(acts, y, alphas=words), "alphas=", "number")


def test_a_point_without_a_probe_is_named(findings: Findings) -> None:
    _refused(lambda: findings.at("nowhere"), "no probe at 'nowhere'", POINT)


@pytest.mark.slow
def test_a_page_is_no_folder(
    findings: Findings, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither hidden names nor error numbers: the path that was asked for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pages.html").mkdir()
    (tmp_path / "file").write_text("mine")
    _refused(lambda: findings.report("pages.html"), "pages.html is a folder; name a file")
    _refused(lambda: findings.report(""), ". is a folder; name a file")
    _refused(lambda: findings.report("file/page.html"), "file is a file, so nothing can be written under it")
    assert main(["tables", "world_cities", "--out", "table.csv"]) == 0
    (tmp_path / "folder.parquet").mkdir()
    assert main(["tables", "world_cities", "--out", "folder.parquet"]) == 2
    assert capsys.readouterr().err == "graticule: folder.parquet is a folder; name a file in it\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.parquet", "pages.html", "table.csv"]
