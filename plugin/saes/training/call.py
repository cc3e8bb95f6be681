"""The call as it was made, kept beside the request: another call into the same folder is told at once, by the
names that the caller used, before a model is run or even loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, cast

from graticule.hooks.artifact import json_ready, read_json
from graticule.hooks.requests import differences, flat
from graticule.saes.runs.folder import FILE

_OBJECT = "an object"  # what has no words, and is compared by what it holds later


def call_words(**arguments: Any) -> dict[str, Any]:
    """Arguments of `train` as plain values; what was not given and what has no words is left out."""
    plain = {name: _plain(value) for name, value in arguments.items()}
    return {name: value for name, value in flat(json_ready(plain)) if value not in (None, _OBJECT, {})}


def check_call(out: Path, call: Mapping[str, Any]) -> None:
    """Refuse a call into the folder of a run that was called otherwise.

    Args:
        out: the run folder, which may not exist yet.
        call: what `call_words` made of the arguments.

    Raises:
        ValueError: naming every argument that was given in both calls and differs.
    """
    if not (out / FILE).is_file():
        return
    before = read_json(out / FILE).get("call") or {}
    both = [name for name in before if name in call]
    found = differences({n: before[n] for n in both}, {n: call[n] for n in both})
    if found:
        raise ValueError(
            f"{out} holds a run of another request ({'; '.join(found)}): train with its settings to go on, "
            "or choose another folder"
        )


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(item) for name, item in asdict(value).items() if name != "metadata"}
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value)
        return {str(key): _plain(item) for key, item in items.items()}
    if isinstance(value, Sequence) and all(isinstance(v, bool | int | float | str) for v in value):
        return list(cast("Sequence[Any]", value)) if len(value) <= 100 else _OBJECT
    return _OBJECT
