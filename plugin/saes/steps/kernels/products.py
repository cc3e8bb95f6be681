"""The dense products of a step, in the dtype that it computes in: five, where autograd takes six."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from sae_lens import TrainingSAE
from torch import Tensor

from graticule.saes.steps.kernels.passes import Workspace


class Products:
    """Products of one batch at a time with an SAE's encoder and decoder, forward and backward.

    Matrices `[batch, d_sae]` live in kept buffers: each call overwrites what it returned before.
    """

    def __init__(self, sae: TrainingSAE[Any], dtype: torch.dtype | None) -> None:
        self.sae = sae
        self.dtype = dtype or sae.dtype
        self.space = Workspace()

    def buffer(self, name: str, batch: int) -> Float[Tensor, "batch d_sae"]:
        """A kept matrix for the step's own use."""
        like = torch.empty(0, dtype=self.dtype, device=self.sae.W_enc.device)
        return self.space.take(name, (batch, self.sae.cfg.d_sae), like)

    def centre(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_in"]:
        """The encoder's input, in the step's dtype."""
        return (x - self.sae.b_dec if self.sae.cfg.apply_b_dec_to_input else x).to(self.dtype)

    def encode(self, centred: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        """Pre-activations."""
        W_enc, b_enc = self.sae.W_enc.to(self.dtype), _bias(self.sae).to(self.dtype)
        return torch.addmm(b_enc, centred, W_enc, out=self.buffer("hidden", len(centred)))

    def decode(self, acts: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_in"]:
        """The reconstruction, in the SAE's dtype."""
        return torch.mm(acts, self.sae.W_dec.to(self.dtype)).to(self.sae.dtype) + self.sae.b_dec

    def acts_gradient(
        self, pull: Float[Tensor, "batch d_in"], penalty: Float[Tensor, " d_sae"] | None = None
    ) -> Float[Tensor, "batch d_sae"]:
        """The gradient by activations, `pull` being that by reconstructions, plus each latent's `penalty`."""
        W_dec, out = self.sae.W_dec.to(self.dtype), self.buffer("gradient", len(pull))
        if penalty is None:
            return torch.mm(pull.to(self.dtype), W_dec.t(), out=out)
        return torch.addmm(penalty.to(self.dtype), pull.to(self.dtype), W_dec.t(), out=out)

    def decoder_gradient(
        self, acts: Float[Tensor, "batch d_sae"], pull: Float[Tensor, "batch d_in"]
    ) -> Float[Tensor, "d_sae d_in"]:
        """The gradient by the decoder, in the SAE's dtype."""
        return torch.mm(acts.t(), pull.to(self.dtype)).to(self.sae.dtype)

    def set_gradients(
        self,
        centred: Float[Tensor, "batch d_in"],
        hidden_grad: Float[Tensor, "batch d_sae"],
        b_enc_grad: Float[Tensor, " d_sae"],
        W_dec_grad: Float[Tensor, "d_sae d_in"],
        pull: Float[Tensor, "batch d_in"],
    ) -> None:
        """Set the gradients of weights and biases; the encoder's come from those by pre-activations.

        The input's gradient is wanted only for its sum over the batch, which is what decoder bias and
        encoder share: a product with a vector, `W_enc @ b_enc_grad`, in place of the sixth with a matrix.
        """
        sae = self.sae
        sae.W_dec.grad, _bias(sae).grad = W_dec_grad, b_enc_grad
        sae.W_enc.grad = torch.mm(centred.t(), hidden_grad).to(sae.dtype)
        sae.b_dec.grad = pull.sum(0)
        if sae.cfg.apply_b_dec_to_input:
            sae.b_dec.grad -= sae.W_enc @ b_enc_grad


def _bias(sae: Any) -> Tensor:
    return sae.b_enc
