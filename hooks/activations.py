"""Activations in memory: hook name → `[row, width]`, a row table, and where they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from graticule.hooks.alignment import TOKEN_DIGEST, named_by_text, sources, with_digests
from graticule.hooks.calls import came, renamed
from graticule.hooks.doors import ACTIVATIONS, several_texts
from graticule.hooks.latents import CapturedRows
from graticule.hooks.messages import TellsNames, visible
from graticule.hooks.names import check_name, place_of
from graticule.hooks.padding import (
    as_tensor,
    cache_shape,
    check_cache,
    check_dense,
    index_or_slice,
    names_in,
)
from graticule.hooks.places import Place
from graticule.hooks.points import LayerSpec, PointSpec
from graticule.hooks.rows import PointKey, wanted_names
from graticule.hooks.values import dtype_name

if TYPE_CHECKING:
    from typing import Self

    from graticule.hooks.padding import Lengths

_DIGEST_ROWS = 1 << 16  # read at once


class Activations(TellsNames, CapturedRows):
    """A mapping from hook name to a `[row, width]` tensor, with the row table beside it.

    Widths may differ between points; heads are flattened. `acts["blocks.7.hook_resid_post"]` and
    `acts["resid_post", 7]` are the same tensor. `rows` has one line per row: `source` (which input text),
    `position`, `token` where they are known, and the caller's own columns.
    """

    in_memory = True

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        rows: pd.DataFrame,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        """Raises:
        ValueError: If a tensor is not `[row, width]`, row counts differ, there is none, or a hook name
            cannot be a folder's (`BadNameError`).
        """
        if not tensors:
            raise ValueError("no points: give at least one {hook name: [row, width] tensor}")
        for name, tensor in tensors.items():
            check_name(name, "hook name")
            check_dense(name, tensor)
            if tensor.ndim != 2:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected [row, width]")
            if len(tensor) != len(rows):
                raise ValueError(f"{name} has {len(tensor)} rows, the row table {len(rows)}; they must agree")
        self._tensors = dict(tensors)
        self._rows = named_by_text(rows.reset_index(drop=True))
        self._provenance: dict[str, Any] = dict(provenance or {})

    # Rows --------------------------------------------------------------------------------------------
    @property
    def points(self) -> tuple[str, ...]:
        return tuple(self._tensors)

    @property
    def widths(self) -> dict[str, int]:
        return {name: int(t.shape[1]) for name, t in self._tensors.items()}

    @property
    def n_rows(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> pd.DataFrame:
        return self._rows

    @property
    def provenance(self) -> dict[str, Any]:
        return self._provenance

    def __getitem__(self, key: PointKey) -> Float[Tensor, "row width"]:
        return self._tensors[self.name(key)]

    @renamed(point="hook_name")
    def gather(
        self, hook_name: PointKey, index: Integer[np.ndarray, " chunk"]
    ) -> Float[Tensor, "chunk width"]:
        values = self[hook_name]
        chosen = torch.from_numpy(np.asarray(index, dtype=np.int64)).to(values.device)
        return torch.index_select(values, 0, chosen)

    def checksum(self, points: Sequence[str]) -> str:
        digest = hashlib.sha256()
        for point in points:
            values = self[point]
            digest.update(f"{point}{tuple(values.shape)}{values.dtype}".encode())
            for part in values.split(_DIGEST_ROWS):
                digest.update(part.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    @property
    def data(self) -> Float[Tensor, "point row d_model"]:
        """All points as one `[point, row, d_model]` tensor.

        Raises:
            ValueError: where widths differ.
        """
        if len(set(self.widths.values())) != 1:
            raise ValueError(f"widths differ between points ({self.widths}); take them one by one")
        return torch.stack(list(self._tensors.values()))

    def select(
        self,
        rows: Sequence[int] | np.ndarray | slice | None = None,
        points: PointKey | Sequence[PointKey] | None = None,
    ) -> Self:
        """The activations of some rows and points.

        Args:
            rows: Indices, a boolean mask, or a slice; None is all.
            points: Full names or (name, layer) pairs, one or several; None is all.

        Raises:
            PointError: for a point that was not captured.
            IndexError: for a row that is not there.
        """
        chosen = {name: self[name] for name in wanted_names(points, self.points)}
        table = self.rows
        if rows is not None:
            index = np.arange(self.n_rows)[rows if isinstance(rows, slice) else np.asarray(rows)].copy()
            chosen = {name: t[torch.from_numpy(index)] for name, t in chosen.items()}
            table = table.iloc[index]
        return type(self)(chosen, table, self.provenance)

    def with_texts(self, texts: Sequence[str]) -> Self:
        texts = several_texts("texts", texts)
        rows = with_digests(self.rows, texts, self.provenance.get("n_inputs"))
        return type(self)(self._tensors, rows, {**self.provenance, "n_inputs": len(texts)})

    def with_sources(self, source: Int[np.ndarray, " row"], n_inputs: int) -> Self:
        """The same activations with the text of each row numbered anew, of so many."""
        rows = self.rows.assign(source=source)
        return type(self)(self._tensors, rows, {**self.provenance, "n_inputs": n_inputs})

    def __repr__(self) -> str:
        kinds = sorted({dtype_name(t.dtype) for t in self._tensors.values()})
        widths = sorted(set(self.widths.values()))
        first, last = self.points[0], self.points[-1]
        span = first if first == last else f"{first} … {last}"
        return visible(
            f"Activations({self.n_rows} rows × {len(self)} points, "
            f"width {'/'.join(map(str, widths))}, {'/'.join(kinds)}: {span})"
        )

    # Making ------------------------------------------------------------------------------------------
    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, Tensor | np.ndarray],
        rows: pd.DataFrame | None = None,
        provenance: Mapping[str, Any] | None = None,
        *,
        texts: Sequence[str] | None = None,
    ) -> Self:
        """Activations captured elsewhere: `{hook name: [row, width]}`, and a table of their rows.

        Without a `source` column, row i is taken to come from text i, and `texts` has one for each row. With
        `texts`, a table's rows are compared with them; without, only their number can be.

        Tensors and arrays are used where they lie, without a copy: change none of them in place afterwards,
        or pass `tensor.clone()`.

        Args:
            tensors: Hook name → `[row, width]` values.
            rows: A line for each row, `source` saying which text it is of.
            provenance: What is known of the capture.
            texts: What the rows are of.
        """
        if not hasattr(tensors, "items"):
            write = ACTIVATIONS.write(tensors)
            raise TypeError(f"from_tensors: tensors is {came(tensors)}; expected names and rows: {write}")
        made = {str(name): as_tensor(str(name), values) for name, values in tensors.items()}
        if not made:
            raise ValueError("no points: give at least one {hook name: [row, width] tensor}")
        n_rows = len(next(iter(made.values())))
        table = pd.DataFrame(index=range(n_rows)) if rows is None else named_by_text(rows.copy())
        origin = dict(provenance or {"captured_by": "from_tensors"})
        if "source" not in table:
            table.insert(0, "source", np.arange(len(table)))
            origin.setdefault("n_inputs", len(table))
        sources(table)
        acts = cls(made, table, origin)
        return acts if texts is None else acts.with_texts(texts)

    @classmethod
    @renamed("pos", "points", "layers")
    def from_cache(
        cls,
        cache: Any,
        *,
        pos: int | slice | str = -1,
        points: PointSpec | None = None,
        layers: LayerSpec = "all",
        lengths: Lengths | None = None,
        attention_mask: Any = None,
        texts: Sequence[str] | None = None,
    ) -> Self:
        """Rows of a TransformerLens `ActivationCache`: one per text for an index, several for a slice.

        `pos` counts a text's own tokens, never padding: as `lengths` (tokens of each row, BOS included,
        padded on the right) or `attention_mask` say, or as the cache's embeddings tell. Points of another
        shape than `[batch, pos, …]` (attention patterns), the scales of layer norms and the unembedding's
        are left out, unless they are asked for by name.

        Args:
            cache: The second of what `run_with_cache` gives.
            pos: Which tokens become rows: an index, a slice, `"last"` or `"all"`.
            points: Points, as in `graticule.hooks.points.resolve`; all by default.
            layers: Layers, for points without one.
            lengths: Tokens of every row, or one number for all.
            attention_mask: 1 where a token is the text's own. Of a model that reads both ways, what the pass
                was given: without a mask its texts see the padding behind them, which a cache does not tell.
            texts: What was run, so that a table's rows are compared with it; in another order than the
                cache's tokens they are refused (`AlignmentError`).

        Raises:
            TypeError: It is no cache.
            PointError: A point is asked for that the cache does not hold.
            ValueError: It has no `[batch, pos, …]` shape, or it cannot be told which tokens are padding.
            IndexError: A text has no token at `pos`.
        """
        from graticule.hooks.padding import check_unseen, extent_of, ids_of_cache
        from graticule.hooks.token_digests import check_tokens, digests_of_cache

        check_cache(cache)
        at_pos = index_or_slice(pos)
        names = names_in(cache, points, layers)
        batch, length = cache_shape(cache)
        model = getattr(cache, "model", None)
        tokenizer = getattr(model, "tokenizer", None)
        given = lengths is not None or attention_mask is not None
        ids = None if given else ids_of_cache(cache, model)
        extent = extent_of(batch, length, ids, tokenizer, lengths, attention_mask)
        row, place, position = extent.pick(at_pos)
        tensors: dict[str, Tensor] = {}
        for name in names:
            value: Tensor = cache[name]
            check_dense(name, value)
            if value.ndim < 3 or value.shape[:2] != (batch, length) or name.endswith(("pattern", "scores")):
                if points is not None:
                    raise ValueError(f"{name} has shape {tuple(value.shape)}; expected [batch, pos, width]")
                continue
            at = torch.from_numpy(row).to(value.device), torch.from_numpy(place).to(value.device)
            tensors[name] = value.detach()[at].flatten(1)
        if model is not None and attention_mask is None:
            run = [name for name in tensors if name in model.hook_dict][-1:]
            check_unseen(extent, length, model, run, "run it with attention_mask=, and say it here")
        table = pd.DataFrame({"source": row, "position": position})
        if (digests := digests_of_cache(cache, model, extent)) is not None:
            table[TOKEN_DIGEST] = digests[row]
            if texts is not None and len(several_texts("texts", texts)) == batch:
                check_tokens(tokenizer, digests, texts)
        acts = cls(tensors, table, {"captured_by": "ActivationCache", "n_inputs": batch})
        return acts if texts is None else acts.with_texts(texts)

    # Disk --------------------------------------------------------------------------------------------
    @renamed("overwrite")
    def save(self, path: Path | str, *, overwrite: bool = False) -> Place:
        """Write a store (schema 1) that `Store` and `load` read, as a folder or behind a url (`s3://…`).

        Returns:
            Where it is.

        Raises:
            FileExistsError: if `path` exists, unless `overwrite`.
        """
        from graticule.hooks.store_writer import save_rows

        save_rows(self, path, overwrite)
        return place_of(path)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a whole store into memory.

        Raises:
            ArtifactError: if it is incomplete, damaged, or of another schema.
        """
        from graticule.hooks.store_files import files_of

        files = files_of(place_of(path))
        return cls({point: files.tensor(point) for point in files.points}, files.rows(), files.provenance())

    @classmethod
    def from_saelens(cls, path: Path | str) -> Self:
        """Read a SAELens cached-activation dataset."""
        from graticule.hooks.coders import read_saelens

        return cls(*read_saelens(path))
