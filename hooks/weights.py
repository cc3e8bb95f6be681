"""Weights by role, by their TransformerLens names, from a `HookedTransformer` or a `TransformerBridge`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from graticule.hooks.messages import NotApplicable
from graticule.hooks.model_view import ModelView
from graticule.hooks.protocols import HookedModel

Part = Literal["attn", "mlp"]
"""The two sublayers of a block."""

_OUTPUTS = {"attn": ("W_O", "b_O"), "mlp": ("W_out", "b_out")}
_OUTPUT_NORMED = ("Olmo2ForCausalLM", "Olmo3ForCausalLM")
"""Their `ln1` and `ln2` norm what a sublayer gives, not what it takes."""
_HEADS_IN = ("W_Q", "W_K", "W_V", "_W_K", "_W_V")
_GATED = ("W_gate", "W_in", "W_out")


@dataclass(frozen=True)
class Norm:
    """A norm, which is linear once its scale is known: `(x − mean if centred) / scale · gain + bias`."""

    point: str
    """Hook name of its scale, the root of the mean square."""
    gain: Float[np.ndarray, " d_model"]
    """As it multiplies: Gemma's stored offset from 1 is added in."""
    bias: Float[np.ndarray, " d_model"]
    """Zero in an RMS norm."""
    centred: bool
    """Whether the mean over `d_model` is taken off first (LayerNorm)."""

    def pull(self, direction: Float[np.ndarray, "d_model target"]) -> Float[np.ndarray, "d_model target"]:
        """What `direction` on the norm's output reads on its input, but for the division by the scale."""
        pulled = self.gain[:, None] * direction
        return pulled - pulled.mean(axis=0) if self.centred else pulled


@dataclass(frozen=True)
class MLPWeights:
    """The weights of one layer's neurons, in float64."""

    w_in: Float[np.ndarray, "d_model neuron"]
    """Input weights; in a gated MLP those of the linear branch (`up_proj`)."""
    w_gate: Float[np.ndarray, "d_model neuron"] | None
    """Input weights of the gate; None where there is none."""
    w_out: Float[np.ndarray, "neuron d_model"]
    """Output weights."""


@dataclass(frozen=True)
class OutputWeights:
    """How one layer's neurons or heads write, in float64."""

    weight: Float[np.ndarray, "*unit d_model"]
    """Of every neuron, `[neuron, d_model]`, or every head, `[head, d_head, d_model]`."""
    bias: Float[np.ndarray, " d_model"]
    """Output bias of the layer."""


def mlp_weights(model: HookedModel, layer: int) -> MLPWeights:
    """The neurons of a layer.

    Raises:
        NotApplicable: naming what is missing (a mixture of experts, an attention-only model).
    """
    w_out = _need(model, layer, "mlp", "W_out")
    return MLPWeights(_need(model, layer, "mlp", "W_in"), _array(_part(model, layer, "mlp"), "W_gate"), w_out)


def output_weights(model: HookedModel, layer: int, part: Part) -> OutputWeights:
    """How a layer's neurons or heads write.

    Raises:
        NotApplicable: as `mlp_weights` does.
        ValueError: for heads' weights that are not `[head, d_head, d_model]`.
    """
    name, bias_name = _OUTPUTS[part]
    weight, bias = _need(model, layer, part, name), _array(_part(model, layer, part), bias_name)
    if part == "attn" and weight.ndim != 3:
        raise ValueError(
            f"blocks.{layer}.attn.{name} has shape {weight.shape}; expected [head, d_head, d_model]"
        )
    return OutputWeights(weight, np.zeros(weight.shape[-1]) if bias is None else bias)


def output_weight(model: HookedModel, layer: int, part: Part) -> Tensor | None:
    """The weight with which a layer's neurons or heads write, as it lies in the model; None without one."""
    blocks = ModelView(model).blocks
    return _tensor(getattr(blocks[layer], part, None), _OUTPUTS[part][0]) if blocks else None


def output_norms(model: HookedModel, layer: int, n_neurons: int) -> Float[np.ndarray, " neuron"]:
    """Norm of every neuron's output weights; ones where the model keeps them elsewhere."""
    weight = output_weight(model, layer, "mlp")
    if weight is None or weight.ndim != 2 or weight.shape[0] != n_neurons:
        return np.ones(n_neurons)
    return weight.double().norm(dim=1).cpu().numpy()


def input_norm(model: HookedModel, layer: int) -> Norm | None:
    """The norm before a layer's MLP; None where the MLP reads the stream as it is."""
    return None if _norms_outputs(model) else _norm(model, layer, "ln2")


def output_norm(model: HookedModel, layer: int, part: Part) -> Norm | None:
    """The norm between a sublayer and the residual stream (Gemma 2 and 3, OLMo 2)."""
    name = "ln1" if part == "attn" else "ln2"
    return _norm(model, layer, name if _norms_outputs(model) else f"{name}_post")


def laid_out(model: HookedModel, limit: int | None = None) -> Iterator[tuple[torch.nn.Parameter, Tensor]]:
    """Every weight on the CPU that the forward pass rearranges, one after the other, with the same values in
    the strides that make the rearrangement a view; none where the blocks have more than `limit` bytes."""
    named = [(n, p) for n, p in model.named_parameters() if p.device.type == "cpu"]
    gated = {n.rpartition(".")[0] for n, _ in named if n.endswith(".W_gate")}
    size = sum(p.numel() * p.element_size() for n, p in named if n.startswith("blocks."))
    for name, parameter in named if limit is None or size <= limit else ():
        owner, _, leaf = name.rpartition(".")
        weight = parameter.data
        if leaf in _HEADS_IN and weight.ndim == 3:
            yield parameter, weight.permute(0, 2, 1).contiguous().permute(0, 2, 1)
        elif leaf == "W_O" and weight.ndim == 3:
            yield parameter, weight.permute(2, 0, 1).contiguous().permute(1, 2, 0)
        elif owner in gated and leaf in _GATED and weight.ndim == 2:
            yield parameter, weight.T.contiguous().T


# Modules and their weights -----------------------------------------------------------------------------
def _block(model: HookedModel, layer: int) -> Any:
    if not (blocks := ModelView(model).blocks):
        raise NotApplicable(
            f"{type(model).__name__} has no .blocks; weights are read as model.blocks[{layer}]"
        )
    return blocks[layer]


def _part(model: HookedModel, layer: int, name: Part) -> Any:
    part: Any = getattr(_block(model, layer), name, None)
    if part is None:
        raise NotApplicable(f"blocks.{layer} of {type(model).__name__} has no {name!r}")
    return part


def _tensor(module: Any, name: str) -> Tensor | None:
    """A weight; None where the module has none (a bridge raises for a missing gate)."""
    try:
        value: Any = getattr(module, name)
    except (AttributeError, KeyError):
        return None
    return value.detach() if isinstance(value, Tensor) else None


def _array(module: Any, name: str) -> np.ndarray | None:
    value = _tensor(module, name)
    return None if value is None else value.to(device="cpu", dtype=torch.float64).numpy()


def _need(model: HookedModel, layer: int, part: Part, name: str) -> np.ndarray:
    module = _part(model, layer, part)
    value = _array(module, name)
    if value is None:
        raise NotApplicable(
            f"blocks.{layer}.{part} ({type(module).__name__}) has no {name}: a dense layer with "
            "TransformerLens's weight names is needed"
        )
    return value


def _norm(model: HookedModel, layer: int, name: str) -> Norm | None:
    module: Any = getattr(_block(model, layer), name, None)
    if module is None or isinstance(module, torch.nn.Identity):
        return None
    width = int(model.cfg.d_model)
    gain = _array(module, "w")
    bias = _array(module, "b")
    if getattr(getattr(module, "config", None), "rmsnorm_uses_offset", False) and gain is not None:
        gain = gain + 1.0
    rms: bool = getattr(module, "uses_rms_norm", "RMS" in type(module).__name__)
    return Norm(
        point=f"blocks.{layer}.{name}.hook_scale",
        gain=np.ones(width) if gain is None else gain,
        bias=np.zeros(width) if bias is None or rms else bias,
        centred=not rms,
    )


def _norms_outputs(model: HookedModel) -> bool:
    named = (getattr(model.cfg, "original_architecture", None), getattr(model.cfg, "architecture", None))
    return any(name in _OUTPUT_NORMED for name in named)
