"""Leave the user's session as found: training flag, grad mode, padding side, RNG state, default dtype."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch

from graticule.hooks.protocols import HookedModel


@contextmanager
def undisturbed(model: HookedModel) -> Generator[None]:
    """Run the model in eval mode without gradients, then put everything back, also after an exception."""
    modules: list[Any] = list(model.modules()) if isinstance(model, torch.nn.Module) else []
    training = [m.training for m in modules]
    tokenizer: Any = getattr(model, "tokenizer", None)
    side = getattr(tokenizer, "padding_side", None)
    default_dtype = torch.get_default_dtype()
    cpu_state = torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        for module in modules:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module, was in zip(modules, training, strict=True):
            module.training = was
        if tokenizer is not None and side is not None:
            tokenizer.padding_side = side
        torch.set_default_dtype(default_dtype)
        torch.set_rng_state(cpu_state)
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)
