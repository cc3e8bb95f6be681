"""The fields of a table: data read, rows checked, clusters linked, the split taken or drawn."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from graticule.hooks.alignment import named_by_text
from graticule.hooks.names import user_path
from graticule.probes.scores.metrics import share_below
from graticule.probes.tables.alike import AUTO, alike_texts
from graticule.probes.tables.checks import (
    check_coordinates,
    column_name,
    column_names,
    duplicates,
    need_column,
    need_text_and_target,
    need_two_clusters,
    need_variation,
    need_whole,
    read_texts,
    refuse,
    say_unclustered,
)
from graticule.probes.tables.columns import (
    Kind,
    TableError,
    read_as_missing,
    read_split,
    read_targets,
    say_alike,
)
from graticule.probes.tables.confounders import confounder_frames
from graticule.probes.tables.groups import (
    across,
    draw_split,
    link_clusters,
    row_clusters,
)
from graticule.probes.tables.reading import read_frame, words_for_missing
from graticule.probes.tables.units import RANK, Units, read_units, with_grades

MIN_TRAIN, MIN_TEST = 3, 2

logger = logging.getLogger(__name__)


def read_fields(
    data: pd.DataFrame | str | Path,
    text: Hashable | None,
    target: Hashable | Sequence[Hashable] | pd.Index,
    units: Units,
    split: Hashable | None,
    cluster: Hashable | None,
    blocks: Hashable | Sequence[Hashable] | pd.Index,
    name: str | None,
    on_bad: Literal["raise", "drop"],
    test_size: float,
    seed: int,
    kind: Kind | Literal["ordinal"] | None,
    positive: Any,
    confounds: Hashable | Sequence[Hashable] | pd.Index,
) -> tuple[dict[str, Any], str]:
    """What `Table` is filled with, from what it was given, which it explains.

    Returns:
        Its fields, `origin` being where the split comes from; and what to add where rows are said to be
        dropped.

    Raises:
        TableError: Rows cannot be used, or what was asked does not fit the data.
    """
    labels = data.columns.tolist() if isinstance(data, pd.DataFrame) else ()
    text = column_name("text", text, labels)
    split, cluster = column_name("split", split, labels), column_name("cluster", cluster, labels)
    targets, levels = column_names("target", target, labels), column_names("blocks", blocks, labels)
    beside = list(dict.fromkeys(column_names("confounds", confounds, labels)))
    if on_bad not in ("raise", "drop"):
        raise TableError(f"on_bad is {on_bad!r}: pass 'raise' or 'drop'")
    if kind not in (None, "numeric", "ordinal", "binary", "categorical"):
        raise TableError(f"kind is {kind!r}: pass 'numeric', 'ordinal', 'binary', 'categorical' or None")
    literal = [c for c in (text, cluster, split, *levels) if c is not None]
    frame, default_name, shipped = read_frame(data, text=text, literal=literal)
    split = shipped if split is None else split
    roles = [(c, "target") for c in targets] + [(c, "blocks") for c in levels]
    roles += [(c, r) for c, r in ((text, "text"), (split, "split"), (cluster, "cluster")) if c is not None]
    frame = named_by_text(frame)
    if presumed := cluster == AUTO and AUTO not in frame:
        if text is None:
            raise TableError("cluster='auto' looks for texts that are nearly the same: name them, text=")
        roles, cluster = [(c, r) for c, r in roles if r != "cluster"], None
    for column, role in roles:
        need_column(frame, column, role)
        if role != "text":  # `read_texts` looks at these
            need_whole(frame[column], role)

    if text is not None and text in targets:
        raise TableError(f"target {text!r} is the text column: the model reads it; name another column")
    if text is not None and len(targets) == 1 and kind is None:
        need_text_and_target(frame[text], frame[targets[0]])
    for column, role in roles:
        if role in ("cluster", "blocks"):
            say_alike(f"{role} {column!r}: labels", frame[column].dropna().unique().tolist())
    bad: dict[int, str] = {}
    texts = None if text is None else read_texts(frame[text], text, bad)
    words: dict[int, str] = {}
    if len(targets) == 1 and not isinstance(data, pd.DataFrame):  # NA may be a class, and is read as none
        missing = np.flatnonzero(frame[targets[0]].isna()).tolist()
        words = words_for_missing(user_path(data), targets[0], missing) if missing else {}
    in_ranks, kind = kind == "ordinal", None if kind == "ordinal" else kind
    if in_ranks:
        frame, kind = with_grades(frame, targets, units), "numeric"
    read = read_targets(frame, targets, kind, bad, words, positive)
    hint = "" if read.kind == "numeric" else read_as_missing(words.values())
    unit_of = read_units(units, targets, read.names, read.kind)
    check_coordinates(read.y, unit_of, read.names, bad)
    is_test = None if split is None else read_split(frame[split], split, bad)
    if on_bad == "raise":
        refuse(bad, len(frame), hint)
    usable = np.array([row for row in range(len(frame)) if row not in bad], dtype=np.int64)
    if read.kind != "numeric" and bad:  # a class may have lost all its rows
        read = read_targets(frame.iloc[usable], targets, read.kind, {}, positive=positive)
        y, unit_of = read.y, (None,) * len(read.names)
    else:
        y = read.y[usable]
    need_variation(y, read.names, read.kind, "")
    part = frame.iloc[usable].reset_index(drop=True)
    texts = None if texts is None else [texts[row] for row in usable]
    labels = None if cluster is None else part[cluster]
    if labels is not None:
        say_unclustered(labels)
    clusters, forms, together = row_clusters(texts, labels, len(part))
    if presumed:
        clusters = link_clusters([pd.Series(clusters), pd.Series(alike_texts(texts or []))], len(part))
        together = ", texts that share most of their letters together"
    if is_test is None:
        if not 0 < test_size < 1:
            raise TableError(f"test_size is {test_size}: it is the share of test rows, between 0 and 1")
        need_two_clusters(clusters, y, read.names, read.kind)
        is_test, origin = draw_split(clusters, y, read.kind, test_size, seed), f"drawn here (seed {seed})"
    else:
        is_test, origin = is_test[usable], f"shipped, column {split!r}"
        if forms is not None and (pairs := across(forms, texts or [], is_test)):
            logger.warning(
                "%d texts stand in training and test rows alike but for case, blanks, punctuation or "
                "Unicode form; first: %r and %r; put them in one part, or say with cluster= which rows "
                "belong together",
                len(pairs),
                *pairs[0],
            )
    if in_ranks and not is_test.all():
        y, unit_of = share_below(y[~is_test], y), (RANK,) * len(read.names)
    fields: dict[str, Any] = {
        "name": name or default_name,
        "frame": part,
        "source_rows": usable,
        "texts": texts,
        "target_names": read.names,
        "units": unit_of,
        "kind": read.kind,
        "classes": read.classes,
        "y": y,
        "is_test": is_test,
        "clusters": clusters,
        "blocks": {c: part[c] for c in levels},
        "confounds": confounder_frames(beside, part, texts, usable / max(1, len(frame) - 1), targets),
        "dropped": pd.DataFrame({"row": sorted(bad), "reason": [bad[r] for r in sorted(bad)]}),
        "origin": origin + together,
    }
    return fields, hint


def completed(values: dict[str, Any], origin: str) -> dict[str, Any]:
    """The fields with what follows from them: the note on the split, and how many texts are shared.

    Raises:
        TableError: A part of the split has too few rows.
    """
    y, is_test, clusters = values["y"], values["is_test"], values["clusters"]
    n_train, n_test = int((~is_test).sum()), int(is_test.sum())
    if n_train < MIN_TRAIN or n_test < MIN_TEST:
        raise TableError(
            f"{values['name']}: {n_train} training and {n_test} test rows (split {origin}); at least "
            f"{MIN_TRAIN} and {MIN_TEST} are needed. Give more rows or another split"
        )
    straddling = len(np.intersect1d(clusters[is_test], clusters[~is_test]))
    values["split_note"] = (
        f"{origin}: {n_train} training and {n_test} test rows; {straddling} clusters straddle it"
    )
    values["duplicate_texts"], values["conflicting_texts"] = duplicates(values["texts"], y)
    return values
