"""The files of a folder that may be published: its own, of the kind that their names say, without secrets."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from graticule.hooks.artifact import ArtifactError, json_ready, read_json, sha256
from graticule.hub.private import GONE, has_secret, public, secret_places, shorten

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

log = logging.getLogger(__name__)


def own_file(root: Path, *parts: str) -> Path | None:
    """The file `parts` of the folder `root`; None if there is none.

    **Raises** `ValueError` for a link, symbolic or hard, at any step below `root`, and for what is no file:
    whatever lies behind it is not the folder's own, and is never read.
    """
    path, seen = root, None
    for part in parts:
        path = path / part
        try:
            seen = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISLNK(seen.st_mode):
            raise ValueError(
                f"{path} is a symbolic link: only what lies in {root} itself is published; put the file or "
                "folder there in its place (cp -L follows links)"
            )
    if seen is None or not stat.S_ISREG(seen.st_mode):
        kind = _KINDS.get(stat.S_IFMT(seen.st_mode), "something else") if seen is not None else "a folder"
        raise ValueError(f"{path} is {kind}, expected a file")
    if seen.st_nlink > 1:
        raise ValueError(
            f"{path} has {seen.st_nlink} names (hard links), and others may lie outside {root}: put a copy "
            "in its place"
        )
    return path


def own_folders(root: Path) -> list[Path]:
    """The folders in `root`, hidden ones left out. **Raises** `ValueError` for a link to a folder."""
    for path in sorted(root.iterdir()):
        if path.is_symlink() and path.is_dir():
            raise ValueError(
                f"{path} is a symbolic link: only what lies in {root} itself is published; name the folder "
                "that it leads to, or take it away"
            )
    return [p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")]


def own_tree(root: Path) -> None:
    """**Raises** `ValueError` unless all in `root`, at any depth, is files and folders of its own."""
    for folder, folders, files in os.walk(root):
        where = Path(folder).relative_to(root).parts
        for name in folders:
            if (Path(folder) / name).is_symlink():
                own_file(root, *where, name)
        for name in files:
            own_file(root, *where, name)


def as_published(path: Path) -> Path | bytes:
    """The file itself, or its content where it named a token or a place on this machine.

    **Raises** `ValueError` (`ArtifactError` for a damaged one) for a file that is not of the kind that its
    name says, and for tensors or a table whose names or notes hold what must not be published.
    """
    if path.suffix == ".json":
        value = read_json(path)
        content = public_json(value, str(path))
        return path if content is None else content
    words = _tensor_words(path) if path.suffix == ".safetensors" else _table_words(path)
    for text in words:
        if has_secret(text) or shorten(text) != text:
            what = "a token" if has_secret(text) else f"a place on this machine ({text[:80]!r})"
            raise ValueError(f"{path} holds {what} in its names or notes: write it again without")
    return path


def public_json(value: dict[str, Any], where: str) -> bytes | None:
    """What is published of a JSON object; None if nothing had to be cut. Tokens cut out are told."""
    if secrets := list(dict.fromkeys(secret_places(value))):
        log.warning(
            "%s: %s looks like a token, and '%s' is published in its place", where, ", ".join(secrets), GONE
        )
    cleaned = public(value)
    return None if cleaned == value else json_bytes(cleaned)


def json_bytes(value: Any) -> bytes:
    """JSON as graticule's own files have it."""
    return (json.dumps(json_ready(value), indent=1, ensure_ascii=False) + "\n").encode("utf-8", "replace")


def digest(content: Path | bytes) -> str:
    """The SHA-256 of a file or of its content."""
    return sha256(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()


def _tensor_words(path: Path) -> Iterable[str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            notes: dict[str, str] = file.metadata() or {}
            return [*file.keys(), *notes, *notes.values()]
    except SafetensorError as error:
        raise ArtifactError(f"{path} is damaged ({error}); write it again") from error


def _table_words(path: Path) -> Iterable[str]:
    import pyarrow
    from pyarrow import parquet

    try:
        file: Any = parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ArtifactError(f"{path} is damaged ({error}); write it again") from error
    for field in file.schema_arrow:
        kind = field.type
        if not (pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind)):
            raise ValueError(f"{path}: column {field.name!r} holds {kind}; a training history holds numbers")
        yield from (_text(part) for pair in (field.metadata or {}).items() for part in pair)
        yield field.name
    for pair in (file.metadata.metadata or {}).items():
        if pair[0] == b"ARROW:schema":  # the same again, in base 64
            continue
        yield from map(_text, pair)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
