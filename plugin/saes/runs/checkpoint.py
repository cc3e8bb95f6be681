"""Checkpoints that outlive a kill at any moment: one safetensors file, and one JSON file that names it.

The JSON file is the commit: it is replaced by one rename, after the tensors it names are on disk, and only
then are the older tensors removed. Whatever is killed when, `checkpoint.json` names a whole checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from graticule.hooks.artifact import (
    SCHEMA,
    ArtifactError,
    check_schema,
    library_versions,
    read_json,
    read_tensors,
    sha256,
    write_json,
    write_tensors,
)

KIND = "sae_checkpoint"
_INDEX = "checkpoint.json"


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
    raise TypeError(f"{path} is a {type(value).__name__}: a checkpoint holds tensors and plain values only")


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


def write_checkpoint(folder: Path, step: int, state: Mapping[str, Any]) -> None:
    """Make `state` the checkpoint in `folder`, in place of the one there; a no-op if it is of this step.

    **Raises** `TypeError` as `pack` does.
    """
    if (folder / _INDEX).is_file() and read_json(folder / _INDEX).get("step") == step:
        return
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    packed = pack(dict(state), tensors)
    name = f"{step:010d}.safetensors"
    write_tensors(folder / name, _apart(tensors))
    index = {"kind": KIND, "schema": SCHEMA, "step": step, "tensors": name}
    index |= {"sha256": sha256(folder / name), "versions": library_versions(), "state": packed}
    write_json(folder / _INDEX, index)
    _clean(folder, name)


def read_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The state in `folder`'s checkpoint, on the CPU; None where there is none yet.

    **Raises** `ArtifactError` if it is damaged or of another schema.
    """
    if not (folder / _INDEX).is_file():
        return None
    index = read_json(folder / _INDEX)
    check_schema(index, KIND, folder)
    file = folder / index["tensors"]
    if not file.is_file() or sha256(file) != index["sha256"]:
        raise ArtifactError(f"{file} is missing or damaged (its checksum differs); train into another folder")
    return unpack(index["state"], read_tensors(file))


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor with a storage of its own: safetensors refuses shared ones."""
    seen: set[int] = set()
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        shared = storage.data_ptr() in seen or storage.nbytes() != tensor.numel() * tensor.element_size()
        seen.add(storage.data_ptr())
        out[name] = tensor.clone(memory_format=torch.contiguous_format) if shared else tensor
    return out


def _clean(folder: Path, keep: str) -> None:
    """Remove older checkpoints' tensors, and what a kill left half-written."""
    for file in [*folder.glob("*.safetensors"), *folder.glob(".*.tmp")]:
        if file.name != keep:
            file.unlink(missing_ok=True)
