"""Cosines within concepts and between them under one inner product, with intervals and what chance gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from graticule.hooks.imports import load
from graticule.probes.geometry import Metric
from graticule.probes.scores.multiplicity import benjamini_hochberg, holm
from graticule.probes.scores.ties import share_reaching
from graticule.probes.steering import (
    block_means,
    diagonal,
    random_sets,
    re_paired,
    resamples,
    set_slices,
    signs,
)
from graticule.probes.words.readout import Readout
from graticule.probes.words.tokens import TokenPairs

LEVEL = 0.95
"""Of intervals, and of the quantiles of what chance gives."""
ALPHA = 0.05
"""A corrected p up to here is above chance."""


@dataclass(frozen=True)
class Rows:
    """Unembedding rows after one inner product's map: plain dot products are its products."""

    starts: Float[np.ndarray, "pair width"]
    """γ of every kept pair's first word, concept after concept."""
    ends: Float[np.ndarray, "pair width"]
    """γ of its second word."""
    vocabulary: Float[np.ndarray, "random width"]
    """Differences of random pairs of vocabulary tokens."""
    listed: Float[np.ndarray, "random width"]
    """Differences of random pairs of the lists' own words: as common as the concepts' words are."""

    def under(self, metric: Metric) -> Rows:
        """The rows mapped by an inner product for functionals."""
        held = (self.starts, self.ends, self.vocabulary, self.listed)
        return Rows(*(rows @ metric.read.T for rows in held))


def gather(readout: Readout, tokens: TokenPairs, n_random: int, seed: int) -> Rows:
    """The rows of the kept pairs and of `n_random` random pairs of either kind.

    **Raises** `ValueError` if `n_random` is less than the largest concept's pairs.
    """
    if n_random < (most := int(tokens.sizes.max())):
        raise ValueError(f"n_random={n_random}: the largest concept has {most} pairs; give more")
    ids, rng = tokens.ids, np.random.default_rng(seed)
    anywhere = _random_pairs(np.arange(readout.vocabulary), n_random, rng)
    among = _random_pairs(np.unique(ids), n_random, rng)
    table = [readout.rows(held) for held in (ids[:, 0], ids[:, 1], *anywhere.T, *among.T)]
    return Rows(table[0], table[1], table[3] - table[2], table[5] - table[4])


def _random_pairs(
    pool: Int[np.ndarray, " token"], n: int, rng: np.random.Generator
) -> Int[np.ndarray, "n 2"]:
    """Pairs of two different tokens."""
    first = rng.integers(0, len(pool), n)
    second = (first + rng.integers(1, len(pool), n)) % len(pool)
    return np.stack([pool[first], pool[second]], axis=1)


@dataclass(frozen=True)
class Heat:
    """One inner product's heat-map."""

    means: Float[np.ndarray, "concept concept"]
    """Mean cosine between concepts' steering vectors; no pair meets itself or one that shares a word."""
    plain: Float[np.ndarray, "concept concept"]
    """The same with pairs that share a word left in, as in Jiang et al.; self-pairs are out."""
    within: pd.DataFrame
    """A line a concept: the diagonal, its interval, and what chance gives."""
    between: pd.DataFrame
    """A line two concepts: the off-diagonal, its interval and p."""


def heat(tokens: TokenPairs, rows: Rows, draws: int, seed: int) -> Heat:
    """The heat-map of mapped rows, with `draws` of every null and of the bootstrap."""
    sizes, shared = tokens.sizes, tokens.shared
    unit = unit_rows(rows.ends - rows.starts)
    gram = unit @ unit.T
    rng = np.random.default_rng(seed)
    means = block_means(gram, shared, sizes)[0]
    plain = block_means(gram, diagonal(len(gram)), sizes)[0]
    booted = block_means(gram, shared, sizes, resamples(sizes, draws, rng))
    low, high = _interval(booted)
    flipped = block_means(gram, shared, sizes, signs(len(gram), draws, rng))
    within = pd.DataFrame({"concept": tokens.concepts, "kept": sizes})
    columns: dict[str, np.ndarray] = {"mean": means, "low": low, "high": high, "plain": plain}
    for name, value in columns.items():
        within[name] = np.diag(value)
    others = np.nan_to_num(np.abs(means), nan=-1.0)
    np.fill_diagonal(others, -1.0)
    largest = others.max(axis=1)
    within["largest_other"] = np.where(largest < 0, np.nan, largest)
    _chance(within, tokens, rows, np.diagonal(flipped, axis1=1, axis2=2), draws, rng)
    return Heat(means, plain, within, _between(tokens, means, plain, (low, high), flipped))


def _interval(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Percentiles over draws, undefined ones left out; NaN where none is defined."""
    flat = samples.reshape(len(samples), -1)
    out = np.full((2, flat.shape[1]), np.nan)
    defined = ~np.isnan(flat).all(axis=0)
    out[:, defined] = np.nanquantile(flat[:, defined], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    low, high = out.reshape(2, *samples.shape[1:])
    return low, high


def _chance(
    within: pd.DataFrame,
    tokens: TokenPairs,
    rows: Rows,
    flipped: np.ndarray,
    draws: int,
    rng: np.random.Generator,
) -> None:
    """Adds to `within` the level and one-sided p of every null."""
    sizes = tokens.sizes
    re_dealt = [re_paired(rows.starts[s], rows.ends[s], draws, rng) for s in set_slices(sizes)]
    nulls = {
        "flipped": (flipped, "mean"),
        "vocabulary": (random_sets(unit_rows(rows.vocabulary), sizes, draws, rng), "mean"),
        "listed": (random_sets(unit_rows(rows.listed), sizes, draws, rng), "mean"),
        # words recur as often in a re-dealt set as in the set itself, so both keep entries that share one
        "shuffled": (np.stack(re_dealt, axis=1), "plain"),
    }
    for name, (null, against) in nulls.items():
        observed = within[against].to_numpy(float)
        within[f"level_{name}"] = np.quantile(null, LEVEL, axis=0)
        within[f"p_{name}"] = share_reaching(null, observed)
    within["holm"] = holm(within["p_flipped"].to_numpy(float))
    within["benjamini_hochberg"] = benjamini_hochberg(within["p_flipped"].to_numpy(float))
    within["holm_shuffled"] = holm(within["p_shuffled"].to_numpy(float))


def _between(
    tokens: TokenPairs,
    means: np.ndarray,
    plain: np.ndarray,
    limits: tuple[np.ndarray, np.ndarray],
    flipped: np.ndarray,
) -> pd.DataFrame:
    """Every two concepts. p is two-sided, of the normal law with the flips' spread: with hundreds of tests no
    number of draws that one can afford would survive Holm's correction."""
    load("scipy.stats")
    from scipy.stats import norm

    first, second = np.triu_indices(len(means), 1)
    own = np.where(np.diag(means) > 0, np.diag(means), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        z = np.abs(means) / flipped.std(axis=0)
        aligned = means / np.sqrt(np.outer(own, own))
    p = 2 * np.asarray(norm.sf(z[first, second]))
    belongs = np.repeat(np.arange(len(means)), tokens.sizes)
    shared = np.zeros(means.shape, np.int64)
    np.add.at(shared, tuple(belongs[tokens.shared].T), 1)
    columns: dict[str, Any] = {
        "first": [tokens.concepts[i] for i in first],
        "second": [tokens.concepts[j] for j in second],
        "mean": means[first, second],
        "low": limits[0][first, second],
        "high": limits[1][first, second],
        "plain": plain[first, second],
        "shared": shared[first, second],
        "aligned": aligned[first, second],
        "p": p,
        "holm": holm(p),
        "benjamini_hochberg": benjamini_hochberg(p),
    }
    return pd.DataFrame(columns)


def unit_rows(vectors: Float[np.ndarray, "n width"]) -> Float[np.ndarray, "n width"]:
    """Rows of length 1; a row of zeros stays one, and its cosines are 0."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
