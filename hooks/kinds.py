"""Kinds of folders: one of the same kind alone is written into or replaced, for the same request."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import count
from pathlib import Path
from typing import Any, cast, overload

from graticule.hooks.artifact import (
    SCHEMA,
    ArtifactError,
    as_damaged,
    check_schema,
    json_ready,
    read_json,
    write_json,
)
from graticule.hooks.identity import EARLIER, is_earlier
from graticule.hooks.limits import as_boolean
from graticule.hooks.locks import only_here
from graticule.hooks.names import check_leads_somewhere, place_of, user_path
from graticule.hooks.places import Place, RemotePath
from graticule.hooks.replacing import replacing_folder, tidy

_MARKS = (
    "manifest.json",
    "findings.json",
    "study.json",
    "sim.json",
    "run.json",
    "step.json",
    "cfg.json",
    "request.json",
)
"""Files that say what kind of folder they stand in."""
SAE = "sae"
"""The kind of a SAELens folder that was trained here."""


class ForeignFolderError(FileExistsError, ArtifactError):
    """A folder holds something other than what is to be written there."""


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder that is worked in for a while, and may be taken up again after a kill."""

    kind: str
    """The word in its mark."""
    words: str
    """What it is called, without its article: `run of an SAE`."""
    mark: str
    """The JSON file that names its kind; it may be the last to be written."""
    holds: tuple[str, ...]
    """Patterns of the other names in it."""

    def check(self, folder: Place) -> None:
        """Refuse a folder that is not to be written into.

        Args:
            folder: it may be missing, empty, of this kind, or begun as one and killed.

        Raises:
            ForeignFolderError: if it is a file, of another kind, or holds something else.
        """
        check_leads_somewhere(folder)
        if folder.is_file():
            raise ForeignFolderError(f"{folder} is a file; name a folder")
        try:
            names = sorted(entry.name for entry in folder.iterdir())
        except FileNotFoundError:
            return
        for mark in (name for name in names if name in _MARKS):
            kind = _kind_in(folder / mark)
            if kind is not None and (mark, kind) != (self.mark, self.kind):
                raise ForeignFolderError(
                    f"{folder} is no {self.words}: its {mark} says {kind!r}; choose another place"
                )
        if self.mark in names:
            return
        for name in names:
            if not name.startswith(".") and not any(fnmatchcase(name, own) for own in self.holds):
                raise ForeignFolderError(
                    f"{folder} exists and is no {self.words}: it holds something other, {name!r}; "
                    "choose another place, or an empty folder"
                )


def kind_of(folder: Place) -> str | None:
    """The kind of graticule folder that `folder` is; None if it is none, or its mark is damaged."""
    for mark in _MARKS:
        if (folder / mark).is_file() and (kind := _kind_in(folder / mark)) is not None:
            return kind
    return None


def set_aside(folder: Path) -> None:
    """Rename a folder whose mark is no JSON any more, so that what was in it can be made again in its place.

    For folders in a run's own folder, whose names no one else gives: nothing is removed.

    Args:
        folder: `folder.damaged0`, or the next number that is free, from now on. One without a mark, or whose
            mark can be read, stays.
    """
    if not any(_is_no_json(folder / mark) for mark in _MARKS):
        return
    names = (folder.with_name(f"{folder.name}.damaged{n}") for n in count())
    folder.rename(next(name for name in names if not name.exists()))


def _is_no_json(mark: Path) -> bool:
    if not mark.is_file():
        return False
    try:
        read_json(mark)
    except ArtifactError:
        return True
    return False


@overload
def working_folder(folder: Path | str, kind: FolderKind, doing: str) -> AbstractContextManager[Path]: ...


@overload
def working_folder(
    folder: RemotePath, kind: FolderKind, doing: str
) -> AbstractContextManager[RemotePath]: ...


@contextmanager
def working_folder(folder: Place | str, kind: FolderKind, doing: str) -> Generator[Any]:
    """Hold a folder to work in: of this kind or empty, no other process in it, nothing half-made left.

    Args:
        folder: where is written; made if it is not there. Text names a folder of this machine.
        kind: what it must be.
        doing: as in `only_here`.

    Raises:
        FileExistsError: if it holds something else (`ForeignFolderError`), or another process writes there.
    """
    folder = folder if isinstance(folder, RemotePath) else user_path(folder)
    kind.check(folder)
    with only_here(folder, doing):
        tidy(folder)
        kind.check(folder)
        yield folder


def keep_request(folder: Place, kind: FolderKind, request: Mapping[str, Any]) -> None:
    """Note in the kind's mark what `folder` is made for, or compare it with what is noted there.

    Raises:
        ForeignFolderError: if it was made for another request, naming what differs.
    """
    mark = folder / kind.mark
    if not mark.is_file():
        write_json(mark, {"kind": kind.kind, "schema": SCHEMA, "request": request})
        return
    noted = read_json(mark)
    check_schema(noted, kind.kind, folder)
    with as_damaged(mark, "choose another folder"):
        differing = differences(noted["request"], request)
    if differing:
        raise ForeignFolderError(
            f"{folder} is a {kind.words} of another request ({listing(differing)}); choose another folder, "
            "or remove it"
        )


@contextmanager
def write_folder(path: Place | str, overwrite: bool = False, *, kind: str) -> Generator[Path]:
    """Yield an empty folder to fill; on a clean exit it is synced and takes the place of `path`, in one step.

    On an exception nothing is left behind and an existing `path` is untouched.

    Args:
        path: the folder's place.
        overwrite: whether a folder of the same kind there is replaced. Another never is.
        kind: the word in the manifest of the folder that is written.

    Raises:
        FileExistsError: if `path` exists and `overwrite` is False, or holds something other than a `kind`.
    """
    path, overwrite = place_of(path), as_boolean("overwrite", overwrite)
    check_leads_somewhere(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another place, or say overwrite=True")
    check_replaceable(path, kind)
    with replacing_folder(path) as folder:
        yield folder


def check_replaceable(path: Place, kind: str) -> None:
    """Check that a folder of a kind may take the place of what is at `path`.

    Raises:
        ForeignFolderError: Unless `path` is missing, empty, or a folder of this very kind.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not path.is_dir() or kind_of(path) != kind:
        raise ForeignFolderError(
            f"{path} holds something other than a {kind} folder; choose another place, or remove it"
        )


def _kind_in(mark: Place) -> str | None:
    try:
        marked = read_json(mark)
    except ArtifactError:
        return None
    if mark.name == "cfg.json":  # SAELens's: ours say so in their metadata
        metadata = marked.get("metadata")
        return SAE if isinstance(metadata, dict) and "graticule" in metadata else "SAELens's"
    kind = marked.get("kind")
    return kind if isinstance(kind, str) else None


_SHOWN = 6
_LONGEST = 60
_DIGESTS = ("digest", "config", "inputs", "tokenizer", "rows", "values", "table", "columns")
_TARGETS = ("targets: ", "target_names: ")
_OTHER = "another one, though it may have the same name"


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value in nested dicts, under the names that lead to it."""
    if isinstance(value, Mapping) and value:
        for key, item in cast("Mapping[str, Any]", value).items():
            yield from flat(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`name: before → now` for every setting that two requests do not share."""
    old, new = dict(flat(json_ready(before))), dict(flat(json_ready(now)))
    earlier = [n.removesuffix(".digest") for n in old if n.endswith("model.digest") and is_earlier(old[n])]
    earlier = [model for model in earlier if not is_earlier(new.get(f"{model}.digest"))]
    for name in (f"{model}.{last}" for model in earlier for last in ("digest", "config")):
        old.pop(name, None)
        new.pop(name, None)
    for name in [n for n in new if n.endswith("model.tokenizer") and n not in old]:
        new.pop(name)  # earlier versions kept the ids that came of it alone
    names = [*old, *(name for name in new if name not in old)]
    differing = [
        _difference(name, old.get(name, "not set"), new.get(name, "not set"))
        for name in names
        if old.get(name, "not set") != new.get(name, "not set")
    ]
    differing += [f"{model}: {EARLIER}" for model in earlier]
    if any(words.startswith(_TARGETS) for words in differing) and not any(
        words.startswith("columns") for words in differing
    ):  # a table's digest is of its targets too, and they are said
        differing = [words for words in differing if words != f"table: {_OTHER}"]
    return sorted(differing, key=lambda words: words.endswith(_OTHER))  # settings first, contents after


def _difference(name: str, before: Any, now: Any) -> str:
    """`name: before → now`; of digests, which say nothing to people, what they are of."""
    *path, last = name.split(".")
    if last in _DIGESTS and "not set" not in (before, now):
        return f"{'.'.join(path if last == 'digest' else [*path, last])}: {_OTHER}"
    if path[:1] == ["columns"] and "not set" not in (before, now):
        return f"{name}: other values"
    if path[:1] == ["columns"]:
        return f"{name}: {'a new column' if before == 'not set' else 'no such column now'}"
    return f"{name}: {_short(before)} → {_short(now)}"


def listing(differing: list[str]) -> str:
    """The first differences on one line, and how many more there are."""
    more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
    return "; ".join(differing[:_SHOWN]) + more


def _short(value: Any) -> str:
    words = str(value) or "''"
    return words if len(words) <= _LONGEST else f"{words[: _LONGEST - 1]}…"
