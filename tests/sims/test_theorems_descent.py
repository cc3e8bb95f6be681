"""Theorems 4, 12 and 14: descents against autograd, limits against a solver, invariants step by step."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import as_installed
from scipy.optimize import minimize

from graticule.sims.contexts import Contexts
from graticule.sims.papers.descents import (
    collinear,
    cosine,
    hard_margin,
    margin_checks,
    margin_descent,
    pair_checks,
    pair_descent,
    separation,
    star_checks,
    star_descent,
)
from graticule.sims.papers.oracle import linear_tables
from graticule.sims.world import World


def drawn(seed: int, width: int = 5, pairs: int = 6):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(width), rng.standard_normal(width), rng.standard_normal((pairs, width))


def theorem_4(a, b, start, steps=1000, times=10):
    slow = margin_descent(a, b, start, steps * times, normalised=False)
    return margin_checks(margin_descent(a, b, start, steps), slow)


# Theorem 4 -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(6))
def test_hard_margin_against_a_solver(seed):
    a, b, _ = drawn(seed)
    if seed % 2:
        b = 4 * b - 0.9 * a  # the nearest point is an end of the segment for some of these
    inequality = {"type": "ineq", "fun": lambda w: np.array([w @ a, -w @ b]) - 1}
    solved = minimize(lambda w: w @ w, np.ones(5), constraints=[inequality], tol=1e-14).x
    assert cosine(hard_margin(a, b), solved) == pytest.approx(1, abs=1e-8)
    margin = min(hard_margin(a, b) @ a, -hard_margin(a, b) @ b)
    assert margin / max(np.linalg.norm(a), np.linalg.norm(b)) == pytest.approx(separation(a, b))


def test_an_end_of_the_segment():
    a, b = np.array([1.0, 0.0]), np.array([-3.0, -1.0])
    np.testing.assert_allclose(hard_margin(a, b), [1, 0])


def test_collinear_embeddings_have_no_direction():
    a, b, start = drawn(0)
    for other in (2 * a, a, 0.3 * a, 0 * a):
        with pytest.raises(ValueError, match="do not separate"):
            hard_margin(a, other)
        with pytest.raises(ValueError, match="do not separate"):
            margin_descent(a, other, start)
    with pytest.raises(ValueError, match="do not separate"):
        hard_margin(0 * a, b)
    np.testing.assert_allclose(hard_margin(a, -2 * a), a / np.linalg.norm(a))  # opposite ones do
    assert collinear(a, 2 * a).holds and not collinear(a, b).holds
    assert not collinear(a, a).holds  # a = b is the case that the paper leaves out itself


@pytest.mark.parametrize("normalised", [False, True])
def test_descent_of_the_unembeddings_is_autograds(normalised):
    """Two tables g(c_(i→1)) and g(c_(i→0)), the loss of the paper (or its logarithm, a pair at a time)."""
    a, b, start = drawn(1, pairs=3)
    steps, rate = 40, 0.01
    one = torch.tensor(start, requires_grad=True)
    zero = torch.zeros_like(one, requires_grad=True)
    ta, tb = torch.tensor(a), torch.tensor(b)
    for _ in range(steps):
        delta = one - zero
        terms = torch.exp(-delta @ ta) + torch.exp(delta @ tb)
        loss = torch.log(terms).sum() if normalised else terms.sum()
        grads = torch.autograd.grad(loss, [one, zero])
        with torch.no_grad():
            one -= rate * grads[0]
            zero -= rate * grads[1]
    delta = (one - zero).detach().numpy()
    found = margin_descent(a, b, start, steps, rate, normalised)
    expected = [cosine(row, hard_margin(a, b)) for row in delta]
    np.testing.assert_allclose(found.limit[-1], expected, rtol=1e-10)
    mutual = min(cosine(delta[i], delta[j]) for i in range(3) for j in range(i))
    assert found.mutual[-1] == pytest.approx(mutual, rel=1e-10)
    loss = float((np.exp(-delta @ a) + np.exp(delta @ b)).max())
    assert found.loss[-1] == pytest.approx(np.log(loss), rel=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_theorem_4(seed):
    a, b, start = drawn(seed)
    fast, slow = theorem_4(a, b, start, times=5)
    assert fast.holds and fast.measured < 1e-4 < fast.details["1 − least cosine at the start"]
    assert slow.holds and slow.details["1 − cosine, plain"] > 1e-3
    short, _ = theorem_4(a, b, start, steps=3)
    assert not short.holds  # three steps do not get there
    assert short.undecided and not short.fails  # and are still on their way
    again = margin_descent(a, b, start, 1000)
    assert not margin_checks(again, again)[1].holds  # one descent is not slower than itself


@pytest.mark.parametrize("steps", [1, 3, 60])
def test_a_descent_that_had_not_converged_decides_nothing(steps):
    short = margin_checks(*(margin_descent(*drawn(0), steps) for _ in range(2)))[0]
    assert short.verdict.startswith("Theorem 4: not decided, 1 − cosine")
    assert f"had not converged after {steps:,} steps: give more steps=" in short.verdict


def test_a_descent_that_stays_away_from_the_direction_fails():
    """Another direction in the closed form's place: the cosines stay where they are."""
    a, b, start = drawn(0)
    fast = margin_descent(a, b, start, 1000)
    away = replace(fast, limit=0.9 * fast.limit)
    elsewhere = margin_checks(away, away)[0]
    assert elsewhere.fails and elsewhere.verdict.startswith("Theorem 4: FAILS")


def test_long_descents_do_not_underflow():
    a, b, start = drawn(2)
    found = margin_descent(a, b, start, 3000)
    assert found.loss[-1] < -1000 and np.isfinite(found.limit).all()
    assert (found.steps[0], found.steps[-1]) == (0, 3000)


def test_plain_descent_only_falls_at_its_default_rate():
    for seed in range(4):
        a, b, start = drawn(seed)
        assert (np.diff(margin_descent(a, b, start, 500, normalised=False).loss) < 0).all()


def test_theorem_4_between_the_contexts_that_know_one_concept_alone():
    contexts = Contexts.complete(World.independent(3, seed=1))
    tables = linear_tables(contexts, log_odds=3.0)
    ends = [np.flatnonzero((contexts.vectors == [-1, v, -1]).all(axis=1))[0] for v in (1, 0)]
    fast, _ = theorem_4(tables.f[ends[0]], tables.f[ends[1]], drawn(0, width=3)[2])
    assert fast.holds


def test_a_rate_too_large_is_said():
    a, b, start = drawn(0)
    with pytest.raises(ValueError, match="give a smaller rate"):
        margin_descent(a, b, start, 500, rate=50.0, normalised=False)


def test_widths_must_agree():
    a, b, start = drawn(0)
    with as_installed(), pytest.raises(ValueError, match="one width for all"):
        margin_descent(a, b, start[:, :3])
    with pytest.raises(ValueError, match="one or more"):
        margin_descent(a, b, start, steps=0)


# Theorem 12 ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(6))
def test_theorem_12(seed):
    u, v, _ = drawn(seed)
    checks = pair_checks(pair_descent(u, v))
    assert all(c.holds for c in checks), [c.verdict for c in checks]
    assert checks[0].measured < 1e-13 and checks[1].measured < 1e-13


def test_joint_descent_is_autograds():
    u, v, _ = drawn(3)
    steps, rate = 50, 0.2 / float(np.exp(-u @ v))
    tu, tv = (torch.tensor(x, requires_grad=True) for x in (u, v))
    for _ in range(steps):
        grads = torch.autograd.grad(torch.exp(-(tu @ tv)), [tu, tv])
        with torch.no_grad():
            tu -= rate * grads[0]
            tv -= rate * grads[1]
    found = pair_descent(u, v, steps, rate).curve
    after = tu.detach().numpy(), tv.detach().numpy()
    assert found.limit[-1, 0] == pytest.approx(cosine(*after), rel=1e-10)
    assert found.loss[-1] == pytest.approx(-float(after[0] @ after[1]), rel=1e-10)


def test_theorem_12s_condition_and_what_it_leaves_out():
    u, v, _ = drawn(1)
    for other in (-u, -3 * u, 0 * u):
        with pytest.raises(ValueError, match="leaves this start out"):
            pair_descent(u, other)
    with pytest.raises(ValueError, match="below 1 / L"):
        pair_descent(u, v, rate=1.01 / float(np.exp(-u @ v)))


def test_theorem_12s_checks_can_fail():
    """Vectors trained at two rates: u + v turns and the recursion does not hold."""
    u, v, _ = drawn(4)
    turned, uneven, _ = pair_checks(pair_descent(u, v, 200, ratio=1.001))
    assert not turned.holds and not uneven.holds
    falling = pair_descent(v, v, 200, ratio=3.0)  # from cosine 1 there is nowhere to rise
    assert falling.slowest == pytest.approx(0, abs=1e-15)
    rising = replace(falling, slowest=-1e-9)
    assert not pair_checks(rising)[2].holds


# Theorem 14 ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("pairs", [2, 4, 8])
def test_theorem_14(pairs):
    checks = star_checks(star_descent(pairs, steps=1500))
    assert all(c.holds for c in checks), [c.verdict for c in checks]
    ended = checks[2].details
    assert ended["cos(v_i, v_j) at the end"] > 0.7 and ended["cos(u1 − u2, v_i) at the end"] > 0.8


def test_theorem_14_fails_from_another_start():
    """Unequal lengths and angles: the terms drift apart and the direction turns."""
    rng = np.random.default_rng(0)
    start = rng.standard_normal((2, 6)), rng.standard_normal((4, 6))
    with pytest.raises(ValueError, match="give a smaller rate"):
        star_descent(4, steps=300, rate=3.0, start=start)
    found = star_descent(4, steps=300, rate=0.01, start=start)
    loss, direction, _ = star_checks(found)
    assert not loss.holds and not direction.holds
    longer = star_descent(4, steps=300, embedding_norm=0.3, vector_norm=2.0, width=9)
    assert all(c.holds for c in star_checks(longer))  # these lengths are within the theorem


def test_star_descent_is_autograds():
    rng = np.random.default_rng(1)
    u, v = rng.standard_normal((2, 6)), rng.standard_normal((4, 6))
    tu, tv = (torch.tensor(x, requires_grad=True) for x in (u, v))
    for _ in range(30):
        loss = torch.exp(-(tv @ tu[0])).sum() + torch.exp(tv @ tu[1]).sum()
        grads = torch.autograd.grad(loss, [tu, tv])
        with torch.no_grad():
            tu -= 0.02 * grads[0]
            tv -= 0.02 * grads[1]
    found = star_descent(4, steps=30, rate=0.02, start=(u, v))
    after, rows = tu.detach().numpy(), tv.detach().numpy()
    expected = [cosine(row, after[0] - after[1]) for row in rows]
    np.testing.assert_allclose(found.curve.limit[-1], expected, rtol=1e-10)
    terms = np.exp(-(rows @ after[0])).sum() + np.exp(rows @ after[1]).sum()
    assert found.curve.loss[-1] == pytest.approx(np.log(terms), rel=1e-10)


def test_an_orthogonal_start_needs_room():
    with pytest.raises(ValueError, match="give 10 or more"):
        star_descent(8, width=4)  # four concepts at the paper's width
