"""The one check that figures are numbers, asked where they are made: no mean, sum or ratio hides a NaN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

Figures = TypeVar("Figures")
"""A tensor, an array or a single number."""


class NonFiniteError(ValueError):
    """A number is NaN or infinite; the message names what it is of and where the first one lies."""


def finite(
    what: str, values: Figures, where: str | Callable[[int], str] = "", hint: str = "", counted: Any = None
) -> Figures:
    """`values`, as they were given, if all of them are numbers.

    Args:
        what: what the values are: a hook point, `"the loss"`.
        values: a tensor, an array or a number.
        where: the place of the first bad entry in words, or a function from its number along the first axis
            to these words.
        hint: what may have led to it, or what to do.
        counted: a mask of the shape of `values`; the other entries stand for nothing and may be anything.

    Returns:
        `values` themselves.

    Raises:
        NonFiniteError: for NaN or an infinity, naming how many there are and where the first is.
    """
    bad = ~torch.isfinite(torch.as_tensor(values))
    if counted is not None:
        bad &= torch.as_tensor(counted).to(bad.device)
    count = int(bad.sum())
    if not count:
        return values
    if not isinstance(where, str):
        where = where(int(bad.reshape(len(bad), -1).any(1).nonzero()[0]) if bad.ndim else 0)
    place = f", the first {where}" if where else ""
    raise NonFiniteError(f"{what}: {count} non-finite entries{place}{f'; {hint}' if hint else ''}")
