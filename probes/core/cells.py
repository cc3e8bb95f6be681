"""Cells that outweigh all others: rows and columns of activations, values of a target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from graticule.hooks.rows import Rows
from graticule.hooks.streams.base import MAX_NORM
from graticule.probes.core.fit import PointRows, Problem
from graticule.probes.linear.rows import chunk_rows_for, chunks

WIDE_COLUMN = 1e4
"""A column that varies so many times as much as the median one hides the others from every strength tried."""
ABSURD = 1e3
"""A row so many times as far from the middle as the median row leaves nothing decided."""
_MOST_BYTES = 4 << 30
_SAMPLE = 512
_MOST_ROWS = 5
_LEAST_RATIO = 5.0
_LEAST_SHARE = 0.25
_SPACINGS = 8.0
_TAIL = 20


# Activations -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Outlying:
    """Rows far from the others, and columns that vary far more than the others."""

    rows: Int[np.ndarray, " outlying"]
    """Numbers of the rows, the farthest first."""
    times: Float[np.ndarray, " outlying"]
    """Their distance from the middle, in distances of the median row."""
    columns: Int[np.ndarray, " wide"]
    """Numbers of the columns, the widest first."""
    cell: tuple[int, float] = (0, 0.0)
    """Column and value of the farthest row's cell that is farthest from the middle."""

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return bool(len(self.rows) or len(self.columns))

    @property
    def absurd(self) -> bool:
        """Whether a row is beyond all measure."""
        return bool(len(self.times) and self.times[0] > ABSURD)


def outlying(rows: PointRows) -> Outlying:
    """Rows over `MAX_NORM` times as far from the middle as the median row, and columns over `WIDE_COLUMN`.

    The middle is the median of some rows, column by column: a few rows do not move it.

    Args:
        rows: rows of one point.

    Returns:
        What outweighs the others.
    """
    n, width = rows.shape
    some = np.unique(np.linspace(0, n - 1, min(n, _SAMPLE)).astype(np.int64))
    middle = np.median(rows.gather(some).astype(np.float64), axis=0)
    squares, by_column = np.empty(n), np.zeros(width)
    for index in chunks(np.arange(n), chunk_rows_for(width)):
        apart = np.square(rows.gather(index) - middle)
        squares[index] = apart.sum(axis=1)
        by_column += apart.sum(axis=0)
    distance, spread = np.sqrt(squares), np.sqrt(by_column)
    times, wide = (values / _typical(values) for values in (distance, spread))
    far, by = _above(times, MAX_NORM)
    if not len(far):
        return Outlying(far, by, _above(wide, WIDE_COLUMN)[0])
    values = rows.gather(far[:1])[0].astype(np.float64)
    column = int(np.abs(values - middle).argmax())
    return Outlying(far, by, _above(wide, WIDE_COLUMN)[0], (column, float(values[column])))


def pulled_in(rows: PointRows, outliers: Outlying) -> Float[np.ndarray, "row width"] | None:
    """All rows, the outlying ones moved towards the middle, to `MAX_NORM` times the median row's distance.

    Args:
        rows: of one point.
        outliers: among them.

    Returns:
        The rows; None where they are too many to hold, or where moving rows mends nothing: of columns, and of
        rows beyond all measure.
    """
    n, width = rows.shape
    if outliers.absurd or len(outliers.columns) or n * width * 8 > _MOST_BYTES:
        return None
    values = rows.gather(np.arange(n)).astype(np.float64)
    some = np.unique(np.linspace(0, n - 1, min(n, _SAMPLE)).astype(np.int64))
    middle = np.median(values[some], axis=0)
    far = values[outliers.rows] - middle
    values[outliers.rows] = middle + far * (MAX_NORM / outliers.times[:, None])
    return values


def _typical(values: Float[np.ndarray, " some"]) -> float:
    """The median; of those above 0 where most are 0."""
    middle = float(np.median(values))
    return middle if middle > 0 else float(np.median(values[values > 0])) if (values > 0).any() else 1.0


def _above(times: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-times, kind="stable")
    order = order[times[order] > limit]
    return order, times[order]


def outlying_said(outliers: Outlying, point: str, who: str, problem: Problem, activations: Rows) -> list[str]:
    """Outliers in words: which rows and columns, how far, and what to do.

    Args:
        outliers: of a point.
        point: the point.
        who: what reads it.
        problem: whose rows these are.
        activations: that say which token a row is.

    Returns:
        A warning for rows and one for columns, as far as there are any.
    """
    warnings: list[str] = []
    if len(outliers.rows):
        row, (column, value) = int(outliers.rows[0]), outliers.cell
        part = "test" if problem.is_test[row] else "training"
        token = f", token {activations.rows['token'].iloc[row]}" if "token" in activations.rows else ""
        warnings.append(
            f"rows over {MAX_NORM:g} times as far from the middle as the median row at {point}: "
            f"{len(outliers.rows)} of {len(problem.y)}, the farthest row {row} ({part}{token}), "
            f"{outliers.times[0]:.3g} times, farthest in column {column} ({value:.3g}); a few such rows "
            f"decide what {who} reads: look at them, and leave them out, activations.select(rows)"
        )
    if len(outliers.columns):
        column = _numbers(outliers.columns)
        warnings.append(
            f"column {column} of {point} varies over {WIDE_COLUMN:g} times as much as the median column: "
            f"strengths that suit it hardly let {who} read the others: divide it by a constant, or leave it "
            "out"
        )
    return warnings


def _numbers(values: Sequence[int] | np.ndarray) -> str:
    return ", ".join(map(str, values[:3])) + (", …" if len(values) > 3 else "")


# Targets ---------------------------------------------------------------------------------------------
def absurd_targets(problem: Problem) -> list[tuple[str, str]]:
    """Values of a target that are no tail of the others and rule its sum of squares: typing errors, units.

    Of the distances from the median, X₁ ≥ X₂ ≥ …, a tail's k log(Xₖ/Xₖ₊₁) are about alike, whatever the tail
    (Rényi): a gap of `_SPACINGS` times their mean below the first few rows is none. These rows count where
    they are five times as far as the next, and hold a quarter of the sum of squares.

    Args:
        problem: Targets and split.

    Returns:
        A few words and a sentence for each target and part of the split that has such rows.
    """
    out: list[tuple[str, str]] = []
    for part, rows in (("training", problem.train), ("test", problem.test)):
        for name, values in zip(problem.names, problem.y[rows].T, strict=True):
            far = np.abs(values - np.median(values))
            order = np.argsort(-far, kind="stable")
            count = _absurd(far[order])
            if not count:
                continue
            row = int(rows[order[0]])
            share = np.square(far[order[:count]]).sum() / np.square(far).sum()
            few = f"the target {name!r} of {part} row {row}"
            more = f" (and of {count - 1} more)" if count > 1 else ""
            out.append(
                (
                    f"{few} is {values[order[0]]:.4g}",
                    f"{few} is {values[order[0]]:.4g}{more}, {far[order[count - 1]] / far[order[count]]:.3g} "
                    f"times as far from the median as the next, and {share:.0%} of the sum of squares: a "
                    "typing error, or another unit? mend it, or leave the row out",
                )
            )
    return out


def _absurd(far: Float[np.ndarray, " row"]) -> int:
    """How many of the first distances, which descend, are beyond the tail of the others."""
    square = np.square(far / far[0]) if far[0] > 0 else far
    for count in range(min(_MOST_ROWS, len(far) // 4), 0, -1):
        tail = far[count : count + _TAIL + 1]
        tail = tail[tail > 0]
        if not len(tail):
            continue
        own = np.log(far[count - 1] / tail[0])
        usual = np.log(tail[:-1] / tail[1:]) * np.arange(1, len(tail))
        least = _SPACINGS * float(usual.mean()) / count if len(usual) else 0.0
        if own > max(least, np.log(_LEAST_RATIO)) and square[:count].sum() > _LEAST_SHARE * square.sum():
            return count
    return 0
