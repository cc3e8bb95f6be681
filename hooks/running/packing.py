"""Attention and MLP weights laid out in memory as the forward pass uses them, for the time of a capture.

TransformerLens stores `W_Q` as `[head, d_model, d_head]` and rearranges it to `[head · d_head, d_model]` on
every call: a copy of all weights a batch, a fifth of the time of a small batch on a CPU. The same values
with permuted strides make that rearrangement a view. Shapes and values do not change; the parameters'
own storage is put back afterwards.
"""

from collections.abc import Generator, Iterable
from contextlib import contextmanager

import torch
from torch import Tensor

from graticule.hooks.protocols import HookedModel

_HEADS_IN = ("W_Q", "W_K", "W_V", "_W_K", "_W_V")
_GATED = ("W_gate", "W_in", "W_out")
_LIMIT = 8 * 2**30


def _laid_out(name: str, weight: Tensor, gated: set[str]) -> Tensor | None:
    """`weight` with the strides that its use wants, or None where they would not help."""
    owner, _, leaf = name.rpartition(".")
    if leaf in _HEADS_IN and weight.ndim == 3:
        return weight.permute(0, 2, 1).contiguous().permute(0, 2, 1)
    if leaf == "W_O" and weight.ndim == 3:
        flat = weight.permute(2, 0, 1).contiguous()  # [d_model, head, d_head]
        return flat.permute(1, 2, 0)
    if owner in gated and leaf in _GATED and weight.ndim == 2:
        return weight.T.contiguous().T
    return None


def lay_out(model: HookedModel) -> None:
    """Lay the weights out for good, one after the other: for a model that nobody else holds, such as a twin.

    `packed` then has nothing to copy, and does not hold them twice.
    """
    parameters = {n: p for n, p in model.named_parameters() if p.device.type == "cpu"}
    gated = _gated(parameters)
    for name, parameter in parameters.items():
        laid_out = _laid_out(name, parameter.data, gated)
        if laid_out is not None:
            parameter.data = laid_out


def _gated(names: Iterable[str]) -> set[str]:
    return {n.rpartition(".")[0] for n in names if n.endswith(".W_gate")}


@contextmanager
def packed(model: HookedModel) -> Generator[None]:
    """Lay the weights of a TransformerLens model on the CPU out for its forward pass, then put them back.

    Does nothing on other devices (copies are cheap there), where block weights exceed 8 GiB (both layouts are
    in memory at once), or for modules that keep no such weights.
    """
    parameters = {n: p for n, p in model.named_parameters() if p.device.type == "cpu"}
    gated = _gated(parameters)
    size = sum(p.numel() * p.element_size() for n, p in parameters.items() if n.startswith("blocks."))
    originals: list[tuple[torch.nn.Parameter, Tensor]] = []
    try:
        if size <= _LIMIT:
            for name, parameter in parameters.items():
                laid_out = _laid_out(name, parameter.data, gated)
                if laid_out is not None:
                    originals.append((parameter, parameter.data))
                    parameter.data = laid_out
        yield
    finally:
        for parameter, original in originals:
            parameter.data = original
