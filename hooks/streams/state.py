"""The state of a long job as JSON and tensors: nested dicts of tensors, numbers and words, exactly.

What is unpacked equals what was packed: tensors to the bit, floats (infinite ones and NaN too), tuples as
tuples, dicts with integer keys (PyTorch's optimizers have them) as such.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor


def pack(value: Any, tensors: dict[str, Tensor], path: str = "state") -> Any:
    """`value` in JSON's own types, its tensors moved into `tensors` under the path that leads to them.

    What JSON would not give back as it was (tuples, keys that are no strings, infinities) is marked.

    **Raises** `TypeError` for anything but tensors, arrays, numbers, strings, None, lists, tuples and dicts.
    """
    if isinstance(value, Tensor):
        while path in tensors:  # {"a.b": …} beside {"a": {"b": …}}
            path += "'"
        tensors[path] = value.detach()
        return {"$tensor": path}
    if isinstance(value, np.ndarray):
        return {"$array": pack(torch.from_numpy(value), tensors, path)["$tensor"]}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, list | tuple):
        items = cast("list[Any]", value)
        packed = [pack(item, tensors, f"{path}.{i}") for i, item in enumerate(items)]
        return packed if isinstance(value, list) else {"$tuple": packed}
    if isinstance(value, Mapping):
        held = cast("Mapping[Any, Any]", value)
        if all(isinstance(key, str) and not key.startswith("$") for key in held):
            return {key: pack(item, tensors, f"{path}.{key}") for key, item in held.items()}
        pairs = [[pack(k, tensors), pack(v, tensors, f"{path}.{k}")] for k, v in held.items()]
        return {"$pairs": pairs}
    raise TypeError(f"{path} is a {type(value).__name__}: a state holds tensors and plain values only")


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `pack` was given.

    **Raises** `KeyError` for a tensor that is not there.
    """
    if isinstance(value, list):
        return [unpack(item, tensors) for item in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    held = cast("dict[str, Any]", value)
    if "$tensor" in held:
        return tensors[held["$tensor"]]
    if "$array" in held:
        return tensors[held["$array"]].numpy()
    if "$float" in held:
        return float(held["$float"])
    if "$tuple" in held:
        return tuple(unpack(item, tensors) for item in held["$tuple"])
    if "$pairs" in held:
        return {unpack(k, tensors): unpack(v, tensors) for k, v in held["$pairs"]}
    return {key: unpack(item, tensors) for key, item in held.items()}


def apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor with a storage of its own: safetensors refuses shared ones."""
    seen: set[int] = set()
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        shared = storage.data_ptr() in seen or storage.nbytes() != tensor.numel() * tensor.element_size()
        seen.add(storage.data_ptr())
        out[name] = tensor.clone(memory_format=torch.contiguous_format) if shared else tensor
    return out
