"""Directions of planted worlds, whose angles are known, and their chance against real shuffling."""

import numpy as np
import pandas as pd
import pytest

from graticule import Table, sweep
from graticule.hooks.points import PointError
from graticule.probes.directions.angles import noise_fits, point_fits, shuffled
from graticule.probes.directions.directions import directions
from graticule.probes.directions.result import Directions
from graticule.probes.geometry import cosine_matrix, effective_rank
from graticule.probes.linear.ridge_cv import ridge_fit
from graticule.sims.planted import planted

POINT = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def world():
    return planted(n_rows=1000, surface=0.3, hidden=0.5, n_targets=2, n_layers=3)


@pytest.fixture(scope="module")
def findings(world):
    return sweep(world.activations, world.table, baselines=world.baselines, n_bootstrap=50, progress=False)


@pytest.fixture(scope="module")
def found(findings):
    return directions(findings, hook_name=POINT, progress=False)


def second(world, mix):
    """The same rows with a target that is a mixture of the first table's: its angle to them is known."""
    y = world.table.y @ np.array([1.0, mix]) + 0.1 * np.random.default_rng(9).normal(size=len(world.table))
    return sweep(
        world.activations,
        world.table.with_target(y),
        baselines=world.baselines,
        n_bootstrap=50,
        progress=False,
    )


@pytest.mark.slow
def test_cosines_are_those_of_the_probes(findings, found):
    probe = findings.probes[POINT]
    for kind, held in (("read", probe.read_direction), ("write", probe.write_direction)):
        line = found.angles[(found.angles["kind"] == kind) & (found.angles["geometry"] == "euclidean")].iloc[
            0
        ]
        assert line["cosine"] == pytest.approx(cosine_matrix(held, held)[0, 1])
        assert np.cos(np.radians(line["degrees"])) == pytest.approx(line["cosine"])
    other = findings.probes["blocks.2.hook_resid_post"]
    layers = found.layer_cosines.set_index(["concept", "kind", "point_a", "point_b"])["cosine"]
    across = layers[findings.target_names[1], "write", POINT, "blocks.2.hook_resid_post"]
    expected = cosine_matrix(probe.write_direction, other.write_direction)[1, 1]
    assert across == pytest.approx(expected)
    assert np.allclose(layers.xs(POINT, level=2).xs(POINT, level=2), 1)


@pytest.mark.slow
def test_whitened_reads_are_what_readings_share(findings, found):
    """⟨a, b⟩ = aᵀ Σ b: the cosine is the correlation of the two probes' readings of the training rows."""
    swept = findings.inputs
    read = findings.probes[POINT].predict(swept.rows(POINT, swept.problem.train))
    line = found.angles[(found.angles["kind"] == "read") & (found.angles["geometry"] == "whitened")].iloc[0]
    assert line["cosine"] == pytest.approx(np.corrcoef(read.T)[0, 1], abs=1e-6)
    own = found.alone[found.alone["geometry"] == "whitened"]
    assert (own["read_write"] > 0.97).all()  # at no shrinkage and one target the two are one, whitened


@pytest.mark.slow
def test_concepts_that_share_are_told_from_those_that_do_not(world, findings):
    found = directions(findings, second(world, 1.0), hook_name=POINT, progress=False)
    assert len(set(found.concepts)) == 3
    held = found.angles[found.angles["geometry"] == "whitened"].set_index(["kind", "a", "b"])
    mixture = found.concepts[2]
    for kind in ("read", "write"):
        for own in found.concepts[:2]:
            line = held.loc[(kind, own, mixture)]
            assert line["p_bh"] < 0.001
            assert line["cosine"] > line["level"]
            assert not line["same_table"]
    assert held.loc[("write", *found.concepts[:2]), "same_table"]
    assert held.loc[("write", *found.concepts[:2]), "p"] > 0.01
    together = found.ranks[found.ranks["set"].str.startswith("2 tables")]
    assert (together["targets"] == 3).all()
    assert (together["effective_rank"] < 2.7).all()  # the third lies in the plane of the two


@pytest.mark.slow
def test_chance_is_that_of_targets_really_shuffled(findings):
    """The covariances behind p, and p itself, against 400 shuffled targets that are really fitted."""
    swept = findings.inputs
    train = swept.problem.train
    X, y = swept.rows(POINT, train), swept.problem.y[train]
    alpha = findings.probes[POINT].alpha
    fits = point_fits(X, y, swept.problem.clusters[train], alpha, 0)
    drawn = noise_fits(X, shuffled(y[:, :1], 400, np.random.default_rng(0)), alpha)
    from graticule.probes.geometry import RandomVectors

    for kind, held in zip(("read", "write"), drawn, strict=True):
        spread = fits.noise_read if kind == "read" else fits.covariance
        sample = held @ held.T
        scale = np.trace(spread) / np.trace(sample)
        assert np.linalg.norm(sample * scale - spread) < 0.25 * np.linalg.norm(spread)
        direction = getattr(findings.probes[POINT], f"{kind}_direction")[:, 1]
        cosines = cosine_matrix(held, direction[:, None])[:, 0]
        p = RandomVectors.of(spread).tail(cosines, direction)
        for share in (0.1, 0.5, 0.9):
            assert (p < share).mean() == pytest.approx(share, abs=0.09)


@pytest.mark.slow
def test_closed_form_fits_are_the_solvers(findings):
    swept = findings.inputs
    train = swept.problem.train
    X, y = swept.rows(POINT, train), swept.problem.y[train]
    weights = ridge_fit(X, y, 7.0)
    read = noise_fits(X, (y - y.mean(0)) / y.std(0), 7.0)[0] * y.std(0)
    assert np.allclose(read, weights.coef)
    clusters = swept.problem.clusters[train]
    halves = point_fits(X, y, clusters, 14.0, 3).halves
    labels = np.unique(clusters)
    side = np.isin(clusters, labels[np.random.default_rng(3).permutation(len(labels)) < len(labels) / 2])
    for half, (one, two) in zip((side, ~side), halves, strict=True):
        own = ridge_fit(X[half], y[half], 7.0)
        assert np.allclose(one * y[half].std(0), own.coef)
        assert np.allclose(two / y[half].std(0), own.write)


@pytest.mark.slow
def test_rank_is_that_of_the_stack(world):
    """Four targets that are mixtures of two: their directions span a plane, shuffled ones do not."""
    rng = np.random.default_rng(2)
    y = world.table.y @ rng.normal(size=(2, 4)) + 0.02 * rng.normal(size=(len(world.table), 4))
    table = world.table.with_target(y)
    findings = sweep(world.activations, table, baselines=world.baselines, n_bootstrap=50, progress=False)
    found = directions(findings, hook_name=POINT, progress=False)
    held = found.ranks[(found.ranks["point"] == POINT) & (found.ranks["kind"] == "read")].iloc[0]
    weights = findings.probes[POINT].weights
    values = np.linalg.svd(weights.coef / weights.y_scale, compute_uv=False)
    assert held["effective_rank"] == pytest.approx(effective_rank(values))
    assert held["effective_rank"] < 2.6
    shares = found.singular[(found.singular["point"] == POINT) & (found.singular["kind"] == "read")]["value"]
    assert np.allclose(shares, values / values.sum())


@pytest.mark.slow
def test_many_concepts_make_a_grid(world):
    labels = pd.qcut(world.table.y[:, 0], 7, labels=list("abcdefg"))
    frame = world.table.frame.assign(label=np.asarray(labels, dtype=object))
    table = Table(frame, text="text", target="label", split="is_test", name="labels")
    acts = world.activations.select(points=POINT)
    found = directions(
        sweep(acts, table, baselines=world.baselines, n_bootstrap=50, progress=False), progress=False
    )
    assert len(found.angles) == 2 * 2 * 21
    assert found.ranks["effective_rank"].max() <= 6.01  # indicators sum to one
    assert "one layer only" in found.summary()
    assert len(found.figures()) == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hooked", "bridge"])
def test_with_a_model_the_causal_product_too(load_tiny, names, kind, tmp_path):
    from graticule import capture
    from graticule.probes.geometry import causal, unembedding_covariance

    model = load_tiny("llama", kind)
    distinct = list(dict.fromkeys(names))
    rng = np.random.default_rng(0)
    y = np.stack([[float(len(n)) for n in distinct], rng.normal(size=len(distinct))], axis=1)
    table = Table(
        pd.DataFrame({"name": distinct, "a": y[:, 0], "b": y[:, 1]}), text="name", target=["a", "b"]
    )
    findings = sweep(capture(model, distinct), table, n_bootstrap=50, progress=False)
    found = directions(findings, model=model, progress=False)
    assert found.geometries == ("euclidean", "whitened", "causal")
    metric, probe = causal(unembedding_covariance(model)), findings.probe
    for side, held in (("read", probe.read_direction), ("write", probe.write_direction)):
        line = found.angles[(found.angles["kind"] == side) & (found.angles["geometry"] == "causal")].iloc[0]
        seen = metric.of(side) @ held
        assert line["cosine"] == pytest.approx(cosine_matrix(seen, seen)[0, 1])
    found.save(tmp_path / "directions")
    back = Directions.load(tmp_path / "directions")
    assert back.summary() == found.summary()
    assert back.to_json() == found.to_json()
    for caption, figure in found.figures().items():
        assert back.figures()[caption].to_json() == figure.to_json()
    assert "give model=" not in found.summary()


@pytest.mark.slow
def test_what_does_not_fit_is_refused(findings, found):
    with pytest.raises(PointError, match="was not swept"):
        directions(findings, hook_name="blocks.9.hook_resid_post")
    from dataclasses import replace

    with pytest.raises(ValueError, match="different models"):
        directions(findings, replace(findings, model="another"))
    with pytest.raises(ValueError, match="without their activations"):
        directions(replace(findings, swept=None))
    assert "give model=" in found.summary()
