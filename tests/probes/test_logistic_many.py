"""Many yes-or-no targets at once, against scikit-learn one at a time."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV

from graticule.probes.linear.logistic_many import logistic_many
from graticule.probes.tables.groups import group_folds

GRID = np.geomspace(0.1, 1000, 5)


def world(rows: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, width)) * (1 + np.arange(width)) ** -0.5 + 3
    score = x @ rng.normal(size=(width, 3))
    score = score / score.std(axis=0) + np.array([0.3, 1, 3]) * rng.normal(size=score.shape)
    return x, (score > np.quantile(score, 0.7, axis=0)).astype(float)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("rows", "width"), [(150, 20), (60, 90)])
def test_strengths_weights_and_held_out_rows_are_scikit_learns(rows: int, width: int) -> None:
    x, y = world(rows, width)
    clusters = np.arange(rows) // 2
    ours = logistic_many(x, y, clusters, GRID)
    fold = group_folds(clusters, 5, 0)
    splits = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(5)]
    for target in range(3):
        theirs = LogisticRegressionCV(
            Cs=1 / GRID[::-1], cv=splits, scoring="neg_log_loss", tol=1e-8, max_iter=5000
        ).fit(x, y[:, target])
        alpha = GRID[ours.chosen[target]]
        assert alpha == pytest.approx(1 / np.ravel(theirs.C_)[0])
        assert ours.log_odds(x)[:, target] == pytest.approx(theirs.decision_function(x), abs=0.03)
        for train, out in splits:
            fit = LogisticRegression(C=1 / alpha, tol=1e-8, max_iter=5000).fit(x[train], y[train, target])
            assert ours.out_of_fold[out, target] == pytest.approx(fit.decision_function(x[out]), abs=0.03)


def test_targets_do_not_touch_each_other() -> None:
    x, y = world(100, 12)
    together, alone = logistic_many(x, y, np.arange(100)), logistic_many(x, y[:, 1:2], np.arange(100))
    assert together.chosen[1] == alone.chosen[0]
    assert together.coef[:, 1] == pytest.approx(alone.coef[:, 0], abs=1e-3)


def test_what_cannot_be_fitted_is_refused() -> None:
    x, y = world(50, 4)
    with pytest.raises(ValueError, match="other values than 0 and 1"):
        logistic_many(x, 2 * y, np.arange(50))
    with pytest.raises(ValueError, match="target 1 has one class in all rows"):
        logistic_many(x, np.c_[y[:, 0], np.ones(50)], np.arange(50))
    with pytest.raises(ValueError, match="X is the same in every row"):
        logistic_many(np.ones_like(x), y, np.arange(50))
