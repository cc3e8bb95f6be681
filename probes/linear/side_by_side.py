"""Independent pieces of linear algebra, a thread each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`work` of every item, in their order, in as many threads as PyTorch uses.

    Meanwhile BLAS runs a single thread in each: pieces of a few hundred columns are too small to be shared
    out within, and what stands between the products (copies, sums) is shared out as well.
    """
    threads = min(torch.get_num_threads(), len(items))
    if threads < 2:
        return [work(item) for item in items]
    with _pools().limit(limits=1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))


@cache
def _pools() -> Any:
    """Handles of the BLAS libraries that are loaded."""
    from importlib import import_module

    from threadpoolctl import ThreadpoolController

    import_module("scipy.linalg")  # brings a BLAS of its own
    return ThreadpoolController()
