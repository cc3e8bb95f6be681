"""What the code inside one public call shares: it begins with the outermost call, and ends with it."""

from __future__ import annotations

from collections.abc import Generator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

from graticule.hooks.plainly import plainly

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
