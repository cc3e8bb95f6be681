"""What the code inside one public call shares: a memory of what was worked out, plain torch, old names.

It begins with the outermost call, and ends with it. Torch computes as in a fresh process, whatever the
session around the call has switched on.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable, Generator, MutableMapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast
from weakref import WeakKeyDictionary

import torch

P = ParamSpec("P")
R = TypeVar("R")

_memory: ContextVar[MutableMapping[Any, Any] | None] = ContextVar("graticule_call", default=None)


@contextmanager
def one_call() -> Generator[None]:
    """A public call: inside it, what is worked out of an object need not be worked out again, and torch
    computes `plainly`."""
    if _memory.get() is not None:
        yield
        return
    begun = _memory.set(WeakKeyDictionary())
    try:
        with plainly():
            yield
    finally:
        _memory.reset(begun)


def outermost() -> bool:
    """Whether no public call is under way."""
    return _memory.get() is None


def memory() -> MutableMapping[Any, Any]:
    """What this call remembers, by object, none of which it keeps alive; outside a call, nothing at all."""
    current = _memory.get()
    return WeakKeyDictionary() if current is None else current


_AUTOCAST = ("cpu", "cuda", "mps", "xpu")
"""Devices whose autocast is switched off."""


@contextmanager
def plainly(*, inference: bool = False) -> Generator[None]:
    """Inside, nothing is cast to another dtype, and float32 is the default; all is as before after it.

    Activations are of the dtype that their model is in. Under `torch.autocast` they would be of another, and
    be off by as much as that rounds, and under a default dtype of float64 what a forward makes anew would be.

    Args:
        inference: Whether inference mode, which changes no values, may stay on. Tensors made in it cannot be
            used outside it as others can.
    """
    default = torch.get_default_dtype()
    with ExitStack() as stack:
        for device in _AUTOCAST:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if not inference and torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(mode=False))
        try:
            torch.set_default_dtype(torch.float32)
            yield
        finally:
            torch.set_default_dtype(default)


def products() -> dict[str, Any]:
    """How torch multiplies float32 matrices, where that is not in float32: for what is kept.

    Users choose it for a machine, and it is left as they chose it.
    """
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # torch's older and newer switches were both used
        precision = "mixed"
    return {} if precision == "highest" else {"float32_products": precision}


def old_name(old: str, new: str) -> None:
    """Warn, where the caller's code stands, that a form of 0.1 was used, which works for one version."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and _is_ours(frame.f_globals.get("__name__", "")):
        frame, level = frame.f_back, level + 1
    warnings.warn(f"{old} is now {new}, and goes in 0.3", DeprecationWarning, stacklevel=level)


def _is_ours(module: str) -> bool:
    """Whether a frame stands between a call of ours and its caller."""
    return module.split(".")[0] in ("graticule", "jaxtyping", "beartype", "contextlib")


def renamed(*positional: str, **old: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A public call that 0.1 took in other forms: these work, with a `DeprecationWarning`.

    Args:
        positional: Options that are given by name now and could be given by position, in their old order.
        old: Old keyword → the new one.

    Returns:
        A decorator, the outermost of the call's. The call raises `TypeError` where an option is given twice.
    """

    def decorate(call: Callable[P, R]) -> Callable[P, R]:
        places = _places(call)

        @wraps(call)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            for before in old.keys() & kwargs.keys():
                now = old[before]
                if now in kwargs:
                    raise TypeError(f"{call.__name__}: {before}= is the old name of {now}=: give one of them")
                old_name(f"{call.__name__}({before}=)", f"{now}=")
                kwargs[now] = kwargs.pop(before)
            if not 0 < len(args) - places <= len(positional):
                return call(*args, **kwargs)
            named = dict(zip(positional, args[places:], strict=False))
            if twice := named.keys() & kwargs.keys():
                raise TypeError(f"{call.__name__}: {min(twice)} is given twice, by position and by name")
            old_name(f"{call.__name__}: {', '.join(named)} by position", ", ".join(f"{n}=" for n in named))
            return cast("Callable[..., R]", call)(*args[:places], **named, **kwargs)

        return wrapper

    return decorate


def _places(call: Callable[..., Any]) -> int:
    """How many arguments a call takes by position."""
    kinds = [p.kind for p in inspect.signature(call).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return sys.maxsize
    return sum(kind is not inspect.Parameter.KEYWORD_ONLY for kind in kinds)
