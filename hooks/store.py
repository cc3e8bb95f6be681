"""Activations on disk, schema 1: written shard by shard while capturing, resumed after a kill, checksummed.

```
NAME/manifest.json       schema, points with their widths, dtype, shards with row ranges and checksums
NAME/provenance.json     times, versions, settings: outside the checksums
NAME/rows/00000.parquet  one line a row
NAME/POINT/00000.safetensors   `[row, width]` under the key "data"
```
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from graticule.hooks.activations import Activations, wanted_names
from graticule.hooks.alignment import with_digests
from graticule.hooks.artifact import (
    ArtifactError,
    as_damaged,
    only_file,
    read_json,
    read_table,
    sha256,
    unsealed,
)
from graticule.hooks.identity import is_of, model_identity, of_earlier_digest
from graticule.hooks.names import inside_file, user_path
from graticule.hooks.points import captured_name, name_of
from graticule.hooks.protocols import HookedModel
from graticule.hooks.same_model import difference
from graticule.hooks.store_manifest import forget_times, read_manifest, rows_file, tensor_file
from graticule.hooks.visible import visible

if TYPE_CHECKING:
    from graticule.hooks.coders import SparseCoder
    from graticule.hooks.latents import Latents

_NUMPY = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "F64": np.float64}
_LONGEST_HEADER = 100_000_000  # safetensors' own bound
_OPEN = 64
"""Maps that a store keeps open; each takes a file handle."""


class Store(Mapping[str, Tensor]):
    """A complete activation store on disk, with the surface of `Activations`; tensors are read on demand.

    Every file's checksum is verified the first time it is touched. `capture` into a finished store does not
    read it all again: it looks at the files' sizes and times, which the store has noted; where these differ,
    or a checksum was found wrong since, it verifies every file, and captures damaged shards anew.
    """

    def __init__(self, path: Path | str, model: HookedModel | None = None, verify: bool = True) -> None:
        """`verify=False` leaves checksums alone: random rows of a large store then come at once, without
        reading all of it first.

        **Raises** `ArtifactError` if the store is missing, incomplete, damaged, of another schema, or of
        another model than `model`.
        """
        self.path = user_path(path)
        self._check_files = verify
        self._manifest = read_manifest(self.path)
        if not self._manifest["complete"]:
            done = len(self._manifest["shards"])
            raise ArtifactError(
                f"{self.path} is incomplete ({done} whole shards, {self._manifest['n_rows']} rows); "
                "run the same capture again and it goes on from there"
            )
        self._verified: set[str] = set()
        self._maps: OrderedDict[str, Tensor] = OrderedDict()
        self._rows: pd.DataFrame | None = None
        self._n_inputs: int | None = None
        self._check_shapes()
        if model is not None:
            self.check_model(model)

    def _check_shapes(self) -> None:
        """**Raises** `ArtifactError` if the first shard's tensors have not the manifest's shapes."""
        for point in self.points:
            if (self.path / tensor_file(point, 0)).is_file():  # a missing file is told where it is read
                self._header(tensor_file(point, 0))

    def check_model(self, model: HookedModel) -> None:
        """**Raises** `ArtifactError` unless the store was captured from this very model: its weights,
        settings and tokenizer, without hooks of the user's own."""
        theirs = self._manifest["request"].get("model", {})
        ours = model_identity(model)
        if not is_of(theirs, model, ours):
            other: str | None = "weights or settings differ"
        else:
            other = None if of_earlier_digest(theirs) else difference({"model": theirs}, {"model": ours})
        if other:
            raise ArtifactError(
                f"{self.path} was captured from {theirs.get('name')} (weights {theirs.get('digest')}), "
                f"the model given is {ours['name']} (weights {ours['digest']}): {other}"
            )

    # Mapping -----------------------------------------------------------------------------------------
    def __getitem__(self, key: str | tuple[str, int]) -> Float[Tensor, "row width"]:
        """The whole `[row, width]` tensor of a point, in memory (mapped where it is one shard)."""
        name = self._name(key)
        shards = self._manifest["shards"]
        first = self._map(tensor_file(name, 0))
        if len(shards) == 1:
            return first
        out = torch.empty(self.n_rows, self.widths[name], dtype=first.dtype)
        for i, shard in enumerate(shards):  # one file open at a time
            out[slice(*shard["rows"])] = self._map(tensor_file(name, i))
        return out

    def __iter__(self) -> Iterator[str]:
        return iter(self.points)

    def __len__(self) -> int:
        return len(self.points)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str | tuple) and name_of(key) in self.points

    def _name(self, key: str | tuple[str, int]) -> str:
        return captured_name(key, self.points)

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
        told = unsealed(read_json(self.path / "provenance.json"))
        told.pop("noted", None)
        return told if self._n_inputs is None else {**told, "n_inputs": self._n_inputs}

    @property
    def request(self) -> dict[str, Any]:
        """What was asked for: model, inputs, prompt, positions."""
        return dict(self._manifest["request"])

    @property
    def rows(self) -> pd.DataFrame:
        """The row table."""
        if self._rows is None:
            names = [rows_file(i) for i in range(len(self._manifest["shards"]))]
            for name in names:
                self._verify(name)
            parts = [read_table(inside_file(self.path, n)) for n in names]
            for name, part, shard in zip(names, parts, self._manifest["shards"], strict=True):
                start, stop = shard["rows"]
                if len(part) != stop - start:
                    raise ArtifactError(
                        f"{self.path / name} has {len(part)} rows, the manifest says {stop - start}; "
                        "capture into another folder"
                    )
            self._rows = pd.concat(parts, ignore_index=True)
        return self._rows

    def checksum(self, points: Sequence[str]) -> str:
        """A digest of every value at `points`, from the checksums of their files."""
        digest = hashlib.sha256()
        for index, shard in enumerate(self._manifest["shards"]):
            for point in points:
                digest.update(f"{point} {shard['files'][tensor_file(point, index)]}\n".encode())
        return digest.hexdigest()[:16]

    # Reading -----------------------------------------------------------------------------------------
    def _verify(self, name: str) -> None:
        if self._check_files and name not in self._verified:
            self._check_file(name)

    def _check_file(self, name: str) -> None:
        shard = next(s for s in self._manifest["shards"] if name in s["files"])
        file = inside_file(self.path, name)
        if not file.exists() or sha256(file) != shard["files"][name]:
            forget_times(self.path)  # so that the next capture verifies every file
            raise ArtifactError(f"{file} is missing or damaged (its checksum differs); capture again")
        self._verified.add(name)

    def verify(self) -> None:
        """**Raises** `ArtifactError` at the first file whose checksum differs."""
        for shard in self._manifest["shards"]:
            for name in shard["files"]:
                if name not in self._verified:
                    self._check_file(name)

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
        start, stop = self._manifest["shards"][int(number.split(".")[0])]["rows"]
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

    def gather(self, point: str | tuple[str, int], index: np.ndarray) -> Float[Tensor, "row width"]:
        """Rows `index` of a point, in that order, read by memory map; some maps stay open for the next call.

        **Raises** `IndexError` for a row that is not there.
        """
        name = self._name(point)
        if len(index) and not 0 <= index.min() <= index.max() < self.n_rows:
            raise IndexError(
                f"rows {index.min()} to {index.max()}; {self.path} has rows 0 to {self.n_rows - 1}"
            )
        starts = np.array([s["rows"][0] for s in self._manifest["shards"]])
        shard_of = np.searchsorted(starts, index, side="right") - 1
        order = np.argsort(shard_of, kind="stable")
        bounds = np.searchsorted(shard_of[order], np.arange(len(starts) + 1))
        out = torch.empty(len(index), self.widths[name], dtype=self._open(name, 0).dtype)
        for shard in np.flatnonzero(np.diff(bounds)):
            here = slice(bounds[shard], bounds[shard + 1])
            inside = torch.from_numpy(index[order[here]].astype(np.int64) - starts[shard])
            torch.index_select(self._open(name, int(shard)), 0, inside, out=out[here])
        if len(starts) == 1:
            return out
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return torch.index_select(out, 0, torch.from_numpy(back))

    def _open(self, name: str, shard: int) -> Tensor:
        """A shard's map, one of a bounded number; never handed out, so that nobody writes into it."""
        file = tensor_file(name, shard)
        if file not in self._maps:
            self._maps[file] = self._map(file)
            if len(self._maps) > _OPEN:
                self._maps.popitem(last=False)
        self._maps.move_to_end(file)
        return self._maps[file]

    def load(self) -> Activations:
        """Everything in memory."""
        return Activations({p: self[p] for p in self.points}, self.rows, self.provenance)

    def select(self, rows: Any = None, points: Any = None) -> Activations:
        """Some rows and points, in memory."""
        chosen = {n: self[n] for n in wanted_names(points, self.points)}
        return Activations(chosen, self.rows, self.provenance).select(rows=rows)

    def with_texts(self, texts: Sequence[str]) -> Store:
        """The same store, said to be of these texts: see `Activations.with_texts`. Nothing is written."""
        return self._as(with_digests(self.rows, texts, self.provenance.get("n_inputs")), len(texts))

    def with_sources(self, source: Int[np.ndarray, " row"], n_inputs: int) -> Store:
        """The same store with its texts numbered anew: see `Activations.with_sources`. Nothing is written."""
        return self._as(self.rows.assign(source=source), n_inputs)

    def _as(self, rows: pd.DataFrame, n_inputs: int) -> Store:
        """The same store with other rows, of so many inputs."""
        other = copy.copy(self)
        other._rows, other._n_inputs = rows, n_inputs
        return other

    def encode(self, sae: SparseCoder, point: str | None = None, *, batch: int = 4096) -> Latents:
        """The latents of a SAELens SAE on the rows of its own hook point, sparse: see `latents.encode`."""
        from graticule.hooks.latents import encode

        return encode(self, sae, point, batch=batch)

    def to_saelens(self, path: Path | str, point: str | None = None, context_size: int | None = None) -> None:
        """Export one point as the cached-activation dataset that SAELens's `ActivationsStore` reads."""
        self.select(points=point or self.points[0]).to_saelens(path, point, context_size)

    def __repr__(self) -> str:
        words = f"Store({self.path}: {self.n_rows} rows × {len(self)} points, {self._manifest['dtype']})"
        return visible(words)
