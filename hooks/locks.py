"""One writer a folder: a lock that a killed process lets go, and that leaves no file behind."""

import hashlib
import json
import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from graticule.hooks.names import check_leads_somewhere, place_of
from graticule.hooks.places import LOCK, Place, RemotePath

_log = logging.getLogger(__name__)
_HELD: dict[tuple[int, int], int] = {}
"""Folder (device, inode) locked by this process → the thread that locked it."""
_GUARD = threading.Lock()
_PATIENCE, _PAUSE = 25, 0.2
"""How often, and every how many seconds, an empty lock file is looked at: its maker writes at once."""


@contextmanager
def only_here(folder: Place | str, doing: str) -> Generator[None]:
    """Hold `folder` against every other writer, as long as the block runs.

    The lock is on the folder itself, so that there is no lock file to leave behind and a killed process
    lets go at once. The folder is made if it is not there, and is taken away again if the block leaves it
    empty. Within one thread the same folder may be held twice: a call may use another that locks.

    A remote folder is held by a file in it, which is made only where there is none. One that a killed process
    of this machine has left is taken over; of another machine's nobody can tell.

    Args:
        folder: where is written.
        doing: what the block does, before the folder's name: `capturing into`, say.

    Raises:
        FileExistsError: if another process or thread holds it, or it is a file.
    """
    folder = place_of(folder)
    if isinstance(folder, RemotePath):
        with _only_here_remotely(folder, doing):
            yield
        return
    check_leads_somewhere(folder)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; name a folder")
    new = not folder.exists()
    descriptor = _locked(folder, doing, folder)
    try:
        yield
    finally:
        if new:
            with suppress(OSError):  # it holds something, as it should
                folder.rmdir()
        if descriptor is not None:
            _release(descriptor)


@contextmanager
def _only_here_remotely(folder: RemotePath, doing: str) -> Generator[None]:
    """Hold a folder of this machine that stands for the remote one, then the remote one's lock file."""
    if folder.is_file():
        raise FileExistsError(f"{folder} is a file; name a folder")
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    stand_in = Path(tempfile.gettempdir(), f"graticule-locks-{getattr(os, 'getuid', int)()}", name)
    descriptor = _locked(stand_in, doing, folder)
    if descriptor is None:  # this thread holds it, or there are no locks here
        yield
        return
    try:
        new = not folder.exists()
        lock = _take(folder, doing)
        try:
            yield
        finally:
            lock.unlink()
            if new and not folder.entries():
                with suppress(OSError):
                    folder.fs.rmdir(folder.path)
    finally:
        with suppress(OSError):
            stand_in.rmdir()
        _release(descriptor)


def _take(folder: RemotePath, doing: str) -> RemotePath:
    """The lock file of `folder`, made by this process; what a killed one of this machine left is replaced."""
    lock = folder / LOCK
    ours = {"host": socket.gethostname(), "process": os.getpid()}
    if lock.exists():
        theirs = _holder(lock)
        if theirs is not None and (theirs.get("host") != ours["host"] or _runs(theirs.get("process"))):
            holder = f"process {theirs['process']} on {theirs['host']}" if theirs else "whoever made it"
            raise FileExistsError(
                f"another process is {doing} {folder}; wait for it (if {holder} runs no more, remove {lock})"
            )
        lock.unlink()
    folder.mkdir()
    try:
        with lock.open("xb") as file:
            file.write(json.dumps(ours).encode())
    except FileExistsError as error:
        raise FileExistsError(f"another process is {doing} {folder}; wait for it") from error
    except (NotImplementedError, ValueError) as error:  # a file system that cannot make what is not there
        _log.warning("%s cannot be locked (%s): let only one process write there", folder, error)
    return lock


def _holder(lock: RemotePath) -> dict[str, Any] | None:
    """Who holds the folder; nothing is known where it was let go just now.

    None where nobody does: a file that stays empty was left by a process that was killed before it wrote.
    """
    for _ in range(_PATIENCE):
        try:
            written = lock.read_bytes()
            if written:
                return json.loads(written)
        except (FileNotFoundError, ValueError):
            return {}
        time.sleep(_PAUSE)
    return None


def _runs(process: object) -> bool:
    """Whether another process of this machine has that number."""
    if not isinstance(process, int) or process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _locked(folder: Path, doing: str, place: Place) -> int | None:
    """An open descriptor of `folder`, which stands for `place`, that holds its lock; None where there is none
    to take."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        folder.mkdir(parents=True, exist_ok=True)
        return None
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # its maker has just taken it away again
            continue
        key = _key(descriptor)
        with _GUARD:
            holder = _HELD.get(key)
            if holder == threading.get_ident():
                os.close(descriptor)
                return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise FileExistsError(f"another process is {doing} {place}; wait for it") from error
        except OSError as error:  # a network file system without them
            os.close(descriptor)
            _log.warning("%s cannot be locked (%s): let only one process write there", place, error)
            return None
        if _is_still(folder, key):
            with _GUARD:
                _HELD[key] = threading.get_ident()
            return descriptor
        os.close(descriptor)  # removed or replaced while we waited


def _release(descriptor: int) -> None:
    with _GUARD:
        _HELD.pop(_key(descriptor), None)
    os.close(descriptor)


def _key(descriptor: int) -> tuple[int, int]:
    stat = os.fstat(descriptor)
    return stat.st_dev, stat.st_ino


def _is_still(folder: Path, key: tuple[int, int]) -> bool:
    try:
        stat = folder.stat()
    except FileNotFoundError:
        return False
    return (stat.st_dev, stat.st_ino) == key
