"""Optimal readers, true write directions and truth tables against brute force and planted answers."""

import networkx as nx
import numpy as np
import pytest
import torch
from helpers import as_installed

from graticule import capture
from graticule.probes.linear.ridge_cv import ridge_fit
from graticule.sims.contexts import UNKNOWN, Contexts
from graticule.sims.learners import lookup_model
from graticule.sims.truth.optimal import (
    context_rows,
    optimal_reader,
    parity,
    partners,
    target_names,
    truth_table,
    write_directions,
)
from graticule.sims.world import World
from graticule.sims.worlds import smooth_world


@pytest.fixture(scope="module")
def contexts():
    return Contexts.complete(World.random(4, seed=3))


@pytest.fixture(scope="module")
def posterior(contexts):
    return contexts.posterior(np.arange(contexts.n))[:, :, 1]


# Truth tables ----------------------------------------------------------------------------------------
def test_truth_of_the_lookup_learners_rows(contexts, posterior):
    """Captured from the model, its rows stand beside their truth, repeated and in any order."""
    ids = np.random.default_rng(0).integers(0, contexts.n, 200)
    f, g = torch.randn(contexts.n, 5, generator=torch.manual_seed(0)), torch.zeros(16, 5)
    rows = truth_table(contexts.world, contexts.vectors[ids])
    acts = capture(lookup_model(f, g), [[int(i)] for i in ids], prepend_bos=False, rows=rows, progress=False)
    torch.testing.assert_close(acts["resid_post", 0], f[ids])
    names = [target_names(contexts.world, i)[0] for i in range(4)]
    np.testing.assert_allclose(acts.rows[names], posterior[ids], atol=1e-12)
    np.testing.assert_array_equal(acts.rows["n_known"], (contexts.vectors[ids] != UNKNOWN).sum(axis=1))
    p = contexts.conditional(ids)
    np.testing.assert_allclose(rows["floor"], -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(1))


def test_expected_places_on_a_line_and_a_circle():
    graph = nx.DiGraph([(0, 1), (0, 2), (1, 3)])
    world = smooth_world(graph, (2, 12, 8, 3), {1: "cyclic", 2: "ordered"}, seed=0)
    known = np.array([[UNKNOWN] * 4, [1, UNKNOWN, UNKNOWN, 2], [0, 3, 4, UNKNOWN]])
    table = truth_table(world, known)
    assert target_names(world, 1) == ["expected_1_0", "expected_1_1"] and target_names(world, 2) == [
        "expected_2"
    ]
    np.testing.assert_allclose(
        table.loc[2, ["expected_1_0", "expected_1_1"]], [0, 1], atol=1e-12
    )  # told: 3 of 12
    assert table.loc[2, "expected_2"] == pytest.approx(4 / 7)
    p = world.joint[1, :, :, 2].sum(axis=1) / world.joint[1, :, :, 2].sum()
    angle = 2 * np.pi * np.arange(12) / 12
    np.testing.assert_allclose(
        table.loc[1, ["expected_1_0", "expected_1_1"]], [p @ np.cos(angle), p @ np.sin(angle)]
    )
    line = world.joint.sum(axis=(0, 1, 3))
    assert table.loc[0, "expected_2"] == pytest.approx(line @ np.arange(8) / 7)
    np.testing.assert_allclose(table[target_names(world, 3)].sum(axis=1), 1)


# Optimal readers -------------------------------------------------------------------------------------
def test_optimal_reader_is_the_limit_of_ridge(contexts, posterior):
    """Weights as probabilities: ridge without a penalty on rows drawn that often comes to it."""
    rng = np.random.default_rng(0)
    x = posterior @ rng.normal(size=(4, 7)) + 0.3 * rng.normal(size=(contexts.n, 7))
    best = optimal_reader(x, posterior, contexts.probabilities)
    drawn = rng.choice(contexts.n, 60_000, p=contexts.probabilities)
    fit = ridge_fit(x[drawn], posterior[drawn], alpha=1e-9)
    assert np.abs(fit.coef - best.coef).max() < 0.02 * np.abs(best.coef).max()
    assert np.abs(fit.write - best.write).max() < 0.02 * np.abs(best.write).max()
    np.testing.assert_allclose(best.predict(x[drawn]).mean(axis=0), posterior[drawn].mean(axis=0), atol=0.005)
    # nothing linear does better in expectation
    error = contexts.probabilities @ (best.predict(x) - posterior) ** 2
    for _ in range(20):
        other = x @ (best.coef + 0.01 * rng.normal(size=best.coef.shape)) + best.intercept
        assert (contexts.probabilities @ (other - posterior) ** 2 > error).all()
    spread = contexts.probabilities @ (posterior - contexts.probabilities @ posterior) ** 2
    np.testing.assert_allclose(best.r2, 1 - error / spread)


def test_reader_of_dead_directions_and_constant_targets(contexts, posterior):
    x = np.concatenate([posterior, posterior[:, :1] * 0, posterior[:, :1] + posterior[:, 1:2]], axis=1)
    targets = np.concatenate([posterior, np.full((contexts.n, 1), 0.25)], axis=1)
    best = optimal_reader(x, targets)
    np.testing.assert_allclose(best.r2[:4], 1, atol=1e-9)
    assert np.isnan(best.r2[4]) and np.abs(best.coef).max() < 2


# Write directions ------------------------------------------------------------------------------------
def test_steering_vectors_of_a_cube(contexts):
    """Activations that add a vector a known concept: the write directions are those vectors' differences."""
    rng = np.random.default_rng(1)
    one, zero = rng.normal(size=(4, 6)), rng.normal(size=(4, 6))
    known = contexts.vectors
    x = (known == 1) @ one + (known == 0) @ zero
    np.testing.assert_allclose(write_directions(x, known), (one - zero).T)
    found = write_directions(x, known, [2, 0], normalised=True, weights=contexts.probabilities)
    units = (one - zero) / np.linalg.norm(one - zero, axis=1, keepdims=True)
    np.testing.assert_allclose(found, units[[2, 0]].T)
    for i in range(4):
        pair = partners(known, i)
        assert len(pair.low) == 27 and (known[pair.low, i] == 0).all() and (known[pair.high, i] == 1).all()
        assert ((known[pair.low] != known[pair.high]).sum(axis=1) == 1).all()


def test_pairs_count_by_their_probability(contexts):
    """Against the mean over pairs, one by one."""
    rng = np.random.default_rng(2)
    x, known, p = rng.normal(size=(contexts.n, 3)), contexts.vectors, contexts.probabilities
    number = {tuple(v): i for i, v in enumerate(known)}
    total, weight = np.zeros(3), 0.0
    for v in known[known[:, 1] == 0]:
        low, high = number[tuple(v)], number[(v[0], 1, *v[2:])]
        total += (p[low] + p[high]) * (x[high] - x[low])
        weight += p[low] + p[high]
    np.testing.assert_allclose(write_directions(x, known, [1], weights=p)[:, 0], total / weight)


def test_rows_of_one_context_need_more_to_tell_them_apart(contexts):
    known = np.repeat(contexts.vectors, 2, axis=0)
    x = np.random.default_rng(0).normal(size=(len(known), 2))
    with pytest.raises(ValueError, match="not told apart"):
        write_directions(x, known)
    which = np.tile([0, 1], contexts.n)[:, None]
    both = [write_directions(x[k::2], contexts.vectors) for k in (0, 1)]
    np.testing.assert_allclose(write_directions(x, known, same=which), np.mean(both, axis=0))
    alone = write_directions(x[:1], known[:1])
    assert np.isnan(alone).all()  # no partner


# Contexts and functions of two concepts --------------------------------------------------------------
def test_contexts_of_rows(contexts):
    ids = np.array([3, 3, 40, 2, 40])
    found, rows, complete = context_rows(contexts.vectors[ids])
    np.testing.assert_array_equal(found[rows], contexts.vectors[ids])
    assert len(found) == 3 and complete.sum() == 2


def test_parity_is_in_no_concept(contexts):
    got = parity(contexts.world, contexts.vectors, (0, 2))
    joint = contexts.world.joint.reshape(-1)
    v = contexts.world.vectors
    for known, value in zip(contexts.vectors, got, strict=True):
        agree = ((known == UNKNOWN) | (known == v)).all(axis=1)
        assert value == pytest.approx(joint[agree & (v[:, 0] != v[:, 2])].sum() / joint[agree].sum())
    even = Contexts.complete(World.independent(2, seed=0)).world
    even = World(even.graph, (np.full(2, 0.5), np.full(2, 0.5)))
    every = Contexts.complete(even)
    posteriors = every.posterior(np.arange(every.n))[:, :, 1]
    assert (
        optimal_reader(posteriors, parity(even, every.vectors, (0, 1))[:, None], every.probabilities).r2[0]
        < 1e-12
    )
    with pytest.raises(ValueError, match="two different ones"):
        parity(contexts.world, contexts.vectors, (1, 1))
    with as_installed(), pytest.raises(ValueError, match="one each"):
        optimal_reader(posteriors, posteriors[:3])
