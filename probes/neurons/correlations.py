"""Correlations of neurons' activations with targets, chosen on training rows and scored on test rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Int

from graticule.hooks.imports import load
from graticule.probes.neurons.draws import Turns, activation_form, exceeded, haar, ratios, unturned

_STEP = 128  # rotations at once


@dataclass(frozen=True)
class LayerSearch:
    """One layer's neurons against every target, beside random rotations of their basis."""

    layer: int
    """The block."""
    train: Float[np.ndarray, "neuron target"]
    """Pearson correlation on training rows; 0 for a neuron that does not vary."""
    test: Float[np.ndarray, "neuron target"]
    """On test rows."""
    p: Float[np.ndarray, "neuron target"]
    """How often one random direction in these activations reaches a neuron's |test|."""
    rotated_train: Float[np.ndarray, "rotation target"]
    """|train| of the best of each rotated basis."""
    rotated_test: Float[np.ndarray, "rotation target"]
    """|test| of that same rotated neuron."""
    permuted: Float[np.ndarray, "permutation target"]
    """|train| of the best neuron for permuted targets."""


def correlations(
    rows: Float[np.ndarray, "row neuron"], y: Float[np.ndarray, "row target"]
) -> Float[np.ndarray, "neuron target"]:
    """Pearson correlation of every neuron with every target; 0 where a side does not vary."""
    x, y = rows - rows.mean(axis=0), y - y.mean(axis=0)
    scale = np.linalg.norm(x, axis=0)[:, None] * np.linalg.norm(y, axis=0)
    varies = scale > 1e-12 * np.abs(rows).max(initial=1e-300)
    return np.where(varies, (x.T @ y) / np.where(varies, scale, 1.0), 0.0)


def search_layer(
    layer: int,
    train: Float[np.ndarray, "train neuron"],
    test: Float[np.ndarray, "test neuron"],
    y_train: Float[np.ndarray, "train target"],
    y_test: Float[np.ndarray, "test target"],
    *,
    rotations: int = 999,
    permutations: int = 100,
    seed: int = 0,
    vectors: Float32[np.ndarray, "neuron neuron"] | None = None,
) -> LayerSearch:
    """Search one layer, then search each of `rotations` random rotations of its basis in the same way.

    A rotated basis has as many neurons: the best of them on training rows is scored on test rows. Pearson,
    because the correlation of rotated neurons follows from the Gram matrix alone. `vectors` is a Haar matrix
    to share between layers, whose signs and permutations are their own.
    """
    rng = np.random.default_rng([seed, layer])
    width, n_targets = train.shape[1], y_train.shape[1]
    on_train, on_test = activation_form(train, y_train), activation_form(test, y_test)
    vectors = haar(width, rng) if vectors is None else vectors
    turns = Turns.draw(width, rotations, rng)
    best = np.zeros((rotations, n_targets))
    column = np.zeros((rotations, n_targets), np.int64)
    pool: list[np.ndarray] = []
    for start in range(0, rotations, _STEP):
        some = turns.take(slice(start, start + _STEP))
        size = np.abs(ratios(on_train, vectors, some))
        column[start : start + _STEP] = size.argmax(axis=1)
        best[start : start + _STEP] = size.max(axis=1)
        pool.append(np.abs(ratios(on_test, vectors, some)).reshape(-1, n_targets))
    everything = np.concatenate(pool)
    own_test = correlations(test, y_test)
    scored: list[np.ndarray] = []
    for t in range(n_targets):
        toward = on_train.axes @ unturned(vectors, turns, column[:, t])
        scored.append(np.abs(correlations(test @ toward, y_test[:, [t]])[:, 0]))
    p = [exceeded(np.sort(everything[:, t]), np.abs(own_test[:, t])) for t in range(n_targets)]
    return LayerSearch(
        layer=layer,
        train=correlations(train, y_train),
        test=own_test,
        p=np.stack(p, axis=1),
        rotated_train=best,
        rotated_test=np.stack(scored, axis=1),
        permuted=_permuted(train, y_train, permutations, rng),
    )


def _permuted(train: np.ndarray, y: np.ndarray, permutations: int, rng: np.random.Generator) -> np.ndarray:
    order = np.stack([rng.permutation(len(y)) for _ in range(permutations)], axis=1)
    largest = [
        np.abs(correlations(train, y[order, t])).max(axis=0) if permutations else np.zeros(0)
        for t in range(y.shape[1])
    ]
    return np.stack(largest, axis=1)


def best_over_layers(searches: Sequence[LayerSearch]) -> Float[np.ndarray, "rotation target"]:
    """|test| of the best rotated neuron of all layers, chosen on training rows: the whole search repeated."""
    train = np.stack([s.rotated_train for s in searches])
    test = np.stack([s.rotated_test for s in searches])
    return np.take_along_axis(test, train.argmax(axis=0)[None], axis=0)[0]


def spearman_by_level(
    rows: Float[np.ndarray, "row neuron"],
    y: Float[np.ndarray, " row"],
    levels: Mapping[str, Int[np.ndarray, " some"]],
) -> pd.DataFrame:
    """Spearman correlation of every neuron with one target, over all rows and within levels.

    Args:
        rows: activations.
        y: the target.
        levels: name → row indices.

    Returns:
        A line a neuron: `spearman`, and `by_<level>` for each level.
    """
    out = {"spearman": _spearman(rows, y)}
    for name, index in levels.items():
        out[f"by_{name}"] = _spearman(rows[index], y[index])
    return pd.DataFrame(out)


def _spearman(rows: np.ndarray, y: np.ndarray) -> np.ndarray:
    load("scipy.stats")
    from scipy.stats import rankdata

    if len(y) < 3:
        return np.full(rows.shape[1], np.nan)
    ranks = np.asarray(rankdata(rows, axis=0), np.float64)
    found = correlations(ranks, np.asarray(rankdata(y), np.float64)[:, None])[:, 0]
    constant = (np.ptp(rows, axis=0) == 0) | (np.ptp(y) == 0)
    return np.where(constant, np.nan, found)
