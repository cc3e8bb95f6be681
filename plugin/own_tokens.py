"""The special tokens that a tokenizer puts around a text by itself, where TransformerLens would drop them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from graticule.hooks.points import resolve
from graticule.hooks.running.grouping import looks_ahead
from graticule.hooks.special import own_frame

logger = logging.getLogger(__name__)


def keep_own_tokens(
    model: Any, source: Path | str, name: str, trust_remote_code: bool, **options: Any
) -> None:
    """Let an encoder, or a model that reads both ways, get what its own tokenizer puts around a text.

    TransformerLens wants tokenizers that put BOS there, and they lose what else they put: `[CLS]`, `[SEP]`,
    EOS. A model that reads from left to right stays as TransformerLens has it; an EOS lost is told.

    Args:
        model: The model, with the tokenizer that TransformerLens has made of its own.
        source: A folder, or a name of the Hub.
        name: What the model is called.
        trust_remote_code: Run the code that comes with the tokenizer.
        options: Further ones of `from_pretrained`.
    """
    from transformers import AutoTokenizer

    tokenizer: Any = model.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        return
    own: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code, **options)
    wanted, present = own_frame(own, "a"), own_frame(tokenizer, "a")
    if not wanted or wanted == present or not getattr(own, "is_fast", False):
        return
    if looks_ahead(model, resolve(model, "resid_post")):
        tokenizer.backend_tokenizer.post_processor = own.backend_tokenizer.post_processor
    elif wanted.tail and not present.tail:
        logger.warning(
            "%s: its tokenizer ends texts with %s; a model that reads from left to right gets them without, "
            "as in TransformerLens",
            name,
            " ".join(map(str, own.convert_ids_to_tokens(list(wanted.tail)))),
        )
