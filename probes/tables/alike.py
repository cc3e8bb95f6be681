"""Rows that are nearly the same, presumed to belong together: `cluster="auto"`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from graticule.hooks.imports import load

AUTO = "auto"
"""Instead of a cluster column: near copies are presumed to be one cluster."""
_ALIKE_TEXTS = 0.7
_ALIKE_ROWS = 0.5
_BEYOND = 1.1
_TENTH, _NEARER, _NEARER_TEXT, _PLAIN = 10, 0.25, 0.6, 0.6
_CELLS = 1 << 24


def alike_texts(texts: Sequence[str]) -> Int[np.ndarray, " row"]:
    """Clusters of texts that share most of their letters: linked transitively.

    Two texts are linked where the TF-IDF of their n-grams of two to four letters has a cosine above .7.

    Args:
        texts: a row each.

    Returns:
        A cluster for each row.
    """
    if not any(text.strip() for text in texts):
        return np.arange(len(texts))
    terms: Any = _letters().fit_transform(texts)

    def products(start: int, stop: int) -> np.ndarray:
        return (terms[start:stop] @ terms.T).toarray()

    return _linked(len(texts), products, _ALIKE_TEXTS)


def _letters() -> Any:
    """TF-IDF of n-grams of two to four letters."""
    load("sklearn.feature_extraction.text")
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)


def nearest_texts(
    texts: Sequence[str], among: Sequence[str]
) -> tuple[Int[np.ndarray, " row"], Bool[np.ndarray, " row"]]:
    """Of each text the one among others that shares most of its letters, and whether it is a near copy.

    That is one that `alike_texts` would link, and much nearer than the tenth nearest is to most: texts made
    by one template are all alike.

    Args:
        texts: A row each.
        among: Others.

    Returns:
        Places in `among`, and whether they are near copies.
    """
    terms: Any = _letters().fit_transform([*among, *texts]) if any(map(str.strip, among)) else None
    if terms is None:
        return np.zeros(len(texts), np.int64), np.zeros(len(texts), bool)
    ours, theirs = terms[len(among) :], terms[: len(among)].T
    place, cosine, tenth = np.empty(len(texts), np.int64), np.empty(len(texts)), np.zeros(len(texts))
    for start, stop in _steps(max(len(among), len(texts)), len(texts)):
        products = (ours[start:stop] @ theirs).toarray()
        place[start:stop], cosine[start:stop] = products.argmax(axis=1), products.max(axis=1)
        if len(among) > _TENTH:
            tenth[start:stop] = np.partition(products, -_TENTH, axis=1)[:, -_TENTH]
    there = terms.sign()  # rare letters alone make no copy
    pairs = np.asarray(there[len(among) :].multiply(there[place]).sum(axis=1)).reshape(-1)
    size = np.asarray(there.sum(axis=1)).reshape(-1)
    plain = pairs / np.maximum(1, np.sqrt(size[len(among) :] * size[place]))
    usual = float(np.sqrt(np.maximum(0, 1 - np.median(tenth))))
    near = np.sqrt(np.maximum(0, 1 - cosine)) < _NEARER_TEXT * usual
    return place, (cosine > _ALIKE_TEXTS) & (plain > _PLAIN) & (near | (cosine > 1 - 1e-9))


def nearest_rows(
    rows: Shaped[np.ndarray, "row width"], among: Shaped[np.ndarray, "other width"]
) -> tuple[Int[np.ndarray, " row"], Bool[np.ndarray, " row"]]:
    """Of each row the nearest among others, and whether it is much nearer than others are around it.

    Args:
        rows: Embeddings.
        among: Others; two are near copies that are less than a quarter as far apart as the tenth nearest.

    Returns:
        Places in `among`, and whether they are near copies.
    """
    load("sklearn.neighbors")
    from sklearn.neighbors import NearestNeighbors

    if len(among) <= _TENTH:
        return np.zeros(len(rows), np.int64), np.zeros(len(rows), bool)
    index = NearestNeighbors(n_neighbors=_TENTH, algorithm="brute").fit(among)
    distance, place = index.kneighbors(rows)
    return place[:, 0].astype(np.int64), distance[:, 0] < _NEARER * distance[:, -1]


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


def _steps(n: int, count: int | None = None) -> list[tuple[int, int]]:
    step, count = max(1, _CELLS // n), n if count is None else count
    return [(start, min(start + step, count)) for start in range(0, count, step)]


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
