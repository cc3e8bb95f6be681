"""Which few coordinates hold a target: rankings from training rows, and probes on the first k of them.

Gurnee et al., *Finding Neurons in a Haystack* (2305.01610): with one class the standardised mean difference
ranks coordinates as their squared correlation with the class does, which is what is used here, for any number
of target columns. `omp` is orthogonal matching pursuit: each coordinate is chosen for what it adds to those
before it, so that copies of one coordinate are not chosen together.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float, Int

Select = Literal["difference", "omp"]
"""How coordinates are ranked."""

_LEFT = 1e-10


def rank_coordinates(
    X: Float[np.ndarray, "row width"],
    y: Float[np.ndarray, "row column"],
    count: int,
    select: Select = "difference",
) -> Int[np.ndarray, " chosen"]:
    """The best `count` coordinates, best first; the first k of them are the choice of k.

    Constant coordinates are never chosen; with `omp` neither are those that the chosen ones already give.

    Raises:
        ValueError: An unknown way to select, or fewer coordinates than `count` to choose from: that vary, and
            with `omp` that are not given by those chosen before.
    """
    varied = int((X.std(axis=0) > 0).sum())
    if not 1 <= count <= varied:
        raise ValueError(f"k={count}: there are {varied} coordinates that vary over the training rows")
    order = best_coordinates(X, y, count, select)
    if len(order) < count:
        raise ValueError(
            f"k={count}: {len(order)} coordinates give all others over the training rows; write k="
            f"{len(order)} or less, or select='difference'"
        )
    return order


def best_coordinates(
    X: Float[np.ndarray, "row width"], y: Float[np.ndarray, "row column"], most: int, select: Select
) -> Int[np.ndarray, " chosen"]:
    """As `rank_coordinates`, as many as there are up to `most`."""
    if select not in ("difference", "omp"):
        raise ValueError(f"select={select!r}: 'difference' or 'omp'")
    spread = X.std(axis=0)
    varied = np.flatnonzero(spread > 0)
    z = (X[:, varied] - X[:, varied].mean(axis=0)) / spread[varied]
    t = y - y.mean(axis=0)
    scale = t.std(axis=0)
    t = t[:, scale > 0] / scale[scale > 0]
    shared = z.T @ t / len(X)
    if select == "difference":
        order = np.argsort(-np.square(shared).mean(axis=1), kind="stable")[:most]
    else:
        order = _pursuit(z.T @ z / len(X), shared, min(most, len(varied)))
    return varied[order]


def _pursuit(gram: np.ndarray, shared: np.ndarray, count: int) -> np.ndarray:
    """Each step takes the coordinate whose part beyond those taken explains most, and takes it out of the
    rest (a Gram-Schmidt step on the correlations)."""
    gram, shared = gram.copy(), shared.copy()
    taken: list[int] = []
    left = np.ones(len(gram), dtype=bool)
    for _ in range(count):
        own = np.diag(gram)
        left &= own > _LEFT
        if not left.any():
            break
        worth = np.square(shared).sum(axis=1) / np.where(left, own, 1.0)
        best = int(np.where(left, worth, -1.0).argmax())
        taken.append(best)
        left[best] = False
        along = gram[best] / gram[best, best]
        shared = shared - np.outer(along, shared[best])
        gram = gram - np.outer(along, gram[best])
    return np.array(taken, np.int64)
