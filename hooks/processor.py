"""What this machine's processor does for bfloat16: whether it is faster there than float32, or slower.

A CPU multiplies bfloat16 matrices fast with AMX tiles (`amx_bf16`) alone. With `avx512_bf16` and no AMX, and
without either, the same products take longer than in float32.

And memory that is free already, given back to the system before more is asked for.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import platform
from pathlib import Path

import torch

_log = logging.getLogger(__name__)

_FLAGS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "bf16", "asimd")
"""Features told of, as the kernel names them (the last two are ARM's)."""
_FAST = "amx_bf16"


@functools.cache
def features() -> tuple[str, ...]:
    """The processor's features that matter to products of matrices, most telling first.

    From `/proc/cpuinfo`; where there is none, what torch was dispatched to (`avx512`, `default`, …).
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return (torch.backends.cpu.get_cpu_capability().lower(),)
    flags = {f for line in lines if line.lower().startswith(("flags", "features")) for f in line.split()}
    return tuple(f for f in _FLAGS if f in flags) or (torch.backends.cpu.get_cpu_capability().lower(),)


def bfloat16_is_fast(device: torch.device | str = "cpu") -> bool:
    """Whether products in bfloat16 take less time than in float32 on `device`: always but on a CPU without
    AMX."""
    return torch.device(device).type != "cpu" or _FAST in features()


def described(device: torch.device | str = "cpu") -> str:
    """What runs on `device`, with the features that figures depend on: `x86_64 (avx512_bf16, …; no
    amx_bf16)`."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.get_device_name(device)
    if kind != "cpu":
        return kind
    lacking = "" if bfloat16_is_fast() else f"; no {_FAST}"
    return f"{platform.machine()} ({', '.join(features())}{lacking})"


def auto_dtype(device: torch.device | str = "cpu") -> torch.dtype:
    """The dtype to compute in where the machine chooses: bfloat16 where that is faster, else float32."""
    return torch.bfloat16 if bfloat16_is_fast(device) else torch.float32


def tell_if_slow(dtype: torch.dtype, device: torch.device | str, what: str) -> bool:
    """Log a warning where `what` would compute in bfloat16 slower than in float32; whether it did."""
    if dtype != torch.bfloat16 or bfloat16_is_fast(device):
        return False
    _log.warning(
        "%s computes in bfloat16, which this processor does no faster than float32, often slower: %s; "
        "'float32' computes faster, 'auto' chooses",
        what,
        described(device),
    )
    return True


def give_back() -> None:
    """Return the freed pieces of the C library's heap to the system, where it can (glibc).

    Weights of a few megabytes lie on that heap, and what is left of a deleted model between pieces still in
    use would otherwise be counted, and held, beside the next one.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
