"""What graticule asks of a model: the surface that every TransformerLens model shares, and its modules."""

from __future__ import annotations

from collections.abc import Iterator
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


def modules_of(model: Any) -> list[tuple[str, torch.nn.Module]]:
    """Names and modules of `model`, each module once.

    A `TransformerBridge` runs its Hugging Face model and keeps it out of `modules()`: what lies in a module's
    attributes alone is found there.

    Args:
        model: A model; one that is no `torch.nn.Module` has none.

    Returns:
        The model's own modules first, under its own names.
    """
    if not isinstance(model, torch.nn.Module):
        return []
    seen: dict[int, tuple[str, torch.nn.Module]] = {}
    waiting: list[tuple[str, torch.nn.Module]] = [("", model)]
    while waiting:
        prefix, root = waiting.pop(0)
        if id(root) in seen:
            continue
        fresh = [(_join(prefix, n), m) for n, m in root.named_modules() if id(m) not in seen]
        seen |= {id(module): (name, module) for name, module in fresh}
        waiting += [(_join(name, n), m) for name, module in fresh for n, m in _unnamed(module)]
    return list(seen.values())


def _unnamed(module: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    return ((name, value) for name, value in vars(module).items() if isinstance(value, torch.nn.Module))


def _join(prefix: str, name: str) -> str:
    return ".".join(part for part in (prefix, name) if part)
