"""Batched training of the tables against a plain torch loop with autograd, and against the entropy floor."""

import sys
from importlib import import_module

import numpy as np
import pytest
import torch
from helpers import as_installed

from graticule.sims.contexts import Contexts
from graticule.sims.training import lookup as module
from graticule.sims.training.lookup import Learned, initial, train_tables
from graticule.sims.training.sampling import Alias, ExactLoss, Pairs, Sampler
from graticule.sims.training.settings import Training
from graticule.sims.world import World
from graticule.sims.worlds import RestrictedWorld


@pytest.fixture(scope="module")
def contexts():
    return [Contexts.complete(World.random(4, seed=s)) for s in range(3)]


def start(contexts, settings):
    f, gt = initial([Pairs(c) for c in contexts], settings)
    return f, gt.transpose(1, 2)


def plain(contexts, settings: Training):
    """One run after the other, autograd and torch's own optimisers, on the very samples of `train`."""
    pairs = [Pairs(c) for c in contexts]
    f0, g0 = start(contexts, settings)
    draw, done = Sampler(pairs, settings.batch, settings.seeds(len(pairs))), 0
    blocks = []
    while done < settings.steps:
        blocks.append(draw(settings.steps - done))
        done += len(blocks[-1][0])
    ids, tokens = (torch.cat([block[k] for block in blocks]) for k in (0, 1))
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    out = []
    for run in range(len(contexts)):
        f, g = f0[run].clone().requires_grad_(), g0[run].clone().requires_grad_()
        optimizer = kinds[settings.optimizer]([f, g], lr=settings.rate, weight_decay=settings.weight_decay)
        for step in range(settings.steps):
            loss = torch.nn.functional.cross_entropy(f[ids[step, run]] @ g.T, tokens[step, run])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        out.append((f.detach(), g.detach()))
    return out


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_batched_training_is_the_plain_loop(contexts, optimizer, weight_decay):
    settings = Training(optimizer=optimizer, steps=300, scale=3.0, weight_decay=weight_decay, log_every=130)
    learned = train_tables(contexts, settings, progress=False)
    for run, (f, g) in enumerate(plain(contexts, settings)):
        torch.testing.assert_close(learned.f[run], f, rtol=1e-3, atol=2e-5)
        torch.testing.assert_close(learned.g[run], g, rtol=1e-3, atol=2e-5)


def test_large_logits_take_the_safe_route(contexts):
    settings = Training(steps=100, scale=60.0, lr=0.01, log_every=100)
    learned = train_tables(contexts, settings, progress=False)
    for run, (_, g) in enumerate(plain(contexts, settings)):
        assert torch.isfinite(learned.f[run]).all()
        torch.testing.assert_close(learned.g[run], g, rtol=1e-3, atol=1e-4)


def test_the_population_gradient_reaches_the_floor(contexts):
    learned = train_tables(
        contexts, Training(optimizer="population", steps=4000, log_every=1000), progress=False
    )
    gap = learned.loss - learned.floor
    assert (gap >= -1e-9).all()
    assert (np.diff(learned.loss, axis=0) < 0).all()
    assert (gap[-1] < 0.02).sum() >= 2, gap[-1]  # one of the three worlds has a long plateau at .1


def test_the_population_gradient_is_autograds(contexts):
    settings = Training(optimizer="population", steps=1, lr=1.0, scale=2.0, log_every=1)
    learned = train_tables(contexts, settings, progress=False)
    f0, g0 = start(contexts, settings)
    for run, held in enumerate(contexts):
        f, g = f0[run].double().requires_grad_(), g0[run].double().requires_grad_()
        every = np.arange(held.n)
        joint = torch.from_numpy(held.conditional(every) * held.probabilities[:, None])
        loss = -(joint * torch.log_softmax(f[: held.n] @ g.T, dim=-1)).sum()
        loss.backward()
        torch.testing.assert_close(learned.f[run].double(), (f - f.grad).detach(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(learned.g[run].double(), (g - g.grad).detach(), rtol=1e-4, atol=1e-6)
        assert learned.loss[0, run] == pytest.approx(float(loss.detach()), rel=1e-6)


@pytest.mark.slow
def test_the_loss_falls_towards_the_floor_and_never_below(contexts):
    learned = train_tables(contexts, Training(steps=4000, lr=0.3, log_every=1000), progress=False)
    assert (learned.loss >= learned.floor - 1e-9).all()
    assert learned.loss[0] == pytest.approx(np.log(16), abs=0.05)  # small weights guess evenly
    assert (learned.loss[-1] < learned.loss[0] - 0.5).all()


def test_same_seed_same_bits_and_runs_do_not_depend_on_each_other(contexts):
    settings = Training(steps=200, log_every=100)
    first, again = (
        train_tables(contexts, settings, progress=False),
        train_tables(contexts, settings, progress=False),
    )
    assert torch.equal(first.f, again.f) and torch.equal(first.g, again.g)
    alone = train_tables(contexts[:1], settings, progress=False)
    torch.testing.assert_close(alone.f[0], first.f[0], rtol=1e-4, atol=1e-6)


def test_watching_sees_every_point_of_the_curves(contexts):
    seen: list[int] = []
    settings = Training(steps=250, log_every=100)
    learned = train_tables(contexts, settings, watch=lambda step, f, g: seen.append(step), progress=False)
    assert seen == [0, 100, 200, 250] == learned.steps.tolist()


def test_worlds_of_different_shapes_are_refused(contexts):
    with pytest.raises(ValueError, match="same number of values"):
        train_tables([contexts[0], Contexts.complete(World.random(3))])
    with pytest.raises(ValueError, match="one run or more"):
        train_tables([])


def test_training_stops_at_the_floor(contexts):
    settings = Training(optimizer="population", lr=2.0, steps=8000, log_every=50, tolerance=0.2)
    learned = train_tables(contexts, settings, progress=False)
    gap = learned.loss - learned.floor
    assert learned.steps[-1] < 8000 and len(learned.steps) == len(learned.loss)
    assert (gap[-1] < 0.2).all() and gap[-2].max() >= 0.2


def test_what_watch_returns_is_kept(contexts):
    settings = Training(steps=120, log_every=50)
    learned = train_tables(
        contexts, settings, watch=lambda step, f, g: (step, float(f.norm())), progress=False
    )
    assert [step for step, _ in learned.watched] == [0, 50, 100, 120]
    assert learned.watched[-1][1] == pytest.approx(float(learned.f.norm()))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "population"])
def test_widths_and_scales_beside_one_another_are_those_runs_alone(contexts, optimizer):
    """Zero-padded columns are never touched, and every run has its own seed."""
    settings = Training(
        optimizer=optimizer, steps=60, log_every=60, dim=(2, 6), scale=(1.0, 5.0), seed=(4, 9)
    )
    both = train_tables(contexts[:2], settings, progress=False)
    assert not both.f[0, :, 2:].any() and not both.g[0, :, 2:].any()
    for run, (dim, scale, seed) in enumerate([(2, 1.0, 4), (6, 5.0, 9)]):
        alone = Training(optimizer=optimizer, steps=60, log_every=60, dim=dim, scale=scale, seed=seed)
        learned = train_tables(contexts[run : run + 1], alone, progress=False)
        torch.testing.assert_close(both.f[run, :, :dim], learned.f[0], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(both.g[run, :, :dim], learned.g[0], rtol=1e-3, atol=1e-5)


def test_a_number_a_run_is_refused_for_other_numbers_of_runs(contexts):
    for settings in (Training(dim=(3, 4)), Training(scale=(1.0,)), Training(seed=(1, 2, 3, 4))):
        with pytest.raises(ValueError, match="for 3 runs; give one, or one per run"):
            train_tables(contexts, settings)


def test_divergence_is_told(contexts):
    with pytest.raises(FloatingPointError, match="lower lr"):
        train_tables(contexts, Training(lr=1e6, scale=50.0, steps=400, log_every=400), progress=False)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "population"])
def test_no_table_that_is_not_finite_is_given_back(contexts, optimizer):
    """In fewer updates than there are between two looks at the logits."""
    with pytest.raises(FloatingPointError, match="lower lr"):
        train_tables(contexts, Training(optimizer=optimizer, lr=1e30, scale=50.0, steps=20), progress=False)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"optimizer": "SGD"}, "one of sgd, adam, population"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"lr": 0.0}, "lr=0"),
        ({"weight_decay": float("nan")}, "weight_decay=nan"),
        ({"steps": -1}, "steps=-1"),
        ({"batch": 0}, "batch=0"),
        ({"log_every": 0}, "log_every=0"),
        ({"dim": 0}, "dim=0"),
        ({"dim": (3, 0)}, "1 or more"),
        ({"scale": float("inf")}, "scale=inf"),
    ],
)
def test_settings_that_cannot_be(wrong, said):
    with as_installed(), pytest.raises(ValueError, match=said):
        Training(**wrong)


def test_the_sparse_route_of_the_population_gradient_is_the_dense_one(contexts, monkeypatch):
    """What many concepts take, whose p(d, c) does not fit as it is."""
    settings = Training(optimizer="population", steps=200, weight_decay=1e-3, log_every=200)
    dense = train_tables(contexts, settings, progress=False)
    monkeypatch.setattr(module, "_DENSE", 0)
    sparse = train_tables(contexts, settings, progress=False)
    torch.testing.assert_close(sparse.f, dense.f, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(sparse.g, dense.g, rtol=1e-4, atol=1e-6)


# Incomplete concept sets ------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def restricted():
    return Contexts.complete(RestrictedWorld.drawn(World.random(4, seed=5), 0.4, seed=2))


def test_a_restricted_world_is_the_world_given_the_set(restricted):
    world = restricted.world
    whole = World(world.graph, world.tables).joint.reshape(-1)
    assert world.allowed.sum() == 6
    np.testing.assert_allclose(
        world.joint.reshape(-1)[world.allowed], whole[world.allowed] / whole[world.allowed].sum()
    )
    drawn = world.token(world.sample(40_000, np.random.default_rng(0)))
    share = np.bincount(drawn, minlength=16) / 40_000
    assert not share[~world.allowed].any()
    np.testing.assert_allclose(share, world.joint.reshape(-1), atol=0.015)


def test_tokens_outside_the_set_are_neither_drawn_nor_guessed(restricted):
    learned = train_tables([restricted], Training(steps=3000, log_every=1000), progress=False)
    assert not learned.g[0][~torch.from_numpy(restricted.world.allowed)].any()
    assert learned.g[0][torch.from_numpy(restricted.world.allowed)].norm(dim=1).min() > 0.1
    assert (learned.loss >= learned.floor - 1e-9).all()
    assert learned.loss[0, 0] == pytest.approx(np.log(6), abs=0.1)  # a softmax over six tokens
    assert learned.loss[-1, 0] - learned.floor[0] < 0.3


def test_the_exact_loss_is_a_sum_over_contexts_and_tokens(restricted, contexts):
    rng = np.random.default_rng(1)
    for held in (restricted, contexts[0], Contexts.drawn(contexts[0].world, 3, seed=1)):
        pairs = Pairs(held)
        f, g = torch.from_numpy(rng.normal(size=(held.n, 3))), torch.from_numpy(rng.normal(size=(16, 3)))
        met = np.flatnonzero(held.probabilities)
        log_p = torch.log_softmax(f[met] @ g[pairs.tokens].T, dim=-1).numpy()
        chances = held.conditional(met)[:, pairs.tokens] * held.probabilities[met, None]
        assert ExactLoss(pairs)(f, g[pairs.tokens]) == pytest.approx(-(chances * log_p).sum(), rel=1e-12)
        np.testing.assert_allclose(pairs.met, held.probabilities, atol=1e-15)


def test_concept_sets_of_several_sizes_are_refused(restricted, contexts):
    with pytest.raises(ValueError, match="runs need one size"):
        train_tables([restricted, contexts[0]])
    with pytest.raises(ValueError, match="above 0 and up to 1"):
        RestrictedWorld.drawn(contexts[0].world, 0.0)
    with pytest.raises(ValueError, match="expected one entry for each of 16"):
        RestrictedWorld(contexts[0].world.graph, contexts[0].world.tables, allowed=np.zeros(16, bool))


# Draws ------------------------------------------------------------------------------------------------
def test_alias_draws_have_the_given_chances():
    chances = np.array([0.5, 0.0, 0.3, 0.15, 0.05])
    drawn = Alias(chances)(np.random.default_rng(0).random(200_000))
    np.testing.assert_allclose(np.bincount(drawn, minlength=5) / 200_000, chances, atol=0.005)
    # exact, not only on average: equal steps through [0, 1) hit every value in proportion
    even = Alias(chances)((np.arange(1_000_000) + 0.5) / 1_000_000)
    np.testing.assert_allclose(np.bincount(even, minlength=5) / 1_000_000, chances, atol=2e-5)


def test_samples_follow_the_joint_of_contexts_and_tokens(contexts):
    held = Contexts.drawn(contexts[0].world, 3, seed=0)
    pairs = Pairs(held)
    sampler = Sampler([pairs], 200, [0])
    counts = np.zeros((held.n, 16))
    for _ in range(4):
        ids, tokens = sampler(256)
        np.add.at(counts, (ids.numpy().ravel(), tokens.numpy().ravel()), 1)
    met = np.flatnonzero(held.probabilities)
    wanted = np.zeros((held.n, 16))
    wanted[met] = held.conditional(met) * held.probabilities[met, None]
    np.testing.assert_allclose(counts / counts.sum(), wanted, atol=0.003)
    assert not counts[wanted == 0].any()


def test_the_old_place_works_and_warns():
    from graticule.sims import train as old

    for name, now in (("train", train_tables), ("Training", Training), ("Learned", Learned)):
        with pytest.warns(
            DeprecationWarning, match=f"sims.train.{name} is the old name of graticule.sims.training"
        ):
            assert getattr(old, name) is now
    with pytest.raises(AttributeError, match="no attribute 'loss'"):
        _ = old.loss


@pytest.mark.parametrize(
    ("room", "module", "name", "now"),
    [
        ("reproductions", "simulate", "simulate", "simulate"),
        ("reproductions", "result", "Simulation", "simulation"),
        ("theorems", "run", "theorems", "theorems"),
        ("theorems", "descent", "margin_descent", "descents"),
        ("theorems", "limits", "margin_checks", "descents"),
        ("theorems", "result", "Check", "tables"),
    ],
)
def test_old_rooms_work_and_warn(room, module, name, now, monkeypatch):
    """By import of the room, of its modules, and of their names."""
    old = f"graticule.sims.{room}"
    for there in [n for n in sys.modules if n == old or n.startswith(f"{old}.")]:
        monkeypatch.delitem(sys.modules, there)
    with pytest.warns(DeprecationWarning, match=f"{old} is the old name of graticule.sims.papers"):
        got = import_module(f"{old}.{module}")
    today = getattr(import_module(f"graticule.sims.papers.{now}"), name)
    assert getattr(got, name) is today
    assert getattr(import_module(old), module) is got  # where a name is a module's too, the module
    assert name == module or getattr(import_module(old), name) is today
    with pytest.raises(AttributeError, match="no attribute 'nothing_such'"):
        _ = import_module(old).nothing_such
