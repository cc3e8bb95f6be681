"""Cosines within concepts and between them under one inner product, with intervals and what chance gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Int

from graticule.hooks.imports import load
from graticule.probes.core.resample import weights_within
from graticule.probes.geometry import Metric
from graticule.probes.scores.significance import benjamini_hochberg, holm, share_reaching
from graticule.probes.steering import (
    diagonal,
    mean_block_cosines,
    random_sets,
    re_paired,
    set_slices,
    signs,
)
from graticule.probes.words.vocabulary import Readout, TokenPairs

LEVEL = 0.95
"""Of intervals, and of the quantiles of what chance gives."""
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
"""The quantiles that end an interval."""
ALPHA = 0.05
"""A corrected p up to here is above chance."""


@dataclass(frozen=True)
class PairRows:
    """Unembedding rows after one inner product's map: plain dot products are its products."""

    tokens: TokenPairs
    """The kept pairs, concept after concept."""
    starts: Float[np.ndarray, "pair width"]
    """γ of every pair's first word."""
    ends: Float[np.ndarray, "pair width"]
    """γ of its second word."""
    vocabulary: Float[np.ndarray, "random width"]
    """Differences of random pairs of vocabulary tokens."""
    listed: Float[np.ndarray, "random width"]
    """Differences of random pairs of the lists' own words: as common as the concepts' words are."""

    @property
    def steering(self) -> Float[np.ndarray, "pair width"]:
        """γ(end) − γ(start) of every kept pair."""
        return self.ends - self.starts

    @property
    def slices(self) -> list[slice]:
        """Where each concept's pairs are."""
        return set_slices(self.tokens.sizes)

    def under(self, metric: Metric) -> PairRows:
        """The rows mapped by an inner product for functionals."""
        parts = (self.starts, self.ends, self.vocabulary, self.listed)
        return PairRows(self.tokens, *(rows @ metric.read.T for rows in parts))


def pair_rows(readout: Readout, tokens: TokenPairs, n_random: int, seed: int) -> PairRows:
    """The rows of the kept pairs and of `n_random` random pairs of either kind.

    Raises:
        ValueError: `n_random` is less than the largest concept's pairs.
    """
    if n_random < (most := int(tokens.sizes.max())):
        raise ValueError(f"n_random={n_random}: the largest concept has {most} pairs; give more")
    ids, rng = tokens.ids, np.random.default_rng(seed)
    anywhere = _random_pairs(np.arange(readout.vocabulary), n_random, rng)
    among = _random_pairs(np.unique(ids), n_random, rng)
    (starts, ends), *random = [[readout.rows(of) for of in pairs.T] for pairs in (ids, anywhere, among)]
    return PairRows(tokens, starts, ends, *(second - first for first, second in random))


def _random_pairs(
    pool: Int[np.ndarray, " token"], n: int, rng: np.random.Generator
) -> Int[np.ndarray, "n 2"]:
    """Pairs of two different tokens."""
    first = rng.integers(0, len(pool), n)
    second = (first + rng.integers(1, len(pool), n)) % len(pool)
    return np.stack([pool[first], pool[second]], axis=1)


@dataclass(frozen=True)
class ConceptCosines:
    """What one inner product says of all concepts: fields as those of `Words`."""

    means: Float[np.ndarray, "concept concept"]
    plain: Float[np.ndarray, "concept concept"]
    random: Float32[np.ndarray, "concept random"]
    within: pd.DataFrame
    between: pd.DataFrame
    projections: pd.DataFrame


def concept_cosines(rows: PairRows, n_bootstrap: int, seed: int) -> ConceptCosines:
    """Every concept and every two of mapped rows, with `n_bootstrap` of every null and of the bootstrap."""
    sizes, shared = rows.tokens.sizes, rows.tokens.shared
    unit = unit_rows(rows.steering)
    gram = unit @ unit.T
    rng = np.random.default_rng(seed)
    means = mean_block_cosines(gram, shared, sizes)[0]
    plain = mean_block_cosines(gram, diagonal(len(gram)), sizes)[0]
    low, high = _interval(mean_block_cosines(gram, shared, sizes, weights_within(sizes, n_bootstrap, rng)))
    flipped = mean_block_cosines(gram, shared, sizes, signs(len(gram), n_bootstrap, rng))
    entries = {"mean": means, "low": low, "high": high, "plain": plain}
    within = pd.DataFrame({"concept": rows.tokens.concepts, "kept": sizes})
    within = within.assign(**{name: np.diag(value) for name, value in entries.items()})
    others = np.nan_to_num(np.abs(means), nan=-1.0)
    np.fill_diagonal(others, -1.0)
    largest = others.max(axis=1)
    within["largest_other"] = np.where(largest < 0, np.nan, largest)
    nulls = {"flipped": (np.diagonal(flipped, axis1=1, axis2=2), "mean"), **_nulls(rows, n_bootstrap, rng)}
    for name, (null, against) in nulls.items():
        within[f"level_{name}"] = np.quantile(null, LEVEL, axis=0)
        within[f"p_{name}"] = share_reaching(null, within[against].to_numpy(float))
    p = within["p_flipped"].to_numpy(float)
    within["holm"], within["benjamini_hochberg"] = holm(p), benjamini_hochberg(p)
    within["holm_shuffled"] = holm(within["p_shuffled"].to_numpy(float))
    projections, random, within["above"] = leave_one_out(rows)
    between = _between(rows.tokens, entries, flipped.std(axis=0))
    return ConceptCosines(means, plain, random, within, between, projections)


def _nulls(rows: PairRows, n_random: int, rng: np.random.Generator) -> dict[str, tuple[np.ndarray, str]]:
    """What chance gives a set, `[draw, concept]`, and the mean that it is set against."""
    sizes = rows.tokens.sizes
    shuffled = [re_paired(rows.starts[s], rows.ends[s], n_random, rng) for s in rows.slices]
    return {
        "vocabulary": (random_sets(unit_rows(rows.vocabulary), sizes, n_random, rng), "mean"),
        "listed": (random_sets(unit_rows(rows.listed), sizes, n_random, rng), "mean"),
        # words recur as often in a re-paired set as in the set itself, so both keep entries that share one
        "shuffled": (np.stack(shuffled, axis=1), "plain"),
    }


def _interval(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Percentiles over draws, undefined ones left out; NaN where none is defined."""
    flat = samples.reshape(len(samples), -1)
    out = np.full((2, flat.shape[1]), np.nan)
    defined = ~np.isnan(flat).all(axis=0)
    out[:, defined] = np.nanquantile(flat[:, defined], TAILS, axis=0)
    low, high = out.reshape(2, *samples.shape[1:])
    return low, high


def _between(tokens: TokenPairs, entries: dict[str, np.ndarray], spread: np.ndarray) -> pd.DataFrame:
    """Every two concepts. p is two-sided, of the normal law with the flips' `spread`: with hundreds of tests
    no number of draws that one can afford would survive Holm's correction."""
    load("scipy.stats")
    from scipy.stats import norm

    means = entries["mean"]
    own = np.where(np.diag(means) > 0, np.diag(means), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        z = np.abs(means) / spread
        aligned = means / np.sqrt(np.outer(own, own))
    belongs = np.repeat(np.arange(len(means)), tokens.sizes)
    shared = np.zeros(means.shape, np.int64)
    np.add.at(shared, tuple(belongs[tokens.shared].T), 1)
    first, second = np.triu_indices(len(means), 1)
    p = 2 * np.asarray(norm.sf(z[first, second]))
    columns: dict[str, Any] = {
        "first": [tokens.concepts[i] for i in first],
        "second": [tokens.concepts[j] for j in second],
        **{n: m[first, second] for n, m in {**entries, "shared": shared, "aligned": aligned}.items()},
        "p": p,
        "holm": holm(p),
        "benjamini_hochberg": benjamini_hochberg(p),
    }
    return pd.DataFrame(columns)


def leave_one_out(
    rows: PairRows,
) -> tuple[pd.DataFrame, Float32[np.ndarray, "concept random"], Float[np.ndarray, " concept"]]:
    """Every pair's difference on the unit mean of the other pairs of its concept, and random pairs' (Park et
    al. 2311.03658, figure 2).

    Pairs that share a word with it are left out of the direction too. Random pairs of vocabulary tokens are
    projected on the mean of all pairs. Both are in standard deviations of the random pairs' projections, so
    that inner products can be compared.

    Returns:
        One row per pair (`concept`, `start`, `end`, `projection`; NaN where no other pair is left), the
        random pairs' projections, and the share of each concept's pairs that lie beyond `LEVEL` of them.
    """
    vectors, (left, right) = rows.steering, rows.tokens.shared.T
    projection = np.full(len(vectors), np.nan)
    random = np.empty((len(rows.slices), len(rows.vocabulary)), np.float32)
    above = np.full(len(random), np.nan)
    for c, s in enumerate(rows.slices):
        own = vectors[s]
        inside = (left >= s.start) & (left < s.stop) & (right >= s.start) & (right < s.stop)
        meets = np.ones((len(own), len(own)))
        meets[left[inside] - s.start, right[inside] - s.start] = 0.0
        others = meets @ own
        chance = rows.vocabulary @ own.mean(axis=0) / np.linalg.norm(own.mean(axis=0))
        scale = float(chance.std())
        random[c] = chance / scale
        lengths = np.linalg.norm(others, axis=1)
        inner = (own * others).sum(axis=1)
        np.divide(inner, lengths * scale, out=projection[s], where=lengths > 0)
        if len(defined := projection[s][~np.isnan(projection[s])]):
            above[c] = (defined > np.quantile(random[c], LEVEL)).mean()
    return rows.tokens.pairs[["concept", "start", "end"]].assign(projection=projection), random, above


def unit_rows(vectors: Float[np.ndarray, "n width"]) -> Float[np.ndarray, "n width"]:
    """Rows of length 1; a row of zeros stays one, and its cosines are 0."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def check_n_bootstrap(n_bootstrap: int) -> None:
    """Refuse a bootstrap that is too small for an interval.

    Raises:
        ValueError: For fewer than 20.
    """
    if n_bootstrap < 20:
        raise ValueError(
            f"n_bootstrap={n_bootstrap}: at least 20, and 1,000 for p-values that survive a correction"
        )
