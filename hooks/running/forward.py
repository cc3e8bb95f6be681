"""The model's own forward pass, run no further than needed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from graticule.hooks.model_view import ModelView, at_border
from graticule.hooks.points import PointError, layer_of
from graticule.hooks.protocols import HookedModel
from graticule.hooks.running.lengths import config_of, rope_borders
from graticule.hooks.running.prefixes import NO_PREFIX, Prefix

Reader = Callable[[str, Tensor], None]
"""Called with the point asked for and the activation there."""


def check_shape(point: str, value: Tensor, tokens: Tensor) -> None:
    """**Raises** `ValueError` for an activation that is not `[batch, pos, …]`."""
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
        if self.view.takes_key_values and self._stop is not None:
            with self._hooked(read):
                self.view.run_to(tokens, self._stop, **kwargs)
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
            raise PointError(
                f"this model has {', '.join(sorted(left))}, but its forward pass never reaches "
                f"{'it' if len(left) == 1 else 'them'}; nothing was captured"
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


# Compilation -------------------------------------------------------------------------------------------
def check_compilable(points: Sequence[str]) -> None:
    """**Raises** `ValueError` unless every point lies at the border of a block."""
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
