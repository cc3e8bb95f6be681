"""The fast step of ReLU autoencoders with an L1 penalty: SAELens's `standard`, and the paper's.

Their activations are dense while they learn, so the products stay dense: five of SAELens's six, because the
input's gradient is wanted only for its sum over the batch. The rest is done in few passes over `[batch,
d_sae]`: ReLU in place, the penalty's gradient as the bias of a product, one pass for each sum.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Shaped
from sae_lens import StandardTrainingSAE
from torch import Tensor

from graticule.saes.architectures.bricken import BrickenTrainingSAE, without_parallel
from graticule.saes.steps.kernels.passes import shut, sums_and_counts
from graticule.saes.steps.kernels.products import Products
from graticule.saes.steps.output import StepOutput, finished


class DenseStep:
    """The training step of SAELens's `standard` (with `lp_norm` 1) and of `bricken`."""

    def __init__(
        self, sae: StandardTrainingSAE | BrickenTrainingSAE, compute_dtype: torch.dtype | None
    ) -> None:
        self.sae = sae
        self.products = Products(sae, compute_dtype)

    @torch.no_grad()
    def __call__(
        self,
        x: Float[Tensor, "batch d_in"],
        n_forward_passes_since_fired: Shaped[Tensor, " d_sae"],  # noqa: ARG002 dead latents are left alone
        coefficients: Mapping[str, float],
    ) -> StepOutput:
        """As `Step` says."""
        sae, products = self.sae, self.products
        paper = isinstance(sae, BrickenTrainingSAE)
        if paper:
            sae.renormalize_decoder()
        x = x.to(sae.dtype)
        share = 1 / (len(x) * sae.cfg.d_in) if paper else 1 / len(x)  # of one squared error in the loss
        l1 = coefficients["l1"] / len(x)
        # the penalty weighs an activation by its decoder row's norm, which is 1 in the paper's SAE
        norms = torch.ones_like(sae.b_enc) if paper else sae.W_dec.norm(dim=1)
        centred = products.centre(x)
        acts = products.encode(centred).relu_()
        out = products.decode(acts)
        pull = (2 * share) * (out - x)
        acts_grad = products.acts_gradient(pull, l1 * norms)
        b_enc_grad = shut(acts_grad, acts, sae.dtype)  # by pre-activations from here on
        summed, fired = sums_and_counts(acts, sae.dtype)
        W_dec_grad = products.decoder_gradient(acts, pull)
        if paper:
            W_dec_grad = without_parallel(W_dec_grad, sae.W_dec)
        else:
            W_dec_grad += (l1 * summed / norms)[:, None] * sae.W_dec
        products.set_gradients(centred, acts_grad, b_enc_grad, W_dec_grad, pull)
        squared_error = (out - x).square().sum()
        losses = {"mse_loss": share * squared_error, "l1_loss": l1 * (summed @ norms)}
        return finished(losses, fired, x, out, squared_error)
