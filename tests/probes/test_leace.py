"""LEACE by its defining properties, matched controls by what they match, erasure by what is left."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from graticule import sweep
from graticule.hooks.artifact import ArtifactError
from graticule.probes.causes.erase import Erasure, erase
from graticule.probes.causes.reprobe import refit, ridge_at
from graticule.probes.causes.result import detection_limit, needed, rank_p
from graticule.probes.core.verdict import STRUCTURE
from graticule.probes.linear.edits import unit_moves
from graticule.probes.linear.leace import Covariance, Eraser, covariance_directions, matched_erasers
from graticule.sims.planted import planted


def material(n=400, width=24, targets=2, seed=0, spread=2.0):
    """Anisotropic activations far from the origin, and targets written in them."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(width, width)) * 10.0 ** np.linspace(-spread, spread, width)
    X = rng.normal(size=(n, width)) @ mixing + 5
    Z = (X - X.mean(0)) @ np.linalg.pinv(mixing)[:, :targets] + 0.5 * rng.normal(size=(n, targets))
    return X, Z


def cross(X, Z):
    return (X - X.mean(0)).T @ (Z - Z.mean(0)) / len(X)


@pytest.mark.parametrize(("n", "width", "targets"), [(400, 24, 1), (400, 24, 3), (40, 60, 2)])
def test_nothing_linear_is_left(n, width, targets):
    X, Z = material(n, width, targets)
    erased = Eraser.fit(X, Z).apply(X)
    assert np.abs(cross(erased, Z)).max() < 1e-10 * np.abs(cross(X, Z)).max()
    if n > width:
        assert LinearRegression().fit(X, Z).score(X, Z) > 0.3
        assert abs(LinearRegression().fit(erased, Z).score(erased, Z)) < 1e-9
    assert np.allclose(erased.mean(0), X.mean(0))


def test_no_other_guard_moves_the_rows_less():
    """Theorem 4.3: of all affine maps without linear trace, the least in every norm; here the Euclidean and
    the Mahalanobis one, against other projections along the same and along other directions."""
    X, Z = material(600, 8, 1, spread=0.5)
    eraser = Eraser.fit(X, Z)
    inverse = np.linalg.inv(np.cov(X.T))
    moved = eraser.apply(X) - X

    def sizes(step):
        return np.square(step).sum(1).mean(), np.einsum("ij,jk,ik->i", step, inverse, step).mean()

    least = sizes(moved)
    centred, along = X - X.mean(0), cross(X, Z)
    rng = np.random.default_rng(1)
    for _ in range(50):
        reader = eraser.right[0] + 0.3 * rng.normal(size=8) * np.abs(eraser.right[0]).mean()
        other = -np.outer(centred @ reader, along[:, 0]) / (reader @ along[:, 0])
        assert np.abs(cross(X + other, Z)).max() < 1e-9 * np.abs(along).max()
        assert all(a >= b * (1 - 1e-12) for a, b in zip(sizes(other), least, strict=True))


def test_removed_variance_and_displacement_are_one_number():
    X, Z = material(spread=1.0)
    eraser = Eraser.fit(X, Z)
    erased = eraser.apply(X)
    assert X.var(0).sum() - erased.var(0).sum() == pytest.approx(eraser.removed, rel=1e-7)
    assert np.square(erased - X).sum(1).mean() == pytest.approx(eraser.removed, rel=1e-7)
    assert np.allclose(eraser.edit.apply(X), erased)


def test_collinear_targets_cost_a_rank_less():
    X, Z = material(targets=1)
    bins = np.digitize(Z[:, 0], np.quantile(Z[:, 0], [1 / 3, 2 / 3]))
    one_hot = np.eye(3)[bins]
    eraser = Eraser.fit(X, one_hot)
    assert eraser.rank == 2
    assert np.abs(cross(eraser.apply(X), one_hot)).max() < 1e-10 * np.abs(cross(X, one_hot)).max()


def test_one_of_two_targets_leaves_the_other():
    X, Z = material(targets=2)
    erased = Eraser.fit(X, Z[:, :1]).apply(X)
    assert abs(LinearRegression().fit(erased, Z[:, 0]).score(erased, Z[:, 0])) < 1e-9
    assert LinearRegression().fit(erased, Z[:, 1]).score(erased, Z[:, 1]) > 0.3


def test_saved_and_loaded(tmp_path):
    X, Z = material()
    eraser = Eraser.fit(X, Z)
    eraser.save(tmp_path / "e")
    back = Eraser.load(tmp_path / "e")
    assert np.array_equal(back.apply(X), eraser.apply(X))
    assert back.n_rows == 400
    with pytest.raises(ValueError, match="width"):
        back.apply(X[:, :3])
    (tmp_path / "e" / "eraser.safetensors").unlink()
    with pytest.raises(ArtifactError):
        Eraser.load(tmp_path / "e")


def test_control_erasers_match_in_rank_and_variance_and_spare_the_concept():
    X, Z = material(width=24, targets=2, spread=1.0)
    moments = Covariance.of(X)
    eraser = Eraser.fit(X, Z, covariance=moments)
    frame = np.linalg.qr(moments.whitened(eraser.left))[0]
    drawn = matched_erasers(moments, frame, 5, np.random.default_rng(0))
    own = np.linalg.lstsq(X - X.mean(0), Z - Z.mean(0), rcond=None)[0]
    for control in drawn:
        assert control.rank == eraser.rank
        assert control.removed == pytest.approx(eraser.removed, rel=1e-3)
        moved = control.apply(X)
        assert X.var(0).sum() - moved.var(0).sum() == pytest.approx(control.removed, rel=1e-6)
        # least squares reads the concept as well as before
        assert np.allclose((moved - X) @ own, 0, atol=1e-6 * np.abs((X - X.mean(0)) @ own).max())
    assert np.abs(drawn[0].left - drawn[1].left).max() > 1e-3


def test_control_directions_vary_like_the_rows_and_leave_the_reading():
    X, Z = material(n=5000, width=12, targets=2, spread=1.0)
    moments, rng = Covariance.of(X), np.random.default_rng(0)
    read = np.linalg.lstsq(X - X.mean(0), Z - Z.mean(0), rcond=None)[0]
    moves = unit_moves(read, cross(X, Z))
    drawn = covariance_directions(moments, 400, rng, read, moves)
    assert np.allclose(np.linalg.norm(drawn, axis=1), 1)
    assert np.abs(drawn @ read).max() < 1e-9 * np.abs(read).max()
    free = covariance_directions(moments, 4000, rng)
    top = moments.vectors[:, -1]
    shares = moments.values[-1] / moments.values.sum()
    assert np.square(free @ top).mean() > 3 / 12  # isotropic directions would have 1/12
    assert np.square(free @ top).mean() == pytest.approx(shares, abs=0.2)


def test_ranks_and_limits():
    controls = np.concatenate([-np.arange(1.0, 51), np.arange(1.0, 51)])
    assert rank_p(60.0, controls) == pytest.approx(1 / 101)
    assert rank_p(-60.0, controls) == pytest.approx(1 / 101)
    assert rank_p(0.5, controls) == 1
    assert rank_p(49.5, controls) == pytest.approx(3 / 101)
    assert rank_p(1e-9, np.zeros(100)) == 1  # rounding is no effect
    assert detection_limit(controls) == pytest.approx(np.quantile(np.abs(controls), 0.975))
    assert needed(100, 5) == 100
    assert needed(100, 8) == 160
    assert 8 / (1 + needed(100, 8)) < 0.05


def test_the_refit_is_ridge_and_its_folds_are_honest():
    from sklearn.linear_model import Ridge

    X, Z = material(n=300, width=10, spread=0.5)
    folds = np.random.default_rng(0).integers(0, 5, 300)
    coef, intercept = ridge_at(X, Z, 3.0)
    oracle = Ridge(3.0).fit(X, Z)
    assert np.allclose(coef, oracle.coef_.T)
    assert np.allclose(intercept, oracle.intercept_)
    fit = refit(X, Z, folds, 3.0)
    strengths = [3.0 * f for f in (0.1, 1, 10, 100, 1e3, 1e4)]
    held = []
    for alpha in strengths:
        predicted = np.empty_like(Z)
        for fold in range(5):
            out = folds == fold
            inner = Ridge(alpha * (~out).mean()).fit(X[~out], Z[~out])
            predicted[out] = inner.predict(X[out])
        held.append(predicted)
    best = int(np.argmin([np.square((h - Z) / Z.std(0)).sum() for h in held]))
    assert np.allclose(fit.out_of_fold, held[best])
    assert np.allclose(fit.predict(X), Ridge(strengths[best]).fit(X, Z).predict(X))


@pytest.fixture(scope="module")
def findings():
    world = planted(surface=0.4, hidden=0.3, n_targets=2)
    return sweep(world.activations, world.table, baselines=world.baselines, progress=False)


@pytest.mark.slow
def test_erased_activations_fall_to_the_surface(findings, tmp_path):
    result = erase(findings)
    rows = result.layers
    assert len(rows) == 4
    assert result.at_surface == 4
    assert rows["words_before"].eq(STRUCTURE).sum() == 2  # the hidden part is written from the middle on
    for name in findings.target_names:
        assert (rows[f"same_{name}"] <= 1e-9).all()
        assert (rows[f"after_{name}"] < 0.05).all()
        assert (rows[f"control_{name}"] > rows[f"before_{name}"] - 0.1).all()
    assert (rows["gain_after"] < 0.01).all()
    assert "of 2 points that held structure beyond the baselines (of 4)" in result.summary()
    assert "still structure at 0" in result.summary()
    result.save(tmp_path / "r")
    back = Erasure.load(tmp_path / "r")
    assert back.summary() == result.summary()
    assert len(back.figures()) == 2
    assert set(back.tables())


@pytest.mark.slow
def test_one_target_is_erased_and_the_other_stays(findings):
    result = erase(findings, targets=["target_1"], points=[findings.chosen_point])
    (line,) = result.layers.to_dict("records")
    assert line["rank"] == 1
    assert line["after_target_1"] < 0.05
    assert line["after_target_0"] > line["before_target_0"] - 0.1
    with pytest.raises(KeyError, match="no target 'height'"):
        erase(findings, targets=["height"])
    with pytest.raises(KeyError, match="no probe at"):
        erase(findings, points=["blocks.9.hook_resid_post"])
