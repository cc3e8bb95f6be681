"""Results that save themselves by their fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest

from graticule.hooks import artifact
from graticule.hooks.artifact import ArtifactError, fingerprint, read_json, write_json
from graticule.hooks.saved import SavedResult


@dataclass(frozen=True)
class Part:
    """A part."""

    name: str
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Sample(SavedResult):
    """A result with a field of every kind."""

    KIND: ClassVar[str] = "sample"

    words: str
    score: float
    layer: int | None
    parts: tuple[Part, ...]
    by_layer: Mapping[int, float]
    nested: dict[str, tuple[int, ...]]
    values: np.ndarray
    table: pd.DataFrame
    provenance: Mapping[str, Any]

    @property
    def title(self) -> str:
        return "sample"

    def summary(self) -> str:
        return self.words

    def figures(self) -> dict[str, Any]:
        return {}

    def tables(self) -> dict[str, pd.DataFrame]:
        return {"all": self.table}


def sample(**changes: Any) -> Sample:
    fields: dict[str, Any] = {
        "words": "found",
        "score": float("nan"),
        "layer": None,
        "parts": (Part("a", (0.1, float("nan"))), Part("b", (1.0, 2.0))),
        "by_layer": {3: 0.5},
        "nested": {"x": (1, 2)},
        "values": np.arange(6.0).reshape(2, 3),
        "table": pd.DataFrame({"a": [1, 2], "b": ["x", None]}),
        "provenance": {"seed": 0},
    }
    return Sample(**(fields | changes))


class TestSaved:
    def test_everything_comes_back_as_it_was(self, tmp_path):
        made = sample()
        made.save(tmp_path / "here")
        again = Sample.load(tmp_path / "here")
        assert np.isnan(again.score) and again.layer is None
        assert again.parts[1] == made.parts[1] and again.parts[0].name == "a"
        assert np.isnan(again.parts[0].ci95[1]) and isinstance(again.parts[0].ci95, tuple)
        assert again.by_layer == {3: 0.5} and again.nested == {"x": (1, 2)}
        np.testing.assert_array_equal(again.values, made.values)
        pd.testing.assert_frame_equal(again.table, made.table)

    def test_saving_twice_writes_the_same_bytes(self, tmp_path):
        sample().save(tmp_path / "a")
        sample().save(tmp_path / "b")
        sample().save(tmp_path / "b")
        for file in (tmp_path / "a").iterdir():
            assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()

    def test_json_holds_small_tables_and_no_nan(self):
        found = sample().to_json()
        assert found["score"] is None and found["table"][0] == {"a": 1, "b": "x"} and "values" not in found
        assert "table" not in sample(table=pd.DataFrame({"a": range(1000)})).to_json()

    def test_other_folders_are_left_alone(self, tmp_path):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("years of work")
        with pytest.raises(FileExistsError, match="something other than a sample"):
            sample().save(tmp_path / "mine")
        assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"

    def test_damage_is_found(self, tmp_path):
        sample().save(tmp_path / "here")
        (tmp_path / "here" / "table.parquet").write_bytes(b"?")
        with pytest.raises(ArtifactError, match=r"table\.parquet is missing or damaged"):
            Sample.load(tmp_path / "here")

    def test_fields_of_another_version_are_told(self, tmp_path):
        sample().save(tmp_path / "here")
        manifest = read_json(tmp_path / "here" / "manifest.json")
        manifest["fields"]["later"] = 1
        write_json(tmp_path / "here" / "manifest.json", manifest)
        with pytest.raises(ArtifactError, match="another version"):
            Sample.load(tmp_path / "here")


def test_a_fingerprint_is_of_settings_and_version(monkeypatch):
    """What another version of graticule left in a folder is made again, not taken over."""
    now = fingerprint({"seed": 0, "levels": (1, 2)})
    assert now == fingerprint({"levels": [1, 2], "seed": np.int64(0)})
    assert now != fingerprint({"levels": [1, 2], "seed": 1})
    monkeypatch.setattr(artifact, "library_versions", lambda: {"graticule": "0.0.1"})
    assert now != fingerprint({"levels": [1, 2], "seed": 0})
