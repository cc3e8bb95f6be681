"""Values where they enter or are made: finite figures, arrays without a mask, ids that have an embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from graticule.hooks.messages import brief

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


def dtype_named(dtype: torch.dtype | str | None, *, auto: bool = False) -> torch.dtype | None:
    """A floating-point dtype or its name; None for None, and for `"auto"` where that will do.

    Raises:
        ValueError: It is anything else.
    """
    if dtype is None or (auto and dtype == "auto"):
        return None
    named = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(named, torch.dtype) or not named.is_floating_point:
        names = ["'float32'", "'bfloat16'", "'float16'", *(["'auto'"] if auto else [])]
        raise ValueError(f"dtype={brief(dtype)}: expected {', '.join(names[:-1])} or {names[-1]}")
    return named


def device_named(device: str | torch.device | None) -> torch.device:
    """The device of that name, if this machine has it; None and `"auto"` are CUDA where there is one.

    Raises:
        ValueError: There is no such device here.
    """
    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:  # by backend and build
        here = ["auto", "cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise ValueError(
            f"device {brief(str(device))} is not on this machine; expected one of {', '.join(here)}"
        ) from error
    return target


def dtype_name(dtype: torch.dtype) -> str:
    """`float32` of `torch.float32`."""
    return str(dtype).removeprefix("torch.")


class MaskedError(ValueError):
    """An array whose mask says that entries are missing; the message names how many and the first."""


def unmasked(what: str, values: Any) -> Any:
    """`values`, as they were given, if no mask says that some are missing.

    Args:
        what: what the values are, for the message.
        values: anything; a `dict` is looked into.

    Returns:
        `values` themselves.

    Raises:
        MaskedError: for a `numpy.ma` array with masked entries.
    """
    if type(values) is dict:
        for name, inner in values.items():
            unmasked(f"{what}[{name!r}]", inner)
    elif isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        mask = np.ma.getmaskarray(values)
        first = ", ".join(map(str, np.argwhere(mask)[0]))
        raise MaskedError(
            f"{what} is a masked array with {int(mask.sum())} of {mask.size} entries masked, the first at "
            f"[{first}]: masks are not read; leave those rows out, or give .filled(…) values"
        )
    return values


def token_ids(row: Any, where: str, vocabulary: int | None = None) -> np.ndarray:
    """One row of token ids as int64.

    Args:
        row: a list, an array or a tensor of ids.
        where: what the row is called in a message: `token row 3`, `document 7 of texts.jsonl`.
        vocabulary: how many ids there are, of 0 and up; None where that is not known.

    Returns:
        The ids, `[pos]`.

    Raises:
        ValueError: for anything but whole numbers from 0 to below `vocabulary`, naming row, position and id.
    """
    ids = np.asarray(row.cpu() if isinstance(row, Tensor) else unmasked(where, row))
    if ids.ndim == 0:
        raise ValueError(f"{where} is {brief(row)}; expected a text, or a list of token ids")
    if ids.ndim != 1:
        raise ValueError(f"{where} has shape {ids.shape}; expected a list of token ids")
    if len(ids) == 0:
        return ids.astype(np.int64)
    if ids.dtype.kind not in "iu" or (
        not isinstance(row, Tensor | np.ndarray) and bool in set(map(type, row))
    ):
        _refuse_kinds(row if isinstance(row, Sequence) else ids.tolist(), where)
    if int(ids.min()) < 0 or (vocabulary is not None and int(ids.max()) >= vocabulary):
        check_range(ids, where, vocabulary)
    return ids.astype(np.int64)


def check_range(ids: np.ndarray, where: str, vocabulary: int | None) -> None:
    """Raises:
    ValueError: Naming the first id that has no embedding.
    """
    bad = ids < 0 if vocabulary is None else (ids < 0) | (ids >= vocabulary)
    if not bad.any():
        return
    at = int(bad.argmax())
    has = "ids begin at 0" if vocabulary is None else f"the model has {vocabulary:,}, 0 to {vocabulary - 1:,}"
    why = (
        "cut padding and the marks of a collator (-100) off"
        if ids[at] < 0
        else "were these tokens made by another model's tokenizer?"
    )
    raise ValueError(f"{where}, position {at}: id {int(ids[at])} has no embedding ({has}); {why}")


def _refuse_kinds(row: Sequence[Any], where: str) -> None:
    at, value = next(
        (i, v) for i, v in enumerate(row) if isinstance(v, bool) or not isinstance(v, int | np.integer)
    )
    raise ValueError(
        f"{where}, position {at}: {brief(value)} is {type(value).__name__}; token ids are whole numbers (int)"
    )
