"""Out-of-fold errors of a ridge for a whole grid of strengths, without refitting.

Leave-one-out is Golub, Heath & Wahba (1979): e_i = (y_i − ŷ_i) / (1 − h_ii). Leave-one-cluster-out is its
block form, e_G = (I − H_GG)⁻¹ (y_G − ŷ_G). Both are exact, intercept included.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from graticule.probes.linear.rows import chunks
from graticule.probes.linear.spectrum import Errors, Spectrum

LARGEST_CLUSTER = 500
"""Clusters with more rows than this are held out by refits, in folds of whole clusters."""

N_FOLDS = 10
"""At most so many folds for the large clusters: with ten of them or fewer each is held out alone."""

_BATCH_VALUES = 1 << 22
_PAIRS_UP_TO = 8


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

    **Raises** `ValueError` if `clusters` is not `[row]` or holds fewer than two clusters.
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
    scores = (weights.T[:, :, None] * spectrum.scores[:, None, :]).reshape(weights.shape[1], -1)
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
