"""One writer a folder: a lock that a killed process lets go, and that leaves no file behind."""

import logging
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from graticule.hooks.names import check_leads_somewhere, user_path

_log = logging.getLogger(__name__)
_HELD: dict[tuple[int, int], int] = {}
"""Folder (device, inode) locked by this process → the thread that locked it."""
_GUARD = threading.Lock()


@contextmanager
def only_here(folder: Path | str, doing: str) -> Generator[None]:
    """Hold `folder` against every other writer, as long as the block runs.

    The lock is on the folder itself, so that there is no lock file to leave behind and a killed process
    lets go at once. The folder is made if it is not there, and is taken away again if the block leaves it
    empty. Within one thread the same folder may be held twice: a call may use another that locks.

    Args:
        folder: where is written.
        doing: what the block does, before the folder's name: `capturing into`, say.

    Raises:
        FileExistsError: if another process or thread holds it, or it is a file.
    """
    folder = user_path(folder)
    check_leads_somewhere(folder)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; name a folder")
    new = not folder.exists()
    descriptor = _locked(folder, doing)
    try:
        yield
    finally:
        if new:
            with suppress(OSError):  # it holds something, as it should
                folder.rmdir()
        if descriptor is not None:
            _release(descriptor)


def _locked(folder: Path, doing: str) -> int | None:
    """An open descriptor of `folder` that holds its lock; None where there is none to take."""
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
            raise FileExistsError(f"another process is {doing} {folder}; wait for it") from error
        except OSError as error:  # a network file system without them
            os.close(descriptor)
            _log.warning("%s cannot be locked (%s): let only one process write there", folder, error)
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
