"""Masked arrays: no mask is read, so that an array with masked entries is refused where it comes in."""

from __future__ import annotations

from typing import Any

import numpy as np


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
