"""What instruments are pointed at: a learner's sampled activations, its truth, and an untrained twin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from graticule.hooks.activations import Activations
from graticule.sims.truth.optimal import LinearReader, optimal_reader, parity
from graticule.sims.truth.rows import TrueRows


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained learner as a user has it, and as only the world's maker knows it."""

    learner: str
    """`lookup` or `sequence`."""
    condition: str
    """What is varied: `dimension`, `noise` or `masks`."""
    level: float
    """By how much: width over concepts, noise over signal, or the number of masks."""
    width: int
    """Of the activations."""
    masks: int
    """Masks that the learner was trained on."""
    rows: TrueRows
    """A sample, with noise where the condition has it: all that instruments see."""
    untrained: TrueRows
    """The same rows in the learner before training."""
    every: TrueRows
    """Every context with its probability, without noise."""
    noise: Mapping[str, float]
    """Point → standard deviation of the noise in every coordinate; 0 where there is none."""
    seed: int = 0
    """Of the split and everything drawn."""

    @property
    def name(self) -> str:
        """For people and for folders."""
        return f"{self.learner}-{self.condition}-{self.level:g}"

    @property
    def points(self) -> tuple[str, ...]:
        """Hook points, in the order in which the learner passes them."""
        return tuple(self.rows.activations.points)

    @cached_property
    def test(self) -> Bool[np.ndarray, " row"]:
        """Rows of the contexts that are tested on: no context is on both sides."""
        return self.rows.test_rows(seed=self.seed)

    @cached_property
    def posteriors(self) -> Float[np.ndarray, "row m"]:
        """P(C_i = 1 | known) of the sampled rows: what every probe is to predict."""
        return self.rows.targets()[1]

    @property
    def clusters(self) -> Int[np.ndarray, " row"]:
        """The context of every sampled row."""
        return self.rows.contexts

    def values(self, point: str) -> Float[np.ndarray, "row width"]:
        """The sampled activations of a point."""
        return self.rows.activations[point].double().numpy()

    def parities(self, pairs: Sequence[tuple[int, int]]) -> Float[np.ndarray, "row pair"]:
        """P(C_i ≠ C_j | known) of the sampled rows."""
        return np.stack([parity(self.rows.world, self.rows.known, pair) for pair in pairs], axis=1)

    def true_parities(self, pairs: Sequence[tuple[int, int]]) -> Float[np.ndarray, "row pair"]:
        """The same of every context."""
        return np.stack([parity(self.every.world, self.every.known, pair) for pair in pairs], axis=1)

    def reader(self, point: str, targets: Float[np.ndarray, "row target"] | None = None) -> LinearReader:
        """The best linear reader there is, by default of all posteriors, noise and all."""
        wanted = self.every.targets()[1] if targets is None else targets
        x = self.every.activations[point].double().numpy()
        if not self.noise[point]:
            return optimal_reader(x, wanted, self.every.weights)
        return noisy_reader(x, wanted, self.every.weights, self.noise[point])

    def covariance(self, point: str) -> Float[np.ndarray, "width width"]:
        """Of the activations over all contexts, the noise's own added."""
        p = self.every.weights
        x = self.every.activations[point].double().numpy()
        x = (x - p @ x) * np.sqrt(p)[:, None]
        return x.T @ x + self.noise[point] ** 2 * np.eye(x.shape[1])

    def with_noise(self, level: float) -> Subject:
        """Independent normal noise in every coordinate, its standard deviation `level` times the mean one of
        a point's coordinates; in the untrained learner likewise."""
        noise = {p: level * float(np.sqrt(np.trace(self.covariance(p)) / self.width)) for p in self.points}
        rng = np.random.default_rng([self.seed, 3])
        rows = _noisy(self.rows, noise, rng)
        untrained = {p: level * _spread(self.untrained, p) for p in self.points}
        other = _noisy(self.untrained, untrained, rng)
        return replace(
            self, condition="noise", level=level, rows=rows, untrained=other, noise=noise
        )  # the truth of contexts stays what it is


def noisy_reader(
    activations: Float[np.ndarray, "row width"],
    targets: Float[np.ndarray, "row target"],
    weights: Float[np.ndarray, " row"],
    sd: float,
) -> LinearReader:
    """The best linear reader when independent noise of standard deviation `sd` is added to every coordinate:
    the noise adds sd² to the covariance's diagonal, and nothing to what activations and targets share."""
    p = weights / weights.sum()
    x_mean, y_mean = p @ activations, p @ targets
    x, y = activations - x_mean, targets - y_mean
    shared = (x * p[:, None]).T @ y
    coef = np.linalg.solve((x * p[:, None]).T @ x + sd**2 * np.eye(x.shape[1]), shared)
    total = p @ y**2
    r2 = np.divide((coef * shared).sum(axis=0), total, out=np.full(len(total), np.nan), where=total > 0)
    among = np.linalg.pinv((y * p[:, None]).T @ y, rcond=1e-10, hermitian=True)
    return LinearReader(coef, shared @ among, y_mean - x_mean @ coef, r2)


def least_linear(every: TrueRows, count: int) -> tuple[tuple[int, int], ...]:
    """The pairs of concepts whose parity is furthest from any linear function of all concepts' posteriors,
    by the world alone."""
    m = every.world.m
    pairs = [(i, j) for i in range(m) for j in range(i + 1, m)]
    odd = np.stack([parity(every.world, every.known, pair) for pair in pairs], axis=1)
    linear = optimal_reader(every.targets()[1], odd, every.weights).r2
    return tuple(pairs[k] for k in np.argsort(linear, kind="stable")[:count])


def _spread(rows: TrueRows, point: str) -> float:
    return float(rows.activations[point].double().var(dim=0).mean().sqrt())


def _noisy(rows: TrueRows, noise: Mapping[str, float], rng: np.random.Generator) -> TrueRows:
    held = rows.activations
    with_it = {
        point: values + torch.from_numpy(rng.normal(0, noise[point], tuple(values.shape))).to(values.dtype)
        for point, values in held.items()
    }
    return replace(rows, activations=Activations(with_it, held.rows, held.provenance))
