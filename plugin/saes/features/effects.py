"""Which tokens a latent makes likelier: its decoder vector read through the final norm and the unembedding.

Bricken et al. 2023, "logit weights": d · W_out · π · L · W_U, where π removes the mean and L is the final
norm's gain; its scale, one number a token, is left out. Effects are shifted so that the vocabulary's median
is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from graticule.hooks.coders import SparseCoder
from graticule.hooks.model_view import final_norm
from graticule.hooks.points import layer_of
from graticule.hooks.protocols import HookedModel
from graticule.hooks.values import finite

_RESIDUAL = (
    "hook_resid_pre",
    "hook_resid_mid",
    "hook_resid_post",
    "hook_mlp_out",
    "hook_attn_out",
    "hook_embed",
)
_HIDDEN = ("mlp.hook_post", "mlp.hook_post_linear")


def residual_directions(
    model: HookedModel, sae: SparseCoder, point: str, latents: Sequence[int], head: int | None = None
) -> Float[Tensor, "latent d_model"] | None:
    """What one unit of each latent adds to the residual stream; None where the point does not add to it so
    (queries, keys, pre-activations), or the model does not say how."""
    width = int(model.cfg.d_model)
    rows = sae.W_dec.detach()[torch.as_tensor(list(latents), device=sae.W_dec.device)].to(
        "cpu", torch.float32
    )
    if point.endswith(_RESIDUAL) or point == "hook_embed":
        return rows if rows.shape[1] == width else None
    layer = layer_of(point)
    blocks: Any = getattr(model, "blocks", None)
    if layer is None or blocks is None:
        return None
    try:
        if point.endswith(_HIDDEN):
            out = blocks[layer].mlp.W_out
        elif point.endswith("attn.hook_z"):
            out = blocks[layer].attn.W_O
            out = out.flatten(0, 1) if head is None else out[head]
        else:
            return None
    except AttributeError:
        return None
    weight = out.detach().to("cpu", torch.float32)
    return rows @ weight if weight.shape == (rows.shape[1], width) else None


def logit_effects(
    model: HookedModel, directions: Float[Tensor, "latent d_model"]
) -> Float[Tensor, "latent vocab"] | None:
    """Effect on every token's logit of one unit of each latent, the vocabulary's median shifted to 0; up to
    the final norm's scale. None where the model has no `W_U`."""
    held: Any = getattr(model, "W_U", None)
    if not isinstance(held, Tensor) or held.ndim != 2 or held.shape[0] != directions.shape[1]:
        return None
    gain, centres = final_norm(model)
    read = directions - directions.mean(dim=1, keepdim=True) if centres else directions
    read = read * torch.from_numpy(gain).float()
    weight = held.detach()
    out = (read.to(weight.device, weight.dtype) @ weight).to("cpu", torch.float32)
    return out - out.median(dim=1, keepdim=True).values


def effect_table(
    effects: Float[Tensor, "latent vocab"], latents: Sequence[int], tokenizer: Any, keep: int
) -> pd.DataFrame:
    """The tokens that each latent raises and lowers most: `latent`, `sign` (1 or −1), `rank`, `token`,
    `token_id`, `effect`. Special and unused tokens are left out, as the paper drops rare ones."""
    usable = finite("logit effects", effects, lambda row: f"of latent {latents[row]}").clone()
    usable[:, _unprintable(tokenizer, effects.shape[1])] = torch.nan
    lines: list[dict[str, Any]] = []
    for sign in (1, -1):
        signed = (sign * usable).nan_to_num(nan=-torch.inf)
        best = signed.topk(min(keep, effects.shape[1]), dim=1)
        for row, latent in enumerate(latents):
            for rank, (value, place) in enumerate(
                zip(best.values[row].tolist(), best.indices[row].tolist(), strict=True)
            ):
                if not np.isfinite(value):
                    continue
                word = str(place) if tokenizer is None else str(tokenizer.decode([place]))
                lines.append(
                    {
                        "latent": int(latent),
                        "sign": sign,
                        "rank": rank,
                        "token": word,
                        "token_id": place,
                        "effect": sign * value,
                    }
                )
    columns = {
        "latent": "int64",
        "sign": "int64",
        "rank": "int64",
        "token": "str",
        "token_id": "int64",
        "effect": "float64",
    }
    return pd.DataFrame(lines, columns=list(columns)).astype(columns)


def _unprintable(tokenizer: Any, vocab: int) -> Tensor:
    """Ids of special and unused tokens."""
    if tokenizer is None:
        return torch.zeros(0, dtype=torch.int64)
    special = {int(i) for i in getattr(tokenizer, "all_special_ids", [])}
    names: dict[str, int] = tokenizer.get_vocab()
    special |= {i for name, i in names.items() if name.startswith(("<unused", "[unused", "<|reserved"))}
    special |= set(range(len(tokenizer), vocab))
    return torch.tensor(sorted(i for i in special if 0 <= i < vocab), dtype=torch.int64)
