"""Which tokens of a text become rows: `pos=` and what it selects."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Named = Literal["last", "all", "entity", "entity_last", "entity_mean"]


@dataclass(frozen=True)
class Sample:
    """k tokens of every text, drawn without replacement (all of them where a text has fewer); never BOS.

    The draw depends on the seed and the text's place in the input alone, not on batches.
    """

    k: int
    """Tokens a text."""
    seed: int = 0
    """Seed of the draws."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"Sample(k={self.k}): k is at least 1")


Pos = Named | int | slice | Sample
"""`"last"`, `"all"`, an index (negative from the end), a slice, `Sample(k)`, or the entity inside a prompt:
all its tokens (`"entity"`), the last one (`"entity_last"`) or their mean (`"entity_mean"`)."""

_NAMES = ("last", "all", "entity", "entity_last", "entity_mean")


def check_pos(pos: Pos) -> None:
    """**Raises** `ValueError` if `pos` is none of the forms of `Pos`."""
    if isinstance(pos, str) and pos not in _NAMES:
        raise ValueError(
            f"pos={pos!r}: expected one of {', '.join(map(repr, _NAMES))}, an index, a slice, or Sample(k)"
        )


def select(
    pos: Pos, lengths: Sequence[int], spans: Sequence[tuple[int, int]], n_special: int
) -> list[np.ndarray]:
    """Token positions (from the start of the row, BOS included) of every text.

    `spans` are the entities' token ranges, `n_special` the number of leading special tokens.

    **Raises** `IndexError` naming the first text that is too short for an index.
    """
    return [_one(pos, n, span, n_special, i) for i, (n, span) in enumerate(zip(lengths, spans, strict=True))]


def _one(pos: Pos, length: int, span: tuple[int, int], n_special: int, text: int) -> np.ndarray:
    if pos == "last":
        return np.array([length - 1])
    if pos == "all":
        return np.arange(length)
    if pos in ("entity", "entity_mean"):
        return np.arange(*span)
    if pos == "entity_last":
        return np.array([span[1] - 1])
    if isinstance(pos, Sample):
        candidates = np.arange(n_special, length)
        if len(candidates) <= pos.k:
            return candidates
        rng = np.random.default_rng([pos.seed, text])
        return np.sort(rng.choice(candidates, pos.k, replace=False))
    if isinstance(pos, slice):
        return np.arange(length)[pos]
    assert isinstance(pos, int)
    if not -length <= pos < length:
        raise IndexError(f"pos={pos}: text {text} has {length} tokens (BOS included)")
    return np.array([pos % length])
