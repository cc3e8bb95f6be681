"""A Hugging Face model as TransformerLens has it: its config, weights and tokenizer, or a bridge around it.

TransformerLens takes a path that contains "llama" or "gemma" for a model's name, and knows Gemma by official
name alone; both are settled here, without naming any model class of it. What it does unasked while it loads
(announce, trust code, install) is kept from it.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from graticule.hooks.points import resolve
from graticule.hooks.running.forward import (
    ATTENTION_WINDOWS,
    RopeBorders,
    config_of,
    rope_borders,
    windows,
)
from graticule.hooks.running.grouping import looks_ahead
from graticule.hooks.tokens import own_frame
from graticule.loading.original import Wishes, replaced, same_draws

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

logger = logging.getLogger(__name__)

_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json"),
    *("vocab.json", "vocab.txt", "spiece.model"),
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
_SHARDING = "transformers.distributed.tensor_parallel"


class NotConvertibleError(ValueError):
    """TransformerLens has no HookedTransformer config for this model."""


@contextmanager
def nothing_installed() -> Generator[None]:
    """TransformerLens installs torchvision by pip for a model that also sees pictures: not while inside."""

    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise OSError("nothing is installed while a model is loaded")

    with replaced(subprocess, "check_call", refuse):
        yield


@contextmanager
def no_code_by_name() -> Generator[None]:
    """TransformerLens trusts the code of some official models by itself: not while inside."""
    from transformer_lens import loading_from_pretrained as loading

    with replaced(loading, "NEED_REMOTE_CODE_MODELS", ()):
        yield


@contextmanager
def quiet_lens() -> Generator[None]:
    """TransformerLens 3.9 announces its removals on import and on use: ours to heed, not the user's.

    It also logs by the root logger, which then gets a handler: the user's to choose, so it is taken off. And
    transformers 5 tells of every model on one device that its layers were not sharded.
    """
    handlers, sharding = list(logging.root.handlers), logging.getLogger(_SHARDING)
    sharding.addFilter(_no_false_alarm)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The 'utils' module has been deprecated", DeprecationWarning)
            warnings.filterwarnings("ignore", "HookedTransformer", DeprecationWarning)
            yield
    finally:
        sharding.removeFilter(_no_false_alarm)
        if not handlers:
            logging.root.handlers.clear()


def _no_false_alarm(record: logging.LogRecord) -> bool:
    return "were not sharded" not in record.getMessage()


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

    Raises:
        NotConvertibleError: with the reason if TransformerLens has none.
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
    """Raise `NotConvertibleError` where TransformerLens's config loses what sets in with length: a window of
    attention, a rotary table that follows the length."""
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

    Raises:
        NotConvertibleError: with the reason if TransformerLens cannot convert them.
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
        config = loading.convert_hf_model_config(name)  # from a table in TransformerLens: nothing is fetched
        if config["original_architecture"] != type(hf).__name__:
            continue
        shapes = {
            "n_key_value_heads": config["n_heads"],
            **{k: v for k, v in config.items() if v is not None},
        }
        if all(shapes.get(key) == value for key, value in wanted.items()):
            return name
    listed = ", ".join(f"{key}={value}" for key, value in wanted.items())
    raise NotConvertibleError(f"no official {type(hf).__name__} has these shapes: {listed}")


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


def bridge_of(folder: Path, tokenizer: Any, name: str, wishes: Wishes, tokens: Any) -> TransformerBridge:
    """The model in `folder` as a TransformerBridge on the CPU.

    Raises:
        ValueError: if TransformerLens has no adapter for its architecture, or one that cannot run `tokens`.
    """
    from transformer_lens.model_bridge import TransformerBridge

    try:
        with same_draws(), nothing_installed():
            model: Any = TransformerBridge.boot_transformers(
                str(folder),
                device="cpu",
                dtype=wishes.dtype,
                tokenizer=tokenizer or stand_in_tokenizer(),
                trust_remote_code=wishes.trust_remote_code,
            )
        with torch.no_grad():
            model(tokens, return_type=None)
    except Exception as error:  # adapters fail on attributes, shapes and assertions alike
        words = " ".join(str(error).split())
        if "Could not determine supported architecture" in words:
            words = "TransformerLens has no adapter for it"  # it lists all that it has
        raise ValueError(
            f"{name} can be loaded neither as HookedTransformer nor as TransformerBridge: "
            f"{type(error).__name__}: {words}"
        ) from error
    if tokenizer is None:
        model.tokenizer = None
    model.cfg.model_name = name
    return model


def is_bridge(model: Any) -> bool:
    """Whether `model` is one."""
    from transformer_lens.model_bridge import TransformerBridge

    return isinstance(model, TransformerBridge)


def keep_own_tokens(
    model: Any, source: Path | str, name: str, trust_remote_code: bool, **options: Any
) -> None:
    """Let an encoder, or a model that reads both ways, get what its own tokenizer puts around a text.

    TransformerLens wants tokenizers that put BOS there, and they lose what else they put: `[CLS]`, `[SEP]`,
    EOS. A model that reads from left to right stays as TransformerLens has it; an EOS lost is told.

    Args:
        model: The model, with the tokenizer that TransformerLens has made of its own.
        source: A folder, or a name of the Hub.
        name: What the model is called.
        trust_remote_code: Run the code that comes with the tokenizer.
        options: Further ones of `from_pretrained`.
    """
    from transformers import AutoTokenizer

    tokenizer: Any = model.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        return
    own: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code, **options)
    wanted, present = own_frame(own, "a"), own_frame(tokenizer, "a")
    if not wanted or wanted == present or not getattr(own, "is_fast", False):
        return
    if looks_ahead(model, resolve(model, "resid_post")):
        tokenizer.backend_tokenizer.post_processor = own.backend_tokenizer.post_processor
    elif wanted.tail and not present.tail:
        logger.warning(
            "%s: its tokenizer ends texts with %s; a model that reads from left to right gets them without, "
            "as in TransformerLens",
            name,
            " ".join(map(str, own.convert_ids_to_tokens(list(wanted.tail)))),
        )
