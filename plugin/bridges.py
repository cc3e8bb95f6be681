"""A Hugging Face folder as a TransformerBridge: the original's own modules, with hooks around them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from graticule.lens import nothing_installed
from graticule.local import stand_in_tokenizer
from graticule.original import Wishes, same_draws

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def bridge_of(folder: Path, tokenizer: Any, name: str, wishes: Wishes, tokens: Any) -> "TransformerBridge":
    """The model in `folder` as a TransformerBridge on the CPU.

    **Raises** `ValueError` if TransformerLens has no adapter for its architecture, or one that cannot run
    `tokens`.
    """
    from transformer_lens.model_bridge import TransformerBridge

    try:
        with same_draws(), nothing_installed():
            model: Any = TransformerBridge.boot_transformers(
                str(folder),
                device="cpu",
                dtype=wishes.dtype,
                tokenizer=tokenizer or stand_in_tokenizer(),
                trust_remote_code=wishes.trust_remote_code,
            )
        with torch.no_grad():
            model(tokens, return_type=None)
    except Exception as error:  # adapters fail on attributes, shapes and assertions alike
        words = " ".join(str(error).split())
        if "Could not determine supported architecture" in words:
            words = "TransformerLens has no adapter for it"  # it lists all that it has
        raise ValueError(
            f"{name} can be loaded neither as HookedTransformer nor as TransformerBridge: "
            f"{type(error).__name__}: {words}"
        ) from error
    if tokenizer is None:
        model.tokenizer = None
    model.cfg.model_name = name
    return model


def is_bridge(model: Any) -> bool:
    """Whether `model` is one."""
    from transformer_lens.model_bridge import TransformerBridge

    return isinstance(model, TransformerBridge)
