"""Logistic and k-sparse probes against scikit-learn, and scores of probabilities against its metrics."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.metrics import log_loss as sklearn_log_loss

from graticule.probes.beyond.reliability import class_scores, reliability, weighted_auroc
from graticule.probes.linear.logistic import cross_entropy, held_out, logistic, logistic_cv, rank_coordinates
from graticule.probes.linear.logistic_many import logistic_many
from graticule.probes.tables.groups import group_folds


def problem(classes, n=600, width=20, seed=0):
    """Correlated features of uneven scale, far from 0, and labels that they half explain."""
    rng = np.random.default_rng(seed)
    X = (
        3
        + rng.normal(size=(n, width))
        * np.arange(1, width + 1) ** -0.8
        * 10
        @ np.linalg.qr(rng.normal(size=(width, width)))[0]
    )
    labels = (X @ rng.normal(size=(width, classes)) / 4 + rng.gumbel(size=(n, classes)) * 2).argmax(axis=1)
    y = np.eye(classes)[labels] if classes > 2 else labels[:, None].astype(float)
    return X, y, labels


@pytest.mark.parametrize("classes", [2, 4])
def test_every_strength_is_scikit_learns(classes):
    X, y, labels = problem(classes)
    found = logistic(X, y, [1.0, 30.0, 3000.0], tolerance=1e-16)
    assert found.converged
    for a, alpha in enumerate(found.alphas):
        oracle = LogisticRegression(C=1 / alpha, solver="newton-cg", tol=1e-11, max_iter=1000).fit(X, labels)
        expected = oracle.predict_proba(X)
        np.testing.assert_allclose(
            found.probabilities(X, a), expected[:, 1:] if classes == 2 else expected, atol=1e-6
        )
        if classes == 2:
            np.testing.assert_allclose(found.coef[a][:, 0], oracle.coef_[0], atol=1e-6)
            assert found.intercept[a, 0] == pytest.approx(oracle.intercept_[0], abs=1e-5)


def test_more_columns_than_rows_and_separable_classes():
    X, y, labels = problem(2, n=30, width=60)
    found = logistic(X, y, [1.0, 10.0], tolerance=1e-16)
    oracle = LogisticRegression(C=1.0, solver="newton-cg", tol=1e-11, max_iter=1000).fit(X, labels)
    np.testing.assert_allclose(found.probabilities(X)[:, 0], oracle.predict_proba(X)[:, 1], atol=1e-6)


def test_default_strengths_go_on_below_at_their_spacing_where_a_column_is_small():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 12)).astype(np.float32).astype(float)
    y = (X[:, 11:] + 0.5 * rng.standard_normal((300, 1)) > 0).astype(float)
    whole = logistic_cv(X, y, np.arange(300))
    X[:, 11] /= 256
    small = logistic_cv(X, y, np.arange(300))
    assert len(whole.alphas) == 8 < len(small.alphas) and small.converged
    assert np.ptp(np.diff(np.log(small.alphas))) < 1e-9
    assert small.validation.min() == pytest.approx(whole.validation.min(), abs=0.01)
    many = logistic_many(X, y, np.arange(300))
    assert np.array_equal(many.alphas, small.alphas)
    assert np.nanmin(many.validation) == pytest.approx(small.validation.min(), abs=0.01)


def test_the_strength_is_chosen_by_the_log_loss_of_whole_clusters():
    X, y, labels = problem(2, n=300)
    clusters = np.arange(300) // 3
    found = logistic_cv(X, y, clusters, [0.1, 10.0, 1000.0], folds=4, seed=1)
    fold = group_folds(clusters, 4, 1)
    losses = []
    for alpha in found.alphas:
        p = np.empty(300)
        for f in range(4):
            model = LogisticRegression(C=1 / alpha, tol=1e-10, max_iter=10_000).fit(
                X[fold != f], labels[fold != f]
            )
            p[fold == f] = model.predict_proba(X[fold == f])[:, 1]
        losses.append(sklearn_log_loss(labels, p))
    np.testing.assert_allclose(found.validation, losses, atol=1e-4)
    assert found.chosen == int(np.argmin(losses))
    assert cross_entropy(y, found.out_of_fold) == pytest.approx(min(losses), abs=1e-4)


def test_a_class_that_some_rows_lack_has_no_probability():
    X, y, _ = problem(4)
    kept = y[:, 2] == 0
    p = held_out(X[kept], y[kept], X[~kept], [10.0])[0]
    assert (p[:, 2] == 0).all()
    np.testing.assert_allclose(p.sum(axis=1), 1)
    with pytest.raises(ValueError, match=r"class \[2\]"):
        logistic(X[kept], y[kept])


@pytest.mark.parametrize("columns", [1, 3])
def test_difference_is_the_standardised_mean_difference(columns):
    X, y, _ = problem(2 if columns == 1 else 3)
    X = np.c_[X, np.ones(len(X))]
    order = rank_coordinates(X, y, 20)
    worth = np.mean([[np.corrcoef(x, t)[0, 1] ** 2 for x in X[:, :20].T] for t in y.T], axis=0)
    assert order.tolist() == np.argsort(-worth).tolist()
    if columns == 1:
        a, b = X[y[:, 0] == 1, :20], X[y[:, 0] == 0, :20]
        t = np.abs(a.mean(0) - b.mean(0)) / np.sqrt((a.var(0) * len(a) + b.var(0) * len(b)) / len(X))
        assert order.tolist() == np.argsort(-t).tolist()
    with pytest.raises(ValueError, match="20 coordinates that vary"):
        rank_coordinates(X, y, 21)


def test_matching_pursuit_takes_what_adds_most_each_time():
    X, y, _ = problem(3)
    X = np.c_[X, 2 * X[:, 3] + 1]  # a copy: never both
    t = (y - y.mean(0)) / y.std(0)
    taken = []
    for _ in range(6):
        left = [
            -1.0 if j in taken else LinearRegression().fit(X[:, [*taken, j]], t).score(X[:, [*taken, j]], t)
            for j in range(20)
        ]
        taken.append(int(np.argmax(left)))
    order = rank_coordinates(X, y, 15, "omp").tolist()
    assert [3 if j == 20 else j for j in order[:6]] == taken
    assert not {3, 20} <= set(order)


def test_scores_are_scikit_learns_and_weights_count_rows():
    X, y, labels = problem(3)
    p = logistic(X, y, [100.0]).probabilities(X)
    found = class_scores(y, p, np.arange(len(y)), 50, 0)
    assert found["auroc"][0] == pytest.approx(roc_auc_score(labels, p, multi_class="ovr"))
    assert found["accuracy"][0] == accuracy_score(labels, p.argmax(1))
    assert found["log_loss"][0] == pytest.approx(sklearn_log_loss(labels, p))
    for value, (low, high) in found.values():
        assert low < value < high
    weights = np.random.default_rng(0).integers(0, 4, len(y))
    rounded = p.round(1)  # ties
    expected = [roc_auc_score(y[:, c], rounded[:, c], sample_weight=weights) for c in range(3)]
    assert weighted_auroc(y, rounded, weights[None].astype(float))[0] == pytest.approx(np.mean(expected))


def test_calibration_error_is_a_sum_over_bins():
    rng = np.random.default_rng(0)
    p = rng.random((5000, 1))
    honest = (rng.random((5000, 1)) < p).astype(float)
    clusters = np.arange(5000)
    assert class_scores(honest, p, clusters, 2, 0)["ece"][0] < 0.03
    sure = np.where(p > 0.5, 0.95, 0.05)  # as right as before, far surer
    bins = reliability(honest, sure, 10)
    assert bins["rows"].tolist() == [int((p <= 0.5).sum()), int((p > 0.5).sum())]
    by_hand = sum(
        abs(sure[sure == v].mean() - honest[sure == v].mean()) * (sure == v).mean() for v in (0.05, 0.95)
    )
    assert class_scores(honest, sure, clusters, 2, 0, bins=10)["ece"][0] == pytest.approx(by_hand)
    assert by_hand == pytest.approx(0.2, abs=0.03)


def test_pursuit_refuses_more_coordinates_than_are_independent():
    """Seven coordinates of a plane and a line: three give all, and k=7 of them would be three."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 7))
    y = (X[:, :1] > 0).astype(float)
    chosen = rank_coordinates(X, y, 3, "omp")
    assert np.linalg.matrix_rank(X[:, chosen]) == 3
    with pytest.raises(ValueError, match=r"k=7: 3 coordinates give all others .* write k=3 or less"):
        rank_coordinates(X, y, 7, "omp")
    assert len(rank_coordinates(X, y, 7)) == 7
