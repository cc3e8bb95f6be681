"""Ridge by products between rows against scikit-learn, and where single precision runs out."""

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.linear_model import Ridge

from graticule.probes.linear import sparse
from graticule.probes.linear.sparse import duals_fit_in_memory, factor_lower, product_duals, solve_lower
from graticule.probes.surface.string_ridge import StringRidge


def made(n: int = 300, width: int = 500, targets: int = 20) -> tuple[sp.csr_matrix, np.ndarray]:
    rng = np.random.default_rng(0)
    X = sp.csr_matrix(sp.random(n, width, 0.05, random_state=0, format="csr"))
    return X, 3.0 + rng.standard_normal((n, targets))


@pytest.mark.parametrize("block", [64, 1024])
def test_every_strength_is_scikit_learns(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(sparse, "_BLOCK_ROWS", block)  # several blocks, and one
    X, y = made()
    alphas = np.array([0.003, 1.0, 100.0])
    for alpha, dual in zip(alphas, product_duals(X, y, alphas, tol=1e-6), strict=True):
        theirs = Ridge(alpha).fit(X.toarray(), y).coef_.T
        ours = X.T @ dual.astype(np.float64)
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


def test_without_refinement_a_weak_strength_misses_the_tolerance(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    X, y = made()
    heavy = sp.csr_matrix(X + sp.csr_matrix(0.5 * np.ones((1, 500)) * np.arange(300)[:, None] / 300))
    good = next(product_duals(heavy, y, np.array([1.0]), tol=1e-4))
    assert not caplog.records
    monkeypatch.setattr(sparse, "_REFINEMENTS", 1)
    poor = next(product_duals(heavy, y, np.array([1.0]), tol=1e-4))
    assert "residuals stay at" in caplog.text
    exact = np.linalg.solve(sparse.gram(heavy) + np.eye(300), y - y.mean(axis=0))
    assert np.abs(good - exact).max() < 0.1 * np.abs(poor - exact).max()


def test_many_targets_on_strings_are_answered_alike_by_both_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    words = ["north", "south", "lake", "mount", "saint", "river", "port", "new", "old", "bay"]
    texts = [" ".join(rng.choice(words, 3)) + str(rng.integers(99)) for _ in range(240)]
    ridge = StringRidge.of(texts[:200], np.arange(200), texts[200:])
    z = rng.standard_normal((200, 5))
    alphas = np.array([0.1, 10.0])
    iterated = ridge.out_of_fold(z, alphas, tol=1e-4), ridge.test(z, alphas, 1e-4)
    monkeypatch.setattr(
        "graticule.probes.surface.string_ridge.duals_fit_in_memory", lambda rows, targets: True
    )
    factored = ridge.out_of_fold(z, alphas, tol=1e-4), ridge.test(z, alphas, 1e-4)
    for a, b in zip(iterated, factored, strict=True):
        assert not np.array_equal(a, b)  # two routes indeed
        assert np.abs(a - b).max() < 1e-3


def test_products_are_made_for_many_targets_that_memory_holds() -> None:
    assert duals_fit_in_memory(4000, 1000)
    assert not duals_fit_in_memory(4000, 10)
    assert not duals_fit_in_memory(10_000_000, 1000)


@pytest.mark.parametrize("block", [7, 64, 200])
def test_blocked_cholesky_is_lapacks_and_keeps_the_other_triangle(block: int) -> None:
    rng = np.random.default_rng(2)
    raw = rng.standard_normal((150, 150)).astype(np.float32)
    full = np.asfortranarray(raw @ raw.T + 150 * np.eye(150, dtype=np.float32))
    held = full.copy(order="F")
    factor_lower(held, block)
    np.testing.assert_allclose(np.tril(held), np.linalg.cholesky(full), atol=2e-5)
    np.testing.assert_array_equal(np.triu(held, 1), np.triu(full, 1))
    right = rng.standard_normal((150, 4)).astype(np.float32)
    np.testing.assert_allclose(solve_lower(held, right, block), np.linalg.solve(full, right), atol=1e-5)
    full[100, 100] = -1.0
    with pytest.raises(np.linalg.LinAlgError, match="row 100: not positive definite"):
        factor_lower(full, block)
