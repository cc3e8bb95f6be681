"""Which texts the rows of a store say they are of, set against those that a capture is given now."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from graticule.hooks.alignment import DIGEST, text_digests, whole_column
from graticule.hooks.artifact import ArtifactError, read_table, sha256
from graticule.hooks.names import inside_file
from graticule.hooks.places import Place
from graticule.hooks.store import Store
from graticule.hooks.store_files import rows_file

_log = logging.getLogger(__name__)


def shards_say_texts(
    path: Place, manifest: Mapping[str, Any], texts: Sequence[str] | None, damaged: Collection[int] = ()
) -> set[bool]:
    """Whether shards say their rows' texts; both where some do and some do not.

    Args:
        path: Of the store.
        manifest: What it says of itself.
        texts: The text of each input, or None where nothing says it.
        damaged: Shards that are left out, as are those that cannot be read.

    Raises:
        ArtifactError: Some row was captured as of another text.
    """
    digests = None if texts is None else text_digests(texts)
    say: set[bool] = set()
    for index, shard in enumerate(manifest["shards"]):
        file = inside_file(path, rows_file(index))
        try:
            rows = None if index in damaged else read_table(file, ["source", DIGEST])
        except ArtifactError:
            continue
        if rows is None:
            continue
        theirs = whole_column(rows, DIGEST)
        say.add(theirs is not None)
        if texts is None or digests is None or theirs is None:
            continue
        source = rows["source"].to_numpy(np.int64).clip(0, len(digests) - 1)
        other = np.flatnonzero(theirs != digests[source])
        if len(other) and sha256(file) == shard["files"][rows_file(index)]:
            row, text = shard["rows"][0] + int(other[0]), int(source[other[0]])
            raise ArtifactError(
                f"{path} was captured with other texts: its row {row} is of another one than "
                f"{str(texts[text])[:40]!r}, which input {text} is now said to be of; for these texts choose "
                "another place, or remove it"
            )
    return say


def check_going_on(path: Place, say: set[bool], texts: Sequence[str] | None) -> None:
    """**Raises** `ArtifactError` where rows are to be added that say no texts to rows that do."""
    if texts is None and True in say:
        raise ArtifactError(
            f"{path} is not whole, and its rows say which texts they are of: give texts= as before, or "
            "choose another place"
        )


def of_texts(store: Store, say: set[bool], texts: Sequence[str] | None) -> Store:
    """A finished store, said to be of these texts where its own rows do not say any."""
    if texts is None or False not in say:
        return store
    _log.warning(
        "%s: its rows do not say which texts they are of; taken to be of those given now, which are not "
        "written into it",
        store.path,
    )
    return store.with_texts(texts)
