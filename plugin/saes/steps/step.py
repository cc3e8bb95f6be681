"""What a training step takes and gives back, whatever the architecture; and SAELens's own step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from sae_lens import TrainingSAE
from sae_lens.saes.sae import TrainStepInput
from torch import Tensor


@dataclass(frozen=True)
class StepOutput:
    """One step's losses and statistics; the gradients are in `.grad` of the SAE's parameters."""

    loss: Float[Tensor, ""]
    """The sum of `losses`, as SAELens adds them; detached."""
    losses: dict[str, Tensor]
    """Each term under SAELens's name for it: `mse_loss`, `l1_loss`, `auxiliary_reconstruction_loss`, …"""
    fired: Shaped[Tensor, " d_sae"]
    """On how many rows of the batch each latent fired."""
    sae_in: Float[Tensor, "batch d_in"]
    """The batch, in the SAE's dtype."""
    sae_out: Float[Tensor, "batch d_in"] | None
    """Its reconstruction."""
    l0: Float[Tensor, ""]
    """Mean number of latents that fired on a row."""
    explained_variance: Float[Tensor, ""]
    """1 - Σ‖x - x̂‖² / Σ‖x - x̄‖² over the batch: SAELens's `metrics/explained_variance`."""


@runtime_checkable
class Step(Protocol):
    """Forward and backward of one batch. It *sets* `.grad` of every parameter; it does not add to it."""

    def __call__(
        self,
        x: Float[Tensor, "batch d_in"],
        n_forward_passes_since_fired: Shaped[Tensor, " d_sae"],
        coefficients: Mapping[str, float],
    ) -> StepOutput:
        """`x` as the SAE is to see it (scaled, on its device); for each latent the number of steps since it
        last fired, which says which are dead; SAELens's coefficients by name (`l1`, `l0`), warmed up."""
        ...


def finished(
    losses: dict[str, Tensor], fired: Tensor, x: Tensor, out: Tensor, squared_error: Tensor
) -> StepOutput:
    """A `StepOutput` of a step whose squared error Σ‖x - x̂‖² is already known."""
    return StepOutput(
        loss=torch.stack([value.to(x.dtype) for value in losses.values()]).sum(),
        losses=losses,
        fired=fired,
        sae_in=x,
        sae_out=out,
        l0=fired.sum().to(x.dtype) / len(x),
        explained_variance=1 - squared_error / torch.linalg.vector_norm(x - x.mean(0)).square(),
    )


def set_decoder_bias_gradient(sae: Any, pull: Tensor, b_enc_grad: Tensor) -> None:
    """Set `b_dec.grad`, `pull` being the gradient by reconstructions.

    The input's gradient is wanted only for its sum over the batch, which is what decoder bias and encoder
    share: a product with a vector, where the whole of it would take one with a matrix.
    """
    sae.b_dec.grad = pull.sum(0)
    if sae.cfg.apply_b_dec_to_input:
        sae.b_dec.grad -= sae.W_enc @ b_enc_grad


class Workspace:
    """Tensors that a step fills anew at every call.

    A fresh `[batch, d_sae]` tensor costs as much in page faults as the arithmetic on it.
    """

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}

    def take(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """The tensor of this name, of `like`'s dtype and device; its content is of no meaning."""
        tensor = self._tensors.get(name)
        wanted = (tuple(shape), like.dtype, like.device)
        if tensor is None or (tuple(tensor.shape), tensor.dtype, tensor.device) != wanted:
            tensor = self._tensors[name] = like.new_empty(tuple(shape))
        return tensor


class GenericStep:
    """SAELens's own `training_forward_pass` and backward, whatever the architecture."""

    def __init__(
        self, sae: TrainingSAE[Any], dead_feature_window: int, compute_dtype: torch.dtype | None
    ) -> None:
        self.sae = sae
        self.window = dead_feature_window
        self.compute_dtype = compute_dtype

    def __call__(
        self,
        x: Float[Tensor, "batch d_in"],
        n_forward_passes_since_fired: Shaped[Tensor, " d_sae"],
        coefficients: Mapping[str, float],
    ) -> StepOutput:
        """As `Step` says."""
        for parameter in self.sae.parameters():
            parameter.grad = None
        step_input = TrainStepInput(
            sae_in=x.to(self.sae.dtype),
            coefficients=dict(coefficients),
            dead_neuron_mask=n_forward_passes_since_fired > self.window,
            n_training_steps=0,
            is_logging_step=False,
        )
        dtype = self.compute_dtype
        with torch.enable_grad(), torch.autocast(x.device.type, dtype, enabled=dtype is not None):
            made = self.sae.training_forward_pass(step_input)
            made.loss.backward()
        with torch.no_grad():
            acts = made.feature_acts
            fired = (acts.to_dense() if acts.is_sparse else acts).bool().sum(0)
            losses = {name: value.detach() for name, value in made.losses.items()}
            x, out = step_input.sae_in, made.sae_out.detach().to(self.sae.dtype)
            return finished(losses, fired, x, out, (out - x).square().sum())
