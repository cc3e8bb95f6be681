"""A model's unembedding rows and final residuals, and the inner products in which they are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from graticule.hooks.activations import Activations
from graticule.hooks.capture import capture
from graticule.hooks.protocols import HookedModel
from graticule.probes.geometry import Metric, causal, column_covariance, covariance, euclidean, whitened
from graticule.probes.words.lists import ambiguous_contexts, parallel_contexts

METRICS = ("euclidean", "whitened", "causal")
"""The inner products: plain, by the covariance of final residuals, by that of the unembedding rows."""


@dataclass(frozen=True)
class Readout:
    """The unembedding γ of a model: logits are γ(y)ᵀλ, λ the residual *after* the final norm.

    Where a model was loaded with the norm's gain folded into `W_U`, λ is what its norm then gives: products
    γᵀλ and causal cosines are the same either way, Euclidean ones are not.
    """

    weights: Tensor
    """`W_U`, `[d_model, d_vocab]`."""

    @classmethod
    def of(cls, model: HookedModel) -> Readout:
        """**Raises** `ValueError` if the model has no `W_U` of `[d_model, d_vocab]`."""
        held: Any = getattr(model, "W_U", None)
        width = int(model.cfg.d_model)
        if not isinstance(held, Tensor) or held.ndim != 2 or held.shape[0] != width:
            found = tuple(held.shape) if isinstance(held, Tensor) else type(held).__name__
            raise ValueError(
                f"word pairs need model.W_U of [d_model, d_vocab], d_model {width}; found {found}"
            )
        return cls(held.detach())

    @property
    def vocabulary(self) -> int:
        """Tokens."""
        return int(self.weights.shape[1])

    def rows(self, ids: Int[np.ndarray, " token"]) -> Float[np.ndarray, "token d_model"]:
        """γ of some tokens. **Raises** `IndexError` for a token that the unembedding has no row for."""
        if len(ids) and (ids.min() < 0 or ids.max() >= self.vocabulary):
            raise IndexError(f"token {int(ids.max())}: the unembedding has {self.vocabulary} rows")
        picked = self.weights[:, torch.tensor(ids, device=self.weights.device)]
        return picked.to("cpu", torch.float64).numpy().T.copy()

    def covariance(self) -> Float[np.ndarray, "d_model d_model"]:
        """Cov(γ) over the whole vocabulary, uniform weights (Park et al. 2023, section 3.2)."""
        return column_covariance(self.weights)


def final_residuals(
    model: HookedModel,
    texts: Sequence[str],
    pos: Literal["last", "all"] = "last",
    *,
    progress: bool | None = None,
) -> Activations:
    """λ: the residual after the final norm, at the last token of each text or at all but BOS.

    One point, `ln_final`, beside its row table.
    """
    layer = int(model.cfg.n_layers) - 1
    where = slice(1, None) if pos == "all" else "last"
    held = capture(model, texts, "resid_post", [layer], pos=where, dtype="float32", progress=progress)
    rows = held[held.points[0]]
    norm: Any = getattr(model, "ln_final", None)
    if norm is not None and callable(norm):
        parameter = next(iter(model.parameters()))
        with torch.no_grad():
            moved = cast("Tensor", norm(rows[:, None].to(parameter.device, parameter.dtype)))
        rows = moved[:, 0].float().cpu()
    return Activations({"ln_final": rows}, held.rows, held.provenance)


def default_texts() -> list[str]:
    """The packaged contexts: what the whitened product is measured on unless rows are given."""
    out = [text for texts in parallel_contexts().values() for text in texts]
    for pair in ambiguous_contexts():
        out += [pair.first, pair.second]
    return list(dict.fromkeys(out))


def make_metrics(
    model: HookedModel,
    readout: Readout,
    names: Sequence[str],
    residuals: Float[np.ndarray, "row d_model"] | None = None,
    *,
    progress: bool | None = None,
) -> dict[str, Metric]:
    """The inner products by name; the whitened one from `residuals`, or from λ on the packaged contexts.

    **Raises** `ValueError` for a name outside `METRICS`, for none, or for residuals of another width.
    """
    if not names or not set(names) <= set(METRICS):
        raise ValueError(f"metrics={tuple(names)}: expected some of {', '.join(METRICS)}")
    width = int(readout.weights.shape[0])
    if residuals is not None and residuals.shape[1] != width:
        raise ValueError(f"residuals have width {residuals.shape[1]}, the model {width}")
    out: dict[str, Metric] = {}
    for name in dict.fromkeys(names):
        if name == "euclidean":
            out[name] = euclidean(width)
        elif name == "causal":
            out[name] = causal(readout.covariance())
        else:
            if residuals is None:
                held = final_residuals(model, default_texts(), "all", progress=progress)
                residuals = held["ln_final"].double().numpy()
            out[name] = whitened(covariance(np.asarray(residuals, np.float64)))
    return out
