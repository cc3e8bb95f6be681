"""A finished folder of a probe in which a file was damaged: captured again, told, and the same as before."""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from graticule import Activations, Findings, Store, Table, probe
from graticule.hooks.artifact import ArtifactError
from graticule.hooks.store import damage_of
from graticule.probes.surface.baselines import Baselines

POINT = "blocks.0.hook_resid_post"
ROWS = 30
HOW: dict[str, Any] = {"layers": [0], "twins": 0, "n_bootstrap": 20, "progress": False}
STORE = ("manifest.json", "provenance.json", "rows/00000.parquet", f"{POINT}/00000.safetensors")
BESIDE = (
    *(f"activations/{name}" for name in STORE),
    *(f"baselines/block_0/{name}" for name in STORE),
    "baselines/manifest.json",
    "baselines/provenance.json",
)
OWN = (
    *("findings.json", "predictions.parquet", "rivals.safetensors", "point_predictions.safetensors"),
    *("arrays.safetensors", f"probes/{POINT}/manifest.json"),
)


@pytest.fixture(scope="module")
def table() -> Table:
    rng = np.random.default_rng(0)
    words = np.array(["paris", "rome", "oslo", "lima", "cairo"])
    names = [f"{words[i % 5]} {words[i // 5 % 5]} {i}" for i in range(ROWS)]
    frame = pd.DataFrame({"name": names, "value": rng.normal(size=ROWS), "test": np.arange(ROWS) % 3 == 0})
    return Table(frame, text="name", target="value", split="test")


@pytest.fixture(scope="module")
def finished(
    table: Table, load_tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Findings]:
    folder = tmp_path_factory.mktemp("probe") / "run"
    return folder, probe(load_tiny("llama", "hooked"), table, out=folder, **HOW)


def _half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "cut off": _half,
    "emptied": lambda file: file.write_bytes(b""),
    "deleted": Path.unlink,
    "flipped": _flipped,
    "a pipe": lambda file: (file.unlink(), os.mkfifo(file)),
    "of another kind": lambda file: file.write_text('{"kind": 7}'),
    "a list": lambda file: file.write_text("[]"),
}


def _values(folder: Path) -> dict[str, torch.Tensor]:
    """Every activation beside the findings, its checksum verified."""
    stores: dict[str, Any] = {"activations": Store(folder / "activations")}
    stores |= Baselines.load(folder / "baselines").features
    for store in stores.values():
        store.verify()
        assert store.rows is not None
    return {f"{name}/{point}": store[point].clone() for name, store in stores.items() for point in store}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_made_again(
    damage: str,
    table: Table,
    finished: tuple[Path, Findings],
    load_tiny: Callable[..., Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before, findings = finished
    expected, model = _values(before), load_tiny("llama", "hooked")
    for name in (*BESIDE, *(OWN if damage in ("cut off", "flipped") else ())):
        if damage in ("of another kind", "a list") and not name.endswith(".json"):
            continue
        folder = tmp_path / "run"
        shutil.copytree(before, folder)
        DAMAGES[damage](folder / name)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            again = probe(model, table, out=folder, **HOW)
        told = [r.getMessage() for r in caplog.records if r.name.startswith("graticule")]
        assert len(told) == 1, (name, told)
        assert "\n" not in told[0]
        assert ("are made again" if name in OWN else "captured again") in told[0]
        assert str(folder) in told[0]
        assert again.verdict == findings.verdict
        assert np.array_equal(again.at().predictions, findings.at().predictions)
        values = _values(folder)
        assert set(values) == set(expected)
        assert all(torch.equal(values[key], expected[key]) for key in expected), name
        assert Findings.load(folder).verdict == findings.verdict
        if damage == "flipped":  # what is whole again is not told again
            caplog.clear()
            probe(model, table, out=folder, **HOW)
            assert not [r for r in caplog.records if r.levelno >= logging.WARNING], name
        shutil.rmtree(folder)


@pytest.mark.slow
def test_a_whole_store_is_verified_once(finished: tuple[Path, Findings], tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(finished[0] / "activations", store, copy_function=shutil.copy)
    assert damage_of(store) is None
    noted = (store / "provenance.json").stat().st_mtime_ns
    assert damage_of(store) is None
    assert (store / "provenance.json").stat().st_mtime_ns == noted


@pytest.mark.slow
def test_only_a_stores_own_files_are_taken_away(finished: tuple[Path, Findings], tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(finished[0] / "activations", store)
    (store / "manifest.json").write_text("no JSON")
    (store / "notes.txt").write_text("mine")
    (store / POINT / "00000.txt").write_text("mine too")
    assert "is damaged" in str(damage_of(store))
    left = sorted(str(p.relative_to(store)) for p in store.rglob("*") if p.is_file())
    assert left == [f"{POINT}/00000.txt", "notes.txt"]


def test_what_lies_behind_a_link_is_not_taken_away(tmp_path):
    """A store that several folders share by a link, with a manifest of which nothing can be said."""
    shared = tmp_path / "shared"
    Activations.from_tensors({"blocks.0.hook_resid_post": np.eye(3)}).save(shared)
    (shared / "manifest.json").write_text("{")
    (tmp_path / "linked").symlink_to(shared)
    before = sorted(f.name for f in shared.rglob("*"))
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        damage_of(tmp_path / "linked")
    assert sorted(f.name for f in shared.rglob("*")) == before
    assert "manifest.json" in str(damage_of(shared))  # the store itself is begun again
    assert not list(shared.rglob("*.safetensors"))
