"""The model's own forward pass, no further than needed, and the lengths at which it computes otherwise."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from graticule.hooks.model_view import ModelView, at_border
from graticule.hooks.points import PointError, layer_of, never_reached
from graticule.hooks.protocols import HookedModel


@dataclass(frozen=True)
class Prefix:
    """Keys and values of a token prefix that all rows share, and the activations at its positions."""

    length: int
    """Tokens in the prefix."""
    cache: Any
    """The model's own key-value cache for one row, or None where the prefix is empty."""
    activations: Mapping[str, Tensor]
    """Point → `[pos, width]` at the prefix's positions."""
    native: bool = False
    """Whether the cache is a `HookedTransformer`'s."""

    def arguments(self, tokens: Tensor) -> dict[str, Any]:
        """What the forward pass takes so that `tokens` `[batch, pos]` follow the prefix; nothing without."""
        if not self.length:
            return {}
        batch, length = tokens.shape
        if self.native:
            return ModelView.after_cache(self.cache, tokens)
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(batch)
        whole = torch.ones(batch, self.length + length, dtype=torch.int64, device=tokens.device)
        return {"past_key_values": cache, "use_cache": True, "attention_mask": whole}


NO_PREFIX = Prefix(0, None, {})

Reader = Callable[[str, Tensor], None]
"""Called with the point asked for and the activation there."""


def check_shape(point: str, value: Tensor, tokens: Tensor) -> None:
    """Raises:
    ValueError: For an activation that is not `[batch, pos, …]`.
    """
    if value.ndim < 3 or value.shape[:2] != tokens.shape:
        raise ValueError(
            f"{point} has shape {tuple(value.shape)}; expected [batch, pos, …] with {tuple(tokens.shape)} of "
            "them: it does not belong to single tokens"
        )


class _Done(Exception):
    """Raised inside a forward pass after the last wanted point, to end it there."""


class Forward:
    """Runs `model` up to the last wanted point and hands every wanted activation to a reader.

    Two ways to stop early: at a layer, as a `HookedTransformer` can, and otherwise an exception
    after the last wanted point, which ends any forward pass. No logits are computed either way.
    """

    def __init__(self, model: HookedModel, points: Sequence[str], compiled: bool = False) -> None:
        self.model, self.view = model, ModelView(model)
        self.points = tuple(points)
        layers = [layer_of(p) for p in points]
        inside = [layer for layer in layers if layer is not None]
        after = any(
            layer is None and not ("embed" in p and "unembed" not in p)
            for layer, p in zip(layers, points, strict=True)
        )
        self._stop = None if after else max(inside, default=-1) + 1
        # logits are computed only where they were asked for
        self._return_type = "logits" if any("unembed" in p for p in points) else None
        self._compiled = compiled
        self._apart_beyond = rope_borders(config_of(model)).apart_beyond

    # Running -----------------------------------------------------------------------------------------
    def __call__(self, tokens: Tensor, read: Reader, prefix: Prefix = NO_PREFIX) -> None:
        """Run `tokens` `[batch, pos]`, which follow `prefix`, and read every point once."""
        if self._apart_beyond is not None and tokens.shape[1] >= self._apart_beyond:
            self.model(tokens[:1, :1], return_type=None)  # forgets the rotary table of a longer run before
        self.run(tokens, read, prefix.arguments(tokens))

    def run(self, tokens: Tensor, read: Reader, arguments: Mapping[str, Any]) -> None:
        """Run `tokens` with further arguments of the model's own, and read every point once."""
        kwargs: dict[str, Any] = {"return_type": self._return_type, **arguments}
        left = set(self.points)
        if self.view.takes_key_values and self._stop is not None:

            def read_one(point: str, value: Tensor) -> None:
                read(point, value)
                left.discard(point)

            with self._hooked(read_one):
                self.view.run_to(tokens, self._stop, **kwargs)
            self._need_all(left)
            return

        def read_and_stop(point: str, value: Tensor) -> None:
            read(point, value)
            left.discard(point)
            if not left:
                raise _Done

        try:
            with self._hooked(read_and_stop):
                self.model(tokens, **kwargs)
        except _Done:
            return
        self._need_all(left)

    def _need_all(self, left: set[str]) -> None:
        """Raises:
        PointError: For points that the pass did not come by.
        """
        if left:
            raise PointError(never_reached(left, self.model))

    @contextmanager
    def _hooked(self, read: Reader) -> Generator[None]:
        if self._compiled:
            with _block_hooks(self.model, self.points, read):
                yield
            return

        def hook(point: str) -> tuple[str, Callable[..., None]]:
            # keyed by the name asked for: on a bridge hook.name is another
            def fn(tensor: Tensor, hook: Any) -> None:  # noqa: ARG001
                read(point, tensor)

            return point, fn

        with self.model.hooks(fwd_hooks=[hook(p) for p in self.points]):
            yield


# Compilation -------------------------------------------------------------------------------------------
def check_compilable(points: Sequence[str]) -> None:
    """Raises:
    ValueError: Unless every point lies at the border of a block.
    """
    for point in points:
        if not at_border(point):
            raise ValueError(
                f"compile=True reads points at the borders of blocks (resid_pre, resid_post), not {point}; "
                "leave compile off for points inside blocks"
            )


@contextmanager
def compiled_blocks(model: HookedModel) -> Generator[None]:
    """Run every block through `torch.compile` (dynamic shapes) while inside; leave no trace after."""
    blocks = ModelView(model).blocks
    if not blocks:
        raise ValueError("compile=True needs a model with .blocks")
    own = [block.__dict__.get("forward") for block in blocks]
    try:
        for block in blocks:
            block.forward = torch.compile(block.forward, dynamic=True)
        yield
    finally:
        for block, before in zip(blocks, own, strict=True):
            block.__dict__.pop("forward", None)
            if before is not None:
                block.forward = before


@contextmanager
def _block_hooks(model: HookedModel, points: Sequence[str], read: Reader) -> Generator[None]:
    """Read block borders from outside the compiled blocks."""
    blocks = ModelView(model).blocks
    handles: list[Any] = []
    try:
        for point in points:
            block = blocks[layer_of(point) or 0]
            if point.endswith("hook_resid_pre"):
                handles.append(block.register_forward_pre_hook(lambda _m, args, p=point: read(p, args[0])))
            else:
                handles.append(
                    block.register_forward_hook(
                        lambda _m, _a, out, p=point: read(p, out[0] if isinstance(out, tuple) else out)
                    )
                )
        yield
    finally:
        for handle in handles:
            handle.remove()


# Lengths -----------------------------------------------------------------------------------------------
_LOCAL = re.compile(r"window|chunk_size|local_attention|block_size|attention_block")
"""Settings of attention, or of a scan, that reaches no further than so many tokens …"""
_OF_LAYERS = re.compile(r"layers|pattern")
"""… and those that say in which layers."""
ATTENTION_WINDOWS = ("sliding_window", "attention_window", "attention_chunk_size", "local_attention")
"""Those of them that change what every layer of a kind computes; others belong to one family's own code."""
_ROPES = ("rope_parameters", "rope_scaling")
_STATIC = ("default", "linear", "llama3", "yarn", "proportional", "mrope")
"""Rotary embeddings whose table does not follow the length of what runs."""


@dataclass(frozen=True)
class RopeBorders:
    """Where the rotary table of a whole batch changes with its longest row."""

    borders: tuple[int, ...] = ()
    """Rows longer than this have another table than shorter ones (longrope)."""
    apart_beyond: int | None = None
    """Beyond this every length has a table of its own (dynamic NTK), or its own choice between tokens that
    score alike (sparse attention)."""


def config_of(model: Any) -> dict[str, Any]:
    """The Hugging Face config of a model's text part as plain data: of an original, or of a bridge around it;
    empty for any other model."""
    config = getattr(getattr(model, "original_model", model), "config", None)
    if config is None or not hasattr(config, "to_dict"):
        return {}
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return text.to_dict()


def windows(config: Mapping[str, Any]) -> dict[str, int]:
    """Setting → tokens, for everything in a config beyond which attention (or a scan) does not reach."""
    unused = config.get("use_sliding_window") is False or _only_full(config)
    out: dict[str, int] = {}
    for name, value in config.items():
        if not _LOCAL.search(name) or _OF_LAYERS.search(name) or (unused and name == "sliding_window"):
            continue
        sizes = cast("list[Any]", value if isinstance(value, list | tuple) else [value])
        whole = [v for v in sizes if isinstance(v, int) and not isinstance(v, bool) and v > 1]
        if whole:
            out[name] = max(whole)
    return out


def reach_of(model: Any) -> tuple[int, ...]:
    """Tokens that some layers of a model see back at most, as its configs name them."""
    own = ModelView(model).window
    return (*windows(config_of(model)).values(), *((own,) if own else ()))


def _only_full(config: Mapping[str, Any]) -> bool:
    kinds = config.get("layer_types")
    return bool(kinds) and all(kind == "full_attention" for kind in cast("list[str]", kinds))


def rope_borders(config: Mapping[str, Any]) -> RopeBorders:
    """Where the rotary table changes; for a kind of table that is not known, every length beyond the length
    trained on is taken for another."""
    borders: set[int] = set()
    apart: list[int] = []
    for rope in _ropes(config):
        kind = str(rope.get("rope_type", rope.get("type", "default")))
        if kind in _STATIC:
            continue
        trained = rope.get("original_max_position_embeddings") or config.get(
            "original_max_position_embeddings"
        )
        if kind in ("longrope", "su"):
            borders |= {int(trained)} if trained else set()
        else:
            start = config.get("max_position_embeddings") if kind == "dynamic" else trained
            apart.append(int(start or trained or 0))
    if isinstance(config.get("index_topk"), int):  # which of equal scores is chosen follows the row's length
        apart.append(int(config["index_topk"]))
    return RopeBorders(tuple(sorted(borders)), min(apart, default=None))


def _ropes(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every rotary setting, those of single kinds of layers included."""
    for name in _ROPES:
        rope = config.get(name)
        if isinstance(rope, Mapping):
            yield cast("Mapping[str, Any]", rope)
            yield from (
                cast("Mapping[str, Any]", r)
                for r in cast("Mapping[str, Any]", rope).values()
                if isinstance(r, Mapping)
            )
