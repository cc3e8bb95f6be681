"""Which tokenizer this is: a digest of all that turns texts into ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast
from weakref import WeakKeyDictionary

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
        return _digest_of(json.dumps(_parts(tokenizer), sort_keys=True, default=str))
    marks = _marks(backend)
    with suppress(TypeError, KeyError):  # not one that can be told by
        before, digest = _read[tokenizer]
        if before == marks:
            return digest
    words = str(backend.to_str())
    digest = _digest_of(words[max(0, words.find('"added_tokens"')) :])
    with suppress(TypeError):
        _read[tokenizer] = (marks, digest)
    return digest


def _digest_of(words: str) -> str:
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
