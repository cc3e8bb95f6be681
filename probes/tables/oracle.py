"""Block oracles: how much of a target the block alone tells, as the training mean of each block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from graticule.hooks.alignment import by_place
from graticule.probes.scores.metrics import r2
from graticule.probes.tables.checks import need_column
from graticule.probes.tables.table import Table


def block_oracle_predictions(
    y: Float[np.ndarray, "row target"],
    blocks: Sequence[Any] | np.ndarray | pd.Series,
    is_test: Bool[np.ndarray, " row"],
) -> Float[np.ndarray, "test target"]:
    """Training mean of the row's block, for every test row, in row order.

    A test row whose block is missing or has no training row gets the mean of all training rows.

    **Raises** `ValueError` where lengths differ, a part of the split is empty, or no training row has a
    block.
    """
    labels = pd.Series(by_place("blocks", blocks).astype(object))
    if not len(y) == len(labels) == len(is_test):
        raise ValueError(
            f"{len(y)} rows of y, {len(labels)} of blocks and {len(is_test)} of is_test; one entry a row each"
        )
    if is_test.all() or not is_test.any():
        raise ValueError("is_test leaves no training row or no test row; a block oracle needs both")
    codes, names = pd.factorize(labels)
    train = ~is_test
    if len(names) == 0:
        raise ValueError("every block is missing; name a column that has values")
    known = train & (codes >= 0)
    counts = np.bincount(codes[known], minlength=len(names))
    sums = np.stack([np.bincount(codes[known], weights=c[known], minlength=len(names)) for c in y.T], axis=1)
    overall = y[train].mean(axis=0)
    means = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], overall)
    return np.concatenate([means, overall[None]])[codes[is_test]]  # code -1, missing, is the last row


def block_oracle(table: Table, block: str) -> dict[str, float]:
    """Target → test R² of the training means of `block`, a block or any column of the table.

    The ceiling of a predictor that knows the block and nothing within it (Gurnee & Tegmark's tables: country
    .968 of the longitude, .956 of the latitude).

    **Raises** `ColumnError` if there is no such column, `ValueError` as `block_oracle_predictions` does.
    """
    if block not in table.blocks:
        block = need_column(table.frame, block, "block")
    labels = table.blocks[block] if block in table.blocks else table.frame[block]
    predicted = block_oracle_predictions(table.y, labels, table.is_test)
    scores = r2(table.y[table.is_test], predicted)
    return {name: float(score) for name, score in zip(table.target_names, scores, strict=True)}
