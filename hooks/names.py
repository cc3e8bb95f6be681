"""Names that become paths: what may be one, and the only way a path is built from one.

Names come from manifests, models, tables and command lines; none of them may lead out of its folder.
"""

import os
from pathlib import Path

_LONGEST = 200
"""Bytes; file systems take 255, and temporary names are longer than their own."""
_LONGEST_PART, _LONGEST_PATH = 255, 4095
"""Bytes that file systems take in one part of a path, and in all."""


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
            or is longer than file systems take.
        TypeError: if it is no path.
    """
    if not isinstance(path, str | os.PathLike):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"{_short(path)} is no path: expected the name of a file or folder, 'runs/one'")
    given = Path(path)
    if "\0" in str(given):
        raise BadNameError(f"path {_short(str(given))} holds a NUL, which no file's name can: leave it out")
    meant = Path(os.path.expanduser(given))
    if meant.parts[:1] == ("~",):
        raise BadNameError(f"{_short(str(given))}: no home folder is known; write the whole path")
    try:
        os.fsencode(meant)
    except UnicodeEncodeError:
        raise BadNameError(
            f"path {_short(str(given))} holds half a character (a lone surrogate), which no file's name can: "
            "leave it out"
        ) from None
    for part in meant.parts:
        if (size := len(os.fsencode(part))) > _LONGEST_PART:
            raise BadNameError(
                f"path: {_short(part)} has {size} bytes; expected at most {_LONGEST_PART} between slashes: "
                "write a shorter name"
            )
    if (size := len(os.fsencode(meant))) > _LONGEST_PATH:
        raise BadNameError(
            f"path: {_short(str(meant))} has {size} bytes; expected at most {_LONGEST_PATH}: write a shorter "
            "path"
        )
    return meant


def check_leads_somewhere(path: Path) -> None:
    """**Raises** `BadNameError` for a symbolic link to what is not there: no folder can take its place."""
    if path.is_symlink() and not path.exists():
        raise BadNameError(
            f"{path} is a symbolic link to {os.readlink(path)}, which is not there: make that folder, or "
            "remove the link"
        )


def inside(folder: Path | str, *parts: object) -> Path:
    """The path of `parts` under `folder`, which it cannot leave.

    Args:
        folder: where the path must stay.
        parts: names, outermost first; each is one part of the path.

    Returns:
        `folder / parts[0] / parts[1] …`, whether it exists or not.

    Raises:
        BadNameError: if a part is no such name, or a symbolic link on the way leads out of `folder`.
    """
    folder = Path(folder)
    path = folder.joinpath(*(check_name(part, f"in {folder}, the name") for part in parts))
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BadNameError(f"{path} leads out of {folder} by a symbolic link; remove the link")
    return path


def inside_file(folder: Path | str, relative: object) -> Path:
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
