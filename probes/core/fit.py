"""Predictions and their stack; ridge at every point of activations, and the point chosen on training rows."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from tqdm.auto import tqdm

from graticule.hooks.messages import UnknownNameError
from graticule.hooks.points import layer_of
from graticule.hooks.rows import Rows
from graticule.hooks.values import finite
from graticule.probes.linear.ridge_cv import RidgeFit, ridge_cv, ridge_cv_stream
from graticule.probes.linear.rows import as_rows

_log = logging.getLogger(__name__)

STREAM_BYTES = 4 * 2**30
"""Rows of more, in float64, are streamed."""
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

        Raises:
            KeyError: If a predictor of the fit is missing.
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


def check_predictions(
    y_train: np.ndarray,
    y_test: np.ndarray,
    predictions: Mapping[str, Predictions],
    test_clusters: np.ndarray,
    target_names: Sequence[str],
) -> None:
    """Whether predictions are of these rows and targets, and all are numbers.

    Args:
        y_train: Targets of training rows.
        y_test: Targets of test rows.
        predictions: of each predictor.
        test_clusters: of the test rows.
        target_names: one name per target.

    Raises:
        ValueError: Shapes do not fit, or a value is not finite.
    """
    if not len(y_test) == len(test_clusters):
        raise ValueError(f"{len(y_test)} test rows but {len(test_clusters)} cluster labels")
    if not y_train.shape[1] == y_test.shape[1] == len(target_names):
        raise ValueError(
            f"y has {y_train.shape[1]} (train) and {y_test.shape[1]} (test) columns for "
            f"{len(target_names)} target names"
        )
    for part, y in (("training", y_train), ("test", y_test)):
        if not np.isfinite(y).all():
            row, column = np.argwhere(~np.isfinite(y))[0]
            raise ValueError(
                f"the target {target_names[column]!r} of {part} row {row} is {y[row, column]}: drop such rows"
            )
    for name, pred in predictions.items():
        for part, y, values in (
            ("out-of-fold", y_train, pred.out_of_fold),
            ("test", y_test, pred.test),
        ):
            if values.shape != y.shape:
                raise ValueError(f"{part} predictions of {name!r} have shape {values.shape}, y has {y.shape}")
            if not np.isfinite(values).all():
                row = int(np.argwhere(~np.isfinite(values))[0][0])
                raise ValueError(f"{part} predictions of {name!r} are not finite at row {row}")


# Points ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Problem:
    """What every predictor is fitted to: rows of activations, their targets, split and clusters."""

    source: Int[np.ndarray, " row"]
    """The table row of every activation row."""
    y: Float[np.ndarray, "row target"]
    """Targets, in target units."""
    is_test: Bool[np.ndarray, " row"]
    """The frozen split."""
    clusters: Int[np.ndarray, " row"]
    """Rows of one cluster are held out, and resampled, together."""
    names: tuple[str, ...]
    """Target names, for messages."""

    @property
    def train(self) -> Int[np.ndarray, " train"]:
        """Indices of the training rows."""
        return np.flatnonzero(~self.is_test)

    @property
    def test(self) -> Int[np.ndarray, " test"]:
        """Indices of the test rows."""
        return np.flatnonzero(self.is_test)

    def part(self, train: Int[np.ndarray, " part"], targets: list[int]) -> Problem:
        """Some training rows (`train` counts them alone), all test rows, and some targets."""
        rows = np.concatenate([self.train[train], self.test])
        names = tuple(self.names[i] for i in targets)
        y = self.y[rows][:, targets]
        return Problem(self.source[rows], y, self.is_test[rows], self.clusters[rows], names)


@dataclass(frozen=True)
class PointFit:
    """A ridge at one hook point: fitted on training rows, applied to test rows."""

    point: str
    """Hook name."""
    fit: RidgeFit
    """Weights, strengths and out-of-fold predictions."""
    test: Float[np.ndarray, "test target"]
    """Predictions of the test rows, in target units."""
    bits: float | None = None
    """Bits a row that its out-of-fold scores save on training rows, where classes are judged by them."""

    @property
    def layer(self) -> int | None:
        """The block of the point."""
        return layer_of(self.point)

    @property
    def validation(self) -> float:
        """Out-of-fold R² on training rows."""
        return self.fit.score

    @property
    def predictions(self) -> Predictions:
        """Out-of-fold on training rows, plain on test rows."""
        return Predictions(self.fit.out_of_fold, self.test)


class PointRows:
    """Some rows of one point, fetched when asked for."""

    def __init__(self, activations: Rows, point: str, index: Int[np.ndarray, " row"]) -> None:
        """Rows `index` of a point, in that order."""
        self._activations, self._point, self._index = activations, point, index
        self._values = as_rows(activations[point]) if activations.in_memory else None
        self.shape = (len(index), activations.widths[point])

    def gather(self, index: Int[np.ndarray, " chunk"]) -> Shaped[np.ndarray, "chunk width"]:
        """Of these rows the ones named.

        Raises:
            NonFiniteError: Naming point and row.
        """
        rows = self._index[index]
        if self._values is None:
            return _finite(self._point, self._activations.gather(self._point, rows).float().numpy(), rows)
        return _finite(self._point, self._values.gather(rows), rows)


def _finite(point: str, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Values of a point, all of them numbers.

    Raises:
        NonFiniteError: Naming point and row.
    """
    hint = "drop these rows, or capture in float32 or bfloat16 if float16 overflowed"
    return finite(point, values, lambda i: f"in row {rows[i]}", hint)


def fit_points(
    activations: Rows,
    problem: Problem,
    rows: Int[np.ndarray, " row"] | None = None,
    *,
    alphas: Sequence[float] | None = None,
    desc: str = "ridge",
    progress: bool | None = None,
) -> list[PointFit]:
    """Ridge at every point; `rows` says which activation row serves each row of the problem.

    Points of a store that would not fit in 4 GiB are streamed.

    Raises:
        ValueError: As `ridge_cv` does.
    """
    index = np.arange(len(problem.y)) if rows is None else rows
    train, test = index[problem.train], index[problem.test]
    y, clusters = problem.y[problem.train], problem.clusters[problem.train]
    done: list[PointFit] = []
    quiet = not (progress if progress is not None else len(activations) * len(train) > 50_000)
    for point in tqdm(activations.points, desc=desc, unit="layer", disable=quiet, leave=False):
        size = activations.n_rows * activations.widths[point] * 8
        if not activations.in_memory and size > STREAM_BYTES:
            source = PointRows(activations, point, train)
            fit = ridge_cv_stream(source, y, alphas=alphas, clusters=clusters, names=problem.names)
            predicted = fit.predict(_finite(point, activations.gather(point, test).float().numpy(), test))
        else:
            values = as_rows(activations[point])
            x = _finite(point, values.gather(train), train)
            fit = ridge_cv(x, y, alphas=alphas, clusters=clusters, names=problem.names)
            predicted = fit.predict(_finite(point, values.gather(test), test))
        if fit.alpha_at_edge:
            _log.info("%s: the chosen strength %.3g lies at the edge of the grid", point, fit.alpha)
        done.append(PointFit(point, fit, predicted))
    return done


def chosen(fits: Sequence[PointFit]) -> PointFit:
    """The point whose probe has the best out-of-fold score on training rows (R², or bits); the earlier one of
    equals."""
    return max(fits, key=lambda f: f.validation if f.bits is None else f.bits)
