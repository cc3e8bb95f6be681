"""Moments of rows: the sums that every linear probe is made of, about a mean, and their eigenvectors.

`Moments` add up over sets of rows, and rows can be taken out of them again: a ridge reads the whole in
chunks, and its hold-outs and refits take theirs out. `Axes` are the eigenvectors that principal components
and logistic regression turn rows into. Whether the products between columns (X'X) serve, or those between
rows (XX') where rows are fewer, is decided by `fewer_rows` and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int

from graticule.hooks.values import finite
from graticule.probes.linear.rows import (
    RowSource,
    check_finite_rows,
    check_squares,
    chunks,
    gather_float64,
)

T = TypeVar("T")
R = TypeVar("R")

_OVERFLOWS = "squares of these rows overflow: divide them by a constant"
_SAMPLE_FOR_SHIFT = 512
_ONE_THREAD_UP_TO = 1024
_PRESENT = 1e-12


def fewer_rows(shape: tuple[int, ...]) -> bool:
    """Whether `[row, width]` has fewer rows than columns: the products between rows are then the smaller."""
    return shape[0] < shape[1]


def gram_of(centred: Float[np.ndarray, "row width"], by_row: bool = False) -> Float[np.ndarray, "k k"]:
    """X'X of centred rows, or XX' `by_row`.

    Raises:
        NonFiniteError: Squares of the rows overflow.
        ValueError: They vanish.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        gram = centred @ centred.T if by_row else centred.T @ centred
        finite("products of activations", gram, hint=_OVERFLOWS)
    check_squares(float(np.trace(gram)), [centred])
    return gram


def eigen(matrix: Float[np.ndarray, "k k"]) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "k k"]]:
    """Eigenvalues (ascending, never negative) and eigenvectors, on one thread where the matrix is small.

    Up to about a thousand columns the threads of a symmetric eigensolver mostly wait for each other: alone
    on the machine they gain little, and on a busy one they lose a factor of three to fifty.

    Raises:
        NonFiniteError: Entries are no numbers.
    """
    finite("products of activations", matrix, hint=_OVERFLOWS)
    threads = torch.get_num_threads()
    try:
        if len(matrix) <= _ONE_THREAD_UP_TO:
            torch.set_num_threads(1)
        values, vectors = torch.linalg.eigh(torch.from_numpy(matrix))
    finally:
        torch.set_num_threads(threads)
    return np.maximum(values.numpy(), 0.0), np.ascontiguousarray(vectors.numpy())


def rough_middle(
    source: RowSource, middle: Callable[..., Float[np.ndarray, " width"]]
) -> Float[np.ndarray, " width"]:
    """The mean or the median of some rows: sums about it lose no digits to what all rows share."""
    some = np.unique(np.linspace(0, source.shape[0] - 1, _SAMPLE_FOR_SHIFT).astype(int))
    with np.errstate(invalid="ignore"):
        shift = middle(gather_float64(source, some), axis=0)
    return np.where(np.isfinite(shift), shift, 0.0)


def side_by_side(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`work` of every item, in their order, in as many threads as PyTorch uses.

    Meanwhile BLAS runs a single thread in each: pieces of a few hundred columns are too small to be shared
    out within, and what stands between the products (copies, sums) is shared out as well.
    """
    threads = min(torch.get_num_threads(), len(items))
    if threads < 2:
        return [work(item) for item in items]
    with _pools().limit(limits=1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))


@cache
def _pools() -> Any:
    """Handles of the BLAS libraries that are loaded."""
    from importlib import import_module

    from threadpoolctl import ThreadpoolController

    import_module("scipy.linalg")  # brings a BLAS of its own
    return ThreadpoolController()


@dataclass(frozen=True)
class Moments:
    """Sums over some rows, about a shift that all of them share; changed in place."""

    gram: Float[np.ndarray, "width width"]
    """X'X in Fortran's order, so that LAPACK does not copy it."""
    x: Float[np.ndarray, " width"]
    """The sum of the rows."""
    xy: Float[np.ndarray, "width target"]
    """X'y."""

    @classmethod
    def none(cls, width: int, n_targets: int) -> Moments:
        """Of no rows."""
        return cls(np.zeros((width, width), order="F"), np.zeros(width), np.zeros((width, n_targets)))

    @classmethod
    def of(
        cls,
        source: RowSource,
        y: Float[np.ndarray, "row target"],
        index: Int[np.ndarray, " part"],
        shift: Float[np.ndarray, " width"],
        chunk_rows: int,
    ) -> Moments:
        """Of the rows `index` about `shift`, never more than `chunk_rows` of them in memory.

        Raises:
            ValueError: Rows are not finite; names the first.
        """
        moments = cls.none(source.shape[1], y.shape[1])
        for part in chunks(index, chunk_rows):
            rows = gather_float64(source, part)
            rows -= shift
            with np.errstate(over="ignore", invalid="ignore"):  # reported here, or by `eigen`
                moments.add(rows, y[part])
            if not np.isfinite(moments.x).all():
                check_finite_rows(rows, part, "X")
        return moments

    def add(self, rows: Float[np.ndarray, "row width"], y: Float[np.ndarray, "row target"]) -> None:
        """Take some rows in."""
        self._change(np.add, rows.T @ rows, rows.sum(axis=0), rows.T @ y)

    def take_out(self, rows: Float[np.ndarray, "row width"], y: Float[np.ndarray, "row target"]) -> None:
        """Take some rows out."""
        self._change(np.subtract, rows.T @ rows, rows.sum(axis=0), rows.T @ y)

    def merge(self, other: Moments) -> None:
        """Take in the rows of another."""
        self._change(np.add, other.gram, other.x, other.xy)

    def _change(self, how: np.ufunc, gram: np.ndarray, x: np.ndarray, xy: np.ndarray) -> None:
        # a product is symmetric to the bit: transposed it lies in this one's order
        how(self.gram, gram if gram.flags.f_contiguous else gram.T, out=self.gram)
        how(self.x, x, out=self.x)
        how(self.xy, xy, out=self.xy)

    def without(self, other: Moments) -> Moments:
        """New ones, of the rows that are not in the other."""
        return Moments(self.gram - other.gram, self.x - other.x, self.xy - other.xy)

    def copy(self) -> Moments:
        """New ones of the same rows."""
        return Moments(self.gram.copy(order="F"), self.x.copy(), self.xy.copy())

    def centre(
        self, n: int, y_mean: Float[np.ndarray, " target"] | None = None
    ) -> Float[np.ndarray, " width"]:
        """Put the sums of `n` rows about their own mean, and targets about `y_mean` (0 where None).

        Returns:
            The rows' mean, from the shift that they were about.
        """
        mean = self.x / n
        with np.errstate(over="ignore", invalid="ignore"):
            self.gram[:] -= n * np.outer(mean, mean)
        if y_mean is not None:
            self.xy[:] -= n * np.outer(mean, y_mean)
        self.x[:] = 0.0
        return mean


@dataclass(frozen=True)
class Axes:
    """Principal axes of rows in memory, those of most variance first; axes without any are left out."""

    mean: Float[np.ndarray, " width"]
    """Mean row."""
    vectors: Float[np.ndarray, "width axis"]
    """Unit vectors in columns; the largest entry of each is positive."""
    squares: Float[np.ndarray, " axis"]
    """Sums of squares along each, about the mean."""
    n_rows: int
    """Rows."""

    @classmethod
    def of(cls, X: Float[np.ndarray, "row width"]) -> Axes:
        """Of all rows; none where no coordinate varies. Raises as `gram_of`."""
        mean = X.mean(axis=0)
        centred = X - mean
        by_row = fewer_rows(X.shape)
        gram = gram_of(centred, by_row)
        values, vectors = (part.numpy()[..., ::-1] for part in torch.linalg.eigh(torch.from_numpy(gram)))
        present = values > _PRESENT * values[0]
        values, vectors = values[present].copy(), vectors[:, present]
        if by_row:
            vectors = (centred.T @ vectors) / np.sqrt(values)
        largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])]
        return cls(mean, np.ascontiguousarray(vectors * np.sign(largest)), values, len(X))

    @property
    def variance(self) -> Float[np.ndarray, " axis"]:
        """Variance along each, ddof 0."""
        return self.squares / self.n_rows

    @property
    def explained(self) -> Float[np.ndarray, " axis"]:
        """Share of the rows' variance along the first 1, 2, 3, … of them."""
        return np.cumsum(self.variance) / self.variance.sum()

    def scores(self, X: Float[np.ndarray, "row width"]) -> Float[np.ndarray, "row axis"]:
        """Rows in these coordinates."""
        return (X - self.mean) @ self.vectors
