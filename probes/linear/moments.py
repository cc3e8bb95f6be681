"""One eigendecomposition that serves every ridge strength: of the Gram matrix X'X, or of the kernel XX'.

Both say the same thing, the residual maker I − H(α) as a function of α, where H holds the intercept too:

- Gram (`width` small): I − H = I − 1/n − Z diag(1 / (a + α)) Z', with X'X = V a V' and Z = XV;
- kernel (rows fewer than `width`): I − H = U diag(α / (a + α)) U', with XX' = U a U', where nothing is
  subtracted, so that a tiny α loses no digits.

Each route gives `eigenvalues`; `basis`, the rows of Z or U; `weights`, the diagonal at each strength;
`scores`, the targets in that basis; and `complement`, true where basis and weights make I − H itself.

X is centred throughout; strengths are sklearn's `alpha`: the loss is |y − Xw|² + α |w|².
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int

from graticule.hooks.values import finite
from graticule.probes.linear.rows import (
    OVERFLOWS,
    RowSource,
    check_finite_rows,
    check_squares,
    chunks,
    gather_float64,
    gram_of,
)

_SAMPLE_FOR_SHIFT = 512
_ONE_THREAD_UP_TO = 1024


class Errors(NamedTuple):
    """Out-of-fold errors y − ŷ of some rows, for the standardised targets."""

    rows: Int[np.ndarray, " chunk"]
    """The rows."""
    errors: Float[np.ndarray, "chunk alpha target"]
    """The errors at each strength."""


def _eigh(matrix: Float[np.ndarray, "k k"]) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "k k"]]:
    """Eigenvalues (never negative) and eigenvectors, on one thread where the matrix is small.

    Up to about a thousand columns the threads of a symmetric eigensolver mostly wait for each other: alone
    on the machine they gain little, and on a busy one they lose a factor of three to fifty.

    **Raises** `NonFiniteError` for entries that are no numbers.
    """
    finite("products of activations", matrix, hint=OVERFLOWS)
    threads = torch.get_num_threads()
    try:
        if len(matrix) <= _ONE_THREAD_UP_TO:
            torch.set_num_threads(1)
        values, vectors = torch.linalg.eigh(torch.from_numpy(matrix))
    finally:
        torch.set_num_threads(threads)
    return np.maximum(values.numpy(), 0.0), np.ascontiguousarray(vectors.numpy())


def _weigh(
    weights: Float[np.ndarray, "alpha rank"], scores: Float[np.ndarray, "rank target"]
) -> Float[np.ndarray, "rank alpha_target"]:
    """Every strength's weighted scores side by side, so that one thin product serves the grid."""
    return (weights.T[:, :, None] * scores[:, None, :]).reshape(len(scores), -1)


@dataclass(frozen=True)
class GramSpectrum:
    """The `width` × `width` route: activations are read in chunks and never held."""

    source: RowSource
    """Where rows come from."""
    y: Float[np.ndarray, "row target"]
    """Standardised targets."""
    eigenvalues: Float[np.ndarray, " width"]
    """Of the centred X'X."""
    vectors: Float[np.ndarray, "width width"]
    """Its eigenvectors, in columns."""
    scores: Float[np.ndarray, "width target"]
    """V'X'y."""
    x_mean: Float[np.ndarray, " width"]
    """Mean activation."""
    gram: Float[np.ndarray, "width width"]
    """X'X, centred; kept so that a fold can be taken out of it."""
    x_dot_y: Float[np.ndarray, "width target"]
    """X'y, centred."""

    complement: ClassVar[bool] = False

    @classmethod
    def of(cls, source: RowSource, y: Float[np.ndarray, "row target"], chunk_rows: int) -> GramSpectrum:
        """One pass over `source`. **Raises** `ValueError` naming the first rows that are not finite."""
        mean, gram, x_dot_y = _moments(source, y, chunk_rows)
        values, vectors = _eigh(gram)
        made = cls(source, y, values, vectors, vectors.T @ x_dot_y, mean, gram, x_dot_y)
        check_squares(float(values[-1]), map(made._centred, chunks(np.arange(len(y)), chunk_rows)))
        return made

    def weights(self, alphas: Float[np.ndarray, " alpha"]) -> Float[np.ndarray, "alpha width"]:
        """1 / (a + α)."""
        return 1.0 / (self.eigenvalues + alphas[:, None])

    def basis(self, index: Int[np.ndarray, " chunk"]) -> Float[np.ndarray, "chunk width"]:
        """Rows of Z = XV."""
        return self._centred(index) @ self.vectors

    def coef(self, alphas: Float[np.ndarray, " target"]) -> Float[np.ndarray, "width target"]:
        """V diag(1 / (a + α)) V'X'y."""
        return self.vectors @ (self.scores / (self.eigenvalues[:, None] + alphas))

    def _centred(self, index: Int[np.ndarray, " chunk"]) -> Float[np.ndarray, "chunk width"]:
        rows = gather_float64(self.source, index)
        rows -= self.x_mean
        return rows

    def fold_errors(
        self, fold: Int[np.ndarray, " held"], alphas: Float[np.ndarray, " alpha"], chunk_rows: int
    ) -> Iterator[Errors]:
        """Errors of `fold` under an exact refit: its rows are taken out of X'X, X'y and both means."""
        gram, x_dot_y = self.gram.copy(), self.x_dot_y.copy()
        x_sum = np.zeros(len(gram))
        for index in chunks(fold, chunk_rows):
            rows = self._centred(index)
            gram -= rows.T @ rows
            x_dot_y -= rows.T @ self.y[index]
            x_sum += rows.sum(axis=0)
        n_kept = len(self.y) - len(fold)
        x_mean, y_mean = -x_sum / n_kept, -self.y[fold].sum(axis=0) / n_kept
        gram -= n_kept * np.outer(x_mean, x_mean)
        x_dot_y -= n_kept * np.outer(x_mean, y_mean)
        values, vectors = _eigh(gram)
        coef = vectors @ _weigh(1.0 / (values + alphas[:, None]), vectors.T @ x_dot_y)
        for index in chunks(fold, chunk_rows):
            fitted = ((self._centred(index) - x_mean) @ coef).reshape(len(index), len(alphas), -1)
            yield Errors(index, (self.y[index] - y_mean)[:, None, :] - fitted)


@dataclass(frozen=True)
class KernelSpectrum:
    """The row × row route, for fewer rows than `width`, with the activations in memory."""

    x: Float[np.ndarray, "row width"]
    """Centred activations."""
    y: Float[np.ndarray, "row target"]
    """Standardised targets."""
    eigenvalues: Float[np.ndarray, " row"]
    """Of the centred XX'."""
    vectors: Float[np.ndarray, "row row"]
    """Its eigenvectors in columns, with the constant vector projected out of them."""
    scores: Float[np.ndarray, "row target"]
    """U'y."""
    x_mean: Float[np.ndarray, " width"]
    """Mean activation."""
    x_dot_y: Float[np.ndarray, "width target"]
    """X'y, centred."""

    complement: ClassVar[bool] = True

    @classmethod
    def of(cls, x: Float[np.ndarray, "row width"], y: Float[np.ndarray, "row target"]) -> KernelSpectrum:
        """Takes `x` over: it is centred in place. **Raises** `ValueError` naming rows that are not finite."""
        check_finite_rows(x, np.arange(len(x)), "X")
        mean = x.mean(axis=0)
        x -= mean
        values, vectors = _eigh(gram_of(x, by_row=True))
        # The constant lies in the kernel's null space, mixed with whatever else does; the intercept fits it.
        vectors -= vectors.mean(axis=0)
        return cls(x, y, values, vectors, vectors.T @ y, mean, x.T @ y)

    def weights(self, alphas: Float[np.ndarray, " alpha"]) -> Float[np.ndarray, "alpha row"]:
        """α / (a + α)."""
        return alphas[:, None] / (self.eigenvalues + alphas[:, None])

    def basis(self, index: Int[np.ndarray, " chunk"]) -> Float[np.ndarray, "chunk row"]:
        """Rows of U."""
        return self.vectors[index]

    def coef(self, alphas: Float[np.ndarray, " target"]) -> Float[np.ndarray, "width target"]:
        """X'U diag(1 / (a + α)) U'y."""
        return self.x.T @ (self.vectors @ (self.scores / (self.eigenvalues[:, None] + alphas)))

    def fold_errors(
        self, fold: Int[np.ndarray, " held"], alphas: Float[np.ndarray, " alpha"], chunk_rows: int
    ) -> Iterator[Errors]:
        """Errors of `fold` under a refit on the other rows."""
        kept = np.setdiff1d(np.arange(len(self.y)), fold)
        y_mean = self.y[kept].mean(axis=0)
        refit = KernelSpectrum.of(self.x[kept], self.y[kept] - y_mean)
        dual = refit.vectors @ _weigh(1.0 / (refit.eigenvalues + alphas[:, None]), refit.scores)
        for index in chunks(fold, chunk_rows):
            kernel = (self.x[index] - refit.x_mean) @ refit.x.T
            fitted = (kernel @ dual).reshape(len(index), len(alphas), -1)
            yield Errors(index, (self.y[index] - y_mean)[:, None, :] - fitted)


Spectrum: TypeAlias = GramSpectrum | KernelSpectrum
"""Either route."""


def _moments(
    source: RowSource, y: Float[np.ndarray, "row target"], chunk_rows: int
) -> tuple[Float[np.ndarray, " width"], Float[np.ndarray, "width width"], Float[np.ndarray, "width target"]]:
    """Mean, centred X'X and X'y in one pass, about a rough mean first so that no digits cancel."""
    n, width = source.shape
    with np.errstate(invalid="ignore"):
        shift = gather_float64(source, np.unique(np.linspace(0, n - 1, _SAMPLE_FOR_SHIFT).astype(int))).mean(
            axis=0
        )
    shift = np.where(np.isfinite(shift), shift, 0.0)
    total, gram, x_dot_y = np.zeros(width), np.zeros((width, width)), np.zeros((width, y.shape[1]))
    for index in chunks(np.arange(n), chunk_rows):
        rows = gather_float64(source, index)
        rows -= shift
        with np.errstate(invalid="ignore"):
            sums = rows.sum(axis=0)
        if not np.isfinite(sums).all():
            check_finite_rows(rows, index, "X")
        total += sums
        with np.errstate(over="ignore", invalid="ignore"):  # told where eigenvalues are asked for
            gram += rows.T @ rows
        x_dot_y += rows.T @ y[index]
    offset = total / n
    with np.errstate(over="ignore", invalid="ignore"):
        gram -= n * np.outer(offset, offset)
    return shift + offset, gram, x_dot_y
