"""The fast step of JumpReLU autoencoders, in each of SAELens's sparsity losses.

With h the pre-activations, θ the thresholds and w the bandwidth: f = h·[h > θ]. Threshold gradients are
straight-through estimates from the entries within w/2 of their threshold (Rajamanoharan et al. 2024, eqs.
11 and 12). Dense products as in `dense.py`: five, not six.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Shaped
from sae_lens import JumpReLUTrainingSAE
from torch import Tensor

from graticule.saes.steps.kernels.passes import column_sums, sums_and_counts
from graticule.saes.steps.kernels.products import Products
from graticule.saes.steps.output import StepOutput, finished


class JumpReLUStep:
    """SAELens's training step of a JumpReLU autoencoder."""

    def __init__(
        self, sae: JumpReLUTrainingSAE, dead_feature_window: int, compute_dtype: torch.dtype | None
    ) -> None:
        self.sae = sae
        self.window = dead_feature_window
        self.products = Products(sae, compute_dtype)

    @torch.no_grad()
    def __call__(
        self,
        x: Float[Tensor, "batch d_in"],
        n_forward_passes_since_fired: Shaped[Tensor, " d_sae"],
        coefficients: Mapping[str, float],
    ) -> StepOutput:
        """As `Step` says."""
        sae, products = self.sae, self.products
        sae.threshold.clamp_(min=0.0)
        x = x.to(sae.dtype)
        centred = products.centre(x)
        hidden = products.encode(centred)
        open_ = hidden > sae.threshold.to(hidden.dtype)
        acts = torch.mul(hidden, open_, out=products.buffer("acts", len(x)))
        out = products.decode(acts)
        pull = (2 / len(x)) * (out - x)
        acts_grad = products.acts_gradient(pull)
        W_dec_grad = products.decoder_gradient(acts, pull)
        squared_error = (out - x).square().sum()
        losses = {"mse_loss": squared_error / len(x)}
        losses["l0_loss"], step_grad = self._sparsity(acts, open_, coefficients["l0"], acts_grad, W_dec_grad)
        estimate = self._estimate(hidden, acts_grad, step_grad)
        threshold_grad = -column_sums(estimate, sae.dtype)
        hidden_grad = acts_grad.mul_(open_)
        if sae.cfg.jumprelu_ste_to_input:
            hidden_grad += estimate
        if sae.cfg.pre_act_loss_coefficient is not None:
            dead = n_forward_passes_since_fired > self.window
            losses["pre_act_loss"] = self._dead(hidden, dead, hidden_grad, threshold_grad, W_dec_grad)
        b_enc_grad = column_sums(hidden_grad, sae.dtype)
        products.set_gradients(centred, hidden_grad, b_enc_grad, W_dec_grad, pull)
        sae.threshold.grad = threshold_grad.to(sae.threshold.dtype)
        return finished(losses, sums_and_counts(acts, sae.dtype)[1], x, out, squared_error)

    def _estimate(self, hidden: Tensor, acts_grad: Tensor, step_grad: Tensor | None) -> Tensor:
        """The straight-through estimate of the gradient by each pre-activation less its threshold."""
        sae = self.sae
        threshold = sae.threshold.to(hidden.dtype)
        kept = self.products.buffer("estimate", len(hidden))
        near = torch.sub(hidden, threshold, out=kept).abs_() < sae.bandwidth / 2
        estimate = torch.mul(acts_grad, threshold / sae.bandwidth, out=kept)
        if step_grad is not None:
            estimate += step_grad / sae.bandwidth
        return estimate.mul_(near)

    def _sparsity(
        self, acts: Tensor, open_: Tensor, coefficient: float, acts_grad: Tensor, W_dec_grad: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The sparsity loss, and its gradient by the step function where it has one.

        A loss of the activations themselves (`tanh`) adds its gradients to the two last arguments.
        """
        sae, cfg = self.sae, self.sae.cfg
        weight = coefficient / len(acts)
        if cfg.jumprelu_sparsity_loss_mode == "tanh":
            norms = sae.W_dec.norm(dim=1)
            scale = cfg.jumprelu_tanh_scale
            bent = torch.tanh(acts * (scale * norms).to(acts.dtype))
            slope = (1 - bent.square()).mul_(weight * scale)  # by activation times norm
            loss = weight * bent.sum(dtype=sae.dtype)
            by_norm = (slope * acts).sum(0, dtype=sae.dtype)
            W_dec_grad += (by_norm / norms)[:, None] * sae.W_dec
            acts_grad += slope.mul_(norms.to(acts.dtype))
            return loss, None
        l0 = open_.sum(1).to(sae.dtype)
        if cfg.jumprelu_sparsity_loss_mode == "quadratic":
            target = float(cfg.target_l0 or 0)  # SAELens refuses a configuration without one
            loss = weight * (2 / target * (l0 - target).square()).sum()
            return loss, (weight * 4 / target * (l0 - target)).to(acts.dtype)[:, None]
        return weight * l0.sum(), torch.full_like(acts[:1, :1], weight)

    def _dead(
        self, hidden: Tensor, dead: Tensor, hidden_grad: Tensor, threshold_grad: Tensor, W_dec_grad: Tensor
    ) -> Tensor:
        """Pull dead latents' pre-activations up to their thresholds, adding the gradients in place."""
        sae = self.sae
        latents = dead.nonzero().squeeze(1)
        if not len(latents):
            return hidden.new_zeros((), dtype=sae.dtype)
        weight = (sae.cfg.pre_act_loss_coefficient or 0.0) / len(hidden)
        W_dec = sae.W_dec[latents]
        norms = W_dec.norm(dim=1)
        short = (sae.threshold.to(sae.dtype)[latents] - hidden[:, latents].to(sae.dtype)).relu_()
        summed = short.sum(0)
        below = short > 0
        threshold_grad[latents] += weight * norms * below.sum(0)
        W_dec_grad[latents] += (weight * summed / norms)[:, None] * W_dec
        hidden_grad[:, latents] -= (below * (weight * norms)).to(hidden_grad.dtype)
        return weight * (summed @ norms)
