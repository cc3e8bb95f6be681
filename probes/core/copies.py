"""Near copies across the split: test texts that stand, nearly, among the training texts as well."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int

from graticule.hooks.rows import Rows
from graticule.probes.core.fit import PointRows
from graticule.probes.core.inputs import SweepInputs
from graticule.probes.tables.alike import nearest_rows, nearest_texts

_LEAST_SHARE = 0.1
_FEWEST = 3
_MOST, _ROWS, _WIDTH = 500, 20_000, 8
_LETTERS, _SHOWN = 400, 60
_EMBEDDING = "mean_embedding"


def alike(
    inputs: SweepInputs, rows: Int[np.ndarray, " row"], others: SweepInputs, among: Int[np.ndarray, " other"]
) -> tuple[Int[np.ndarray, " row"], dict[str, Bool[np.ndarray, " row"]]]:
    """Of rows of a table the nearest among rows of another, or of the same, and whether they are near copies.

    Args:
        inputs: Of the rows, with texts.
        rows: Rows of its table.
        others: Of the others, with texts.
        among: Rows of theirs.

    Returns:
        Places in `among`, and by what they are near copies: `letters`, and `mean_embedding` where both have
        it.
    """
    texts = [
        [(one.table.texts or [])[i][:_LETTERS] for i in some]
        for one, some in ((inputs, rows), (others, among))
    ]
    beside, close = nearest_texts(*texts)
    by = {"letters": close}
    both = [one.baselines.features.get(_EMBEDDING) for one in (inputs, others)]
    if all(one is not None and _comparable(one, len(among)) for one in both):
        near, by[_EMBEDDING] = nearest_rows(
            *(_embedded(one, some) for one, some in zip(both, (rows, among), strict=True) if one is not None)
        )
        beside = np.where(close, beside, near)
    return beside, by


def _embedded(feature: Rows, rows: Int[np.ndarray, " row"]) -> np.ndarray:
    """A feature's rows of some rows of the table."""
    source = feature.rows["source"].to_numpy(np.int64)
    place = np.full(int(max(source.max(), rows.max())) + 1, -1)
    place[source] = np.arange(len(source))
    return PointRows(feature, feature.points[0], place[rows]).gather(np.arange(len(rows)))


def near_copies(inputs: SweepInputs) -> list[str]:
    """How many test texts have a near copy among the training texts, where they are one in ten or more.

    By letters, as `cluster="auto"` presumes clusters, and by the mean of the input embeddings, where that is
    a baseline (of eight columns or more, and 20,000 training texts at most): near copies are less than a
    quarter as far apart as the tenth nearest. 500 test texts at most are looked at, and their first 400
    characters.

    Args:
        inputs: What was swept.

    Returns:
        A line, or none.
    """
    table, problem = inputs.table, inputs.problem
    if table.texts is None:
        return []
    train = np.unique(problem.source[problem.train])
    test = np.setdiff1d(problem.source[problem.test], train)
    test = test[np.unique(np.linspace(0, len(test) - 1, min(len(test), _MOST)).astype(np.int64))]
    if len(test) < _FEWEST or len(train) < _FEWEST:
        return []
    beside, by = alike(inputs, test, inputs, train)
    either = np.logical_or.reduce(list(by.values()))
    count = int(either.sum())
    if count < max(_FEWEST, _LEAST_SHARE * len(test)):
        return []
    first = int(either.argmax())
    parts = ", ".join(f"{int(some.sum())} by {name}" for name, some in by.items())
    pair = _where_they_differ(table.texts[test[first]], table.texts[train[beside[first]]])
    return [
        f"{count} of {len(test)} test texts have a near copy among the training texts ({parts}), first "
        f"{pair[0]} beside {pair[1]}; if these belong together, cluster='auto' puts them into one part"
    ]


def _where_they_differ(one: str, other: str) -> list[str]:
    """Two texts, cut to what stands around the first letter in which they differ."""
    shorter = min(len(one), len(other)) if one != other else 0
    same = next((k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), shorter)
    start = max(0, same - _SHOWN // 2) if max(len(one), len(other)) > _SHOWN else 0
    cut = [text[start : start + _SHOWN] + "…" * (len(text) > start + _SHOWN) for text in (one, other)]
    return [repr("…" * (start > 0) + text) for text in cut]


def _comparable(feature: Rows, count: int) -> bool:
    """Whether a feature has a row for each text, of enough columns, and texts are few enough."""
    wide = feature.widths[feature.points[0]] >= _WIDTH
    return wide and count <= _ROWS and bool(feature.rows["source"].is_unique)
