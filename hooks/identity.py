"""Which model this is: a name for people and a digest of its weights for machines."""

import hashlib
from typing import Any

import torch
from torch import Tensor

from graticule.hooks.protocols import HookedModel, dtype_of

_ENTRIES = 1024
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def weight_digest(model: HookedModel) -> str:
    """A digest of every parameter's name, shape, dtype, bit sum and 1,024 evenly spaced entries.

    The bit sum (entries read as integers, added modulo 2⁶⁴) is exact whatever the number of threads, and any
    edit of a weight changes it; the entries tell a permutation apart. A fraction of the cost of hashing
    gigabytes. Not cryptographic: it tells models apart, it does not guard against forgery.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters(), key=lambda item: item[0]):
        bits: Tensor = parameter.detach().reshape(-1).view(_BITS[parameter.element_size()])
        picked = bits[:: max(1, bits.numel() // _ENTRIES)].to("cpu", torch.int64)
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        digest.update(picked.numpy().tobytes())
        digest.update(str(_bit_sum(bits)).encode())
    return digest.hexdigest()[:16]


def _bit_sum(bits: Tensor) -> int:
    """Sum of the entries modulo 2⁶⁴, eight bytes at a time: no wider copy of the weights is made."""
    if bits.storage_offset() * bits.element_size() % 8:
        bits = bits.clone()  # a slice that does not start on eight bytes
    whole = bits.numel() // (8 // bits.element_size()) * (8 // bits.element_size())
    words = int(bits[:whole].view(torch.int64).sum())
    return words + int(bits[whole:].sum(dtype=torch.int64))


def model_identity(model: HookedModel) -> dict[str, Any]:
    """Name, class, size, dtype and weight digest of `model`, as provenance records them."""
    cfg = model.cfg
    return {
        "name": str(getattr(cfg, "model_name", None) or type(model).__name__),
        "class": type(model).__name__,
        "n_layers": int(cfg.n_layers),
        "d_model": int(cfg.d_model),
        "dtype": str(dtype_of(model)).removeprefix("torch."),
        "digest": weight_digest(model),
    }
