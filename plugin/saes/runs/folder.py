"""The run folder: what was asked for, refused where it differs, and which state the run is in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from graticule.hooks.artifact import SCHEMA, check_schema, json_ready, library_versions, read_json, write_json
from graticule.hooks.replacing import tidy

KIND = "sae_run"
FILE = "run.json"
_SHOWN = 6
_DIGESTS = ("digest", "inputs", "rows")
_OTHER = "another one, though it may have the same name"


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value in nested dicts, under the names that lead to it."""
    if isinstance(value, Mapping) and value:
        for key, item in cast("Mapping[str, Any]", value).items():
            yield from flat(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`name: before → now` for every setting that two requests do not share."""
    old, new = dict(flat(json_ready(before))), dict(flat(json_ready(now)))
    names = [*old, *(name for name in new if name not in old)]
    found = [
        _difference(name, old.get(name, "not set"), new.get(name, "not set"))
        for name in names
        if old.get(name, "not set") != new.get(name, "not set")
    ]
    return sorted(found, key=lambda words: words.endswith(_OTHER))  # settings first, contents after


def _difference(name: str, before: Any, now: Any) -> str:
    """`name: before → now`; of digests, which say nothing to people, what they are of."""
    *path, last = name.split(".")
    if last in _DIGESTS and "not set" not in (before, now):
        return f"{'.'.join(path if last == 'digest' else [*path, last])}: {_OTHER}"
    return f"{name}: {before} → {now}"


def open_run(folder: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """What `folder` says of this very run: a new `run.json`, or the one that is there.

    **Raises** `FileExistsError` if `folder` holds something else, `ValueError` naming what differs if it
    holds a run of another request, `ArtifactError` if its `run.json` is damaged.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; name a folder")
    if not (folder / FILE).is_file():
        if folder.exists() and any(f for f in folder.iterdir() if not f.name.startswith(".")):
            raise FileExistsError(f"{folder} holds something other than an SAE's run; choose another place")
        words = {"kind": KIND, "schema": SCHEMA, "state": "training", "tokens": 0, "steps": 0}
        words |= {"request": json_ready(request), "versions": library_versions()}
        write_json(folder / FILE, words)
        return words
    tidy(folder)
    held = read_json(folder / FILE)
    check_schema(held, KIND, folder)
    found = differences(held["request"], request)
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise ValueError(
            f"{folder} holds a run of another request ({'; '.join(found[:_SHOWN])}{more}): "
            "train with its settings to go on, or choose another folder"
        )
    return held


def update_run(folder: Path, held: dict[str, Any], **changes: Any) -> None:
    """Write `run.json` with `changes`, and keep them in `held`."""
    held.update(changes)
    write_json(folder / FILE, held)
