"""Synthetic targets with the table's own values: a latent normal variable, put through by rank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from graticule.hooks.imports import load
from graticule.probes.calibration.components import Mixture

NEARLY_NORMAL = 0.95
"""Share of a target's variance that a normal variable of the same order has, from which it counts as one."""

FEW_VALUES = 30
"""Values up to which functions of the text are cut into the target's own, too."""


@dataclass(frozen=True)
class Marginal:
    """The values that real targets take, in order."""

    values: Float[np.ndarray, "column row"]
    """Sorted values of every target column, all rows."""
    share: Float[np.ndarray, " column"]
    """Share of each column's variance that is linear in the latent variable."""

    @classmethod
    def of(cls, y: Float[np.ndarray, "row target"]) -> Marginal | None:
        """The values of a target; None where all its columns are nearly normal."""
        values = np.sort(y.T, axis=1)
        share = np.array([np.corrcoef(column, _scores(len(column)))[0, 1] ** 2 for column in values])
        return None if (share >= NEARLY_NORMAL).all() else cls(values, share)

    @property
    def linear(self) -> float:
        """The share, on average: what a latent share must be divided by to be one of the target's."""
        return float(self.share.mean())

    def of_latent(
        self, latent: Float[np.ndarray, "target row"], number: Int[np.ndarray, " target"]
    ) -> Float[np.ndarray, "target row"]:
        """Every latent variable with the values of one of the columns, `number` counted round, by rank."""
        out = np.empty_like(latent)
        for own, row, i in zip(out, latent, number, strict=True):
            own[np.argsort(row, kind="stable")] = self.values[i % len(self.values)]
        return out


def _scores(n: int) -> Float[np.ndarray, " n"]:
    """Normal scores of n ranks."""
    load("scipy.special")
    from scipy.special import ndtri

    return ndtri((np.arange(n) + 0.5) / n)


def known_gain(
    y: Float[np.ndarray, "target row"],
    surface: Float[np.ndarray, "target row"],
    hidden: Float[np.ndarray, "target row"],
) -> Float[np.ndarray, " target"]:
    """What a hidden part adds to R², were it known, by least squares beside the surface's predictions."""
    y, surface, hidden = (values - values.mean(axis=1, keepdims=True) for values in (y, surface, hidden))
    squares = np.maximum(np.square(surface).sum(axis=1, keepdims=True), 1e-12)
    beyond = hidden - surface * (surface * hidden).sum(axis=1, keepdims=True) / squares
    total = np.square(y).sum(axis=1) * np.square(beyond).sum(axis=1)
    return np.where(total > 0, np.square((y * beyond).sum(axis=1)) / np.where(total > 0, total, 1.0), 0.0)


def own_values(
    marginal: Marginal | None,
    latent: Float[np.ndarray, "component row"],
    mixture: Mixture,
    number: Int[np.ndarray, " target"],
    of_text: Bool[np.ndarray, " target"],
    n_train: int,
) -> tuple[Float[np.ndarray, "own row"], Mixture]:
    """Mixtures with a real target's values, each a component by itself, centred on the training rows.

    Those of nearly normal targets are left as they are, and so are functions of the text (`of_text`) beside a
    target of many values: these have few values of their own, and ranks would put luck between equals.
    """
    if marginal is None:
        return latent, mixture
    values = mixture.of(latent)
    some = ~of_text | (len(np.unique(marginal.values)) <= FEW_VALUES)
    values[some] = marginal.of_latent(values[some], number[some])
    values -= values[:, :n_train].mean(axis=1, keepdims=True)
    return values, Mixture(np.arange(len(values))[:, None], np.ones((len(values), 1)))
