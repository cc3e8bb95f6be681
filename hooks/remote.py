"""Remote files and folders that are whole whenever they have their names: filled here, sent aside, committed.

File systems behind a url move one file at a time. So all files are sent into a hidden folder first, and then
one file is written that names them: from then on they are what the folder holds. A kill after it is made
good by whoever reads or writes there next; what a kill before it left is removed by who writes there next.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from graticule.hooks.locks import only_here
from graticule.hooks.names import inside_file
from graticule.hooks.places import COMMITTED, TEMPORARY, RemotePath

_DOING = "writing into"


@contextmanager
def replacing_remote_file(path: RemotePath) -> Generator[Path]:
    """Yield a file name of this machine; on a clean exit the file is sent, and then moved onto `path`.

    Raises:
        IsADirectoryError: If `path` is a folder.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    with tempfile.TemporaryDirectory(prefix="graticule-") as scratch:
        file = Path(scratch, path.name)
        yield file
        path.parent.mkdir()
        _send(file, path)


@contextmanager
def replacing_remote_folder(folder: RemotePath, whole: bool) -> Generator[Path]:
    """Yield an empty folder of this machine; on a clean exit its files are those of `folder`.

    Args:
        folder: Held meanwhile against other writers.
        whole: Whether everything else in `folder` goes, or only what has the name of a new entry.

    Raises:
        FileExistsError: If another process writes there.
    """
    with only_here(folder, _DOING), tempfile.TemporaryDirectory(prefix="graticule-") as scratch:
        tidy_remote_folder(folder)
        made = Path(scratch, folder.name)
        made.mkdir()
        yield made
        name = f".{secrets.token_hex(8)}"
        files = sorted(file.relative_to(made).as_posix() for file in made.rglob("*") if file.is_file())
        for file in files:
            place = inside_file(folder / f"{name}{TEMPORARY}", file)
            place.parent.mkdir()
            place.fs.put_file(str(made / file), place.path)
        note = Path(scratch, "committed.json")
        note.write_text(json.dumps({"files": files, "whole": whole}), encoding="utf-8")
        _send(note, folder / f"{name}{COMMITTED}")
        recover_remote_folder(folder)


def recover_remote_folder(folder: RemotePath) -> None:
    """Move what was committed in `folder`, and not all moved when its writer was killed, into place.

    Raises:
        FileExistsError: If its writer is at it.
    """
    if any(_is_note(entry) for entry in folder.entries()):
        with only_here(folder, _DOING):
            for note in filter(_is_note, folder.entries()):
                _move_files(folder, note)


def tidy_remote_folder(folder: RemotePath) -> None:
    """Make good what killed processes have committed in `folder`, and remove the rest of what they left.

    What a living process works on stays.
    """
    recover_remote_folder(folder)
    if any(_is_temporary(entry) for entry in folder.entries()):
        with suppress(FileExistsError), only_here(folder, _DOING):
            for entry in filter(_is_temporary, folder.entries()):
                entry.remove()


def _is_temporary(entry: RemotePath) -> bool:
    return entry.name.endswith(TEMPORARY)


def _is_note(entry: RemotePath) -> bool:
    return entry.name.endswith(COMMITTED)


def _send(file: Path, path: RemotePath) -> None:
    """Write a file under a name of its own, then move it onto `path`."""
    aside = path.parent / f".{secrets.token_hex(8)}{TEMPORARY}"
    aside.fs.put_file(str(file), aside.path)
    aside.fs.mv(aside.path, path.path)


def _move_files(folder: RemotePath, note: RemotePath) -> None:
    """Let the files that a note names take their places; begun anew it goes on where it was."""
    aside = folder / f"{note.name.removesuffix(COMMITTED)}{TEMPORARY}"
    try:
        committed: Mapping[str, Any] = json.loads(note.read_bytes())
        places = {file: inside_file(folder, file) for file in committed["files"]}
        whole = bool(committed["whole"])
    except (ValueError, KeyError, TypeError) as error:
        raise OSError(f"{note} is damaged ({error}); remove it, and write the folder again") from error
    _remove_old(folder, set(places), whole)
    for file, place in places.items():
        sent = inside_file(aside, file)
        if sent.exists():  # not moved and removed before a kill
            place.parent.mkdir()
            place.fs.cp_file(sent.path, place.path)
    aside.remove()
    note.unlink()


def _remove_old(folder: RemotePath, files: set[str], whole: bool) -> None:
    """Remove the entries that give way to `files`, but for those files themselves, which are written over."""
    names = {file.partition("/")[0] for file in files}
    for entry in folder.iterdir():
        if entry.name not in names:
            if whole:
                entry.remove()
        elif entry.is_dir() == (entry.name in files):  # a file for a folder, or a folder for a file
            entry.remove()
        else:
            for below in entry.files() if entry.is_dir() else []:
                if f"{entry.name}/{below}" not in files:
                    (entry / below).unlink()
