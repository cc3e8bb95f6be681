"""The Hugging Face original of a model: read whole, or refused; its own code is not run unasked."""

import contextlib
import json
import logging
import re
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger(__name__)

_COMPUTED_BUFFERS = re.compile(
    r"(^|\.)(inv_freq|original_inv_freq|masked_bias|position_ids|token_type_ids"
    r"|(attn|attention|self_attn|self_attention)\.bias|embed_positions\.weights)$"
)
"""Entries that old weight files hold, or lack, and that every model computes for itself."""

_LONGEST = 300
"""Letters of transformers' own words that a message repeats."""

_LAYER = re.compile(r"(?:^|\.)\d+(?:\.|$)")


class IncompleteModelError(ValueError):
    """The weights in a model's files are not those that its config asks for."""


class EncoderDecoderError(ValueError):
    """A model whose decoder reads what an encoder made of another text: rows have no one stream of theirs."""


@dataclass(frozen=True)
class Wishes:
    """How a model is to be read: the arguments of `load_model` that every way of loading heeds."""

    dtype: torch.dtype
    verify: bool
    trust_remote_code: bool
    allow_missing: bool

    def original(self, source: Path | str, **options: Any) -> Any:
        """The Hugging Face model at `source`."""
        return read_original(
            source,
            self.dtype,
            trust_remote_code=self.trust_remote_code,
            allow_missing=self.allow_missing,
            **options,
        )


def read_original(
    source: Path | str,
    dtype: torch.dtype,
    *,
    trust_remote_code: bool = False,
    allow_missing: bool = False,
    **options: Any,
) -> Any:
    """The Hugging Face model in a folder (a `Path`) or of the Hub (a name), on the CPU, in eval mode.

    Args:
        source: A folder as `save_pretrained` writes it, or a name of the Hub.
        dtype: Of the weights.
        trust_remote_code: Run the code that comes with the model.
        allow_missing: Leave weights that the files lack at random values (the same in every call).
        options: Further ones of `from_pretrained`, such as `revision`.

    Returns:
        The model, as a causal or a masked language model.

    Raises:
        IncompleteModelError: The files lack weights, or hold others than the config asks for.
        EncoderDecoderError: It has an encoder beside its decoder.
        ValueError: transformers cannot read a language model there, or it needs code of its own.
        OSError: `source` is a name, and the Hub did not give it.
    """
    local = isinstance(source, Path)
    if local:
        _check_config(source)
        options["local_files_only"] = True
    options["trust_remote_code"] = trust_remote_code
    try:
        with _without_report(), same_draws():
            kind = _auto_class(source, options)
            hf, info = kind.from_pretrained(
                source, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
    except EncoderDecoderError as error:
        raise EncoderDecoderError(f"{source} {error}") from None
    except Exception as error:  # transformers raises whatever the missing piece happens to raise
        if not local and isinstance(error, OSError):
            raise
        raise ValueError(_reason(source, error, trust_remote_code)) from error
    check_weights(str(source), hf, info, allow_missing)
    return hf.eval()


def check_weights(what: str, hf: Any, info: dict[str, Any], allow_missing: bool | None = False) -> None:
    """Whether the files of `hf` held its weights, as transformers' `output_loading_info` tells.

    Tied weights and buffers that every model computes are not counted. Weights that the model has no place
    for are refused inside layers (the config has fewer of them, or other ones) and logged elsewhere: heads of
    other tasks.

    Args:
        what: What was loaded, for messages.
        hf: The model.
        info: What `from_pretrained` tells with `output_loading_info=True`.
        allow_missing: Whether weights may be missing; None where the caller cannot be given the choice.

    Raises:
        IncompleteModelError: Weights are missing, of another shape, or left over inside layers.
    """
    if info["mismatched_keys"]:
        key, in_file, expected = min(info["mismatched_keys"])
        raise IncompleteModelError(
            f"{what}: {len(info['mismatched_keys'])} weights have another shape than its config asks for, "
            f"first {key}: {tuple(in_file)} in the file, expected {tuple(expected)}; "
            "give the config.json that the weights were saved with"
        )
    missing = _weights_in(info["missing_keys"])
    if missing and not allow_missing:
        way_out = "" if allow_missing is None else "; to leave them random: load_model(…, allow_missing=True)"
        raise IncompleteModelError(
            f"{what}: {_several(missing, hf)} missing from its files{way_out}; fetch or save the model again"
        )
    if missing:
        logger.warning("%s: %s missing from its files, and random here", what, _several(missing, hf))
    unexpected = _weights_in(info["unexpected_keys"])
    inside = [key for key in unexpected if _in_layers(key, hf)]
    if inside:
        raise IncompleteModelError(
            f"{what}: its files hold {len(inside)} weights that its config has no place for, first "
            f"{inside[0]}; give the config.json that the weights were saved with"
        )
    if unexpected:
        logger.warning(
            "%s: left out, since %s has no place for them: %s",
            what,
            type(hf).__name__,
            ", ".join(unexpected[:5]) + (f" and {len(unexpected) - 5} more" if len(unexpected) > 5 else ""),
        )


@contextlib.contextmanager
def same_draws() -> Generator[None]:
    """Random numbers from one seed while inside: weights that files lack are equal in every load."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: object) -> Generator[None]:
    """An attribute of a library is `value` while inside."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _several(keys: list[str], hf: Any) -> str:
    total = len(hf.state_dict())
    return f"{len(keys)} of {total} weights (first {keys[0]}) {'is' if len(keys) == 1 else 'are'}"


def _weights_in(keys: Iterable[str]) -> list[str]:
    return sorted(key for key in keys if not _COMPUTED_BUFFERS.search(key))


def _in_layers(key: str, hf: Any) -> bool:
    """Whether `key` lies in one of the model's lists of layers, whatever its number."""
    lists = {name for name, module in hf.named_modules() if isinstance(module, torch.nn.ModuleList)}
    prefix = getattr(hf, "base_model_prefix", "")
    lists |= {name.removeprefix(f"{prefix}.") for name in lists}  # base models are saved without the prefix
    return any(key[: match.start()] in lists for match in _LAYER.finditer(key))


def _check_config(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file():  # without peft its weights would be left out in silence
        raise ValueError(
            f"{folder} holds an adapter: merge it into its model first, with peft's "
            "merge_and_unload().save_pretrained(folder)"
        )
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} has no config.json; expected a Hugging Face folder as save_pretrained() writes it"
        )


def _auto_class(source: Path | str, options: dict[str, Any]) -> Any:
    """The class of transformers that reads this model: masked if one can, unless it was saved as causal."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    config: Any = AutoConfig.from_pretrained(source, **options)
    _check_attention(config, options["trust_remote_code"])
    if getattr(config, "is_encoder_decoder", False):
        raise EncoderDecoderError(
            f"has an encoder and a decoder ({config.model_type}), which read two texts; expected a model of "
            "one stack, such as GPT-2, Gemma or BERT"
        )
    names = getattr(config, "architectures", None) or []
    continues = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names)
    causal: Any = AutoModelForCausalLM
    masked: Any = AutoModelForMaskedLM
    can_mask = type(config) in masked._model_mapping
    can_continue = type(config) in causal._model_mapping or hasattr(config, "auto_map")
    if not (can_mask or can_continue):
        raise ValueError(f"transformers has none for a {type(config).__name__}")
    return masked if can_mask and not (can_continue and continues) else causal


def _check_attention(config: Any, trust_remote_code: bool) -> None:
    """A config may name a repository of the Hub whose code is run as its attention."""
    implementation = getattr(config, "_attn_implementation", None)
    if isinstance(implementation, str) and "/" in implementation and not trust_remote_code:
        raise ValueError(f"its config asks for attention code from {implementation}")


def _reason(source: Path | str, error: Exception, trusted: bool) -> str:
    """Why `source` cannot be read, in one line."""
    words = " ".join(str(error).split())
    if "SafetensorError" in type(error).__name__ or isinstance(error, json.JSONDecodeError):
        words = f"a file is damaged or cut short ({words}); fetch or save the model again"
    if "weights_only" in words:  # torch's words go on to say how to run it
        return (
            f"{source} keeps its weights in a pickle that holds more than weights, or is damaged: it could "
            "run any code, and is not loaded. Give the model's safetensors files: its maker writes them with "
            "save_pretrained(folder)"
        )
    code = "trust_remote_code" in words or "attention code" in words
    if code and not trusted:
        return (
            f"{source} brings code of its own, which is not run unasked: read it, then "
            "load_model(…, trust_remote_code=True) in Python"
        )
    words = words if len(words) <= _LONGEST else f"{words[:_LONGEST]} …"  # it lists all that it has
    return f"transformers cannot read a causal language model from {source}: {words or type(error).__name__}"


@contextlib.contextmanager
def _without_report() -> Generator[None]:
    """Keep back transformers' own table of missing weights: they are told in one line."""
    log = logging.getLogger("transformers.modeling_utils")
    utilities = logging.getLogger("transformers.utils.loading_report")
    levels = log.level, utilities.level
    log.setLevel(logging.ERROR)
    utilities.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(levels[0])
        utilities.setLevel(levels[1])
