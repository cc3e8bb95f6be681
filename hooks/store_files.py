"""The files of a store: its manifest, row tables, whole tensors, and rows by memory map."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from graticule.hooks.artifact import (
    ArtifactError,
    as_damaged,
    check_schema,
    only_file,
    read_json,
    read_table,
    sealed,
    sha256,
    unsealed,
    write_json,
)
from graticule.hooks.kinds import FolderKind
from graticule.hooks.names import BadNameError, check_name, inside_file
from graticule.hooks.places import Place, RemotePath, size_of

_NUMPY = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "F64": np.float64}
_TORCH = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
_LONGEST_HEADER = 100_000_000  # safetensors' own bound
_OPEN = 64
"""Maps that stay open; each takes a file handle."""


class StoreFiles:
    """A finished store's folder: every file's checksum is verified the first time it is touched."""

    def __init__(self, path: Place, verify: bool = True) -> None:
        """`verify=False` leaves checksums alone.

        Raises:
            ArtifactError: If the store is missing, incomplete, damaged, or of another schema.
        """
        self.path = path
        self._mark = self._manifest_mark()
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
            file = path / tensor_file(point, 0)
            if isinstance(file, Path) and file.is_file():  # a missing file is told where it is read
                self._header(tensor_file(point, 0))

    def provenance(self) -> dict[str, Any]:
        """Times, versions and settings of the capture."""
        self._check_unchanged()
        provenance = unsealed(read_json(self.path / "provenance.json"))
        provenance.pop("noted", None)
        return provenance

    def rows(self) -> pd.DataFrame:
        """The row table."""
        self._begin_reading()
        names = [rows_file(i) for i in range(len(self.manifest["shards"]))]
        for name in names:
            self._verify(name)
        parts = [read_table(self._file(n)) for n in names]
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
        self._begin_reading()
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

        Raises:
            IndexError: For a row that is not there.
        """
        if len(index) and not 0 <= index.min() <= index.max() < self.n_rows:
            raise IndexError(
                f"rows {index.min()} to {index.max()}; {self.path} has rows 0 to {self.n_rows - 1}"
            )
        self._begin_reading()
        starts = np.array([s["rows"][0] for s in self.manifest["shards"]])
        shard_of = np.searchsorted(starts, index, side="right") - 1
        order = np.argsort(shard_of, kind="stable")
        bounds = np.searchsorted(shard_of[order], np.arange(len(starts) + 1))
        out = torch.empty(len(index), self.widths[point], dtype=self._dtype(point))
        for shard in np.flatnonzero(np.diff(bounds)):
            here = slice(bounds[shard], bounds[shard + 1])
            inside = torch.from_numpy(index[order[here]].astype(np.int64) - starts[shard])
            self._select(point, int(shard), inside, out[here])
        if len(starts) == 1:
            return out
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return torch.index_select(out, 0, torch.from_numpy(back))

    def _dtype(self, point: str) -> torch.dtype:
        return self._open(point, 0).dtype

    def _select(self, point: str, shard: int, rows: Tensor, out: Tensor) -> None:
        """Write some rows of a shard into `out`."""
        torch.index_select(self._open(point, shard), 0, rows, out=out)

    def checksum(self, points: Sequence[str]) -> str:
        """A digest of every value at `points`, from the checksums of their files."""
        digest = hashlib.sha256()
        for index, shard in enumerate(self.manifest["shards"]):
            for point in points:
                digest.update(f"{point} {shard['files'][tensor_file(point, index)]}\n".encode())
        return digest.hexdigest()[:16]

    def verify(self) -> None:
        """Check every file that was not checked yet.

        Raises:
            ArtifactError: At the first whose checksum differs.
        """
        self._begin_reading()
        for shard in self.manifest["shards"]:
            for name in shard["files"]:
                if name not in self._verified:
                    self._check_file(name)

    def _begin_reading(self) -> None:
        """Before files that are open, too, are read."""
        self._check_unchanged()

    def _manifest_mark(self) -> Any:
        """What changes when another manifest lies here; None where there is none."""
        file = self.path / "manifest.json"
        try:
            if isinstance(file, Path):
                status = file.stat()
                return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
            return hashlib.sha256(file.read_bytes()).digest()
        except OSError:
            return None

    def _check_unchanged(self) -> None:
        """Refuse another capture that has come to lie where this store was opened.

        Raises:
            ArtifactError: The manifest names other files than the one that was opened. Where there is none at
                all any more, whoever opens the next file says so.
        """
        mark = self._manifest_mark()
        if mark is None or mark == self._mark:
            return
        now = read_manifest(self.path)
        if any(now[key] != self.manifest[key] for key in ("points", "dtype", "request", "shards")):
            raise ArtifactError(
                f"{self.path} is another capture now than the one that was opened: open it anew (findings of "
                "the old one need the old one), and give each capture a place of its own"
            )
        self._mark = mark

    def _file(self, name: str) -> Place:
        """Where a file of the store is read."""
        return inside_file(self.path, name)

    def _verify(self, name: str) -> None:
        if self._check_sums and name not in self._verified:
            self._check_file(name)

    def _check_file(self, name: str) -> None:
        shard = next(s for s in self.manifest["shards"] if name in s["files"])
        file = self._file(name)
        if not file.exists() or sha256(file) != shard["files"][name]:
            forget_times(self.path)  # so that the next capture verifies every file
            raise ArtifactError(
                f"{self.path / name} is missing or damaged (its checksum differs); capture again"
            )
        self._verified.add(name)

    def _map(self, name: str) -> Tensor:
        """A shard's tensor, memory-mapped copy-on-write: nothing is read until it is used."""
        self._verify(name)
        offset, kind, shape = self._header(name)
        array = np.memmap(cast("Path", self._file(name)), _NUMPY[kind], mode="c", offset=offset, shape=shape)
        tensor = torch.from_numpy(array)
        return tensor.view(torch.bfloat16) if kind == "BF16" else tensor

    def _header(self, name: str, file: Place | None = None) -> tuple[int, str, tuple[int, int]]:
        """Where a file's numbers begin, their kind, and `(row, width)` as the manifest has it.

        Raises:
            ArtifactError: If it has another shape, or is no such file.
        """
        file = self._file(name) if file is None else file
        point, number = name.split("/")
        start, stop = self.manifest["shards"][int(number.split(".")[0])]["rows"]
        wanted = (stop - start, self.widths[point])
        if isinstance(file, Path) and not file.exists():
            raise ArtifactError(f"{file} is missing: open the store where it is now, or capture again")
        with as_damaged(file, "capture again"), only_file(file).open("rb") as handle:
            size = int.from_bytes(handle.read(8), "little")
            if size > _LONGEST_HEADER:
                raise ValueError(f"its header would be {size} bytes long")
            header = json.loads(handle.read(size))["data"]
            kind, shape = header["dtype"], tuple(header["shape"])
            if shape != wanted:
                raise ValueError(f"it has shape {shape}, the manifest says {wanted}")
            expected = 8 + size + wanted[0] * wanted[1] * np.dtype(_NUMPY[kind]).itemsize
            if size_of(file) != expected:
                raise ValueError(f"it has {size_of(file)} bytes, expected {expected}")
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


class RemoteStoreFiles(StoreFiles):
    """Those of a remote store, copied to this machine when they are touched; the copies go with this object.

    Without checksums, `gather` copies no file: it reads its rows alone.
    """

    path: RemotePath

    def __init__(self, path: RemotePath, verify: bool = True) -> None:
        self._copies = Path(tempfile.mkdtemp(prefix="graticule-"))
        weakref.finalize(self, shutil.rmtree, self._copies, ignore_errors=True)
        self._layouts: dict[str, tuple[int, str, tuple[int, int]]] = {}
        super().__init__(path, verify)

    def _begin_reading(self) -> None:
        """What was copied stays what it was; a file that is not is looked at when it is copied."""

    def _file(self, name: str) -> Path:
        copy = inside_file(self._copies, name)
        if not copy.exists() and (remote := inside_file(self.path, name)).is_file():
            self._check_unchanged()
            copy.parent.mkdir(exist_ok=True)
            remote.fs.get_file(remote.path, str(copy))
        return copy

    def _dtype(self, point: str) -> torch.dtype:
        return super()._dtype(point) if self._check_sums else _TORCH[self._layout(tensor_file(point, 0))[1]]

    def _select(self, point: str, shard: int, rows: Tensor, out: Tensor) -> None:
        if self._check_sums:
            super()._select(point, shard, rows, out)
            return
        self._check_unchanged()
        name = tensor_file(point, shard)
        offset, kind, (_, width) = self._layout(name)
        size = width * np.dtype(_NUMPY[kind]).itemsize
        wanted, back = np.unique(rows.numpy(), return_inverse=True)
        breaks = np.flatnonzero(np.diff(wanted) > 1) + 1
        runs = [(int(run[0]), int(run[-1]) + 1) for run in np.split(wanted, breaks)]
        ranges = [(offset + start * size, offset + stop * size) for start, stop in runs]
        data = bytearray(b"".join(inside_file(self.path, name).read_ranges(ranges)))
        values = torch.frombuffer(data, dtype=_TORCH[kind]).reshape(len(wanted), width)
        torch.index_select(values, 0, torch.from_numpy(back), out=out)

    def _layout(self, name: str) -> tuple[int, str, tuple[int, int]]:
        if name not in self._layouts:
            self._layouts[name] = self._header(name, inside_file(self.path, name))
        return self._layouts[name]


def files_of(path: Place, verify: bool = True) -> StoreFiles:
    """The files of the store in `path`, wherever it is."""
    return StoreFiles(path, verify) if isinstance(path, Path) else RemoteStoreFiles(path, verify)


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
    """Refuse a hook name that cannot be a folder's, or is the row table's."""
    for point in points:
        if check_name(point, "hook name") in ("rows", "manifest.json", "provenance.json"):
            raise BadNameError(f"a hook point cannot be called {point!r}: a store has that itself")


def read_manifest(path: Place) -> dict[str, Any]:
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


def forget_times(path: Place) -> None:
    """Let the next capture into the store verify every file; one that cannot be written stays as it is."""
    with suppress(ArtifactError, OSError):
        provenance = read_json(path / "provenance.json")
        if provenance.pop("noted", None) is not None:
            write_json(path / "provenance.json", sealed(provenance))
