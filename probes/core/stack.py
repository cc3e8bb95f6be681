"""Stacked predictions: least squares of a target on what several predictors say of it out of fold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from graticule.hooks.messages import UnknownNameError

_ROUNDING = 1e-13  # of a target in standard deviations from 0


@dataclass(frozen=True)
class Predictions:
    """What one predictor says about every row without having seen it."""

    out_of_fold: Float[np.ndarray, "train target"]
    """Training rows, each predicted by a fit without its fold (or its cluster), in the target's units."""
    test: Float[np.ndarray, "test target"]
    """Test rows, predicted by the fit on all training rows."""

    def __post_init__(self) -> None:
        """Lay both out row by row: sums round by the layout, and files know no other."""
        for part in ("out_of_fold", "test"):
            object.__setattr__(self, part, np.ascontiguousarray(getattr(self, part)))

    def part(self, train: Any = slice(None), targets: Any = slice(None)) -> Predictions:
        """Of some training rows, all test rows and some targets."""
        return Predictions(self.out_of_fold[train][:, targets], self.test[:, targets])


@dataclass(frozen=True)
class StackFit:
    """Least squares of each target on the predictors' own-target columns, with an intercept."""

    names: tuple[str, ...]
    """Predictors, in the order of ``coef``."""
    coef: Float[np.ndarray, "predictor target"]
    """Weight of every predictor, for each target."""
    intercept: Float[np.ndarray, " target"]
    """The training mean of each target if there are no predictors."""

    def predict(
        self, predictions: Mapping[str, Float[np.ndarray, "row target"]], n_rows: int | None = None
    ) -> Float[np.ndarray, "row target"]:
        """Stacked predictions; ``n_rows`` is needed only where the stack holds no predictor.

        **Raises** KeyError if a predictor of the fit is missing.
        """
        missing = [name for name in self.names if name not in predictions]
        if missing:
            raise UnknownNameError(
                f"the stack was fitted with {missing} too; predictions hold {list(predictions)}"
            )
        if not self.names:
            return np.tile(self.intercept, (n_rows or 0, 1))
        return sum(
            (predictions[name] * self.coef[i] for i, name in enumerate(self.names)), start=self.intercept
        )


def stack(
    out_of_fold: Mapping[str, Float[np.ndarray, "train target"]], y: Float[np.ndarray, "train target"]
) -> StackFit:
    """Fit the stack on out-of-fold predictions of training rows, each target by its own columns.

    A predictor that goes against the target out of fold is left out of that target's stack: at a strong
    penalty the prediction of a left-out row is nearly minus its own value over n, and least squares would
    turn such noise round with a huge weight. Copies of one predictor, constant ones or none at all are
    allowed: the solution of least norm (in units of each predictor's standard deviation) is taken.
    """
    names = tuple(out_of_fold)
    mean = y.mean(axis=0)
    coef, intercept = np.zeros((len(names), y.shape[1])), mean.copy()
    for target in range(y.shape[1] if names else 0):
        columns = np.stack([out_of_fold[name][:, target] for name in names], axis=1)
        parts = stack_design(columns, y[:, target])
        weights = np.linalg.lstsq(parts.design, parts.right, rcond=1e-9)[0]
        coef[:, target] = weights * parts.per_unit
        intercept[target] -= parts.centre @ coef[:, target]
    return StackFit(names, coef, intercept)


def with_and_without(
    baselines: Mapping[str, Predictions],
    probe: Predictions,
    y_train: Float[np.ndarray, "train target"],
) -> tuple[Float[np.ndarray, "test target"], Float[np.ndarray, "test target"]]:
    """What the stack of `baselines` predicts of the test rows, and the stack of these and `probe`."""
    everything = {**baselines, "probe": probe}
    folds = {name: p.out_of_fold for name, p in everything.items()}
    tests = {name: p.test for name, p in everything.items()}
    surface = stack({name: folds[name] for name in baselines}, y_train).predict(tests, len(probe.test))
    return surface, stack(folds, y_train).predict(tests)


@dataclass(frozen=True)
class StackDesign:
    """The least squares of a stack, in standard deviations, of one target or (first axis) of many."""

    design: Float[np.ndarray, "*target row predictor"]
    """Standardised predictions; 0 for predictors that are left out."""
    right: Float[np.ndarray, "*target row"]
    """The standardised target."""
    centre: Float[np.ndarray, "*target predictor"]
    """Mean of every predictor, in the target's unit."""
    per_unit: Float[np.ndarray, "*target predictor"]
    """What turns a standardised weight into one of the target's unit; exactly 0 for what is left out."""


def stack_design(
    columns: Float[np.ndarray, "*target row predictor"], y: Float[np.ndarray, "*target row"]
) -> StackDesign:
    """Out-of-fold predictions and their target on one scale, so that no unit of the target matters.

    Args:
        columns: predictions, a predictor a column.
        y: the target.

    Returns:
        The design, without predictors that go against the target or vary by no more than rounding.
    """
    mean = y.mean(axis=-1, keepdims=True)
    right = y - mean
    unit = right.std(axis=-1, keepdims=True)
    unit = np.where(unit > 0, unit, 1.0)
    right = right / unit
    centre = columns.mean(axis=-2, keepdims=True)
    standard = (columns - centre) / unit[..., None]
    spread = standard.std(axis=-2, keepdims=True)
    helps = (standard * right[..., None]).sum(axis=-2, keepdims=True) > 0
    used = helps & (spread > _ROUNDING * (1 + np.abs(mean / unit)[..., None]))
    scale = np.where(used, spread, 1.0)
    return StackDesign(
        np.where(used, standard / scale, 0.0),
        right,
        centre[..., 0, :],
        np.where(used, 1 / scale, 0.0)[..., 0, :],
    )
