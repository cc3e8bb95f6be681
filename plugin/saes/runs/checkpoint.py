"""Checkpoints that outlive a kill at any moment: one safetensors file, and one JSON file that names it.

The JSON file is the commit: it is replaced by one rename, after the tensors it names are on disk, and only
then are the older tensors removed. Whatever is killed when, `checkpoint.json` names a whole checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from graticule.hooks.artifact import (
    SCHEMA,
    ArtifactError,
    as_damaged,
    check_schema,
    library_versions,
    read_json,
    read_tensors,
    sha256,
    write_json,
    write_tensors,
)
from graticule.hooks.names import inside
from graticule.hooks.streams.state import apart, pack, unpack

KIND = "sae_checkpoint"
_INDEX = "checkpoint.json"


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
    write_tensors(folder / name, apart(tensors))
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
    with as_damaged(folder / _INDEX, "train into another folder"):
        file = inside(folder, index["tensors"])
        if not file.is_file() or sha256(file) != index["sha256"]:
            raise ArtifactError(
                f"{file} is missing or damaged (its checksum differs); train into another folder"
            )
        return unpack(index["state"], read_tensors(file))


def _clean(folder: Path, keep: str) -> None:
    """Remove older checkpoints' tensors."""
    for file in folder.glob("*.safetensors"):
        if file.name != keep:
            file.unlink(missing_ok=True)
