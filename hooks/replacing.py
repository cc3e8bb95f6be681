"""Files and folders that are whole whenever they have their names: made aside, synced, moved into place.

What is made lies in a hidden folder beside its place until it is whole. A process holds a lock on the hidden
folders it works in, so that what a killed one has left is known for that, and removed (`tidy`). Several
entries that belong together are committed by one rename of their hidden folder; a kill after it is made good
by whoever reads or writes there next (`recover`). What lies behind a url goes through `hooks.remote`.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from graticule.hooks import remote
from graticule.hooks.places import COMMITTED, TEMPORARY, Place, RemotePath

_OUTGOING = ".outgoing."
_LONGEST = 200  # bytes of a name that stands in a hidden folder's, which must not be longer than 255
_EXCHANGE = 2  # RENAME_EXCHANGE
_AT_CWD = -100


@contextmanager
def replacing(path: Place) -> Generator[Path]:
    """Yield a temporary file name; on a clean exit the file is synced and renamed onto `path`.

    Raises:
        IsADirectoryError: if `path` is a folder.
        NotADirectoryError: if what is to be its folder, or one above, is a file.
    """
    if isinstance(path, RemotePath):
        with remote.replacing_remote_file(path) as temporary:
            yield temporary
        return
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    with _workspace(path.parent, path.name) as place:
        temporary = place / path.name
        with _naming(path, place):
            yield temporary
        temporary.chmod(0o666 & ~_umask())  # some writers make files that are their owner's alone
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)


@contextmanager
def replacing_folder(path: Place) -> Generator[Path]:
    """Yield an empty folder to fill; on a clean exit it takes the place of `path`, in one step.

    A symbolic link at `path` stays, and what it leads to is replaced.
    """
    if isinstance(path, RemotePath):
        with remote.replacing_remote_folder(path, whole=True) as made:
            yield made
        return
    path = Path(os.path.realpath(path))
    recover(path.parent)
    with _workspace(path.parent, path.name) as place:
        made = place / path.name
        made.mkdir()
        with _naming(path, place):
            yield made
        _sync_all(made)
        if not path.exists():
            os.rename(made, path)
        elif not exchange(made, path):
            _commit(place, path.parent)
            return
        _sync(path.parent)


@contextmanager
def replacing_entries(folder: Place, name: str) -> Generator[Path]:
    """Yield an empty folder; on a clean exit its entries take their places in `folder`, all of them or none.

    A reader that begins with `recover(folder)`, as `read_json` does, sees the old entries or the new ones.

    Args:
        folder: where the entries belong; other things may lie there.
        name: of the whole, for the hidden folder.
    """
    if isinstance(folder, RemotePath):
        with remote.replacing_remote_folder(folder, whole=False) as made:
            yield made
        return
    recover(folder)
    with _workspace(folder, name) as place:
        with _naming(folder, place):
            yield place
        _sync_all(place)
        _commit(place, folder)


@contextmanager
def _naming(path: Path, place: Path) -> Generator[None]:
    """Let an error of the disk name the path that was to be written, not the hidden one, nor none."""
    try:
        yield
    except OSError as error:
        hidden = error.filename is None or str(error.filename).startswith(str(place))
        if error.errno is not None and hidden:
            error.filename = str(path)
        raise


def exchange(one: Path, other: Path) -> bool:
    """Let two paths change places in one step; False where this system or its file system cannot."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    return rename(_AT_CWD, os.fsencode(one), _AT_CWD, os.fsencode(other), _EXCHANGE) == 0


def recover(folder: Place) -> None:
    """Move what was committed in `folder`, and not all moved when its writer was killed, into place.

    Raises:
        OSError: if the folder cannot be written.
    """
    if isinstance(folder, RemotePath):
        remote.recover_remote_folder(folder)
        return
    for place in _hidden(folder, COMMITTED):
        with _locked(place):  # a living writer moves its entries itself
            if place.is_dir():
                _move_entries(place, folder)


def tidy(folder: Place) -> None:
    """Remove what killed processes left half-made under and beside `folder`; make good what they committed.

    What a living process works on stays.
    """
    if isinstance(folder, RemotePath):
        remote.tidy_remote_folder(folder)
        return
    _tidy_here(folder.parent, _prefix(folder.name))
    for root, folders, _ in os.walk(folder):
        folders[:] = [name for name in folders if not name.endswith((TEMPORARY, COMMITTED))]
        _tidy_here(Path(root))


def _tidy_here(folder: Path, prefix: str = ".") -> None:
    recover(folder)
    for place in _hidden(folder, TEMPORARY, prefix):
        with _locked(place, wait=False) as free:
            if free:
                shutil.rmtree(place, ignore_errors=True)


def _hidden(folder: Path, ending: str, prefix: str = ".") -> list[Path]:
    """Hidden folders of an ending in `folder`, in the order of their names."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        return sorted(
            Path(e.path)
            for e in entries
            if e.name.endswith(ending) and e.name.startswith(prefix) and e.is_dir(follow_symlinks=False)
        )
    return []


def _prefix(name: str) -> str:
    """What the hidden folder for `name` begins with; a long one is cut, for room behind it."""
    written = os.fsencode(name)
    if len(written) > _LONGEST:
        name = (
            f"{written[: _LONGEST - 20].decode(errors='ignore')}~{hashlib.sha256(written).hexdigest()[:16]}"
        )
    return f".{name}."


@contextmanager
def _workspace(folder: Path, name: str) -> Generator[Path]:
    """A hidden folder for `name`, held by this process, and gone at the end."""
    if lying := next((place for place in (folder, *folder.parents) if place.is_file()), None):
        raise NotADirectoryError(f"{lying} is a file, so nothing can be written under it; name another place")
    folder.mkdir(parents=True, exist_ok=True)
    _tidy_here(folder, _prefix(name))
    while True:
        place = Path(tempfile.mkdtemp(dir=folder, prefix=_prefix(name), suffix=TEMPORARY))
        with _locked(place):
            if not place.is_dir():
                continue  # tidied away before it was held
            try:
                yield place
            finally:
                shutil.rmtree(place, ignore_errors=True)
            return


def _commit(place: Path, folder: Path) -> None:
    """From here on the entries of `place` are what `folder` holds, whatever is killed when."""
    whole = place.with_name(place.name.removesuffix(TEMPORARY) + COMMITTED)
    os.rename(place, whole)
    _sync(folder)
    _move_entries(whole, folder)


def _move_entries(place: Path, folder: Path) -> None:
    """Move every entry of `place` into `folder`; begun anew it goes on where it was."""
    for entry in sorted(place.iterdir()):
        if entry.name.startswith(_OUTGOING):
            continue
        target = folder / entry.name
        if os.path.lexists(target) and (entry.is_dir() or target.is_dir()):
            os.rename(target, Path(tempfile.mkdtemp(dir=place, prefix=_OUTGOING)) / entry.name)
        os.replace(entry, target)
    _sync(folder)
    shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _locked(place: Path, wait: bool = True) -> Generator[bool]:
    """Hold a hidden folder; False if another process does, or nobody can tell."""
    try:
        import fcntl

        descriptor = os.open(place, os.O_RDONLY)
    except (ImportError, FileNotFoundError):
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            free = True
        except OSError:  # held, or a file system without locks
            free = False
        yield free
    finally:
        os.close(descriptor)


def _sync_all(folder: Path) -> None:
    for file in sorted(folder.rglob("*")):
        _sync(file)
    _sync(folder)


def _sync(path: Path) -> None:
    """Flush a file or folder to disk, so that a rename after it cannot outlive its content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    """The process's file mode mask; it can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
