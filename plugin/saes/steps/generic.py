"""SAELens's own training step, for architectures without a fast one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Shaped
from sae_lens import TrainingSAE
from sae_lens.saes.sae import TrainStepInput
from torch import Tensor

from graticule.saes.steps.output import StepOutput, finished


class GenericStep:
    """`training_forward_pass` and backward, whatever the architecture."""

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
