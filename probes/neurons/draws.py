"""Random directions seen through a quadratic form: the nulls of neuron searches, without building any.

For a random vector `z`, both nulls need `(z · c) / √(Σ λ z²)`: with `λ, U` the eigenvalues and eigenvectors
of the activations' Gram matrix and `c` the target's projection on `U`, it is the correlation with the target
of the activations read along `U z`; with those of the weights' second moment, the cosine of a vector drawn
with it. One random matrix gives a whole set of vectors `z`, its columns; rotating anew is putting signs on
its rows and permuting them, which is the same as doing so to `c` and `λ`: one matrix product a thousand
rotations. Every set so drawn has exactly its law (Haar, or independent normals); sets share the one matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int


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
    if n >= width:
        values, axes = np.linalg.eigh(x.T @ x)
        return Form(np.maximum(values, 0.0), axes, (x @ axes).T @ y)
    values, left = np.linalg.eigh(x @ x.T)
    values = np.maximum(values, 0.0)
    root = np.sqrt(values)
    kept = root > 1e-9 * root.max(initial=1e-300)
    axes, full = np.zeros((width, width)), np.zeros(width)
    axes[:, :n] = np.where(kept, (x.T @ left) / np.where(kept, root, 1.0), 0.0)
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
    """Signs and permutations of the axes, one set a rotation."""

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
    """What one column a turn is on the form's own axes: `form.axes @` this are directions in its space."""
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
