"""The run folder: what was asked for, refused where it differs, and which state the run is in."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graticule.hooks.artifact import (
    SCHEMA,
    as_damaged,
    check_schema,
    json_ready,
    library_versions,
    read_json,
    write_json,
)
from graticule.hooks.kinds import FolderKind
from graticule.hooks.requests import differences, told

_log = logging.getLogger(__name__)

KIND = "sae_run"
FILE = "run.json"
_UNSAID = "stream.graticule.values: not set"
"""What runs of 0.1 do not tell of their rows."""
RUN = FolderKind(KIND, "run of an SAE", FILE, ())
"""The folder of a run; `run.json` is there first."""


def open_run(folder: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """What `folder` says of this very run: a new `run.json`, or the one that is there.

    **Raises** `FileExistsError` if `folder` holds something else, `ValueError` naming what differs if it
    holds a run of another request, `ArtifactError` if its `run.json` is damaged.
    """
    RUN.check(folder)
    if not (folder / FILE).is_file():
        words = {"kind": KIND, "schema": SCHEMA, "state": "training", "tokens": 0, "steps": 0}
        words |= {"request": json_ready(request), "versions": library_versions()}
        write_json(folder / FILE, words)
        return words
    held = read_json(folder / FILE)
    check_schema(held, KIND, folder)
    with as_damaged(folder / FILE, "train into another folder"):
        differing = differences(held["request"], request)
    unsaid = [words for words in differing if words.startswith(_UNSAID)]
    if unsaid and len(unsaid) == len(differing):
        _log.warning("%s was begun by an earlier version: whether its rows are the same is not known", folder)
        return held
    if differing:
        raise ValueError(
            f"{folder} holds a run of another request ({told(differing)}): "
            "train with its settings to go on, or choose another folder"
        )
    return held


def update_run(folder: Path, held: dict[str, Any], **changes: Any) -> None:
    """Write `run.json` with `changes`, and keep them in `held`."""
    held.update(changes)
    write_json(folder / FILE, held)
