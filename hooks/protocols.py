"""What graticule asks of a model: the surface that every TransformerLens model shares, and no more."""

from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import torch


@runtime_checkable
class HookedModel(Protocol):
    """A model with named hook points.

    `HookedTransformer`, `HookedSAETransformer` and `TransformerBridge` are such models, and so is any
    module with these members. `cfg` carries at least `n_layers` and `d_model`; the forward pass takes
    `[batch, pos]` token ids and `return_type=None`.
    """

    cfg: Any
    hook_dict: Any
    training: bool

    def hooks(self, fwd_hooks: Any = ..., bwd_hooks: Any = ...) -> AbstractContextManager[Any]:
        """A context in which `(name, fn)` pairs are hooked."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own forward pass."""
        ...

    def parameters(self) -> Any:
        """All parameters, as in `torch.nn.Module`."""
        ...

    def named_parameters(self) -> Any:
        """All parameters by name, as in `torch.nn.Module`."""
        ...


def device_of(model: HookedModel) -> torch.device:
    """The device of the model's first parameter: where tokens go."""
    return next(iter(model.parameters())).device


def dtype_of(model: HookedModel) -> torch.dtype:
    """The dtype of the model's first floating-point parameter."""
    return next(p.dtype for p in model.parameters() if p.is_floating_point())
