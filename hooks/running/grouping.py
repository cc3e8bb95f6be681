"""Which rows may share a batch: a text's activations must not depend on what runs beside it.

Rows are padded on the right and masked by their length, never by token id: BOS, EOS and PAD share an id in
some models. A model that reads from left to right does not notice the padding. Whether this one
does is found out by running it: two rows that differ in later tokens alone must agree in the earlier ones.
A model that looks ahead gets rows of one length at a time, without any padding; so does one whose rotary
table follows the longest row, beyond the length where that begins.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graticule.hooks.model_view import ModelView
from graticule.hooks.protocols import HookedModel, device_of
from graticule.hooks.running.forward import (
    NO_PREFIX,
    Forward,
    Prefix,
    RopeBorders,
    check_shape,
    config_of,
    rope_borders,
)
from graticule.hooks.running.session import undisturbed

_log = logging.getLogger(__name__)

_TRIAL, _AFTER = 24, 8
"""Tokens that the trial's rows have at most, without a prefix and after it."""
_POOL = 256
"""Rows from which the trial's tokens are taken."""


@dataclass(frozen=True)
class Grouping:
    """Gives rows that may share a batch the same number."""

    looks_ahead: bool = False
    """Whether earlier tokens see later ones."""
    ropes: RopeBorders = field(default_factory=RopeBorders)
    """Where the rotary table changes with the longest row."""

    def __call__(self, length: int) -> int:
        """The group of a row of so many tokens."""
        apart = self.ropes.apart_beyond
        if self.looks_ahead or (apart is not None and length > apart):
            return length
        return -sum(length > border for border in self.ropes.borders)

    def prefix_fits(self, prefix: int, lengths: Sequence[int]) -> bool:
        """Whether rows of these lengths may use keys and values of their first `prefix` tokens."""
        return not self.looks_ahead and {self(n) for n in {*lengths, prefix}} == {self(prefix)}


@dataclass(frozen=True)
class Trial:
    """Two rows that begin alike and end apart, and what the model gives for them."""

    tokens: Tensor
    """`[2, pos]` ids."""
    split: int
    """Tokens that both begin with."""
    activations: dict[str, Tensor]
    """Point → `[2, pos, …]`."""

    @classmethod
    def run(
        cls, forward: Forward, rows: Sequence[np.ndarray], begin: np.ndarray, reaches: Sequence[int] = ()
    ) -> Trial:
        """Run two rows that begin with `begin` and go on with varied tokens of `rows`.

        They are short, unless the longest row goes beyond one of `reaches` and `begin` does not: they are
        then as long as that row, so that the model's cached route is seen beyond its window.

        Raises:
            ValueError: for points that are not `[batch, pos, …]`.
        """
        longest = max(len(row) for row in rows)
        length = min(longest, len(begin) + _AFTER if len(begin) else _TRIAL)
        if len(begin) and any(length <= reach < longest for reach in reaches):
            length = longest
        pool = np.unique(np.concatenate([np.array([0, 1]), *rows[:_POOL]]))
        first = np.random.default_rng(0).choice(pool, length)
        first[: len(begin)] = begin
        split = len(begin) or length // 2
        second = first.copy()
        second[split:] = pool[(np.searchsorted(pool, first[split:]) + 1) % len(pool)]
        tokens = torch.from_numpy(np.stack([first, second])).to(device_of(forward.model))
        activations: dict[str, Tensor] = {}

        def read(point: str, value: Tensor) -> None:
            check_shape(point, value, tokens)
            activations[point] = value.detach().clone()

        forward(tokens, read)
        return cls(tokens, split, activations)  # in the order in which the model reaches them

    def looks_ahead(self) -> bool:
        """Whether a point's values at the common tokens differ by more than rounding."""
        return any(
            differ(v[0, : self.split], v[1, : self.split], 1e-5, 1e-3) for v in self.activations.values()
        )


def grouping_of(model: HookedModel, points: Sequence[str], rows: Sequence[np.ndarray]) -> Grouping:
    """How `rows` may be batched where `points` are read."""
    looks_ahead = Trial.run(Forward(model, points), rows, np.array([], np.int64)).looks_ahead()
    return Grouping(looks_ahead, rope_borders(config_of(model)))


def looks_ahead(model: HookedModel, points: Sequence[str]) -> bool:
    """Whether earlier tokens see later ones at `points`, padding included; the model runs on a few tokens."""
    rows = [np.arange(min(ModelView(model).d_vocab or _TRIAL, _TRIAL))]
    with undisturbed(model):
        return grouping_of(model, points, rows).looks_ahead


@dataclass(frozen=True)
class Batch:
    """Rows of nearly one length, ready to run."""

    tokens: Tensor
    """`[row, pos]` ids without the shared prefix, padded on the right."""
    members: np.ndarray
    """Which of the given rows these are."""
    lengths: np.ndarray
    """Tokens of every row, without the prefix; what lies beyond is padding."""


def batches(
    rows: Sequence[np.ndarray],
    skip: int,
    token_budget: int,
    group: Callable[[int], int] | None = None,
    device: Any = "cpu",
) -> Iterator[Batch]:
    """Length buckets of `rows` without their first `skip` tokens, at most `token_budget` tokens each.

    Sorted by length; a batch takes rows of several lengths only while it is short of half its budget, so
    that little is padded, and only where `group` gives their whole lengths the same number.
    """
    lengths = np.array([len(row) - skip for row in rows])
    groups = lengths * 0 if group is None else np.array([group(len(row)) for row in rows])
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        end = start + 1
        first = order[start]
        while end < len(order):
            longest = lengths[order[end]]
            size = (end - start + 1) * longest
            mixed = longest != lengths[order[end - 1]] and (
                groups[order[end]] != groups[first] or (end - start) * lengths[first] > token_budget // 2
            )
            if size > token_budget or mixed:
                break
            end += 1
        members = order[start:end]
        tokens = np.zeros((len(members), int(lengths[members].max())), dtype=np.int64)
        for r, member in enumerate(members):
            tokens[r, : lengths[member]] = rows[member][skip:]
        yield Batch(torch.from_numpy(tokens).to(device), members, lengths[members])
        start = end


# Prefixes ----------------------------------------------------------------------------------------------
def shared_prefix(forward: Forward, ids: np.ndarray, trial: Trial) -> Prefix:
    """Run the prefix `ids`, keep its keys, values and activations.

    `trial` is what the model's plain route gives for two rows that begin with the prefix: where the cached
    route does not give the same, `NO_PREFIX`.
    """
    try:
        prefix = _run(forward, ids)
        agrees = _agrees(forward, prefix, trial)
    except (TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
        _log.info("no shared prefix: this model's cached route fails (%s)", error)
        return NO_PREFIX
    if not agrees:
        _log.info("no shared prefix: this model's cached route differs from its plain one")
        return NO_PREFIX
    return prefix


def _run(forward: Forward, ids: np.ndarray) -> Prefix:
    tokens = torch.from_numpy(ids)[None].to(device_of(forward.model))
    activations: dict[str, Tensor] = {}

    def read(point: str, value: Tensor) -> None:
        activations[point] = value[0].reshape(value.shape[1], -1).clone()

    native = forward.view.takes_key_values
    if native:
        cache: Any = forward.view.empty_cache()
        extra = ModelView.after_cache(cache, tokens)
    else:
        from transformers import DynamicCache

        cache = DynamicCache()
        extra = {"past_key_values": cache, "use_cache": True, "attention_mask": torch.ones_like(tokens)}
    forward.run(tokens, read, extra)
    return Prefix(len(ids), cache, activations, native)


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
