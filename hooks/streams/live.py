"""Batches straight from a model and a corpus, mixed in a buffer that spans many contexts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from graticule.hooks.calls import plainly
from graticule.hooks.identity import model_identity, tokenizer_digest
from graticule.hooks.messages import visible
from graticule.hooks.model_view import ModelView
from graticule.hooks.points import LayerSpec, PointSpec, resolve
from graticule.hooks.protocols import HookedModel, device_of, dtype_of
from graticule.hooks.running.session import packed, undisturbed
from graticule.hooks.streams.base import MAX_NORM, BaseStream, Normalize, NormLimit
from graticule.hooks.streams.buffer import MixingBuffer, Passes, Selection
from graticule.hooks.streams.contexts import ContextReader, ContextSettings, Separator, special_ids
from graticule.hooks.streams.corpora import Corpus
from graticule.hooks.tokens import special_id
from graticule.hooks.values import dtype_name, dtype_named

_log = logging.getLogger(__name__)


class LiveStream(BaseStream):
    """Activations of a model running over a corpus: one forward pass for all points, no further than needed.

    Rows wait in a buffer allocated once; a batch is drawn uniformly from all of them, so that it mixes
    `buffer_tokens / tokens_per_context` contexts, and every row is delivered once. Its draws depend on the
    seed and their number alone: a stream that goes on from `state_dict` gives the very batches that would
    have come.

    Contexts are those that SAELens's `ActivationsStore` makes of the same texts (`contexts.py`).
    """

    @plainly()
    def __init__(
        self,
        model: HookedModel,
        corpus: Any,
        points: PointSpec,
        batch_size: int = 4096,
        *,
        layers: LayerSpec = "all",
        column: str | None = None,
        context_size: int | None = None,
        tokens_per_context: int | None = None,
        buffer_tokens: int = 2**17,
        exclude_special: bool | Sequence[int] = True,
        max_norm: float | int | None = MAX_NORM,
        prepend_bos: bool | None = None,
        separator: Separator = "bos",
        pack: bool | None = None,
        seqpos_slice: tuple[int | None, ...] = (None,),
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        normalize: Normalize = "none",
        n_tokens: int | None = None,
        epochs: int | None = 1,
        seed: int = 0,
        token_budget: int | None = None,
        progress: bool | None = None,
    ) -> None:
        """Args:
            corpus: a `Corpus`, or what `Corpus.read` takes (`column` goes there).
            points: hook points, as in `graticule.hooks.points.resolve`.
            layers: see `points`.
            context_size: tokens a context, BOS included; by default 128 or as many as the model takes (token
                rows: the first row's length).
            tokens_per_context: so many tokens drawn at random from every context; None is all of them.
            buffer_tokens: rows mixed together. They are in memory: times width, points and bytes an entry.
            exclude_special: leave out the rows of BOS, EOS, PAD and SEP; or the token ids to leave out.
            max_norm: leave out rows (at every point) whose norm at any point is over so many times the median
                of the first pass there: attention sinks. None takes all in.
            prepend_bos: whether BOS stands before each context; None: as the model has it.
            separator: what parts two documents in a context.
            pack: whether documents are joined at all; texts are, token rows not.
            seqpos_slice: positions of a context that count, `(start, stop, step)` as in SAELens.
            dtype: of the rows; the model's own by default.
            device: see `dtype`.
            normalize: as in SAELens; the mean norm is that of the first full buffer.
            n_tokens: rows in all, in whole batches. None is as many as the corpus gives.
            epochs: how often the corpus is read; None is without end.
            token_budget: tokens a forward pass; 2,048 on a CPU, 16,384 elsewhere.
            progress: a bar for the first filling; by default where the buffer is large.

        Raises:
            PointError: for unknown points.
            ValueError: for settings that do not fit each other.
        """
        self.model, self.corpus = model, Corpus.read(corpus, column)
        self._tokenizer: Any = getattr(model, "tokenizer", None)
        self.contexts = ContextSettings.of(model, self.corpus, context_size, prepend_bos, separator, pack)
        self.separator: Separator = separator
        self.exclude_special = exclude_special if isinstance(exclude_special, bool) else list(exclude_special)
        self.selection = Selection(
            special_ids(exclude_special, self._tokenizer, ModelView(model).d_vocab),
            tuple(seqpos_slice),
            tokens_per_context,
            seed,
        )
        names = resolve(model, points, layers)
        self.norm_limit = NormLimit(max_norm)
        self._passes = Passes(model, names, self.selection, self.norm_limit)
        super().__init__(names, self._passes.widths, batch_size, normalize)
        self.seed, self.n_tokens, self.epochs, self.buffer_tokens = seed, n_tokens, epochs, buffer_tokens
        self._n_batches = self._check_sizes()
        self.dtype = dtype_named(dtype) or dtype_of(model)
        self.token_budget = token_budget or (2048 if device_of(model).type == "cpu" else 16_384)
        self._a_pass = max(1, self.token_budget // self.contexts.context_size)
        room = buffer_tokens + self._a_pass * self.selection.most(self.contexts.context_size)
        self._buffer = MixingBuffer(
            self.widths, room, self.dtype, device_of(model) if device is None else device
        )
        self._contexts = ContextReader(
            self.corpus, self._tokenizer, self.contexts, epochs, ModelView(model).d_vocab
        )
        self._ran = self._drawn = self._produced = 0
        self._ended = self._warned = self._said_left_out = False
        self._progress = progress
        self._identity: dict[str, Any] | None = None

    def _check_sizes(self) -> int | None:
        """Batches in all.

        Raises:
            ValueError: For sizes that do not fit.
        """
        if self.buffer_tokens < self.batch_size:
            raise ValueError(
                f"buffer_tokens={self.buffer_tokens} is smaller than batch_size={self.batch_size}"
            )
        if self.n_tokens is None:
            return None
        if self.n_tokens < self.batch_size:
            raise ValueError(
                f"n_tokens={self.n_tokens} is less than one batch of {self.batch_size}: write "
                f"batch_size={max(1, self.n_tokens)} or less, or more n_tokens"
            )
        return self.n_tokens // self.batch_size

    # Batches -----------------------------------------------------------------------------------------
    @plainly()
    def __next__(self) -> dict[str, Tensor]:
        if self._n_batches is not None and self._drawn >= self._n_batches:
            raise StopIteration
        self._fill()
        if self._buffer.n_rows < self.batch_size:
            self._tell_end()
            raise StopIteration
        self._know_factors()  # of the first full buffer: before anything leaves it
        rows = self._buffer.draw(self.batch_size, np.random.default_rng([self.seed, 1, self._drawn]))
        self._drawn += 1
        return self._scaled(rows)

    @plainly()
    def sample(self, n: int, seed: int = 0) -> dict[str, Tensor]:
        """Up to `n` of the rows now in the buffer, scaled as batches are; the batches to come stay."""
        self._fill()
        if self._buffer.n_rows == 0 and self._drawn == 0:
            self._tell_end()
        return self._scaled(self._buffer.sample(n, np.random.default_rng(seed)))

    def _mean_norms(self) -> dict[str, float]:
        self._fill()
        return self._buffer.mean_norms()

    def _tell_end(self) -> None:
        if self._drawn == 0 and self._ran == 0:
            joined = "" if self.contexts.pack else ", or pack=True, which joins documents"
            raise ValueError(
                f"{self.corpus.name} does not fill one context of {self.contexts.context_size} tokens: give "
                f"more text or a smaller context_size={joined}"
            )
        if self._drawn == 0:
            raise ValueError(
                f"{self.corpus.name} gives {self._produced} rows, fewer than one batch of {self.batch_size}: "
                "give more text or a smaller batch_size"
            )
        if self._n_batches is not None and not self._warned:
            _log.warning(
                "%s ended after %d of %d batches; give more text, or epochs=2 to read it again",
                self.corpus.name,
                self._drawn,
                self._n_batches,
            )
        self._warned = True

    # Filling -----------------------------------------------------------------------------------------
    def _fill(self) -> None:
        """Run the model until the buffer is full, once it is an eighth short of it.

        Towards the end no more rows are made than are still to be delivered.
        """
        low = max(self.batch_size, self.buffer_tokens - self.buffer_tokens // 8)
        target = self.buffer_tokens
        if self._n_batches is not None:
            target = min(target, (self._n_batches - self._drawn) * self.batch_size)
        missing = target - self._buffer.n_rows
        if self._ended or self._buffer.n_rows >= low or missing <= 0:
            return
        show_progress = self._progress if self._progress is not None else missing > 20_000 and not self._drawn
        with ExitStack() as stack:
            bar = stack.enter_context(
                tqdm(total=missing, desc="activations", unit="row", leave=False, disable=not show_progress)
            )
            stack.enter_context(undisturbed(self.model))
            stack.enter_context(packed(self.model))
            while not self._ended and self._buffer.n_rows < target:
                bar.update(self._pass())

    def _pass(self) -> int:
        """One forward pass; how many rows it gave. After an exception the stream is as it was before."""
        place = self._contexts.state_dict()
        try:
            tokens = self._contexts.take(self._a_pass)
            if len(tokens) == 0:
                self._ended = True
                return 0
            n = self._passes(tokens, self._ran, self._buffer, self._where(place))
        except BaseException:
            self._contexts.load_state_dict(place)
            raise
        if self.norm_limit.left_out and not self._said_left_out:
            _log.warning("%s: %s; max_norm=None takes them in", self.corpus.name, self.norm_limit.words)
            self._said_left_out = True
        self._ran += 1
        self._produced += n
        return n

    def _where(self, place: Mapping[str, int]) -> str:
        return f"documents {place['document']} to {self._contexts.document} of {self.corpus.name}"

    # State -------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Place in the corpus, counters (which are the random state), and the rows in the buffer."""
        return {
            "settings": self._settings(),
            "place": self._contexts.state_dict(),
            "passes": self._ran,
            "drawn": self._drawn,
            "produced": self._produced,
            "scaling_factors": self._factors,
            "norm_limit": self.norm_limit.state_dict(),
            "buffer": self._buffer.state_dict(),
        }

    @plainly()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state` with the very batches that would have come.

        `n_tokens` and `epochs` may have been raised since.

        Raises:
            ValueError: where the state is of another stream, naming what differs.
        """
        self._check(state)
        self._contexts.load_state_dict(state["place"])
        self._buffer.load_state_dict(state["buffer"])
        self._ran, self._drawn, self._produced = state["passes"], state["drawn"], state["produced"]
        self._ended = self._warned = False
        self._load_factors(state)
        self.norm_limit.load_state_dict(state.get("norm_limit"))

    def _settings(self) -> dict[str, Any]:
        if self._identity is None:
            model = {k: v for k, v in model_identity(self.model).items() if k != "tokenizer"}
            self._identity = {"model": model, "corpus": self.corpus.identity()}
            if not self.corpus.tokenised:
                self._identity["tokenizer"] = tokenizer_digest(self._tokenizer)
        return {
            "stream": "live",
            **self._identity,
            "points": list(self.points),
            "batch_size": self.batch_size,
            "contexts": self.contexts.to_dict(),
            "tokens_per_context": self.selection.tokens_per_context,
            "buffer_tokens": self.buffer_tokens,
            "special_ids": list(self.selection.special),
            "max_norm": self.norm_limit.multiple,
            "seqpos_slice": list(self.selection.seqpos_slice),
            "dtype": dtype_name(self.dtype),
            "normalize": self.normalize,
            "seed": self.seed,
            "token_budget": self.token_budget,
        }

    def metadata(self) -> dict[str, Any]:
        """SAELens's names for the data's settings, and graticule's own under `"graticule"`."""
        settings = self._settings()
        identity = settings["model"]
        return {
            "model_name": identity["name"],
            "model_class_name": identity["class"],
            "model_from_pretrained_kwargs": {},
            **({"hook_name": self.points[0]} if len(self.points) == 1 else {}),
            "hook_head_index": None,
            "dataset_path": self.corpus.name,
            "context_size": self.contexts.context_size,
            "prepend_bos": self._begins_with_bos(),
            "seqpos_slice": list(self.selection.seqpos_slice),
            "exclude_special_tokens": self.exclude_special,
            "sequence_separator_token": self.separator,
            "disable_concat_sequences": not self.contexts.pack,
            "graticule": {
                **settings,
                "n_tokens": self.n_tokens,
                "epochs": self.epochs,
                "scaling_factors": self._factors,
            },
        }

    def _begins_with_bos(self) -> bool:
        """Whether contexts begin with BOS: prepended, or there in token rows already."""
        if self.contexts.prepend_bos or not self.corpus.tokenised or self.contexts.pack:
            return self.contexts.prepend_bos
        first: Any = self.corpus.first()
        return bool(first[0] == special_id(self._tokenizer, "bos"))

    def __repr__(self) -> str:
        return visible(
            f"LiveStream({', '.join(self.points)}; batches of {self.batch_size} from a buffer of "
            f"{self.buffer_tokens} rows; {self.corpus.name} in contexts of {self.contexts.context_size})"
        )
