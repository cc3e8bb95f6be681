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
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Integer
from torch import Tensor

from graticule.hooks.activations import Activations
from graticule.hooks.alignment import with_digests
from graticule.hooks.artifact import ArtifactError
from graticule.hooks.identity import is_of, model_identity, of_earlier_digest
from graticule.hooks.messages import visible
from graticule.hooks.names import place_of
from graticule.hooks.places import Place
from graticule.hooks.protocols import HookedModel
from graticule.hooks.rows import PointKey, Rows, wanted_names
from graticule.hooks.same_model import model_difference
from graticule.hooks.store_files import files_of

if TYPE_CHECKING:
    from graticule.hooks.latents import Latents


class Store(Rows):
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
        self._files = files_of(self.path, verify)
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

    def gather(self, point: PointKey, index: Integer[np.ndarray, " chunk"]) -> Float[Tensor, "chunk width"]:
        return self._files.gather(self.name(point), index)

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

    def encode(self, sae: Any, point: str | None = None, *, batch: int = 4096) -> Latents:
        """The latents of a SAELens SAE (or its folder, or a run) on the rows of its own hook point, sparse:
        see `latents.encode`."""
        from graticule.hooks.latents import encode

        return encode(self, sae, point, batch=batch)

    def to_saelens(self, path: Path | str, point: str | None = None, context_size: int | None = None) -> None:
        """Export one point as the cached-activation dataset that SAELens's `ActivationsStore` reads."""
        from graticule.hooks.saelens import write_saelens

        write_saelens(self, path, point, context_size)

    def __repr__(self) -> str:
        dtype = self._files.manifest["dtype"]
        return visible(f"Store({self.path}: {self.n_rows} rows × {len(self)} points, {dtype})")
