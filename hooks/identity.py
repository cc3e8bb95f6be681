"""Which model this is: a name for people; digests of weights, configuration and tokenizer for machines."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from numbers import Number
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
import xxhash
from torch import Tensor

from graticule.hooks.calls import memory, products
from graticule.hooks.protocols import HookedModel, dtype_of, modules_of
from graticule.hooks.values import dtype_name

_RECOMPUTED = frozenset({"mask", "IGNORE", "inv_freq"})
"""Buffers that a forward makes anew, as long as its texts."""
_NOT_OF_THE_FORWARD = (
    "name", "path", "device", "tokenizer", "seed", "init", "version", "dtype", "prepend_bos",
    "checkpoint", "n_params", "trust_remote", "use_cache", "output_attentions", "output_hidden",
    "return_dict", "attn_implementation", "use_attn_result", "use_split_qkv", "use_hook",
    "use_attn_in", "label", "os_token_id", "dropout",
)  # fmt: skip
"""Parts of the names of settings that say where a model came from, how it is trained or what it hooks."""
_LIBRARIES = frozenset({"transformers", "transformer_lens"})
"""Their own hooks record, and change nothing."""
_log = logging.getLogger(__name__)
_EARLIER_LENGTH, _ENTRIES = 16, 1024
EARLIER = "recorded by an earlier version, whose digest left out settings and buffers: it cannot be compared"
"""What is said of an earlier version's identity where only a full one will do."""
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def model_identity(model: HookedModel) -> dict[str, Any]:
    """Name, class, size, dtype and digests of `model`, as provenance records them.

    `digest` is of the weights and buffers, `config` of the settings of its forward, `tokenizer` of what makes
    ids of texts, where there is one; `hooks` names the hook points with hooks of the user's own, where there
    are any, and `float32_products` how float32 matrices are multiplied, where that is not in float32.
    """
    cfg = model.cfg
    hooked = hooked_points(model)
    tokenizer: Any = getattr(model, "tokenizer", None)
    return {
        "name": str(getattr(cfg, "model_name", None) or type(model).__name__),
        "class": type(model).__name__,
        "n_layers": int(cfg.n_layers),
        "d_model": int(cfg.d_model),
        "dtype": dtype_name(dtype_of(model)),
        "digest": weight_digest(model),
        "config": config_digest(model),
        **({} if tokenizer is None else {"tokenizer": tokenizer_digest(tokenizer)}),
        **({"hooks": hooked} if hooked else {}),
        **products(),
    }


def weight_digest(model: HookedModel) -> str:
    """A digest of every parameter's and buffer's name, shape, dtype and bytes, in order.

    Buffers that the forward makes anew (causal masks, rotary frequencies) are left out. Not cryptographic: it
    tells models apart, it does not guard against forgery.

    Within a public call the bytes are read once. From one call to the next they are read again, at the speed
    of memory: what is written through `.data` leaves no other trace. So are those of a model with hooks of
    the user's own, which may write while the call runs.
    """
    tensors = _tensors(model)
    untraced = any(values.is_inference() for _, values in tensors)
    if untraced or not isinstance(model, torch.nn.Module) or hooked_points(model):
        return _digest_of(tensors)
    marks = [
        (name, id(t), t.data_ptr(), t._version, t.shape, t.stride(), t.dtype)  # pyright: ignore[reportPrivateUsage]
        for name, t in tensors
    ]
    read = memory().get(model)
    if read is None or read[0] != marks:
        read = memory()[model] = (marks, _digest_of(tensors))
    return read[1]


def _digest_of(tensors: Iterable[tuple[str, Tensor]]) -> str:
    digest = xxhash.xxh3_128()
    for name, values in tensors:
        digest.update(f"{name}{tuple(values.shape)}{values.dtype}".encode())
        digest.update(values.detach().reshape(-1).cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tensors(model: HookedModel) -> list[tuple[str, Tensor]]:
    buffers: Any = model.named_buffers() if isinstance(model, torch.nn.Module) else ()
    lasting = [(name, b) for name, b in buffers if name.rpartition(".")[2] not in _RECOMPUTED]
    return sorted([*model.named_parameters(), *lasting], key=lambda item: item[0])


def config_digest(model: HookedModel) -> str:
    """A digest of the settings that the forward reads: `cfg`, and a bridge's Hugging Face `config`.

    Names, paths, devices, tokenizers and settings at their defaults are left out.
    """
    original: Any = getattr(getattr(model, "original_model", None), "config", None)
    theirs = original.to_diff_dict() if hasattr(original, "to_diff_dict") else {}
    words = json.dumps([_settings(_changed(model.cfg)), _settings(theirs)], sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()[:32]


def _changed(cfg: Any) -> dict[str, Any]:
    """The settings of `cfg` that are not at their defaults: a newer library's new settings change nothing."""
    fields = dataclasses.fields(cfg) if dataclasses.is_dataclass(cfg) else ()
    defaults = {field.name: field.default for field in fields}
    values: dict[str, Any] = getattr(cfg, "__dict__", {})
    return {n: v for n, v in values.items() if _plain(v) != _plain(defaults.get(n, dataclasses.MISSING))}


def _settings(values: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        str(name): plain
        for name, value in values.items()
        if not str(name).startswith("_") and not any(part in str(name) for part in _NOT_OF_THE_FORWARD)
        if (plain := _plain(value)) is not None
    }


def _plain(value: Any) -> Any:
    """A setting as JSON has it, numbers by their value; None for what is no setting (objects, functions)."""
    if isinstance(value, bool | str):
        return value
    if isinstance(value, Number):
        return repr(float(cast("Any", value)))
    if isinstance(value, np.generic | np.ndarray | Tensor):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return _settings(cast("Mapping[Any, Any]", value))
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast("list[Any]", value)]
    return None


def hooked_points(model: HookedModel) -> list[str]:
    """Names of the hook points and modules with forward hooks, other than the libraries' own, and of the
    points that an attached SAE (`model.add_sae`) takes the place of, whose weights are none of the model's.
    """
    if not isinstance(model, torch.nn.Module):
        return []
    own = [name or "the model" for name, module in modules_of(model) if _has_hooks(module)]
    every = ["every module"] if _any_own(_of_every_module()) else []
    return [*every, *own, *attached_saes(model)]


def attached_saes(model: HookedModel) -> list[str]:
    """Names of the points that attached SAEs take the place of, told as such."""
    return [f"{name} (an SAE)" for name in getattr(model, "acts_to_saes", ())]


def tell_hooks(model: HookedModel, call: str) -> None:
    """Warn that what `call` reads is what hooks or attached SAEs of the user's own make of it."""
    if hooked := hooked_points(model):
        _log.warning(
            "%s: the model has hooks of its own at %s: what is read after them is what they make of it; "
            "model.reset_hooks() and model.reset_saes() remove them",
            call,
            _places(hooked),
        )


def _places(hooked: list[str]) -> str:
    return ", ".join(hooked[:3]) + (" …" if len(hooked) > 3 else "")


def _has_hooks(module: torch.nn.Module) -> bool:
    if getattr(module, "fwd_hooks", None):  # a hook point's
        return True
    return _any_own([*module._forward_hooks.values(), *module._forward_pre_hooks.values()])  # pyright: ignore[reportPrivateUsage]


def _of_every_module() -> list[Any]:
    """Hooks that torch runs at every module of the process."""
    places = torch.nn.modules.module
    return [*places._global_forward_hooks.values(), *places._global_forward_pre_hooks.values()]  # pyright: ignore[reportPrivateUsage]


def _any_own(hooks: Iterable[Any]) -> bool:
    return any(str(getattr(hook, "__module__", "")).partition(".")[0] not in _LIBRARIES for hook in hooks)


def check_unhooked(model: HookedModel, folder: Path | str) -> None:
    """Refuse to keep in a folder what hooks of the user's own change.

    Args:
        model: the model.
        folder: where its activations would be kept.

    Raises:
        ValueError: naming the points that have hooks.
    """
    if hooked := hooked_points(model):
        raise ValueError(
            f"the model has hooks of its own at {_places(hooked)}: what they do cannot be compared when "
            f"{folder} is opened again; remove them (model.reset_hooks(), model.reset_saes()), or give no "
            "folder"
        )


def of_earlier_digest(recorded: Any) -> bool:
    """Whether a recorded identity is of an earlier version, whose digest left out much of the model."""
    return isinstance(recorded, Mapping) and is_earlier(cast("Mapping[str, Any]", recorded).get("digest"))


def is_earlier(digest: Any) -> bool:
    """Whether a model's digest is an earlier version's, known by its length."""
    return isinstance(digest, str) and len(digest) == _EARLIER_LENGTH


def is_of(recorded: Mapping[str, Any], model: HookedModel, identity: Mapping[str, Any] | None = None) -> bool:
    """Whether a recorded identity is that of `model`, by the digests that were recorded.

    Args:
        recorded: an identity, also an earlier version's, which has an earlier digest alone.
        model: the model given now.
        identity: its identity, where it is there already.
    """
    if of_earlier_digest(recorded):
        return recorded["digest"] == _earlier_digest(model)
    ours = identity or model_identity(model)
    return all(recorded.get(key) == ours[key] for key in ("digest", "config"))


def _earlier_digest(model: HookedModel) -> str:
    """The digest of earlier versions: each parameter's bit sum and 1,024 evenly spaced entries."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters(), key=lambda item: item[0]):
        bits: Tensor = parameter.detach().reshape(-1).view(_BITS[parameter.element_size()])
        picked = bits[:: max(1, bits.numel() // _ENTRIES)].to("cpu", torch.int64)
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        digest.update(picked.numpy().tobytes())
        digest.update(str(_bit_sum(bits)).encode())
    return digest.hexdigest()[:_EARLIER_LENGTH]


def _bit_sum(bits: Tensor) -> int:
    """Sum of the entries modulo 2⁶⁴, eight bytes at a time: no wider copy of the weights is made."""
    if bits.storage_offset() * bits.element_size() % 8:
        bits = bits.clone()  # a slice that does not start on eight bytes
    whole = bits.numel() // (8 // bits.element_size()) * (8 // bits.element_size())
    words = int(bits[:whole].view(torch.int64).sum())
    return words + int(bits[whole:].sum(dtype=torch.int64))


# The tokenizer ---------------------------------------------------------------------------------------
_SAMPLE = "The Quick brown fox's 3 dogs, Zoë & 東京!\n\tnaïve  <b>café</b> 1,024"
_ELSEWHERE = ("path", "file", "name", "padding", "truncation")
"""Parts of the names of settings that say where a tokenizer lies, or how its rows are made even."""
_read: WeakKeyDictionary[Any, tuple[list[Any], str]] = WeakKeyDictionary()
"""Digests of fast tokenizers, and the marks they had: describing a large one takes a second."""


def tokenizer_digest(tokenizer: Any) -> str:
    """A digest of a tokenizer.

    Args:
        tokenizer: A Hugging Face tokenizer, or anything that is called as one.

    Returns:
        Of a fast one, a digest of its whole description but padding and truncation, which every call sets
        anew; of another, of its vocabulary, merges, settings and what it makes of a sample.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return _hashed(json.dumps(_parts(tokenizer), sort_keys=True, default=str))
    marks = _marks(backend)
    with suppress(TypeError, KeyError):  # not one that can be told by
        before, digest = _read[tokenizer]
        if before == marks:
            return digest
    words = str(backend.to_str())
    digest = _hashed(words[max(0, words.find('"added_tokens"')) :])
    with suppress(TypeError):
        _read[tokenizer] = (marks, digest)
    return digest


def _hashed(words: str) -> str:
    return hashlib.sha256(words.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _marks(backend: Any) -> list[Any]:
    """What an edit of a fast tokenizer changes, and is quickly read: its parts, and of its vocabulary some
    hundred entries and what it makes of a sample."""
    parts = (backend.normalizer, backend.pre_tokenizer, backend.post_processor, backend.decoder)
    states = [None if part is None else part.__getstate__() for part in parts]
    added = {i: str(token) for i, token in backend.get_added_tokens_decoder().items()}
    ids = backend.encode(_SAMPLE, add_special_tokens=False).ids
    size = backend.get_vocab_size()
    entries = [backend.id_to_token(i) for i in range(0, size, 1 + size // 512)]
    return [backend, *states, added, ids, size, entries]


def _parts(tokenizer: Any) -> list[Any]:
    """What makes a tokenizer without a description of its own."""
    settings: Mapping[str, Any] = getattr(tokenizer, "init_kwargs", None) or {}
    plain = {
        name: value
        for name, value in settings.items()
        if isinstance(value, bool | int | float | str) and not any(part in name for part in _ELSEWHERE)
    }
    vocabulary: Any = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else None
    ranks = cast("Mapping[Any, int]", getattr(tokenizer, "bpe_ranks", None) or {})
    merges = [[str(pair), rank] for pair, rank in ranks.items()]
    pieces: Any = getattr(getattr(tokenizer, "sp_model", None), "serialized_model_proto", None)
    model = hashlib.sha256(cast("bytes", pieces())).hexdigest() if callable(pieces) else None
    ids = list(tokenizer(_SAMPLE, add_special_tokens=False)["input_ids"])
    return [type(tokenizer).__name__, vocabulary, merges, model, plain, ids]
