"""One writer a folder: the second is told so, and nothing is left behind."""

import os
import threading
from contextlib import suppress

import pytest

from graticule.hooks.locks import only_here


def in_another_process(folder) -> str:
    """What a second process is told that would write into `folder`; empty if it may."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        from graticule.hooks import locks

        locks._HELD.clear()  # an unrelated process holds nothing
        told = ""
        try:
            with only_here(folder, "capturing into"):
                pass
        except BaseException as error:
            told = f"{type(error).__name__}: {error}"
        os.write(writing, told.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return told


def test_a_second_process_is_told_in_one_line_and_may_write_afterwards(tmp_path):
    folder = tmp_path / "store"
    with only_here(folder, "capturing into"):
        told = in_another_process(folder)
        assert told == f"FileExistsError: another process is capturing into {folder}; wait for it"
        assert list(tmp_path.iterdir()) == [folder]
        assert not list(folder.iterdir())
        (folder / "file").touch()
    assert in_another_process(folder) == ""
    assert [f.name for f in folder.iterdir()] == ["file"]


def test_a_folder_that_stays_empty_is_taken_away_again(tmp_path):
    with suppress(RuntimeError), only_here(tmp_path / "new", "x"):
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    (tmp_path / "old").mkdir()
    with only_here(tmp_path / "old", "x"):
        pass
    assert (tmp_path / "old").is_dir()


def test_one_thread_may_hold_a_folder_twice_and_another_thread_may_not(tmp_path):
    told: list[str] = []

    def other() -> None:
        try:
            with only_here(tmp_path, "saving into"):
                told.append("held by both")
        except FileExistsError as error:
            told.append(str(error))

    with only_here(tmp_path, "probing into"):
        with only_here(tmp_path, "saving into"):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert in_another_process(tmp_path)  # the inner block has not let go of the outer one's lock
    assert told == [f"another process is saving into {tmp_path}; wait for it"]


def test_a_folder_replaced_while_it_is_held_is_held_anew(tmp_path):
    folder = tmp_path / "folder"
    with only_here(folder, "x"):
        os.rename(folder, tmp_path / "moved")
        folder.mkdir()
        assert in_another_process(folder) == ""
        assert in_another_process(tmp_path / "moved")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="is a file; name a folder"), only_here(tmp_path / "file", "x"):
        pass
