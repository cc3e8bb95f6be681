"""Names become paths in one place, and never leave their folder."""

import os

import numpy as np
import pytest

from graticule import Activations, Findings, Store, Table, sweep
from graticule.hooks.names import BadNameError, check_name, inside, inside_file, user_path

HOSTILE = [
    "",
    ".",
    "..",
    "../x",
    "../../data",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "C:\\x",
    ".hidden",
    "a\0b",
    "a\nb",
    "a\x1b[31mb",
    "a\x7fb",
    "a\x85b",
    "x" * 201,
    "é" * 101,
    "half\udc80",
    None,
    7,
    b"bytes",
    ["list"],
]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_name_that_could_leave_its_folder_is_refused_in_one_line(name, tmp_path):
    with pytest.raises(BadNameError) as by_itself:
        check_name(name, "hook name")
    with pytest.raises(BadNameError) as in_a_path:
        inside(tmp_path, "fine", name)
    for told in (by_itself, in_a_path):
        words = str(told.value)
        assert words.isprintable()
        assert len(words) < 300 + len(str(tmp_path))
    assert "hook name" in str(by_itself.value)


@pytest.mark.parametrize(
    "name", ["blocks.0.hook_resid_post", "x" * 200, "é" * 100, "00000.safetensors", "a b", "名前", "a..b"]
)
def test_an_ordinary_name_is_one_part_of_a_path(name, tmp_path):
    assert check_name(name, "hook name") == name
    path = inside(tmp_path, "fine", name)
    assert path == tmp_path / "fine" / name
    path.parent.mkdir()
    path.write_text("x")
    assert [p.name for p in (tmp_path / "fine").iterdir()] == [name]


@pytest.mark.parametrize("path", ["x" * 300, "a/" + "é" * 128, "fine/" * 1000, "a\ud800b"], ids=range(4))
def test_a_path_that_file_systems_do_not_take_is_refused_in_one_line(path, tmp_path, monkeypatch):
    """By what writes and by what reads; before, it was the system's own error, with all of the name."""
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).normal(size=(40, 3))
    acts = Activations.from_tensors({"blocks.0.hook_resid_post": values})
    findings = sweep(acts, values[:, 0], n_bootstrap=10)
    probe = findings.probes[findings.chosen_point]
    doors = (findings.save, findings.report, acts.save, probe.save, Findings.load, Store, user_path,
             lambda place: Table(place, "a", "b"))  # fmt: skip
    for door in doors:
        with pytest.raises(BadNameError, match=r"expected at most (255|4095)|half a character") as told:
            door(path)
        assert len(str(told.value)) < 200 and str(told.value).isprintable()
    assert not list(tmp_path.iterdir())


def test_names_as_long_as_file_systems_take_them_are_written(tmp_path):
    """The hidden folder that they are made in has room for its own ending."""
    values = np.random.default_rng(0).normal(size=(40, 3))
    acts = Activations.from_tensors({"blocks.0.hook_resid_post": values})
    findings = sweep(acts, values[:, 0], n_bootstrap=10)
    for name in ("s" * 255, "é" * 127):
        findings.save(tmp_path / name)
        assert Findings.load(tmp_path / name).target_names == findings.target_names
        acts.save(tmp_path / f"a{name[1:]}")
        assert Store(tmp_path / f"a{name[1:]}").n_rows == 40
        assert findings.report(tmp_path / f"{name[5:]}.html").is_file()
    assert len(list(tmp_path.iterdir())) == 6


def test_a_file_named_by_a_manifest_stays_inside(tmp_path):
    assert inside_file(tmp_path, "rows/00000.parquet") == tmp_path / "rows" / "00000.parquet"
    for name in ("../x", "/x", "a//b", "a/../b", "a/./b", "a/", 3):
        with pytest.raises(BadNameError):
            inside_file(tmp_path, name)


def test_a_link_out_of_the_folder_is_refused_and_a_link_within_it_is_not(tmp_path):
    folder, other = tmp_path / "folder", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    (folder / "real").mkdir()
    os.symlink(other, folder / "out")
    os.symlink(folder / "real", folder / "within")
    for parts in (("out",), ("out", "file")):
        with pytest.raises(BadNameError, match="symbolic link"):
            inside(folder, *parts)
    assert inside(folder, "within", "file") == folder / "within" / "file"
    os.symlink(folder, tmp_path / "alias")  # the folder itself may be reached by a link
    assert inside(tmp_path / "alias", "real") == tmp_path / "alias" / "real"
