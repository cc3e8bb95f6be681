"""Weights by their TransformerLens names, from a `HookedTransformer` or a `TransformerBridge`, as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from graticule.hooks.messages import NotApplicable
from graticule.hooks.protocols import HookedModel

_OUTPUT_NORMED = ("Olmo2ForCausalLM", "Olmo3ForCausalLM")
"""Their `ln1` and `ln2` norm what a sublayer gives, not what it takes."""


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
    """The weights of one layer's neurons."""

    w_in: Float[np.ndarray, "d_model neuron"]
    """Input weights; in a gated MLP those of the linear branch (`up_proj`)."""
    w_gate: Float[np.ndarray, "d_model neuron"] | None
    """Input weights of the gate; None where there is none."""
    w_out: Float[np.ndarray, "neuron d_model"]
    """Output weights."""


@dataclass(frozen=True)
class OutWeights:
    """How one layer's neurons write."""

    w_out: Float[np.ndarray, "neuron d_model"]
    """Output weights."""
    b_out: Float[np.ndarray, " d_model"]
    """Output bias of the layer."""


@dataclass(frozen=True)
class HeadWeights:
    """How one layer's heads write."""

    w_o: Float[np.ndarray, "head d_head d_model"]
    """Output weights of every head."""
    b_o: Float[np.ndarray, " d_model"]
    """Output bias of the layer."""


def mlp_weights(model: HookedModel, layer: int) -> MLPWeights:
    """The neurons of a layer.

    Raises:
        ValueError: Naming what is missing (a mixture of experts, an attention-only model).
    """
    mlp = _part(model, layer, "mlp")
    w_out = _need(mlp, "W_out", layer, "mlp")
    return MLPWeights(_need(mlp, "W_in", layer, "mlp"), _array(mlp, "W_gate"), w_out)


def out_weights(model: HookedModel, layer: int) -> OutWeights:
    """How a layer's neurons write; raises as `mlp_weights` does."""
    mlp = _part(model, layer, "mlp")
    w_out, b_out = _need(mlp, "W_out", layer, "mlp"), _array(mlp, "b_out")
    return OutWeights(w_out, np.zeros(w_out.shape[1]) if b_out is None else b_out)


def head_weights(model: HookedModel, layer: int) -> HeadWeights:
    """How a layer's heads write; raises as `mlp_weights` does."""
    attn = _part(model, layer, "attn")
    w_o = _need(attn, "W_O", layer, "attn")
    if w_o.ndim != 3:
        raise ValueError(f"blocks.{layer}.attn.W_O has shape {w_o.shape}; expected [head, d_head, d_model]")
    b_o = _array(attn, "b_O")
    return HeadWeights(w_o, np.zeros(w_o.shape[2]) if b_o is None else b_o)


def input_norm(model: HookedModel, layer: int) -> Norm | None:
    """The norm before a layer's MLP; None where the MLP reads the stream as it is."""
    return None if _norms_outputs(model) else _norm(model, layer, "ln2")


def output_norm(model: HookedModel, layer: int, part: str) -> Norm | None:
    """The norm between a sublayer (`attn` or `mlp`) and the residual stream (Gemma 2 and 3, OLMo 2)."""
    name = "ln1" if part == "attn" else "ln2"
    if _norms_outputs(model):
        return _norm(model, layer, name)
    return _norm(model, layer, f"{name}_post")


def _norms_outputs(model: HookedModel) -> bool:
    named = (getattr(model.cfg, "original_architecture", None), getattr(model.cfg, "architecture", None))
    return any(name in _OUTPUT_NORMED for name in named)


def _block(model: HookedModel, layer: int) -> Any:
    blocks: Any = getattr(model, "blocks", None)
    if blocks is None:
        raise NotApplicable(
            f"{type(model).__name__} has no .blocks; weights are read as model.blocks[{layer}]"
        )
    return blocks[layer]


def _part(model: HookedModel, layer: int, name: str) -> Any:
    part: Any = getattr(_block(model, layer), name, None)
    if part is None:
        raise NotApplicable(f"blocks.{layer} of {type(model).__name__} has no {name!r}")
    return part


def _array(module: Any, name: str) -> np.ndarray | None:
    """A weight in float64; None where the module has none (a bridge raises for a missing gate)."""
    try:
        value: Any = getattr(module, name)
    except (AttributeError, KeyError):
        return None
    if not isinstance(value, torch.Tensor):
        return None
    return value.detach().to(device="cpu", dtype=torch.float64).numpy()


def _need(module: Any, name: str, layer: int, part: str) -> np.ndarray:
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
