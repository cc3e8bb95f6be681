"""Training rows of one data set and all rows of another as a single problem, split between the two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float

from graticule.hooks.activations import Activations
from graticule.hooks.rows import Rows
from graticule.probes.core.copies import alike
from graticule.probes.core.findings import Findings
from graticule.probes.core.inputs import SweepInputs
from graticule.probes.surface.baselines import Baselines, text_digest
from graticule.probes.surface.serving import served_by
from graticule.probes.tables.confounders import joined_frames
from graticule.probes.tables.groups import dense_codes, plain_form
from graticule.probes.tables.table import Table
from graticule.probes.tables.tokens import TokenTable


def joined(a: Findings, b: Findings, keep: Bool[np.ndarray, " row"]) -> tuple[Activations, Table, Baselines]:
    """What a sweep needs to fit everything on `a`'s training rows and to score it on rows of `b`.

    Args:
        a: Findings with their inputs.
        b: Findings of the same model and target with theirs.
        keep: Which rows of `b` are scored.

    Returns:
        Activations at the point that `a` chose, a table whose split is training rows of `a` against `b`, and
        the baselines that both have.

    Raises:
        ValueError: The targets are of another kind or of other classes, or `b` lacks the point.
    """
    ours, theirs = a.inputs, b.inputs
    parts = (ours, ours.problem.train), (theirs, np.flatnonzero(keep))
    table = _table(a, b, parts)
    names = [name for name in ours.baselines.features if name in theirs.baselines.features]
    features: dict[str, Rows] = {}
    for name in names:
        served = [
            (feature := inputs.baselines.features[name], served_by(feature, inputs.activations)[rows])
            for inputs, rows in parts
        ]
        points = [point for point in served[0][0].points if point in served[1][0]]
        features[name] = _stacked(served, points)
    strings = ours.baselines.strings and theirs.baselines.strings and table.texts is not None
    provenance = _model_alone(ours.baselines.provenance)
    activations = _stacked([(inputs.activations, rows) for inputs, rows in parts], [a.chosen_point])
    return activations, table, Baselines(text_digest(table), features, strings, provenance)


def copies_of(a: SweepInputs, b: SweepInputs) -> Bool[np.ndarray, " row"]:
    """Rows of `b` whose text is one of `a`'s but for case, blanks, punctuation or Unicode form, or a near
    copy of one by letters or by its embedding; without texts, rows of the very same activations."""
    if a.table.texts is None or b.table.texts is None:
        if a.table.strings is not None:  # tokens, which are refused by who joins them
            return np.zeros(len(b.problem.source), bool)
        point = next(p for p in reversed(a.activations.points) if p in b.activations)
        before = {row.tobytes() for row in a.rows(point)}
        return np.array([row.tobytes() in before for row in b.rows(point)])
    ours = {plain_form(a.table.texts[i]) for i in np.unique(a.problem.source)}
    same = np.array([plain_form(text) in ours for text in b.table.texts])
    rows = np.unique(b.problem.source)
    _, by = alike(b, rows, a, np.unique(a.problem.source))
    same[rows] |= np.logical_or.reduce(list(by.values()))
    return same[b.problem.source]


def matched_target(a: Findings, b: Findings) -> Float[np.ndarray, "row target"]:
    """`b`'s targets as columns of `a`'s.

    Raises:
        ValueError: They are of another kind, unit or number, or of classes that `a` does not have.
    """
    ours, theirs, y = a.inputs.table, b.inputs.table, b.inputs.problem.y
    what = f"{a.table!r} has {_target_text(ours)}, {b.table!r} has {_target_text(theirs)}"
    if ours.kind != theirs.kind:
        raise ValueError(f"judge_on: {what}: make both tables of one kind, kind={ours.kind!r}")
    if ours.kind == "numeric":
        if len(ours.target_names) != len(theirs.target_names) or ours.units != theirs.units:
            raise ValueError(f"judge_on: {what}: expected as many targets, in the same units")
        return y
    if ours.classes == theirs.classes:
        return y
    if ours.kind == "binary" and ours.classes == theirs.classes[::-1]:
        return 1 - y
    if ours.kind == "categorical" and set(theirs.classes) <= set(ours.classes):
        places = [theirs.classes.index(name) if name in theirs.classes else -1 for name in ours.classes]
        return np.where(np.array(places) >= 0, y[:, places], 0.0)
    raise ValueError(f"judge_on: {what}: name the classes alike in both tables")


def in_classes_of(
    b: Findings, a: Findings, predicted: Float[np.ndarray, "row target"]
) -> Float[np.ndarray, "row target"]:
    """Predictions in `a`'s columns as predictions in `b`'s; their classes have been matched."""
    ours, theirs = a.inputs.table, b.inputs.table
    if ours.kind == "numeric" or ours.classes == theirs.classes:
        return predicted
    if ours.kind == "binary":
        return 1 - predicted
    return predicted[:, [ours.classes.index(name) for name in theirs.classes]]


def _target_text(table: Table) -> str:
    if table.kind == "numeric":
        units = ", ".join(unit or "no unit" for unit in table.units)
        return f"{len(table.target_names)} numeric targets ({units})"
    return f"{table.kind} classes {', '.join(table.classes[:6])}"


_Parts = tuple[tuple[SweepInputs, np.ndarray], tuple[SweepInputs, np.ndarray]]


def _table(a: Findings, b: Findings, parts: _Parts) -> Table:
    (ours, train), (theirs, rows) = parts
    first, second = ours.table, theirs.table
    if isinstance(first, TokenTable) or isinstance(second, TokenTable):
        raise ValueError(
            "judge_on: rows of a table of tokens are not carried to another; make one table of both, and say "
            "with split= which texts are scored, token_table(model, texts, labels, split=…)"
        )
    if lacking := [name for name in first.confounds if name not in second.confounds]:
        raise ValueError(
            f"judge_on: {a.table!r} has the confounder {lacking[0]!r}, which {b.table!r} lacks: make that "
            f"with confounds={list(first.confounds)}"
        )
    y = np.concatenate([ours.problem.y[train], matched_target(a, b)[rows]])
    texts = None
    if first.texts is not None and second.texts is not None:
        own, other = first.texts, second.texts
        texts = [own[i] for i in ours.problem.source[train]] + [other[i] for i in theirs.problem.source[rows]]
    clusters = np.concatenate(
        [dense_codes(ours.problem.clusters[train]), len(y) + dense_codes(theirs.problem.clusters[rows])]
    )
    return first.derived(
        name=f"{a.table} → {b.table}",
        frame=pd.DataFrame({"table": np.repeat([a.table, b.table], [len(train), len(rows)])}),
        source_rows=np.arange(len(y)),
        texts=texts,
        y=y,
        is_test=np.repeat([False, True], [len(train), len(rows)]),
        clusters=dense_codes(clusters),
        blocks={},
        confounds=joined_frames(
            [(first.confounds, ours.problem.source[train]), (second.confounds, theirs.problem.source[rows])]
        ),
        origin="one table learned from, the other scored",
    )


def _stacked(parts: list[tuple[Rows, np.ndarray]], points: list[str]) -> Activations:
    """Rows of two sources one below the other, each a text of its own."""
    tensors = {p: torch.cat([rows.gather(p, index).float() for rows, index in parts]) for p in points}
    count = sum(len(index) for _, index in parts)
    return Activations(
        tensors, pd.DataFrame({"source": np.arange(count)}), _model_alone(parts[0][0].provenance)
    )


def _model_alone(provenance: Mapping[str, Any]) -> dict[str, Any]:
    return {"model": provenance["model"]} if provenance.get("model") else {}
