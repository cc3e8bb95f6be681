"""The gain at which a rate of detection is reached."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def monotone(
    rates: Float[np.ndarray, " gain"], counts: Float[np.ndarray, " gain"]
) -> Float[np.ndarray, " gain"]:
    """Least-squares fit that never falls, by pooling adjacent violators (Ayer et al. 1955)."""
    pools: list[tuple[float, float, int]] = []
    for rate, count in zip(rates, counts, strict=True):
        pools.append((float(rate), float(count), 1))
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            (a, n, k), (b, m, j) = pools[-2:]
            pools[-2:] = [((a * n + b * m) / (n + m), n + m, k + j)]
    return np.concatenate([np.full(k, rate) for rate, _, k in pools])


def limit_of_detection(
    gains: Float[np.ndarray, " gain"],
    rates: Float[np.ndarray, " gain"],
    counts: Float[np.ndarray, " gain"],
    wanted: float = 0.8,
) -> tuple[float, bool]:
    """The gain that is found with probability `wanted`, and whether that is only an upper bound.

    A monotone fit of the rates, interpolated in the logarithm of the gain. The smallest gain tried, as an
    upper bound, where even that is found so often; NaN where no gain tried is.
    """
    fitted = monotone(rates, counts)
    if fitted[0] >= wanted:
        return float(gains[0]), True
    above = np.flatnonzero(fitted >= wanted)
    if not len(above):
        return float("nan"), False
    at = int(above[0])
    share = (wanted - fitted[at - 1]) / (fitted[at] - fitted[at - 1])
    logs = np.log(gains)
    return float(np.exp(logs[at - 1] + share * (logs[at] - logs[at - 1]))), False
