"""Rows far longer than the others, left out of a measurement as they were of the training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from graticule.hooks.coders import SparseCoder, metadata
from graticule.hooks.doors import Kind
from graticule.hooks.limits import LIMITS
from graticule.hooks.streams.norms import NormLimit
from graticule.saes.evaluation.sample import Sample

LONGEST = Kind(
    "a multiple of the median norm above 1, 'trained' or None",
    lambda value: value == "trained" or LIMITS["max_norm"].takes(value),
    lambda value: "max_norm=10",  # noqa: ARG005
).or_none()
"""What `max_norm` may be where there is an SAE already."""


def norm_limit(sae: SparseCoder, max_norm: float | int | Literal["trained"] | None) -> NormLimit:
    """The limit asked for; for `"trained"` the one of the SAE's training, as its metadata says, or none."""
    if max_norm != "trained":
        return NormLimit(max_norm)
    made = metadata(sae, "graticule")
    return NormLimit(made.get("max_norm") if isinstance(made, Mapping) else None)


def rows_within(flat: Tensor, batch: slice, sample: Sample, limit: NormLimit, point: str) -> Tensor:
    """The rows `[row, width]` of a batch `[context, pos, width]` that count; those beyond `limit` are taken
    out of `sample.kept`."""
    counted = torch.from_numpy(sample.kept[batch]).to(flat.device)
    away = limit.beyond(point, flat[counted])
    limit.count(len(away), int(away.sum()))
    counted[counted.clone()] = ~away
    sample.kept[batch] = counted.cpu().numpy()
    return flat[counted]
