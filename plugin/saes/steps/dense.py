"""Fast steps whose products stay dense: ReLU with an L1 penalty (`standard` and the paper's), and JumpReLU.

Their activations are dense while they learn: five products, where SAELens takes six, because the input's
gradient is wanted only for its sum over the batch. The rest is done in few passes over `[batch, d_sae]`: ReLU
in place, the penalty's gradient as the bias of a product, one pass for each sum.

JumpReLU, with h the pre-activations, θ the thresholds and w the bandwidth: f = h·[h > θ]. Threshold gradients
are straight-through estimates from the entries within w/2 of their threshold (Rajamanoharan et al. 2024, eqs.
11 and 12).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Shaped
from sae_lens import JumpReLUTrainingSAE, StandardTrainingSAE, TrainingSAE
from torch import Tensor

from graticule.saes.architectures import BrickenTrainingSAE, without_parallel
from graticule.saes.steps.step import StepOutput, Workspace, finished, set_decoder_bias_gradient

_BLOCK = 1 << 18  # entries that pass through the cache together


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
        """Set the gradients of weights and biases; the encoder's come from those by pre-activations."""
        sae = self.sae
        sae.W_dec.grad, _bias(sae).grad = W_dec_grad, b_enc_grad
        sae.W_enc.grad = torch.mm(centred.t(), hidden_grad).to(sae.dtype)
        set_decoder_bias_gradient(sae, pull, b_enc_grad)


def _bias(sae: Any) -> Tensor:
    return sae.b_enc


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
        buffer = self.products.buffer("estimate", len(hidden))
        near = torch.sub(hidden, threshold, out=buffer).abs_() < sae.bandwidth / 2
        estimate = torch.mul(acts_grad, threshold / sae.bandwidth, out=buffer)
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


# Sums taken while a block is in the cache ------------------------------------------------------------
def sums_and_counts(
    acts: Float[Tensor, "batch d_sae"], dtype: torch.dtype
) -> tuple[Float[Tensor, " d_sae"], Float[Tensor, " d_sae"]]:
    """Each column's sum, and how many of its entries are not zero; no entry is negative."""
    sums, counts = torch.zeros((2, acts.shape[1]), dtype=dtype, device=acts.device).unbind()
    for block in _blocks(acts):
        wide = block.to(dtype)
        sums += wide.sum(0)
        counts += wide.sign().sum(0)
    return sums, counts


def column_sums(matrix: Float[Tensor, "batch d_sae"], dtype: torch.dtype) -> Float[Tensor, " d_sae"]:
    """Each column's sum, taken in `dtype`."""
    sums = torch.zeros(matrix.shape[1], dtype=dtype, device=matrix.device)
    for block in _blocks(matrix):
        sums += block.sum(0, dtype=dtype)
    return sums


def shut(
    gradient: Float[Tensor, "batch d_sae"], acts: Float[Tensor, "batch d_sae"], dtype: torch.dtype
) -> Float[Tensor, " d_sae"]:
    """Zero `gradient` in place where `acts` is not positive, as ReLU's backward does; returns column sums."""
    sums = torch.zeros(acts.shape[1], dtype=dtype, device=acts.device)
    for pulled, block in zip(_blocks(gradient), _blocks(acts), strict=True):
        torch.ops.aten.threshold_backward.grad_input(pulled, block, 0, grad_input=pulled)
        sums += pulled.sum(0, dtype=dtype)
    return sums


def _blocks(matrix: Tensor) -> Sequence[Tensor]:
    if matrix.device.type != "cpu":
        return (matrix,)
    return matrix.split(max(1, _BLOCK // max(1, matrix.shape[1])))
