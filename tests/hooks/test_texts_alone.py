"""A text's activations are those of the text alone, in Hugging Face, whatever runs beside it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers as hf
from helpers import relative
from transformer_lens.hook_points import HookPoint
from transformer_lens.HookedRootModule import HookedRootModule

from graticule import capture, load_model
from graticule.hooks.running.grouping import grouping_of
from graticule.hooks.tokens import TokenRows
from graticule.probes.causes.edited_runs import EditedRuns

VOCABULARY = 60
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
ROPE = {"rope_theta": 1e4}
CONFIGS = {
    "an embedding Gemma": lambda: hf.Gemma3TextConfig(
        **SIZES, num_key_value_heads=4, head_dim=8, sliding_window=16, use_bidirectional_attention=True
    ),
    "BERT": lambda: hf.BertConfig(**SIZES),
    "longrope": lambda: hf.Phi3Config(
        **SIZES,
        pad_token_id=0,
        original_max_position_embeddings=24,
        rope_parameters={
            "rope_type": "longrope",
            "short_factor": [1.0] * 4,
            "long_factor": [1.0, 2.0, 4.0, 8.0],
            "original_max_position_embeddings": 24,
            **ROPE,
        },
    ),
    "dynamic rope": lambda: hf.LlamaConfig(
        **{**SIZES, "max_position_embeddings": 24},
        rope_parameters={"rope_type": "dynamic", "factor": 4.0, **ROPE},
    ),
    "a sliding window": lambda: hf.MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=8),
}
LENGTHS = (23, 2, 50, 9, 24, 40, 26, 9)


def rows_of(lengths, seed: int = 0, begin=()) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [[*begin, *rng.integers(2, VOCABULARY, n).tolist()] for n in lengths]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Kind → the model by `load_model`, and its Hugging Face original."""
    made = {}

    def make(kind: str):
        if kind not in made:
            torch.manual_seed(0)
            config = CONFIGS[kind]()
            family = hf.AutoModelForMaskedLM if kind == "BERT" else hf.AutoModelForCausalLM
            original = family.from_config(config).eval()
            with torch.no_grad():
                for parameter in original.parameters():
                    if parameter.ndim > 1:
                        parameter.mul_(6)  # attention that matters
            folder = tmp_path_factory.mktemp("model")
            original.save_pretrained(folder)
            model = load_model(folder, device="cpu")
            if kind == "dynamic rope":
                model.cfg.n_ctx = 128  # it is made to go beyond what it was trained on
            made[kind] = model, original
        return made[kind]

    return make


def alone(original, row) -> list[torch.Tensor]:
    """The residual stream after the first two blocks, `[pos, width]`, of a fresh pass over one row."""
    with torch.no_grad():
        original(torch.tensor([row[:1]]))  # a dynamic table is forgotten by a short pass alone
        return [h[0] for h in original(torch.tensor([row]), output_hidden_states=True).hidden_states[1:3]]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"share_prefix": False}, {"token_budget": 10**6}], ids=str)
@pytest.mark.parametrize("begin", [(), (5, 9, 2, 7, 7, 31)], ids=["", "prefix"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_batched_as_alone(pair, kind, begin, settings):
    model, original = pair(kind)
    rows = rows_of(LENGTHS, begin=begin)
    acts = capture(model, rows, layers=[0, 1], pos="all", **settings)
    at = 0
    for row in rows:
        for layer, expected in enumerate(alone(original, row)):
            got = acts["resid_post", layer][at : at + len(row)]
            assert relative(got, expected) <= 1e-4, (len(row), layer)
        at += len(row)


@pytest.mark.slow
def test_a_model_is_asked_whether_it_looks_ahead(pair, load_tiny):
    rows = [np.array(r) for r in rows_of(LENGTHS)]
    ahead = {
        kind: grouping_of(pair(kind)[0], ["blocks.1.hook_resid_post"], rows).looks_ahead for kind in CONFIGS
    }
    assert [kind for kind, looks in ahead.items() if looks] == ["an embedding Gemma", "BERT"]
    same = [np.full(n, 7) for n in (3, 9)]  # one token, again and again, is no text to ask with
    assert grouping_of(pair("BERT")[0], ["blocks.1.hook_resid_post"], same).looks_ahead
    for family in ("gpt2", "llama"):
        for kind in ("hooked", "bridge"):
            assert not grouping_of(load_tiny(family, kind), ["blocks.2.hook_resid_post"], rows).looks_ahead


@pytest.mark.parametrize("kind", ["an embedding Gemma", "longrope"])
def test_interventions_run_texts_as_alone(pair, kind):
    model, original = pair(kind)
    ids = [np.array(row) for row in rows_of(LENGTHS)]
    whole = [(0, len(row)) for row in ids]
    last = np.array([len(row) - 1 for row in ids])
    rows = TokenRows(ids, whole, whole, False)
    ran = EditedRuns(model, rows, "blocks.0.hook_resid_pre", [np.array([n]) for n in last], last).run()
    for i, row in enumerate(ids):
        with torch.no_grad():
            expected = original(torch.from_numpy(row)[None]).logits[0, -1]
        assert relative(ran.final[i], expected) <= 1e-4, len(row)


class PrefixModel(HookedRootModule):
    """Its first four tokens see each other, the rest what came before."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.cfg = SimpleNamespace(n_layers=1, d_model=8)
        self.embed = torch.nn.Embedding(VOCABULARY, 8)
        self.blocks = torch.nn.ModuleList([torch.nn.ModuleDict({"hook_resid_post": HookPoint()})])
        self.setup()

    def forward(self, tokens, return_type="logits"):
        x = self.embed(tokens)
        seen = x.cumsum(1)
        seen[:, :4] = x[:, :4].sum(1, keepdim=True)
        return self.blocks[0]["hook_resid_post"](x + seen.tanh())


def test_a_prefix_that_sees_itself_is_noticed():
    model = PrefixModel()
    rows = rows_of((2, 3, 7, 3, 1))
    acts = capture(model, rows)
    for i, row in enumerate(rows):
        one = capture(model, [row])
        assert relative(acts[acts.points[0]][i], one[one.points[0]][0]) <= 1e-6
