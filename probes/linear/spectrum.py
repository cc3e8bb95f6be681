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
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from graticule.probes.linear.moments import Moments, eigen, fewer_rows, gram_of, rough_middle
from graticule.probes.linear.rows import (
    RowSource,
    check_finite_rows,
    check_squares,
    chunks,
    gather_float64,
)


class Errors(NamedTuple):
    """Out-of-fold errors y − ŷ of some rows, for the standardised targets."""

    rows: Int[np.ndarray, " chunk"]
    """The rows."""
    errors: Float[np.ndarray, "chunk alpha target"]
    """The errors at each strength."""


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
    moments: Moments
    """Centred; a fold can be taken out of them."""

    complement: ClassVar[bool] = False

    @classmethod
    def of(cls, source: RowSource, y: Float[np.ndarray, "row target"], chunk_rows: int) -> GramSpectrum:
        """One pass over `source`. Raises `ValueError` naming the first rows that are not finite."""
        every, shift = np.arange(len(y)), rough_middle(source, np.mean)
        moments = Moments.of(source, y, every, shift, chunk_rows)
        mean = shift + moments.centre(len(y))
        values, vectors = eigen(moments.gram)
        spectrum = cls(source, y, values, vectors, vectors.T @ moments.xy, mean, moments)
        check_squares(float(values[-1]), map(spectrum._centred, chunks(every, chunk_rows)))
        return spectrum

    @property
    def x_dot_y(self) -> Float[np.ndarray, "width target"]:
        """X'y, centred."""
        return self.moments.xy

    @property
    def spread(self) -> Float[np.ndarray, " width"]:
        """What `basis` is multiplied by to be rows along the principal axes: nothing."""
        return np.ones(len(self.eigenvalues))

    def with_targets(self, y: Float[np.ndarray, "row target"], chunk_rows: int) -> GramSpectrum:
        """The same rows with other targets, in one pass over them."""
        x_dot_y = np.zeros((len(self.x_mean), y.shape[1]))
        for index in chunks(np.arange(len(y)), chunk_rows):
            x_dot_y += self._centred(index).T @ y[index]
        moments = replace(self.moments, xy=x_dot_y)
        return replace(self, y=y, scores=self.vectors.T @ x_dot_y, moments=moments)

    def project(self, rows: Float[np.ndarray, "row width"]) -> Float[np.ndarray, "row width"]:
        """Any rows in the basis that `scores` belong to."""
        return (rows - self.x_mean) @ self.vectors

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
        self, fold: Int[np.ndarray, " fold"], alphas: Float[np.ndarray, " alpha"], chunk_rows: int
    ) -> Iterator[Errors]:
        """Errors of `fold` under an exact refit: its rows are taken out of X'X, X'y and both means."""
        moments = self.moments.copy()
        for index in chunks(fold, chunk_rows):
            moments.take_out(self._centred(index), self.y[index])
        n_left = len(self.y) - len(fold)
        y_mean = -self.y[fold].sum(axis=0) / n_left
        x_mean = moments.centre(n_left, y_mean)
        values, vectors = eigen(moments.gram)
        coef = vectors @ _weigh(1.0 / (values + alphas[:, None]), vectors.T @ moments.xy)
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
        """Takes `x` over: it is centred in place. Raises `ValueError` naming rows that are not finite."""
        check_finite_rows(x, np.arange(len(x)), "X")
        mean = x.mean(axis=0)
        x -= mean
        values, vectors = eigen(gram_of(x, by_row=True))
        # The constant lies in the kernel's null space, mixed with whatever else does; the intercept fits it.
        vectors -= vectors.mean(axis=0)
        return cls(x, y, values, vectors, vectors.T @ y, mean, x.T @ y)

    @property
    def spread(self) -> Float[np.ndarray, " row"]:
        """What `basis` is multiplied by to be rows along the principal axes."""
        return np.sqrt(self.eigenvalues)

    def with_targets(
        self,
        y: Float[np.ndarray, "row target"],
        chunk_rows: int,  # noqa: ARG002
    ) -> KernelSpectrum:
        """The same rows with other targets."""
        return replace(self, y=y, scores=self.vectors.T @ y, x_dot_y=self.x.T @ y)

    def project(self, rows: Float[np.ndarray, "other width"]) -> Float[np.ndarray, "other row"]:
        """Any rows in the basis that `scores` belong to."""
        return (rows - self.x_mean) @ self.x.T @ self.vectors

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
        self, fold: Int[np.ndarray, " fold"], alphas: Float[np.ndarray, " alpha"], chunk_rows: int
    ) -> Iterator[Errors]:
        """Errors of `fold` under a refit on the other rows."""
        rest = np.setdiff1d(np.arange(len(self.y)), fold)
        y_mean = self.y[rest].mean(axis=0)
        refit = KernelSpectrum.of(self.x[rest], self.y[rest] - y_mean)
        dual = refit.vectors @ _weigh(1.0 / (refit.eigenvalues + alphas[:, None]), refit.scores)
        for index in chunks(fold, chunk_rows):
            kernel = (self.x[index] - refit.x_mean) @ refit.x.T
            fitted = (kernel @ dual).reshape(len(index), len(alphas), -1)
            yield Errors(index, (self.y[index] - y_mean)[:, None, :] - fitted)


Spectrum: TypeAlias = GramSpectrum | KernelSpectrum
"""Either route."""


def spectrum_of(source: RowSource, y: Float[np.ndarray, "row target"], chunk_rows: int) -> Spectrum:
    """By whichever products are the smaller; `y` are standardised targets."""
    if fewer_rows(source.shape):
        return KernelSpectrum.of(gather_float64(source, np.arange(len(y))), y)
    return GramSpectrum.of(source, y, chunk_rows)
