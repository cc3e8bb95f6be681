"""One eigendecomposition that serves every ridge strength: of the Gram matrix X'X, or of the kernel XX'.

Both say the same thing, the residual maker I − H(α) as a function of α, where H holds the intercept too:

- Gram (`width` small): I − H = I − 1/n − Z diag(1 / (a + α)) Z', with X'X = V a V' and Z = XV;
- kernel (rows fewer than `width`): I − H = U diag(α / (a + α)) U', with XX' = U a U', where nothing is
  subtracted, so that a tiny α loses no digits.

Each route gives `eigenvalues`; `basis`, the rows of Z or U; `weights`, the diagonal at each strength;
`scores`, the targets in that basis; and `complement`, true where basis and weights make I − H itself.

X is centred throughout; strengths are sklearn's `alpha`: the loss is |y − Xw|² + α |w|².

Out-of-fold errors need no refits, and are exact, intercept included: leave-one-out is Golub, Heath & Wahba
(1979), e_i = (y_i − ŷ_i) / (1 − h_ii), leave-one-cluster-out its block form, e_G = (I − H_GG)⁻¹ (y_G − ŷ_G).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int, Shaped

from graticule.probes.linear.moments import Moments, eigen, fewer_rows, gram_of, rough_middle
from graticule.probes.linear.rows import (
    RowSource,
    check_finite_rows,
    check_squares,
    chunk_rows_for,
    chunks,
    gather_float64,
)

LARGEST_CLUSTER = 500
"""Clusters with more rows than this are held out by refits, in folds of whole clusters."""
N_FOLDS = 10
"""At most so many folds for the large clusters: with ten of them or fewer each is held out alone."""
_BATCH_VALUES = 1 << 22
_PAIRS_UP_TO = 8


class Errors(NamedTuple):
    """Out-of-fold errors y − ŷ of some rows, for the standardised targets."""

    rows: Int[np.ndarray, " chunk"]
    errors: Float[np.ndarray, "chunk alpha target"]


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

    def with_targets(self, y: Float[np.ndarray, "row target"]) -> GramSpectrum:
        """The same rows with other targets, in one pass over them."""
        chunk_rows = chunk_rows_for(len(self.x_mean))
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

    def with_targets(self, y: Float[np.ndarray, "row target"]) -> KernelSpectrum:
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


# What is held out ---------------------------------------------------------------------------------
@dataclass(frozen=True)
class HoldoutPlan:
    """Which rows are held out together."""

    groups: tuple[tuple[int, Int[np.ndarray, " _"]], ...]
    """(cluster size, rows ordered by cluster) for clusters that are held out one at a time in closed form."""
    folds: tuple[Int[np.ndarray, " _"], ...]
    """Rows of whole large clusters, held out together by a refit."""
    scheme: str
    """In words."""


def plan_holdout(n_rows: int, clusters: Shaped[np.ndarray, ...] | None = None) -> HoldoutPlan:
    """Every row by itself, or every cluster by itself, or (clusters above 500 rows) folds of clusters.

    Raises:
        ValueError: `clusters` is not `[row]`, or holds fewer than two clusters.
    """
    if clusters is None:
        return HoldoutPlan(((1, np.arange(n_rows)),), (), "leave-one-out")
    if clusters.shape != (n_rows,):
        raise ValueError(f"clusters has shape {clusters.shape}, expected one label a row: ({n_rows},)")
    _, first, codes, counts = np.unique(clusters, return_index=True, return_inverse=True, return_counts=True)
    if len(counts) < 2:
        raise ValueError(
            "clusters puts all rows into one cluster, so none can be held out; give at least two"
        )
    sizes = counts[codes]
    order = np.lexsort((np.arange(n_rows), first[codes], sizes))
    small = [int(m) for m in np.unique(counts) if m <= LARGEST_CLUSTER]
    groups = tuple((m, order[sizes[order] == m]) for m in small)
    folds = _folds(codes, np.flatnonzero(counts > LARGEST_CLUSTER), counts)
    scheme = "leave-one-out" if small == [1] and not folds else "leave-one-cluster-out"
    if folds:
        scheme += f", clusters above {LARGEST_CLUSTER} rows in {len(folds)} group folds"
    return HoldoutPlan(groups, folds, scheme)


def _folds(
    codes: Int[np.ndarray, " row"], large: Int[np.ndarray, " cluster"], counts: Int[np.ndarray, " _"]
) -> tuple[Int[np.ndarray, " _"], ...]:
    """Large clusters, the largest first, each to the fold that is smallest so far."""
    load = np.zeros(min(N_FOLDS, len(large)), dtype=int)
    fold_of = np.full(len(counts), -1)
    for cluster in large[np.argsort(-counts[large], kind="stable")]:
        fold_of[cluster] = int(load.argmin())
        load[fold_of[cluster]] += counts[cluster]
    return tuple(np.flatnonzero(fold_of[codes] == fold) for fold in range(len(load)))


def out_of_fold(
    spectrum: Spectrum,
    y: Float[np.ndarray, "row target"],
    alphas: Float[np.ndarray, " alpha"],
    plan: HoldoutPlan,
    chunk_rows: int,
) -> Iterator[Errors]:
    """Out-of-fold errors of every row once, in chunks of whole clusters, at every strength.

    `y` are the standardised targets that `spectrum` was made from. Work beyond the rotation of each row
    into the eigenbasis is one thin product for all strengths, and for clusters the blocks of I − H.
    """
    weights = spectrum.weights(alphas)
    scores = _weigh(weights, spectrum.scores)
    for size, rows in plan.groups:
        per_row = max(
            scores.shape[1], size * len(alphas), weights.shape[1] * (size > 1) * min(size, _PAIRS_UP_TO)
        )
        step = max(1, min(chunk_rows, _BATCH_VALUES // per_row) // size) * size
        for index in chunks(rows, step):
            basis = spectrum.basis(index)
            residual = (basis @ scores).reshape(len(index), len(alphas), -1)
            if not spectrum.complement:
                np.subtract(y[index][:, None, :], residual, out=residual)
            if size == 1:
                residual /= _diagonal(basis, weights, spectrum.complement, len(y))[:, :, None]
                yield Errors(index, residual)
            else:
                blocks = _blocks(
                    basis.reshape(-1, size, basis.shape[1]), weights, spectrum.complement, len(y)
                )
                by_cluster = residual.reshape(-1, size, *residual.shape[1:]).transpose(0, 2, 1, 3)
                yield Errors(
                    index, np.linalg.solve(blocks, by_cluster).transpose(0, 2, 1, 3).reshape(residual.shape)
                )
    for fold in plan.folds:
        yield from spectrum.fold_errors(
            fold, alphas, max(1, min(chunk_rows, _BATCH_VALUES // scores.shape[1]))
        )


def _diagonal(
    basis: Float[np.ndarray, "chunk rank"], weights: Float[np.ndarray, "alpha rank"], complement: bool, n: int
) -> Float[np.ndarray, "chunk alpha"]:
    """1 − h_ii; overwrites `basis`."""
    squares = np.multiply(basis, basis, out=basis) @ weights.T
    return squares if complement else (1.0 - 1.0 / n) - squares


def _blocks(
    basis: Float[np.ndarray, "cluster m rank"],
    weights: Float[np.ndarray, "alpha rank"],
    complement: bool,
    n: int,
) -> Float[np.ndarray, "cluster alpha m m"]:
    """I − H_GG of each cluster at each strength."""
    count, m, rank = basis.shape
    blocks = np.empty((count, len(weights), m, m))
    if m <= _PAIRS_UP_TO:
        # Small blocks: the products of all pairs of rows, then one thin product for the whole grid.
        left, right = np.triu_indices(m)
        pairs = (basis[:, left] * basis[:, right]).reshape(-1, rank) @ weights.T
        pairs = pairs.reshape(count, len(left), -1).transpose(0, 2, 1)
        blocks[:, :, left, right] = pairs
        blocks[:, :, right, left] = pairs
    else:
        for block, rows in zip(blocks, basis, strict=True):
            weighted = (weights[:, None, :] * rows).reshape(-1, rank)
            np.matmul(weighted, rows.T, out=block.reshape(-1, m))
    return blocks if complement else (np.eye(m) - 1.0 / n) - blocks
