"""Tiny models of three families, as HookedTransformer and as TransformerBridge, with a real tokenizer."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

WORDS = [
    "the",
    "city",
    "of",
    "is",
    "in",
    "a",
    "river",
    "king",
    "new",
    "old",
    "san",
    "saint",
    "north",
    "south",
    "east",
    "west",
    "lake",
    "mount",
    "port",
    "ville",
    "burg",
    "where",
    "are",
    "lat",
    "lon",
    "coordinates",
    "what",
    "paris",
    "rome",
    "oslo",
    "lima",
    "cairo",
    "delhi",
    "tokyo",
    "berlin",
    "madrid",
    "vienna",
]


def make_tokenizer() -> Any:
    """Word pieces with byte-like fall-back letters; BOS, EOS and PAD share one id, as in GPT-NeoX."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789/'.-?")
    pieces = ["<s>", "<unk>", *WORDS, *letters, *(f"##{x}" for x in letters)]
    inner = Tokenizer(WordPiece({w: i for i, w in enumerate(dict.fromkeys(pieces))}, unk_token="<unk>"))
    inner.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="<s>", pad_token="<s>", unk_token="<unk>"
    )


def _config(family: str, vocabulary: int) -> Any:
    import transformers as hf

    ids = {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        **ids,
    }
    if family == "gpt2":
        return hf.GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=64, **ids)
    if family == "qwen3":
        return hf.Qwen3Config(head_dim=16, **sizes)
    return hf.LlamaConfig(**sizes)


SLOW = (
    "test_examples.py",
    "test_cli.py",
    "test_study.py",
    "test_certificate.py",
    "test_store.py",
    "test_hub_push.py",
    "test_sae_train.py",
    "test_sae_steps.py",
    "test_sae_command.py",
    "test_capture.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no worker is left with one when the others are done."""
    place = {name: i for i, name in enumerate(SLOW)}
    items.sort(key=lambda item: place.get(item.path.name, len(SLOW)))


@pytest.fixture(scope="session")
def hf_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with a tiny random model of a family and its tokenizer, as `save_pretrained` writes it."""
    import transformers as hf

    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            torch.manual_seed(0)
            tokenizer = make_tokenizer()
            model = hf.AutoModelForCausalLM.from_config(_config(family, len(tokenizer)))
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.05 * torch.randn_like(parameter))
            folder = tmp_path_factory.mktemp(family)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            made[family] = folder
        return made[family]

    return make


@pytest.fixture(scope="session")
def load_tiny(hf_folder: Callable[[str], Path]) -> Callable[[str, str], Any]:
    """`load_tiny(family, "hooked" | "bridge")`: one model a session; tests must leave it as it was."""
    made: dict[tuple[str, str], Any] = {}

    def load(family: str = "llama", kind: str = "hooked") -> Any:
        if (family, kind) not in made:
            if kind == "hooked":
                from graticule import load_model

                made[family, kind] = load_model(hf_folder(family), device="cpu")
            else:
                from transformer_lens.model_bridge import TransformerBridge

                bridge = TransformerBridge.boot_transformers(str(hf_folder(family)), device="cpu")
                bridge.eval()
                made[family, kind] = bridge
        return made[family, kind]

    return load


@pytest.fixture
def tiny(load_tiny: Callable[..., Any]) -> Any:
    """A tiny llama as HookedTransformer."""
    return load_tiny("llama", "hooked")


@pytest.fixture(scope="session")
def names() -> list[str]:
    """Sixty names of one to seven tokens, some of them repeated."""
    import numpy as np

    rng = np.random.default_rng(0)
    out = [" ".join(rng.choice(WORDS, rng.integers(1, 8))) for _ in range(52)]
    return out + out[:8]


@pytest.fixture(scope="session")
def gemma() -> Any:
    """The packaged language model, loaded once."""
    from graticule import load_model

    return load_model("gemma-3-270m", device="cpu")


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What graticule 0.1 saved: a folder of each kind."""
    import tarfile

    folder = tmp_path_factory.mktemp("v01")
    with tarfile.open(Path(__file__).parent / "data" / "v01.tar.xz") as packed:
        packed.extractall(folder, filter="data")
    return folder
