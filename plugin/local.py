"""A Hugging Face model read for TransformerLens: its tokenizer, its TransformerLens config and weights.

TransformerLens takes a path that contains "llama" or "gemma" for a model's name, and knows Gemma by
official name alone; both are settled here, without naming any model class of TransformerLens.
"""

import json
import logging
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from graticule.hooks.running.lengths import (
    ATTENTION_WINDOWS,
    RopeBorders,
    config_of,
    rope_borders,
    windows,
)

logger = logging.getLogger(__name__)

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
)
_TAKEN_FOR_NAMES = ("llama", "gemma", "wav2vec2", "santacoder")
_SHAPES = {
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_key_value_heads": "num_key_value_heads",
    "d_head": "head_dim",
    "d_mlp": "intermediate_size",
}


class NotConvertibleError(ValueError):
    """TransformerLens has no HookedTransformer config for this model."""


def read_tokenizer(folder: Path, trust_remote_code: bool = False) -> Any:
    """The tokenizer in `folder`, or None (and a logged note) if it has none; its own code runs if trusted."""
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        logger.info("%s has no tokenizer: the model takes token ids, not text", folder)
        return None
    try:
        return tokenizer_from(folder, trust_remote_code, local_files_only=True)
    except Exception as error:  # transformers raises whatever the missing piece happens to raise
        logger.warning(
            "the tokenizer in %s cannot be read (%s): the model takes token ids, not text",
            folder,
            " ".join(str(error).split()),
        )
        return None


def tokenizer_from(source: Path | str, trust_remote_code: bool, **options: Any) -> Any:
    """The tokenizer in a folder, or of a name of the Hub, that puts BOS before texts if it has one.

    So TransformerLens wants it, which would otherwise load it a second time, and trust its code.
    """
    from transformers import AutoTokenizer

    options["trust_remote_code"] = trust_remote_code
    try:
        return AutoTokenizer.from_pretrained(source, add_bos_token=True, **options)
    except ValueError:  # there is no BOS token
        return AutoTokenizer.from_pretrained(source, **options)


def stand_in_tokenizer() -> Any:
    """A tokenizer of one word, for TransformerBridge, which looks for one wherever none is given."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>"))
    special = dict.fromkeys(("unk_token", "bos_token", "eos_token", "pad_token"), "<unk>")
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=words, add_bos_token=True, **special)
    tokenizer.init_kwargs["name_or_path"] = ""  # TransformerLens looks for it there
    return tokenizer


def lens_config(hf: Any, dtype: torch.dtype) -> tuple[Any, str]:
    """TransformerLens's config for the Hugging Face model `hf`, and the name it was found under.

    **Raises** `NotConvertibleError` with the reason if TransformerLens has none.
    """
    from transformer_lens import loading_from_pretrained as loading

    options: dict[str, Any] = {"hf_cfg": hf.config.to_dict(), "device": "cpu", "dtype": dtype}
    if "Gemma" in type(hf).__name__:
        name = _official_gemma(hf)
        config = loading.get_pretrained_model_config(name, **options)
        check_lengths(hf, config)
        return config, name
    with _neutral_folder(hf) as folder:
        try:
            config = loading.get_pretrained_model_config(str(folder), **options)
            check_lengths(hf, config)
            return config, "local"
        except NotConvertibleError:
            raise
        except Exception as error:  # an unknown architecture surfaces as any of half a dozen types
            raise NotConvertibleError(
                f"TransformerLens has no config for {type(hf).__name__}: {type(error).__name__}: {error}"
            ) from error


def check_lengths(hf: Any, config: Any) -> None:
    """**Raises** `NotConvertibleError` where TransformerLens's config loses what sets in with length: a
    window of attention, a rotary table that follows the length."""
    original = config_of(hf)
    seen = {k: n for k, n in windows(original).items() if k in ATTENTION_WINDOWS and n < config.n_ctx}
    for name, size in seen.items():
        if not config.use_local_attn:
            raise NotConvertibleError(f"TransformerLens's conversion drops {name}={size}")
        if config.window_size != size:
            raise NotConvertibleError(
                f"TransformerLens's conversion has a window of {config.window_size}, the model {name}={size}"
            )
    kinds = original.get("layer_types")
    if seen and kinds and [k != "full_attention" for k in kinds] != [t == "local" for t in config.attn_types]:
        raise NotConvertibleError("TransformerLens's conversion has the window in other layers")
    if rope_borders(original) != RopeBorders():
        kind = original.get("rope_parameters") or original.get("rope_scaling")
        raise NotConvertibleError(f"TransformerLens knows no rotary table that follows the length ({kind})")


def lens_weights(hf: Any, config: Any, name: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The weights of `hf` under TransformerLens's names.

    **Raises** `NotConvertibleError` with the reason if TransformerLens cannot convert them.
    """
    from transformer_lens import loading_from_pretrained as loading

    try:
        if name != "local":
            return loading.get_pretrained_state_dict(name, config, hf_model=hf, dtype=dtype)
        with _neutral_folder(hf) as folder:
            return loading.get_pretrained_state_dict(str(folder), config, hf_model=hf, dtype=dtype)
    except Exception as error:  # converters fail on attributes, shapes and assertions alike
        raise NotConvertibleError(
            f"TransformerLens cannot convert the weights of {type(hf).__name__}: "
            f"{type(error).__name__}: {error}"
        ) from error


def fill(model: Any, weights: dict[str, torch.Tensor], hf: Any) -> None:
    """Put converted weights into an empty HookedTransformer, each in its own contiguous memory.

    TransformerLens's own loading walks all modules once for each weight, and copies those that the conversion
    has just made anew: three times as long.
    """
    original = {p.untyped_storage().data_ptr() for p in hf.parameters()}
    empty = model.state_dict()
    owned: dict[str, torch.Tensor] = {}
    for key, weight in model.fill_missing_keys(weights).items():
        ready = weight.detach().to(empty[key].dtype if key in empty else weight.dtype).contiguous()
        shared = ready.untyped_storage().data_ptr() in original
        owned[key] = ready.clone() if shared else ready
        original.add(owned[key].untyped_storage().data_ptr())  # no two weights of ours share memory either
    model.load_state_dict(owned, strict=False, assign=True)


def _official_gemma(hf: Any) -> str:
    """The official name of the Gemma whose shapes `hf` has: fine-tunes and own checkpoints keep them."""
    from transformer_lens import loading_from_pretrained as loading

    wanted = {ours: getattr(hf.config, theirs, None) for ours, theirs in _SHAPES.items()}
    for name in sorted(set(loading.make_model_alias_map().values())):
        if not name.startswith(("google/gemma", "google/medgemma")):
            continue
        found = loading.convert_hf_model_config(name)  # from a table in TransformerLens: nothing is fetched
        if found["original_architecture"] != type(hf).__name__:
            continue
        found = {"n_key_value_heads": found["n_heads"], **{k: v for k, v in found.items() if v is not None}}
        if all(found.get(key) == value for key, value in wanted.items()):
            return name
    shapes = ", ".join(f"{key}={value}" for key, value in wanted.items())
    raise NotConvertibleError(f"no official {type(hf).__name__} has these shapes: {shapes}")


@contextmanager
def _neutral_folder(hf: Any) -> Generator[Path]:
    """A temporary folder with the config of `hf` alone, whose path names no family of models."""
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp", str(Path.cwd())):
        folder = Path(tempfile.mkdtemp(prefix="lens-", dir=parent)) if Path(parent).is_dir() else None
        if folder is None:
            continue
        try:
            if any(name in str(folder.resolve()).lower() for name in _TAKEN_FOR_NAMES):
                continue
            config = json.loads(hf.config.to_json_string(use_diff=False))
            config["architectures"] = [type(hf).__name__]
            config.pop("auto_map", None)  # its own code is not in this folder
            config.setdefault("n_ctx", config.get("n_positions"))  # GPT-2 configs of transformers 5 lack it
            (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
            yield folder
            return
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    raise NotConvertibleError(
        "every folder for temporary files has a model family's name in its path, which TransformerLens takes "
        "for a model's name; set TMPDIR to another place"
    )
