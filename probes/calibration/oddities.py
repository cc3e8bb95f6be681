"""Functions of a text that are not linear in its n-grams, drawn at random from the text itself."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float

Measure = Callable[[list[str], np.random.Generator], np.ndarray]
"""One number per text, of some kind, by parameters that are drawn."""


def odd_functions(
    texts: Sequence[str], count: int, rng: np.random.Generator
) -> Float[np.ndarray, "function row"]:
    """Random functions of the texts, each a measure, or two of them multiplied or compared, bent or cut.

    Measures count letters of a random set, weigh letters at random, count neighbours or words of some shape,
    take the rank of the letter at some place in a shuffled alphabet, or the length of some word. They are
    computed from the characters by other code than the surface's readers.

    Args:
        texts: of all rows.
        count: how many functions.
        rng: draws their kinds and parameters.

    Returns:
        Values in standard deviations from their mean.
    """
    plain = [_plain(text) for text in texts]
    out = np.empty((count, len(plain)))
    for own in out:
        own[:] = _drawn(plain, rng)
    return out


def _drawn(texts: list[str], rng: np.random.Generator) -> np.ndarray:
    """One function; drawn again where it is the same on all rows."""
    for _ in range(20):
        values = _measure(texts, rng)
        if rng.random() < 0.3:
            other = _measure(texts, rng)
            values = values * other if rng.random() < 0.5 else values - other
        values = _bent(values, rng)
        if values.std() > 1e-9:
            return (values - values.mean()) / values.std()
    return np.zeros(len(texts))


def _plain(text: str) -> str:
    """Lower case, without accents."""
    return "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))


def _bent(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As it is, squared, as a logarithm, or cut at its median."""
    z = (values - values.mean()) / max(float(values.std()), 1e-9)
    how = rng.integers(5)
    bends = (z, z, np.square(z - rng.normal()), np.log1p(np.abs(values)), (values > np.median(values)) * 1.0)
    return bends[how]


def _measure(texts: list[str], rng: np.random.Generator) -> np.ndarray:
    return _MEASURES[rng.integers(len(_MEASURES))](texts, rng)


def _letters(rng: np.random.Generator) -> frozenset[str]:
    size = int(rng.integers(1, 9))
    return frozenset(chr(97 + i) for i in rng.permutation(26)[:size])


def _some_letters(texts: list[str], rng: np.random.Generator) -> np.ndarray:
    ours = _letters(rng)
    return np.array([sum(c in ours for c in text) for text in texts], np.float64)


def _weighed_letters(texts: list[str], rng: np.random.Generator) -> np.ndarray:
    weights = {chr(97 + i): w for i, w in enumerate(rng.normal(size=26))}
    return np.array([sum(weights.get(c, 0.0) for c in text) for text in texts])


def _neighbours(texts: list[str], rng: np.random.Generator) -> np.ndarray:
    first, second = _letters(rng) | _letters(rng), _letters(rng) | _letters(rng)
    pairs = ((a in first and b in second for a, b in pairwise(text)) for text in texts)
    return np.array([sum(pair) for pair in pairs], np.float64)


def _rank(texts: list[str], rng: np.random.Generator) -> np.ndarray:
    place, back = int(rng.integers(0, 3)), rng.random() < 0.5
    rank = {chr(97 + c): r for r, c in enumerate(rng.permutation(26) if rng.random() < 0.5 else range(26))}
    letters = ([c for c in text if c in rank][:: -1 if back else 1] for text in texts)
    return np.array([rank[own[place]] if len(own) > place else -1 for own in letters], np.float64)


def _length(texts: list[str], rng: np.random.Generator) -> np.ndarray:
    which = int(rng.integers(0, 5))
    words = [[len(w) for w in text.split()] for text in texts]
    if which == 0:
        return np.array([len(text) for text in texts], np.float64)
    if which == 1:
        return np.array([len(own) for own in words], np.float64)
    if which == 2:
        return np.array([max(own, default=0) for own in words], np.float64)
    return np.array([own[0 if which == 3 else -1] if own else 0 for own in words], np.float64)


def _words(texts: list[str], rng: np.random.Generator) -> np.ndarray:
    ours, most = _letters(rng) | _letters(rng), int(rng.integers(2, 9))
    short = rng.random() < 0.5
    return np.array(
        [sum(len(w) <= most if short else w[0] in ours for w in text.split()) for text in texts], np.float64
    )


def _distinct(texts: list[str], rng: np.random.Generator) -> np.ndarray:
    part = slice(None) if rng.random() < 0.5 else slice(0, int(rng.integers(3, 9)))
    return np.array([len(set(text[part])) for text in texts], np.float64)


_MEASURES: tuple[Measure, ...] = (
    *(_some_letters, _weighed_letters, _neighbours, _rank),
    *(_length, _words, _distinct),
)
