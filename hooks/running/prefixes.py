"""A token prefix that all rows share: its keys and values are computed once."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from graticule.hooks.model_view import ModelView
from graticule.hooks.protocols import device_of

if TYPE_CHECKING:
    from graticule.hooks.running.forward import Forward
    from graticule.hooks.running.grouping import Trial

_log = logging.getLogger(__name__)


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


def shared_prefix(forward: Forward, ids: np.ndarray, trial: Trial) -> Prefix:
    """Run the prefix `ids`, keep its keys, values and activations.

    `trial` is what the model's plain route gives for two rows that begin with the prefix: where the cached
    route does not give the same, `NO_PREFIX`.
    """
    try:
        prefix = _run(forward, ids)
        agrees = _agrees(forward, prefix, trial)
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


def _run(forward: Forward, ids: np.ndarray) -> Prefix:
    tokens = torch.from_numpy(ids)[None].to(device_of(forward.model))
    found: dict[str, Tensor] = {}

    def read(point: str, value: Tensor) -> None:
        found[point] = value[0].reshape(value.shape[1], -1).clone()

    native = forward.view.takes_key_values
    if native:
        cache: Any = forward.view.empty_cache()
        extra = ModelView.after_cache(cache, tokens)
    else:
        from transformers import DynamicCache

        cache = DynamicCache()
        extra = {"past_key_values": cache, "use_cache": True, "attention_mask": torch.ones_like(tokens)}
    forward.run(tokens, read, extra)
    return Prefix(len(ids), cache, found, native)


def _agrees(forward: Forward, prefix: Prefix, trial: Trial) -> bool:
    """Compare both routes on the trial's rows, at the prefix's positions and after."""
    n = prefix.length
    cached: dict[str, Tensor] = {}
    forward(trial.tokens[:, n:], lambda point, value: cached.__setitem__(point, value), prefix)
    for point in forward.points:
        plain = trial.activations[point]
        after, before = plain[:, n:], plain[0, :n].reshape(n, -1)
        if cached[point].shape != after.shape or differ(cached[point], after, 1e-4, 5e-2):
            return False
        if differ(prefix.activations[point], before, 1e-4, 5e-2):
            return False
    return True


def differ(a: Tensor, b: Tensor, single: float, half: float) -> bool:
    """Whether two activations differ by more than a share of their size: `single`, or `half` in 16 bits."""
    tolerance = half if a.dtype in (torch.bfloat16, torch.float16) else single
    a, b = a.float(), b.float()
    return not bool((a - b).norm() <= tolerance * b.norm().clamp_min(1e-12))
