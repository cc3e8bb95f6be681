"""Folders that version 0.1 wrote, one of every kind, read with the numbers that 0.1 noted beside them."""

import dataclasses
import json
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import SINCE

from graticule import Activations, RidgeProbe, Store
from graticule.results import RESULTS, load_result

ARCHIVE = Path(__file__).parent / "data" / "v01.tar.xz"
with tarfile.open(ARCHIVE) as packed:
    EXPECTED: dict[str, dict[str, Any]] = json.load(packed.extractfile("expected.json"))["made"]

OTHERS = {"activations": Activations.load, "store": Store, "ridge_probe": RidgeProbe.load}
"""Folders that are no results."""


def summed(values: np.ndarray) -> float:
    return float(np.nansum(np.where(np.isfinite(values), values, 0)))


def check(value: Any, expected: Any, what: str) -> None:
    """A table's columns by their sums, an array by its shape and sum, all else as it is."""
    if isinstance(expected, dict) and "columns" in expected:
        for column, (rows, total) in expected["columns"].items():
            assert len(value) == rows, what
            assert summed(value[column].to_numpy(float)) == pytest.approx(total, rel=1e-9), f"{what}.{column}"
    elif isinstance(expected, dict):
        assert [list(value.shape), summed(value)] == [
            expected["array"][0],
            pytest.approx(expected["array"][1]),
        ]
    elif isinstance(expected, list):
        assert list(value) == [pytest.approx(one) if isinstance(one, float) else one for one in expected], (
            what
        )
    elif expected is None:
        assert value is None or not np.isfinite(value), what
    else:
        assert value == (pytest.approx(expected) if isinstance(expected, float) else expected), what


def test_there_is_one_of_every_kind(folders):
    assert {path.name for path in folders.iterdir() if path.is_dir()} == set(EXPECTED) and len(EXPECTED) > 30
    assert RESULTS.keys() - {"certificate_part"} - SINCE <= EXPECTED.keys()


@pytest.mark.parametrize("name", ["words", "word_languages", "word_contexts"])
def test_resamples_are_read_and_written_under_their_old_name(folders, name, tmp_path):
    result: Any = load_result(folders / name)
    with pytest.warns(
        DeprecationWarning, match=rf"{type(result).__name__}.draws is the old name of n_bootstrap"
    ):
        assert result.draws == result.n_bootstrap == EXPECTED[name]["fields"]["draws"] == 99
    with pytest.warns(DeprecationWarning, match=r"\(draws=\) is the old name of n_bootstrap="):
        values = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
        again = type(result)(**{"draws": values.pop("n_bootstrap"), **values})
    again.save(tmp_path / name)
    before, now = (json.loads((at / name / "manifest.json").read_text()) for at in (folders, tmp_path))
    assert before["fields"] == now["fields"]


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_folder_of_0_1_is_read_with_the_same_numbers(folders, name):
    fields = EXPECTED[name]["fields"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of settings that 0.1 did not write down
        result: Any = OTHERS.get(name, load_result)(folders / name)
    assert type(result).__name__ == EXPECTED[name]["class"]
    if "sums" in fields:
        assert len(result.rows) == fields["rows"]
        sums = {point: float(result[point].double().sum()) for point in result.points}
        assert sums == pytest.approx(fields["sums"], rel=1e-9)
        return
    if "coef" in fields:
        probe = result if name == "ridge_probe" else result.probes[result.chosen_point]
        assert float(np.abs(probe.coef).sum()) == pytest.approx(fields["coef"], rel=1e-9)
        if name == "ridge_probe":
            return
        verdict = result.verdict
        assert (verdict.gain, result.chosen_point) == (pytest.approx(fields["gain"]), fields["chosen_point"])
        assert result.to_json()["verdict"]["words"] == fields["words"]
        return
    today = {f.metadata.get("saved_as", f.name): f.name for f in dataclasses.fields(result)}
    assert fields
    for old, expected in fields.items():
        check(getattr(result, today.get(old, old)), expected, f"{name}.{old}")
    for table in (value for value in vars(result).values() if isinstance(value, pd.DataFrame)):
        columns = set(map(str, table.columns))
        assert not columns & {"lower", "upper", "ci_low", "ci_high", "ci95"}
        assert {f"{c[:-3]}high" for c in columns if c.split("_")[-1] == "low"} <= columns
    assert result.summary() and all(isinstance(table, pd.DataFrame) for table in result.tables().values())
