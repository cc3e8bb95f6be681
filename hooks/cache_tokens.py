"""Which tokens a TransformerLens cache is of, where it tells."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from graticule.hooks.model_view import ModelView
from graticule.hooks.padding import Extent, Ids, embedded_ids, embeds_ids
from graticule.hooks.texts_said import digests_of_rows

_COLUMNS = 8
"""Numbers of an embedding by which its token is looked up; the others are compared then."""


def digests_of_cache(cache: Any, model: Any, extent: Extent) -> Int[np.ndarray, " batch"] | None:
    """The digest of each text's own tokens, or None where the cache does not tell them.

    Args:
        cache: Of a pass.
        model: That was run, or None.
        extent: Where the texts lie.
    """
    ids = _ids(cache, model)
    if ids is None:
        return None
    spans = zip(ids.tolist(), extent.start, extent.stop, strict=True)
    return digests_of_rows(getattr(model, "tokenizer", None), [row[start:stop] for row, start, stop in spans])


def _ids(cache: Any, model: Any) -> Ids | None:
    """The ids that a bridge embeds, else those whose embeddings stand in the cache."""
    if embeds_ids(cache):
        return embedded_ids(cache)
    table = None if model is None else ModelView(model).embedding
    if "hook_embed" not in set(cache.keys()) or table is None:
        return None
    value: Tensor = cache["hook_embed"]
    if value.ndim != 3 or value.shape[-1] != table.shape[1] or value.dtype != table.dtype:
        return None
    of = {key: token for token, key in enumerate(_keys(table))}
    tokens = [of.get(key, -1) for key in _keys(value.flatten(0, 1))]
    at = torch.tensor(tokens, device=table.device)
    if (at < 0).any() or not torch.equal(table.detach()[at], value.flatten(0, 1).to(table.device)):
        return None
    return at.view(value.shape[:2]).cpu().numpy()


def _keys(rows: Tensor) -> list[bytes]:
    """The first numbers of every row."""
    first = rows.detach()[:, :_COLUMNS].to("cpu", torch.float64).contiguous().numpy()
    width = first.shape[1] * first.itemsize
    data = first.tobytes()
    return [data[start : start + width] for start in range(0, len(data), width)]
