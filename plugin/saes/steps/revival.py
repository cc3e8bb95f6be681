"""AuxK: dead latents explain what the living ones left over (Gao et al. 2024, appendix A.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Revival:
    """The auxiliary loss and its gradients, for dead latents only."""

    loss: Float[Tensor, ""]
    """The weighted loss."""
    latents: Int[Tensor, " dead"]
    """Which latents these are."""
    W_dec: Float[Tensor, "dead d_in"]
    """Gradient by their decoder rows."""
    W_enc: Float[Tensor, "dead d_in"]
    """Gradient by their encoder columns, transposed."""
    b_enc: Float[Tensor, " dead"]
    """Gradient by their encoder biases."""


def revive(
    residual: Float[Tensor, "batch d_in"],
    centred: Float[Tensor, "batch d_in"],
    scores: Float[Tensor, "batch dead"],
    norms: Float[Tensor, " dead"] | None,
    W_dec: Float[Tensor, "dead d_in"],
    latents: Int[Tensor, " dead"],
    coefficient: float,
) -> Revival:
    """SAELens's `calculate_topk_aux_loss`, restricted to dead columns.

    On each row the d_in/2 dead latents with the largest `scores` (pre-activations, times the decoder's
    `norms` where given) reconstruct the `residual`, which passes no gradient back. The products stay dense:
    of a few dead latents most are chosen.
    """
    batch, d_in = residual.shape
    half = d_in // 2
    weight = coefficient * min(len(latents) / half, 1.0) / batch
    acts = scores if norms is None else scores / norms
    mask = None
    if len(latents) > half:
        chosen = scores.topk(half, sorted=False).indices
        mask = torch.zeros_like(acts).scatter_(1, chosen, 1.0)
        acts = acts * mask
    error = acts @ W_dec - residual
    pull = (2 * weight) * error
    acts_grad = pull @ W_dec.t()
    if mask is not None:
        acts_grad *= mask
    return Revival(
        loss=weight * error.square().sum(),
        latents=latents,
        W_dec=acts.t() @ pull,
        W_enc=acts_grad.t() @ centred,
        b_enc=acts_grad.sum(0),
    )
