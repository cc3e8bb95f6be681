"""The ridge against explicit refits, scikit-learn, and plants whose answer is known."""

import logging

import numpy as np
import pytest
import torch

from graticule.hooks.artifact import ArtifactError, write_json
from graticule.hooks.values import NonFiniteError
from graticule.probes.beyond.pca import components
from graticule.probes.linear.leace import Eraser
from graticule.probes.linear.logistic import logistic_cv
from graticule.probes.linear.ridge import RidgeProbe, cosines
from graticule.probes.linear.ridge_cv import ridge_cv, ridge_cv_stream, ridge_fit
from graticule.probes.linear.rows import ArrayRows, as_rows
from graticule.probes.linear.spectrum import LARGEST_CLUSTER, plan_holdout
from graticule.probes.linear.strengths import default_alphas, rounding_of

TOLERANCE = 1e-6


def data(n: int, width: int, n_targets: int = 2, massive: bool = False, seed: int = 0):
    """Correlated activations with an offset, targets on very different scales, and a noise floor."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, width)) @ (
        np.eye(width) + 0.3 * rng.standard_normal((width, width)) / width**0.5
    )
    X += 3 * rng.standard_normal(width)
    if massive:
        X[:, 1] = 1e4 * (2 + rng.standard_normal(n))
    y = X[:, 2:5] @ rng.standard_normal((3, n_targets)) + rng.standard_normal((n, n_targets))
    return X, y * np.geomspace(1, 1e3, n_targets) + 50


def refit(X, y, alpha):
    """Textbook ridge as augmented least squares: no Gram matrix, no eigenvectors, no shared code."""
    x_mean, y_mean = X.mean(axis=0), y.mean(axis=0)
    system = np.vstack([X - x_mean, np.sqrt(alpha) * np.eye(X.shape[1])])
    right = np.vstack([y - y_mean, np.zeros((X.shape[1], y.shape[1]))])
    coef = np.linalg.lstsq(system, right, rcond=None)[0]
    return coef, y_mean - x_mean @ coef


def brute_force(X, y, alphas, held_out):
    """Predictions [alpha, row, target], each group of rows predicted by a refit without it."""
    out = np.full((len(alphas), *y.shape), np.nan)
    for rows in held_out:
        kept = np.setdiff1d(np.arange(len(X)), rows)
        for i, alpha in enumerate(alphas):
            coef, intercept = refit(X[kept], y[kept], alpha)
            out[i, rows] = X[rows] @ coef + intercept
    return out


def assert_matches(fit, X, y, held_out):
    """The whole grid's scores, the choice, the predictions and the final weights."""
    expected = brute_force(X, y, fit.alphas, held_out)
    r2 = 1 - ((y - expected) ** 2).mean(axis=1) / y.var(axis=0)
    assert np.allclose(1 - fit.validation_by_target, 1 - r2, rtol=TOLERANCE, atol=0)
    assert np.allclose(fit.validation, r2.mean(axis=1), rtol=TOLERANCE, atol=TOLERANCE)
    best = r2.mean(axis=1).argmax()
    assert fit.alpha == fit.alphas[best]
    error = np.linalg.norm(fit.out_of_fold - expected[best], axis=0) / np.linalg.norm(
        y - expected[best], axis=0
    )
    assert (error < TOLERANCE).all()
    coef, intercept = refit(X, y, fit.alpha)
    assert np.allclose(X @ fit.coef + fit.intercept, X @ coef + intercept, rtol=TOLERANCE)
    assert np.allclose(fit.predict(X), X @ coef + intercept, rtol=TOLERANCE)


SHAPES = [(60, 12, False), (60, 12, True), (24, 40, False), (24, 40, True), (40, 40, False)]


@pytest.mark.parametrize(("n", "width", "massive"), SHAPES)
def test_leave_one_out_is_a_refit_without_the_row(n, width, massive):
    X, y = data(n, width, massive=massive)
    alphas = np.geomspace(1e-2, 1e5, 8)
    fit = ridge_cv(X, y, alphas=alphas)
    assert fit.scheme == "leave-one-out"
    assert_matches(fit, X, y, [[i] for i in range(n)])


@pytest.mark.parametrize(("n", "width", "massive"), SHAPES)
def test_leave_one_cluster_out_is_a_refit_without_the_cluster(n, width, massive):
    X, y = data(n, width, massive=massive)
    # Interleaved, of sizes 1, 2, 3 and one larger than the pairwise route serves
    clusters = np.random.default_rng(3).permutation(
        np.r_[np.arange(9), [20, 20, 21, 21, 22, 22, 22], [30] * (n - 16)]
    )
    clusters[clusters == 30] = np.where(np.arange((clusters == 30).sum()) < min(11, n - 20), 30, 31)
    fit = ridge_cv(X, y, alphas=np.geomspace(1e-2, 1e5, 8), clusters=clusters)
    assert fit.scheme == "leave-one-cluster-out"
    assert_matches(fit, X, y, [np.flatnonzero(clusters == c) for c in np.unique(clusters)])


def test_default_grid_is_exact_too():
    for n, width in ((60, 12), (24, 40)):
        X, y = data(n, width, massive=True)
        assert_matches(ridge_cv(X, y), X, y, [[i] for i in range(n)])


@pytest.mark.parametrize(("n", "width", "massive"), [(300, 30, False), (300, 30, True), (40, 80, False)])
def test_agrees_with_sklearn(n, width, massive):
    from sklearn.linear_model import RidgeCV

    X, y = data(n, width, massive=massive)
    alphas = np.geomspace(1e-2, 1e4, 12)
    standard = (y - y.mean(axis=0)) / y.std(axis=0)
    oracle = RidgeCV(alphas, store_cv_results=True).fit(X, standard)
    fit = ridge_cv(X, y, alphas=alphas)
    assert fit.alpha == oracle.alpha_
    assert np.allclose(
        1 - fit.validation_by_target, oracle.cv_results_.mean(axis=0).T, rtol=TOLERANCE, atol=0
    )
    chosen = oracle.cv_results_[:, :, list(alphas).index(oracle.alpha_)]
    errors = (y - fit.out_of_fold) / y.std(axis=0)
    assert np.abs(errors**2 - chosen).max() < TOLERANCE * chosen.max()
    assert np.allclose(
        fit.coef / y.std(axis=0), oracle.coef_.T, rtol=TOLERANCE, atol=TOLERANCE * np.abs(oracle.coef_).max()
    )


def test_per_target_strengths():
    X, y = data(120, 30, n_targets=3)
    y[:, 1] = np.random.default_rng(5).standard_normal(120)
    alphas = np.geomspace(1e-1, 1e6, 15)
    fit = ridge_cv(X, y, alphas=alphas, per_target=True)
    for i in range(3):
        alone = ridge_cv(X, y[:, i], alphas=alphas)
        assert fit.alpha_by_target[i] == alone.alpha
        assert np.allclose(fit.coef[:, [i]], alone.coef, rtol=1e-8, atol=1e-12)
        assert np.allclose(fit.out_of_fold[:, [i]], alone.out_of_fold, rtol=1e-8)
    with pytest.raises(ValueError, match="different strengths"):
        _ = fit.alpha


class CountingRows:
    """A row source that remembers the largest chunk it was asked for."""

    def __init__(self, X):
        self.X, self.shape, self.largest, self.total = X, X.shape, 0, 0

    def gather(self, index):
        self.largest = max(self.largest, len(index))
        self.total += len(index)
        return self.X[index]


@pytest.mark.parametrize(("n", "width"), [(200, 20), (40, 60)])
@pytest.mark.parametrize("clustered", [False, True])
def test_stream_equals_memory(n, width, clustered):
    X, y = data(n, width)
    X = X.astype(np.float32)
    clusters = np.random.default_rng(0).integers(0, n // 3, n) if clustered else None
    source = CountingRows(X)
    memory = ridge_cv(X, y, clusters=clusters)
    stream = ridge_cv_stream(source, y, alphas=memory.alphas, clusters=clusters, chunk_rows=16)
    assert stream.alpha == memory.alpha and stream.scheme == memory.scheme
    for name in ("validation_by_target", "out_of_fold", "coef", "intercept", "write", "x_mean"):
        assert np.allclose(getattr(stream, name), getattr(memory, name), rtol=1e-6, atol=1e-8), name
    shift_sample = min(n, 512)
    assert source.total == 2 * n + shift_sample
    assert source.largest == max(16, shift_sample)


def test_large_clusters_are_held_out_by_folds(monkeypatch):
    X, y = data(1400, 6)
    sizes = [LARGEST_CLUSTER + 1, LARGEST_CLUSTER + 40, 200, 100] + [1] * (1400 - 2 * LARGEST_CLUSTER - 341)
    clusters = np.random.default_rng(1).permutation(np.repeat(np.arange(len(sizes)), sizes))
    alphas = np.geomspace(1e-1, 1e4, 4)
    fit = ridge_cv(X, y, alphas=alphas, clusters=clusters)
    assert "2 group folds" in fit.scheme
    held_out = [np.flatnonzero(clusters == c) for c in range(len(sizes))]
    assert_matches(fit, X, y, held_out)
    stream = ridge_cv_stream(CountingRows(X), y, alphas=alphas, clusters=clusters, chunk_rows=128)
    assert np.allclose(stream.out_of_fold, fit.out_of_fold, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("width", [12, 200])
def test_more_large_clusters_than_folds(monkeypatch, width):
    monkeypatch.setattr("graticule.probes.linear.spectrum.LARGEST_CLUSTER", 4)
    X, y = data(150, width)
    clusters = np.random.default_rng(2).permutation(
        np.r_[np.repeat(np.arange(14), 10), [20, 20, 21, 21, *range(30, 36)]]
    )
    plan = plan_holdout(150, clusters)
    assert len(plan.folds) == 10 and all(len(fold) % 10 == 0 for fold in plan.folds)
    assert sorted(np.concatenate([*plan.folds, *(rows for _, rows in plan.groups)])) == list(range(150))
    fit = ridge_cv(X, y, alphas=np.geomspace(1e-1, 1e4, 5), clusters=clusters)
    small = [np.flatnonzero(clusters == c) for c in np.unique(clusters) if c >= 20]
    assert_matches(fit, X, y, [*plan.folds, *small])


def test_many_targets_take_the_second_pass(monkeypatch):
    X, y = data(90, 10, n_targets=5)
    clusters = np.repeat(np.arange(45), 2)
    kept = ridge_cv(X, y, clusters=clusters, per_target=True)
    monkeypatch.setattr("graticule.probes.linear.ridge_cv._ERRORS_IN_MEMORY", 1)
    again = ridge_cv(X, y, clusters=clusters, per_target=True)
    assert np.allclose(kept.out_of_fold, again.out_of_fold, rtol=1e-10)
    assert (kept.alpha_by_target == again.alpha_by_target).all()


def test_a_thousand_targets():
    X, _ = data(80, 10)
    y = np.random.default_rng(0).standard_normal((80, 1000))
    fit = ridge_cv(X, y)
    assert fit.coef.shape == (10, 1000) and fit.out_of_fold.shape == (80, 1000)
    assert abs(fit.score) < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_torch_dtypes_are_computed_in_float64(dtype):
    X, y = data(50, 8)
    tensor = torch.from_numpy(X).to(dtype).requires_grad_()
    exact = ridge_cv(tensor.detach().double().numpy(), y)
    fit = ridge_cv(tensor, torch.from_numpy(y))
    assert np.array_equal(fit.coef, exact.coef) and fit.coef.dtype == np.float64
    assert np.array_equal(fit.predict(tensor), exact.predict(tensor.detach().double().numpy()))
    assert tensor.grad is None


def test_inputs_are_left_alone():
    for n, width in ((50, 8), (20, 40)):
        X, y = data(n, width)
        before = X.copy(), y.copy()
        ridge_cv(X, y)
        assert np.array_equal(X, before[0]) and np.array_equal(y, before[1])


def test_threads_are_left_as_found():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)  # small decompositions run on one
        ridge_cv(*data(50, 8))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_fixed_strength():
    X, y = data(50, 8)
    fit = ridge_fit(X, y, 7.0)
    coef, intercept = refit(X, y, 7.0)
    assert fit.alpha == 7.0
    assert np.allclose(fit.coef, coef, rtol=1e-9) and np.allclose(fit.intercept, intercept, rtol=1e-9)


def test_default_grid_follows_the_scale_of_the_data():
    X, _ = data(200, 20)
    y = X[:, :1] + 3 * np.random.default_rng(0).standard_normal((200, 1))
    small, large = ridge_cv(X, y), ridge_cv(1e4 * X, y)
    assert np.allclose(large.alphas, 1e8 * small.alphas, rtol=1e-9)
    assert np.allclose(large.validation, small.validation, rtol=1e-9)
    eigenvalues = np.linalg.eigvalsh(np.cov(X.T, ddof=0) * 200)
    grid = default_alphas(eigenvalues)
    assert (
        len(grid) == 24 and grid[0] < eigenvalues.min() / 100 and grid[-1] >= 10 * eigenvalues.max() * 0.999
    )


def test_default_grid_goes_on_below_at_its_spacing_where_a_column_is_small():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 25)).astype(np.float32)
    y = 0.7 * X[:, 24] + 0.7 * rng.standard_normal(200)
    whole, X[:, 24] = ridge_cv(X, y), X[:, 24] / 1024
    small = ridge_cv(X, y)
    assert len(whole.alphas) == 24 and small.score == pytest.approx(whole.score, abs=0.01)
    square = ((X[:, 24] - X[:, 24].mean()) ** 2).sum(dtype=float)
    assert 0.005 * square < small.alphas[0] < 0.03 * square
    assert np.ptp(np.diff(np.log(small.alphas))) < 1e-9 and small.axes_unread == 0
    kept = small.alphas[-24:]
    assert ridge_cv(X, y, alphas=kept).axes_unread == 1
    assert np.array_equal(small.validation[-24:], ridge_cv(X, y, alphas=kept).validation)


def test_default_grid_ends_above_what_rounding_puts_along_an_axis():
    """The last column is the sum of the others, rounded: what is left along one axis is rounding alone."""
    rng = np.random.default_rng(1)
    for dtype in (torch.bfloat16, torch.float32):
        X = torch.from_numpy(rng.standard_normal((300, 20))).to(dtype)
        X = torch.cat([X, X.double().sum(dim=1, keepdim=True).to(dtype)], dim=1)
        least = np.linalg.eigvalsh(np.cov(X.double().numpy().T, ddof=0) * 300)[0]
        fit = ridge_cv(X, rng.standard_normal(300))
        assert rounding_of(as_rows(X)) == rounding_of(ArrayRows(X.double().numpy()))
        assert least < rounding_of(as_rows(X)) <= fit.alphas[0]
        assert fit.axes_unread == (dtype == torch.bfloat16)  # in float32 it does not differ from 0


def test_default_grid_reaches_signal_beside_massive_directions():
    """One direction with nearly all the variance must not push the grid above the rest."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 30))
    X[:, 0] *= 4e4
    y = X[:, 5] + 0.1 * rng.standard_normal(400)
    fit = ridge_cv(X, y)
    assert fit.score > 0.98 and not fit.alpha_at_edge


def test_edge_hits_are_reported(caplog):
    X, y = data(100, 30)
    y = X[:, :1] + 5 * np.random.default_rng(0).standard_normal((100, 1))
    with caplog.at_level(logging.INFO, logger="graticule.probes.linear.strengths"):
        assert ridge_cv(X, y, alphas=[1e-3, 1e-1, 10.0]).alpha_at_edge
    assert "upper end of the grid 0.001 to 10" in caplog.text
    assert not ridge_cv(X, y).alpha_at_edge


def test_edge_hits_without_consequence_are_not_reported(caplog):
    X, _ = data(200, 10)
    rng = np.random.default_rng(1)
    with caplog.at_level(logging.INFO, logger="graticule.probes.linear.strengths"):
        exact = ridge_cv(X, X[:, :2] @ rng.standard_normal((2, 2)))  # no noise: less is better, without end
        noise = ridge_cv(X, rng.standard_normal((200, 2)))  # nothing to find: more is better, without end
    assert exact.alpha == exact.alphas[0] and not exact.alpha_at_edge
    assert not noise.alpha_at_edge
    assert not caplog.records


def test_shuffled_targets_score_nothing():
    X, y = data(400, 20)
    fit = ridge_cv(X, np.random.default_rng(0).permutation(y))
    assert abs(fit.score) < 0.02


def test_write_direction_recovers_how_two_correlated_targets_are_written():
    rng = np.random.default_rng(0)
    n, width = 20_000, 12
    y = rng.standard_normal((n, 2)) @ np.array([[1.0, 0.8], [0.0, 0.6]]) * [10.0, 0.1] + [1950.0, 3.0]
    planted = rng.standard_normal((width, 2))
    nuisance = rng.standard_normal((n, 3)) @ rng.standard_normal((3, width))
    X = y @ planted.T + nuisance + 0.1 * rng.standard_normal((n, width))
    probe = RidgeProbe(target_names=("year", "weight")).fit(X, y)
    assert (cosines(probe.write_direction, planted) > [0.99999, 0.98]).all()
    assert np.allclose(probe.write_direction[:, 0], planted[:, 0], atol=0.02)
    alone = RidgeProbe().fit(X, y[:, 0])
    covariance = ((X - X.mean(axis=0)) * (y[:, :1] - y[:, 0].mean())).mean(axis=0) / y[:, 0].var()
    assert np.allclose(alone.write_direction[:, 0], covariance, rtol=1e-8)
    # Reading has to avoid the nuisance, writing does not: the two must not be confused
    assert (np.abs(probe.read_write_cosine) < 0.9).all()
    assert probe.score(X, y) > 0.9


def test_write_direction_of_one_hot_columns_is_finite_and_separates_the_classes():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, 3000)
    means = rng.standard_normal((3, 8))
    X = means[classes] + 0.1 * rng.standard_normal((3000, 8))
    fit = ridge_cv(X, np.eye(3)[classes])
    observed = np.stack([X[classes == c].mean(axis=0) for c in range(3)])
    differences = fit.write.T[1:] - fit.write.T[:1]
    assert np.allclose(differences, observed[1:] - observed[:1], atol=1e-8)


def test_probe_saves_and_loads(tmp_path):
    X, y = data(60, 10)
    probe = RidgeProbe("blocks.3.hook_resid_post", ("lat", "lon"), ("lat", "lon")).fit(
        X, y, np.arange(60) // 2
    )
    probe.save(tmp_path / "probe")
    again = RidgeProbe.load(tmp_path / "probe")
    assert np.array_equal(again.predict(X), probe.predict(X))
    for name in ("hook_name", "target_names", "units", "alpha", "selection"):
        assert getattr(again, name) == getattr(probe, name), name
    for name in ("read_direction", "write_direction", "intercept"):
        assert np.array_equal(getattr(again, name), getattr(probe, name)), name
    assert again.selection["scheme"] == "leave-one-cluster-out"
    with pytest.raises(FileExistsError):
        probe.save(tmp_path / "probe")


def test_load_refuses_what_is_not_a_probe(tmp_path):
    with pytest.raises(ArtifactError, match="missing"):
        RidgeProbe.load(tmp_path / "nothing")
    RidgeProbe().fit(*data(60, 10)).save(tmp_path / "probe")
    write_json(tmp_path / "probe" / "manifest.json", {"schema": 1, "kind": "store"})
    with pytest.raises(ArtifactError, match="store"):
        RidgeProbe.load(tmp_path / "probe")


def test_from_fit_and_refusals_of_the_probe():
    X, y = data(60, 10)
    fit = ridge_cv(X, y)
    probe = RidgeProbe.from_fit(fit, "blocks.0.hook_resid_post", ("a", "b"), ("m", None))
    assert probe.alpha == fit.alpha and probe.selection["score"] == fit.score
    assert np.isclose(
        probe.score(X, y), 1 - (((y - fit.predict(X)) ** 2).mean(axis=0) / y.var(axis=0)).mean()
    )
    with pytest.raises(ValueError, match="not fitted"):
        RidgeProbe("here").predict(X)
    with pytest.raises(ValueError, match="for 2 targets"):
        RidgeProbe.from_fit(fit, None, ("a",))
    with pytest.raises(ValueError, match="one each"):
        RidgeProbe(None, ("a", "b"), ("m",))
    with pytest.raises(ValueError, match=r"width 3.*width 10"):
        probe.predict(X[:, :3])


def with_value(array, row, value):
    """A copy of `array` with one bad value."""
    array = array.copy()
    array[row, -1] = value
    return array


X, Y = data(20, 5)
CONSTANT = np.c_[Y[:, 0], np.full(20, 7.3)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ridge_cv(X[:, 0], Y), r"shape \(20,\), expected \[row, width\]"),
        (lambda: ridge_cv(X, Y[:-1]), "20 rows and y has 19"),
        (lambda: ridge_cv(X, Y[:, :, None]), r"y has shape \(20, 2, 1\)"),
        (lambda: ridge_cv(X[:2], Y[:2]), "2 rows are too few"),
        (lambda: ridge_cv(X, CONSTANT), "target 1 is constant"),
        (lambda: ridge_cv(X, CONSTANT, names=("lat", "lon")), "lon is constant.*7.3"),
        (lambda: ridge_cv(X, Y, names=("lat",)), "1 target names"),
        (lambda: ridge_cv(with_value(X, 11, np.nan), Y), "X holds NaN or infinity in row 11;"),
        (lambda: ridge_cv(with_value(X, 0, -np.inf), Y), "X holds NaN or infinity in row 0;"),
        (lambda: ridge_cv(with_value(X, slice(3, 12), np.inf), Y), "row 3, 4, 5, 6, 7 and more"),
        (lambda: ridge_cv(np.c_[with_value(X, 4, np.inf), np.zeros((20, 30))], Y), "X holds .* row 4;"),
        (lambda: ridge_cv(X, with_value(Y, 2, np.nan)), "y holds NaN or infinity in row 2;"),
        (lambda: ridge_cv(X, Y, alphas=[1.0, 0.0]), "positive, finite"),
        (lambda: ridge_cv(X, Y, alphas=[]), "positive, finite"),
        (lambda: ridge_fit(X, Y, -1.0), "positive, finite"),
        (lambda: ridge_cv(X, Y, clusters=np.zeros(20)), "one cluster"),
        (lambda: ridge_cv(X, Y, clusters=np.arange(19)), r"shape \(19,\)"),
        (lambda: ridge_cv_stream(CountingRows(X), Y, chunk_rows=0), "chunk_rows is 0"),
    ],
)
def test_refusals_name_the_trouble(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_complex_activations_are_refused():
    with pytest.raises(TypeError, match="complex128"):
        ridge_cv(X.astype(complex), Y)


def test_a_source_that_gives_other_rows_is_refused():
    source = CountingRows(X)
    source.shape = (20, 6)
    with pytest.raises(ValueError, match=r"gather gave shape \(20, 5\)"):
        ridge_cv_stream(source, Y)


@pytest.mark.parametrize("width", [5, 90], ids=["gram", "kernel"])
def test_figures_that_overflow_are_refused(width):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, width))
    y = X[:, :2] + 0.1 * rng.normal(size=(60, 2))
    assert ridge_cv(X, y * 1e100).score == pytest.approx(ridge_cv(X, y).score, abs=1e-6)
    with pytest.raises(NonFiniteError, match=r"standard deviations of targets: 2 .* of target 0; divide"):
        ridge_cv(X, y * 1e160)  # whose scale is infinite: a perfect score
    with pytest.raises(NonFiniteError, match=r"products of activations: .* overflow: divide them"):
        ridge_cv(X * 1e160, y)


# Scales ----------------------------------------------------------------------------------------------
FITS = {
    "in memory": lambda X, y, clusters: ridge_cv(X, y, clusters=clusters),
    "streamed": lambda X, y, clusters: ridge_cv_stream(ArrayRows(X), y, clusters=clusters),
}


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(60, 8), (20, 40)])
def test_a_ridge_is_of_any_scale_whose_squares_are_numbers(shape, fit, clustered):
    X, y = data(*shape)
    clusters = np.arange(shape[0]) // 2 if clustered else None
    expected = FITS[fit](X, y, clusters)
    reached = []
    for exponent in (-300, -170, -160, -155, -150, -140, -100, 100, 140, 150, 155, 170, 300):
        scale = 10.0**exponent
        try:
            got = FITS[fit](X * scale, y, clusters)
        except ValueError as error:
            assert "\n" not in str(error)
            assert ("multiply it" if exponent < 0 else "divide them") in str(error)
            continue
        reached.append(exponent)
        assert got.score == pytest.approx(expected.score, rel=1e-6)
        assert np.allclose(got.predict(X * scale), expected.predict(X), rtol=1e-6, atol=1e-6)
        assert np.allclose(got.coef * scale, expected.coef, rtol=1e-6, atol=1e-9)
    assert {-140, -100, 100, 140} <= {*reached} <= set(range(-150, 155))


@pytest.mark.parametrize("exponent", [-170, 170])
@pytest.mark.parametrize("shape", [(60, 8), (20, 40)])
def test_other_estimators_refuse_such_rows_too(shape, exponent):
    X, y = data(*shape, n_targets=1)
    X *= 10.0**exponent
    labels = (y > np.median(y)).astype(float)
    for call in (
        lambda: components(X),
        lambda: Eraser.fit(X, y),
        lambda: logistic_cv(X, labels, np.arange(len(X)), None, folds=3, seed=0, progress=False),
        lambda: RidgeProbe().fit(X, y),
        lambda: ridge_fit(X, y, 1.0),
    ):
        with pytest.raises(ValueError, match=r"multiply it by a constant|divide them by a constant"):
            call()


def test_rows_that_are_all_alike_are_not_said_to_vanish():
    y = np.arange(20.0)
    assert ridge_fit(np.zeros((20, 4)), y, 1.0).coef.tolist() == [[0.0]] * 4
    assert ridge_fit(np.full((20, 4), 3.0), y, 1.0).coef.tolist() == [[0.0]] * 4
