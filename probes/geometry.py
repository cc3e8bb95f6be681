"""Inner products on activations and on what reads them, and how large a cosine chance alone gives.

Activations x and the directions in which they are written are *vectors*; probes' weights and unembedding
rows are *functionals*, which read a number off a vector. Under a change of basis x → Ax a functional goes
to A⁻ᵀr, so an inner product on one side fixes its inverse on the other, and a `Metric` carries both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from graticule.hooks.imports import load
from graticule.hooks.model_view import ModelView
from graticule.hooks.protocols import HookedModel

_COLUMNS = 1 << 14  # of the vocabulary at a time
_STEP = 0.05  # of the trapezoid rule, which converges faster than any power here
_POINTS = 64  # at a time
_LEAST = 1e-100
_CELLS = 1 << 21
_KNOTS = 40


@dataclass(frozen=True)
class Metric:
    """An inner product, as two maps after which the plain dot product is the inner product."""

    name: str
    """`euclidean`, `causal`, `whitened`."""
    read: Float[np.ndarray, "width width"]
    """For functionals (read directions, unembedding rows): ⟨a, b⟩ = `(read @ a) @ (read @ b)`."""
    write: Float[np.ndarray, "width width"]
    """For vectors (write directions, steering vectors, decoder rows): the inverse transpose of `read`."""

    def of(self, kind: str) -> Float[np.ndarray, "width width"]:
        """The map for `read` or `write` directions.

        Raises:
            ValueError: for another kind.
        """
        if kind not in ("read", "write"):
            raise ValueError(f"kind={kind!r}: directions are 'read' or 'write'")
        return self.read if kind == "read" else self.write


def euclidean(width: int) -> Metric:
    """The plain inner product."""
    return Metric("euclidean", np.eye(width), np.eye(width))


def causal(unembedding: Float[np.ndarray, "width width"]) -> Metric:
    """The causal inner product (Park et al. 2023, arXiv 2311.03658, Theorem 3.4) of Cov(γ), the covariance of
    the unembedding rows over the vocabulary.

    On functionals ⟨a, b⟩ = aᵀ Cov(γ)⁻¹ b, so g = Cov(γ)^−½ γ; on vectors of the residual stream, which the
    paper calls embeddings, aᵀ Cov(γ) b, so l = Cov(γ)^½ λ.
    """
    return Metric("causal", root(unembedding, -0.5), root(unembedding, 0.5))


def whitened(activations: Float[np.ndarray, "width width"]) -> Metric:
    """The inner product of the activations' covariance Σ.

    On functionals aᵀ Σ b, the covariance of what the two read; on vectors aᵀ Σ⁻¹ b (Mahalanobis).
    """
    return Metric("whitened", root(activations, 0.5), root(activations, -0.5))


def root(
    covariance: Float[np.ndarray, "width width"], power: float, rcond: float = 1e-7
) -> Float[np.ndarray, "width width"]:
    """A symmetric positive semi-definite matrix to a power; directions without variance (below `rcond` of the
    largest) map to 0.

    Raises:
        ValueError: if the matrix is zero or not finite.
    """
    if not np.isfinite(covariance).all():
        raise ValueError("a covariance holds NaN or infinity")
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    varied = values > rcond * values[-1]
    if not varied.any():
        raise ValueError("a covariance of nothing but zeros: there is no spread to measure angles by")
    powers = np.where(varied, np.where(varied, values, 1.0) ** power, 0.0)
    return (vectors * powers) @ vectors.T


def covariance(
    rows: Float[np.ndarray, "row width"], centred: bool = True
) -> Float[np.ndarray, "width width"]:
    """Covariance of rows (ddof 0), or their second moment about zero."""
    values = rows - rows.mean(axis=0) if centred else rows
    return values.T @ values / len(rows)


def unembedding_covariance(model: HookedModel) -> Float[np.ndarray, "d_model d_model"]:
    """Cov(γ) over the whole vocabulary, uniform weights (Park et al. 2023, section 3.2).

    γ is the functional with which the *residual stream* before the final norm is read: where the norm's gain
    was not folded into `W_U` it is multiplied in, and where the norm subtracts the mean, so is γ's. With and
    without folding the result is the same; only the norm's scale, one number a row, is left out.

    Raises:
        ValueError: if the model has no `W_U` of `[d_model, d_vocab]`.
    """
    view = ModelView(model)
    try:
        weight = view.unembedding()
    except ValueError as reason:
        raise ValueError(
            f"the causal inner product needs {reason}. Leave model= out to have the other geometries"
        ) from None
    gain, centres = view.final_gain()
    through = np.diag(gain)
    if centres:
        through = (np.eye(len(gain)) - 1 / len(gain)) @ through
    return through @ column_covariance(weight) @ through.T


def column_covariance(weights: Float[Tensor, "d_model d_vocab"]) -> Float[np.ndarray, "d_model d_model"]:
    """Covariance of an unembedding's columns, uniform weights, in float64 sums of float32 blocks."""
    mean = weights.mean(dim=1, keepdim=True, dtype=torch.float32)
    total = np.zeros((len(weights), len(weights)))
    for part in weights.split(_COLUMNS, dim=1):  # a vocabulary of 262,144 does not become float64 at once
        rows = part.float() - mean
        total += (rows @ rows.T).to("cpu", torch.float64).numpy()
    return total / weights.shape[1]


def cosine_matrix(
    a: Float[np.ndarray, "width n"], b: Float[np.ndarray, "width m"]
) -> Float[np.ndarray, "n m"]:
    """Cosine of every column of `a` with every column of `b`; NaN where one is zero."""
    norms = np.outer(np.linalg.norm(a, axis=0), np.linalg.norm(b, axis=0))
    return np.divide(a.T @ b, norms, out=np.full(norms.shape, np.nan), where=norms > 0)


def degrees(cosine: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n m"]:
    """Angle in degrees, 0 to 180."""
    return np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))


def effective_rank(singular: Float[np.ndarray, " value"]) -> float:
    """exp of the entropy of the singular values' shares (Roy & Vetterli 2007): 1 to their number."""
    total = float(singular.sum())
    if total <= 0:
        return float("nan")
    shares = singular[singular > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))


# What chance gives -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class RandomVectors:
    """Vectors drawn from N(0, covariance), by the principal axes of the covariance."""

    spread: Float[np.ndarray, " axis"]
    """Variances along the axes, the largest 1: angles know no scale."""
    axes: Float[np.ndarray, "width axis"]
    """Orthonormal axes as columns."""

    @classmethod
    def of(cls, covariance: Float[np.ndarray, "width width"]) -> RandomVectors:
        """Of a covariance.

        Raises:
            ValueError: if it is zero: its vectors have no angles.
        """
        values, axes = np.linalg.eigh((covariance + covariance.T) / 2)
        if not values[-1] > 0:
            raise ValueError("vectors drawn with a zero covariance have no angles")
        return cls(np.maximum(values, 0.0) / values[-1], axes)

    def tail(
        self, cosines: Float[np.ndarray, " value"], direction: Float[np.ndarray, " width"]
    ) -> Float[np.ndarray, " value"]:
        """P(|cos(v, direction)| ≥ |c|) for every c, with v such a random vector; NaN for a NaN.

        No draws: cos² > c² says that a quadratic form in Gaussians is positive, and its moment generating
        function is inverted on a line through its saddle point, exact to about six digits down to 1e-100.
        Many cosines are interpolated, log p in |c|, between some 80 knots.

        Raises:
            ValueError: if the direction is zero.
        """
        weights = self._weights(direction)
        values = np.abs(cosines)
        if len(values) <= _KNOTS or not np.isfinite(values).any():
            return _tails(values, self.spread, weights)
        load("scipy.interpolate")
        from scipy.interpolate import PchipInterpolator

        usual = np.nanquantile(values, np.linspace(0, 1, _KNOTS))
        knots = np.unique(np.concatenate([np.linspace(0.0, usual[-1], _KNOTS), usual]))
        heights = np.log(_tails(knots, self.spread, weights))
        smooth = PchipInterpolator(knots, np.minimum.accumulate(heights))
        return np.exp(np.asarray(smooth(values)))

    def level(self, p: float, direction: Float[np.ndarray, " width"]) -> float:
        """The |cos| with the direction that such a vector exceeds with probability `p`."""
        weights = self._weights(direction)
        low, high = 0.0, 1.0
        for _ in range(6):  # sixteen parts at a time
            parts = np.linspace(low, high, 17)
            above = int((_tails(parts, self.spread, weights) > p).sum())
            low, high = parts[max(above - 1, 0)], parts[min(above, 16)]
        return float((low + high) / 2)

    def _weights(self, direction: np.ndarray) -> np.ndarray:
        """The squared unit direction's weights on the axes."""
        norm = float(np.linalg.norm(direction))
        if not norm > 0:
            raise ValueError("a direction of length 0 has no angles")
        return (self.axes.T @ (direction / norm)) ** 2


def largest_of(p: Float[np.ndarray, " value"], n_values: int) -> Float[np.ndarray, " value"]:
    """Chance that the largest of `n_values` independent values is as extreme as one of tail chance `p`."""
    return -np.expm1(n_values * np.log1p(-np.minimum(p, 1 - 1e-16)))


def _tails(c: np.ndarray, spread: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """P(cos² > c²) for every c, by variances along axes and the squared direction's weights on them.

    cos² > c² is Q = zᵀ(a aᵀ − c² D)z > 0 with D = diag(spread), aᵢ² = spreadᵢ weightsᵢ, and the logarithm of
    E exp(sQ) is K(s) = −½ Σ log(1 + 2sc² spreadᵢ) − ½ log(1 − 2s Σ spreadᵢ weightsᵢ / (1 + 2sc² spreadᵢ)).
    P(Q > 0) is the integral of exp(K(s)) / s over a line right of 0, divided by 2πi; through the saddle point
    it keeps its relative precision however small it is. y = scale · sinh(u) follows slow decays too.
    """
    out = np.where(np.isnan(c), np.nan, np.where(c > 0, _LEAST, 1.0))
    # at c = 1, or where the direction lies where nothing varies, there is nothing to integrate
    inside = np.flatnonzero((c > 0) & (c < 1) & (c * c < weights[spread > 0].sum()))
    step = max(1, _CELLS // (_POINTS * len(spread)))
    for start in range(0, len(inside), step):
        part = inside[start : start + step]
        out[part] = _integrals(c[part], spread, weights * spread)
    return out


def _integrals(c: np.ndarray, spread: np.ndarray, reading: np.ndarray) -> np.ndarray:
    curved = np.outer(c * c, spread)

    def exponent(s: np.ndarray) -> np.ndarray:
        """K(s) − log s of `[value, point]` arguments."""
        terms = 1 + 2 * s[..., None] * curved[:, None]
        pole = np.log(1 - 2 * s * (reading / terms).sum(axis=-1))
        return -0.5 * np.log(terms).sum(axis=-1) - 0.5 * pole - np.log(s)

    saddle, scale = _saddles(exponent, curved, reading)
    peak = exponent(saddle)
    total, start = np.zeros(len(c)), 0.0
    while start < 80:
        u = start + _STEP * np.arange(_POINTS)
        values = np.exp(exponent(saddle + 1j * scale * np.sinh(u)) - peak) * np.cosh(u)
        if start == 0:
            values[:, 0] /= 2
        total += np.real(values).sum(axis=1)
        if np.abs(values[:, -1]).max() < 1e-15:
            break
        start += _STEP * _POINTS
    return np.clip(np.exp(peak[:, 0]) * total * scale[:, 0] * _STEP / np.pi, _LEAST, 1.0)


def _saddles(
    exponent: Callable[[np.ndarray], np.ndarray], curved: np.ndarray, reading: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where K(s) − log s is about least for real s > 0, and one over the root of its curvature there."""
    low, high = 1e-12 / curved.sum(axis=1), 1e12 / curved.max(axis=1)
    for _ in range(50):  # the pole of E exp(sQ), in the logarithm
        middle = np.sqrt(low * high)[:, None]
        finite = 1 - 2 * middle[:, 0] * (reading / (1 + 2 * middle * curved)).sum(axis=1) > 0
        low, high = np.where(finite, middle[:, 0], low), np.where(finite, high, middle[:, 0])
    pole = low[:, None]
    left, right = np.zeros((len(low), 1)), np.ones((len(low), 1))
    for _ in range(30):  # the least of a convex function, as a share of the way to the pole
        one, two = left + (right - left) / 3, right - (right - left) / 3
        below = exponent(pole * one) > exponent(pole * two)
        left, right = np.where(below, one, left), np.where(below, right, two)
    saddle = pole * (left + right) / 2
    step = 1e-3 * np.minimum(saddle, pole - saddle)
    bend = exponent(saddle - step) - 2 * exponent(saddle) + exponent(saddle + step)
    return saddle, step / np.sqrt(np.maximum(bend, 1e-12))
