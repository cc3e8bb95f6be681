"""Boosted trees out of fold: a reader of a text's features that no function of them is too crooked for."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, cast

import numpy as np
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from graticule.hooks.imports import load
from graticule.probes.core.fit import Predictions
from graticule.probes.scores.metrics import mean_r2

MOST = 120
"""Iterations of boosting at most, for a target or two."""
STEP = 20
"""Iterations between two looks at the out-of-fold error."""
_AT_ONCE = 2 * STEP  # what is grown whatever the first look says
_RATE = 0.15
_SHARED = 240
"""Iterations that the targets share where there are many, at a rate that is faster by as much."""
_FEWEST = 40
_MANY_ROWS = 5000
MOST_ROWS = 50_000
"""Training rows of a fit at most: of more, every second or third is taken."""


def boosted_predictions(
    X_train: Float[np.ndarray, "train feature"],
    y_train: Float[np.ndarray, "train target"],
    fold: Int[np.ndarray, " train"],
    X_test: Float[np.ndarray, "test feature"],
    *,
    seed: int = 0,
    disable: bool | None = None,
) -> tuple[Predictions, dict[str, Any]]:
    """Out-of-fold training and test predictions of scikit-learn's histogram gradient boosting.

    Each target by itself, by squared error: of an indicator it estimates the class's probability. The number
    of iterations is the one with the least out-of-fold error, none where no number beats the mean; boosting
    ends once two looks have brought nothing.

    Args:
        X_train: features of the training rows.
        y_train: their targets.
        fold: the fold of each training row; the rows of a cluster share one.
        X_test: features of the test rows.
        seed: of the boosting.
        disable: goes to tqdm.

    Returns:
        Predictions, and `iterations` of each target, `most`, `rate`, `leaves` and `validation`, the
        out-of-fold R².
    """
    most, rate = plan_of(y_train.shape[1])
    out_of_fold, test = np.empty(y_train.shape), np.empty((len(X_test), y_train.shape[1]))
    iterations: list[int] = []
    varied = _varied(X_train)
    X_train, X_test = X_train[:, varied], X_test[:, varied]
    columns = tqdm(y_train.T, desc="trees", unit="target", disable=disable, leave=False)
    for t, y in enumerate(columns):
        own = _boosted(X_train, y, fold, X_test, most, rate, seed)
        out_of_fold[:, t], test[:, t] = own[0], own[1]
        iterations.append(own[2])
    info: dict[str, Any] = {
        "iterations": iterations,
        "most": most,
        "rate": rate,
        "leaves": _leaves(len(y_train)),
        "validation": mean_r2(y_train, out_of_fold),
    }
    return Predictions(out_of_fold, test), info


def plan_of(targets: int) -> tuple[int, float]:
    """Iterations at most and rate: fewer and faster ones where many targets share the time."""
    share = _SHARED // max(1, targets) // STEP * STEP
    most = int(np.clip(share, _FEWEST, MOST))
    return most, min(0.3, _RATE * MOST / most)


def boosted_test(
    X_train: Float[np.ndarray, "train feature"],
    y: Float[np.ndarray, " train"],
    X_test: Float[np.ndarray, "test feature"],
    iterations: int,
    rate: float,
    seed: int = 0,
) -> Float[np.ndarray, " test"]:
    """Predictions of rows that were not learned from, of one target, at a number of iterations that is given;
    the mean at none."""
    if iterations == 0:
        return np.full(len(X_test), y.mean())
    return _Trees(X_train, y, rate, seed).grown(iterations).predict(X_test)


def boosted_without(
    X: Float[np.ndarray, "row feature"],
    y: Float[np.ndarray, "row target"],
    fold: Int[np.ndarray, " row"],
    seed: int = 0,
) -> list[Predictions]:
    """Without each fold: out-of-fold predictions of all other rows, and those of the fold.

    A row is predicted out of fold by trees without both folds, its own and the one left out, so that two
    folds share a fit; iterations are few and fast ones.

    Args:
        X: features of all rows.
        y: their targets.
        fold: 0, 1, 2, … of each row.
        seed: of the boosting.

    Returns:
        Predictions a fold.
    """
    varied = X[:, _varied(X)]
    count, steps = int(fold.max()) + 1, range(STEP, _FEWEST + 1, STEP)
    rate = plan_of(_SHARED)[1]
    out = [
        Predictions(
            np.empty((int((fold != k).sum()), y.shape[1])), np.empty((int((fold == k).sum()), y.shape[1]))
        )
        for k in range(count)
    ]
    for t, column in enumerate(y.T):
        beside = np.empty((count, len(steps), len(y)))
        for k in range(count):
            for j in range(k):
                both = _staged(varied, column, (fold != k) & (fold != j), rate, seed, steps)
                for i, values in enumerate(both):
                    beside[k, i, fold == j], beside[j, i, fold == k] = values[fold == j], values[fold == k]
        for k in range(count):
            rest = fold != k
            mean = column[rest].mean()
            tried = [np.full(int(rest.sum()), mean), *beside[k][:, rest]]
            best = int(np.argmin([np.square(column[rest] - one).sum() for one in tried]))
            out[k].out_of_fold[:, t] = tried[best]
            out[k].test[:, t] = mean
            if best:
                out[k].test[:, t] = boosted_test(
                    varied[rest], column[rest], varied[~rest], steps[best - 1], rate, seed
                )
    return out


def _staged(
    X: np.ndarray, y: np.ndarray, inside: np.ndarray, rate: float, seed: int, steps: Sequence[int]
) -> list[np.ndarray]:
    """Of all rows, by trees of some, after so many iterations each."""
    if not inside.any():
        return [np.full(len(y), y.mean())] * len(steps)
    stages = _Trees(X[inside], y[inside], rate, seed).grown(steps[-1]).stages(X)
    return [stages[step - 1] for step in steps]


def _boosted(
    X: np.ndarray, y: np.ndarray, fold: np.ndarray, X_test: np.ndarray, most: int, rate: float, seed: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Predictions out of fold and of the test rows, and the iterations chosen."""
    mean = np.full(len(y), y.mean())
    least, best, chosen = float(np.square(y - mean).sum()), mean, 0
    parts = [(fold != k, fold == k) for k in np.unique(fold)]
    parts = [part for part in parts if part[0].any()]  # a single cluster leaves no other rows to learn from
    models = [_Trees(X[inside], y[inside], rate, seed) for inside, _ in parts]
    looks: dict[int, np.ndarray] = {}
    for count in range(STEP, most + 1, STEP):
        if count not in looks:
            grown = min(count + _AT_ONCE - STEP, most)
            looks = {at: mean.copy() for at in range(count, grown + 1, STEP)}
            for model, (_, outside) in zip(models, parts, strict=True):
                for at, values in enumerate(model.grown(grown).stages(X[outside]), 1):
                    if at in looks:
                        looks[at][outside] = values
        error = float(np.square(y - looks[count]).sum())
        if error < least:
            least, best, chosen = error, looks[count], count
        elif count - chosen >= 2 * STEP:
            break
    return best, boosted_test(X, y, X_test, chosen, rate, seed), chosen


class _Trees:
    """A model of one target, which can be grown further on the same rows."""

    def __init__(self, X: np.ndarray, y: np.ndarray, rate: float, seed: int) -> None:
        load("sklearn.ensemble")
        from sklearn.ensemble import HistGradientBoostingRegressor

        every = -(-len(y) // MOST_ROWS)
        least, no = int(np.clip(len(y) // 100, 3, 20)), cast("Any", False)
        self._columns = _splittable(X[::every], least)
        self._X, self._y = X[::every, self._columns], y[::every]
        self._model = HistGradientBoostingRegressor(
            learning_rate=rate,
            max_leaf_nodes=_leaves(len(y)),
            min_samples_leaf=least,
            max_bins=64,
            early_stopping=no,  # the default is early stopping on rows drawn by place
            warm_start=True,
            random_state=seed,
        )

    def grown(self, iterations: int) -> _Trees:
        """The same, of so many iterations."""
        with _threads(len(self._y)):
            self._model.set_params(max_iter=iterations).fit(self._X, self._y)
        return self

    def stages(self, X: np.ndarray) -> list[np.ndarray]:
        """Predictions after every iteration."""
        with _threads(len(X)):
            return list(self._model.staged_predict(X[:, self._columns]))

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Predictions after all iterations."""
        with _threads(len(X)):
            return self._model.predict(X[:, self._columns])


def _splittable(X: np.ndarray, least: int) -> np.ndarray:
    """Columns that can be cut with so many rows on either side, one at least; the others enter no tree."""
    ordered = np.sort(X, axis=0)  # missing entries last
    can = (ordered[min(least, len(X)) - 1] != ordered[max(0, len(X) - least)]) | np.isnan(ordered[-1])
    can[:1] |= not can.any()
    return np.flatnonzero(can)


def _threads(n: int) -> AbstractContextManager[Any]:
    """One thread for few rows, whose pieces are too small to be shared out: others would mostly wait."""
    return _pools().limit(limits=1, user_api="openmp") if n <= _MANY_ROWS else nullcontext()


@cache
def _pools() -> Any:
    """Handles of the OpenMP libraries that are loaded."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _leaves(n: int) -> int:
    return 8 if n <= _MANY_ROWS else 16


def _varied(X: np.ndarray) -> np.ndarray:
    """Columns that are not constant, those with missing entries among them; one at least."""
    varied = np.ptp(X, axis=0) != 0
    varied[:1] = True
    return varied
