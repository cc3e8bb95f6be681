"""A model is compared with Hugging Face past every length at which something sets in, not on a few tokens."""

import logging

import pytest
import torch
import transformers as hf
from families import CONVERTED, SIZES, make
from helpers import relative
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge

from graticule import capture, load_model
from graticule.hooks.running.forward import RopeBorders, rope_borders, windows
from graticule.loading import agreement
from graticule.loading.agreement import DisagreementError, Reference

WINDOW = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 4,
    "long_factor": [1.0, 2.0, 4.0, 8.0],
    "original_max_position_embeddings": 16,
}


def ids(n: int) -> list[int]:
    return [(7 * i) % 90 + 5 for i in range(n)]


def large(config, folder):
    """A model whose attention matters."""
    original = make(config, folder)
    with torch.no_grad():
        for parameter in original.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2)
    original.save_pretrained(folder)
    return original


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (lambda: hf.Qwen2Config(**SIZES, **WINDOW), TransformerBridge),
        (lambda: hf.Qwen3Config(head_dim=16, **SIZES, **WINDOW), TransformerBridge),
        (lambda: hf.Qwen2Config(**SIZES, **{**WINDOW, "use_sliding_window": False}), HookedTransformer),
        (lambda: hf.MistralConfig(**SIZES, sliding_window=16), HookedTransformer),
        (
            lambda: hf.Phi3Config(
                **{**SIZES, "num_key_value_heads": 4},
                original_max_position_embeddings=16,
                rope_parameters=LONGROPE,
            ),
            TransformerBridge,
        ),
    ],
    ids=["Qwen2", "Qwen3", "Qwen2 without", "Mistral", "longrope"],
)
def test_what_sets_in_with_length_is_kept_or_left_to_the_bridge(config, kind, tmp_path):
    original = large(config(), tmp_path)
    model = load_model(tmp_path, device="cpu")
    assert isinstance(model, kind)
    for n in (8, 16, 17, 40):
        got = capture(model, [ids(n)], points=("resid_post", 0), pos="all")["resid_post", 0]
        with torch.no_grad():
            hidden = original(torch.tensor([ids(n)]), output_hidden_states=True).hidden_states
        assert relative(got, hidden[1][0]) <= 1e-4, n


@pytest.mark.parametrize("window", [4, 16])
def test_a_window_that_is_lost_is_noticed_beyond_it_alone(window, tmp_path, monkeypatch, caplog):
    original = large(hf.MistralConfig(**SIZES, sliding_window=window), tmp_path)
    reference = Reference.of(original)
    assert [t.shape[1] for t in reference.tokens] == [12, window + 8]
    original.config.sliding_window = None
    original.save_pretrained(tmp_path)
    lost = load_model(tmp_path, device="cpu", verify=False)
    within = f"on {window + 8} tokens, disagrees" if window > 12 else "model disagrees"
    with pytest.raises(DisagreementError, match=within):
        reference.check(lost, torch.float32, "model")
    monkeypatch.setattr(agreement, "_OPERATIONS", 1)  # as for a model too large to be run so far
    original.config.sliding_window = window
    unseen = Reference.of(original)
    assert dict(unseen.unseen) == {"sliding_window": window}
    if window > 12:
        with caplog.at_level(logging.WARNING, logger="graticule"):
            unseen.check(lost, torch.float32, "model")
        assert "on 12 tokens; what sets in beyond sliding_window=16 was not seen" in caplog.text


@pytest.mark.parametrize(
    ("config", "rope", "local"),
    [
        (lambda: hf.LlamaConfig(**SIZES), RopeBorders(), {}),
        (
            lambda: hf.Gemma3TextConfig(**{**SIZES, "num_hidden_layers": 8}, sliding_window=16),
            RopeBorders(),
            {"sliding_window": 16},
        ),
        (
            lambda: hf.LlamaConfig(
                **SIZES, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
            ),
            RopeBorders((), 64),
            {},
        ),
        (
            lambda: hf.Phi3Config(**SIZES, original_max_position_embeddings=16, rope_parameters=LONGROPE),
            RopeBorders((16,)),
            {},
        ),
        (CONVERTED["neo"], RopeBorders(), {"window_size": 4}),
        (
            lambda: hf.ModernBertConfig(**WORDS_ONLY, local_attention=32),
            RopeBorders(),
            {"local_attention": 32},
        ),
    ],
    ids=["plain", "windows", "dynamic", "longrope", "local layers", "local attention"],
)
def test_lengths_are_read_from_the_config(config, rope, local):
    made = config()
    assert rope_borders(made.to_dict()) == rope
    assert windows(made.to_dict()) == local


WORDS_ONLY = {"vocab_size": 100, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def test_only_the_last_logits_of_a_long_sequence_are_made(tmp_path):
    original = make(CONVERTED["llama"](), tmp_path)
    model = load_model(tmp_path, device="cpu", verify=False)
    tokens = agreement.probe_tokens(100, 30)
    for one in (original, model):
        whole, some = agreement.model_logits(one, tokens), agreement.model_logits(one, tokens, 5)
        assert whole.shape == (30, 100) and some.shape == (5, 100)
        torch.testing.assert_close(some, whole[-5:])
    assert not original.get_output_embeddings()._forward_pre_hooks
