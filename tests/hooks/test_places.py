"""Results, activations and stores behind a url: what is written is as on this machine, whole or not there."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest
import torch
from campaigns.killing import in_child
from fsspec.implementations.local import LocalFileSystem

from graticule import Activations, Findings, Store, Table, baselines, capture, prompts, sweep
from graticule.hooks import remote
from graticule.hooks.artifact import (
    ArtifactError,
    read_json,
    read_table,
    read_tensors,
    sha256,
    write_json,
    write_tensors,
)
from graticule.hooks.kinds import ForeignFolderError, working_folder, write_folder
from graticule.hooks.locks import only_here
from graticule.hooks.names import BadNameError, inside, inside_file, place_of, user_path
from graticule.hooks.places import LOCK, RemotePath
from graticule.hooks.replacing import replacing_entries
from graticule.hooks.store_files import STORE
from graticule.probes.linear.leace import Eraser
from graticule.results import load_result

from .test_replacing import foreign_folders, read_whole
from .test_saved import Sample, sample

POINT = "blocks.0.hook_resid_post"


@pytest.fixture
def memory():
    """A url of its own in fsspec's memory, which is empty before and after."""
    files = fsspec.filesystem("memory")
    yield "memory://here"
    if files.exists("/here"):
        files.rm("/here", recursive=True)


def on_disk(folder: Path) -> RemotePath:
    """A folder of this machine as fsspec has it, which knows nothing of links, locks and renamed folders."""
    return RemotePath(LocalFileSystem(), str(folder))


def contents(place: Any) -> dict[str, bytes]:
    """Every file in a folder, hidden ones too."""
    if isinstance(place, Path):
        return {str(f.relative_to(place)): f.read_bytes() for f in sorted(place.rglob("*")) if f.is_file()}
    return {name: (place / name).read_bytes() for name in place.files()}


def acts() -> Activations:
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.normal(size=(40, 4)).astype(np.float32))
    return Activations.from_tensors({POINT: values, "blocks.1.hook_resid_post": values.bfloat16()})


@pytest.fixture(scope="module")
def made() -> Findings:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"name": [f"place {i}" for i in range(40)], "value": rng.normal(size=40)})
    table = Table(frame.assign(test=np.arange(40) % 3 == 0), text="name", target="value", split="test")
    return sweep(acts(), table, baselines=baselines(None, table), n_bootstrap=20, progress=False)


# What is written ---------------------------------------------------------------------------------------
def test_a_result_is_the_same_bytes_behind_a_url(memory, tmp_path):
    for number in range(2):  # new, and in place of itself
        sample().save(f"{memory}/result")
        sample().save(tmp_path / "result")
        assert contents(place_of(f"{memory}/result")) == contents(tmp_path / "result"), number
    again = Sample.load(f"{memory}/result")
    np.testing.assert_array_equal(again.values, sample().values)
    pd.testing.assert_frame_equal(again.table, sample().table)
    assert again.parts[0].name == "a"


@pytest.mark.slow
def test_findings_are_the_same_bytes_behind_a_url(made, memory, tmp_path):
    made.save(f"{memory}/findings")
    made.save(tmp_path / "findings")
    assert contents(place_of(f"{memory}/findings")) == contents(tmp_path / "findings")
    again = Findings.load(f"{memory}/findings")
    assert again.to_json() == made.to_json()
    assert load_result(f"{memory}/findings").summary() == made.summary()
    made.save(f"{memory}/findings")  # the same question
    write_json(f"{memory}/findings/pages/mine.json", {})
    made.save(f"{memory}/findings")
    assert read_json(f"{memory}/findings/pages/mine.json") == {}  # what lies beside them stays


def test_probes_erasers_and_baselines_are_kept_behind_a_url(made, memory, tmp_path):
    probe = made.probe
    probe.save(f"{memory}/probe")
    rows = acts()[POINT].double().numpy()
    assert np.array_equal(type(probe).load(f"{memory}/probe").predict(rows), probe.predict(rows))
    eraser = Eraser.fit(rows, rows[:, :1])
    eraser.save(f"{memory}/eraser")
    assert np.array_equal(Eraser.load(f"{memory}/eraser").left, eraser.left)
    kept = made.inputs.baselines
    kept.save(f"{memory}/baselines")
    kept.save(f"{memory}/baselines")
    assert type(kept).load(f"{memory}/baselines").table_digest == kept.table_digest


def test_what_reads_one_file_reads_it_behind_a_url(memory, tmp_path):
    table, tensors = pd.DataFrame({"a": [1, 2], "b": ["x", None]}), {"x": torch.arange(3.0)}
    with write_folder(f"{memory}/folder", kind="toy") as folder:
        table.to_parquet(folder / "table.parquet", index=False)
        write_tensors(folder / "deep" / "x.safetensors", tensors)
        write_json(folder / "manifest.json", {"kind": "toy", "n": 1})
    place = place_of(f"{memory}/folder")
    pd.testing.assert_frame_equal(read_table(place / "table.parquet"), table)
    assert list(read_table(f"{place}/table.parquet", ["b", "c"]).columns) == ["b"]
    assert torch.equal(read_tensors(inside(place, "deep", "x.safetensors"))["x"], tensors["x"])
    write_json(tmp_path / "manifest.json", {"kind": "toy", "n": 1})
    assert sha256(place / "manifest.json") == sha256(tmp_path / "manifest.json")
    with pytest.raises(ArtifactError, match=r"memory:///here/folder/none\.json is missing"):
        read_json(place / "none.json")
    with pytest.raises(ArtifactError, match="is a folder, expected a file"):
        sha256(place / "deep")
    (place / "manifest.json").fs.pipe_file((place / "manifest.json").path, b"{")
    with pytest.raises(ArtifactError, match=r"memory://.*is damaged"):
        read_json(place / "manifest.json")


def test_a_url_of_this_machine_is_its_folder(tmp_path):
    assert place_of(f"file://{tmp_path}/x") == tmp_path / "x" == place_of(f"local://{tmp_path}/x")
    assert place_of(Path(f"file://{tmp_path}/x")) == tmp_path / "x"
    sample().save(f"file://{tmp_path}/result")
    assert Sample.load(tmp_path / "result").words == "found"


# Stores ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_store_behind_a_url_is_read_as_one_of_this_machine(where, memory, tmp_path):
    place = place_of(f"{memory}/store") if where == "memory" else on_disk(tmp_path / "remote")
    acts().save(tmp_path / "store")
    place.parent.mkdir()
    place.fs.put(str(tmp_path / "store"), place.path, recursive=True)
    here = Store(tmp_path / "store")
    index = np.array([3, 3, 39, 0, 7, 8, 9])
    for verify in (True, False):
        there = Store(place, verify=verify)
        assert there.points == here.points and there.rows.equals(here.rows) and there.location == str(place)
        for point in here.points:
            assert torch.equal(there.gather(point, index), here.gather(point, index))
            assert there.gather(point, index).dtype == here[point].dtype
            assert torch.equal(there[point], here[point])
        assert there.checksum(list(here.points)) == here.checksum(list(here.points))
    with pytest.raises(IndexError, match="rows 0 to 39"):
        Store(place).gather(POINT, np.array([40]))
    file = place / POINT / "00000.safetensors"
    file.fs.pipe_file(file.path, file.read_bytes()[:-1] + b"?")
    with pytest.raises(ArtifactError, match=r"00000.safetensors is missing or damaged"):
        Store(place)[POINT]
    file.unlink()
    with pytest.raises(ArtifactError, match=r"00000.safetensors is missing"):
        Store(place).gather(POINT, index)
    with pytest.raises(ArtifactError, match="is missing"):
        Store(place / "none")


def test_rows_read_by_range_copy_no_file(memory, tmp_path, monkeypatch):
    acts().save(f"{memory}/store")
    store = Store(f"{memory}/store", verify=False)
    monkeypatch.setattr(type(store.path.fs), "get_file", lambda *a, **k: pytest.fail("a file was copied"))
    assert torch.equal(store.gather(POINT, np.array([5, 2])), acts()[POINT][[5, 2]])


def test_activations_are_saved_and_loaded_behind_a_url(memory):
    acts().save(f"{memory}/store")
    again = Activations.load(f"{memory}/store")
    assert torch.equal(again[POINT], acts()[POINT])
    with pytest.raises(FileExistsError, match="say overwrite=True"):
        acts().save(f"{memory}/store")
    acts().save(f"{memory}/store", overwrite=True)


@pytest.mark.slow
def test_a_capture_behind_a_url_goes_on_and_is_the_same_bytes(tiny, names, memory, tmp_path, monkeypatch):
    monkeypatch.setattr("graticule.hooks.running.runner._SHARD_BYTES", 4096)
    capture(tiny, names, pos="all", store=tmp_path / "store")
    with monkeypatch.context() as patch:
        from graticule.hooks.store_writer import StoreWriter

        written = StoreWriter.append

        def stopped(self: StoreWriter, *args: Any) -> None:
            if len(self.manifest["shards"]) == 2:
                raise KeyboardInterrupt
            written(self, *args)

        patch.setattr(StoreWriter, "append", stopped)
        with pytest.raises(KeyboardInterrupt):
            capture(tiny, names, pos="all", store=f"{memory}/store")
    with pytest.raises(ArtifactError, match="is incomplete"):
        Store(f"{memory}/store")
    there = capture(tiny, names, pos="all", store=f"{memory}/store")
    assert isinstance(there, Store)
    files = [contents(place) for place in (place_of(f"{memory}/store"), tmp_path / "store")]
    for one in files:
        one.pop("provenance.json")
    assert files[0] == files[1]
    monkeypatch.setattr(type(tiny), "forward", lambda *a, **k: pytest.fail("the model ran"))
    assert capture(tiny, names, pos="all", store=f"{memory}/store").n_rows == there.n_rows
    with pytest.raises(ArtifactError, match="holds another capture"):
        capture(tiny, names[:-1], pos="all", store=f"{memory}/store")


# Killed, interrupted, at once ----------------------------------------------------------------------------
def write_folder_of(place: RemotePath, number: int) -> None:
    with write_folder(place, overwrite=True, kind="toy") as folder:
        fill(folder, number)


def write_entries_of(place: RemotePath, number: int) -> None:
    with replacing_entries(place, "toy") as folder:
        fill(folder, number)


def fill(folder: Path, number: int) -> None:
    write_json(folder / "manifest.json", {"kind": "toy", "number": number})
    write_tensors(folder / "numbers.safetensors", {"x": torch.full((3,), number)})
    (folder / "deep").mkdir()
    (folder / "deep" / "more").write_text(str(number))
    (folder / "deep" / f"only in {number}").touch()


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_folder_of, write_entries_of])
def test_killed_at_any_call_the_old_or_the_new_is_there_whole(write, tmp_path):
    """On a file system that moves one file at a time."""
    seen: set[int] = set()
    fatal, killed = 0, True
    while killed:
        root = tmp_path / str(fatal)
        root.mkdir()
        place = on_disk(root / "place")
        write(place, 1)
        killed = in_child(lambda write=write, place=place: write(place, 2), root, fatal).killed
        number = read_whole_of(place)
        assert contents(root / "place").keys() >= {f"deep/only in {number}"}
        assert f"deep/only in {3 - number}" not in contents(root / "place")
        seen.add(number)
        write(place, 3)  # the next writer goes on
        assert read_whole_of(place) == 3
        assert not [name for name in contents(root / "place") if ".graticule" in name]
        fatal += 1
    assert seen == {1, 2}
    assert fatal > 12


def read_whole_of(place: RemotePath) -> int:
    """The number in a folder, read there first, so that what was committed is in its place, and then here."""
    number = read_json(place / "manifest.json")["number"]
    assert read_whole(Path(place.path)) == number
    return number


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_folder_of, write_entries_of])
def test_stopped_at_any_file_that_is_sent_the_old_is_there_whole(write, memory, monkeypatch):
    """And stopped at any that is moved, the new."""
    place = place_of(f"{memory}/place")
    seen: set[int] = set()
    for step in ("put_file", "cp_file", "rm_file", "rm"):
        whole = getattr(type(place.fs), step)
        for fatal in range(6):
            write(place, 1)
            left = [fatal]

            def stopping(self: Any, *args: Any, left=left, whole=whole, **kwargs: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    raise ConnectionError("gone")
                return whole(self, *args, **kwargs)

            with monkeypatch.context() as patch:
                patch.setattr(type(place.fs), step, stopping)
                with suppress(ConnectionError):
                    write(place, 2)
            number = read_json(place / "manifest.json")["number"]
            assert (place / "deep" / "more").read_text() == str(number)
            assert read_tensors(place / "numbers.safetensors")["x"].tolist() == [number] * 3
            seen.add(number)
    assert seen == {1, 2}
    write(place, 3)
    assert sorted(place.files()) == ["deep/more", "deep/only in 3", "manifest.json", "numbers.safetensors"]


def test_an_exception_leaves_nothing(memory):
    with pytest.raises(RuntimeError), write_folder(f"{memory}/new", kind="toy") as folder:
        (folder / "file").touch()
        raise RuntimeError
    assert not place_of(f"{memory}/new").exists()


def test_only_a_folder_of_the_same_kind_is_replaced(tmp_path):
    for folder in foreign_folders(tmp_path):
        before = contents(folder)
        with pytest.raises(ForeignFolderError):
            write_folder_of(on_disk(folder), 1)
        assert contents(folder) == before
        if folder.name == "another's manifest":
            continue  # has the mark's name and no kind: read, and refused, by whoever works there
        with pytest.raises(ForeignFolderError), working_folder(on_disk(folder), STORE, "playing in"):
            pass
    sample(provenance={"model": "one"}).save(on_disk(tmp_path / "result"))
    with pytest.raises(FileExistsError, match="another question"):
        sample(provenance={"model": "other"}).save(on_disk(tmp_path / "result"))


def test_one_writer_behind_a_url(memory, tmp_path):
    place = place_of(f"{memory}/folder")
    told: list[str] = []

    def other() -> None:
        try:
            with only_here(f"{memory}/folder", "saving into"):
                told.append("held by both")
        except FileExistsError as error:
            told.append(str(error))

    with only_here(place, "probing into"):
        with only_here(place, "saving into"):
            pass
        assert place.files() == [LOCK]
        assert not list(place.iterdir())
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert told == ["another process is saving into memory:///here/folder; wait for it"]
    assert not place.exists()
    other()
    assert told[1:] == ["held by both"]


def test_the_lock_of_a_killed_process_is_taken_over_and_one_of_another_machine_is_not(tmp_path):
    place = on_disk(tmp_path / "folder")
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=-1, check=True)
    for host, process, free in (
        (socket.gethostname(), int(ended.stdout), True),
        (socket.gethostname(), os.getppid(), False),
        ("elsewhere", 1, False),
    ):
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "folder" / LOCK).write_text(json.dumps({"host": host, "process": process}))
        if free:
            write_folder_of(place, 1)
            assert not (tmp_path / "folder" / LOCK).exists()
        else:
            with pytest.raises(FileExistsError, match=f"process {process} on {host} runs no more, remove"):
                write_folder_of(place, 2)
            assert read_whole(tmp_path / "folder") == 1


@pytest.mark.slow
def test_a_lock_that_its_killed_maker_left_empty_is_taken_over(tmp_path):
    place = on_disk(tmp_path / "folder")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / LOCK).touch()
    write_folder_of(place, 1)
    assert read_whole(tmp_path / "folder") == 1
    assert not (tmp_path / "folder" / LOCK).exists()


def test_an_empty_lock_that_is_being_written_is_not_taken_over(tmp_path):
    place = on_disk(tmp_path / "folder")
    (tmp_path / "folder").mkdir()
    lock = tmp_path / "folder" / LOCK
    lock.touch()
    written = json.dumps({"host": "elsewhere", "process": 1})
    writer = threading.Timer(0.1, lambda: lock.write_text(written))
    writer.start()
    with pytest.raises(FileExistsError, match="process 1 on elsewhere"):
        write_folder_of(place, 2)
    writer.join()
    assert lock.read_text() == written


def test_two_answers_saved_at_once_cannot_both_pass(tmp_path, monkeypatch):
    """The question is compared by who holds the folder: here a second writer comes just after."""
    from graticule.hooks import saved

    compared = saved.check_same_question
    told: list[str] = []

    def other() -> None:
        try:
            sample(provenance={"model": "two"}).save(tmp_path / "result")
        except FileExistsError as error:
            told.append(str(error))

    def meanwhile(*args: Any) -> None:
        compared(*args)
        if threading.current_thread() is threading.main_thread():
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()

    monkeypatch.setattr(saved, "check_same_question", meanwhile)
    sample(provenance={"model": "one"}).save(tmp_path / "result")
    assert told == [f"another process is saving sample into {tmp_path / 'result'}; wait for it"]
    assert Sample.load(tmp_path / "result").provenance == {"model": "one"}
    with pytest.raises(FileExistsError, match="another question"):
        sample(provenance={"model": "two"}).save(tmp_path / "result")


# Names -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "url", ["memory://", "memory://a/../b", "memory://a//b", "memory://a/./b", "nowhere://a", "memory://a\0b",
            "memory://a\udc80b", "memory://" + "x" * 300, "memory://" + "x/" * 3000],
    ids=range(9),
)  # fmt: skip
def test_a_url_that_leads_nowhere_is_refused_in_one_line(url):
    for door in (Findings.load, Store, acts().save, sample().save):
        with pytest.raises(BadNameError) as told:
            door(url)
        assert str(told.value).isprintable() and len(str(told.value)) < 300


@pytest.mark.parametrize(
    "url",
    ["simplecache::memory://here/y", "dir::memory://here", "zip://x::/tmp/z.zip", "memory://x::y", "memory:x",
     "memory:/x", "file://rel/x", "file:x", "memory://here/a[b", "memory://here/*", "memory://here/a?b/c",
     Path("simplecache::memory://x"), Path("memory:x"), Path("memory://here/a*")],
    ids=str,
)  # fmt: skip
def test_a_url_that_would_be_taken_for_something_else_is_refused_in_one_line(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    doors = (Findings.load, Store, acts().save, sample().save, sample().report, acts().to_saelens, user_path)
    for door in (*doors, place_of, load_result, Table):
        with pytest.raises(BadNameError) as told:
            door(url)
        assert str(told.value).isprintable() and len(str(told.value)) < 300
    assert not list(tmp_path.iterdir())


def test_what_goes_to_a_sibling_by_a_pattern_is_refused(memory):
    write_folder_of(place_of(f"{memory}/ab"), 1)
    for name in ("a*", "a?", "[a]b"):
        with pytest.raises(BadNameError, match="take for a pattern"):
            write_folder_of(place_of(f"{memory}/{name}"), 2)
        with pytest.raises(BadNameError, match="take for a pattern"):
            inside(place_of(memory), name)
    assert (place_of(f"{memory}/ab") / "deep" / "more").read_text() == "1"


def test_a_page_and_a_probe_for_the_hub_lie_behind_a_url(made, memory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = made.report(f"{memory}/pages/x.html")
    assert str(page) == "memory:///here/pages/x.html"
    assert page.read_bytes() == made.report(tmp_path / "x.html").read_bytes()
    made.probe.save_pretrained(f"{memory}/probe")
    made.probe.save_pretrained(f"{memory}/several/one")
    rows = acts()[POINT].double().numpy()
    for again in (
        type(made.probe).from_pretrained(f"{memory}/probe"),
        type(made.probe).from_pretrained(f"{memory}/several", "one"),
    ):
        assert np.array_equal(again.predict(rows), made.probe.predict(rows))
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.html"]


def test_calls_that_work_in_a_folder_refuse_a_url_before_anything_else(made, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = made.inputs.table
    for call in (
        lambda: acts().to_saelens("memory://here/x"),
        lambda: prompts(tiny, table, out="memory://here/x"),
        lambda: baselines(None, table, store="memory://here/x"),
    ):
        with pytest.raises(BadNameError, match=r"^memory:///here/x is a url, expected a folder"):
            call()
    assert not list(tmp_path.iterdir())


def test_names_behind_a_url_do_not_leave_their_folder(memory):
    place = place_of(memory)
    for name in ("", ".", "..", "a/b", "a\\b", ".hidden", "a\0b", "x" * 201, None, 7):
        with pytest.raises(BadNameError):
            inside(place, "fine", name)
    for name in ("../x", "/x", "a//b", "a/../b", 3):
        with pytest.raises(BadNameError):
            inside_file(place, name)
    write_folder_of(place, 1)
    write_json(place / f"x{remote.COMMITTED}", {"files": ["../elsewhere"], "whole": True})
    with pytest.raises(OSError, match="is damaged"):
        read_json(place / "manifest.json")
    assert (place / "deep" / "more").read_text() == "1"


@pytest.mark.usefixtures("memory")
def test_where_a_folder_of_this_machine_is_needed_a_url_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(BadNameError, match="is a url, expected a folder of this machine"),
        working_folder("memory://run", STORE, "training into"),
    ):
        pass
    sample().save(Path("memory://here/result"))  # which has one slash less
    assert Sample.load("memory://here/result").words == Sample.load(Path("memory://here/result")).words
    assert not list(tmp_path.iterdir())
    (tmp_path / "a:").mkdir()  # no file system's name
    assert user_path("a:/b") == Path("a:/b")
    sample().save("a:/b")
