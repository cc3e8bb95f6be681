"""Every module that a model runs, also those that it holds without naming them its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch


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
