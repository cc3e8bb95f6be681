"""Tiny random models of every architecture that transformers and TransformerLens share, made from configs.

Settings that are easily lost are on wherever an architecture has them: sliding windows, mixed layers, scaled
rotary embeddings, parallel residuals, soft caps, biases, few experts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

WINDOW = 16
"""Tokens after which a sliding window, a chunk or a short rotary table ends."""
LAYERS = 4


@dataclass(frozen=True)
class Architecture:
    """A family of models and the settings that make a tiny one of it."""

    config: str
    """Name of transformers' config class."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    what: str = ""
    """What is special about these settings."""
    sizes: str = "llama"
    """Whose names its config has for the sizes that all share: a key of `SIZES`."""
    masked: bool = False
    """Whether it is a masked language model, with the tokenizer of one."""

    @property
    def name(self) -> str:
        """Name of the family, and what is special."""
        family = self.config.removesuffix("Config").removesuffix("Text")
        return f"{family}{f', {self.what}' if self.what else ''}"


IDS = {"vocab_size": 264, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_COMMON = {
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
SIZES: dict[str, dict[str, Any]] = {
    "llama": {**_COMMON, "num_key_value_heads": 2, "intermediate_size": 48, **IDS},
    "heads": {**_COMMON, "intermediate_size": 48, **IDS},
    "gpt2": {"n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": 128, **IDS},
    "blocks": {"hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4, **IDS},
    "states": {"hidden_size": 32, "num_hidden_layers": LAYERS, "state_size": 8, **IDS},
    "d_model": {"d_model": 32, "max_position_embeddings": 128, **IDS},
    "none": dict(IDS),
}
_SLIDING = {"sliding_window": WINDOW}
_MIXED = {"layer_types": ["sliding_attention", "full_attention"] * (LAYERS // 2), **_SLIDING}
_GEMMA = {"head_dim": 16, "hidden_activation": "gelu_pytorch_tanh"}
_SOFT = {"attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 16}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
_LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
_MOE = {**_EXPERTS, "moe_intermediate_size": 16}
_SHARED = {"shared_expert_intermediate_size": 16}
_MLA = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
_MLA |= {"num_key_value_heads": 4}
_ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_GROUPED = {**_ROUTED, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1}
_MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}
_MAMBA2 |= {"mamba_chunk_size": 8}
_LINEAR_ONLY = {
    "layer_types": ["linear_attention", "full_attention"] * (LAYERS // 2),
    **{f"linear_{name}": n for name, n in (("num_key_heads", 2), ("num_value_heads", 4))},
    **{f"linear_{name}": 8 for name in ("key_head_dim", "value_head_dim")},
}
_LINEAR = {**_LINEAR_ONLY, "head_dim": 16}
_OPT = {"ffn_dim": 48, "max_position_embeddings": 128}


def _rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


def _long(width: int) -> dict[str, Any]:
    factors = {"short_factor": [1.0] * width, "long_factor": [1.0 + 2 * i for i in range(width)]}
    border = {"original_max_position_embeddings": 2 * WINDOW}
    return {**_rope("longrope", **factors, **border), **border}


def _a(
    config: str, what: str = "", sizes: str = "llama", masked: bool = False, **settings: Any
) -> Architecture:
    return Architecture(f"{config}Config", settings, what, sizes, masked)


ARCHITECTURES = (
    _a("Afmoe", "sliding", global_attn_every_n_layers=2, head_dim=8, num_dense_layers=1, **_SLIDING, **_MOE),
    _a("Apertus"),
    _a("Arcee"),
    _a("Bamba", attn_layer_indices=[1, 3], **_MAMBA2),
    _a(
        "Bart",
        "decoder only",
        "d_model",
        decoder_layers=LAYERS,
        decoder_attention_heads=4,
        decoder_ffn_dim=48,
        encoder_layers=LAYERS,
        encoder_attention_heads=4,
        encoder_ffn_dim=48,
    ),
    _a("Bert", "masked", "heads", masked=True),
    _a("Bert", "decoder", "heads", is_decoder=True),
    _a("BitNet"),
    _a("Bloom", "alibi", "none", hidden_size=32, n_layer=LAYERS, n_head=4),
    _a("CodeGen", "", "gpt2", rotary_dim=4),
    _a("Cohere", "parallel", logit_scale=0.5),
    _a("Cohere", "normed queries", use_qk_norm=True),
    _a("Cohere2", "sliding, parallel", **_MIXED),
    _a("DeepseekV2", "latent attention", **_MLA, **_GROUPED, topk_method="group_limited_greedy"),
    _a("DeepseekV3", "latent attention", **_MLA, **_GROUPED),
    _a("Ernie4_5", head_dim=8),
    _a("Ernie4_5_Moe", moe_num_experts=4, moe_k=2, moe_intermediate_size=16, moe_layer_start_index=1),
    _a("Exaone4", "sliding", **_MIXED),
    _a(
        "Falcon",
        "multi-query, parallel",
        "blocks",
        multi_query=True,
        parallel_attn=True,
        new_decoder_architecture=False,
    ),
    _a(
        "Falcon",
        "alibi",
        "blocks",
        alibi=True,
        parallel_attn=False,
        multi_query=False,
        new_decoder_architecture=False,
        bias=True,
    ),
    _a("Falcon", "new decoder", "blocks", num_kv_heads=2, new_decoder_architecture=True),
    _a("FalconH1", **_MAMBA2, mamba_d_ssm=64),
    _a("FalconMamba", "", "states"),
    _a("FlexOlmo", **_EXPERTS),
    _a("Gemma", **_GEMMA),
    _a("Gemma2", "sliding, soft caps", **_SOFT, **_MIXED, **_GEMMA),
    _a("Gemma3Text", "sliding", query_pre_attn_scalar=16, **_MIXED, **_GEMMA),
    _a("Gemma3Text", "looks both ways", use_bidirectional_attention=True, **_MIXED, **_GEMMA),
    _a(
        "Gemma4Text",
        "sliding",
        global_head_dim=16,
        vocab_size_per_layer_input=264,
        hidden_size_per_layer_input=8,
        num_kv_shared_layers=0,
        **_MIXED,
        **_GEMMA,
    ),
    _a("Glm", "partial rotary", head_dim=16),
    _a("Glm4", "partial rotary", head_dim=16),
    _a("Glm4Moe", head_dim=16, use_qk_norm=True, **_GROUPED),
    _a("Glm4MoeLite", **_MLA, **_GROUPED),
    _a("GlmMoeDsa", "sparse", index_topk=8, index_head_dim=16, index_n_heads=2, **_MLA, **_GROUPED),
    _a("GPT2", "", "gpt2"),
    _a("GPT2", "scaled by layer", "gpt2", scale_attn_by_inverse_layer_idx=True),
    _a("GPTBigCode", "multi-query", "gpt2", multi_query=True),
    _a(
        "GPTNeo",
        "local",
        "none",
        hidden_size=32,
        num_layers=LAYERS,
        num_heads=4,
        window_size=WINDOW,
        attention_types=[[["global", "local"], LAYERS // 2]],
        max_position_embeddings=128,
    ),
    _a("GPTNeoX", "parallel", "heads", **_rope("default", partial_rotary_factor=0.5)),
    _a("GPTNeoX", "sequential", "heads", use_parallel_residual=False),
    _a("GptOss", "sliding, sinks", head_dim=8, **_LOCAL, **_MIXED),
    _a("GPTJ", "parallel", "gpt2", rotary_dim=4),
    _a("Granite", "multipliers", embedding_multiplier=2.0, attention_multiplier=0.5, residual_multiplier=0.5),
    _a("GraniteMoe", **_LOCAL, residual_multiplier=0.5),
    _a(
        "GraniteMoeHybrid",
        layer_types=["mamba", "attention"] * 2,
        **_LOCAL,
        shared_intermediate_size=16,
        **_MAMBA2,
    ),
    _a("HrmText", head_dim=8),
    _a("HunYuanDenseV1", head_dim=8),
    _a("Jais2"),
    _a(
        "Jamba",
        attn_layer_period=2,
        attn_layer_offset=1,
        **_EXPERTS,
        expert_layer_period=2,
        expert_layer_offset=1,
        mamba_d_state=8,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
    ),
    _a(
        "JetMoe",
        "",
        "none",
        hidden_size=32,
        num_hidden_layers=LAYERS,
        num_key_value_heads=2,
        kv_channels=16,
        intermediate_size=48,
        **_LOCAL,
        max_position_embeddings=128,
    ),
    _a(
        "Laguna",
        "sliding",
        head_dim=8,
        num_attention_heads_per_layer=[4] * LAYERS,
        **_SHARED,
        mlp_layer_types=["dense", *["sparse"] * (LAYERS - 1)],
        **_MIXED,
        **_MOE,
    ),
    _a("Lfm2", layer_types=["conv", "full_attention"] * 2),
    _a("Lfm2Moe", layer_types=["conv", "full_attention"] * 2, num_dense_layers=1, **_MOE),
    _a("Llama"),
    _a("Llama", "wide heads, biases", head_dim=16, attention_bias=True, mlp_bias=True),
    _a("Llama", "linear rope", **_rope("linear", factor=4.0)),
    _a(
        "Llama",
        "llama3 rope",
        **_rope(
            "llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=32,
        ),
    ),
    _a("Llama", "yarn rope", **_rope("yarn", factor=4.0, original_max_position_embeddings=32)),
    _a("Llama", "dynamic rope", max_position_embeddings=2 * WINDOW, **_rope("dynamic", factor=4.0)),
    _a(
        "Llama4Text",
        "chunks",
        head_dim=8,
        attention_chunk_size=WINDOW,
        num_local_experts=4,
        num_experts_per_tok=1,
        intermediate_size_mlp=48,
        no_rope_layers=[1, 1, 1, 0],
    ),
    _a("Mamba", "", "states"),
    _a("Mamba2", "", "states", num_heads=8, head_dim=8, n_groups=1, chunk_size=8),
    _a("MiniMaxM2", head_dim=8, **_LOCAL),
    _a("Ministral3", "sliding", head_dim=8, **_SLIDING),
    _a("Mistral", "sliding", **_SLIDING),
    _a("Mistral", "full", sliding_window=None),
    _a("Mixtral", "sliding", **_LOCAL, **_SLIDING),
    _a("ModernBertDecoder", "sliding", "heads", local_attention=WINDOW, global_attn_every_n_layers=2),
    _a("Mpt", "alibi", "none", d_model=32, n_layers=LAYERS, n_heads=4, max_seq_len=128, expansion_ratio=2),
    _a("NanoChat"),
    _a("Nemotron", "partial rotary"),
    _a(
        "NemotronH",
        layers_block_type=["mamba", "attention", "moe", "attention"],
        head_dim=8,
        **_ROUTED,
        moe_shared_expert_intermediate_size=16,
        ssm_state_size=8,
        mamba_num_heads=8,
        mamba_head_dim=8,
        n_groups=1,
        chunk_size=8,
        use_mamba_kernels=False,
    ),
    _a("Olmo", clip_qkv=2.0),
    _a("Olmo2"),
    _a("Olmo3", "sliding", **_MIXED),
    _a("OlmoHybrid", **_LINEAR_ONLY),
    _a("Olmoe", **_EXPERTS),
    _a("OpenAIGPT", "post-norm", "gpt2"),
    _a("OPT", "", "blocks", word_embed_proj_dim=32, **_OPT),
    _a("OPT", "post-norm, projected", "blocks", word_embed_proj_dim=16, do_layer_norm_before=False, **_OPT),
    _a("Phi", "partial rotary, parallel", **_rope("default", partial_rotary_factor=0.5)),
    _a("Phi3", "sliding", **_SLIDING),
    _a("Phi3", "longrope", **_long(4)),
    _a("Phimoe", "longrope", **_LOCAL, **_SLIDING),
    _a("Qwen2", "full"),
    _a("Qwen2", "sliding", use_sliding_window=True, max_window_layers=0, **_SLIDING),
    _a("Qwen2Moe", **_MOE, **_SHARED),
    _a("Qwen3", "full", head_dim=16),
    _a("Qwen3", "sliding", head_dim=16, use_sliding_window=True, max_window_layers=2, **_SLIDING),
    _a("Qwen3Moe", head_dim=16, **_MOE),
    _a("Qwen3Next", **_MOE, **_LINEAR, **_SHARED),
    _a("Qwen3_5Text", **_LINEAR),
    _a("Qwen3_5MoeText", **_MOE, **_LINEAR, **_SHARED),
    _a(
        "RecurrentGemma",
        "local",
        head_dim=8,
        attention_window_size=WINDOW,
        lru_width=32,
        block_types=["recurrent", "attention"],
    ),
    _a(
        "Rwkv",
        "",
        "none",
        hidden_size=32,
        num_hidden_layers=LAYERS,
        attention_hidden_size=32,
        context_length=128,
    ),
    _a("SeedOss", head_dim=8),
    _a("SmolLM3", "layers without rope", no_rope_layers=[1, 0, 1, 0]),
    _a("StableLm", "parallel, partial rotary", use_parallel_residual=True, qk_layernorm=True),
    _a("Starcoder2", "sliding", **_SLIDING),
    _a("VaultGemma", "sliding, soft caps", **_SOFT, **_MIXED, **_GEMMA),
    _a("XGLM", "sinusoids", "d_model", num_layers=LAYERS, attention_heads=4, ffn_dim=48),
    _a("Youtu", "latent attention", **_MLA),
    _a(
        "Zamba2",
        "",
        "heads",
        num_key_value_heads=4,
        attention_head_dim=16,
        mamba_d_state=8,
        mamba_headdim=8,
        mamba_ngroups=1,
        n_mamba_heads=8,
        chunk_size=8,
        layers_block_type=["mamba", "hybrid"] * 2,
        num_mem_blocks=1,
        use_mamba_kernels=False,
    ),
)
