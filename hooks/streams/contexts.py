"""Contexts: documents cut and joined into token rows of one length, just as SAELens makes them.

Texts are joined: a context begins with BOS where it is prepended, documents that follow one another inside a
context are parted by the separator (BOS by default), a context is full before the next begins, and what is
left of the corpus at its end is dropped. This is `sae_lens.tokenization_and_batching`, to the token.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from graticule.hooks.limits import check_indices
from graticule.hooks.model_view import ModelView
from graticule.hooks.protocols import HookedModel
from graticule.hooks.streams.corpora import Corpus, ReadSoFar
from graticule.hooks.tokens import SpecialToken, special_frame, special_id
from graticule.hooks.values import check_range, token_ids

_log = logging.getLogger(__name__)

Separator = int | Literal["bos", "eos", "sep"] | None
"""A token id, a special token's name, or none."""

_DEFAULT_SIZE = 128
_SPECIAL: tuple[SpecialToken, ...] = ("bos", "eos", "pad", "sep")


@dataclass(frozen=True)
class ContextSettings:
    """How documents become contexts; the names are those of SAELens's configs."""

    context_size: int
    """Tokens a context, BOS included."""
    prepend_bos: bool
    """Whether every context begins with BOS."""
    bos: int | None
    """The BOS id that is prepended."""
    separator: int | None
    """The id between two documents in one context."""
    pack: bool
    """Whether documents are joined; if not, each gives its first `context_size` tokens, and shorter texts are
    dropped (SAELens's `disable_concat_sequences`)."""

    @classmethod
    def of(
        cls,
        model: HookedModel,
        corpus: Corpus,
        context_size: int | None = None,
        prepend_bos: bool | None = None,
        separator: Separator = "bos",
        pack: bool | None = None,
    ) -> ContextSettings:
        """What None stands for: 128 tokens or as many as the model takes (for token rows, the first row's
        length); BOS as `model.cfg.default_prepend_bos` has it; texts are joined, token rows are not.

        Token rows that are not joined are used as they are: no BOS is prepended.

        Raises:
            ValueError: for a context that the model cannot take or that has no room for a token.
        """
        tokenizer: Any = getattr(model, "tokenizer", None)
        joined = pack if pack is not None else not corpus.tokenised
        n_ctx = ModelView(model).n_ctx
        size = context_size if context_size is not None else _size(corpus, joined, n_ctx)
        bos = special_id(tokenizer, "bos")
        if prepend_bos and bos is None:
            raise ValueError("prepend_bos=True, but the model's tokenizer has no BOS token")
        default = ModelView(model).prepends_bos
        if not (default if prepend_bos is None else prepend_bos) or (corpus.tokenised and not joined):
            bos = None
        if n_ctx and size > n_ctx:
            raise ValueError(f"context_size={size}: the model takes at most {n_ctx} tokens")
        if size < (1 if bos is None else 2):
            raise ValueError(f"context_size={size} leaves no room for a token beside BOS")
        if (
            tokenizer is not None
            and not corpus.tokenised
            and special_frame(tokenizer, "a", default_bos=False)
        ):
            _log.warning(
                "this tokenizer puts special tokens around every text (an encoder's [CLS] and [SEP]), and "
                "contexts of joined texts have none: train on token rows that hold them"
            )
        between = _separator(separator, tokenizer) if joined else None
        for what, special in (("the BOS token", bos), ("separator", between)):
            if special is not None:
                token_ids([special], what, ModelView(model).d_vocab)
        return cls(size, bos is not None, bos, between, joined)

    def to_dict(self) -> dict[str, Any]:
        """The settings by name."""
        return asdict(self)


def _size(corpus: Corpus, joined: bool, n_ctx: int) -> int:
    if corpus.tokenised and not joined:
        size = len(corpus.first())
        return min(size, n_ctx or size)
    return min(_DEFAULT_SIZE, n_ctx or _DEFAULT_SIZE)


def _separator(separator: Separator, tokenizer: Any) -> int | None:
    if separator is None or (isinstance(separator, int) and not isinstance(separator, bool)):
        return separator
    if separator not in ("bos", "eos", "sep"):
        raise ValueError(f"separator={separator!r}: expected 'bos', 'eos', 'sep', a token id or None")
    return special_id(tokenizer, separator)


def special_ids(
    exclude: bool | Sequence[int], tokenizer: Any, vocabulary: int | None = None
) -> tuple[int, ...]:
    """Ids of the tokens whose rows are left out: for True BOS, EOS, PAD, SEP and the decoder's start, as
    SAELens's `exclude_special_tokens` has it; a list is used as it is.

    Raises:
        LimitError: for a list with anything but ids of the vocabulary.
        IndexError: for a list with anything but ids of the vocabulary.
    """
    if exclude is False:
        return ()
    if exclude is not True:
        ids = check_indices("exclude_special", exclude, vocabulary, "the model's vocabulary", once=False)
        return tuple(sorted(set(ids)))
    named = (special_id(tokenizer, kind) for kind in _SPECIAL)
    start = getattr(tokenizer, "decoder_start_token_id", None)
    return tuple(sorted({int(i) for i in (*named, start) if i is not None}))


class ContextReader:
    """Contexts of a corpus in order, with a place to go on from.

    The place is the next document and token, which is exact wherever a context has just been completed.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Any,
        settings: ContextSettings,
        epochs: int | None = 1,
        vocabulary: int | None = None,
    ) -> None:
        """`epochs` is how often the corpus is read; None is without end. `vocabulary` is how many ids the
        model has an embedding for."""
        self.corpus, self.tokenizer, self.settings, self.epochs = corpus, tokenizer, settings, epochs
        self.vocabulary = vocabulary
        self._so_far = ReadSoFar(corpus)
        self.epoch, self.document, self.offset = 0, 0, 0
        self._documents: Iterator[tuple[int, np.ndarray]] | None = None
        self._ids: np.ndarray | None = None
        self._made = 0  # contexts in this epoch: a corpus too small for one must not be read for ever
        self._partial = np.empty(settings.context_size, dtype=np.int64)
        self._filled = 0

    def take(self, n: int) -> Int[np.ndarray, "context pos"]:
        """The next `n` contexts; fewer where the corpus ends."""
        contexts: list[np.ndarray] = []
        while len(contexts) < n:
            if self._ids is None and not self._next_document():
                break
            context = self._step()
            if context is not None:
                contexts.append(context)
                self._made += 1
        if not contexts:
            return np.empty((0, self.settings.context_size), dtype=np.int64)
        return np.stack(contexts)

    def _next_document(self) -> bool:
        """Go to the next document, in the next epoch where one has ended."""
        while self.epochs is None or self.epoch < self.epochs:
            if self._documents is None:
                watch = None if self.epoch else self._so_far.watch
                self._documents = self.corpus.tokens(self.tokenizer, self.document, watch=watch)
            following = next(self._documents, None)
            if following is not None:
                number, self._ids = following
                check_range(self._ids, f"document {number} of {self.corpus.name}", self.vocabulary)
                if number != self.document:
                    self.document, self.offset = number, 0
                return True
            if self.epochs is None and not self._made:
                raise ValueError(
                    f"{self.corpus.name} does not fill one context of {self.settings.context_size} tokens"
                )
            self._so_far.finish(None)
            self.epoch, self.document, self.offset, self._documents = self.epoch + 1, 0, 0, None
            self._made, self._filled = 0, 0
        return False

    def _step(self) -> np.ndarray | None:
        """Use the document at hand as far as the context goes; the context, if it is full."""
        ids = self._ids
        assert ids is not None
        if not self.settings.pack:
            self._finish_document()
            return self._alone(ids)
        length, size = self._filled, self.settings.context_size
        lead = self.settings.bos if length == 0 else self.settings.separator
        if lead is not None and ids[self.offset] != lead:
            self._partial[length] = lead
            length += 1
        taken = ids[self.offset : self.offset + size - length]
        self._partial[length : length + len(taken)] = taken
        self.offset += len(taken)
        self._filled = length + len(taken)
        if self.offset >= len(ids):
            self._finish_document()
        if self._filled < size:
            return None
        self._filled = 0
        return self._partial.copy()

    def _finish_document(self) -> None:
        self._ids = None
        self.document, self.offset = self.document + 1, 0

    def _alone(self, ids: np.ndarray) -> np.ndarray | None:
        """The first tokens of a document of its own."""
        size, bos = self.settings.context_size, self.settings.bos
        if self.corpus.tokenised and len(ids) < size:
            raise ValueError(
                f"document {self.document - 1} of {self.corpus.name} has {len(ids)} tokens, fewer than "
                f"context_size={size}; set a smaller one, or pack=True to join documents"
            )
        if bos is not None and ids[0] != bos:
            ids = np.concatenate([[bos], ids])
        return ids[:size] if len(ids) >= size else None

    # Place -------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """The place after the last context taken, and a digest of all documents read for it."""
        if self.epoch == 0:
            self._so_far.finish(self.document + (self.offset > 0))
        place = {"epoch": self.epoch, "document": self.document, "offset": self.offset, "made": self._made}
        return {**place, **self._so_far.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a place.

        Raises:
            ValueError: where the documents read until then are others now.
        """
        self._so_far.load_state_dict(state)
        self.epoch, self.document, self.offset = state["epoch"], state["document"], state["offset"]
        self._made, self._filled = state["made"], 0
        self._documents, self._ids = None, None


def contexts(
    model: HookedModel,
    corpus: Any,
    n: int,
    *,
    column: str | None = None,
    context_size: int | None = None,
    prepend_bos: bool | None = None,
    separator: Separator = "bos",
    pack: bool | None = None,
) -> Int[np.ndarray, "context pos"]:
    """The first `n` contexts of a corpus (fewer where it ends): rows for `capture` or an evaluation.

    Arguments as in `LiveStream`, whose very contexts these are.
    """
    read = Corpus.read(corpus, column)
    settings = ContextSettings.of(model, read, context_size, prepend_bos, separator, pack)
    return ContextReader(
        read, getattr(model, "tokenizer", None), settings, vocabulary=ModelView(model).d_vocab
    ).take(n)
