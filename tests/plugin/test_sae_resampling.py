"""Resampling against a re-implementation in numpy, from the paper's words."""

from typing import Any

import numpy as np
import pytest
import torch
from sae_lens.registry import get_sae_training_class

import graticule.saes.architectures  # noqa: F401 registers `bricken`
from graticule.saes.resampling import Resampler, ResamplingConfig, sae_row_losses
from graticule.saes.steps.fast import fast_step, make_optimizer

D_IN, D_SAE, ROWS = 8, 24, 400
NOTHING = torch.zeros(D_SAE)


def trained(architecture: str = "bricken", steps: int = 5, **more: Any) -> tuple[Any, Any]:
    """An SAE and its optimiser after a few steps, so that Adam remembers something of every entry."""
    torch.manual_seed(0)
    cls, config = get_sae_training_class(architecture)
    sae: Any = cls(config(d_in=D_IN, d_sae=D_SAE, **more))
    optimizer = make_optimizer(sae, 1e-2)
    coefficients = {n: float(getattr(v, "value", v)) for n, v in sae.get_coefficients().items()}
    step = fast_step(sae)
    for i in range(steps):
        step(rows_of(64, seed=i), NOTHING, coefficients)
        for parameter in sae.parameters():
            parameter.grad += 1e-3  # so that dead latents have moments too
        optimizer.step()
    return sae, optimizer


def rows_of(count: int = ROWS, seed: int = 100) -> torch.Tensor:
    return torch.randn(count, D_IN, generator=torch.Generator().manual_seed(seed)) + 0.5


def alive_but(dead: list[int]) -> torch.Tensor:
    fired = torch.ones(D_SAE)
    fired[dead] = 0
    return fired


def weights(sae: Any) -> dict[str, np.ndarray]:
    return {name: value.detach().double().numpy().copy() for name, value in sae.named_parameters()}


def moments(sae: Any, optimizer: Any) -> dict[str, np.ndarray]:
    return {
        f"{name} {kind}": optimizer.state[value][kind].double().numpy().copy()
        for name, value in sae.named_parameters()
        for kind in ("exp_avg", "exp_avg_sq")
    }


def by_hand(w: dict[str, np.ndarray], x: np.ndarray, dead: list[int], l1: float, u: np.ndarray) -> Any:
    """The paper's steps 2 to 5 in numpy; `u` are the uniform draws."""
    acts = np.maximum((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"], 0)
    loss = ((acts @ w["W_dec"] + w["b_dec"] - x) ** 2).mean(1) + l1 * np.abs(acts).sum(1)
    chance = loss**2 / (loss**2).sum()
    chosen = [int(np.argmax(np.cumsum(chance) > draw)) for draw in u]
    alive = [i for i in range(D_SAE) if i not in dead]
    norm = 0.2 * np.mean([np.linalg.norm(w["W_enc"][:, i]) for i in alive])
    new = {name: value.copy() for name, value in w.items()}
    for latent, row in zip(dead, chosen, strict=True):
        direction = x[row] / np.linalg.norm(x[row])
        new["W_dec"][latent] = direction
        new["W_enc"][:, latent] = norm * direction
        new["b_enc"][latent] = 0
    return new, chosen, loss, norm


@pytest.mark.parametrize("dead", [[2, 7, 19], list(range(12))])
def test_against_numpy(dead):
    sae, optimizer = trained(l1_coefficient=0.03)
    resampler = Resampler(ResamplingConfig(steps=(40,), window=30, batch_size=64, seed=5))
    resampler.observe(10, torch.ones(D_SAE))
    for step in range(11, 41):
        resampler.observe(step, alive_but(dead))
    before, remembered = weights(sae), moments(sae, optimizer)
    x = rows_of()
    assert resampler.due(40) and not resampler.due(39)
    record = resampler.resample(sae, optimizer, x, 40)

    draws = torch.rand(
        len(dead), generator=torch.Generator().manual_seed(5 * 1_000_003 + 40), dtype=torch.float64
    )
    expected, chosen, loss, norm = by_hand(before, x.double().numpy(), dead, 0.03, draws.numpy())
    after = weights(sae)
    for name, value in expected.items():
        assert np.allclose(after[name], value, atol=1e-6), name
        untouched = before[name] == value
        assert np.array_equal(after[name][untouched], before[name][untouched]), name
    assert record.latents == tuple(dead)
    assert record.inputs == tuple(chosen)
    assert record.dead_before == len(dead)
    assert record.sample_size == ROWS
    assert record.mean_loss == pytest.approx(loss.mean(), rel=1e-5)
    assert record.encoder_norm == pytest.approx(norm, rel=1e-5)

    keep = np.ones(D_SAE, bool)
    keep[dead] = False
    for name, value in moments(sae, optimizer).items():
        old = remembered[name]
        if name.startswith("b_dec"):
            assert np.array_equal(value, old), name
            continue
        by_latent, old = (value.T, old.T) if name.startswith("W_enc") else (value, old)
        assert np.all(by_latent[dead] == 0), name
        assert np.any(old[dead] != 0), name
        assert np.array_equal(by_latent[keep], old[keep]), name


def test_rows_are_drawn_by_squared_loss():
    sae, _ = trained()
    x = rows_of(6)
    x[0] *= 3.0
    loss = sae_row_losses(sae, x).double().numpy()
    counts = np.zeros(6)
    resampler = Resampler()
    for step in range(2000):
        drawn = resampler._draw(torch.from_numpy(loss), 5, step)
        counts += np.bincount(drawn.numpy(), minlength=6)
    share = loss**2 / (loss**2).sum()
    spread = np.sqrt(share * (1 - share) / counts.sum())
    assert np.all(np.abs(counts / counts.sum() - share) < 4.5 * spread)
    assert not np.all(np.abs(counts / counts.sum() - loss / loss.sum()) < 4.5 * spread)


def test_dead_means_silent_for_the_whole_window():
    resampler = Resampler(ResamplingConfig(steps=(10,), window=4))
    last_fired = {0: 10, 1: 7, 2: 6, 3: 1}  # and the others never
    for step in range(1, 11):
        fired = torch.zeros(D_SAE)
        for latent, last in last_fired.items():
            fired[latent] = step <= last
        resampler.observe(step, fired)
    dead = resampler.dead(10)
    assert not bool(dead[0]) and not bool(dead[1])  # step 7 is one of the last four
    assert bool(dead[2:].all())


def test_before_a_whole_window_only_latents_that_never_fired_are_dead():
    resampler = Resampler(ResamplingConfig(steps=(3,), window=100))
    resampler.observe(1, alive_but([4]))
    resampler.observe(2, torch.zeros(D_SAE))
    assert resampler.dead(2).nonzero().flatten().tolist() == [4]


def test_a_resampled_latent_has_a_window_to_fire_in():
    sae, optimizer = trained()
    resampler = Resampler(ResamplingConfig(steps=(4, 5, 9), window=4))
    resampler.observe(4, alive_but([1]))
    assert resampler.resample(sae, optimizer, rows_of(), 4).latents == (1,)
    resampler.observe(5, alive_but([1]))
    assert resampler.resample(sae, optimizer, rows_of(), 5).dead_before == 0
    for step in (6, 7, 8):
        resampler.observe(step, alive_but([1]))
    assert resampler.resample(sae, optimizer, rows_of(), 8).latents == (1,)


def test_nothing_dead_changes_nothing():
    sae, optimizer = trained()
    before, remembered = weights(sae), moments(sae, optimizer)
    resampler = Resampler()
    resampler.observe(1, torch.ones(D_SAE))
    record = resampler.resample(sae, optimizer, rows_of(), 1)
    assert record.dead_before == 0 and record.latents == ()
    assert all(np.array_equal(value, before[name]) for name, value in weights(sae).items())
    assert all(np.array_equal(value, remembered[name]) for name, value in moments(sae, optimizer).items())


@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu", "gated"])
def test_other_architectures(architecture):
    sae, optimizer = trained(architecture, **({"k": 3} if architecture == "topk" else {}))
    with torch.no_grad():
        for name in ("b_enc", "b_gate", "b_mag", "r_mag", "threshold"):
            if isinstance(getattr(sae, name, None), torch.nn.Parameter):
                getattr(sae, name).fill_(0.7)
    resampler = Resampler(ResamplingConfig(subtract_bias=True))
    resampler.observe(1, alive_but([3, 5]))
    x = rows_of()
    record = resampler.resample(sae, optimizer, x, 1)
    direction = x[list(record.inputs)] - sae.b_dec
    direction = direction / direction.norm(dim=1, keepdim=True)
    assert torch.allclose(sae.W_dec[[3, 5]], direction, atol=1e-6)
    for name in ("b_enc", "b_gate", "b_mag", "r_mag", "threshold"):
        if isinstance(parameter := getattr(sae, name, None), torch.nn.Parameter):
            start = sae.cfg.jumprelu_init_threshold if name == "threshold" else 0.0
            assert torch.allclose(parameter[[3, 5]], torch.tensor(start)), name
            assert float(parameter.detach()[4]) == pytest.approx(0.7)
            assert not optimizer.state[parameter]["exp_avg"][[3, 5]].any()


def test_losses_of_standard_are_saelens_losses():
    sae, _ = trained("standard", l1_coefficient=0.4)
    x = rows_of(30)
    losses = sae_row_losses(sae, x, batch_size=7, coefficients={"l1": 0.1})
    from sae_lens.saes.sae import TrainStepInput

    for i in range(30):
        made = sae.training_forward_pass(TrainStepInput(x[i : i + 1], {"l1": 0.1}, None, 0, False))
        assert float(losses[i]) == pytest.approx(float(made.loss.detach()), rel=1e-5)


@pytest.mark.slow
def test_it_revives_latents():
    """On inputs with more directions than living latents, the dead ones fire again and the error falls."""
    torch.manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(D_SAE, D_IN), dim=1)

    def draw(seed: int, count: int = 128) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        on = torch.rand(count, D_SAE, generator=generator) < 0.08
        return (on * torch.rand(count, D_SAE, generator=generator)) @ directions

    cls, config = get_sae_training_class("bricken")

    def train(steps: tuple[int, ...]) -> tuple[Resampler, float, int]:
        torch.manual_seed(0)
        sae: Any = cls(config(d_in=D_IN, d_sae=D_SAE, l1_coefficient=0.002))
        with torch.no_grad():
            sae.b_enc[: D_SAE // 2] = -50.0  # half of them can never fire
        optimizer = make_optimizer(sae, 3e-3)
        resampler, step = Resampler(ResamplingConfig(steps=steps, window=40)), fast_step(sae)
        out: Any = None
        for i in range(1, 241):
            out = step(draw(i), NOTHING, {"l1": 0.002})
            optimizer.step()
            resampler.observe(i, out.fired)
            if resampler.due(i):
                resampler.resample(sae, optimizer, draw(10_000 + i, 2000), i)
        return resampler, float(out.losses["mse_loss"]), int(resampler.dead(240).sum())

    without, mse_without, dead_without = train(())
    resampler, mse, dead = train((60,))
    assert dead_without >= D_SAE // 2 and not without.records
    assert resampler.records[0].dead_before >= D_SAE // 2
    assert dead < D_SAE // 6
    assert mse < 0.8 * mse_without


def test_state_goes_through_json():
    import json

    sae, optimizer = trained()
    resampler = Resampler(ResamplingConfig(window=2))
    resampler.observe(2, alive_but([1, 2]))
    resampler.resample(sae, optimizer, rows_of(), 2)
    resampler.observe(3, torch.ones(D_SAE))
    resampler.resample(sae, optimizer, rows_of(), 3)  # nothing dead: NaN in the record
    state = resampler.state_dict()
    from graticule.hooks.artifact import json_ready

    words = json.loads(json.dumps(json_ready(state["records"]), allow_nan=False))
    other = Resampler(ResamplingConfig(window=2))
    other.load_state_dict({"records": words, "last_fired": state["last_fired"]})
    assert str(other.records) == str(resampler.records)
    assert torch.equal(other.dead(5), resampler.dead(5))
    fresh = Resampler()
    fresh.load_state_dict(Resampler().state_dict())
    assert fresh.records == []


def test_what_is_refused():
    sae, optimizer = trained()
    with pytest.raises(ValueError, match="observe"):
        Resampler().resample(sae, optimizer, rows_of(), 1)
    resampler = Resampler()
    resampler.observe(1, alive_but([0]))
    with pytest.raises(ValueError, match="finite"):
        resampler.resample(sae, optimizer, rows_of() * float("inf"), 1)
    with pytest.raises(ValueError, match="0 sampled inputs"):
        resampler.resample(sae, optimizer, rows_of(0), 1)
    for wrong in ({"steps": (0,)}, {"window": 0}, {"sample_size": 0}, {"encoder_scale": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ResamplingConfig(**wrong)
