"""What linear probes read: activation rows in chunks, and checked targets on one scale."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from graticule.hooks.values import finite, unmasked

_CHUNK_VALUES = 1 << 20
_BAD_ROWS_NAMED = 5
_LEAST_SQUARE = 1e-280
"""Ridge strengths reach down to 1e-12 of it, and stay numbers of full precision."""


@runtime_checkable
class RowSource(Protocol):
    """Activations that are fetched a few rows at a time, such as one point of a store on disk."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, width)."""
        ...

    def gather(self, index: Int[np.ndarray, " chunk"]) -> Shaped[np.ndarray, "chunk width"]:
        """The rows named by `index`, in that order, in any real dtype."""
        ...


@dataclass(frozen=True)
class ArrayRows:
    """An array or tensor in memory as a `RowSource`; rows turn to float64 only when they are gathered."""

    values: Shaped[np.ndarray, "row width"] | Shaped[Tensor, "row width"]
    """The activations, of any real dtype, on any device."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, width)."""
        return self.values.shape[0], self.values.shape[1]

    def gather(self, index: Int[np.ndarray, " chunk"]) -> Float[np.ndarray, "chunk width"]:
        """The rows named by `index` in float64, a fresh array."""
        # Consecutive rows are sliced: a list of indices would copy them once more.
        run = slice(int(index[0]), int(index[-1]) + 1) if len(index) and (np.diff(index) == 1).all() else None
        if isinstance(self.values, Tensor):
            rows = self.values.detach()[torch.from_numpy(index) if run is None else run]
            return rows.to(device="cpu", dtype=torch.float64, copy=True).numpy()
        return self.values[index if run is None else run].astype(np.float64)


def as_rows(X: Shaped[np.ndarray, ...] | Shaped[Tensor, ...]) -> ArrayRows:
    """`X` as a source of rows.

    Raises:
        TypeError: It is complex or not numeric.
        ValueError: It is not `[row, width]`, or has masked entries.
    """
    if not hasattr(X, "dtype") or not hasattr(X, "ndim"):
        raise TypeError(
            f"X is a {type(X).__name__}, expected [row, width] as an array or a tensor: numpy.asarray(X)"
        )
    unmasked("X", X)
    if X.is_complex() if isinstance(X, Tensor) else X.dtype.kind not in "fiub":
        raise TypeError(f"X is of dtype {X.dtype}, expected real numbers")
    if X.ndim != 2 or X.shape[1] == 0:
        raise ValueError(
            f"X has shape {tuple(X.shape)}, expected [row, width]; reshape a single row or column first"
        )
    if isinstance(X, Tensor) and X.device.type == "cpu" and X.dtype != torch.bfloat16:
        return ArrayRows(X.detach().numpy())
    return ArrayRows(X)


def chunk_rows_for(width: int) -> int:
    """How many rows of `width` fit the processor's cache while they are rotated."""
    return max(64, min(4096, _CHUNK_VALUES // width))


def gather_float64(source: RowSource, index: Int[np.ndarray, " chunk"]) -> Float[np.ndarray, "chunk width"]:
    """Rows of `source` in float64: the caller may overwrite them."""
    if isinstance(source, ArrayRows):
        return source.gather(index)
    rows = source.gather(index)
    if rows.shape != (len(index), source.shape[1]):
        raise ValueError(f"gather gave shape {rows.shape}, expected {(len(index), source.shape[1])}")
    return rows.astype(np.float64)


def chunks(index: Int[np.ndarray, " row"], step: int) -> Iterator[Int[np.ndarray, " chunk"]]:
    """`index` in pieces of at most `step` rows."""
    for start in range(0, len(index), step):
        yield index[start : start + step]


def linear_map(
    rows: RowSource, coef: Float[np.ndarray, "width column"], intercept: Float[np.ndarray, " column"]
) -> Float[np.ndarray, "row column"]:
    """`rows @ coef + intercept`, a few rows at a time."""
    n, width = rows.shape
    out = np.empty((n, coef.shape[1]))
    for index in chunks(np.arange(n), chunk_rows_for(width)):
        out[index] = gather_float64(rows, index) @ coef + intercept
    return out


def check_finite_rows(
    rows: Float[np.ndarray, "chunk width"], index: Int[np.ndarray, " chunk"], what: str
) -> None:
    """Raise `ValueError` naming the first rows that hold NaN or infinity."""
    bad = index[~np.isfinite(rows).all(axis=1)]
    if len(bad):
        named = ", ".join(str(i) for i in bad[:_BAD_ROWS_NAMED])
        more = " and more" if len(bad) > _BAD_ROWS_NAMED else ""
        raise ValueError(
            f"{what} holds NaN or infinity in row {named}{more}; drop these rows, "
            "or capture in float32 or bfloat16 if float16 overflowed"
        )


def check_squares(largest: float, rows: Iterable[Float[np.ndarray, "chunk width"]], what: str = "X") -> None:
    """Raise `ValueError` for rows that vary, by so little that their squares vanish in float64.

    `largest` is their largest sum of squares about the mean; only where it vanishes are centred `rows` read.
    """
    if largest < _LEAST_SQUARE and (most := max(float(np.abs(chunk).max()) for chunk in rows)) > 0:
        raise ValueError(
            f"{what} varies by {most:.3g} at most, and squares of that vanish: multiply it by a constant"
        )


@dataclass(frozen=True)
class StandardTargets:
    """Targets of the training rows, centred and scaled to variance 1 (ddof 0), as in Gurnee & Tegmark §3."""

    standard: Float[np.ndarray, "row target"]
    """(y − mean) / scale."""
    mean: Float[np.ndarray, " target"]
    """Mean, in target units."""
    scale: Float[np.ndarray, " target"]
    """Standard deviation with ddof 0, in target units."""
    names: tuple[str, ...]
    """Names for messages."""


def as_targets(
    y: Shaped[np.ndarray, ...] | Shaped[Tensor, ...], n_rows: int, names: Sequence[str] = ()
) -> StandardTargets:
    """Check `y` (`[row]` or `[row, target]`) against `n_rows` rows of activations and standardise it.

    Raises:
        ValueError: Shapes disagree, there are fewer than three rows, a value is not finite (names the first
            rows), or a target is constant (names it).
    """
    unmasked("y", y)
    values = y.detach().to(device="cpu", dtype=torch.float64).numpy() if isinstance(y, Tensor) else y
    values = np.array(values, dtype=np.float64)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"y has shape {values.shape}, expected [row] or [row, target]")
    if len(values) != n_rows:
        raise ValueError(
            f"X has {n_rows} rows and y has {len(values)}; give one target row for each activation row"
        )
    if n_rows < 3:
        raise ValueError(f"{n_rows} rows are too few to hold any out; a ridge needs at least 3")
    if names and len(names) != values.shape[1]:
        raise ValueError(
            f"{len(names)} target names {tuple(names)} for {values.shape[1]} columns of y; give one each"
        )
    named = tuple(names) or tuple(f"target {i}" for i in range(values.shape[1]))
    check_finite_rows(values, np.arange(n_rows), "y")
    mean = values.mean(axis=0)
    values -= mean
    with np.errstate(over="ignore"):  # `finite` reports it
        scale = np.sqrt(np.mean(values**2, axis=0))
    finite("standard deviations of targets", scale, lambda i: f"of {named[i]}", "divide it by a constant")
    for i in np.flatnonzero(scale <= 8 * np.finfo(np.float64).eps * np.abs(mean)):
        raise ValueError(
            f"{named[i]} is constant ({mean[i]:g} in every row): there is nothing to predict; drop it"
        )
    return StandardTargets(values / scale, mean, scale, named)
