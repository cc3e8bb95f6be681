"""Activations on disk, schema 1: written shard by shard while capturing, resumed after a kill, checksummed.

```
NAME/manifest.json       schema, points with their widths, dtype, shards with row ranges and checksums
NAME/provenance.json     times, versions, settings: outside the checksums
NAME/rows/00000.parquet  one line a row
NAME/POINT/00000.safetensors   `[row, width]` under the key "data"
```
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from graticule.hooks.activations import Activations, wanted_names
from graticule.hooks.artifact import (
    SCHEMA,
    ArtifactError,
    check_schema,
    library_versions,
    read_json,
    read_table,
    sha256,
    write_folder,
    write_json,
    write_table,
    write_tensors,
)
from graticule.hooks.identity import model_identity
from graticule.hooks.points import PointError, full_name
from graticule.hooks.protocols import HookedModel

KIND = "activations"
_NUMPY = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "F64": np.float64}


def _file(point: str, shard: int) -> str:
    return f"{point}/{shard:05d}.safetensors"


def _rows_file(shard: int) -> str:
    return f"rows/{shard:05d}.parquet"


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
            write_tensors(self.path / _file(point, index), {"data": tensors[point]})
            files[_file(point, index)] = sha256(self.path / _file(point, index))
        write_table(self.path / _rows_file(index), rows)
        files[_rows_file(index)] = sha256(self.path / _rows_file(index))
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


class Store(Mapping[str, Tensor]):
    """A complete activation store on disk, with the surface of `Activations`; tensors are read on demand.

    Every file's checksum is verified the first time it is touched.
    """

    def __init__(self, path: Path | str, model: HookedModel | None = None) -> None:
        """**Raises** `ArtifactError` if the store is missing, incomplete, damaged, of another schema, or of
        another model than `model`."""
        self.path = Path(path)
        self._manifest = read_json(self.path / "manifest.json")
        check_schema(self._manifest, KIND, self.path)
        if not self._manifest["complete"]:
            done = len(self._manifest["shards"])
            raise ArtifactError(
                f"{self.path} is incomplete ({done} whole shards, {self._manifest['n_rows']} rows); "
                "run the same capture again and it goes on from there"
            )
        self._verified: set[str] = set()
        self._rows: pd.DataFrame | None = None
        if model is not None:
            self.check_model(model)

    def check_model(self, model: HookedModel) -> None:
        """**Raises** `ArtifactError` unless the store was captured from these very weights."""
        theirs = self._manifest["request"].get("model", {})
        ours = model_identity(model)
        if theirs.get("digest") != ours["digest"]:
            raise ArtifactError(
                f"{self.path} was captured from {theirs.get('name')} (weights {theirs.get('digest')}), "
                f"the model given is {ours['name']} (weights {ours['digest']})"
            )

    # Mapping -----------------------------------------------------------------------------------------
    def __getitem__(self, key: str | tuple[str, int]) -> Float[Tensor, "row width"]:
        """The whole `[row, width]` tensor of a point, in memory (mapped where it is one shard)."""
        name = self._name(key)
        parts = [self._map(_file(name, i)) for i in range(len(self._manifest["shards"]))]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.points)

    def __len__(self) -> int:
        return len(self.points)

    def __contains__(self, key: object) -> bool:
        return (full_name(*key) if isinstance(key, tuple) else key) in self.points

    def _name(self, key: str | tuple[str, int]) -> str:
        name = key if isinstance(key, str) else full_name(*key)
        if name not in self.points:
            raise PointError(f"{name} is not among the captured points: {', '.join(self.points)}")
        return name

    # Shape -------------------------------------------------------------------------------------------
    @property
    def points(self) -> tuple[str, ...]:
        """Hook names, in model order."""
        return tuple(p["name"] for p in self._manifest["points"])

    @property
    def widths(self) -> dict[str, int]:
        """Point → width."""
        return {p["name"]: int(p["width"]) for p in self._manifest["points"]}

    @property
    def n_rows(self) -> int:
        """How many rows every point has."""
        return int(self._manifest["n_rows"])

    @property
    def provenance(self) -> dict[str, Any]:
        """Times, versions and settings of the capture."""
        return read_json(self.path / "provenance.json")

    @property
    def request(self) -> dict[str, Any]:
        """What was asked for: model, inputs, prompt, positions."""
        return dict(self._manifest["request"])

    @property
    def rows(self) -> pd.DataFrame:
        """The row table."""
        if self._rows is None:
            names = [_rows_file(i) for i in range(len(self._manifest["shards"]))]
            for name in names:
                self._verify(name)
            self._rows = pd.concat([read_table(self.path / n) for n in names], ignore_index=True)
        return self._rows

    # Reading -----------------------------------------------------------------------------------------
    def _verify(self, name: str) -> None:
        if name in self._verified:
            return
        shard = next(s for s in self._manifest["shards"] if name in s["files"])
        file = self.path / name
        if not file.exists() or sha256(file) != shard["files"][name]:
            raise ArtifactError(f"{file} is missing or damaged (its checksum differs); capture again")
        self._verified.add(name)

    def verify(self) -> None:
        """**Raises** `ArtifactError` at the first file whose checksum differs."""
        for shard in self._manifest["shards"]:
            for name in shard["files"]:
                self._verify(name)

    def _map(self, name: str) -> Tensor:
        """A shard's tensor, memory-mapped copy-on-write: nothing is read until it is used."""
        self._verify(name)
        file = self.path / name
        with open(file, "rb") as handle:
            (size,) = struct.unpack("<Q", handle.read(8))
            header = json.loads(handle.read(size))["data"]
        array = np.memmap(
            file, _NUMPY[header["dtype"]], mode="c", offset=8 + size, shape=tuple(header["shape"])
        )
        tensor = torch.from_numpy(array)
        return tensor.view(torch.bfloat16) if header["dtype"] == "BF16" else tensor

    def gather(self, point: str | tuple[str, int], index: np.ndarray) -> Float[Tensor, "row width"]:
        """Rows `index` of a point, in that order, read by memory map."""
        name = self._name(point)
        ends = np.array([s["rows"][1] for s in self._manifest["shards"]])
        starts = np.array([s["rows"][0] for s in self._manifest["shards"]])
        shard_of = np.searchsorted(ends, index, side="right")
        first = self._map(_file(name, 0))
        out = torch.empty(len(index), self.widths[name], dtype=first.dtype)
        for shard in np.unique(shard_of):
            here = np.flatnonzero(shard_of == shard)
            source = self._map(_file(name, int(shard)))
            out[torch.from_numpy(here)] = source[torch.from_numpy(index[here] - starts[shard])]
        return out

    def load(self) -> Activations:
        """Everything in memory."""
        return Activations({p: self[p] for p in self.points}, self.rows, self.provenance)

    def select(self, rows: Any = None, points: Any = None) -> Activations:
        """Some rows and points, in memory."""
        chosen = {n: self[n] for n in wanted_names(points, self.points)}
        return Activations(chosen, self.rows, self.provenance).select(rows=rows)

    def to_saelens(self, path: Path | str, point: str | None = None, context_size: int | None = None) -> None:
        """Export one point as the cached-activation dataset that SAELens's `ActivationsStore` reads."""
        self.select(points=point or self.points[0]).to_saelens(path, point, context_size)

    def __repr__(self) -> str:
        return f"Store({self.path}: {self.n_rows} rows × {len(self)} points, {self._manifest['dtype']})"


def save_activations(acts: Activations, path: Path | str, overwrite: bool) -> None:
    """Write `acts` as a complete store of one shard."""
    kinds = {str(t.dtype).removeprefix("torch.") for t in acts.values()}
    with write_folder(path, overwrite) as folder:
        request = {k: v for k, v in acts.provenance.items() if k in ("model", "inputs", "prompt", "pos")}
        writer = StoreWriter(folder, request, acts.widths, "/".join(sorted(kinds)))
        writer.append(dict(acts), acts.rows)
        writer.finish({**acts.provenance, "saved_with": library_versions()})
