"""What a store says of itself, `manifest.json`: read, and refused where its parts do not fit together."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from graticule.hooks.artifact import (
    ArtifactError,
    as_damaged,
    check_schema,
    is_as_sealed,
    read_json,
    sealed,
    write_json,
)
from graticule.hooks.kinds import FolderKind
from graticule.hooks.names import BadNameError, check_name, inside_file

KIND = "activations"
STORE = FolderKind(KIND, "activation store", "manifest.json", ())
"""The folder of a store; its manifest is there first."""


def tensor_file(point: str, shard: int) -> str:
    """Where a shard of a point lies in its store."""
    return f"{point}/{shard:05d}.safetensors"


def rows_file(shard: int) -> str:
    """Where the rows of a shard lie in their store."""
    return f"rows/{shard:05d}.parquet"


def check_points(points: Any) -> None:
    """**Raises** `BadNameError` for a hook name that cannot be a folder's, or is the row table's."""
    for point in points:
        if check_name(point, "hook name") in ("rows", "manifest.json", "provenance.json"):
            raise BadNameError(f"a hook point cannot be called {point!r}: a store has that itself")


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the store in `path`, whole in itself.

    Raises:
        ArtifactError: if it is missing, damaged, of another kind or schema, or its names, widths, row ranges
            and files do not fit together.
    """
    manifest = read_json(path / "manifest.json")
    check_schema(manifest, KIND, path)
    with as_damaged(path / "manifest.json", "capture into another folder"):
        _check(manifest)
    return manifest


def _check(manifest: Mapping[str, Any]) -> None:
    points = [p["name"] for p in manifest["points"]]
    check_points(points)
    if len(set(points)) != len(points):
        raise ValueError("a point stands twice in it")
    for p in manifest["points"]:
        if type(p["width"]) is not int or p["width"] < 1:
            raise ValueError(f"{p['name']} has width {p['width']!r}; expected a whole number above 0")
    if type(manifest["complete"]) is not bool or not isinstance(manifest["request"], dict):
        raise ValueError("'complete' or 'request' is not of its kind")
    end = 0
    for index, shard in enumerate(manifest["shards"]):
        start, stop = shard["rows"]
        if type(start) is not int or type(stop) is not int or start != end or stop <= start:
            raise ValueError(
                f"shard {index} has rows {start!r} to {stop!r}; expected them to follow on {end}"
            )
        files = {rows_file(index), *(tensor_file(point, index) for point in points)}
        if set(shard["files"]) != files:
            raise ValueError(f"shard {index} does not name its {len(files)} files")
        if not all(isinstance(digest, str) for digest in shard["files"].values()):
            raise ValueError(f"shard {index} has a checksum that is no text")
        end = stop
    if manifest["n_rows"] != end or (manifest["complete"] and not manifest["shards"]):
        raise ValueError(f"n_rows is {manifest['n_rows']!r}, its shards hold {end}")
    if not isinstance(manifest["dtype"], str):
        raise ValueError("'dtype' is no text")


# Sizes and times -------------------------------------------------------------------------------------
def note_times(path: Path, manifest: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
    """Write `provenance.json`, with the sizes and times of the files, all of which were just verified."""
    write_json(path / "provenance.json", sealed({**provenance, "noted": _times(path, manifest)}))


def forget_times(path: Path) -> None:
    """Let the next capture into the store verify every file; one that cannot be written stays as it is."""
    with suppress(ArtifactError, OSError):
        provenance = read_json(path / "provenance.json")
        if provenance.pop("noted", None) is not None:
            write_json(path / "provenance.json", sealed(provenance))


def as_noted(path: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether every file has the size and time that it had when it was last verified."""
    try:
        told = read_json(path / "provenance.json")
        return is_as_sealed(told) and told.get("noted") == _times(path, manifest)
    except (ArtifactError, OSError):
        return False


def _times(path: Path, manifest: Mapping[str, Any]) -> dict[str, list[int]]:
    stats = {n: inside_file(path, n).stat() for shard in manifest["shards"] for n in shard["files"]}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}
