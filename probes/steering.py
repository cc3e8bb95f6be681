"""Sets of steering vectors, one set a concept, and how parallel they are within a set and across sets.

A steering vector is the difference that flipping one concept makes: of unembeddings g(c_(i→1)) − g(c_(i→0)),
or of embeddings f(d_(i→1)) − f(d_(i→0)) (Jiang et al. 2403.03867, section 2; counterfactual pairs in Park et
al. 2311.03658). What is said of them here holds for lookup tables and language models alike: cosines, which
depend on the basis in which a model happens to hold its tables, and beside them what does not: log-odds and
ranks. What chance gives is drawn many times at once, from the Gram matrix of unit vectors, set after set, so
that a thousand draws of thirty concepts take seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int

from graticule.hooks.calls import renamed
from graticule.hooks.imports import load
from graticule.hooks.values import unmasked
from graticule.probes.geometry import Metric, effective_rank

_ZERO = 1e-12  # of the longest vector: shorter ones have no direction


def units(
    vectors: Float[np.ndarray, "n width"], metric: Metric | None = None, kind: str = "read"
) -> Float[np.ndarray, "kept width"]:
    """Vectors scaled to length 1 under an inner product, in float64; those of length 0 are left out.

    Rows are mapped by `metric.of(kind)`, so that plain dot products of what comes back are cosines.
    """
    mapped = _mapped(unmasked("vectors", vectors), metric, kind)
    lengths = np.linalg.norm(mapped, axis=1)
    long = lengths > _ZERO * lengths.max(initial=0.0)
    return mapped[long] / lengths[long, None]


def _mapped(vectors: np.ndarray, metric: Metric | None, kind: str) -> np.ndarray:
    rows = np.asarray(vectors, np.float64)
    return rows if metric is None else rows @ metric.of(kind).T


def usable(
    sets: Sequence[Float[np.ndarray, "_ width"]], metric: Metric | None = None, kind: str = "read"
) -> Int[np.ndarray, " set"]:
    """How many vectors of each set have a direction: those that `mean_cosines` counts."""
    return np.array([len(units(vectors, metric, kind)) for vectors in sets], np.int64)


def mean_cosines(
    rows: Sequence[Float[np.ndarray, "_ width"]],
    columns: Sequence[Float[np.ndarray, "_ width"]] | None = None,
    metric: Metric | None = None,
    kind: str = "read",
    *,
    column_kind: str | None = None,
    self_pairs: bool = False,
) -> Float[np.ndarray, "set other"]:
    """Mean cosine over all pairs of a vector of set i with a vector of set j.

    Without `columns` the sets are set against themselves, and on the diagonal no vector is paired with itself
    unless `self_pairs` says so: a set of n equally spread vectors would seem parallel by 1/n. From the sum S
    of a set's unit vectors that is (|S|² − n) / (n(n − 1)). Vectors of length 0 are left out (`usable` counts
    the others); where no pair is left the entry is NaN.

    Args:
        rows: sets of vectors.
        columns: others, to set them against.
        metric: the inner product (None: Euclidean).
        kind: what the vectors are under it, `"read"` for functionals such as unembedding differences,
            `"write"` for differences of activations.
        column_kind: the same of `columns`, where they differ.
        self_pairs: pair every vector with itself too.

    Raises:
        ValueError: for sets of different widths or an unknown kind.
    """
    _one_width([*rows, *(columns or ())])
    left = [units(v, metric, kind) for v in rows]
    others = left if columns is None else [units(v, metric, column_kind or kind) for v in columns]
    if not left or not others:
        return np.zeros((len(left), len(others)))
    n, k = (np.array([len(v) for v in sets], np.float64) for sets in (left, others))
    sums, other_sums = (np.array([v.sum(axis=0) for v in sets]) for sets in (left, others))
    total, pairs = sums @ other_sums.T, np.outer(n, k)
    if columns is None and not self_pairs:
        total[np.diag_indices_from(total)] -= n
        pairs[np.diag_indices_from(pairs)] -= n
    return np.divide(total, pairs, out=np.full(total.shape, np.nan), where=pairs > 0)


def _one_width(sets: Sequence[np.ndarray]) -> None:
    widths = sorted({int(v.shape[1]) for v in sets})
    if len(widths) > 1:
        raise ValueError(f"sets of steering vectors of different widths {widths}; all must live in one space")


# What no change of basis alters -----------------------------------------------------------------------
@dataclass(frozen=True)
class Gauge:
    """What of a concept's linear representation does not depend on the basis of the tables.

    Probabilities stay as they are under f → A⁻ᵀf, g → Ag + β, and cosines do not. The log-odds of a pair of
    tokens change by M[c, d] = Δ_{c}ᵀ(f(d_(i→1)) − f(d_(i→0))) when the concept is flipped in a context: M is
    what the model says. Parallel Δ, or parallel embedding vectors, make M of rank 1.
    """

    mean: float
    """Mean of M in nats: how much a flip in the context moves the flip's log-odds."""
    positive: float
    """Share of positive entries of M: 1 where every flip moves every pair the right way."""
    first: float
    """Share of M's squared singular values in the first: 1 for rank 1."""
    effective: float
    """Effective rank of M (Roy & Vetterli 2007): 1 for rank 1."""
    rank: int
    """Rank of the stack of Δ (singular values above 1e-6 of the largest): kept by any invertible A."""


def gauge_free(read: Float[np.ndarray, "n width"], write: Float[np.ndarray, "k width"]) -> Gauge:
    """The gauge-invariant companions of one concept's cosines.

    Args:
        read: differences of unembeddings (see `Gauge`).
        write: differences of embeddings.

    Raises:
        ValueError: for an empty set.
    """
    if not len(read) or not len(write):
        raise ValueError(f"{len(read)} unembedding and {len(write)} embedding vectors: one or more of each")
    read, write = np.asarray(read, np.float64), np.asarray(write, np.float64)
    moved = read @ write.T
    # M = R Wᵀ has the singular values of the two small triangular factors' product
    of_read, of_write = np.linalg.qr(read).R, np.linalg.qr(write).R
    singular = np.linalg.svd(of_read @ of_write.T, compute_uv=False)
    power = float((singular**2).sum())
    stack = np.linalg.svd(of_read, compute_uv=False)
    return Gauge(
        mean=float(moved.mean()),
        positive=float((moved > 0).mean()),
        first=float(singular[0] ** 2 / power) if power > 0 else float("nan"),
        effective=effective_rank(singular),
        rank=int((stack > 1e-6 * stack[0]).sum()),
    )


def mean_log_odds(
    read: Sequence[Float[np.ndarray, "_ width"]], write: Sequence[Float[np.ndarray, "_ width"]]
) -> Float[np.ndarray, "set other"]:
    """Mean change in nats of set i's log-odds by set j's flips: the gauge-invariant companion of an
    orthogonality heat-map. NaN for an empty set."""
    _one_width([*read, *write])
    left, right = (np.array([_mean(vectors) for vectors in sets]) for sets in (read, write))
    return left @ right.T


def _mean(vectors: np.ndarray) -> np.ndarray:
    return vectors.mean(axis=0, dtype=np.float64) if len(vectors) else np.full(vectors.shape[1], np.nan)


# What chance gives, one set at a time ------------------------------------------------------------------
@renamed(draws="n_random")
def shuffled_pairs(
    starts: Float[np.ndarray, "n width"],
    ends: Float[np.ndarray, "n width"],
    n_random: int = 200,
    seed: int = 0,
    metric: Metric | None = None,
    kind: str = "read",
) -> Float[np.ndarray, " draw"]:
    """Permutation null: the set's mean cosine under random re-pairing of its starts and ends.

    The same words or rows at both sides, only who is whose counterpart is lost: what this leaves of a set's
    cosine is a difference of two groups, not of counterfactual pairs.

    Raises:
        ValueError: for unequal numbers of starts and ends.
    """
    if len(starts) != len(ends):
        raise ValueError(f"{len(starts)} starts and {len(ends)} ends: a pair has one of each")
    left, right = (_mapped(unmasked("starts and ends", v), metric, kind) for v in (starts, ends))
    return re_paired(left, right, n_random, np.random.default_rng(seed))


@renamed(draws="n_random")
def random_pairs(
    table: Float[np.ndarray, "row width"],
    n: int,
    n_random: int = 200,
    seed: int = 0,
    metric: Metric | None = None,
    kind: str = "read",
) -> Float[np.ndarray, " draw"]:
    """Random-pair null: the mean cosine within `n` differences of two rows drawn anywhere in a table.

    Raises:
        ValueError: for a table of fewer than two rows.
    """
    if len(table) < 2:
        raise ValueError(f"a table of {len(table)} rows has no pairs")
    rng = np.random.default_rng(seed)
    out = np.empty(n_random)
    for i in range(n_random):
        first = rng.integers(0, len(table), n)
        second = (first + rng.integers(1, len(table), n)) % len(table)
        out[i] = mean_cosines([table[second] - table[first]], metric=metric, kind=kind)[0, 0]
    return out


# What chance gives, all sets at once -------------------------------------------------------------------
def set_slices(sizes: Int[np.ndarray, " set"]) -> list[slice]:
    """Where each set lies among the stacked vectors."""
    ends = np.cumsum(sizes)
    return [slice(int(e - n), int(e)) for e, n in zip(ends, sizes, strict=True)]


def mean_block_cosines(
    gram: Float[np.ndarray, "n n"],
    apart: Int[np.ndarray, "entry 2"],
    sizes: Int[np.ndarray, " set"],
    weights: Float[np.ndarray, "n draw"] | None = None,
) -> Float[np.ndarray, "draw set set"]:
    """Mean cosine between every two sets, without the entries that `apart` lists, for each draw of weights.

    Numerator Σ w_p w_q G_pq, denominator Σ |w_p w_q|, over the other (p, q): weights of ±1 turn pairs round,
    counts resample them (a pair drawn twice does not meet itself). NaN where no entry is left.

    Args:
        gram: of unit vectors, sets one after another.
        apart: rows and columns of the entries to leave out, each once: vectors that must not meet (one with
            itself, two pairs that share a word).
        sizes: vectors of each set.
        weights: None is one draw of ones.
    """
    load("scipy.sparse")
    from scipy.sparse import csr_array

    n = len(gram)
    w = np.ones((n, 1), np.float32) if weights is None else weights.astype(np.float32)
    cosines = gram.astype(np.float32)
    cosines[apart[:, 0], apart[:, 1]] = 0.0
    left = csr_array((np.ones(len(apart), np.float32), (apart[:, 0], apart[:, 1])), shape=gram.shape)
    sums, size = _block_sums(cosines, sizes, w), np.abs(w)
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


def signs(n: int, n_random: int, rng: np.random.Generator) -> Float32[np.ndarray, "n draw"]:
    """Random signs: every pair in one order or the other, which leaves no direction to agree on."""
    return np.where(rng.random((n, n_random)) < 0.5, np.float32(-1), np.float32(1))


def random_sets(
    unit: Float[np.ndarray, "pool width"],
    sizes: Int[np.ndarray, " set"],
    n_random: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "draw set"]:
    """Mean cosine within sets of the given sizes, drawn without replacement from a pool of unit vectors.

    One draw serves all sizes, each taking the first so many vectors of it.

    Raises:
        ValueError: if the pool is smaller than a set.
    """
    most = int(sizes.max())
    if most > len(unit):
        raise ValueError(f"a set of {most} vectors cannot be drawn from a pool of {len(unit)}")
    out = np.empty((n_random, len(sizes)))
    small = unit.astype(np.float32)
    for d in range(n_random):
        running = np.cumsum(small[rng.choice(len(unit), most, replace=False)], axis=0, dtype=np.float32)
        squares = (running[sizes - 1].astype(np.float64) ** 2).sum(axis=1)
        out[d] = (squares - sizes) / np.maximum(sizes * (sizes - 1), 1)
    return out


def re_paired(
    starts: Float[np.ndarray, "n width"],
    ends: Float[np.ndarray, "n width"],
    n_random: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, " draw"]:
    """Mean cosine within a set (no vector with itself) under random re-pairing of its starts and ends.

    The difference of the two groups' means stays, whoever is whose counterpart: beating this null says that
    the *pairing* carries something, not that the concept has a direction. All draws at once; a pairing of a
    word with itself counts as a vector of length 0 and is left out.
    """
    n = len(starts)
    cross = starts @ ends.T
    squares = (starts**2).sum(axis=1)[:, None] + (ends**2).sum(axis=1) - 2 * cross  # [start, end]
    scale = float(squares.max(initial=0.0))
    inverse = np.where(squares > 1e-12 * scale, 1 / np.sqrt(np.maximum(squares, 1e-300)), 0.0)
    order = np.argsort(rng.random((n_random, n)), axis=1)
    weights = inverse[np.arange(n), order]  # [draw, start]
    by_end = np.zeros((n_random, n))
    np.put_along_axis(by_end, order, weights, axis=1)
    total = by_end @ ends - weights @ starts
    count = (weights > 0).sum(axis=1)
    return ((total**2).sum(axis=1) - count) / np.maximum(count * (count - 1), 1)
