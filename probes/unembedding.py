"""The unembedding as the residual stream meets it, and its covariance over the vocabulary."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from graticule.hooks.protocols import HookedModel

_CHUNK = 1 << 14


def unembedding_covariance(model: HookedModel) -> Float[np.ndarray, "d_model d_model"]:
    """Cov(γ) over the whole vocabulary, uniform weights (Park et al. 2023, section 3.2).

    γ is the functional with which the *residual stream* before the final norm is read: where the norm's gain
    was not folded into `W_U` it is multiplied in, and where the norm subtracts the mean, so is γ's. With and
    without folding the result is the same; only the norm's scale, one number a row, is left out.

    **Raises** `ValueError` if the model has no `W_U` of `[d_model, d_vocab]`.
    """
    held: Any = getattr(model, "W_U", None)
    width = int(model.cfg.d_model)
    if not isinstance(held, Tensor) or held.ndim != 2 or held.shape[0] != width:
        found = tuple(held.shape) if isinstance(held, Tensor) else type(held).__name__
        raise ValueError(
            f"the causal inner product needs model.W_U of [d_model, d_vocab] with d_model {width}; found "
            f"{found}. Leave model= out to have the other geometries"
        )
    covariance = column_covariance(held.detach())
    gain, centres = final_norm(model)
    through = np.diag(gain)
    if centres:
        through = (np.eye(width) - 1 / width) @ through
    return through @ covariance @ through.T


def column_covariance(weights: Float[Tensor, "d_model d_vocab"]) -> Float[np.ndarray, "d_model d_model"]:
    """Covariance of an unembedding's columns, uniform weights, in float64 sums of float32 blocks."""
    mean = weights.mean(dim=1, keepdim=True, dtype=torch.float32)
    total = np.zeros((len(weights), len(weights)))
    for part in weights.split(_CHUNK, dim=1):  # a vocabulary of 262,144 does not become float64 at once
        rows = part.float() - mean
        total += (rows @ rows.T).to("cpu", torch.float64).numpy()
    return total / weights.shape[1]


def final_norm(model: HookedModel) -> tuple[Float[np.ndarray, " d_model"], bool]:
    """The gain of the final norm (ones where it is folded or absent), and whether it subtracts the mean.

    Read off what the norm *does* to a row of mean 0 and one of equal entries, as models store gains in
    several conventions (w, 1 + w, folded).
    """
    width = int(model.cfg.d_model)
    norm: Any = getattr(model, "ln_final", None)
    if norm is None or not callable(norm):
        return np.ones(width), False
    signs = torch.where(torch.arange(width) % 2 == 0, 1.0, -1.0)
    if width % 2:
        signs[-3:] = torch.tensor([1.0, 1.0, -2.0])
    held: Any = model
    where: dict[str, Any] = {"device": next(iter(model.parameters())).device, "dtype": held.W_U.dtype}
    rows = torch.stack([signs, -signs, torch.ones(width), -torch.ones(width)])[:, None]
    with torch.no_grad():
        moved: Tensor = cast("Any", norm)(rows.to(**where))
        out = moved.to("cpu", torch.float64)[:, 0].numpy()
    scaled = signs.double().numpy() / np.sqrt(float(signs.double().square().mean()))
    gain = (out[0] - out[1]) / 2 / scaled  # halves of differences: a bias drops out
    level = (out[2] - out[3]) / 2
    return gain, bool(np.abs(level).max() < 1e-2 * np.abs(gain).max())
