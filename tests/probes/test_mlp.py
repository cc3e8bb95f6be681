"""MLP probes: the batch against one fit after another in plain torch, and what they find."""

import numpy as np
import pytest
import torch

from graticule.probes.mlp import MLPJob, MLPSettings, fit_mlps, validation_rows
from graticule.probes.mlp_train import Shape


@pytest.fixture(scope="module")
def data():
    """Two points; the target bends, so a line cannot follow it. The first four rows are one cluster."""
    rng = np.random.default_rng(0)
    X = {"a": 3 + 2 * rng.normal(size=(700, 12)), "b": rng.normal(size=(700, 12))}
    y = np.stack([np.abs(X["a"][:, 0] - 3), X["a"][:, 1] + np.tanh(X["b"][:, 0])], axis=1)
    clusters = np.arange(700)
    clusters[:4] = 0
    return X, y + 0.1 * rng.normal(size=y.shape), clusters


def fit(data, jobs, settings, **options):
    X, y, clusters = data
    return fit_mlps(lambda point: torch.from_numpy(X[point]), y, clusters, jobs, settings, **options)


def one_by_one(data, job, settings, decay):
    """The same fit with `torch.nn` and `torch.optim.AdamW`, the best epoch's weights restored."""
    X, y, clusters = data
    fitted, held = validation_rows(job.rows, clusters, settings.validation, settings.split_seed)
    x = X[job.point] - X[job.point][fitted].mean(0)
    x = torch.from_numpy(x / np.median(X[job.point][fitted].std(0))).float()
    t = torch.from_numpy((y - y[job.rows].mean(0)) / y[job.rows].std(0)).float()
    net = torch.nn.Sequential(
        torch.nn.Linear(x.shape[1], settings.hidden),
        torch.nn.ReLU(),
        torch.nn.Linear(settings.hidden, t.shape[1]),
    )
    shape = Shape(x.shape[1], 1, settings.hidden, t.shape[1])
    start = [p[0] for p in shape.views(shape.initial(job.seed)[None])]
    with torch.no_grad():
        for layer, (w, b) in ((net[0], start[:2]), (net[2], start[2:])):
            layer.weight.copy_(w.T)
            layer.bias.copy_(b[0])
    optimiser = torch.optim.AdamW(net.parameters(), lr=settings.learning_rate, weight_decay=decay)
    order = np.random.default_rng(job.seed)
    best, kept, waited = np.inf, None, 0
    for _ in range(settings.epochs):
        index = order.permutation(fitted)
        for start_at in range(0, len(index), settings.batch):
            part = torch.from_numpy(index[start_at : start_at + settings.batch])
            optimiser.zero_grad()
            torch.nn.functional.mse_loss(net(x[part]), t[part]).backward()
            optimiser.step()
        with torch.no_grad():
            loss = float((net(x[held]) - t[held]).square().mean())
        waited = 0 if loss < best else waited + 1
        if loss < best:
            best, kept = loss, {k: v.clone() for k, v in net.state_dict().items()}
        if waited == settings.patience:
            break
    net.load_state_dict(kept)
    with torch.no_grad():
        return best, net(x).double().numpy() * y[job.rows].std(0) + y[job.rows].mean(0)


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [1, 4])
def test_the_batch_is_one_fit_after_another(data, at_once):
    """Two points, two seeds, training parts of different sizes, three decays, early stopping in some."""
    settings = MLPSettings(
        hidden=16, decays=(0.0, 0.1, 3.0), epochs=12, patience=2, batch=64, learning_rate=0.01
    )
    jobs = [
        MLPJob("a", np.arange(500)),
        MLPJob("a", np.arange(500), seed=1),
        MLPJob("b", np.arange(100, 520)),
        MLPJob("b", np.arange(37, 521)),
    ]
    fits = fit(data, jobs, settings, at_once=at_once)
    stopped = 0
    for job, found in zip(jobs, fits, strict=True):
        assert (found.point, found.seed) == (job.point, job.seed)
        for member, decay in enumerate(settings.decays):
            loss, predicted = one_by_one(data, job, settings, decay)
            assert np.nanmin(found.losses[member]) == pytest.approx(loss, rel=1e-3)
            assert np.abs(found.predict(data[0][job.point], member) - predicted).max() < 0.02
            stopped += int(np.isnan(found.losses[member]).any())
    assert 0 < stopped < 12  # both kinds are among them


def test_it_bends_where_a_line_cannot(data):
    X, y, _ = data
    from sklearn.metrics import r2_score

    found = fit(
        data, [MLPJob("a", np.arange(500))], MLPSettings(hidden=64, batch=64, epochs=60, learning_rate=0.01)
    )[0]
    line = np.linalg.lstsq(np.c_[X["a"][:500], np.ones(500)], y[:500, 0], rcond=None)[0]
    test = slice(500, None)
    assert r2_score(y[test, 0], np.c_[X["a"][test], np.ones(200)] @ line) < 0.1
    assert r2_score(y[test, 0], found.predict(X["a"][test])[:, 0]) > 0.8
    assert found.score == pytest.approx(found.validation.max())


def test_bfloat16_products_cost_no_score(data):
    settings = {"hidden": 64, "batch": 64, "epochs": 10, "learning_rate": 0.01}
    scores = [
        fit(data, [MLPJob("a", np.arange(500))], MLPSettings(dtype=dtype, **settings))[0].score
        for dtype in ("float32", "bfloat16")
    ]
    assert scores[0] > 0.5
    assert scores[1] == pytest.approx(scores[0], abs=0.03)


def test_same_seed_same_bytes_and_the_users_generator_is_left_alone(data):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    settings = MLPSettings(hidden=8, epochs=2)
    first, second = (fit(data, [MLPJob("a", np.arange(500))], settings)[0] for _ in range(2))
    assert np.array_equal(first.w1, second.w1) and np.array_equal(first.losses, second.losses)
    assert torch.equal(before, torch.get_rng_state())


def test_validation_rows_are_whole_clusters():
    clusters = np.repeat(np.arange(60), 5)
    rows = np.arange(0, 300, 2)
    fitted, held = validation_rows(rows, clusters, 0.1, 42)
    assert np.array_equal(np.sort(np.r_[fitted, held]), rows)
    assert not np.intersect1d(clusters[fitted], clusters[held]).size
    assert 0.08 < len(held) / len(rows) < 0.15
    with pytest.raises(ValueError, match="two clusters"):
        validation_rows(rows, np.zeros(300, int), 0.1, 42)


def test_what_cannot_be_trained_is_refused(data):
    jobs = [MLPJob("a", np.arange(500))]
    for wrong, words in (
        ({"decays": ()}, "one or more"),
        ({"epochs": 0}, "epochs=0"),
        ({"validation": 1.0}, "validation=1.0"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ):
        with pytest.raises(ValueError, match=words):
            fit(data, jobs, MLPSettings(**wrong))
    X, y, clusters = data
    broken = X["a"].copy()
    broken[7, 3] = np.nan
    with pytest.raises(ValueError, match="row 7"):
        fit_mlps(lambda point: torch.from_numpy(broken), y, clusters, jobs)
    with pytest.raises(ValueError, match="width 3"):
        fit(data, jobs, MLPSettings(hidden=4, epochs=1))[0].predict(np.zeros((2, 3)))
