"""Other people's libraries imported so that a caller's process stays as it was.

On their first import some draw from Python's `random`, add warning filters, set environment variables or take
handlers off the root logger. A caller who has set a seed or a filter must not find another one after a call.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from typing import Any


def load(*modules: str) -> None:
    """Import `modules` where they are not yet, and put back what their import changes for all.

    Put back are the states of Python's, numpy's and torch's generators, the environment, the warning filters,
    and the root logger's level and handlers.
    """
    missing = [name for name in modules if name not in sys.modules]
    if missing:
        with as_it_was():
            for name in missing:
                import_module(name)
            _start_threads()


@contextmanager
def as_it_was() -> Generator[None]:
    """Put back at the end what `load` says."""
    import numpy as np

    torch: Any = sys.modules.get("torch")  # nothing is drawn yet from what is not loaded
    python, tensors = random.getstate(), None if torch is None else torch.get_rng_state()
    numbers = np.random.get_state()  # noqa: NPY002 (others draw from it)
    environment = dict(os.environ)
    level, handlers = logging.root.level, list(logging.root.handlers)
    try:
        with warnings.catch_warnings():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)  # noqa: NPY002
        if torch is not None:
            torch.set_rng_state(tensors)
        _restore(environment)
        logging.root.setLevel(level)
        logging.root.handlers[:] = handlers


def _restore(environment: dict[str, str]) -> None:
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _start_threads() -> None:
    """Let pools of threads that are loaded by now read the environment that was set for them."""
    pools: Any = sys.modules.get("threadpoolctl")
    if pools is not None:
        pools.threadpool_info()
