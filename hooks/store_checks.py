"""Stores that are there already: what is damaged in them, and which texts their rows are of."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from graticule.hooks.alignment import DIGEST, text_digests, whole_column
from graticule.hooks.artifact import ArtifactError, is_as_sealed, read_json, read_table, sha256
from graticule.hooks.names import inside_file
from graticule.hooks.places import Place
from graticule.hooks.store import Store
from graticule.hooks.store_files import read_manifest, rows_file
from graticule.hooks.store_writer import as_noted, note_times

_log = logging.getLogger(__name__)

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


# Texts -------------------------------------------------------------------------------------------------
def shards_say_texts(
    path: Place, manifest: Mapping[str, Any], texts: Sequence[str] | None, damaged: Collection[int] = ()
) -> set[bool]:
    """Whether shards say their rows' texts; both where some do and some do not.

    Args:
        path: Of the store.
        manifest: What it says of itself.
        texts: The text of each input, or None where nothing says it.
        damaged: Shards that are left out, as are those that cannot be read.

    Raises:
        ArtifactError: Some row was captured as of another text.
    """
    digests = None if texts is None else text_digests(texts)
    say: set[bool] = set()
    for index, shard in enumerate(manifest["shards"]):
        file = inside_file(path, rows_file(index))
        try:
            rows = None if index in damaged else read_table(file, ["source", DIGEST])
        except ArtifactError:
            continue
        if rows is None:
            continue
        theirs = whole_column(rows, DIGEST)
        say.add(theirs is not None)
        if texts is None or digests is None or theirs is None:
            continue
        source = rows["source"].to_numpy(np.int64).clip(0, len(digests) - 1)
        other = np.flatnonzero(theirs != digests[source])
        if len(other) and sha256(file) == shard["files"][rows_file(index)]:
            row, text = shard["rows"][0] + int(other[0]), int(source[other[0]])
            raise ArtifactError(
                f"{path} was captured with other texts: its row {row} is of another one than "
                f"{str(texts[text])[:40]!r}, which input {text} is now said to be of; for these texts choose "
                "another place, or remove it"
            )
    return say


def check_going_on(path: Place, say: set[bool], texts: Sequence[str] | None) -> None:
    """**Raises** `ArtifactError` where rows are to be added that say no texts to rows that do."""
    if texts is None and True in say:
        raise ArtifactError(
            f"{path} is not whole, and its rows say which texts they are of: give texts= as before, or "
            "choose another place"
        )


def of_texts(store: Store, say: set[bool], texts: Sequence[str] | None) -> Store:
    """A finished store, said to be of these texts where its own rows do not say any."""
    if texts is None or False not in say:
        return store
    _log.warning(
        "%s: its rows do not say which texts they are of; taken to be of those given now, which are not "
        "written into it",
        store.path,
    )
    return store.with_texts(texts)
