"""Leave the user's session as found: training flags, grad mode, padding side, RNG state, default dtype."""

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from graticule.hooks.identity import hooked_points
from graticule.hooks.modules import modules_of
from graticule.hooks.plainly import plainly
from graticule.hooks.protocols import HookedModel


class RandomForwardError(ValueError):
    """A model whose forward pass is another one each time."""


class MixedDtypesError(ValueError):
    """A model that cannot run as it is, since its parts are of several dtypes."""


@contextmanager
def undisturbed(model: HookedModel) -> Generator[None]:
    """Run the model in eval mode, without gradients or autocast, then put everything back, also after an
    exception.

    Raises:
        MixedDtypesError: Its weights are of several dtypes, which its forward pass cannot multiply.
        RandomForwardError: The model has drawn random numbers all the same, and has no hooks of the user's
            own that may have.
    """
    tokenizer: Any = getattr(model, "tokenizer", None)
    side = getattr(tokenizer, "padding_side", None)
    cpu_state = torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        with plainly(), in_eval_mode(model), _without_gradients(model):
            yield
        _check_drew_nothing(model, [cpu_state, *cuda_states])
    except RuntimeError as error:
        if (mixed := _several_dtypes(model)) and "type" in str(error):
            raise MixedDtypesError(f"{mixed}, which its forward pass cannot mix: model.to(dtype)") from error
        raise
    finally:
        if tokenizer is not None and side is not None:
            tokenizer.padding_side = side
        torch.set_rng_state(cpu_state)
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)


@contextmanager
def in_eval_mode(model: HookedModel) -> Generator[None]:
    """Inside, every module that the model runs is in eval mode; after it, each as it was."""
    training = [module for _, module in modules_of(model) if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def _without_gradients(model: HookedModel) -> AbstractContextManager[Any]:
    """Weights that were made in inference mode can be used in it alone."""
    return torch.inference_mode() if any(p.is_inference() for p in model.parameters()) else torch.no_grad()


def drops_out(model: HookedModel) -> bool:
    """Whether some dropout of the model is on as it stands."""
    dropouts = (m for _, m in modules_of(model) if isinstance(m, torch.nn.modules.dropout._DropoutNd))  # pyright: ignore[reportPrivateUsage]
    return any(m.training and m.p > 0 for m in dropouts)


def _several_dtypes(model: HookedModel) -> str:
    """The dtypes of the model's weights with one of each; empty where there is one alone."""
    first: dict[torch.dtype, str] = {}
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            first.setdefault(parameter.dtype, name)
    told = (f"{name} in {str(dtype).removeprefix('torch.')}" for dtype, name in first.items())
    return f"the model has {' and '.join(told)}" if len(first) > 1 else ""


def _check_drew_nothing(model: HookedModel, before: list[torch.Tensor]) -> None:
    now = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if len(before) > 1 else [])]
    if all(map(torch.equal, before, now)) or hooked_points(model):
        return
    raise RandomForwardError(
        f"{type(model).__name__} draws random numbers in its forward pass although it is in eval mode: what "
        "it gives cannot be repeated; switch its dropout or noise off (p = 0)"
    )
