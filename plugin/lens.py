"""What TransformerLens does unasked while it loads: announce, trust code, install. Kept from it here."""

import contextlib
import logging
import subprocess
import warnings
from collections.abc import Generator
from typing import Any


@contextlib.contextmanager
def nothing_installed() -> Generator[None]:
    """TransformerLens installs torchvision by pip for a model that also sees pictures: not while inside."""

    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise OSError("nothing is installed while a model is loaded")

    run = subprocess.check_call
    subprocess.check_call = refuse
    try:
        yield
    finally:
        subprocess.check_call = run


@contextlib.contextmanager
def no_code_by_name() -> Generator[None]:
    """TransformerLens trusts the code of some official models by itself: not while inside."""
    from transformer_lens import loading_from_pretrained as loading

    names = loading.NEED_REMOTE_CODE_MODELS
    loading.NEED_REMOTE_CODE_MODELS = ()
    try:
        yield
    finally:
        loading.NEED_REMOTE_CODE_MODELS = names


@contextlib.contextmanager
def quiet_lens() -> Generator[None]:
    """TransformerLens 3.9 announces its removals on import and on use: ours to heed, not the user's.

    It also logs by the root logger, which then gets a handler: the user's to choose, so it is taken off. And
    transformers 5 tells of every model on one device that its layers were not sharded.
    """
    handlers, sharding = list(logging.root.handlers), logging.getLogger(_SHARDING)
    sharding.addFilter(_no_false_alarm)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The 'utils' module has been deprecated", DeprecationWarning)
            warnings.filterwarnings("ignore", "HookedTransformer", DeprecationWarning)
            yield
    finally:
        sharding.removeFilter(_no_false_alarm)
        if not handlers:
            logging.root.handlers.clear()


_SHARDING = "transformers.distributed.tensor_parallel"


def _no_false_alarm(record: logging.LogRecord) -> bool:
    return "were not sharded" not in record.getMessage()
