"""Folders and files on other file systems, by a url that fsspec opens: `memory://…`, `s3://…`, `hf://…`.

A place is a `Path` of this machine, or a `RemotePath`, which has those of a `Path`'s methods that are needed
of both. What is written is filled in a folder of this machine, and committed by `hooks.replacing`.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

TEMPORARY = ".graticule-tmp"
"""Ending of what is being made: a hidden folder, or a remote file."""
COMMITTED = ".graticule-new"
"""Ending of a hidden folder whose entries are whole and on their way to their places, or of a remote file
that names those that are."""
LOCK = ".graticule-lock"
"""The file that a remote folder's only writer holds."""


@dataclass(frozen=True)
class RemotePath:
    """A file or folder on a file system of fsspec."""

    fs: Any
    """The file system, an `fsspec.AbstractFileSystem`."""
    path: str
    """Where it is, as the file system writes it."""

    @property
    def name(self) -> str:
        """Its last part."""
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> RemotePath:
        """The folder that it is in."""
        return RemotePath(self.fs, self.path.rpartition("/")[0])

    def joinpath(self, *names: str) -> RemotePath:
        """What lies under it, by names, outermost first."""
        return RemotePath(self.fs, "/".join((self.path, *names)))

    def __truediv__(self, name: str) -> RemotePath:
        return self.joinpath(name)

    def __str__(self) -> str:
        return self.fs.unstrip_protocol(self.path)

    def exists(self) -> bool:
        """Whether there is a file or folder here."""
        return self.fs.exists(self.path)

    def is_file(self) -> bool:
        """Whether there is a file here."""
        return self.fs.isfile(self.path)

    def is_dir(self) -> bool:
        """Whether there is a folder here: on some file systems, one that holds something."""
        return self.fs.isdir(self.path)

    def resolve(self) -> RemotePath:
        """Itself: nothing behind a url is a link."""
        return self

    def mkdir(self) -> None:
        """Make the folder, and those above it, as far as the file system has any."""
        self.fs.makedirs(self.path, exist_ok=True)

    def entries(self) -> list[RemotePath]:
        """Everything in the folder, by name; nothing where there is none."""
        self.fs.invalidate_cache(self.path)
        try:
            paths = cast("list[str]", self.fs.ls(self.path, detail=False))
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = {path.rstrip("/").rpartition("/")[2] for path in paths if path.rstrip("/") != self.path}
        return [self / name for name in sorted(names)]

    def iterdir(self) -> Generator[RemotePath]:
        """What the folder holds, but for what is there only while something is written."""
        for entry in self.entries():
            if not entry.name.endswith((TEMPORARY, COMMITTED, LOCK)):
                yield entry

    def files(self) -> list[str]:
        """The files in the folder and all folders in it, by their path from it."""
        self.fs.invalidate_cache(self.path)
        start = len(self.path) + 1
        return sorted(path[start:] for path in cast("list[str]", self.fs.find(self.path)))

    def open(self, mode: str = "rb") -> Any:
        """The file, to read (or, by another mode, to write) bytes."""
        return self.fs.open(self.path, mode)

    def read_bytes(self) -> bytes:
        """All of the file."""
        return self.fs.cat_file(self.path)

    def read_text(self, encoding: str = "utf-8") -> str:
        """All of the file, as text."""
        return self.read_bytes().decode(encoding)

    def read_ranges(self, ranges: list[tuple[int, int]]) -> list[bytes]:
        """Parts of the file, by where they start and where they stop."""
        starts, stops = [start for start, _ in ranges], [stop for _, stop in ranges]
        return self.fs.cat_ranges([self.path] * len(ranges), starts, stops, on_error="raise")

    def unlink(self) -> None:
        """Remove the file, if it is there."""
        with suppress(FileNotFoundError):
            self.fs.rm_file(self.path)

    def remove(self) -> None:
        """Remove the file, or the folder with all that it holds, if it is there."""
        with suppress(FileNotFoundError):
            self.fs.rm(self.path, recursive=True)


Place = Path | RemotePath
"""Where something is saved."""


def size_of(file: Place) -> int:
    """How many bytes a file has."""
    return file.stat().st_size if isinstance(file, Path) else int(file.fs.size(file.path))


def mark_of(file: Place) -> int | str:
    """What changes when a file is written anew: its time, or what its file system has for that."""
    return file.stat().st_mtime_ns if isinstance(file, Path) else str(file.fs.ukey(file.path))
