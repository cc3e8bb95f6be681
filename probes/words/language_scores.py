"""Cosines of context differences with concepts' mean word-pair differences, their intervals and nulls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from graticule.probes.geometry import Metric
from graticule.probes.scores.multiplicity import holm
from graticule.probes.scores.ties import share_reaching
from graticule.probes.steering import set_slices, signs
from graticule.probes.words.heat import LEVEL, Rows, unit_rows
from graticule.probes.words.tokens import TokenPairs


def score_languages(
    tokens: TokenPairs,
    rows: Rows,
    contexts: Sequence[np.ndarray],
    metric: Metric,
    draws: int,
    seed: int,
) -> list[pd.DataFrame]:
    """Every concept against each pair of languages' `[context, width]` differences."""
    rng, n = np.random.default_rng(seed), len(contexts[0])
    steering = np.stack([c @ metric.write.T for c in contexts])  # [pair, context, width]
    averages = unit_rows(steering.mean(axis=1))
    weights = rng.multinomial(n, np.full(n, 1 / n), size=draws)
    drawn = np.stack([unit_rows(weights @ s) for s in steering]).astype(np.float32)
    differences = ((rows.ends - rows.starts) @ metric.read.T).astype(np.float32)
    booted = _booted(differences, tokens, drawn, rng)
    pool = (rows.vocabulary @ metric.read.T).astype(np.float32)
    chance = _random_level(pool, averages.astype(np.float32), tokens.sizes, draws, rng)
    means = unit_rows(
        np.stack([differences[s].mean(axis=0, dtype=np.float64) for s in set_slices(tokens.sizes)])
    )
    turns = signs(n, draws, np.random.default_rng(seed))
    return [
        _table(tokens, means @ averages[k], booted[k].astype(np.float64), chance[k]).assign(
            **_moved(tokens, (rows.ends - rows.starts) @ contexts[k].T, turns)
        )
        for k in range(len(contexts))
    ]


def _table(tokens: TokenPairs, cosine: np.ndarray, booted: np.ndarray, chance: np.ndarray) -> pd.DataFrame:
    """What depends on the inner product; `booted` is `[draw, concept]`."""
    # resampling adds noise to both means and so shrinks their cosine: that bias is taken off
    low, high = np.quantile(booted - booted.mean(axis=0), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    largest = np.abs(booted).argmax(axis=1)
    return pd.DataFrame(
        {
            "concept": tokens.concepts,
            "kept": tokens.sizes,
            "cosine": cosine,
            "low": cosine + low,
            "high": cosine + high,
            "rank": 1 + (-np.abs(cosine)).argsort(kind="stable").argsort(kind="stable"),
            "first": (largest[:, None] == np.arange(len(cosine))).mean(axis=0),
            "level_random": chance,
        }
    )


def _moved(tokens: TokenPairs, products: np.ndarray, turns: np.ndarray) -> dict[str, Any]:
    """What does not: from γᵀλ of differences, `[word pair, context]`, and random signs of contexts."""
    slices = set_slices(tokens.sizes)
    moved = np.stack([products[s].mean(axis=0) for s in slices])  # [concept, context], nats
    turned = np.abs(moved @ turns / products.shape[1])
    p = share_reaching(turned.T, np.abs(moved.mean(axis=1)))
    return {
        "p": p,
        "holm": holm(p),
        "log_odds": moved.mean(axis=1),
        "positive": [float((products[s] > 0).mean()) for s in slices],
    }


def _booted(
    differences: np.ndarray, tokens: TokenPairs, drawn: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Cosines of resampled concepts with resampled contexts: `[pair, draw, concept]`."""
    out = np.empty((*drawn.shape[:2], len(tokens.sizes)), np.float32)
    for c, s in enumerate(set_slices(tokens.sizes)):
        n = int(tokens.sizes[c])
        weights = rng.multinomial(n, np.full(n, 1 / n), size=drawn.shape[1]).astype(np.float32)
        out[:, :, c] = (unit_rows(weights @ differences[s]) * drawn).sum(axis=2)
    return out


def _random_level(
    pool: np.ndarray, averages: np.ndarray, sizes: np.ndarray, draws: int, rng: np.random.Generator
) -> np.ndarray:
    """`LEVEL` of |cosine| of means of so many random pairs with each average: `[pair, concept]`."""
    most, out = int(sizes.max()), np.empty((draws, len(averages), len(sizes)))
    for d in range(draws):
        running = np.cumsum(pool[rng.choice(len(pool), most, replace=False)], axis=0, dtype=np.float32)
        out[d] = np.abs(averages @ unit_rows(running[sizes - 1]).T)
    return np.quantile(out, LEVEL, axis=0)
