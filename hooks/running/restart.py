"""Going on from a layer: a pass with other values at a point, begun at the block where they count."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from graticule.hooks.model_view import ModelView, at_border, start_of
from graticule.hooks.protocols import HookedModel

_log = logging.getLogger(__name__)

Edit = Callable[[Tensor], Tensor]
"""Activations at a point → those that stand there instead."""
Hooks = Sequence[tuple[str, Any]]
"""Hook names and functions, as `model.hooks` takes them."""

_REFUSALS = (NotImplementedError, TypeError, AttributeError, RuntimeError, ValueError, AssertionError)
"""Whatever a model that cannot start at a layer raises: the whole pass always works."""
_TOLERANCE, _HALF = 1e-4, 5e-2
"""Share of the whole pass's size by which a restart may miss it, and in 16 bits."""


class Restart:
    """Passes of one model with a point's activations edited: whole, or from the point's block on.

    Whether a restart gives what the whole pass gives is seen by comparing them (`agrees`).
    """

    def __init__(self, model: HookedModel, point: str) -> None:
        self.view, self.point = ModelView(model), point
        self.start = start_of(point)
        """The block that a restart begins with; None for a point outside the blocks, where there is none."""

    def whole(
        self, tokens: Int[Tensor, "row pos"], edit: Edit | None, hooks: Hooks = ()
    ) -> Float[Tensor, "row pos token"]:
        """The logits of a whole pass."""
        edited = [] if edit is None else [(self.point, lambda value, hook: edit(value))]  # noqa: ARG005
        with self.view.model.hooks(fwd_hooks=[*edited, *hooks]):
            return self.view.model(tokens, return_type="logits")

    def onward(
        self,
        residual: Float[Tensor, "row pos d_model"],
        edit: Edit,
        hooks: Hooks = (),
        stop: int | None = None,
    ) -> Float[Tensor, "row pos d_model"]:
        """The residual stream as it enters block `stop`, or leaves the last one.

        Args:
            residual: what enters block `start`.
            edit: of the activations at the point, which are the residual itself between two blocks.
            hooks: further ones.
            stop: a block.
        """
        assert self.start is not None
        if at_border(self.point):
            residual = edit(residual)
        else:
            hooks = [(self.point, lambda value, hook: edit(value)), *hooks]  # noqa: ARG005
        with self.view.model.hooks(fwd_hooks=list(hooks)):
            return self.view.run_from(residual, self.start, stop)

    def agrees(self, trial: Callable[[], tuple[Tensor, Tensor]]) -> bool:
        """Whether a restart gives what the whole pass gives; `trial` runs some rows restarted, then whole."""
        if self.start is None or not self.view.takes_layers:
            return False
        try:
            restarted, whole = trial()
        except _REFUSALS as error:
            _log.info("runs are whole: this model cannot go on from block %d (%s)", self.start, error)
            return False
        dtypes = {restarted.dtype, *(p.dtype for p in self.view.model.parameters())}
        share = _HALF if dtypes & {torch.float16, torch.bfloat16} else _TOLERANCE
        close = restarted.shape == whole.shape and bool(
            (restarted - whole).norm() <= share * whole.norm().clamp_min(1e-12)
        )
        if not close:
            _log.info("runs are whole: going on from block %d gives other values", self.start)
        return close
