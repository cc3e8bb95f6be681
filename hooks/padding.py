"""Padded batches and caches: which entries of a cache are asked for, and where each of its rows begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from graticule.hooks.calls import came
from graticule.hooks.doors import ACTIVATIONS
from graticule.hooks.messages import brief
from graticule.hooks.model_view import ModelView
from graticule.hooks.points import LayerSpec, PointSpec, layer_of, resolve_layers, resolve_names
from graticule.hooks.running.grouping import looks_ahead
from graticule.hooks.values import MaskedError, unmasked

_PART = 8192
"""Tokens whose embeddings are looked at together."""
Lengths = int | Sequence[int] | Int[np.ndarray, " batch"] | Tensor
"""Tokens of every row, or one number for all."""
RowPos = int | slice | Literal["last", "all"]
"""Which tokens of a row are meant, where no entity is known: an index, a slice, `"last"` or `"all"`."""
Ids = Int[np.ndarray, "batch pos"]
"""Token ids of a batch."""


@dataclass(frozen=True)
class Extent:
    """The half-open range of each row of a batch that holds its text."""

    start: Int[np.ndarray, " batch"]
    """Its first token."""
    stop: Int[np.ndarray, " batch"]
    """One past its last token."""

    @classmethod
    def whole(cls, batch: int, length: int) -> Extent:
        """No row is padded."""
        return cls(np.zeros(batch, np.int64), np.full(batch, length))

    @classmethod
    def of_lengths(cls, lengths: Lengths, batch: int, length: int) -> Extent:
        """Rows padded on the right.

        Raises:
            ValueError: There is not one length, of 1 to the batch's own, for each row.
        """
        given = np.asarray(lengths.cpu() if isinstance(lengths, Tensor) else unmasked("lengths", lengths))
        given = np.full(batch, given) if given.ndim == 0 else given
        if given.shape != (batch,) or given.dtype.kind not in "iu":
            raise ValueError(
                f"lengths= has shape {given.shape} ({given.dtype}); expected {batch} whole numbers"
            )
        if batch and not 1 <= given.min() <= given.max() <= length:
            raise ValueError(f"lengths= from {given.min()} to {given.max()}: expected 1 to {length} tokens")
        return cls(np.zeros(batch, np.int64), given.astype(np.int64))

    @classmethod
    def of_mask(cls, mask: Any, batch: int, length: int) -> Extent:
        """Rows of which a mask says what is text: 1 or True, in one run.

        Raises:
            ValueError: The mask has another shape, an empty row, or a gap.
        """
        given = np.asarray(mask.cpu() if isinstance(mask, Tensor) else unmasked("attention_mask", mask))
        if given.shape != (batch, length):
            raise ValueError(f"attention_mask= has shape {given.shape}; expected {(batch, length)}")
        given = given.astype(bool)
        start, stop = given.argmax(1), length - given[:, ::-1].argmax(1)
        for row in np.flatnonzero(given.sum(1) != np.where(given.any(1), stop - start, -1)):
            raise ValueError(f"attention_mask= row {row}: expected one run of 1, the row's own tokens")
        return cls(start, stop)

    @classmethod
    def of_ids(cls, ids: Ids, tokenizer: Any) -> Extent:
        """Rows of token ids, padded with a token that nothing else is; whole without a tokenizer.

        Raises:
            ValueError: A row ends, or begins twice over, with a token that pads and ends texts alike.
        """
        batch, length = ids.shape
        pad = getattr(tokenizer, "pad_token_id", None)
        if pad is None or length < 2:
            return cls.whole(batch, length)
        real = ids != pad
        if real.all():
            return cls.whole(batch, length)
        start, stop = real.argmax(1), length - real[:, ::-1].argmax(1)
        others = ("bos_token_id", "eos_token_id", "unk_token_id")
        if int(pad) not in [getattr(tokenizer, name, None) for name in others]:
            return cls(np.where(real.any(1), start, 0), np.where(real.any(1), stop, length))
        if batch < 2:
            return cls.whole(batch, length)
        unclear = np.flatnonzero((stop < length) | (start > 1) | ~real.any(1))
        if len(unclear):
            raise ValueError(
                f"row {unclear[0]} of a batch is padded with token {pad}, which stands for other things too: "
                "say which tokens are its own with lengths= (BOS included) or attention_mask="
            )
        return cls.whole(batch, length)

    @property
    def lengths(self) -> Int[np.ndarray, " batch"]:
        """Tokens of every row."""
        return self.stop - self.start

    def pick(self, pos: int | slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Batch row, place in the row and position in the text of the tokens at `pos`, text by text.

        Args:
            pos: An index from the text's beginning, or negative from its end; or a slice of its tokens.

        Raises:
            IndexError: A text has no such token.
        """
        rows: list[np.ndarray] = []
        inside: list[np.ndarray] = []
        for row, count in enumerate(self.lengths.tolist()):
            if isinstance(pos, slice):
                here = np.arange(count)[pos]
            elif -count <= pos < count:
                here = np.array([pos % count])
            else:
                raise IndexError(f"pos={pos}: row {row} of the batch has {count} tokens (BOS included)")
            rows.append(np.full(len(here), row))
            inside.append(here)
        row, position = np.concatenate(rows), np.concatenate(inside)
        return row, self.start[row] + position, position


def extent_of(
    batch: int,
    length: int,
    ids: Ids | None,
    tokenizer: Any,
    lengths: Lengths | None = None,
    attention_mask: Any = None,
) -> Extent:
    """Where the texts of a batch lie: as said, or as its tokens tell.

    Args:
        batch: Rows.
        length: Tokens a row, padding included.
        ids: Token ids, or None where they are not known.
        tokenizer: The model's, or None.
        lengths: Tokens of every row, padded on the right.
        attention_mask: 1 where a token is the text's own.

    Raises:
        ValueError: What is said does not fit, or nothing is said and padding cannot be told.
    """
    if lengths is not None and attention_mask is not None:
        raise ValueError("lengths= and attention_mask= say the same: give one of them")
    if lengths is not None:
        return Extent.of_lengths(lengths, batch, length)
    if attention_mask is not None:
        return Extent.of_mask(attention_mask, batch, length)
    if ids is not None:
        return Extent.of_ids(ids, tokenizer)
    if batch < 2 or length < 2 or getattr(tokenizer, "pad_token_id", None) is None:
        return Extent.whole(batch, length)
    raise ValueError(
        "which tokens are padding cannot be told (the tokens are not known): say it with lengths=, tokens of "
        f"every row with BOS ({length} where no row is padded), or attention_mask="
    )


def embeds_ids(cache: Any) -> bool:
    """Whether a cache holds what its model embeds, as a bridge's does."""
    return "embed.hook_in" in set(cache.keys()) and not cache["embed.hook_in"].is_floating_point()


def embedded_ids(cache: Any) -> Ids | None:
    """The ids `[batch, pos]` that a bridge embeds; None where they have another shape."""
    ids: Tensor = cache["embed.hook_in"]
    return ids.cpu().numpy() if ids.ndim == 2 else None


def ids_of_cache(cache: Any, model: Any) -> Ids | None:
    """As much of a cache's token ids as tells padding: the ids a bridge embeds, else the pad token where its
    embedding is that token's.

    Returns:
        `[batch, pos]` ids, -1 for every token that is not padding where only that is known; None where the
        cache or the model does not tell.
    """
    if embeds_ids(cache):
        return embedded_ids(cache)
    names = set(cache.keys())
    pad = getattr(getattr(model, "tokenizer", None), "pad_token_id", None)
    embed = None if model is None else ModelView(model).embed
    name = next((n for n in ("embed.hook_out", "hook_embed") if n in names), None)
    if pad is None or embed is None or name is None:
        return None
    value: Tensor = cache[name]
    with torch.no_grad():
        own: Tensor = embed(torch.tensor([[int(pad)]], device=value.device))[0, 0]
    if value.ndim != 3 or own.shape != value.shape[-1:] or not _is_embedded(value[0, 0], embed, model):
        return None
    return np.where((value == own.to(value.dtype)).all(-1).cpu().numpy(), int(pad), -1)


def _is_embedded(row: Tensor, embed: Any, model: Any) -> bool:
    """Whether a row is some token's embedding as it is: an encoder adds positions and norms to its own."""
    n = ModelView(model).d_vocab or 0
    with torch.no_grad():
        for ids in torch.arange(n, device=row.device).split(_PART):
            if bool((embed(ids[None])[0].to(row.dtype) == row).all(-1).any()):
                return True
    return False


def check_unseen(extent: Extent, length: int, model: Any, points: Sequence[str], say: str) -> None:
    """Refuse rows of padded texts whose tokens saw the padding behind them.

    Args:
        extent: Where the texts lie, as a pass without a mask was given them.
        length: Tokens a row, padding included.
        model: The model that was run.
        points: Where its activations were read.
        say: What to do instead.

    Raises:
        ValueError: The model reads both ways, and a row is padded behind its text.
    """
    if (extent.stop < length).any() and points and looks_ahead(model, points):
        raise ValueError(
            "this model reads both ways, and texts of a padded batch without a mask see the padding behind "
            f"them: {say}, or give graticule.capture(model, texts)"
        )


_NO_REPRESENTATION = ("hook_scale",)


def names_in(cache: Any, points: PointSpec | None, layers: LayerSpec) -> list[str]:
    """Names of a cache's entries: those asked for, or all that are activations of the residual's making."""
    names = [str(name) for name in cache.keys()]  # noqa: SIM118  (an ActivationCache iterates over values)
    if points is None:
        every = [n for n in names if not n.endswith(_NO_REPRESENTATION) and not n.startswith("unembed.")]
        if layers == "all":
            return every
        n_layers = 1 + max((layer for n in names if (layer := layer_of(n)) is not None), default=-1)
        return [n for n in every if layer_of(n) in resolve_layers(n_layers, layers)]
    asked = [points] if isinstance(points, str) else points
    if all(isinstance(point, str) and point in names for point in asked):
        return [str(point) for point in asked]
    return list(resolve_names(names, points, layers))


def check_cache(cache: Any) -> None:
    """Raises:
    TypeError: For what is no cache.
    ValueError: For a text without its batch dimension.
    """
    if isinstance(cache, tuple):
        raise TypeError(
            "from_cache: cache is a tuple, the output and the cache; expected the second: "
            "_, cache = model.run_with_cache(tokens)"
        )
    if isinstance(cache, Tensor | np.ndarray) or not hasattr(cache, "keys"):
        write = ACTIVATIONS.write(cache) if hasattr(cache, "shape") else "model.run_with_cache(tokens)[1]"
        raise TypeError(f"from_cache: cache is {came(cache)}; expected what run_with_cache caches: {write}")
    if not getattr(cache, "has_batch_dim", True):
        raise ValueError(
            "from_cache: this cache has no batch dimension; expected [batch, pos, d_model]: leave "
            "remove_batch_dim out of run_with_cache"
        )


def check_dense(name: str, tensor: Tensor) -> None:
    """Raises:
    ValueError: For a tensor that is no array of numbers as they are.
    """
    kinds = (
        (tensor.is_nested, "nested", "torch.cat(tensor.unbind())"),
        (tensor.layout != torch.strided, "sparse", "tensor.to_dense()"),
        (tensor.is_meta, "on the meta device, where tensors have no values", "one that was computed"),
        (tensor.is_quantized, "quantised", "tensor.dequantize()"),
        (tensor.is_complex(), "complex", "tensor.abs(), or real and imaginary parts side by side"),
    )
    for so, kind, write in kinds:
        if so:
            raise ValueError(f"{name} is a tensor that is {kind}; expected plain numbers: {write}")


def as_tensor(name: str, values: Any) -> Tensor:
    """Numbers of rows as a tensor, where they lie.

    Args:
        name: Of the point, for messages.
        values: A tensor, an array, or nested lists.

    Returns:
        The tensor, detached.

    Raises:
        TypeError: They are no numbers, or columns of a DataFrame.
        ValueError: There are none, or no array of real ones.
    """
    if hasattr(values, "iloc"):
        raise TypeError(f"{name} is a {type(values).__name__}; expected numbers alone: values.to_numpy()")
    try:
        tensor = torch.as_tensor(unmasked(name, values)).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, MaskedError):
            raise
        kind = getattr(values, "dtype", None) or f"a {type(values).__name__}"
        raise TypeError(
            f"{name} holds {kind}, which is no tensor of numbers: expected [row, width], as "
            "values.astype('float32') gives where each entry is a number"
        ) from error
    check_dense(name, tensor)
    if not tensor.numel():
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, no number at all; expected [row, width]")
    return tensor


def index_or_slice(pos: Any) -> int | slice:
    """Raises:
    ValueError: For what is neither, nor "last" or "all".
    """
    named = {"last": -1, "all": slice(None)}.get(pos) if isinstance(pos, str) else pos
    if not isinstance(named, int | np.integer | slice) or isinstance(named, bool):
        raise ValueError(
            f"pos={brief(pos)}: expected an index such as -1, a slice, 'last' or 'all'; for the "
            "entity in a prompt take graticule.capture"
        )
    return named if isinstance(named, slice) else int(named)


def cache_shape(cache: Any) -> tuple[int, int]:
    """Batch and position counts of a cache, from any residual or embedding entry."""
    for name in cache.keys():  # noqa: SIM118  (an ActivationCache iterates over values)
        if "resid" in name or name.endswith(("hook_embed", "hook_out", "_out")):
            value: Tensor = cache[name]
            if value.ndim == 3:
                return int(value.shape[0]), int(value.shape[1])
    raise ValueError("this cache holds no [batch, pos, d_model] activation with a batch dimension")
