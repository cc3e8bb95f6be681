"""State of a long job in one file: nested dicts of tensors, numbers and words, exactly.

The file is safetensors; words and numbers are JSON in its header. What comes back equals what was saved:
tensors to the bit, floats (infinite ones and NaN too), tuples as tuples, dicts with integer keys (PyTorch's
optimizers have them) as such.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from graticule.hooks.artifact import SCHEMA, ArtifactError, check_schema, replacing

KIND = "state"
_TAGS = ("$tensor", "$array", "$tuple", "$items", "$float")


def save_state(path: Path | str, state: Mapping[str, Any]) -> None:
    """Write `state` to the file `path`, atomically: whenever the process dies, the old file or the new one is
    there, whole.

    **Raises** `TypeError` naming the first entry that is no tensor, array, number, word, list, tuple or dict.
    """
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    words = {"kind": KIND, "schema": SCHEMA, "state": _pack(state, "", tensors, set())}
    header = {"graticule": json.dumps(words, allow_nan=False)}
    with replacing(Path(path)) as temporary:
        save_file({k: t.cpu().contiguous() for k, t in tensors.items()}, temporary, header)


def load_state(path: Path | str) -> dict[str, Any]:
    """The state in a file, tensors on the CPU.

    **Raises** `ArtifactError` if it is missing, damaged or something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            header = (file.metadata() or {}).get("graticule", "{}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        words = cast("dict[str, Any]", json.loads(header))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing") from error
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ArtifactError(f"{path} is damaged ({error}); write it again") from error
    check_schema(words, KIND, path)
    return _unpack(words["state"], tensors)


def _pack(value: Any, where: str, tensors: dict[str, Tensor], storages: set[int]) -> Any:
    """`value` in JSON's types; tensors go to `tensors` under the place they were found at."""
    if isinstance(value, np.generic):
        return _pack(value.item(), where, tensors, storages)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, Tensor | np.ndarray):
        tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) else value.detach()
        tensors[where] = _own(tensor, storages)
        return {"$tensor" if isinstance(value, Tensor) else "$array": where}
    if isinstance(value, list | tuple):
        items = cast("list[Any]", value)
        made = [_pack(v, f"{where}.{i}", tensors, storages) for i, v in enumerate(items)]
        return {"$tuple": made} if isinstance(value, tuple) else made
    if isinstance(value, Mapping):
        pairs = cast("Mapping[Any, Any]", value)
        packed = [
            (k, _pack(v, f"{where}.{k}" if where else str(k), tensors, storages)) for k, v in pairs.items()
        ]
        if all(isinstance(k, str) and k not in _TAGS for k in pairs):
            return dict(packed)
        return {"$items": [[_pack(k, where, tensors, storages), v] for k, v in packed]}
    raise TypeError(
        f"{where or 'state'} is {type(value).__name__}; a state holds tensors, arrays, numbers, words, "
        "lists, tuples and dicts of them"
    )


def _own(tensor: Tensor, storages: set[int]) -> Tensor:
    """The tensor, copied where it shares memory with one before it: safetensors refuses those."""
    place = tensor.untyped_storage().data_ptr()
    if place in storages:
        return tensor.clone()
    storages.add(place)
    return tensor


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(v, tensors) for v in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    entries = cast("dict[str, Any]", value)
    if len(entries) == 1:
        ((tag, inner),) = entries.items()
        if tag == "$float":
            return float(inner)
        if tag == "$tensor":
            return tensors[inner]
        if tag == "$array":
            return tensors[inner].numpy()
        if tag == "$tuple":
            return tuple(_unpack(v, tensors) for v in inner)
        if tag == "$items":
            return {_unpack(k, tensors): _unpack(v, tensors) for k, v in inner}
    return {k: _unpack(v, tensors) for k, v in entries.items()}
