"""The training step of any SAELens autoencoder: the fast one where there is one."""

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

from graticule.saes.architectures.bricken import BrickenTrainingSAE
from graticule.saes.steps.dense import DenseStep
from graticule.saes.steps.generic import GenericStep
from graticule.saes.steps.jumprelu import JumpReLUStep
from graticule.saes.steps.optimizer import make_optimizer
from graticule.saes.steps.output import Step, StepOutput
from graticule.saes.steps.topk import SparseStep

__all__ = ["Step", "StepOutput", "fast_step", "make_optimizer"]

_log = logging.getLogger(__name__)

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

    **Raises** `TypeError` if `compute_dtype` is no floating dtype.
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
