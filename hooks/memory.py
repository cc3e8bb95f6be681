"""Memory that is free already, given back to the system before more is asked for."""

import contextlib
import ctypes


def give_back() -> None:
    """Return the freed pieces of the C library's heap to the system, where it can (glibc).

    Weights of a few megabytes lie on that heap, and what is left of a deleted model between pieces still in
    use would otherwise be counted, and held, beside the next one.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
