"""The string baseline against scikit-learn."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_union

from graticule.probes.linear.sparse import dual_ridge, sparse_ridge
from graticule.probes.surface.string_ridge import tfidf_predictions
from graticule.probes.tables.groups import group_folds

STEMS = ["san", "new", "fort", "lake", "mount", "villa", "bad", "saint", "el", "upper"]
ENDS = ["burg", "ville", "grad", "stan", "pur", "ton", "shire", "dorf", "abad", "polis"]


def names(rng: np.random.Generator, n: int) -> tuple[list[str], np.ndarray]:
    """Made-up places whose ending tells where they lie."""
    stem, middle, end = rng.integers(0, 10, n), rng.integers(0, 26, (n, 4)), rng.integers(0, 10, n)
    words = ["".join(chr(97 + c) for c in row) for row in middle]
    texts = [f"{STEMS[s].title()} {w}{ENDS[e]}" for s, w, e in zip(stem, words, end, strict=True)]
    y = np.stack([8.0 * end - 40, 15.0 * stem + 3 * end], axis=1) + rng.normal(0, 5, (n, 2))
    return texts, y


def vectoriser():
    return make_union(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), min_df=2),
    )


@pytest.mark.parametrize(("n", "d", "targets"), [(150, 300, 3), (300, 40, 2), (120, 90, 70)])
def test_sparse_ridge_is_scikit_learns(n: int, d: int, targets: int) -> None:
    X = sp.random(n, d, 0.1, format="csr", random_state=n)
    y = np.random.default_rng(0).normal(size=(n, targets)) + 1000.0
    alphas = np.array([100.0, 0.01, 1.0])
    coefs, intercepts = sparse_ridge(X, y, alphas, tol=1e-8)
    for coef, intercept, alpha in zip(coefs, intercepts, alphas, strict=True):
        oracle = Ridge(alpha=alpha).fit(X.toarray(), y)
        assert np.abs(coef - oracle.coef_.T).max() < 1e-6 * np.abs(oracle.coef_).max()
        assert np.allclose(intercept, oracle.intercept_, rtol=1e-7)


def test_targets_solved_together_are_those_solved_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    X = sp.random(80, 60, 0.2, format="csr", random_state=1)
    y = np.random.default_rng(1).normal(size=(80, 5)) * [1, 1e6, 1e-6, 0, 1]
    monkeypatch.setattr("graticule.probes.linear.sparse._CHUNK_CELLS", 2 * 80 * 2)  # two targets a chunk
    both = dual_ridge(X, y, [0.1, 10.0], tol=1e-9)
    for t in range(5):
        alone = dual_ridge(X, y[:, t : t + 1], [0.1], tol=1e-9)[0, :, 0]
        assert np.allclose(both[0, :, t], alone, rtol=1e-6, atol=1e-7 * np.abs(alone).max(initial=0))
    assert (both[:, :, 3] == 0).all()


def test_sparse_ridge_says_when_it_stops_early(caplog: pytest.LogCaptureFixture) -> None:
    X = sp.random(80, 60, 0.2, format="csr", random_state=1)
    y = np.random.default_rng(1).normal(size=(80, 1))
    with caplog.at_level(logging.WARNING):
        dual_ridge(X, y, [1e-6], max_iter=3)
    assert "stopped after 3 iterations" in caplog.text
    with pytest.raises(ValueError, match="positive"):
        dual_ridge(X, y, [0.0])


def test_predictions_are_those_of_scikit_learn_fold_by_fold() -> None:
    rng = np.random.default_rng(2)
    texts, y = names(rng, 360)
    train, test, clusters = texts[:280], texts[280:], np.arange(280) // 2
    predictions, info = tfidf_predictions(train, y[:280], clusters, test, folds=4, seed=5, disable=True)
    scale = y[:280].std(axis=0)

    def oracle(rows: np.ndarray, wanted: list[str]) -> np.ndarray:
        union = vectoriser()
        X = union.fit_transform([train[i] for i in rows])
        return Ridge(alpha=info["alpha"], solver="sparse_cg", tol=1e-10).fit(X, y[rows]).predict(
            union.transform(wanted)
        )  # fmt: skip

    assert np.abs((predictions.test - oracle(np.arange(280), test)) / scale).max() < 1e-4
    fold = group_folds(clusters, 4, 5)
    for k in range(4):
        expected = oracle(np.flatnonzero(fold != k), [train[i] for i in np.flatnonzero(fold == k)])
        assert np.abs((predictions.out_of_fold[fold == k] - expected) / scale).max() < 1e-4
    assert info["n_terms"] == vectoriser().fit_transform(train).shape[1]
    residual = 1 - np.square(y[:280] - predictions.out_of_fold).sum(0) / np.square(
        y[:280] - y[:280].mean(0)
    ).sum(0)
    assert info["validation"] == pytest.approx(residual.mean(), abs=1e-5) and info["validation"] > 0.7


@pytest.mark.slow
def test_the_strength_is_the_best_of_the_whole_grid() -> None:
    """Weak strengths are tried only while the best is the weakest so far; here that must not matter."""
    rng = np.random.default_rng(3)
    texts, y = names(rng, 130)
    for noise in (0.0, 100.0):
        target = y + rng.normal(0, 1, y.shape) * noise
        args = (texts[:110], target[:110], np.arange(110), texts[110:])
        _, info = tfidf_predictions(*args, disable=True)
        each = [tfidf_predictions(*args, alphas=[a], disable=True)[1]["validation"] for a in info["alphas"]]
        assert info["alpha"] == info["alphas"][int(np.argmax(each))]


def test_clusters_stay_together() -> None:
    """Each text twice, targets random: what looks like skill is the copy in the other fold."""
    rng = np.random.default_rng(4)
    texts = ["".join(chr(97 + c) for c in rng.integers(0, 26, 9)) for _ in range(100)] * 2
    y = np.tile(rng.normal(size=(100, 1)), (2, 1))
    test = texts[:20]
    _, honest = tfidf_predictions(texts, y, np.arange(200) % 100, test, disable=True)
    _, leaky = tfidf_predictions(texts, y, np.arange(200), test, disable=True)
    assert honest["validation"] < 0.1 < 0.5 < leaky["validation"]


def test_texts_that_tell_nothing_give_the_mean(caplog: pytest.LogCaptureFixture) -> None:
    y = np.random.default_rng(5).normal(5, 1, (12, 1))
    same, _ = tfidf_predictions(["Rome"] * 12, y, np.arange(12), ["Rome", "Oslo"], disable=True)
    assert np.allclose(same.test, y.mean())
    assert "do not tell the rows apart" in caplog.text
    blank, info = tfidf_predictions([" "] * 12, y, np.arange(12), ["?"], disable=True)
    assert np.allclose(blank.test, y.mean()) and info["n_terms"] == 0
    assert "hold no terms" in caplog.text
    one, info = tfidf_predictions(["?", "!"] * 6, y, np.zeros(12, int), ["?"], disable=True)
    assert np.isfinite(one.test).all() and info["folds"] == 1
    assert np.allclose(one.out_of_fold, y.mean())


def test_rare_terms_are_taken_where_there_are_no_others(caplog: pytest.LogCaptureFixture) -> None:
    y = np.arange(12.0)[:, None]
    letters = [chr(97 + i) * 2 for i in range(12)]
    predictions, info = tfidf_predictions(letters, y, np.arange(12), ["aa", "ll"], alphas=[0.1], disable=True)
    assert info["min_df"] == 1 and "min_df 1" in caplog.text
    assert predictions.test[1] - predictions.test[0] > 5


def test_rows_that_do_not_fit_are_refused() -> None:
    y = np.ones((3, 1))
    with pytest.raises(ValueError, match="training rows differ"):
        tfidf_predictions(["a"], y, np.arange(3), ["b"])
    with pytest.raises(ValueError, match="both parts"):
        tfidf_predictions(["a", "b", "c"], y, np.arange(3), [])
    with pytest.raises(ValueError, match="row 1"):
        tfidf_predictions(["a", "b", "c"], y * [[1], [np.nan], [1]], np.arange(3), ["b"])


def test_many_targets_on_few_rows_are_predicted_alike() -> None:
    rng = np.random.default_rng(6)
    texts, y = names(rng, 120)
    args = (np.arange(90), texts[90:])
    few, info = tfidf_predictions(texts[:90], y[:90], *args, alphas=[0.5, 2.0], disable=True)
    many, again = tfidf_predictions(texts[:90], np.tile(y[:90], 40), *args, alphas=[0.5, 2.0], disable=True)
    assert info["alpha"] == again["alpha"]
    assert np.allclose(many.test[:, -2:], few.test, atol=1e-3)
    assert np.allclose(many.out_of_fold[:, :2], few.out_of_fold, atol=1e-3)
