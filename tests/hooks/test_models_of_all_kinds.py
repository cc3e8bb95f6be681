"""Capture on the models that are not plain: with an SAE attached, natively booted, and somebody's own."""

from types import SimpleNamespace

import pytest
import torch
from helpers import cached, relative
from transformer_lens.hook_points import HookPoint
from transformer_lens.HookedRootModule import HookedRootModule

from graticule import capture
from graticule.hooks.points import PointError


@pytest.fixture(scope="module")
def with_sae(load_tiny):
    from sae_lens import HookedSAETransformer, StandardSAE, StandardSAEConfig

    plain = load_tiny("llama", "hooked")
    model = HookedSAETransformer(plain.cfg, tokenizer=plain.tokenizer)
    model.load_state_dict(plain.state_dict())
    config = StandardSAEConfig(d_in=32, d_sae=64, dtype="float32", device="cpu", apply_b_dec_to_input=False)
    config.metadata.hook_name = "blocks.1.hook_resid_post"
    torch.manual_seed(0)
    sae = StandardSAE(config)
    with torch.no_grad():
        sae.W_enc.normal_()
        sae.W_dec.normal_()
    model.add_sae(sae)
    return model


def test_latents_of_an_attached_sae(with_sae, names):
    latents = "blocks.1.hook_resid_post.hook_sae_acts_post"
    points = [latents, "blocks.2.hook_resid_post"]
    acts = capture(with_sae, names[:8], points=points, prompt="where is ")
    assert acts.widths[latents] == 64
    for i, text in enumerate(names[:8]):
        cache = cached(with_sae, with_sae.to_tokens("where is " + text))
        for point in points:
            assert relative(acts[point][i], cache[point][0, -1]) <= 1e-5
    with pytest.raises(PointError, match="hook_sae"):
        capture(with_sae, names[:2], points="blocks.1.hook_resid_post.hook_sae_act_post")


def test_the_point_that_an_attached_sae_takes(with_sae, load_tiny, names):
    with pytest.raises(PointError, match=r"an SAE is attached there; model\.reset_saes"):
        capture(with_sae, names[:4])
    point = "blocks.1.hook_resid_post"
    taken = capture(with_sae, names[:4], points=f"{point}.hook_sae_input")
    plain = capture(load_tiny("llama", "hooked"), names[:4], points=point)
    assert relative(taken[f"{point}.hook_sae_input"], plain[point]) <= 1e-5


def test_a_natively_booted_bridge():
    from transformer_lens.model_bridge import TransformerBridge

    sizes = {"n_layers": 2, "d_model": 16, "n_heads": 2, "d_head": 8, "d_mlp": 32, "d_vocab": 50, "n_ctx": 32}
    bridge = TransformerBridge.boot_native({**sizes, "act_fn": "gelu"})
    rows = [[1, 5, 6], [1, 7], [1, 8, 9, 10]]
    acts = capture(bridge, rows, points=["resid_post", "z", "ln_final.hook_normalized"])
    for i, row in enumerate(rows):
        cache = cached(bridge, torch.tensor([row]))
        for point in acts:
            assert relative(acts[point][i], cache[point][0, -1].reshape(-1)) <= 1e-5


class Own(HookedRootModule):
    """The least that a model needs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.cfg = SimpleNamespace(n_layers=2, d_model=8)
        self.embed = torch.nn.Embedding(20, 8)
        self.blocks = torch.nn.ModuleList(
            torch.nn.ModuleDict({"hook_resid_post": HookPoint()}) for _ in range(2)
        )
        self.beyond = 0
        self.setup()

    def forward(self, tokens, return_type="logits"):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block["hook_resid_post"](x + x.cumsum(1).tanh())
        self.beyond += 1
        return x


def test_any_module_with_the_same_methods():
    model = Own()
    rows = [[1, 5, 6], [1, 7], [1, 8, 9, 10]]
    acts = capture(model, rows)
    assert model.beyond == 0  # the pass ends after the last wanted point
    for i, row in enumerate(rows):
        cache = cached(model, torch.tensor([row]))
        for point in acts:
            assert relative(acts[point][i], cache[point][0, -1]) <= 1e-6
    with pytest.raises(ValueError, match="no tokenizer"):
        capture(model, ["rome"])
