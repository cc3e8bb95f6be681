"""Names that become paths: what may be one, and the only way a path is built from one.

Names come from manifests, models, tables and command lines; none of them may lead out of its folder.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar, cast

from graticule.hooks.places import Place, RemotePath

P = TypeVar("P", bound=Place)

_LONGEST = 200
"""Bytes; file systems take 255, and temporary names are longer than their own."""
_LONGEST_PART, _LONGEST_PATH = 255, 4095
"""Bytes that file systems take in one part of a path, and in all."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)", re.DOTALL)
_LOCAL = ("file", "local")
_PATTERN = re.compile(r"[*?\[]")


class BadNameError(ValueError):
    """A name cannot be one part of a path, or leads out of its folder."""


def check_name(name: object, what: str) -> str:
    """`name`, if it can be one part of a path on any system.

    Args:
        name: what is to be a file's or folder's name.
        what: whose name it is, for the message: `hook name`, say.

    Returns:
        The same name.

    Raises:
        BadNameError: if it is not text, is empty or longer than 200 bytes, begins with a dot, or holds a
            slash, a backslash, a control character or half a character (a lone surrogate).
    """
    if not isinstance(name, str):
        raise BadNameError(f"{what} is {type(name).__name__} {_short(name)}; expected text")
    if reason := _fault(name):
        raise BadNameError(f"{what} {_short(name)} {reason}; it names a file, so give it another name")
    return name


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path as the user meant it, `~` at its start being the home folder, as in a shell.

    Every path that a user gives, to a call or on a command line, goes through here, to be read and to be
    written; nothing is ever made in a folder called `~`.

    Args:
        path: As it was given.

    Returns:
        The same path, `~` and `~NAME` replaced by the folder they stand for. A name that merely begins so
        (`~draft.csv`) stays.

    Raises:
        BadNameError: if it begins with `~`, and no home folder is known, holds a NUL or half a character,
            is longer than file systems take, or is a url.
        TypeError: if it is no path.
    """
    place = place_of(path)
    if isinstance(place, RemotePath):
        raise BadNameError(
            f"{place} is a url, expected a folder of this machine, or a file: results, pages, activations "
            "and stores alone are saved elsewhere"
        )
    return place


def place_of(path: str | os.PathLike[str] | RemotePath) -> Place:
    """Where a user means something to be saved or read: a path of this machine, or one by a url.

    Args:
        path: A path, or the url of a file or folder on a file system of fsspec: `s3://bucket/findings`. A
            `Path` made of a url has one slash less, and is taken for it.

    Returns:
        `user_path` of what lies on this machine, `file:///…` too; otherwise its place there.

    Raises:
        BadNameError: As `user_path` does, and for a url that leads through `..` or to nowhere, through
            another (`zip://a::/b.zip`), holds a pattern (`*`, `?`, `[`), or is of a file system that fsspec
            does not know or lacks a library for.
        TypeError: If it is no path.
    """
    if isinstance(path, RemotePath):
        return path
    if not isinstance(path, str | os.PathLike):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"{_short(path)} is no path: expected the name of a file or folder, 'runs/one'")
    url = _url_of(path)
    if url is None:
        return _local(Path(path))
    scheme, _, rest = url.partition("://")
    if scheme in _LOCAL:
        if not rest.startswith("/"):
            raise BadNameError(
                f"url {_short(url)} names no whole path: write {scheme}:///{rest.lstrip('/')[:40]} from the "
                "root on, or the path alone"
            )
        return _local(Path(rest))
    from fsspec.core import url_to_fs

    _check_readable(url, "strict")
    parts = rest.rstrip("/").split("/")
    _check_length(url, parts)
    if {".", ".."} & set(parts) or "" in parts[1:] or parts == [""]:
        raise BadNameError(
            f"url {_short(url)} leads nowhere: write the whole of it, without '.', '..' and '//'"
        )
    if pattern := _PATTERN.search(url):
        raise BadNameError(f"url {_short(url)} {_holds(pattern)}")
    try:
        return RemotePath(*url_to_fs(url.rstrip("/")))
    except (ValueError, ImportError) as error:
        raise BadNameError(f"url {_short(url)} cannot be opened: {_first_line(error)}") from error


def _url_of(path: str | os.PathLike[str]) -> str | None:
    """The url that a path is, or was made of; None for a path of this machine.

    Raises:
        BadNameError: For one through another, and for `memory:x` and `memory:/x`, which are neither.
    """
    text = os.fsdecode(path)
    match = _SCHEME.match(text)
    if match is None:
        return None
    scheme, rest = match[1], match[2]
    if not rest.startswith("//") and not _is_protocol(scheme):
        return None
    if "::" in text:
        raise BadNameError(
            f"url {_short(text)} leads through another ('::'), which is not taken: write one url, 's3://bucket/x'"
        )
    if rest.startswith("//"):
        return text
    if isinstance(path, Path) and rest.startswith("/"):
        return f"{scheme}://{rest if scheme in _LOCAL else rest[1:]}"
    raise BadNameError(
        f"{_short(text)} is neither a url nor clearly a path: write {scheme}://{rest.lstrip('/')[:40]}, or "
        "the whole path of what is called so"
    )


def _is_protocol(scheme: str) -> bool:
    from fsspec import available_protocols

    return scheme in available_protocols()


def _holds(pattern: re.Match[str]) -> str:
    return f"holds {pattern[0]!r}, which file systems take for a pattern: write another name"


def _local(given: Path) -> Path:
    """A path of this machine, `~` at its start being the home folder."""
    _check_readable(str(given))
    meant = Path(os.path.expanduser(given))
    if meant.parts[:1] == ("~",):
        raise BadNameError(f"{_short(str(given))}: no home folder is known; write the whole path")
    _check_length(str(meant), meant.parts)
    return meant


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _check_readable(path: str, errors: str = "surrogateescape") -> None:
    """Refuse what no file's name can hold."""
    if "\0" in path:
        raise BadNameError(f"path {_short(path)} holds a NUL, which no file's name can: leave it out")
    try:
        path.encode("utf-8", errors)
    except UnicodeEncodeError:
        raise BadNameError(
            f"path {_short(path)} holds half a character (a lone surrogate), which no file's name can: "
            "leave it out"
        ) from None


def _check_length(path: str, parts: Sequence[str]) -> None:
    """Refuse more bytes than file systems take."""
    for part in parts:
        if (size := len(os.fsencode(part))) > _LONGEST_PART:
            raise BadNameError(
                f"path: {_short(part)} has {size} bytes; expected at most {_LONGEST_PART} between slashes: "
                "write a shorter name"
            )
    if (size := len(os.fsencode(path))) > _LONGEST_PATH:
        raise BadNameError(
            f"path: {_short(path)} has {size} bytes; expected at most {_LONGEST_PATH}: write a shorter path"
        )


def check_leads_somewhere(path: Place) -> None:
    """Check that a folder can be made at `path`.

    Raises:
        BadNameError: For a symbolic link to what is not there, whose place no folder can take.
    """
    if isinstance(path, RemotePath):
        return
    if path.is_symlink() and not path.exists():
        raise BadNameError(
            f"{path} is a symbolic link to {os.readlink(path)}, which is not there: make that folder, or "
            "remove the link"
        )


def inside(folder: P, *parts: object) -> P:
    """The path of `parts` under `folder`, which it cannot leave.

    Args:
        folder: where the path must stay.
        parts: names, outermost first; each is one part of the path.

    Returns:
        `folder / parts[0] / parts[1] …`, whether it exists or not.

    Raises:
        BadNameError: if a part is no such name, or a symbolic link on the way leads out of `folder`.
    """
    if isinstance(folder, RemotePath):
        for part in parts:
            if pattern := _PATTERN.search(str(part)):
                raise BadNameError(f"in {folder}, the name {_short(part)} {_holds(pattern)}")
    path = cast("P", folder.joinpath(*(check_name(part, f"in {folder}, the name") for part in parts)))
    if isinstance(folder, Path) and not cast("Path", path).resolve().is_relative_to(folder.resolve()):
        raise BadNameError(f"{path} leads out of {folder} by a symbolic link; remove the link")
    return path


def inside_file(folder: P, relative: object) -> P:
    """The path of a file that a manifest names by `a/b/c`, under `folder`, which it cannot leave.

    Raises:
        BadNameError: as `inside` does.
    """
    if not isinstance(relative, str):
        raise BadNameError(f"in {folder}, a file's name is {_short(relative)}; expected text")
    return inside(folder, *relative.split("/"))


def _fault(name: str) -> str | None:
    """What keeps `name` from being one part of a path, in words; None if nothing does."""
    if not name:
        return "is empty"
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        return "holds half a character (a lone surrogate)"
    if size > _LONGEST:
        return f"has {size} bytes, at most {_LONGEST} fit"
    if "/" in name or "\\" in name:
        return "holds a slash"
    if any(ord(c) < 32 or 127 <= ord(c) < 160 for c in name):
        return "holds a control character"
    return "begins with a dot" if name.startswith(".") else None


def _short(value: object) -> str:
    """`value` as Python writes it, on one line of bounded length."""
    words = ascii(value)
    return words if len(words) <= 60 else f"{words[:57]}…"
