"""Names become paths in one place, and never leave their folder."""

import os

import pytest

from graticule.hooks.names import BadNameError, check_name, inside, inside_file

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
