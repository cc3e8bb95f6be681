"""Results that save themselves by their fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from jaxtyping import Float

from graticule.hooks import artifact
from graticule.hooks.artifact import ArtifactError, fingerprint, json_ready, read_json, write_json
from graticule.hooks.saved import SavedResult, decode


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
        again = Sample.load(made.save(str(tmp_path / "here")))
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


@dataclass(frozen=True)
class Pair:
    """What a mapping leads to, in arrays."""

    first: np.ndarray
    second: Float[np.ndarray, " row"]


@dataclass(frozen=True)
class Renamed(Sample):
    """A result with entries that have files of their own, and names of an earlier version."""

    KIND: ClassVar[str] = "renamed"
    MARK: ClassVar[str] = "study.json"

    pairs: Mapping[str, Pair] = field(default_factory=dict, metadata={"saved_as": "couples"})
    samples: dict[str, Sample] = field(default_factory=dict, metadata={"saved_as": "parts of it"})
    label: str = field(default="", metadata={"saved_as": "verdict"})
    curve: pd.DataFrame | None = field(default=None, metadata={"saved_as": "lines"})
    unsaved: Any = field(default=None, metadata={"saved": False})


def test_entries_have_files_of_their_own_and_earlier_names_are_read(tmp_path):
    pairs = {"b/c": Pair(np.eye(2), np.arange(3.0)), "a": Pair(np.ones(1), np.zeros(1))}
    samples = {"one.two": sample(words="inner")}
    made = Renamed(
        **vars(sample()), pairs=pairs, samples=samples, label="yes", curve=sample().table, unsaved=1
    )
    made.save(tmp_path / "here")
    files = {str(f.relative_to(tmp_path / "here")) for f in (tmp_path / "here").rglob("*") if f.is_file()}
    inner = {
        f"parts of it/one.two/{name}" for name in ("manifest.json", "arrays.safetensors", "table.parquet")
    }
    own = {"study.json", "arrays.safetensors", "table.parquet", "couples.safetensors", "lines.parquet"}
    assert files == own | inner
    noted = read_json(tmp_path / "here" / "study.json")
    assert noted["fields"]["verdict"] == "yes" and "unsaved" not in noted["fields"]
    again = Renamed.load(tmp_path / "here")
    assert again.label == "yes" and again.unsaved is None and again.samples["one.two"].words == "inner"
    assert again.pairs.keys() == pairs.keys()
    for name, pair in pairs.items():
        np.testing.assert_array_equal(again.pairs[name].first, pair.first)
        np.testing.assert_array_equal(again.pairs[name].second, pair.second)
    pd.testing.assert_frame_equal(again.curve, made.curve)
    (tmp_path / "here" / "couples.safetensors").write_bytes(b"?")
    with pytest.raises(ArtifactError, match=r"couples\.safetensors is missing or damaged; make the renamed"):
        Renamed.load(tmp_path / "here")


def test_a_nested_field_is_read_under_an_earlier_name():
    @dataclass(frozen=True)
    class Judged:
        label: str = field(metadata={"saved_as": "words"})
        gain: float = 0.0

    assert json_ready(Judged("yes")) == {"words": "yes", "gain": 0.0}
    assert decode({"words": "yes", "gain": None}, Judged).label == "yes"
    with pytest.raises(KeyError, match="label"):
        decode({"label": "yes"}, Judged)
