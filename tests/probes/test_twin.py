"""Untrained twins: the same weights in another order, for any module, tied or not."""

import copy

import pytest
import torch

from graticule import capture
from graticule.hooks.identity import model_identity
from graticule.hooks.running.session import lay_out, packed
from graticule.probes.surface.twin import make_twin


@pytest.mark.parametrize("kind", ["hooked", "bridge"])
def test_every_parameter_is_a_permutation_of_its_own(load_tiny, kind):
    model = load_tiny("qwen3", kind)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    twin = make_twin(model, seed=3)
    moved = 0
    for name, parameter in twin.named_parameters():
        assert torch.equal(parameter.flatten().sort().values, before[name].flatten().sort().values)
        moved += not torch.equal(parameter, before[name])
    assert moved > 10
    assert all(
        torch.equal(p, before[n]) for n, p in model.named_parameters()
    )  # the model itself is untouched


def test_seeds(tiny):
    weights = [make_twin(tiny, seed).blocks[1].mlp.W_in for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_tied_parameters_stay_tied():
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = torch.nn.Linear(8, 8, bias=False)
            self.b = torch.nn.Linear(8, 8, bias=False)
            self.b.weight = self.a.weight

    for keep in ((), ("b.",)):
        model = Tied()
        before = model.a.weight.detach().clone()
        twin = make_twin(model, 0, keep=keep)
        assert twin.a.weight is twin.b.weight
        assert not torch.equal(twin.a.weight, before) and torch.equal(model.b.weight, before)


def test_what_nothing_reads_may_be_kept(tiny):
    twin = make_twin(tiny, 0, keep=("unembed.",))
    whole = make_twin(tiny, 0)
    assert twin.unembed.W_U is tiny.unembed.W_U  # shared: a third of a small model
    assert not {p.data_ptr() for n, p in twin.named_parameters() if not n.startswith("unembed.")} & {
        p.data_ptr() for p in tiny.parameters() if p.numel()
    }
    assert not torch.equal(whole.unembed.W_U, tiny.unembed.W_U)
    assert torch.equal(twin.embed.W_E, whole.embed.W_E)


def test_fresh(tiny):
    twin = make_twin(tiny, seed=1, how="fresh")
    assert not torch.equal(twin.blocks[0].mlp.W_in, tiny.blocks[0].mlp.W_in)
    assert not torch.equal(twin.blocks[0].mlp.W_in.sort().values, tiny.blocks[0].mlp.W_in.sort().values)
    state = torch.get_rng_state()
    make_twin(tiny, seed=1, how="fresh")
    assert torch.equal(torch.get_rng_state(), state)


def test_another_word_is_refused(tiny):
    from helpers import as_installed

    with as_installed(), pytest.raises(ValueError, match="expected 'permuted' or 'fresh'"):
        make_twin(tiny, how="random")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_after_a_pass_with_gradients(load_tiny, family):
    model = load_tiny(family, "bridge")
    fresh = make_twin(model, seed=1)
    loss = model(torch.tensor([[0, 5, 6]])).logsumexp(-1).sum()  # a bridge keeps its attention patterns
    again = make_twin(model, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), again.parameters(), strict=True))
    loss.backward()  # the model's own pass still has its history
    assert any(p.grad is not None for p in model.parameters())
    model.zero_grad(set_to_none=True)
    with pytest.raises(ValueError, match="cannot initialise its weights anew; use how='permuted'"):
        make_twin(model, how="fresh")


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_a_fresh_twin_has_nothing_of_what_was_learned(load_tiny, family):
    model = copy.deepcopy(load_tiny(family, "hooked"))
    with torch.no_grad():  # folding leaves norms at 1: as a model that was not folded has them
        for parameter in model.parameters():
            parameter.add_(torch.rand_like(parameter))
    before = {n: p.clone() for n, p in model.named_parameters()}
    twin = make_twin(model, seed=1, how="fresh")
    for name, parameter in twin.named_parameters():
        assert not torch.equal(parameter, before[name]) or not parameter.numel(), name
        if "W_" not in name:
            assert (parameter == (1 if name.endswith(".w") else 0)).all(), name
        assert torch.equal(model.get_parameter(name), before[name])


def test_fresh_twins_of_a_model_with_a_seed_of_its_own_differ(load_tiny):
    model = copy.deepcopy(load_tiny("gpt2", "hooked"))
    model.cfg.seed = 7
    weights = [make_twin(model, seed, how="fresh").blocks[1].mlp.W_in for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert model.cfg.seed == 7


class Gate(torch.nn.Module):
    """A module with a weight of its own that nothing initialises."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Sequential(
            torch.nn.Linear(4, 4), torch.nn.LayerNorm(4), torch.nn.BatchNorm1d(4)
        )
        self.gate = torch.nn.Parameter(torch.rand(4, 4))


class Kept(torch.nn.Linear):
    """Guards what was loaded, as Hugging Face's `init_weights` does."""

    def init_weights(self):
        return None


@pytest.mark.parametrize(
    ("module", "named"), [(Gate(), "gate"), (Kept(3, 3), "weight")], ids=["gate", "kept"]
)
def test_what_stays_as_it_was_learned_is_refused_by_name(module, named):
    with pytest.raises(ValueError, match=f"initialises {named}.* anew; use how='permuted'"):
        make_twin(module, how="fresh")


def test_every_parameter_of_plain_modules_is_drawn_anew():
    module = Gate().inner
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.rand_like(parameter))
    module(torch.rand(8, 4) * 9)  # statistics of a batch norm are learned, too
    twin = make_twin(module, how="fresh")
    assert not any(torch.equal(a, b) for a, b in zip(twin.parameters(), module.parameters(), strict=True))
    assert (twin[2].running_mean == 0).all() and not (module[2].running_mean == 0).any()


def test_a_twin_laid_out_for_good_is_the_same_model(tiny, names):
    """Nothing is held twice while it is captured, and its digest and activations are as without."""
    plain, laid = make_twin(tiny, 0), make_twin(tiny, 0)
    lay_out(laid)
    assert any(not p.is_contiguous() for p in laid.parameters())
    assert model_identity(laid) == model_identity(plain)
    with packed(laid):
        held = {name: p.data_ptr() for name, p in laid.named_parameters()}
    assert held == {name: p.data_ptr() for name, p in laid.named_parameters()}
    one, other = capture(plain, names), capture(laid, names)
    assert all(torch.equal(one[point], other[point]) for point in one)


class WithBuffers(torch.nn.Module):
    """A normalisation with running statistics, a router's learned correction, and two tables."""

    def __init__(self, router: bool = True):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.norm = torch.nn.Linear(16, 16), torch.nn.BatchNorm1d(16)
        self.register_buffer("rotary_sin", torch.sin(torch.arange(16.0)))
        self.register_buffer("angles", torch.arange(16.0), persistent=False)
        self.register_buffer("counts", torch.arange(16))
        if router:
            self.register_buffer("e_score_correction_bias", torch.randn(16))
        for _ in range(3):
            self.norm(3 * torch.randn(32, 16) + torch.arange(16.0))


LEARNED_BUFFERS = ("norm.running_mean", "norm.running_var", "e_score_correction_bias")
TABLES = ("rotary_sin", "angles", "counts")


def test_learned_buffers_are_permuted_and_tables_are_not():
    model = WithBuffers()
    before = {name: value.clone() for name, value in model.named_buffers()}
    twin = dict(make_twin(model, seed=1).named_buffers())
    for name in LEARNED_BUFFERS:
        assert not torch.equal(twin[name], before[name])
        assert torch.equal(twin[name].sort().values, before[name].sort().values)
    assert all(torch.equal(twin[name], before[name]) for name in TABLES)
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    again = dict(make_twin(model, seed=1).named_buffers())
    assert all(torch.equal(twin[name], again[name]) for name in LEARNED_BUFFERS)


def test_learned_buffers_begin_anew_in_a_fresh_twin_or_it_is_refused():
    twin = make_twin(WithBuffers(router=False), 5, "fresh")
    assert twin.norm.running_mean.tolist() == [0] * 16 and twin.norm.running_var.tolist() == [1] * 16
    with pytest.raises(ValueError, match=r"nothing .* initialises e_score_correction_bias anew") as error:
        make_twin(WithBuffers(), 5, "fresh")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
@pytest.mark.parametrize("kind", ["hooked", "bridge"])
def test_buffers_of_the_families_are_tables(load_tiny, family, kind):
    model = load_tiny(family, kind)
    twin = make_twin(model, seed=2)
    for (name, mine), (_, theirs) in zip(twin.named_buffers(), model.named_buffers(), strict=True):
        assert torch.equal(mine, theirs), name
