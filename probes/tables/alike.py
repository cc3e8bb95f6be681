"""Rows that are nearly the same, presumed to belong together: `cluster="auto"`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from graticule.hooks.imports import load

AUTO = "auto"
"""Instead of a cluster column: near copies are presumed to be one cluster."""
_ALIKE_TEXTS = 0.7
_ALIKE_ROWS = 0.5
_BEYOND = 1.1
_CELLS = 1 << 24


def alike_texts(texts: Sequence[str]) -> Int[np.ndarray, " row"]:
    """Clusters of texts that share most of their letters: linked transitively.

    Two texts are linked where the TF-IDF of their n-grams of two to four letters has a cosine above .7.

    Args:
        texts: a row each.

    Returns:
        A cluster for each row.
    """
    load("sklearn.feature_extraction.text")
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors: Any = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
    if not any(text.strip() for text in texts):
        return np.arange(len(texts))
    terms: Any = vectors.fit_transform(texts)

    def products(start: int, stop: int) -> np.ndarray:
        return (terms[start:stop] @ terms.T).toarray()

    return _linked(len(texts), products, _ALIKE_TEXTS)


def alike_rows(values: Float[np.ndarray, "row width"]) -> Int[np.ndarray, " row"]:
    """Clusters of rows that lie next to each other and far from all others: linked transitively.

    Directions count as a ridge of middling strength weighs them, and rows by their direction from the mean.
    Two are linked where their cosine is above one half, and a tenth above the strongest opposition of two:
    rows that have nothing to do with each other are as often opposed as alike.

    Args:
        values: activations of a point.

    Returns:
        A cluster for each row.
    """
    centred = values - values.mean(axis=0)
    left, spread, _ = np.linalg.svd(centred, full_matrices=False)
    if not spread.any():
        return np.arange(len(values))
    rows = left * (spread / np.sqrt(np.square(spread) + np.median(np.square(spread[spread > 0]))))
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    rows /= np.where(length > 0, length, 1.0)

    def products(start: int, stop: int) -> np.ndarray:
        return rows[start:stop] @ rows.T

    opposed = -min(float(products(a, b).min()) for a, b in _steps(len(rows)))
    return _linked(len(rows), products, max(_ALIKE_ROWS, _BEYOND * opposed))


def _steps(n: int) -> list[tuple[int, int]]:
    step = max(1, _CELLS // n)
    return [(start, min(start + step, n)) for start in range(0, n, step)]


def _linked(n: int, products: Callable[[int, int], np.ndarray], limit: float) -> Int[np.ndarray, " row"]:
    """Components of the rows whose products are above a limit."""
    load("scipy.sparse", "scipy.sparse.csgraph")
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends: list[np.ndarray] = []
    for start, stop in _steps(n):
        one, other = np.nonzero(products(start, stop) > limit)
        ends.append(np.stack([one + start, other]))
    pairs = np.concatenate(ends, axis=1)
    graph = coo_array((np.ones(pairs.shape[1], np.int8), (pairs[0], pairs[1])), shape=(n, n))
    return connected_components(graph, directed=False)[1].astype(np.int64)
