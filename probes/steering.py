"""Sets of steering vectors, one set a concept, and how parallel they are within a set and across sets.

A steering vector is the difference that flipping one concept makes: of unembeddings g(c_(i→1)) − g(c_(i→0)),
or of embeddings f(d_(i→1)) − f(d_(i→0)) (Jiang et al. 2403.03867, section 2; counterfactual pairs in Park et
al. 2311.03658). What is said of them here holds for lookup tables and language models alike: cosines, which
depend on the basis in which a model happens to hold its tables, and beside them what does not: log-odds and
ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from graticule.hooks.values import unmasked
from graticule.probes.geometry import Metric, effective_rank
from graticule.probes.steering_nulls import re_paired

_ZERO = 1e-12  # of the longest vector: shorter ones have no direction


def units(
    vectors: Float[np.ndarray, "n width"], metric: Metric | None = None, kind: str = "read"
) -> Float[np.ndarray, "kept width"]:
    """Vectors scaled to length 1 under an inner product, in float64; those of length 0 are left out.

    Rows are mapped by `metric.of(kind)`, so that plain dot products of what comes back are cosines.
    """
    mapped = np.asarray(unmasked("vectors", vectors), np.float64)
    if metric is not None:
        mapped = mapped @ metric.of(kind).T
    lengths = np.linalg.norm(mapped, axis=1)
    kept = lengths > _ZERO * lengths.max(initial=0.0)
    return mapped[kept] / lengths[kept, None]


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

    **Arguments:** `metric` is the inner product (None: Euclidean) and `kind` what the vectors are under it:
    `"read"` for functionals such as unembedding differences, `"write"` for differences of activations;
    `column_kind` says so of `columns` where they differ.

    **Raises** `ValueError` for sets of different widths or an unknown kind.
    """
    _one_width([*rows, *(columns or ())])
    left = [units(v, metric, kind) for v in rows]
    others = left if columns is None else [units(v, metric, column_kind or kind) for v in columns]
    n, k = (np.array([len(v) for v in held], np.float64) for held in (left, others))
    sums, sums_k = (np.array([v.sum(axis=0) for v in held]) for held in (left, others))
    if not left or not others:
        return np.zeros((len(left), len(others)))
    total, pairs = sums @ sums_k.T, np.outer(n, k)
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

    `read` holds differences of unembeddings, `write` of embeddings (see `Gauge`).

    **Raises** `ValueError` for an empty set.
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
    left, right = (
        np.array([v.mean(axis=0, dtype=np.float64) if len(v) else np.full(v.shape[1], np.nan) for v in held])
        for held in (read, write)
    )
    return left @ right.T


# What chance gives ------------------------------------------------------------------------------------
def shuffled_pairs(
    starts: Float[np.ndarray, "n width"],
    ends: Float[np.ndarray, "n width"],
    draws: int = 200,
    seed: int = 0,
    metric: Metric | None = None,
    kind: str = "read",
) -> Float[np.ndarray, " draw"]:
    """Permutation null: the set's mean cosine when its ends are dealt out anew among its starts.

    The same words or rows at both sides, only who is whose counterpart is lost: what this keeps of a set's
    cosine is a difference of two groups, not of counterfactual pairs.

    **Raises** `ValueError` for unequal numbers of starts and ends.
    """
    if len(starts) != len(ends):
        raise ValueError(f"{len(starts)} starts and {len(ends)} ends: a pair has one of each")
    left, right = (np.asarray(unmasked("starts and ends", v), np.float64) for v in (starts, ends))
    if metric is not None:
        left, right = left @ metric.of(kind).T, right @ metric.of(kind).T
    return re_paired(left, right, draws, np.random.default_rng(seed))


def random_pairs(
    table: Float[np.ndarray, "row width"],
    n: int,
    draws: int = 200,
    seed: int = 0,
    metric: Metric | None = None,
    kind: str = "read",
) -> Float[np.ndarray, " draw"]:
    """Random-pair null: the mean cosine within `n` differences of two rows drawn anywhere in a table.

    **Raises** `ValueError` for a table of fewer than two rows.
    """
    if len(table) < 2:
        raise ValueError(f"a table of {len(table)} rows has no pairs")
    rng = np.random.default_rng(seed)
    out = np.empty(draws)
    for i in range(draws):
        first = rng.integers(0, len(table), n)
        second = (first + rng.integers(1, len(table), n)) % len(table)
        out[i] = _within(table[second] - table[first], metric, kind)
    return out


def _within(vectors: np.ndarray, metric: Metric | None, kind: str) -> float:
    return float(mean_cosines([vectors], metric=metric, kind=kind)[0, 0])
