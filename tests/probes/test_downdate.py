"""Block refits from one Gram matrix against refits from the rows."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from graticule.probes.linear.refits import leave_blocks_out


def made(n: int, width: int, scaled: bool = False, seed: int = 0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, width)) + 5 * rng.normal(size=width)
    if scaled:
        X *= 10.0 ** rng.uniform(-4, 4, width)
    y = X @ rng.normal(size=(width, 2)) / np.abs(X).max() + rng.normal(size=(n, 2)) + [1900.0, -40.0]
    return X, y


def refit(X: np.ndarray, y: np.ndarray, out: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Ridge on the rows outside, by singular values of the rows themselves."""
    keep = np.setdiff1d(np.arange(len(X)), out)
    rows, mean = X[keep].astype(np.float64), X[keep].mean(axis=0, dtype=np.float64)
    left, values, right = np.linalg.svd(rows - mean, full_matrices=False)
    centre = y[keep].mean(axis=0)
    coef = right.T @ ((values / (values**2 + alpha))[:, None] * (left.T @ (y[keep] - centre)))
    return coef, centre - mean @ coef


def worst(X: np.ndarray, y: np.ndarray, blocks: list[np.ndarray], alpha: float) -> tuple[float, int]:
    """Largest difference of a prediction, over the spread of the predictions; and blocks refitted."""
    (fits,) = leave_blocks_out(X, y, blocks, [alpha])
    errors = []
    for i, block in enumerate(blocks):
        coef, intercept = refit(X, y, block, alpha)
        expected = X @ coef + intercept
        assert np.allclose(fits.y_mean[i], np.delete(y, block, axis=0).mean(axis=0), rtol=1e-12)
        assert fits.n_train[i] == len(X) - len(block)
        got = fits.predict(i, X)
        errors.append(np.abs(got - expected).max() / np.abs(expected - fits.y_mean[i]).max())
    return max(errors), fits.refitted


@pytest.mark.parametrize("alpha", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(("n", "width"), [(600, 40), (300, 100), (30, 80)])
def test_every_block_is_the_honest_refit(n: int, width: int, scaled: bool, alpha: float) -> None:
    """Large and small blocks, one with nearly all rows, and blocks that overlap."""
    X, y = made(n, width, scaled)
    label = np.random.default_rng(1).integers(0, 4, n)
    blocks = [*(np.flatnonzero(label == k) for k in range(4)), np.arange(0, n, 60), np.arange(int(0.9 * n))]
    assert worst(X, y, blocks, alpha)[0] < 1e-8


def test_it_is_scikit_learns_ridge_in_any_dtype() -> None:
    X, y = made(400, 30)
    blocks = [np.arange(100), np.arange(380, 400)]
    (fits,) = leave_blocks_out(torch.from_numpy(X).to(torch.bfloat16), y, blocks, [7.0])
    rounded = torch.from_numpy(X).to(torch.bfloat16).double().numpy()
    for i, block in enumerate(blocks):
        oracle = Ridge(7.0).fit(np.delete(rounded, block, axis=0), np.delete(y, block, axis=0))
        assert np.allclose(fits.coef[i], oracle.coef_.T, rtol=1e-8, atol=1e-10)
        assert np.allclose(fits.predict(i, rounded), oracle.predict(rounded), rtol=1e-9)


def test_a_block_that_holds_all_the_size_is_refitted_from_the_rows() -> None:
    """A massive direction that lives in one block leaves no digits to the difference; a refit keeps them."""
    X, y = made(500, 20)
    X[:50, 3] += 1e7
    error, refitted = worst(X, y, [np.arange(50), np.arange(100, 200)], 1.0)
    assert refitted == 1
    assert error < 1e-6


def test_a_row_that_is_its_own_prediction() -> None:
    """The only row with a feature has leverage 1, where the closed form divides by 0."""
    X, y = made(300, 20)
    X[:, 5] = 0
    X[17, 5] = 1e4
    assert worst(X, y, [np.array([17]), np.array([18])], 1e-2)[0] < 1e-6


def test_strengths_share_the_work_and_come_in_order() -> None:
    X, y = made(200, 10)
    blocks = [np.arange(30), np.arange(50, 52)]
    both = leave_blocks_out(X, y, blocks, [100.0, 0.1])
    assert [fits.alpha for fits in both] == [0.1, 100.0]
    for fits in both:
        alone = leave_blocks_out(X, y, blocks, [fits.alpha])[0]
        assert np.array_equal(alone.coef, fits.coef)


def test_a_target_that_is_constant_outside_is_predicted_as_that_constant() -> None:
    X, y = made(200, 10)
    y[40:, 1] = 3.0
    (fits,) = leave_blocks_out(X, y, [np.arange(40)], [1.0])
    assert np.allclose(fits.predict(0, X)[:, 1], 3.0, atol=1e-9)


def test_wrong_blocks_are_named() -> None:
    X, y = made(50, 5)
    for blocks, words in (
        ([], "no blocks"),
        ([np.arange(5), np.zeros(0, np.int64)], "block 1 is empty"),
        ([np.arange(49)], "nothing is left"),
        ([np.array([3, 50])], "row 50 of 50"),
    ):
        with pytest.raises(ValueError, match=words):
            leave_blocks_out(X, y, blocks, [1.0])
    with pytest.raises(ValueError, match="row 7"):
        bad = X.copy()
        bad[7, 0] = np.inf
        leave_blocks_out(bad, y, [np.arange(20)], [1.0])
    with pytest.raises(ValueError, match="alphas"):
        leave_blocks_out(X, y, [np.arange(5)], [0.0])
