"""An untrained twin: the model's own architecture and weight statistics, with what it learned destroyed."""

import copy
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch

from graticule.hooks.same_model import NO_ANSWER

M = TypeVar("M")

_COMPUTED = ("rotary", "inv_freq", "freqs_cis", "_cached", "mask", "IGNORE", "alibi", "slopes")
"""Parts of the names of buffers that are computed from the settings, not learned."""


def make_twin(
    model: M, seed: int = 0, how: Literal["permuted", "fresh"] = "permuted", keep: Sequence[str] = ()
) -> M:
    """A copy of `model` that knows nothing, in eval mode and on the same device.

    - `"permuted"`: the entries of every parameter in a random order, so that each keeps its mean, variance
      and outliers; works for any module. Tied parameters stay tied.
    - `"fresh"`: `init_weights()` of a TransformerLens model, its biases and norms as they begin (0 and 1),
      else `reset_parameters()` of every module that has it.

    Buffers that training fills (running statistics, a router's correction) count as parameters; tables that
    are computed (rotary angles, masks) stay.

    The same seed gives the same twin, whatever the number of threads. `keep` names parameters, by the start
    of their names, that are left unpermuted because nothing will read what they give (the unembedding is a
    third of a small model, and dealing it anew takes seconds): they are the model's own, not copies.

    Raises:
        ValueError: For another `how`, or where `"fresh"` would leave a parameter as it was learned.
    """
    if how not in ("permuted", "fresh"):
        raise ValueError(f"how={how!r}: expected 'permuted' or 'fresh'")
    # a bridge keeps what a pass with gradients computed (patterns of attention): values, not weights
    memo: dict[int, Any] = {id(t): t.detach().clone() for t in _computed(model)}
    tokenizer: Any = getattr(model, "tokenizer", None)
    memo[id(tokenizer)] = tokenizer  # the same one: it knows nothing of the weights
    twin: Any = copy.deepcopy(model, memo | (_shared(model, tuple(keep)) if how == "permuted" else {}))
    if how == "permuted":
        _permute(twin, seed, tuple(keep))
    else:
        _initialise(twin, seed)
    twin.eval()
    setattr(twin, NO_ANSWER, True)
    return twin


def _computed(model: Any) -> Iterator[torch.Tensor]:
    """Tensors with a history of gradients that modules hold on to; they cannot be copied as they are."""
    for module in model.modules():
        left = list(vars(module).values())
        while left:
            value = left.pop()
            if isinstance(value, torch.Tensor):
                if value.grad_fn is not None:
                    yield value
            elif isinstance(value, Mapping):
                left.extend(cast("Mapping[Any, Any]", value).values())
            elif isinstance(value, list | tuple):
                left.extend(cast("Iterable[Any]", value))


def _permute(module: torch.nn.Module, seed: int, keep: tuple[str, ...]) -> None:
    """Shuffle all that was learned in place; tied parameters are listed once."""
    for name, parameter in _learned(module):
        if name.startswith(keep):
            continue
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        here = parameter.data.device.type == "cpu" and parameter.data.is_contiguous()
        # in place where it can be: the twin's parameters are its own, and an embedding is a third of a model
        flat = (parameter.data if here else parameter.data.to("cpu", copy=True).contiguous()).reshape(-1)
        # shuffled as bits, so that every dtype goes the same way
        bits = flat.view(
            {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.element_size()]
        )
        rng.shuffle(bits.numpy())
        if not here:
            parameter.data.copy_(flat.view(parameter.shape))


def _learned(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters, and the buffers that training fills: saved with the weights, of numbers, and no table."""
    yield from module.named_parameters()
    for place, part in module.named_modules():
        fleeting: Any = getattr(part, "_non_persistent_buffers_set", ())
        for name, buffer in part.named_buffers(recurse=False):
            is_computed = name in fleeting or any(word in name for word in _COMPUTED)
            if buffer.is_floating_point() and not is_computed:
                yield f"{place}.{name}" if place else name, buffer


def _shared(model: Any, keep: tuple[str, ...]) -> dict[int, Any]:
    """What a copy need not copy: parameters all of whose names are to be kept (tied ones have several)."""
    if not isinstance(model, torch.nn.Module):
        return {}
    named = list(model.named_parameters(remove_duplicate=False))
    moved = {id(parameter) for name, parameter in named if not name.startswith(keep)}
    return {id(parameter): parameter for _, parameter in named if id(parameter) not in moved}


def _initialise(module: Any, seed: int) -> None:
    """Weights drawn anew, and nothing that was learned left: biases and norms as they begin, too."""
    before = {name: learned.detach().clone() for name, learned in _learned(module)}
    with torch.random.fork_rng(), _seeded(module, seed), torch.no_grad():
        torch.manual_seed(seed)
        _draw(module)
        left = {n: p for n, p in _learned(module) if torch.equal(p, before[n]) and not _blank(p)}
        begins = {n: _begins_at(n, p) for n, p in left.items() if hasattr(module, "init_weights")}
        for name, value in begins.items():
            if value is not None:
                left.pop(name).fill_(value)
    learned = list(left)
    if learned:
        more = f" and {len(learned) - 3} more" if len(learned) > 3 else ""
        raise ValueError(
            f"how='fresh': nothing in this {type(module).__name__} initialises "
            f"{', '.join(learned[:3])}{more} anew; use how='permuted'"
        )


def _draw(module: Any) -> None:
    if callable(getattr(module, "init_weights", None)):
        try:
            module.init_weights()
        except RuntimeError as error:  # a bridge around somebody else's model
            what = type(module).__name__
            raise ValueError(f"this {what} cannot initialise its weights anew; use how='permuted'") from error
        return
    able = [m for m in module.modules() if callable(getattr(m, "reset_parameters", None))]
    if not able:
        raise ValueError(f"{type(module).__name__} has nothing that initialises itself; use how='permuted'")
    for child in able:
        child.reset_parameters()


@contextmanager
def _seeded(module: Any, seed: int) -> Generator[None]:
    """The seed in a TransformerLens config, which `init_weights` sets itself, is the twin's."""
    cfg = getattr(module, "cfg", None)
    if getattr(cfg, "seed", None) is None:
        yield
        return
    own: Any = cfg
    before, own.seed = own.seed, seed
    try:
        yield
    finally:
        own.seed = before


def _blank(parameter: torch.Tensor) -> bool:
    """Whether a parameter tells nothing: all its entries are 0, or all are 1."""
    return bool((parameter == 0).all() or (parameter == 1).all())


def _begins_at(name: str, parameter: torch.Tensor) -> float | None:
    """What TransformerLens's biases and norms begin as, which its `init_weights` takes for granted."""
    last = name.rpartition(".")[2]
    if last == "b" or last.startswith(("b_", "_b_")):
        return 0.0
    return 1.0 if last == "w" and parameter.ndim == 1 else None
