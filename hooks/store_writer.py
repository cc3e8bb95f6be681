"""Writing a store: shard by shard while capturing, whole whenever the process ends."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import pandas as pd
from torch import Tensor

from graticule.hooks.artifact import (
    SCHEMA,
    ArtifactError,
    is_as_sealed,
    library_versions,
    read_json,
    sealed,
    sha256,
    write_json,
    write_table,
    write_tensors,
)
from graticule.hooks.capture_spec import pos_from_data, pos_to_data
from graticule.hooks.identity import EARLIER, of_earlier_digest
from graticule.hooks.kinds import differences, listing, write_folder
from graticule.hooks.names import inside_file, place_of
from graticule.hooks.places import Place, mark_of, size_of
from graticule.hooks.replacing import tidy
from graticule.hooks.rows import Rows
from graticule.hooks.store_files import (
    KIND,
    STORE,
    check_points,
    read_manifest,
    rows_file,
    tensor_file,
)

_log = logging.getLogger(__name__)

_ASKED = ("model", "inputs", "prompt", "pos", "prepend_bos", "include_bos")


class StoreWriter:
    """Appends shards to a store; what is written stays whole whenever the process ends.

    A shard's files are written under temporary names and renamed; only then is the manifest, which lists
    them with checksums, replaced. So the manifest never names a file that is not whole.
    """

    def __init__(
        self, path: Place | str, request: Mapping[str, Any], widths: Mapping[str, int], dtype: str
    ) -> None:
        """Start a store, or take up one of the same request where it stopped; its files are verified.

        Raises:
            ArtifactError: If `path` holds something else, or a store of another request (naming what
                differs).
        """
        self.path = place_of(path)
        STORE.check(self.path)
        check_points(widths)
        fresh: dict[str, Any] = {
            "kind": KIND,
            "schema": SCHEMA,
            "complete": False,
            "points": [{"name": n, "width": w} for n, w in widths.items()],
            "dtype": dtype,
            "n_rows": 0,
            "request": plain_request(request),
            "shards": [],
        }
        manifest = self.path / "manifest.json"
        if manifest.exists():
            self.manifest = read_manifest(self.path)
            check_same(self.manifest, fresh, self.path)
        else:
            self.manifest = fresh
            write_json(manifest, fresh)
        self.damaged = [i for i, shard in enumerate(self.manifest["shards"]) if not self._is_whole(shard)]

    def _is_whole(self, shard: Mapping[str, Any]) -> bool:
        files = {inside_file(self.path, name): digest for name, digest in shard["files"].items()}
        return all(file.is_file() and sha256(file) == digest for file, digest in files.items())

    def lacking(self, sizes: Sequence[int]) -> list[int]:
        """Which of the shards, by their numbers of rows, are still to be appended, in this order.

        Shards of other sizes, written by a version that parted the rows otherwise, are forgotten.
        """
        shards, end = self.manifest["shards"], 0
        for i, size in enumerate(sizes):
            if i < len(shards) and shards[i]["rows"] != [end, end + size]:
                self.manifest["shards"] = shards[:i]
                break
            end += size
        n = len(self.manifest["shards"])
        self.damaged = [i for i in self.damaged if i < n]
        return [*self.damaged, *range(n, len(sizes))]

    def append(self, tensors: Mapping[str, Tensor], rows: pd.DataFrame) -> None:
        """Write one shard, the first damaged one or the next: `{point: [row, width]}` and its rows."""
        shards = self.manifest["shards"]
        index = self.damaged[0] if self.damaged else len(shards)
        files: dict[str, str] = {}
        for point in (p["name"] for p in self.manifest["points"]):
            file = inside_file(self.path, tensor_file(point, index))
            write_tensors(file, {"data": tensors[point]})
            files[tensor_file(point, index)] = sha256(file)
        write_table(self.path / rows_file(index), rows)
        files[rows_file(index)] = sha256(self.path / rows_file(index))
        start = shards[index - 1]["rows"][1] if index else 0
        shards[index : index + 1] = [{"rows": [start, start + len(rows)], "files": files}]
        self.damaged = self.damaged[1:]
        self.manifest["complete"] = False
        self.manifest["n_rows"] = shards[-1]["rows"][1]
        write_json(self.path / "manifest.json", self.manifest)

    def finish(self, provenance: Mapping[str, Any]) -> Place:
        """Mark the store complete; returns its folder."""
        note_times(self.path, self.manifest, provenance)
        if not self.manifest["complete"]:
            self.manifest["complete"] = True
            write_json(self.path / "manifest.json", self.manifest)
        return self.path


def plain_request(request: Mapping[str, Any]) -> dict[str, Any]:
    """A request as it comes back from JSON."""
    return json.loads(json.dumps(dict(request), sort_keys=True))


def is_finished(path: Place, request: Mapping[str, Any], points: Sequence[str], dtype: str) -> bool:
    """Whether `path` holds the complete store of this very request, its files as they were last verified.

    Raises:
        ArtifactError: If it holds a complete store of another request.
    """
    if not (path / "manifest.json").is_file():
        return False
    manifest = read_manifest(path)
    if not manifest["complete"]:
        return False
    fresh = {
        "points": with_widths(path, points),
        "dtype": dtype,
        "request": plain_request(request),
    }
    check_same(manifest, fresh, path)
    tidy(path)
    return as_noted(path, manifest)


def with_widths(path: Place, points: Sequence[str]) -> list[dict[str, Any]]:
    """The points as a manifest has them, with the widths that the store in `path` says."""
    widths = {p["name"]: p["width"] for p in read_manifest(path)["points"]}
    return [{"name": name, "width": widths.get(name, 0)} for name in points]


def check_same(old: Mapping[str, Any], new: Mapping[str, Any], path: Place) -> None:
    """Compare the manifest in `path` with that of a new capture.

    Raises:
        ArtifactError: Naming what they do not share.
    """
    names = [[point["name"] for point in manifest["points"]] for manifest in (old, new)]
    if names[0] != names[1]:
        there, here = (", ".join(one) for one in names)
        raise ArtifactError(f"{path} holds the points {there}, this capture has {here}; choose another place")
    for key in ("points", "dtype"):
        if old[key] != new[key]:
            word = "widths" if key == "points" else f"dtype {old[key]}, this capture has {new[key]}"
            word += " of another model" if key == "points" else ""
            raise ArtifactError(f"{path} holds {word}; choose another place")
    theirs, ours = dict(old["request"]), dict(new["request"])
    if "rows" in ours and "rows" not in theirs and theirs.get("row_columns"):
        ours.pop("rows")
        _log.warning("%s was captured by an earlier version: whether its columns' values are these cannot be "
                     "checked", path)  # fmt: skip
    if "prepend_bos" not in theirs:  # earlier versions kept what came of it alone
        ours.pop("prepend_bos", None)
    with suppress(ValueError, KeyError):  # as 0.1 wrote it
        theirs["pos"] = pos_to_data(pos_from_data(theirs["pos"]))
    if of_earlier_digest(theirs.get("model")):
        raise ArtifactError(
            f"{path} holds another capture (model: {EARLIER}); it is read as before by "
            f"Store({str(path)!r}), but nothing is added to it: choose another place or remove it"
        )
    differing: list[str] = []
    for key in (k for k in sorted({*theirs, *ours}) if theirs.get(k) != ours.get(k)):
        there, here = theirs.get(key), ours.get(key)
        nested = isinstance(there, Mapping) and isinstance(here, Mapping)
        entry = f"{key}: {_worded(there)} there, {_worded(here)} here"
        differing += differences({key: there}, {key: here}) if nested else [entry]
    if differing:
        raise ArtifactError(
            f"{path} holds another capture ({listing(differing)}); choose another place or remove it"
        )


def _worded(value: Any) -> str:
    """A value of a request for people: no brackets and quotes of Python's."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in cast("Mapping[str, Any]", value).items())
    return repr(value)


def save_rows(acts: Rows, path: Place | str, overwrite: bool) -> None:
    """Write `acts` as a complete store of one shard."""
    kinds = {str(t.dtype).removeprefix("torch.") for t in acts.values()}
    with write_folder(path, overwrite, kind=KIND) as folder:
        request = {k: v for k, v in acts.provenance.items() if k in _ASKED}
        writer = StoreWriter(folder, request, acts.widths, "/".join(sorted(kinds)))
        writer.append(dict(acts), acts.rows)
        writer.finish({**acts.provenance, "saved_with": library_versions()})


# Sizes and times -------------------------------------------------------------------------------------
def note_times(path: Place, manifest: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
    """Write `provenance.json`, with the sizes and times of the files, all of which were just verified."""
    write_json(path / "provenance.json", sealed({**provenance, "noted": _times(path, manifest)}))


def as_noted(path: Place, manifest: Mapping[str, Any]) -> bool:
    """Whether every file has the size and time that it had when it was last verified."""
    try:
        provenance = read_json(path / "provenance.json")
        return is_as_sealed(provenance) and provenance.get("noted") == _times(path, manifest)
    except (ArtifactError, OSError):
        return False


def _times(path: Place, manifest: Mapping[str, Any]) -> dict[str, list[int | str]]:
    files = {n: inside_file(path, n) for shard in manifest["shards"] for n in shard["files"]}
    return {name: [size_of(file), mark_of(file)] for name, file in files.items()}
