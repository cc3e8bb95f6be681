"""Ridge at every point of a set of activations, and the point chosen on training rows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from tqdm.auto import tqdm

from graticule.hooks.points import layer_of
from graticule.hooks.rows import Rows
from graticule.hooks.values import finite
from graticule.probes.core.stack import Predictions
from graticule.probes.linear.ridge_cv import RidgeFit, ridge_cv, ridge_cv_stream
from graticule.probes.linear.rows import as_rows

_log = logging.getLogger(__name__)

_STREAM_BYTES = 4 * 2**30


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

    @property
    def layer(self) -> int | None:
        """The block of the point."""
        return layer_of(self.point)

    @property
    def validation(self) -> float:
        """Out-of-fold R² on training rows: what the layer is chosen by."""
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
        """Of these rows the ones named. **Raises** `NonFiniteError` naming point and row."""
        rows = self._index[index]
        if self._values is None:
            return _finite(self._point, self._activations.gather(self._point, rows).float().numpy(), rows)
        return _finite(self._point, self._values.gather(rows), rows)


def _finite(point: str, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Values of a point, all of them numbers. **Raises** `NonFiniteError` naming point and row."""
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

    **Raises** `ValueError` as `ridge_cv` does.
    """
    index = np.arange(len(problem.y)) if rows is None else rows
    train, test = index[problem.train], index[problem.test]
    y, clusters = problem.y[problem.train], problem.clusters[problem.train]
    done: list[PointFit] = []
    quiet = not (progress if progress is not None else len(activations) * len(train) > 50_000)
    for point in tqdm(activations.points, desc=desc, unit="layer", disable=quiet, leave=False):
        size = activations.n_rows * activations.widths[point] * 8
        if not activations.in_memory and size > _STREAM_BYTES:
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
    """The point with the best out-of-fold score on training rows; the earlier one of equals."""
    return max(fits, key=lambda f: f.validation)
