"""Intervals of rates."""

from __future__ import annotations

import numpy as np


def wilson(found: int, of: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95% interval of a rate (JASA 1927): good near 0 and 1 and for small counts. NaN for none."""
    if of == 0:
        return float("nan"), float("nan")
    rate = found / of
    centre = (rate + z**2 / (2 * of)) / (1 + z**2 / of)
    half = z / (1 + z**2 / of) * float(np.sqrt(rate * (1 - rate) / of + z**2 / (4 * of**2)))
    return max(0.0, centre - half), min(1.0, centre + half)
