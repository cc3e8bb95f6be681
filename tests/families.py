"""Tiny models of many families as folders and GGUF files, for the tests of loading."""

from pathlib import Path

import torch
import transformers as hf
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

TOKENS = torch.tensor([[1, 40, 17, 63, 5, 22, 90, 2], [7, 7, 8, 50, 33, 12, 0, 61]])
WORDS = {"vocab_size": 100, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    **WORDS,
}
CONVERTED = {
    "gpt2": lambda: hf.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **WORDS),
    "llama": lambda: hf.LlamaConfig(**SIZES),
    "mistral": lambda: hf.MistralConfig(sliding_window=None, **SIZES),
    "neox": lambda: hf.GPTNeoXConfig(**{k: v for k, v in SIZES.items() if k != "num_key_value_heads"}),
    "neo": lambda: hf.GPTNeoConfig(
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=4,
        max_position_embeddings=64,
        **WORDS,
    ),
    "qwen2": lambda: hf.Qwen2Config(**SIZES),
    "qwen3": lambda: hf.Qwen3Config(head_dim=16, **SIZES),
    "opt": lambda: hf.OPTConfig(
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        word_embed_proj_dim=32,
        **WORDS,
    ),
    "phi3": lambda: hf.Phi3Config(**{**SIZES, "num_key_value_heads": 4}),
    "bloom": lambda: hf.BloomConfig(hidden_size=32, n_layer=2, n_head=4, **WORDS),
}
BRIDGED = {
    "gemma3 of no official size": lambda: hf.Gemma3TextConfig(head_dim=16, sliding_window=16, **SIZES),
    "llama with wide heads": lambda: hf.LlamaConfig(head_dim=16, **SIZES),
}


def make(config, folder: Path, seed: int = 0):
    """A model with random weights large enough that a misplaced one shows, saved to `folder`."""
    torch.manual_seed(seed)
    model = hf.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def words(folder: Path) -> None:
    vocabulary = {w: i for i, w in enumerate(["<pad>", "<s>", "</s>", "<unk>", "the", "city", "of"])}
    inner = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = Whitespace()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    hf.PreTrainedTokenizerFast(tokenizer_object=inner, **special).save_pretrained(folder)


def difference(model, original) -> float:
    with torch.no_grad():
        return float((model(TOKENS) - original(TOKENS).logits).abs().max())


def write_gguf(path: Path, original) -> None:
    """A tiny Llama as GGUF: llama.cpp stores queries and keys with their rotary halves interleaved."""
    import gguf

    config = original.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in original.state_dict().items():
        for kind, n in heads.items():
            if kind in name:
                weight = weight.reshape(n, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
