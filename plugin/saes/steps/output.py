"""What a training step takes and gives back, whatever the architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
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
