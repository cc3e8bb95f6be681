"""Checkpoints: they come back the same, and a whole one is there whatever is killed when."""

import os
from contextlib import suppress

import pytest
import torch
from helpers import STATE, alike

from graticule.hooks.artifact import ArtifactError, read_json
from graticule.hooks.kinds import differences, flat
from graticule.saes.training.folder import read_checkpoint, write_checkpoint


def test_a_checkpoint_comes_back_from_disk(tmp_path):
    shared = torch.arange(6.0)
    state = STATE | {"view": shared[:3], "same": [shared, shared.view(2, 3)], "turned": shared.view(2, 3).T}
    write_checkpoint(tmp_path / "c", 7, state)
    assert alike(read_checkpoint(tmp_path / "c"), state)
    assert {f.suffix for f in (tmp_path / "c").iterdir()} == {".json", ".safetensors"}
    assert read_checkpoint(tmp_path / "none") is None


def test_the_old_one_is_there_until_the_new_one_is_whole(tmp_path, monkeypatch):
    """Stopped before each of the file operations of a write, the folder reads as the one or the other."""
    real, seen = os.replace, []
    for stop in range(3):
        folder = tmp_path / str(stop)
        write_checkpoint(folder, 1, {"step": 1, "w": torch.full((5,), 1.0)})
        left = [stop]

        def dying(*names, left=left):
            if left[0] == 0:
                raise InterruptedError
            left[0] -= 1
            real(*names)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", dying)
            with suppress(InterruptedError):
                write_checkpoint(folder, 2, {"step": 2, "w": torch.full((5,), 2.0)})
        held = read_checkpoint(folder)
        assert held is not None
        assert held["w"].tolist() == [float(held["step"])] * 5
        seen.append(held["step"])
        write_checkpoint(folder, 3, {"step": 3})
        assert len(list(folder.iterdir())) == 2  # what was left lying is gone
    assert seen == [1, 1, 2]


def test_the_same_step_is_not_written_twice(tmp_path):
    write_checkpoint(tmp_path, 4, {"a": torch.ones(1)})
    before = (tmp_path / "checkpoint.json").stat().st_mtime_ns
    write_checkpoint(tmp_path, 4, {"a": torch.zeros(1)})
    assert (tmp_path / "checkpoint.json").stat().st_mtime_ns == before


def test_damage_is_told(tmp_path):
    write_checkpoint(tmp_path, 4, {"a": torch.ones(100)})
    file = tmp_path / read_json(tmp_path / "checkpoint.json")["tensors"]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtifactError, match="checksum differs"):
        read_checkpoint(tmp_path)
    file.unlink()
    with pytest.raises(ArtifactError, match="missing or damaged"):
        read_checkpoint(tmp_path)
    (tmp_path / "checkpoint.json").write_text("{")
    with pytest.raises(ArtifactError, match="damaged"):
        read_checkpoint(tmp_path)


def test_differences_name_the_setting():
    before = {"sae": {"k": 4, "widths": [1, 2]}, "seed": 0, "gone": 1}
    now = {"sae": {"k": 4, "widths": [1, 3]}, "seed": 1, "new": {"x": None}}
    assert differences(before, before) == []
    assert differences(before, now) == [
        "sae.widths: [1, 2] → [1, 3]",
        "seed: 0 → 1",
        "gone: 1 → not set",
        "new.x: not set → None",
    ]
    assert dict(flat({"a": {"b": 1}, "c": []})) == {"a.b": 1, "c": []}
