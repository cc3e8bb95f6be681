"""Batched training of the tables against a plain torch loop with autograd, and against the entropy floor."""

import numpy as np
import pytest
import torch

from graticule.sims.contexts import Contexts
from graticule.sims.train import Training, _initial, _Sampler, train
from graticule.sims.world import World


@pytest.fixture(scope="module")
def contexts():
    return [Contexts.complete(World.random(4, seed=s)) for s in range(3)]


def plain(contexts, settings: Training):
    """One run after the other, autograd and torch's own optimisers, on the very samples of `train`."""
    f0, g0 = _initial(contexts, settings)
    draw, done = _Sampler(contexts, settings), 0
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
    learned = train(contexts, settings, progress=False)
    for run, (f, g) in enumerate(plain(contexts, settings)):
        torch.testing.assert_close(learned.f[run], f, rtol=1e-3, atol=2e-5)
        torch.testing.assert_close(learned.g[run], g, rtol=1e-3, atol=2e-5)


def test_large_logits_take_the_safe_route(contexts):
    settings = Training(steps=100, scale=60.0, lr=0.01, log_every=100)
    learned = train(contexts, settings, progress=False)
    for run, (_, g) in enumerate(plain(contexts, settings)):
        assert torch.isfinite(learned.f[run]).all()
        torch.testing.assert_close(learned.g[run], g, rtol=1e-3, atol=1e-4)


def test_the_population_gradient_reaches_the_floor(contexts):
    learned = train(contexts, Training(optimizer="population", steps=4000, log_every=1000), progress=False)
    gap = learned.loss - learned.floor
    assert (gap >= -1e-9).all()
    assert (np.diff(learned.loss, axis=0) < 0).all()
    assert (gap[-1] < 0.02).sum() >= 2, gap[-1]  # one of the three worlds has a long plateau at .1


def test_the_population_gradient_is_autograds(contexts):
    settings = Training(optimizer="population", steps=1, lr=1.0, scale=2.0, log_every=1)
    learned = train(contexts, settings, progress=False)
    f0, g0 = _initial(contexts, settings)
    for run, held in enumerate(contexts):
        f, g = f0[run].double().requires_grad_(), g0[run].double().requires_grad_()
        every = np.arange(held.n)
        joint = torch.from_numpy(held.conditional(every) * held.probabilities[:, None])
        loss = -(joint * torch.log_softmax(f[: held.n] @ g.T, dim=-1)).sum()
        loss.backward()
        torch.testing.assert_close(learned.f[run].double(), (f - f.grad).detach(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(learned.g[run].double(), (g - g.grad).detach(), rtol=1e-4, atol=1e-6)
        assert learned.loss[0, run] == pytest.approx(float(loss.detach()), rel=1e-6)


def test_the_loss_falls_towards_the_floor_and_never_below(contexts):
    learned = train(contexts, Training(steps=12_000, log_every=4000), progress=False)
    assert (learned.loss >= learned.floor - 1e-9).all()
    assert learned.loss[0] == pytest.approx(np.log(16), abs=0.05)  # small weights guess evenly
    assert (learned.loss[-1] < learned.loss[0] - 0.5).all()


def test_same_seed_same_bits_and_runs_do_not_depend_on_each_other(contexts):
    settings = Training(steps=200, log_every=100)
    first, again = train(contexts, settings, progress=False), train(contexts, settings, progress=False)
    assert torch.equal(first.f, again.f) and torch.equal(first.g, again.g)
    alone = train(contexts[:1], settings, progress=False)
    torch.testing.assert_close(alone.f[0], first.f[0], rtol=1e-4, atol=1e-6)


def test_watching_sees_every_point_of_the_curves(contexts):
    seen: list[int] = []
    settings = Training(steps=250, log_every=100)
    learned = train(contexts, settings, watch=lambda step, f, g: seen.append(step), progress=False)
    assert seen == [0, 100, 200, 250] == learned.steps.tolist()


def test_worlds_of_different_shapes_are_refused(contexts):
    with pytest.raises(ValueError, match="same number of values"):
        train([contexts[0], Contexts.complete(World.random(3))])
    with pytest.raises(ValueError, match="one run or more"):
        train([])
