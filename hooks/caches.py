"""What a TransformerLens cache holds, and which of it is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from graticule.hooks.doors import ACTIVATIONS, came
from graticule.hooks.masked import MaskedError, unmasked
from graticule.hooks.points import LayerSpec, PointSpec, layer_of, resolve_layers, resolve_names

_NO_REPRESENTATION = ("hook_scale",)


def names_in(cache: Any, points: PointSpec | None, layers: LayerSpec) -> list[str]:
    """Names of a cache's entries: those asked for, or all that are activations of the residual's making."""
    names = [str(name) for name in cache.keys()]  # noqa: SIM118  (an ActivationCache iterates over values)
    if points is None:
        every = [n for n in names if not n.endswith(_NO_REPRESENTATION) and not n.startswith("unembed.")]
        if layers == "all":
            return every
        n_layers = 1 + max((layer for n in names if (layer := layer_of(n)) is not None), default=-1)
        return [n for n in every if layer_of(n) in resolve_layers(n_layers, layers)]
    asked = [points] if isinstance(points, str) else points
    if all(isinstance(point, str) and point in names for point in asked):
        return [str(point) for point in asked]
    return list(resolve_names(names, points, layers))


def check_cache(cache: Any) -> None:
    """**Raises** `TypeError` for what is no cache, `ValueError` for a text without its batch dimension."""
    if isinstance(cache, tuple):
        raise TypeError(
            "from_cache: cache is a tuple, the output and the cache; expected the second: "
            "_, cache = model.run_with_cache(tokens)"
        )
    if isinstance(cache, Tensor | np.ndarray) or not hasattr(cache, "keys"):
        write = ACTIVATIONS.write(cache) if hasattr(cache, "shape") else "model.run_with_cache(tokens)[1]"
        raise TypeError(f"from_cache: cache is {came(cache)}; expected what run_with_cache caches: {write}")
    if not getattr(cache, "has_batch_dim", True):
        raise ValueError(
            "from_cache: this cache has no batch dimension; expected [batch, pos, d_model]: leave "
            "remove_batch_dim out of run_with_cache"
        )


def check_dense(name: str, tensor: Tensor) -> None:
    """**Raises** `ValueError` for a tensor that is no array of numbers as they are."""
    kinds = (
        (tensor.is_nested, "nested", "torch.cat(tensor.unbind())"),
        (tensor.layout != torch.strided, "sparse", "tensor.to_dense()"),
        (tensor.is_meta, "on the meta device, where tensors have no values", "one that was computed"),
        (tensor.is_quantized, "quantised", "tensor.dequantize()"),
        (tensor.is_complex(), "complex", "tensor.abs(), or real and imaginary parts side by side"),
    )
    for so, kind, write in kinds:
        if so:
            raise ValueError(f"{name} is a tensor that is {kind}; expected plain numbers: {write}")


def as_tensor(name: str, values: Any) -> Tensor:
    """Numbers of rows as a tensor, where they lie.

    Args:
        name: Of the point, for messages.
        values: A tensor, an array, or nested lists.

    Returns:
        The tensor, detached.

    Raises:
        TypeError: They are no numbers, or columns of a DataFrame.
        ValueError: There are none, or no array of real ones.
    """
    if hasattr(values, "iloc"):
        raise TypeError(f"{name} is a {type(values).__name__}; expected numbers alone: values.to_numpy()")
    try:
        tensor = torch.as_tensor(unmasked(name, values)).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, MaskedError):
            raise
        kind = getattr(values, "dtype", None) or f"a {type(values).__name__}"
        raise TypeError(
            f"{name} holds {kind}, which is no tensor of numbers: expected [row, width], as "
            "values.astype('float32') gives where each entry is a number"
        ) from error
    check_dense(name, tensor)
    if not tensor.numel():
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, no number at all; expected [row, width]")
    return tensor


def index_or_slice(pos: Any) -> int | slice:
    """**Raises** `ValueError` for what is neither, nor "last" or "all"."""
    named = {"last": -1, "all": slice(None)}.get(pos) if isinstance(pos, str) else pos
    if not isinstance(named, int | np.integer | slice) or isinstance(named, bool):
        raise ValueError(
            f"pos={pos!r}: expected an index such as -1, a slice, 'last' or 'all'; for the "
            "entity in a prompt take graticule.capture"
        )
    return named if isinstance(named, slice) else int(named)


def cache_shape(cache: Any) -> tuple[int, int]:
    """Batch and position counts of a cache, from any residual or embedding entry."""
    for name in cache.keys():  # noqa: SIM118  (an ActivationCache iterates over values)
        if "resid" in name or name.endswith(("hook_embed", "hook_out", "_out")):
            value: Tensor = cache[name]
            if value.ndim == 3:
                return int(value.shape[0]), int(value.shape[1])
    raise ValueError("this cache holds no [batch, pos, d_model] activation with a batch dimension")
