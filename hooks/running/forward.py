"""The model's own forward pass, run no further than needed, with a shared prefix computed once."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graticule.hooks.points import layer_of
from graticule.hooks.protocols import HookedModel, device_of

_log = logging.getLogger(__name__)

Reader = Callable[[str, Tensor], None]
"""Called with the point asked for and the activation there."""


class _Done(Exception):
    """Raised inside a forward pass after the last wanted point, to end it there."""


@dataclass(frozen=True)
class Prefix:
    """Keys and values of a token prefix that all rows share, and the activations at its positions."""

    length: int
    """Tokens in the prefix."""
    cache: Any
    """The model's own key-value cache for one row, or None where the prefix is empty."""
    activations: Mapping[str, Tensor]
    """Point → `[pos, width]` at the prefix's positions."""


NO_PREFIX = Prefix(0, None, {})


class Forward:
    """Runs `model` up to the last wanted point and hands every wanted activation to a reader.

    Two ways to stop early: `stop_at_layer`, which a `HookedTransformer` knows, and otherwise an exception
    after the last wanted point, which ends any forward pass. No logits are computed either way.
    """

    def __init__(self, model: HookedModel, points: Sequence[str], compiled: bool = False) -> None:
        self.model = model
        self.points = tuple(points)
        forward: Any = getattr(model, "forward", model)
        names = set(inspect.signature(forward).parameters)
        self.native = {"stop_at_layer", "past_kv_cache"} <= names
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

    # Running -----------------------------------------------------------------------------------------
    def __call__(self, tokens: Tensor, read: Reader, prefix: Prefix = NO_PREFIX) -> None:
        """Run `tokens` `[batch, pos]`, which follow `prefix`, and read every point once."""
        kwargs: dict[str, Any] = {"return_type": self._return_type}
        if prefix.length:
            kwargs |= self._cache_arguments(prefix, tokens)
        self._run(tokens, read, kwargs)

    def _run(self, tokens: Tensor, read: Reader, kwargs: dict[str, Any]) -> None:
        if self.native and self._stop is not None:
            kwargs["stop_at_layer"] = self._stop
            with self._hooked(read):
                self.model(tokens, **kwargs)
            return
        left = set(self.points)

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
        if left:
            raise RuntimeError(
                f"the forward pass never reached {', '.join(sorted(left))}; nothing was captured"
            )

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

    # Shared prefixes ---------------------------------------------------------------------------------
    def prefix(self, ids: np.ndarray) -> Prefix:
        """Run the prefix once, keep its keys, values and activations.

        Where the model's cached route does not give the activations of its plain one, `NO_PREFIX`.
        """
        if len(ids) == 0:
            return NO_PREFIX
        try:
            prefix = self._run_prefix(ids)
            agrees = self._cached_route_agrees(ids, prefix)
        except (
            TypeError,
            ValueError,
            AttributeError,
            RuntimeError,
            IndexError,
        ) as error:
            _log.info("no shared prefix: this model's cached route fails (%s)", error)
            return NO_PREFIX
        if not agrees:
            _log.info("no shared prefix: this model's cached route differs from its plain one")
            return NO_PREFIX
        return prefix

    def _run_prefix(self, ids: np.ndarray) -> Prefix:
        tokens = torch.from_numpy(ids)[None].to(device_of(self.model))
        found: dict[str, Tensor] = {}

        def read(point: str, value: Tensor) -> None:
            found[point] = value[0].reshape(value.shape[1], -1).clone()

        if self.native:
            from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

            cache: Any = TransformerLensKeyValueCache.init_cache(self.model.cfg, device_of(self.model), 1)
            extra = {"past_kv_cache": cache, "attention_mask": torch.ones_like(tokens)}
        else:
            from transformers import DynamicCache

            cache = DynamicCache()
            extra = {"past_key_values": cache, "use_cache": True, "attention_mask": torch.ones_like(tokens)}
        self._run(tokens, read, {"return_type": self._return_type, **extra})
        return Prefix(len(ids), cache, found)

    def _cache_arguments(self, prefix: Prefix, tokens: Tensor) -> dict[str, Any]:
        batch, length = tokens.shape
        if self.native:
            entries = [copy.copy(e) for e in prefix.cache.entries]
            for entry in entries:
                entry.past_keys = entry.past_keys.expand(batch, -1, -1, -1)
                entry.past_values = entry.past_values.expand(batch, -1, -1, -1)
            mask = torch.ones(batch, prefix.length, dtype=torch.int64, device=tokens.device)
            cache = type(prefix.cache)(entries, mask)
            cache.freeze()
            return {"past_kv_cache": cache, "attention_mask": torch.ones_like(tokens)}
        cache = copy.deepcopy(prefix.cache)
        cache.batch_repeat_interleave(batch)
        whole = torch.ones(batch, prefix.length + length, dtype=torch.int64, device=tokens.device)
        return {"past_key_values": cache, "use_cache": True, "attention_mask": whole}

    def _cached_route_agrees(self, ids: np.ndarray, prefix: Prefix) -> bool:
        """Compare both routes on two short rows, once a capture."""
        suffix = torch.from_numpy(np.stack([ids[-1:].repeat(3), ids[:1].repeat(3)]))
        suffix = suffix.to(device_of(self.model))
        whole = torch.cat([torch.from_numpy(ids).to(suffix.device).expand(2, -1), suffix], dim=1)
        cached: dict[str, Tensor] = {}
        plain: dict[str, Tensor] = {}
        self(suffix, lambda p, v: cached.__setitem__(p, v.float()), prefix)
        self(whole, lambda p, v: plain.__setitem__(p, v[:, len(ids) :].float()))
        half = any(p.dtype in (torch.bfloat16, torch.float16) for p in self.model.parameters())
        tolerance = 5e-2 if half else 1e-4
        return all(
            cached[p].shape == plain[p].shape
            and bool((cached[p] - plain[p]).norm() <= tolerance * plain[p].norm().clamp_min(1e-12))
            for p in self.points
        )


# Compilation -------------------------------------------------------------------------------------------
def check_compilable(points: Sequence[str]) -> None:
    """**Raises** `ValueError` unless every point lies at the border of a block."""
    for point in points:
        if not point.endswith(("hook_resid_pre", "hook_resid_post")):
            raise ValueError(
                f"compile=True reads points at the borders of blocks (resid_pre, resid_post), not {point}; "
                "leave compile off for points inside blocks"
            )


@contextmanager
def compiled_blocks(model: HookedModel) -> Generator[None]:
    """Run every block through `torch.compile` (dynamic shapes) while inside; leave no trace after."""
    blocks: Any = list(getattr(model, "blocks", []))
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
    blocks: Any = model.blocks  # pyright: ignore[reportAttributeAccessIssue]
    handles: list[Any] = []
    try:
        for point in points:
            block = blocks[layer_of(point)]
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
