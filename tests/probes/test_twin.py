"""Untrained twins: the same weights in another order, for any module, tied or not."""

import pytest
import torch

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
