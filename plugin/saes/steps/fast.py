"""The training step of any SAELens autoencoder, the fast one where there is one, and its optimiser."""

from __future__ import annotations

import logging
from typing import Any

import torch
from sae_lens import (
    BatchTopKTrainingSAE,
    JumpReLUTrainingSAE,
    MatryoshkaBatchTopKTrainingSAE,
    StandardTrainingSAE,
    TopKTrainingSAE,
    TrainingSAE,
)
from torch.optim import Adam

from graticule.saes.architectures import BrickenTrainingSAE
from graticule.saes.steps.dense import DenseStep, JumpReLUStep
from graticule.saes.steps.step import GenericStep, Step
from graticule.saes.steps.topk import SparseStep

_log = logging.getLogger(__name__)

_FUSED_ON = ("cpu", "cuda", "mps", "xpu")
_SPARSE = (TopKTrainingSAE, BatchTopKTrainingSAE, MatryoshkaBatchTopKTrainingSAE)


def fast_step(
    sae: TrainingSAE[Any], *, compute_dtype: torch.dtype | None = None, dead_feature_window: int = 1000
) -> Step:
    """A training step with SAELens's losses and gradients: the same to rounding, in less time.

    TopK, BatchTopK, Matryoshka BatchTopK, standard (`lp_norm` 1), bricken and JumpReLU have a fast one.
    Every other architecture, subclasses of these, SAEs in half precision, SAEs that normalise at run time and
    SAEs with hooks attached take SAELens's own `training_forward_pass` and backward.

    `compute_dtype=torch.bfloat16` does the dense products in bfloat16 and keeps weights, sums and the
    optimiser as they are. Latents are dead, for losses that revive them, after more than
    `dead_feature_window` steps without firing, as in SAELens's trainer.

    Raises:
        TypeError: if `compute_dtype` is no floating dtype.
    """
    if compute_dtype is not None and not compute_dtype.is_floating_point:
        raise TypeError(f"compute_dtype={compute_dtype}: expected a floating dtype such as torch.bfloat16")
    if _plain(sae):
        # subclasses may override any part of the step, so only the very classes take the fast one
        if isinstance(sae, TopKTrainingSAE) and type(sae) in _SPARSE:
            return SparseStep(sae, dead_feature_window, compute_dtype)
        if type(sae) is BrickenTrainingSAE or (type(sae) is StandardTrainingSAE and sae.cfg.lp_norm == 1):
            return DenseStep(sae, compute_dtype)
        if type(sae) is JumpReLUTrainingSAE:
            return JumpReLUStep(sae, dead_feature_window, compute_dtype)
    _log.info("no fast step for %s as it is set up: SAELens's own", type(sae).__name__)
    return GenericStep(sae, dead_feature_window, compute_dtype)


def _plain(sae: TrainingSAE[Any]) -> bool:
    """Whether nothing but the architecture's own losses enters the step."""
    return (
        sae.dtype in (torch.float32, torch.float64)
        and sae.cfg.normalize_activations not in ("layer_norm", "constant_norm_rescale")
        and not any(hook.has_hooks() for hook in sae.hook_dict.values())
        and not sae.use_error_term
    )


def make_optimizer(
    sae: TrainingSAE[Any], lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
) -> Adam:
    """SAELens's Adam, fused where the device has it: the same update in one pass instead of a dozen.

    For a `bricken` SAE every step of the optimiser ends with the decoder at unit norm.

    Raises:
        ValueError: from torch, for a negative `lr` or betas outside 0 to 1.
    """
    parameters = list(sae.parameters())
    fused = all(p.device.type in _FUSED_ON and torch.is_floating_point(p) for p in parameters)
    optimizer = Adam(parameters, lr=lr, betas=betas, eps=eps, fused=fused)
    if isinstance(sae, BrickenTrainingSAE):

        def renormalize(*_: Any) -> None:
            sae.renormalize_decoder()

        optimizer.register_step_post_hook(renormalize)
    return optimizer
