"""Stores that ought to be whole, looked over: what is damaged is told, and made ready to be captured anew."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from graticule.hooks.artifact import ArtifactError, is_as_sealed, read_json, sha256
from graticule.hooks.names import inside_file
from graticule.hooks.store import Store
from graticule.hooks.store_files import read_manifest
from graticule.hooks.store_writer import as_noted, note_times

_SHARD = re.compile(r"\d{5}\.(safetensors|parquet)")


def damage_of(path: Path) -> str | None:
    """What is damaged in a store that was complete, in words; None where it is whole.

    Files are verified where their sizes or times are not those noted, and noted anew. A store whose manifest
    cannot be relied upon is taken away, so that `capture` begins it again; of another, `capture` makes the
    damaged shards anew.

    Args:
        path: A store in a folder of ours that is known to be finished, so that nothing else can be there.

    Raises:
        ArtifactError: Its manifest cannot be relied upon, and it is a link: what lies elsewhere is not taken
            away.
    """
    try:
        manifest = read_manifest(path)
        told = _provenance(path)
        if told and any(told.get(key) != value for key, value in manifest["request"].items()):
            raise ArtifactError(f"{path}: manifest.json and provenance.json tell of different captures")
        noted = as_noted(path, manifest)
        if not noted and (damaged := _first_damaged(path, manifest)):
            return f"{damaged} is missing or damaged"
        Store(path)
    except ArtifactError as error:
        if path.is_symlink():
            raise
        _clear(path)
        return str(error)
    if not told:
        return f"{path / 'provenance.json'} is missing or damaged"
    if not noted:
        with suppress(OSError):  # a folder that can only be read is verified every time
            note_times(path, manifest, told)
    return None


def _provenance(path: Path) -> dict[str, Any]:
    """What the store tells of its capture; nothing where the file is damaged, which `capture` writes anew."""
    try:
        told = read_json(path / "provenance.json")
    except ArtifactError:
        return {}
    return told if is_as_sealed(told) else {}


def _first_damaged(path: Path, manifest: Mapping[str, Any]) -> Path | None:
    for shard in manifest["shards"]:
        for name, digest in shard["files"].items():
            file = inside_file(path, name)
            if not file.is_file() or sha256(file) != digest:
                return file
    return None


def _clear(path: Path) -> None:
    """Take away what a store holds, and nothing else."""
    for file in path.glob("*/*"):
        if _SHARD.fullmatch(file.name) and not file.parent.is_symlink():
            file.unlink()
    for name in ("manifest.json", "provenance.json"):
        (path / name).unlink(missing_ok=True)
    for folder in (*path.glob("*"), path):
        with suppress(OSError):  # a file, or a folder that holds something else
            folder.rmdir()
