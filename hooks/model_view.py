"""A model's inside, known in one place: block borders, a start at a layer, final norm, unembedding."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from graticule.hooks.points import layer_of
from graticule.hooks.protocols import HookedModel

_BORDERS = ("hook_resid_pre", "hook_resid_post")


def at_border(point: str) -> bool:
    """Whether a point is the residual stream between two blocks, where a run can start with other values."""
    return point.endswith(_BORDERS)


def start_of(point: str) -> int | None:
    """The block with which a run starts that has other values at `point`; None outside the blocks."""
    layer = layer_of(point)
    return None if layer is None else layer + int(point.endswith("hook_resid_post"))


class ModelView:
    """What can be asked of a `HookedTransformer`'s inside: parts of its pass, and what ends it.

    Whether parts give the model's own logits only a comparison tells: whoever runs them compares first.
    """

    def __init__(self, model: HookedModel) -> None:
        self.model = model
        self._owner: Any = model
        self.n_layers = int(model.cfg.n_layers)

    @property
    def takes_layers(self) -> bool:
        """Whether the forward pass can start and stop at a layer."""
        names = inspect.signature(getattr(self.model, "forward", self.model)).parameters
        return {"start_at_layer", "stop_at_layer"} <= set(names)

    def run_to(self, tokens: Tensor, layer: int) -> Float[Tensor, "row pos d_model"]:
        """The residual stream that enters block `layer`."""
        return self.model(tokens, stop_at_layer=layer).detach()

    def run_from(
        self, residual: Float[Tensor, "row pos d_model"], start: int, stop: int | None = None
    ) -> Float[Tensor, "row pos d_model"]:
        """The residual stream from block `start` on as it enters block `stop`, or leaves the last one."""
        stop = self.n_layers if stop is None else stop
        return self.model(residual, start_at_layer=start, stop_at_layer=stop)

    def final(self, residual: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row pos d_model"]:
        """What the unembedding reads of the residual stream: after the final norm, where there is one."""
        return self._owner.ln_final(residual) if self._owner.cfg.normalization_type is not None else residual

    def logits(
        self,
        final: Float[Tensor, "row d_model"],
        tokens: Sequence[int] | None = None,
        *,
        bias_in_float32: bool = True,
    ) -> Float[Tensor, "row token"]:
        """Logits in float32, soft-capped, of some tokens or of all.

        The weight is read as it lies, where the model's own module may copy it, and only in the columns asked
        for: the unembedding is most of a small model.

        Args:
            final: what `final` gives.
            tokens: ids of the columns wanted.
            bias_in_float32: False adds the bias in the weight's dtype.
        """
        unembed = self._owner.unembed
        weight, bias = unembed.W_U.detach(), unembed.b_U
        bias = None if bias is None else bias.detach()
        if tokens is not None:
            index = torch.tensor(list(tokens), device=final.device)
            weight, bias = weight[:, index], None if bias is None else bias[index]
        out = final.to(weight.dtype) @ weight
        if bias_in_float32:
            out = out.float()
        if bias is not None:
            out += bias
        out = out.float()
        cap = float(getattr(self._owner.cfg, "output_logits_soft_cap", None) or 0.0)
        return cap * torch.tanh(out / cap) if cap > 0 else out

    def written_norms(self, layer: int, n_neurons: int) -> Float[np.ndarray, " neuron"]:
        """Norm of every MLP neuron's output weights; ones where the model keeps them elsewhere."""
        try:
            weight: Tensor = self._owner.blocks[layer].mlp.W_out.detach()
        except AttributeError:
            return np.ones(n_neurons)
        if weight.ndim != 2 or weight.shape[0] != n_neurons:
            return np.ones(n_neurons)
        return weight.double().norm(dim=1).cpu().numpy()


def unembedding_of(model: HookedModel) -> Tensor:
    """`W_U` `[d_model, d_vocab]`, detached.

    Raises:
        ValueError: if the model has none of that shape; its message ends a sentence that says who needs one.
    """
    weight: Any = getattr(model, "W_U", None)
    width = int(model.cfg.d_model)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or weight.shape[0] != width:
        shape = tuple(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
        raise ValueError(f"model.W_U of [d_model, d_vocab] with d_model {width}; found {shape}")
    return weight.detach()


def final_norm(model: HookedModel) -> tuple[Float[np.ndarray, " d_model"], bool]:
    """The gain of the final norm (ones where it is folded or absent), and whether it subtracts the mean.

    Read off what the norm *does* to a row of mean 0 and one of equal entries, as models store gains in
    several conventions (w, 1 + w, folded).
    """
    width = int(model.cfg.d_model)
    owner: Any = model
    norm: Any = getattr(model, "ln_final", None)
    if norm is None or not callable(norm):
        return np.ones(width), False
    signs = torch.where(torch.arange(width) % 2 == 0, 1.0, -1.0)
    if width % 2:
        signs[-3:] = torch.tensor([1.0, 1.0, -2.0])
    where: dict[str, Any] = {"device": next(iter(model.parameters())).device, "dtype": owner.W_U.dtype}
    rows = torch.stack([signs, -signs, torch.ones(width), -torch.ones(width)])[:, None]
    with torch.no_grad():
        normed: Tensor = cast("Any", norm)(rows.to(**where))
        out = normed.to("cpu", torch.float64)[:, 0].numpy()
    scaled = signs.double().numpy() / np.sqrt(float(signs.double().square().mean()))
    gain = (out[0] - out[1]) / 2 / scaled  # halves of differences: a bias drops out
    level = (out[2] - out[3]) / 2
    return gain, bool(np.abs(level).max() < 1e-2 * np.abs(gain).max())
