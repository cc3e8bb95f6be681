"""Record activations during the user's own forward passes and `generate`."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from graticule.hooks.activations import Activations
from graticule.hooks.alignment import TOKEN_DIGEST
from graticule.hooks.calls import plainly, renamed
from graticule.hooks.capture_spec import pos_to_data
from graticule.hooks.doors import MODEL, door, several_texts
from graticule.hooks.identity import attached_saes, hooked_points, model_identity
from graticule.hooks.padding import Extent, Lengths, RowPos, check_unseen, extent_of, index_or_slice
from graticule.hooks.points import LayerSpec, PointError, PointSpec, never_reached, resolve
from graticule.hooks.protocols import HookedModel
from graticule.hooks.running.session import drops_out, in_eval_mode
from graticule.hooks.same_model import answer_of
from graticule.hooks.token_digests import check_tokens, digests_of_rows, digests_of_texts
from graticule.hooks.tokens import frame_in_rows

_log = logging.getLogger(__name__)

_MASKS = frozenset({"attention_mask", "one_zero_attention_mask"})
"""Arguments of a pass that say what is padding."""


class Recording:
    """What was recorded so far; `activations` is available inside and after the `with` block."""

    def __init__(
        self,
        model: HookedModel,
        points: tuple[str, ...],
        pos: RowPos,
        lengths: Lengths | None = None,
        attention_mask: Any = None,
        texts: Sequence[str] | None = None,
        include_bos: bool | None = None,
    ) -> None:
        self._model, self._points = model, points
        self._pos: RowPos = pos
        self._lengths, self._mask, self._texts = lengths, attention_mask, texts
        self._parts: dict[str, list[Tensor]] = {p: [] for p in points}
        self._rows: list[pd.DataFrame] = []
        self._batches: list[int] = []
        self._digests: list[np.ndarray | None] = []
        self._extent: Extent | None = None
        self._include_bos = include_bos is not False
        self._passed: dict[str, Any] = {}
        self._unmasked: tuple[Extent, int] | None = None
        self._trying = False
        self._hooked = hooked_points(model)  # before the recording's own hooks

    def _begin(self, passed: dict[str, Any]) -> None:
        """A pass begins with these arguments of the model's forward."""
        self._passed, self._extent = passed, None
        self._hooked = list(dict.fromkeys([*self._hooked, *attached_saes(self._model)]))

    def _read(self, point: str, value: Tensor) -> None:
        if self._trying:
            return
        if value.ndim < 3:
            raise ValueError(f"{point} has shape {tuple(value.shape)}; expected [batch, pos, …]")
        batch, length = value.shape[:2]
        if self._extent is None or point == self._points[0]:
            self._extent = self._texts_of_pass(batch, length)
            if (self._extent.stop < length).any() and not _MASKS & {*self._passed}:
                self._unmasked = self._extent, length
        row, place, position = self._picked(self._extent)
        at = torch.from_numpy(row).to(value.device), torch.from_numpy(place).to(value.device)
        with torch.inference_mode(mode=False), torch.no_grad():  # rows that can be used outside it
            self._parts[point].append(value.detach()[at].flatten(1).to("cpu", copy=True))
        if point == self._points[0]:
            table = {"call": len(self._batches), "source": row, "position": position}
            self._rows.append(pd.DataFrame(table))
            self._batches.append(batch)
            self._digests.append(self._tokens_of_pass(self._extent))

    def _picked(self, extent: Extent) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Batch row, place in the row and position in the text of the tokens at `pos`."""
        if self._include_bos:
            return extent.pick(index_or_slice(self._pos))
        start, stop = self._own(extent).T
        if isinstance(self._pos, str):  # of the text's own tokens
            inside = Extent(extent.start + start, extent.start + stop)
            row, place, position = inside.pick(slice(-1 if self._pos == "last" else None, None))
            return row, place, position + start[row]
        row, place, position = extent.pick(self._pos)
        own = (position >= start[row]) & (position < stop[row])
        special = ~own & (start < stop)[row]  # a step that generates one has no own token at all
        if not isinstance(self._pos, slice) and special.any():
            raise ValueError(
                f"pos={self._pos} is a special token of text {row[special][0]}, and include_bos=False leaves "
                "it out"
            )
        return row[own], place[own], position[own]

    def _tokens_of_pass(self, extent: Extent) -> np.ndarray | None:
        """The digest of each text's own tokens, or None where the pass does not tell them."""
        given = self._passed.get("input", self._passed.get("input_ids"))
        tokenizer = getattr(self._model, "tokenizer", None)
        if isinstance(given, str | list):
            return digests_of_texts(tokenizer, [given] if isinstance(given, str) else given)
        if isinstance(given, Tensor) and given.ndim == 2 and not given.is_floating_point():
            return digests_of_rows(tokenizer, _within(given, extent))
        return None

    def _texts_of_pass(self, batch: int, length: int) -> Extent:
        tokenizer = getattr(self._model, "tokenizer", None)
        if self._lengths is not None or self._mask is not None:
            return extent_of(batch, length, None, tokenizer, self._lengths, self._mask)
        mask = self._passed.get("attention_mask")
        if mask is not None and tuple(mask.shape) == (batch, length):
            return Extent.of_mask(mask, batch, length)
        given = self._passed.get("input", self._passed.get("input_ids"))
        if isinstance(given, str):
            return Extent.whole(batch, length)
        if isinstance(given, list) and len(given) == batch and all(isinstance(t, str) for t in given):
            return self._of_strings(given, length)
        ids = given if isinstance(given, Tensor) and tuple(given.shape) == (batch, length) else None
        return extent_of(batch, length, None if ids is None else ids.cpu().numpy(), tokenizer)

    def _own(self, extent: Extent) -> np.ndarray:
        """`[batch, 2]`: where in each text its own tokens, without BOS and its like, begin and end.

        Raises:
            ValueError: For a pass whose tokens are not known.
        """
        given = self._passed.get("input", self._passed.get("input_ids"))
        model: Any = self._model
        if isinstance(given, str):
            given = [given]
        if isinstance(given, list) and all(isinstance(t, str) for t in given):
            bos: Any = {"prepend_bos": self._passed["prepend_bos"]} if "prepend_bos" in self._passed else {}
            rows = [model.to_tokens(text, **bos)[0].tolist() for text in given]
        elif isinstance(given, Tensor) and given.ndim == 2 and not given.is_floating_point():
            rows = _within(given, extent)
        else:
            raise ValueError(
                "include_bos=False: the tokens of this pass are not known; run it on texts or token ids"
            )
        frame = frame_in_rows(getattr(model, "tokenizer", None))
        return np.array([frame.own(ids) for ids in rows])

    def _of_strings(self, texts: list[str], length: int) -> Extent:
        """Texts that the model itself tokenises and pads, on the side it was told or its tokenizer's own."""
        model: Any = self._model
        bos: Any = {"prepend_bos": self._passed["prepend_bos"]} if "prepend_bos" in self._passed else {}
        counts = np.array([int(model.to_tokens(text, **bos).shape[-1]) for text in texts])
        side = self._passed.get("padding_side") or getattr(model.tokenizer, "padding_side", "right")
        if side == "left":
            return Extent(length - counts, np.full(len(texts), length))
        return Extent.of_lengths(counts, len(texts), length)

    @property
    @plainly()
    def activations(self) -> Activations:
        """The rows of all calls, one call after another; `call` counts them, `source` is the batch row (with
        `texts=`, the text), and `position` counts a text's tokens within the call (a `generate` step with a
        cache sees one position).

        Raises:
            PointError: if the passes never came by a point.
            ValueError: if the model was not run, some points were reached more often than others, or no token
                was at `pos`.
        """
        counts = {p: len(parts) for p, parts in self._parts.items()}
        if self._passed and (unseen := [p for p, n in counts.items() if not n]):
            raise PointError(never_reached(unseen, self._model))
        if not any(counts.values()):
            raise ValueError("nothing was recorded: run the model inside the `with record(...)` block")
        if len(set(counts.values())) != 1:
            raise ValueError(f"points were reached a different number of times ({counts}); record them apart")
        if not any(map(len, self._rows)):
            raise ValueError(f"pos={self._pos!r} selects no token of any text")
        self._check_unseen()
        tensors = {p: torch.cat(parts) for p, parts in self._parts.items()}
        identity = {k: v for k, v in model_identity(self._model).items() if k != "hooks"}
        identity |= {"hooks": self._hooked} if self._hooked else {}
        provenance: dict[str, Any] = {
            "model": identity,
            "pos": pos_to_data(self._pos),
            "captured_by": "record",
            "answer": answer_of(
                self._model
            ),  # none inside the block: the recording's hooks would see the pass
        }
        if not self._include_bos:
            provenance["include_bos"] = False
        rows = pd.concat(self._rows, ignore_index=True)
        if self._texts is None:
            n_inputs = {"n_inputs": self._batches[0]} if len(set(self._batches)) == 1 else {}
            if len(self._digests) == 1:
                rows = _with_tokens(rows, self._digests[0])
            return Activations(tensors, rows, {**provenance, **n_inputs})
        if sum(self._batches) == len(self._texts):  # batch after batch; else every call is of all texts
            starts = np.cumsum([0, *self._batches[:-1]])
            rows["source"] += starts[rows["call"].to_numpy()]
        elif set(self._batches) != {len(self._texts)}:
            raise ValueError(
                f"texts= has {len(self._texts)} entries, the calls had {self._batches} rows: give the "
                "texts of all calls, in order"
            )
        rows = _with_tokens(rows, self._checked(self._texts))
        return Activations(tensors, rows, provenance).with_texts(self._texts)

    def _checked(self, texts: Sequence[str]) -> np.ndarray | None:
        """The digest of each text's own tokens as they were run, or None where that is not known.

        Raises:
            AlignmentError: Where the tokens that were run are those of the texts in another order.
        """
        tokenizer = getattr(self._model, "tokenizer", None)
        digests = [one for one in self._digests if one is not None]
        if len(digests) < len(self._digests):
            return None
        first, *again = [np.concatenate(digests)] if sum(self._batches) == len(texts) else digests
        check_tokens(tokenizer, first, texts)
        for one in again:  # of a text that is generated on, a pass may have the tokens of another
            check_tokens(tokenizer, one, texts, one_is_enough=False)
        return first

    def _check_unseen(self) -> None:
        """Raises:
        ValueError: Where texts of a padded pass without a mask saw the padding behind them.
        """
        if self._unmasked is None:
            return
        self._trying = True
        try:
            say = "give the pass attention_mask="
            check_unseen(*self._unmasked, self._model, self._points, say)
        finally:
            self._trying = False
        self._unmasked = None


def _within(ids: Tensor, extent: Extent) -> list[list[int]]:
    """Token ids without padding."""
    spans = zip(ids.tolist(), extent.start, extent.stop, strict=True)
    return [row[start:stop] for row, start, stop in spans]


def _with_tokens(rows: pd.DataFrame, digests: np.ndarray | None) -> pd.DataFrame:
    """Rows with the digest of their text's tokens, where it is known."""
    return rows if digests is None else rows.assign(**{TOKEN_DIGEST: digests[rows["source"].to_numpy()]})


@contextmanager
def _forward_seen(model: Any, begin: Callable[[dict[str, Any]], None]) -> Generator[None]:
    """Inside, `begin` is told the arguments of every pass (`generate` calls `forward` itself)."""
    forward = model.forward
    signature = inspect.signature(forward)
    own = "forward" in vars(model)

    def seen(*args: Any, **kwargs: Any) -> Any:
        begin(dict(signature.bind_partial(*args, **kwargs).arguments))
        with plainly(inference=True), in_eval_mode(model):
            return forward(*args, **kwargs)

    model.forward = seen
    try:
        yield
    finally:
        if own:
            model.forward = forward
        else:
            del model.forward


@renamed("pos", "layers")
@door(model=MODEL)
@contextmanager
def record(
    model: HookedModel,
    points: PointSpec = "resid_post",
    *,
    pos: RowPos = slice(None),
    layers: LayerSpec = "all",
    lengths: Lengths | None = None,
    attention_mask: Any = None,
    texts: Sequence[str] | None = None,
    include_bos: bool | None = None,
) -> Generator[Recording]:
    """Record `points` during every forward pass of `model` inside the block, `generate` included.

    ```python
    with graticule.record(model, points="resid_post", pos=-1) as recording:
        model.generate("The capital of France is", max_new_tokens=5)
    recording.activations
    ```

    Passes run in eval mode and without autocast, as those of `capture` do, or the rows would not be the
    model's. They are else untouched: gradients, caches and the user's own hooks work as without it.
    `pos` counts a text's own tokens, never padding: which these are is read off the texts, the mask or the
    tokens that the model is given, wherever padding is certain.

    Args:
        model: A model with named hook points.
        points: Hook points, as in `graticule.hooks.points.resolve`.
        pos: An index, negative from a text's end, a slice, `"last"` or `"all"`, as in `graticule.capture`.
        layers: Layers, for points without one.
        lengths: Tokens of every row of each pass, BOS included, padded on the right.
        attention_mask: 1 where a token is the text's own, for each pass.
        texts: What is run, over all calls and in their order, so that a table's rows are compared with it;
            in another order than the tokens that were run they are refused (`AlignmentError`).
        include_bos: Whether special tokens (BOS, an encoder's `[CLS]`, `[SEP]`) may be among the tokens of
            `pos`, as in `graticule.capture`; by default they may. A text of a pass that has none
            but these gives no row; an index that is one of a text that has others is refused.

    Raises:
        PointError: For unknown points.
        ValueError: For attention patterns, and passes of which it cannot be told which tokens are padding.
    """
    texts = None if texts is None else several_texts("texts", texts)
    index_or_slice(pos)
    names = resolve(model, points, layers)
    recording = Recording(model, names, pos, lengths, attention_mask, texts, include_bos)

    def hook(point: str) -> tuple[str, Callable[..., None]]:
        def fn(tensor: Tensor, hook: Any) -> None:  # noqa: ARG001
            recording._read(point, tensor)  # pyright: ignore[reportPrivateUsage]

        return point, fn

    begin = recording._begin  # pyright: ignore[reportPrivateUsage]
    if drops_out(model):
        _log.warning("record: the model is in training mode; its passes in the block are without dropout")
    hooked = model.hooks(fwd_hooks=[hook(p) for p in names])
    with in_eval_mode(model), _forward_seen(model, begin), hooked:
        yield recording
