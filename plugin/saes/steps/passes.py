"""Passes over large matrices at memory speed: kept buffers, and sums taken while a block is in the cache.

A fresh `[batch, d_sae]` tensor costs as much in page faults as the arithmetic on it, so a step keeps its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

_BLOCK = 1 << 18  # entries that pass through the cache together


class Workspace:
    """Tensors that a step fills anew at every call."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def take(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """The tensor of this name, of `like`'s dtype and device; its content is of no meaning."""
        held = self._held.get(name)
        if (
            held is None
            or held.shape != tuple(shape)
            or held.dtype != like.dtype
            or held.device != like.device
        ):
            held = self._held[name] = like.new_empty(tuple(shape))
        return held


def sums_and_counts(
    acts: Float[Tensor, "batch d_sae"], dtype: torch.dtype
) -> tuple[Float[Tensor, " d_sae"], Float[Tensor, " d_sae"]]:
    """Each column's sum, and how many of its entries are not zero; no entry is negative."""
    sums, counts = torch.zeros((2, acts.shape[1]), dtype=dtype, device=acts.device).unbind()
    for block in _blocks(acts):
        wide = block.to(dtype)
        sums += wide.sum(0)
        counts += wide.sign().sum(0)
    return sums, counts


def column_sums(matrix: Float[Tensor, "batch d_sae"], dtype: torch.dtype) -> Float[Tensor, " d_sae"]:
    """Each column's sum, taken in `dtype`."""
    sums = torch.zeros(matrix.shape[1], dtype=dtype, device=matrix.device)
    for block in _blocks(matrix):
        sums += block.sum(0, dtype=dtype)
    return sums


def shut(
    gradient: Float[Tensor, "batch d_sae"], acts: Float[Tensor, "batch d_sae"], dtype: torch.dtype
) -> Float[Tensor, " d_sae"]:
    """Zero `gradient` in place where `acts` is not positive, as ReLU's backward does; returns column sums."""
    sums = torch.zeros(acts.shape[1], dtype=dtype, device=acts.device)
    for pulled, block in zip(_blocks(gradient), _blocks(acts), strict=True):
        torch.ops.aten.threshold_backward.grad_input(pulled, block, 0, grad_input=pulled)
        sums += pulled.sum(0, dtype=dtype)
    return sums


def transposed(
    matrix: Float[Tensor, "d_sae d_in"], out: Float[Tensor, "d_in d_sae"]
) -> Float[Tensor, "d_in d_sae"]:
    """`matrix.T` written into `out`, block by block."""
    if matrix.device.type != "cpu":
        return out.copy_(matrix.t())
    rows = 128
    for i in range(0, len(matrix), rows):
        out[:, i : i + rows].copy_(matrix[i : i + rows].t())
    return out


def _blocks(matrix: Tensor) -> Sequence[Tensor]:
    if matrix.device.type != "cpu":
        return (matrix,)
    return matrix.split(max(1, _BLOCK // max(1, matrix.shape[1])))
