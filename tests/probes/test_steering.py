"""Mean cosines of sets of steering vectors against loops over pairs, and what a change of basis leaves."""

import itertools

import numpy as np
import pytest
from helpers import as_installed

from graticule.probes.geometry import causal, covariance, whitened
from graticule.probes.steering import (
    gauge_free,
    mean_cosines,
    mean_log_odds,
    random_pairs,
    shuffled_pairs,
    units,
    usable,
)


@pytest.fixture(scope="module")
def sets():
    rng = np.random.default_rng(0)
    return [rng.normal(size=(n, 6)) + rng.normal(size=6) for n in (2, 5, 9)]


@pytest.fixture(scope="module")
def metric():
    rng = np.random.default_rng(1)
    return causal(covariance(rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6))))


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def by_pairs(a, b, same: bool) -> float:
    """Mean over pairs, one at a time; a vector is not paired with itself where `same`."""
    pairs = [(i, j) for i, j in itertools.product(range(len(a)), range(len(b))) if not (same and i == j)]
    return float(np.mean([cosine(a[i], b[j]) for i, j in pairs]))


@pytest.mark.parametrize("self_pairs", [False, True])
def test_a_set_against_itself_is_the_mean_over_pairs(sets, self_pairs):
    got = mean_cosines(sets, self_pairs=self_pairs)
    for i, j in itertools.product(range(3), range(3)):
        wanted = by_pairs(sets[i], sets[j], same=i == j and not self_pairs)
        assert got[i, j] == pytest.approx(wanted, abs=1e-12)


def test_two_kinds_under_one_inner_product(sets, metric):
    """Reads are mapped by one factor, writes by its inverse transpose."""
    got = mean_cosines(sets[:2], sets[1:], metric, "read", column_kind="write")
    reads, writes = [v @ metric.read.T for v in sets[:2]], [v @ metric.write.T for v in sets[1:]]
    for i, j in itertools.product(range(2), range(2)):
        assert got[i, j] == pytest.approx(by_pairs(reads[i], writes[j], same=False), abs=1e-12)


def test_zero_vectors_are_left_out_and_counted(sets):
    holed = [np.concatenate([sets[0], np.zeros((3, 6))]), np.zeros((4, 6)), sets[1][:1]]
    assert usable(holed).tolist() == [2, 0, 1]
    got = mean_cosines(holed)
    assert got[0, 0] == pytest.approx(by_pairs(sets[0], sets[0], same=True))
    assert np.isnan(got[1]).all() and np.isnan(got[2, 2])  # no direction; a single vector has no pair
    assert got[0, 2] == pytest.approx(by_pairs(sets[0], sets[1][:1], same=False))
    assert mean_cosines(holed, self_pairs=True)[2, 2] == pytest.approx(1)
    assert mean_cosines([], []).shape == (0, 0)


def test_units_have_length_one_and_differing_widths_are_refused(sets, metric):
    np.testing.assert_allclose(np.linalg.norm(units(sets[2], metric, "write"), axis=1), 1)
    with pytest.raises(ValueError, match="different widths"):
        mean_cosines([sets[0], sets[1][:, :4]])
    with pytest.raises(ValueError, match="directions are 'read' or 'write'"):
        mean_cosines(sets, metric=metric, kind="sideways")


def test_a_change_of_basis_alters_cosines_and_nothing_gauge_free(sets):
    rng = np.random.default_rng(2)
    a = rng.normal(size=(6, 6))
    read, write = sets[1], sets[2]
    before, after = gauge_free(read, write), gauge_free(read @ a.T, write @ np.linalg.inv(a))
    assert before.rank == after.rank == 5
    for name in ("mean", "positive", "first", "effective"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), rel=1e-9)
    np.testing.assert_allclose(
        mean_log_odds([read @ a.T], [write @ np.linalg.inv(a)]), mean_log_odds([read], [write])
    )
    assert abs(mean_cosines([read @ a.T])[0, 0] - mean_cosines([read])[0, 0]) > 0.01


def test_causal_cosines_of_a_whole_table_do_not_depend_on_the_basis():
    """Cov(γ) changes with the table, so the causal inner product undoes the change."""
    rng = np.random.default_rng(3)
    table, a = rng.normal(size=(40, 6)), rng.normal(size=(6, 6))
    found = [
        mean_cosines([g[1:9] - g[0], g[20:24] - g[30:34]], metric=causal(covariance(g)))
        for g in (table, table @ a.T)
    ]
    np.testing.assert_allclose(found[0], found[1], atol=1e-9)


def test_parallel_vectors_make_the_log_odds_of_rank_one():
    rng = np.random.default_rng(4)
    parallel = np.outer(rng.uniform(1, 2, 7), [1.0, 2.0, -1.0])
    found = gauge_free(parallel, rng.normal(size=(5, 3)))
    assert found.rank == 1
    assert found.first == pytest.approx(1) and found.effective == pytest.approx(1, abs=1e-6)
    spread = gauge_free(rng.normal(size=(7, 3)), rng.normal(size=(5, 3)))
    assert spread.rank == 3 and spread.effective > 1.5
    with pytest.raises(ValueError, match="one or more of each"):
        gauge_free(parallel[:0], parallel)


def test_log_odds_of_sets_are_means_of_dot_products(sets):
    got = mean_log_odds(sets, [sets[2], sets[0][:0]])
    assert got[1, 0] == pytest.approx(np.mean([a @ b for a in sets[1] for b in sets[2]]))
    assert np.isnan(got[:, 1]).all()


def test_nulls_keep_the_group_and_lose_the_pairing():
    """Counterfactual pairs share all but the concept; shuffled pairs do not, random ones less still."""
    rng = np.random.default_rng(5)
    starts = rng.normal(size=(30, 50))
    ends = starts + rng.normal(size=50) * 0.3
    observed = mean_cosines([ends - starts])[0, 0]
    shuffled = shuffled_pairs(starts, ends, n_random=100, seed=1)
    random = random_pairs(np.concatenate([starts, ends]), 30, n_random=100, seed=1)
    assert observed == pytest.approx(1)
    assert shuffled.max() < 0.3 and abs(random.mean()) < 0.02
    assert shuffled.mean() > random.mean()
    np.testing.assert_array_equal(shuffled, shuffled_pairs(starts, ends, n_random=100, seed=1))


def test_nulls_go_through_the_inner_product():
    rng = np.random.default_rng(6)
    table = rng.normal(size=(60, 4)) * [20.0, 1.0, 1.0, 1.0] + rng.exponential(size=(60, 1)) * [20, 1, 0, 0]
    starts, ends = table[:20], table[20:40]
    white = whitened(np.linalg.inv(covariance(table)))
    euclid, mapped = shuffled_pairs(starts, ends), shuffled_pairs(starts, ends, metric=white)
    flat = table @ white.read.T
    np.testing.assert_allclose(mapped, shuffled_pairs(flat[:20], flat[20:40]), atol=1e-12)
    assert not np.allclose(euclid, mapped, atol=1e-3)
    with as_installed(), pytest.raises(ValueError, match="a pair has one of each"):
        shuffled_pairs(starts, ends[:3])
    with pytest.raises(ValueError, match="has no pairs"):
        random_pairs(table[:1], 3)
