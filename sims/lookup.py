"""The lookup learner as a TransformerLens model: the paper's two tables behind the usual hook points.

Jiang et al. section 2: logits f(d)ᵀg(c), f and g free tables. Here f is the token embedding and g the
unembedding of a `HookedTransformer` whose one block writes nothing, so the residual stream at every point is
f(d). Contexts and completions share the token ids 0 … n − 1, the fully known contexts first (see
`Contexts`): the sequence `[context, completion]` has the paper's loss under TransformerLens's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from graticule.sims.contexts import Contexts
from graticule.sims.learners import hooked, load_learner, save_learner

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

KIND = "lookup_learner"


def lookup_model(
    f: Float[Tensor, "context dim"], g: Float[Tensor, "token dim"], sae: bool = False
) -> HookedTransformer:
    """A hooked model whose logits after a context are `f(d) · g(c)`; its weights are frozen.

    `blocks.0.hook_resid_pre` and `hook_resid_post` are f(d). `sae=True` makes a `HookedSAETransformer`.

    **Raises** `ValueError` where the widths differ, or there are fewer contexts than tokens.
    """
    if f.shape[1] != g.shape[1] or len(f) < len(g):
        raise ValueError(
            f"f is {tuple(f.shape)} and g {tuple(g.shape)}: equal widths, and every token is a context too"
        )
    settings: dict[str, Any] = {
        "n_layers": 1,
        "attn_only": True,
        "n_heads": 1,
        "d_head": 2,
        "d_model": f.shape[1],
        "n_ctx": 2,
        "d_vocab": len(f),
        "d_vocab_out": len(g),
        "act_fn": None,
        "normalization_type": None,
        "positional_embedding_type": "rotary",
        "default_prepend_bos": False,
        "init_weights": False,
        "device": "cpu",
        "model_name": "lookup-learner",
    }
    model = hooked(settings, sae)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
            parameter.requires_grad_(False)
        model.embed.W_E.copy_(f)
        model.unembed.W_U.copy_(g.T)
    model.eval()
    return model


def sequences(
    contexts: Int[np.ndarray, " row"] | Sequence[int], completions: Int[np.ndarray, " row"] | Sequence[int]
) -> Int[Tensor, "row 2"]:
    """`[context, completion]` token ids: what the model and SAELens's stores read."""
    return torch.from_numpy(
        np.stack([np.asarray(contexts), np.asarray(completions)], axis=1).astype(np.int64)
    )


def save_lookup(
    path: Path | str,
    contexts: Contexts,
    f: Float[Tensor, "context dim"],
    g: Float[Tensor, "token dim"],
    overwrite: bool = False,
) -> None:
    """Write a learner and its world as a folder of JSON and safetensors.

    **Raises** `FileExistsError` if the folder exists and is not to be overwritten.
    """
    save_learner(path, KIND, contexts, {"f": f, "g": g}, overwrite=overwrite)


def load_lookup(path: Path | str, sae: bool = False) -> tuple[HookedTransformer, Contexts]:
    """The hooked model that `save_lookup` wrote, and the contexts whose truth is known.

    **Raises** `ArtifactError` if the folder is missing, damaged or something else.
    """
    contexts, held, _ = load_learner(path, KIND)
    return lookup_model(held["f"], held["g"], sae), contexts
