"""Models whose use of a direction is known: one that is read on the way to the output, one that is not.

Every text is a word of its own, and its activation after block 0 is planted: two features, `used` and
`decoy`, correlated with each other, among others. The output reads `used` and the others, and is blind to
`decoy`, which is exactly as readable. What a causal check says of either can be held against the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from graticule.hooks.imports import load
from graticule.probes.tables.table import Table
from graticule.sims.learners import hooked

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

POINT = "blocks.0.hook_resid_post"
"""Where the features are planted."""
ANSWERS = ("high", "low")
"""Two words whose log-odds follow `used` and nothing else that is planted by name."""
_BOS = "<s>"


@dataclass(frozen=True, eq=False)
class PlantedUse:
    """A model, the texts that it was made for, and what its output reads of them."""

    model: HookedTransformer
    """Two blocks: the first writes nothing, the second adds what it reads along `read` alone."""
    table: Table
    """One word a row; targets `used` and `decoy`."""
    used: Float[np.ndarray, " width"]
    """The unit direction that `used` is written in, and read by."""
    decoy: Float[np.ndarray, " width"]
    """The unit direction of `decoy`, at a right angle to everything that is read."""

    def targets(self, *names: str) -> Table:
        """The same texts with some of the targets."""
        frame = self.table.frame
        return Table(frame, text="text", target=list(names), split="is_test", name="planted use")


def planted_use(
    n_rows: int = 300,
    width: int = 32,
    correlation: float = 0.6,
    readable: float = 0.8,
    label: float = 1.0,
    reading: float = 6.0,
    others: float = 1.0,
    spread: float = 4.0,
    cut: bool = False,
    seed: int = 0,
) -> PlantedUse:
    """Make such a model.

    Args:
        n_rows: words, a quarter of them test rows.
        width: of the residual stream.
        correlation: of the two features.
        readable: share of the variance along each feature's direction that is the feature; the rest is noise.
        label: share of each target's variance that is the feature; the rest is not in the activations.
        reading: how strongly the output reads `used`.
        others: how strongly it reads every other feature but `decoy`.
        spread: the other features' standard deviations fall from 1 to 1 over this.
        cut: whether block 1 takes `decoy` out of the stream.
        seed: of everything drawn.

    Raises:
        ValueError: for shares outside 0 to 1, or a width below 4.
    """
    if width < 4 or not (0 < readable <= 1 and 0 < label <= 1 and -1 < correlation < 1):
        raise ValueError(
            f"width={width}, correlation={correlation}, readable={readable}, label={label}: a width of 4 or "
            "more, a correlation within -1 to 1, shares above 0 and up to 1"
        )
    rng = np.random.default_rng([seed, 17])
    frame = np.linalg.qr(rng.normal(size=(width, width)))[0]
    features = rng.normal(size=(n_rows, 2))
    features[:, 1] = correlation * features[:, 0] + np.sqrt(1 - correlation**2) * features[:, 1]
    scale = np.geomspace(1, 1 / spread, width - 2)
    values = np.concatenate(
        [
            np.sqrt(readable) * features + np.sqrt(1 - readable) * rng.normal(size=features.shape),
            scale * rng.normal(size=(n_rows, width - 2)),
        ],
        axis=1,
    )
    words = [f"w{i}" for i in range(n_rows)]
    tokenizer = whole_words([*words, *ANSWERS])
    weights = rng.normal(size=(width, len(tokenizer))) / np.sqrt(width)
    weights *= others
    weights[0] *= reading / others
    weights[1] = 0.0
    high, low = (tokenizer.convert_tokens_to_ids(word) for word in ANSWERS)
    weights[:, high] = weights[:, low]
    weights[0, high] += reading
    embedding = np.zeros((len(tokenizer), width))
    embedding[[tokenizer.convert_tokens_to_ids(w) for w in words]] = values
    onward = rng.normal(size=(width, width)) / np.sqrt(width)  # what block 1 adds, along what is read
    onward[1], onward[:, 1] = 0.0, 0.0
    if cut:
        onward[1, 1] = -2.0  # of two tokens one is BOS, whose embedding is 0
    model = _model(width, tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embed.W_E.copy_(torch.from_numpy(embedding @ frame.T))
        model.unembed.W_U.copy_(torch.from_numpy(frame @ weights))
        block: Any = model.blocks[1]
        block.attn.W_V[0].copy_(torch.from_numpy(frame @ onward @ frame.T))
        block.attn.W_O[0].copy_(torch.eye(width))
    y = np.sqrt(label) * features + np.sqrt(1 - label) * rng.normal(size=features.shape)
    rows = pd.DataFrame({"text": words, "used": y[:, 0], "decoy": y[:, 1]})
    rows["is_test"] = rng.permutation(n_rows) < n_rows // 4
    table = Table(rows, text="text", target=["used", "decoy"], split="is_test", name="planted use")
    return PlantedUse(model, table, frame[:, 0], frame[:, 1])


def whole_words(words: Sequence[str]) -> Any:
    """A tokenizer of whole words, with BOS in front."""
    load("tokenizers", "transformers")
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(WordLevel({w: i for i, w in enumerate([_BOS, *words])}, unk_token=_BOS))
    inner.pre_tokenizer = WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    special = dict.fromkeys(("unk_token", "bos_token", "eos_token", "pad_token"), _BOS)
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=inner, add_bos_token=True, **special)
    tokenizer.init_kwargs["name_or_path"] = ""
    return tokenizer


def _model(width: int, tokenizer: Any) -> HookedTransformer:
    config: dict[str, Any] = {
        "n_layers": 2,
        "d_model": width,
        "n_heads": 1,
        "d_head": width,
        "attn_only": True,
        "normalization_type": None,
        "positional_embedding_type": "standard",
        "n_ctx": 8,
        "d_vocab": len(tokenizer),
        "default_prepend_bos": True,
        "init_weights": False,
        "device": "cpu",
        "model_name": "planted-use",
    }
    model = hooked(config)
    model.set_tokenizer(tokenizer)
    return model.eval()
