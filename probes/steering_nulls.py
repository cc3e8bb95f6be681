"""Many draws at once of what chance gives for sets of steering vectors: resampled, turned round, re-paired.

All work on the Gram matrix of unit vectors, set after set, so that a thousand draws of thirty concepts take
seconds. Entries of vectors that must not meet (one with itself, two pairs that share a word) are given by
their indices and left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int

from graticule.hooks.imports import load


def set_slices(sizes: Int[np.ndarray, " set"]) -> list[slice]:
    """Where each set lies among the stacked vectors."""
    ends = np.cumsum(sizes)
    return [slice(int(e - n), int(e)) for e, n in zip(ends, sizes, strict=True)]


def block_means(
    gram: Float[np.ndarray, "n n"],
    apart: Int[np.ndarray, "entry 2"],
    sizes: Int[np.ndarray, " set"],
    weights: Float[np.ndarray, "n draw"] | None = None,
) -> Float[np.ndarray, "draw set set"]:
    """Mean cosine between every two sets, without the entries that `apart` lists, for each draw of weights.

    Numerator Σ w_p w_q G_pq, denominator Σ |w_p w_q|, over the other (p, q): weights of ±1 turn pairs round,
    counts resample them (a pair drawn twice does not meet itself). NaN where no entry is left.

    **Arguments:** `gram` of unit vectors, sets one after another; `apart` the rows and columns of
    entries to leave out, the diagonal among them, each once; None for `weights` is one draw of ones.
    """
    load("scipy.sparse")
    from scipy.sparse import csr_array

    n = len(gram)
    w = np.ones((n, 1), np.float32) if weights is None else weights.astype(np.float32)
    kept = gram.astype(np.float32)
    kept[apart[:, 0], apart[:, 1]] = 0.0
    left = csr_array((np.ones(len(apart), np.float32), (apart[:, 0], apart[:, 1])), shape=gram.shape)
    sums, size = _block_sums(kept, sizes, w), np.abs(w)
    within = np.array([size[s].sum(axis=0) for s in set_slices(sizes)])  # [set, draw]
    counts = within.T[:, :, None] * within.T[:, None, :] - _block_sums(left, sizes, size)
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0.5)


def diagonal(n: int) -> Int[np.ndarray, "n 2"]:
    """The entries at which a vector would meet itself."""
    return np.stack([np.arange(n), np.arange(n)], axis=1)


def _block_sums(matrix: Any, sizes: np.ndarray, w: np.ndarray) -> np.ndarray:
    """w_iᵀ M_ij w_j of every two sets and draw: `[draw, set, set]`."""
    starts = np.cumsum(sizes) - sizes
    out = np.empty((w.shape[1], len(sizes), len(sizes)))
    for j, s in enumerate(set_slices(sizes)):
        reached = np.asarray(matrix[:, s] @ w[s]) * w  # [n, draw]
        out[:, :, j] = np.add.reduceat(reached, starts, axis=0).T
    return out


def signs(n: int, draws: int, rng: np.random.Generator) -> Float32[np.ndarray, "n draw"]:
    """Random signs: every pair in one order or the other, which leaves no direction to agree on."""
    return np.where(rng.random((n, draws)) < 0.5, np.float32(-1), np.float32(1))


def resamples(
    sizes: Int[np.ndarray, " set"], draws: int, rng: np.random.Generator
) -> Float32[np.ndarray, "n draw"]:
    """How often a bootstrap draws each vector, from within its own set."""
    parts = [rng.multinomial(int(n), np.full(int(n), 1 / n), size=draws).T for n in sizes]
    return np.concatenate(parts).astype(np.float32)


def random_sets(
    unit: Float[np.ndarray, "pool width"],
    sizes: Int[np.ndarray, " set"],
    draws: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "draw set"]:
    """Mean cosine within sets of the given sizes, drawn without replacement from a pool of unit vectors.

    One draw serves all sizes, each taking the first so many vectors of it.

    **Raises** `ValueError` if the pool is smaller than a set.
    """
    most = int(sizes.max())
    if most > len(unit):
        raise ValueError(f"a set of {most} vectors cannot be drawn from a pool of {len(unit)}")
    out = np.empty((draws, len(sizes)))
    small = unit.astype(np.float32)
    for d in range(draws):
        running = np.cumsum(small[rng.choice(len(unit), most, replace=False)], axis=0, dtype=np.float32)
        squares = (running[sizes - 1].astype(np.float64) ** 2).sum(axis=1)
        out[d] = (squares - sizes) / np.maximum(sizes * (sizes - 1), 1)
    return out


def re_paired(
    starts: Float[np.ndarray, "n width"],
    ends: Float[np.ndarray, "n width"],
    draws: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, " draw"]:
    """Mean cosine within a set (no vector with itself) when its ends are dealt out anew among its starts.

    The difference of the two groups' means stays, whoever is whose counterpart: beating this null says that
    the *pairing* carries something, not that the concept has a direction. All draws at once; a pairing of a
    word with itself counts as a vector of length 0 and is left out.
    """
    n = len(starts)
    cross = starts @ ends.T
    squares = (starts**2).sum(axis=1)[:, None] + (ends**2).sum(axis=1) - 2 * cross  # [start, end]
    scale = float(squares.max(initial=0.0))
    inverse = np.where(squares > 1e-12 * scale, 1 / np.sqrt(np.maximum(squares, 1e-300)), 0.0)
    order = np.argsort(rng.random((draws, n)), axis=1)
    weights = inverse[np.arange(n), order]  # [draw, start]
    by_end = np.zeros((draws, n))
    np.put_along_axis(by_end, order, weights, axis=1)
    total = by_end @ ends - weights @ starts
    count = (weights > 0).sum(axis=1)
    return ((total**2).sum(axis=1) - count) / np.maximum(count * (count - 1), 1)
