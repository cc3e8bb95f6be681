"""Ctrl-C and SIGTERM as a wish that a step in progress is finished before."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def asked_to_stop() -> Generator[list[int]]:
    """A list that stays empty until Ctrl-C or SIGTERM; a second signal acts as it would have anyway.

    Other threads than the main one cannot listen.
    """
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            if handler is not None:  # None: set by something other than Python, and not to be set again
                signal.signal(number, handler)

    def ask(number: int, _: FrameType | None) -> None:
        asked.append(number)
        restore()

    try:
        for number in before:
            signal.signal(number, ask)
        yield asked
    finally:
        restore()
