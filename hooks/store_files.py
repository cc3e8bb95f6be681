"""The files of a finished store, read on demand: row tables, whole tensors, and rows by memory map."""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from graticule.hooks.artifact import (
    ArtifactError,
    as_damaged,
    only_file,
    read_json,
    read_table,
    sha256,
    unsealed,
)
from graticule.hooks.names import inside_file
from graticule.hooks.store_manifest import forget_times, read_manifest, rows_file, tensor_file

_NUMPY = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "F64": np.float64}
_LONGEST_HEADER = 100_000_000  # safetensors' own bound
_OPEN = 64
"""Maps that stay open; each takes a file handle."""


class StoreFiles:
    """A finished store's folder: every file's checksum is verified the first time it is touched."""

    def __init__(self, path: Path, verify: bool = True) -> None:
        """`verify=False` leaves checksums alone.

        **Raises** `ArtifactError` if the store is missing, incomplete, damaged, or of another schema.
        """
        self.path = path
        self.manifest = read_manifest(path)
        if not self.manifest["complete"]:
            done = len(self.manifest["shards"])
            raise ArtifactError(
                f"{path} is incomplete ({done} whole shards, {self.manifest['n_rows']} rows); "
                "run the same capture again and it goes on from there"
            )
        self._check_sums = verify
        self._verified: set[str] = set()
        self._maps: OrderedDict[str, Tensor] = OrderedDict()
        self.points = tuple(p["name"] for p in self.manifest["points"])
        self.widths = {p["name"]: int(p["width"]) for p in self.manifest["points"]}
        self.n_rows = int(self.manifest["n_rows"])
        for point in self.points:
            if (path / tensor_file(point, 0)).is_file():  # a missing file is told where it is read
                self._header(tensor_file(point, 0))

    def provenance(self) -> dict[str, Any]:
        """Times, versions and settings of the capture."""
        provenance = unsealed(read_json(self.path / "provenance.json"))
        provenance.pop("noted", None)
        return provenance

    def rows(self) -> pd.DataFrame:
        """The row table."""
        names = [rows_file(i) for i in range(len(self.manifest["shards"]))]
        for name in names:
            self._verify(name)
        parts = [read_table(inside_file(self.path, n)) for n in names]
        for name, part, shard in zip(names, parts, self.manifest["shards"], strict=True):
            start, stop = shard["rows"]
            if len(part) != stop - start:
                raise ArtifactError(
                    f"{self.path / name} has {len(part)} rows, the manifest says {stop - start}; "
                    "capture into another folder"
                )
        return pd.concat(parts, ignore_index=True)

    def tensor(self, point: str) -> Float[Tensor, "row width"]:
        """All rows of a point, in memory (mapped where it is one shard)."""
        shards = self.manifest["shards"]
        first = self._map(tensor_file(point, 0))
        if len(shards) == 1:
            return first
        out = torch.empty(self.n_rows, self.widths[point], dtype=first.dtype)
        for i, shard in enumerate(shards):  # one file open at a time
            out[slice(*shard["rows"])] = self._map(tensor_file(point, i))
        return out

    def gather(self, point: str, index: np.ndarray) -> Float[Tensor, "row width"]:
        """Rows `index` of a point, in that order; some maps stay open for the next call.

        **Raises** `IndexError` for a row that is not there.
        """
        if len(index) and not 0 <= index.min() <= index.max() < self.n_rows:
            raise IndexError(
                f"rows {index.min()} to {index.max()}; {self.path} has rows 0 to {self.n_rows - 1}"
            )
        starts = np.array([s["rows"][0] for s in self.manifest["shards"]])
        shard_of = np.searchsorted(starts, index, side="right") - 1
        order = np.argsort(shard_of, kind="stable")
        bounds = np.searchsorted(shard_of[order], np.arange(len(starts) + 1))
        out = torch.empty(len(index), self.widths[point], dtype=self._open(point, 0).dtype)
        for shard in np.flatnonzero(np.diff(bounds)):
            here = slice(bounds[shard], bounds[shard + 1])
            inside = torch.from_numpy(index[order[here]].astype(np.int64) - starts[shard])
            torch.index_select(self._open(point, int(shard)), 0, inside, out=out[here])
        if len(starts) == 1:
            return out
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return torch.index_select(out, 0, torch.from_numpy(back))

    def checksum(self, points: Sequence[str]) -> str:
        """A digest of every value at `points`, from the checksums of their files."""
        digest = hashlib.sha256()
        for index, shard in enumerate(self.manifest["shards"]):
            for point in points:
                digest.update(f"{point} {shard['files'][tensor_file(point, index)]}\n".encode())
        return digest.hexdigest()[:16]

    def verify(self) -> None:
        """**Raises** `ArtifactError` at the first file whose checksum differs."""
        for shard in self.manifest["shards"]:
            for name in shard["files"]:
                if name not in self._verified:
                    self._check_file(name)

    def _verify(self, name: str) -> None:
        if self._check_sums and name not in self._verified:
            self._check_file(name)

    def _check_file(self, name: str) -> None:
        shard = next(s for s in self.manifest["shards"] if name in s["files"])
        file = inside_file(self.path, name)
        if not file.exists() or sha256(file) != shard["files"][name]:
            forget_times(self.path)  # so that the next capture verifies every file
            raise ArtifactError(f"{file} is missing or damaged (its checksum differs); capture again")
        self._verified.add(name)

    def _map(self, name: str) -> Tensor:
        """A shard's tensor, memory-mapped copy-on-write: nothing is read until it is used."""
        self._verify(name)
        offset, kind, shape = self._header(name)
        array = np.memmap(inside_file(self.path, name), _NUMPY[kind], mode="c", offset=offset, shape=shape)
        tensor = torch.from_numpy(array)
        return tensor.view(torch.bfloat16) if kind == "BF16" else tensor

    def _header(self, name: str) -> tuple[int, str, tuple[int, int]]:
        """Where a file's numbers begin, their kind, and `(row, width)` as the manifest has it.

        **Raises** `ArtifactError` if it has another shape, or is no such file.
        """
        file = inside_file(self.path, name)
        point, number = name.split("/")
        start, stop = self.manifest["shards"][int(number.split(".")[0])]["rows"]
        wanted = (stop - start, self.widths[point])
        with as_damaged(file, "capture again"), open(only_file(file), "rb") as handle:
            size = int.from_bytes(handle.read(8), "little")
            if size > _LONGEST_HEADER:
                raise ValueError(f"its header would be {size} bytes long")
            header = json.loads(handle.read(size))["data"]
            kind, shape = header["dtype"], tuple(header["shape"])
            if shape != wanted:
                raise ValueError(f"it has shape {shape}, the manifest says {wanted}")
            expected = 8 + size + wanted[0] * wanted[1] * np.dtype(_NUMPY[kind]).itemsize
            if os.path.getsize(file) != expected:
                raise ValueError(f"it has {os.path.getsize(file)} bytes, expected {expected}")
        return 8 + size, kind, wanted

    def _open(self, point: str, shard: int) -> Tensor:
        """A shard's map, one of a bounded number; never handed out, so that nobody writes into it."""
        file = tensor_file(point, shard)
        if file not in self._maps:
            self._maps[file] = self._map(file)
            if len(self._maps) > _OPEN:
                self._maps.popitem(last=False)
        self._maps.move_to_end(file)
        return self._maps[file]
