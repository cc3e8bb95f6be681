"""What leaves a verdict undecided whatever its gain: too few rows, a few that rule, a surface far below 0."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from graticule.probes.scores.metrics import count_of

MIN_ROWS = 10
"""Test rows below which nothing is decided."""
MIN_CLUSTERS = 3
"""Effective clusters of them, likewise."""
RULED = 0.25
"""Where the largest 1% of test rows hold more than this share of the squares, R² is theirs: 0.08 of a normal
target, 0.16 of a Laplace one, 0.27 of Student's t with 3 degrees, 0.45 and 0.70 of log-normal ones."""
ENOUGH_ROWS = 40
"""Test rows below which the share says nothing: the largest of a few holds much of any target's squares."""
FAR_BELOW = -0.5
"""A surface of such R² is no floor: the test rows are others than those that it was fitted on."""
MIN_APART = 3
"""Clusters of test rows that must differ from the most frequent value: with fewer, what there is to read
hangs on one or two."""
_RULED = "the largest 1% of test rows hold"
_NO_FLOOR = "the baselines predict the test rows"


def too_few(rows: int, effective: float) -> str | None:
    """Why so few test rows decide nothing; None where they are enough.

    Args:
        rows: of the test part.
        effective: clusters of them.

    Returns:
        The reason, as the end of a sentence.
    """
    if rows < MIN_ROWS:
        return f"{count_of(rows, 'test row')}, and {MIN_ROWS} are needed"
    if effective < MIN_CLUSTERS - 1e-9:
        return f"{effective:.1f} effective clusters of test rows, and {MIN_CLUSTERS} are needed"
    return None


def largest_share(y: Float[np.ndarray, "row target"]) -> Float[np.ndarray, " target"]:
    """The share of the squares about the mean that the largest 1% of the rows hold (one row at least).

    Args:
        y: of the test rows.

    Returns:
        A share a target; 0 where it has two values at most, which bound it, or rows are too few to tell.
    """
    out = np.zeros(y.shape[1])
    if len(y) < ENOUGH_ROWS:
        return out
    most = int(np.ceil(0.01 * len(y)))
    for target, column in enumerate(y.T):
        if len(np.unique(column)) > 2:
            unit = np.ptp(column)
            squares = np.square(column / unit - (column / unit).mean())
            out[target] = np.partition(squares, -most)[-most:].sum() / squares.sum()
    return out


def ruled_by_few(shares: Float[np.ndarray, " target"], target_names: Sequence[str]) -> str | None:
    """Why R² of targets whose squares a few rows hold decides nothing; None where none is such.

    Args:
        shares: of `largest_share`.
        target_names: of the targets.

    Returns:
        The reason, as the end of a sentence.
    """
    most = int(shares.argmax()) if len(shares) else 0
    if not len(shares) or shares[most] <= RULED:
        return None
    of = f" of {target_names[most]}" if len(target_names) > 1 else ""
    return f"{_RULED} {shares[most]:.0%} of the squares{of} (kind='ordinal' judges ranks)"


def no_floor(surface: float) -> str | None:
    """Why a surface far below 0 says nothing about who adds little to it; None where it is not.

    Args:
        surface: R² of the stacked baselines on test rows.

    Returns:
        The reason, as the end of a sentence.
    """
    if surface >= FAR_BELOW or surface != surface:
        return None
    return (
        f"{_NO_FLOOR} far worse than their mean does (R² {surface:z.2f}): the two parts of the split differ"
    )


def of_few_rows(label: str) -> bool:
    """Whether a label is undecided for rows that rule it, as a single odd cell would make it.

    Args:
        label: of a verdict.

    Returns:
        True for the reasons of `ruled_by_few` and `no_floor`.
    """
    return _RULED in label or _NO_FLOOR in label


def clusters_apart(
    y: Float[np.ndarray, "row target"], clusters: Int[np.ndarray, " row"], target_names: Sequence[str]
) -> dict[str, int]:
    """Target → clusters of rows with another value than its most frequent one.

    Args:
        y: of the test rows.
        clusters: of them.
        target_names: of the targets.

    Returns:
        A count a target.
    """
    out: dict[str, int] = {}
    for name, column in zip(target_names, y.T, strict=True):
        values, counts = np.unique(column, return_counts=True)
        out[name] = len(np.unique(clusters[column != values[counts.argmax()]]))
    return out
