"""What is replaced is old or new whatever is killed when, and only a folder of the same kind is replaced."""

import errno
import json
import os
import threading

import pytest
import torch
from campaigns.killing import in_child, leftovers

from graticule.hooks import replacing
from graticule.hooks.artifact import ArtifactError, read_json, read_tensors, write_json, write_tensors
from graticule.hooks.kinds import FolderKind, ForeignFolderError, kind_of, working_folder, write_folder
from graticule.hooks.replacing import exchange, replacing_entries, replacing_folder, tidy


def write_whole(path, number: int) -> None:
    with write_folder(path, overwrite=True, kind="toy") as folder:
        write_json(folder / "manifest.json", {"kind": "toy", "number": number})
        write_tensors(folder / "numbers.safetensors", {"x": torch.full((3,), number)})


def read_whole(path) -> int:
    number = read_json(path / "manifest.json")["number"]
    assert read_tensors(path / "numbers.safetensors")["x"].tolist() == [number] * 3
    if (path / "deep").exists():
        assert (path / "deep" / "more").read_text() == str(number)
    return number


def write_entries(path, number: int) -> None:
    with replacing_entries(path, "toy") as place:
        write_json(place / "manifest.json", {"kind": "toy", "number": number})
        write_tensors(place / "numbers.safetensors", {"x": torch.full((3,), number)})
        (place / "deep").mkdir()
        (place / "deep" / "more").write_text(str(number))


def no_exchange(monkeypatch) -> None:
    """As on a system that cannot let two folders change places."""
    monkeypatch.setattr(replacing, "exchange", lambda one, other: False)


WAYS = {"folder": write_whole, "folder, without exchange": write_whole, "entries": write_entries}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_killed_at_any_call_the_old_or_the_new_is_there_whole(way, tmp_path, monkeypatch):
    write = WAYS[way]
    if "without" in way:
        no_exchange(monkeypatch)
    seen: set[int] = set()
    fatal, killed = 0, True
    while killed:
        root = tmp_path / str(fatal)
        path = root / "place"
        write(path, 1)
        (path.parent / "bystander").write_text("mine")
        killed = in_child(lambda path=path: write(path, 2), root, fatal).killed
        seen.add(read_whole(path))
        write(path, 3)  # the next writer goes on
        assert read_whole(path) == 3
        assert not leftovers(root)
        assert (path.parent / "bystander").read_text() == "mine"
        fatal += 1
    assert seen == {1, 2}
    assert fatal > 12


def test_two_paths_change_places(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("a")
    (tmp_path / "b").mkdir()
    assert exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / "file").read_text() == "a"
    assert not list((tmp_path / "a").iterdir())
    assert not exchange(tmp_path / "a", tmp_path / "missing")


@pytest.mark.slow
def test_a_reader_never_sees_neither_while_a_folder_is_replaced_again_and_again(tmp_path, monkeypatch):
    no_exchange(monkeypatch)
    write_whole(tmp_path / "place", 0)
    ended = threading.Event()

    def writing() -> None:
        for number in range(1, 30):
            write_whole(tmp_path / "place", number)
        ended.set()

    thread = threading.Thread(target=writing)
    thread.start()
    while not ended.is_set():
        assert read_json(tmp_path / "place" / "manifest.json")["kind"] == "toy"
    thread.join()


def test_an_exception_leaves_the_old_one_and_nothing_else(tmp_path):
    write_whole(tmp_path / "place", 1)

    class Stop(Exception):
        pass

    for write in (
        lambda: write_folder(tmp_path / "place", overwrite=True, kind="toy"),
        lambda: replacing_entries(tmp_path / "place", "toy"),
        lambda: replacing.replacing(tmp_path / "place" / "manifest.json"),
    ):
        with pytest.raises(Stop), write() as made:
            (made / "x" if made.is_dir() else made).write_text("half")
            raise Stop
        assert read_whole(tmp_path / "place") == 1
        assert not leftovers(tmp_path)


def test_what_a_living_process_works_on_is_not_tidied_away(tmp_path):
    folder = tmp_path / "folder"
    with replacing_entries(folder, "toy") as place:
        (place / "file").write_text("x")
        tidy(folder)
        tidy(tmp_path)
        assert in_child(lambda: tidy(folder), tmp_path, watch=False).error == ""
        assert (place / "file").is_file()
    assert (folder / "file").is_file()


def test_a_library_that_writes_its_own_temporary_files_leaves_none(tmp_path):
    def killed_inside() -> None:
        with replacing.replacing(tmp_path / "folder" / "x.safetensors") as temporary:
            temporary.with_name(".tmpAbc123").write_bytes(bytes(100))  # as safetensors does
            os.kill(os.getpid(), 9)

    assert in_child(killed_inside, tmp_path, watch=False).killed
    assert leftovers(tmp_path)
    write_tensors(tmp_path / "folder" / "x.safetensors", {"x": torch.ones(1)})
    assert not leftovers(tmp_path)


# Kinds -----------------------------------------------------------------------------------------------
TOY = FolderKind("toy", "toy", "manifest.json", ("parts", "page*"))


def foreign_folders(root):
    """Folders that nobody may replace by, or write into as, a toy."""
    for name, files in {
        "photographs": {"cat.jpg": ""},
        "other kind": {"manifest.json": json.dumps({"kind": "words", "schema": 1})},
        "another's manifest": {"manifest.json": json.dumps({"name": "an npm package"}), "index.js": ""},
        "findings": {"findings.json": json.dumps({"kind": "findings", "schema": 1})},
        "study": {"study.json": json.dumps({"kind": "study", "schema": 1})},
        "a run": {"run.json": json.dumps({"kind": "sae_run", "schema": 1})},
        "SAELens": {"cfg.json": json.dumps({"architecture": "standard"})},
    }.items():
        folder = root / name
        folder.mkdir(parents=True)
        for file, text in files.items():
            (folder / file).write_text(text)
        yield folder


def test_only_a_folder_of_the_same_kind_is_replaced(tmp_path):
    for folder in foreign_folders(tmp_path):
        before = sorted(p.name for p in folder.iterdir())
        with pytest.raises(ForeignFolderError) as told:
            write_whole(folder, 1)
        assert "\n" not in str(told.value)
        assert "choose another place" in str(told.value)
        assert sorted(p.name for p in folder.iterdir()) == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ForeignFolderError):
        write_whole(tmp_path / "file", 1)
    (tmp_path / "empty").mkdir()
    write_whole(tmp_path / "empty", 1)
    write_whole(tmp_path / "empty", 2)
    assert kind_of(tmp_path / "empty") == "toy"
    assert not leftovers(tmp_path)


def test_a_link_to_a_folder_is_written_through_and_stays(tmp_path):
    write_whole(tmp_path / "real", 1)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_whole(tmp_path / "link", 2)
    assert (tmp_path / "link").is_symlink()
    assert read_whole(tmp_path / "real") == 2
    assert not leftovers(tmp_path)


def test_only_a_folder_of_the_same_kind_is_worked_in(tmp_path):
    for folder in foreign_folders(tmp_path):
        if folder.name == "another's manifest":
            continue  # has the mark's name and no kind: read, and refused, by whoever works there
        with pytest.raises(ForeignFolderError) as told, working_folder(folder, TOY, "playing in"):
            pass
        assert "\n" not in str(told.value)
    begun = tmp_path / "begun"
    (begun / "parts").mkdir(parents=True)
    with working_folder(begun, TOY, "playing in"):  # killed before its mark was written
        pass
    write_whole(tmp_path / "whole", 1)
    with working_folder(tmp_path / "whole", TOY, "playing in"):
        pass


def test_a_damaged_mark_is_told(tmp_path):
    write_whole(tmp_path / "place", 1)
    for text in ("{", "[1]", '{"a": "\ud800"', "null", "[" * 100_000):
        (tmp_path / "place" / "manifest.json").write_text(text, errors="surrogatepass")
        with pytest.raises(ArtifactError, match=r"manifest\.json"):
            read_json(tmp_path / "place" / "manifest.json")
        assert kind_of(tmp_path / "place") is None


def test_a_full_disk_names_what_was_to_be_written(tmp_path):
    """Whoever writes: an error without a name, and one with the hidden file's."""
    for hidden in (False, True):
        for write in (replacing.replacing, replacing_folder):
            with (
                pytest.raises(OSError, match="No space left") as told,
                write(tmp_path / "page.html") as place,
            ):
                raise OSError(errno.ENOSPC, "No space left on device", *([str(place)] if hidden else []))
            assert told.value.filename == str(tmp_path / "page.html")
            assert not any(tmp_path.iterdir())
