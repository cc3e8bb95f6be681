"""Activations on disk, schema 1: written shard by shard while capturing, resumed after a kill, checksummed.

```
NAME/manifest.json       schema, points with their widths, dtype, shards with row ranges and checksums
NAME/provenance.json     times, versions, settings: outside the checksums
NAME/rows/00000.parquet  one line per row
NAME/POINT/00000.safetensors   `[row, width]` under the key "data"
```
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Integer
from torch import Tensor

from graticule.hooks.activations import Activations
from graticule.hooks.alignment import DIGEST, text_digests, whole_column, with_digests
from graticule.hooks.artifact import ArtifactError, is_as_sealed, read_json, read_table, sha256
from graticule.hooks.calls import renamed
from graticule.hooks.identity import is_of, model_identity, of_earlier_digest
from graticule.hooks.latents import CapturedRows
from graticule.hooks.limits import as_boolean
from graticule.hooks.messages import visible
from graticule.hooks.names import inside_file, place_of
from graticule.hooks.places import Place
from graticule.hooks.protocols import HookedModel
from graticule.hooks.rows import PointKey, wanted_names
from graticule.hooks.same_model import model_difference
from graticule.hooks.store_files import files_of, read_manifest, rows_file
from graticule.hooks.store_writer import as_noted, note_times


class Store(CapturedRows):
    """A complete activation store on disk, with the surface of `Activations`; tensors are read on demand.

    Every file's checksum is verified the first time it is touched. `capture` into a finished store does not
    read it all again: it looks at the files' sizes and times, which the store has noted; where these differ,
    or a checksum was found wrong since, it verifies every file, and captures damaged shards anew.
    """

    in_memory = False

    def __init__(self, path: Place | str, model: HookedModel | None = None, verify: bool = True) -> None:
        """Open a finished store.

        Args:
            path: Its folder, or its url on a file system of fsspec: `s3://bucket/store`. Files of a remote
                store are copied to this machine as they are used, for as long as the store is open.
            model: The model that it must be of.
            verify: False leaves checksums alone: random rows of a large store then come at once, without
                reading (or copying) all of it first.

        Raises:
            ArtifactError: If the store is missing, incomplete, damaged, of another schema, or of another
                model than `model`.
        """
        self.path = place_of(path)
        self._files = files_of(self.path, as_boolean("Store: verify", verify))
        self._rows: pd.DataFrame | None = None
        self._n_inputs: int | None = None
        if model is not None:
            self.check_model(model)

    def check_model(self, model: HookedModel) -> None:
        """Check that the store was captured from this very model, without hooks of the user's own.

        Raises:
            ArtifactError: If weights, settings or tokenizer are others.
        """
        theirs = self.request.get("model", {})
        ours = model_identity(model)
        if not is_of(theirs, model, ours):
            other: str | None = "weights or settings differ"
        else:
            other = (
                None if of_earlier_digest(theirs) else model_difference({"model": theirs}, {"model": ours})
            )
        if other:
            raise ArtifactError(
                f"{self.path} was captured from {theirs.get('name')} (weights {theirs.get('digest')}), "
                f"the model given is {ours['name']} (weights {ours['digest']}): {other}"
            )

    # Rows --------------------------------------------------------------------------------------------
    @property
    def points(self) -> tuple[str, ...]:
        return self._files.points

    @property
    def widths(self) -> dict[str, int]:
        return dict(self._files.widths)

    @property
    def n_rows(self) -> int:
        return self._files.n_rows

    @property
    def rows(self) -> pd.DataFrame:
        if self._rows is None:
            self._rows = self._files.rows()
        return self._rows

    @property
    def provenance(self) -> dict[str, Any]:
        provenance = self._files.provenance()
        return provenance if self._n_inputs is None else {**provenance, "n_inputs": self._n_inputs}

    def __getitem__(self, key: PointKey) -> Float[Tensor, "row width"]:
        return self._files.tensor(self.name(key))

    @renamed(point="hook_name")
    def gather(
        self, hook_name: PointKey, index: Integer[np.ndarray, " chunk"]
    ) -> Float[Tensor, "chunk width"]:
        return self._files.gather(self.name(hook_name), index)

    def with_texts(self, texts: Sequence[str]) -> Store:
        return self._as(with_digests(self.rows, texts, self.provenance.get("n_inputs")), len(texts))

    def with_sources(self, source: Int[np.ndarray, " row"], n_inputs: int) -> Store:
        return self._as(self.rows.assign(source=source), n_inputs)

    def _as(self, rows: pd.DataFrame, n_inputs: int) -> Store:
        """The same store with other rows, of so many inputs; nothing is written."""
        other = copy.copy(self)
        other._rows, other._n_inputs = rows, n_inputs
        return other

    # Disk --------------------------------------------------------------------------------------------
    @property
    def request(self) -> dict[str, Any]:
        return dict(self._files.manifest["request"])

    @property
    def location(self) -> str:
        return str(self.path)

    def checksum(self, points: Sequence[str]) -> str:
        return self._files.checksum(points)

    def verify(self) -> None:
        """Check every file that was not checked yet.

        Raises:
            ArtifactError: At the first whose checksum differs.
        """
        self._files.verify()

    def load(self) -> Activations:
        """Everything in memory."""
        return Activations({p: self[p] for p in self.points}, self.rows, self.provenance)

    def select(self, rows: Any = None, points: Any = None) -> Activations:
        """Some rows and points, in memory."""
        tensors = {n: self[n] for n in wanted_names(points, self.points)}
        return Activations(tensors, self.rows, self.provenance).select(rows=rows)

    def __repr__(self) -> str:
        dtype = self._files.manifest["dtype"]
        return visible(f"Store({self.path}: {self.n_rows} rows × {len(self)} points, {dtype})")


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
        provenance = _provenance(path)
        if provenance and any(provenance.get(key) != value for key, value in manifest["request"].items()):
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
    if not provenance:
        return f"{path / 'provenance.json'} is missing or damaged"
    if not noted:
        with suppress(OSError):  # a folder that can only be read is verified every time
            note_times(path, manifest, provenance)
    return None


def _provenance(path: Path) -> dict[str, Any]:
    """What the store tells of its capture; nothing where the file is damaged, which `capture` writes anew."""
    try:
        provenance = read_json(path / "provenance.json")
    except ArtifactError:
        return {}
    return provenance if is_as_sealed(provenance) else {}


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
    """Raises:
    ArtifactError: Where rows are to be added that say no texts to rows that do.
    """
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
