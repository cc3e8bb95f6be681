"""Writing a store: shard by shard while capturing, whole whenever the process ends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from graticule.hooks.activations import Activations
from graticule.hooks.artifact import (
    SCHEMA,
    ArtifactError,
    check_schema,
    library_versions,
    read_json,
    sha256,
    write_json,
    write_table,
    write_tensors,
)
from graticule.hooks.kinds import write_folder
from graticule.hooks.store import KIND, Store, rows_file, tensor_file


class StoreWriter:
    """Appends shards to a store; what is written stays whole whenever the process ends.

    A shard's files are written under temporary names and renamed; only then is the manifest, which lists
    them with checksums, replaced. So the manifest never names a file that is not whole.
    """

    def __init__(
        self, path: Path | str, request: Mapping[str, Any], widths: Mapping[str, int], dtype: str
    ) -> None:
        """Start a store, or take up an incomplete one of the same request where it stopped.

        **Raises** `ArtifactError` if `path` holds something else, or a store of another request (naming what
        differs).
        """
        self.path = Path(path)
        fresh: dict[str, Any] = {
            "kind": KIND,
            "schema": SCHEMA,
            "complete": False,
            "points": [{"name": n, "width": w} for n, w in widths.items()],
            "dtype": dtype,
            "n_rows": 0,
            "request": json.loads(json.dumps(dict(request), sort_keys=True)),
            "shards": [],
        }
        manifest = self.path / "manifest.json"
        if manifest.exists():
            self.manifest = read_json(manifest)
            _check_same(self.manifest, fresh, self.path)
            self._drop_damaged_tail()
        elif self.path.exists() and any(self.path.iterdir()):
            raise ArtifactError(f"{self.path} exists and is no activation store; choose another place")
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            self.manifest = fresh
            write_json(manifest, fresh)

    @property
    def n_shards(self) -> int:
        """Whole shards so far."""
        return len(self.manifest["shards"])

    def _drop_damaged_tail(self) -> None:
        """Forget the shards from the first whose files do not match their checksums."""
        for i, shard in enumerate(self.manifest["shards"]):
            for name, digest in shard["files"].items():
                file = self.path / name
                if not file.exists() or sha256(file) != digest:
                    self.manifest["shards"] = self.manifest["shards"][:i]
                    self.manifest["complete"] = False
                    self._count()
                    return

    def _count(self) -> None:
        self.manifest["n_rows"] = self.manifest["shards"][-1]["rows"][1] if self.manifest["shards"] else 0

    def append(self, tensors: Mapping[str, Tensor], rows: pd.DataFrame) -> None:
        """Write one shard: `{point: [row, width]}` and its rows."""
        index = self.n_shards
        files: dict[str, str] = {}
        for point in (p["name"] for p in self.manifest["points"]):
            write_tensors(self.path / tensor_file(point, index), {"data": tensors[point]})
            files[tensor_file(point, index)] = sha256(self.path / tensor_file(point, index))
        write_table(self.path / rows_file(index), rows)
        files[rows_file(index)] = sha256(self.path / rows_file(index))
        start = int(self.manifest["n_rows"])
        self.manifest["shards"].append({"rows": [start, start + len(rows)], "files": files})
        self._count()
        write_json(self.path / "manifest.json", self.manifest)

    def finish(self, provenance: Mapping[str, Any]) -> Store:
        """Mark the store complete and open it."""
        for stray in self.path.rglob("*.tmp"):
            stray.unlink()  # left by a killed run
        write_json(self.path / "provenance.json", dict(provenance))
        self.manifest["complete"] = True
        write_json(self.path / "manifest.json", self.manifest)
        return Store(self.path)


def _check_same(old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> None:
    check_schema(old, KIND, path)
    for key in ("points", "dtype"):
        if old[key] != new[key]:
            raise ArtifactError(
                f"{path} holds {key} {old[key]}, this capture has {new[key]}; choose another place"
            )
    theirs, ours = old["request"], new["request"]
    differing = [k for k in sorted({*theirs, *ours}) if theirs.get(k) != ours.get(k)]
    if differing:
        detail = "; ".join(f"{k}: {theirs.get(k)!r} there, {ours.get(k)!r} here" for k in differing)
        raise ArtifactError(f"{path} holds another capture ({detail}); choose another place or remove it")


def save_activations(acts: Activations, path: Path | str, overwrite: bool) -> None:
    """Write `acts` as a complete store of one shard."""
    kinds = {str(t.dtype).removeprefix("torch.") for t in acts.values()}
    with write_folder(path, overwrite, kind=KIND) as folder:
        request = {k: v for k, v in acts.provenance.items() if k in ("model", "inputs", "prompt", "pos")}
        writer = StoreWriter(folder, request, acts.widths, "/".join(sorted(kinds)))
        writer.append(dict(acts), acts.rows)
        writer.finish({**acts.provenance, "saved_with": library_versions()})
