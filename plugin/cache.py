"""The user cache folder: what takes long to make once is kept there, whole and checked.

A cached folder is written under a temporary name and renamed, carries a manifest with the checksum of
each of its files, and is made again when it is found damaged.
"""

import hashlib
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

from graticule.hooks.artifact import (
    SCHEMA,
    ArtifactError,
    check_schema,
    read_json,
    sha256,
    write_json,
)
from graticule.hooks.names import inside, user_path
from graticule.hooks.replacing import replacing_folder

logger = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
_KIND = "cache"


def cache_folder() -> Path:
    """`$GRATICULE_CACHE`, else `$XDG_CACHE_HOME/graticule`, else `~/.cache/graticule`."""
    if own := os.environ.get("GRATICULE_CACHE"):
        return user_path(own)
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return user_path(xdg) / "graticule"
    return Path.home() / ".cache" / "graticule"


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in `folder` except its manifest, by relative name; read side by side."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != _MANIFEST)
    with ThreadPoolExecutor(max_workers=4) as pool:  # hashing releases the interpreter lock
        digests = list(pool.map(sha256, files))
    return {str(p.relative_to(folder)): d for p, d in zip(files, digests, strict=True)}


def check(folder: Path) -> None:
    """**Raises** `ArtifactError` if a file of a cached folder is missing, altered or too many."""
    manifest = read_json(folder / _MANIFEST)
    check_schema(manifest, _KIND, folder)
    expected = cast("dict[str, str]", manifest.get("checksums", {}))
    found = checksums(folder)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            state = "missing" if name not in found else "unexpected" if name not in expected else "altered"
            raise ArtifactError(f"{folder / name} is {state}")


def cached(name: str, make: Callable[[Path], None], about: dict[str, Any]) -> Path:
    """The cached folder `name`, made by `make(empty_folder)` if it is not there or is damaged.

    Two processes may make the same folder at once: each works under its own temporary name, and the one
    that ends last puts its own, which is the same, in the other's place.

    Arguments:
        name: the folder's name in `cache_folder()`: it must change whenever the content would.
        make: fills an empty folder.
        about: what the folder was made from, kept in its manifest.
    """
    folder = inside(cache_folder(), name)
    if folder.exists():
        try:
            check(folder)
            return folder
        except ArtifactError as error:
            logger.warning("%s: the cached copy is damaged and is made again", error)
    with replacing_folder(folder) as temporary:
        make(temporary)
        manifest = {"kind": _KIND, "schema": SCHEMA, "about": about, "checksums": checksums(temporary)}
        write_json(temporary / _MANIFEST, manifest)
    return folder


def note(key: str, value: dict[str, Any]) -> None:
    """Remember that `key` (a check, of something that cannot change) was passed."""
    write_json(_note(key), {"key": key, **value})


def was_noted(key: str) -> bool:
    """Whether `note(key, ...)` was called on this machine; a damaged note counts as none."""
    try:
        return read_json(_note(key)).get("key") == key
    except ArtifactError:
        return False


def _note(key: str) -> Path:
    return cache_folder() / "notes" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
