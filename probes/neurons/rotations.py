"""Neurons' correlations with targets, and the same search on random rotations of their basis.

For a random vector `z`, the nulls of both neuron searches need `(z · c) / √(Σ λ z²)`: with `λ, U` the
eigenvalues and eigenvectors of the activations' Gram matrix and `c` the target's projection on `U`, it is the
correlation with the target of the activations read along `U z`; with those of the weights' second moment, the
cosine of a vector drawn with it. One random matrix gives a whole set of vectors `z`, its columns; rotating
anew is putting signs on its rows and permuting them, which is the same as doing so to `c` and `λ`: one matrix
product per thousand rotations. Every set so drawn has exactly its law (Haar, or independent normals); sets
share the one matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Int

from graticule.hooks.imports import load
from graticule.probes.linear.moments import fewer_rows, gram_of

_AT_ONCE = 128  # rotations


# Random directions seen through a quadratic form, without building any ------------------------------
@dataclass(frozen=True)
class Form:
    """A quadratic form and what is projected on its axes."""

    values: Float[np.ndarray, " axis"]
    """Eigenvalues, λ."""
    axes: Float[np.ndarray, "width axis"]
    """Eigenvectors, U."""
    along: Float[np.ndarray, "axis target"]
    """Projections, c, divided by the norm of what was projected."""


def activation_form(rows: Float[np.ndarray, "row width"], y: Float[np.ndarray, "row target"]) -> Form:
    """The form whose ratio is the Pearson correlation with `y` of `rows` read along a direction.

    Rows fewer than the width are turned through their own Gram matrix; the axes left over hold nothing.
    """
    x, y = rows - rows.mean(axis=0), y - y.mean(axis=0)
    y = y / np.maximum(np.linalg.norm(y, axis=0), 1e-300)
    n, width = x.shape
    by_row = fewer_rows(x.shape)
    values, left = np.linalg.eigh(gram_of(x, by_row))
    values = np.maximum(values, 0.0)
    if not by_row:
        return Form(values, left, (x @ left).T @ y)
    root = np.sqrt(values)
    varies = root > 1e-9 * root.max(initial=1e-300)
    axes, full = np.zeros((width, width)), np.zeros(width)
    axes[:, :n] = np.where(varies, (x.T @ left) / np.where(varies, root, 1.0), 0.0)
    full[:n] = values
    along = np.zeros((width, y.shape[1]))
    along[:n] = root[:, None] * (left.T @ y)
    return Form(full, axes, along)


def weight_form(
    weights: Float[np.ndarray, "width neuron"], directions: Float[np.ndarray, "width target"]
) -> Form:
    """The form whose ratio is the cosine with `directions` of vectors of the weights' second moment."""
    values, axes = np.linalg.eigh(weights @ weights.T / weights.shape[1])
    values = np.maximum(values, 0.0)
    unit = directions / np.maximum(np.linalg.norm(directions, axis=0), 1e-300)
    return Form(values, axes, np.sqrt(values)[:, None] * (axes.T @ unit))


def haar(size: int, rng: np.random.Generator) -> Float32[np.ndarray, "size size"]:
    """A random rotation (Mezzadri 2007: QR of a normal matrix, signs of R taken out)."""
    q, r = np.linalg.qr(rng.standard_normal((size, size), dtype=np.float32))
    return np.ascontiguousarray(q * np.where(np.diag(r) < 0, -1, 1).astype(np.float32))


@dataclass(frozen=True)
class Turns:
    """Signs and permutations of the axes, one set per rotation."""

    order: Int[np.ndarray, "turn axis"]
    """Which axis comes to stand where."""
    signs: Float32[np.ndarray, "turn axis"]
    """+1 or −1 for every axis, before it is moved."""

    @classmethod
    def draw(cls, size: int, turns: int, rng: np.random.Generator) -> Turns:
        """`turns` independent signed permutations of `size` axes."""
        order = np.stack([rng.permutation(size) for _ in range(turns)])
        signs = rng.integers(0, 2, (turns, size)).astype(np.float32) * 2 - 1
        return cls(order, signs)

    def take(self, some: slice) -> Turns:
        """Some of the rotations."""
        return Turns(self.order[some], self.signs[some])


def ratios(
    form: Form, vectors: Float32[np.ndarray, "axis vector"], turns: Turns
) -> Float32[np.ndarray, "turn vector target"]:
    """The ratio of every column of `vectors` under every turn; 0 where the form is 0."""
    values = form.values.astype(np.float32)[turns.order]
    below = np.sqrt(np.maximum(values @ np.square(vectors), 0.0))
    moved = form.along.astype(np.float32)[None] * turns.signs[:, :, None]
    moved = np.take_along_axis(moved, turns.order[:, :, None], axis=1)
    above = np.stack([moved[:, :, t] @ vectors for t in range(moved.shape[2])], axis=2)
    return np.divide(above, below[:, :, None], out=np.zeros_like(above), where=below[:, :, None] > 0)


def unturned(
    vectors: Float32[np.ndarray, "axis vector"], turns: Turns, columns: Int[np.ndarray, " turn"]
) -> Float[np.ndarray, "axis turn"]:
    """What one column per turn is on the form's own axes: `form.axes @` this are directions in its space."""
    z = np.empty((len(columns), len(vectors)))
    np.put_along_axis(z, turns.order, vectors[:, columns].T.astype(np.float64), axis=1)
    return (z * turns.signs).T


def exceeded(
    null: Float32[np.ndarray, " draw"], observed: Float[np.ndarray, " test"]
) -> Float[np.ndarray, " test"]:
    """p of observed sizes against sorted draws: `(1 + draws at least as large) / (1 + draws)`."""
    least = (observed * (1 - 1e-6)).astype(np.float32)  # ties within rounding are ties
    above = len(null) - np.searchsorted(null, least, side="left")
    return np.where(np.isnan(observed), np.nan, (1.0 + above) / (1.0 + len(null)))


# The search ------------------------------------------------------------------------------------------
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

    What is rotated are the neurons in their own standard deviations: a rotation of raw activations is mixed
    of the few largest neurons alone, and any target that others carry would make the basis look special.
    A rotated basis has as many neurons: the best of them on training rows is scored on test rows. Pearson,
    because the correlation of rotated neurons follows from the Gram matrix alone. `vectors` is a Haar matrix
    to share between layers, whose signs and permutations are their own.
    """
    per_unit = _per_unit(train, test)
    train, test = train * per_unit, test * per_unit
    rng = np.random.default_rng([seed, layer])
    width, n_targets = train.shape[1], y_train.shape[1]
    on_train, on_test = activation_form(train, y_train), activation_form(test, y_test)
    vectors = haar(width, rng) if vectors is None else vectors
    turns = Turns.draw(width, rotations, rng)
    rotated_train = np.zeros((rotations, n_targets))
    column = np.zeros((rotations, n_targets), np.int64)
    one_direction: list[np.ndarray] = []
    for start in range(0, rotations, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        size = np.abs(ratios(on_train, vectors, turns.take(part)))
        column[part], rotated_train[part] = size.argmax(axis=1), size.max(axis=1)
        on_rows = np.abs(ratios(on_test, vectors, turns.take(part)))
        one_direction.append(on_rows.reshape(-1, n_targets))
    null = np.sort(np.concatenate(one_direction), axis=0)
    own_test = correlations(test, y_test)
    rotated_test: list[np.ndarray] = []
    for t in range(n_targets):
        toward = on_train.axes @ unturned(vectors, turns, column[:, t])
        rotated_test.append(np.abs(correlations(test @ toward, y_test[:, [t]])[:, 0]))
    p = [exceeded(null[:, t], np.abs(own_test[:, t])) for t in range(n_targets)]
    return LayerSearch(
        layer=layer,
        train=correlations(train, y_train),
        test=own_test,
        p=np.stack(p, axis=1),
        rotated_train=rotated_train,
        rotated_test=np.stack(rotated_test, axis=1),
        permuted=_permuted(train, y_train, permutations, rng),
    )


def _per_unit(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """What brings every neuron to a standard deviation of 1 over all rows; 0 for one that does not vary."""
    n = len(train) + len(test)
    mean = (train.sum(axis=0) + test.sum(axis=0)) / n
    squares = np.square(train - mean).sum(axis=0) + np.square(test - mean).sum(axis=0)
    spread = np.sqrt(squares / n)
    largest = np.maximum(np.abs(train).max(axis=0, initial=0.0), np.abs(test).max(axis=0, initial=0.0))
    varies = spread > 1e-12 * np.maximum(largest, 1e-300)
    return np.where(varies, 1 / np.where(varies, spread, 1.0), 0.0)


def _permuted(train: np.ndarray, y: np.ndarray, permutations: int, rng: np.random.Generator) -> np.ndarray:
    order = np.stack([rng.permutation(len(y)) for _ in range(permutations)], axis=1)
    largest = [np.abs(correlations(train, y[order, t])).max(axis=0) for t in range(y.shape[1])]
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
        rows: Activations.
        y: The target.
        levels: Name → row indices.

    Returns:
        One row per neuron: `spearman`, and `by_<level>` for each level.
    """
    by_level = {f"by_{name}": _spearman(rows[index], y[index]) for name, index in levels.items()}
    return pd.DataFrame({"spearman": _spearman(rows, y), **by_level})


def _spearman(rows: np.ndarray, y: np.ndarray) -> np.ndarray:
    load("scipy.stats")
    from scipy.stats import rankdata

    if len(y) < 3:
        return np.full(rows.shape[1], np.nan)
    ranks = np.asarray(rankdata(rows, axis=0), np.float64)
    rho = correlations(ranks, np.asarray(rankdata(y), np.float64)[:, None])[:, 0]
    constant = (np.ptp(rows, axis=0) == 0) | (np.ptp(y) == 0)
    return np.where(constant, np.nan, rho)
