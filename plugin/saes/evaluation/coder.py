"""An SAE as evaluations use it: found, checked, scaled as its cfg asks, applied to rows of its hook point."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from graticule.hooks.activations import Activations
from graticule.hooks.coders import Found, SparseCoder, describe, hook_name, metadata
from graticule.hooks.latents import Latents, encode
from graticule.hooks.points import resolve
from graticule.hooks.protocols import HookedModel

_log = logging.getLogger(__name__)

_MOST_ROWS = 4096


def point_of(model: HookedModel, found: Found, given: str | None) -> str:
    """The hook point that an SAE reads on `model`.

    **Raises** `ValueError` where neither its metadata nor the caller names one, `PointError` where the model
    does not have it.
    """
    name = given or hook_name(found.sae)
    if name is None:
        raise ValueError("this SAE's metadata names no hook_name: say which point it reads with hook_name=")
    return resolve(model, name)[0]


@dataclass(frozen=True)
class Coder:
    """An SAE applied to rows of one hook point."""

    sae: SparseCoder
    """The SAE, its input scale folded in."""
    point: str
    """The hook point it reads."""
    width: int
    """Of the hook point, heads flattened."""
    scale: float | None
    """What was folded in (`expected_average_only_in`); None where there was nothing to fold."""

    @property
    def d_in(self) -> int:
        """Width of what the SAE reads: of one head where it reads one."""
        return int(self.sae.cfg.d_in)

    @property
    def d_sae(self) -> int:
        """Latents."""
        return int(self.sae.cfg.d_sae)

    @property
    def part(self) -> slice:
        """Which of the point's entries the SAE reads and writes."""
        if self.width == self.d_in:
            return slice(None)
        head = int(metadata(self.sae, "hook_head_index") or 0)
        return slice(head * self.d_in, (head + 1) * self.d_in)

    def encode(self, rows: Float[Tensor, "row width"]) -> Latents:
        """Latents of rows of the point."""
        acts = Activations({self.point: rows}, pd.DataFrame(index=range(len(rows))))
        return encode(acts, self.sae, self.point, batch=_MOST_ROWS, progress=False)

    def __call__(self, rows: Float[Tensor, "row width"]) -> tuple[Latents, Float[Tensor, "row d_in"]]:
        """Latents and reconstructions (float32, on the CPU) of rows of the point."""
        latents = self.encode(rows)
        return latents, torch.from_numpy(latents.reconstruction(np.arange(len(rows)))).float()

    def describe(self) -> dict[str, Any]:
        """The SAE and its scale, for provenance."""
        return {**describe(self.sae), "scale": self.scale}


def make_coder(
    sae: SparseCoder, point: str, rows: Float[Tensor, "row width"], scale: float | None = None
) -> Coder:
    """The SAE on a hook point, of whose activations `rows` are the first.

    Where the cfg still says `expected_average_only_in` and no `scale` is given, it is √d_in over the mean
    norm of `rows`, as SAELens's `ActivationScaler` estimates it. The user's SAE is not touched.

    **Raises** `ValueError` for a width that is not the SAE's, or `covariance_whitening` that was not folded.
    """
    width, wanted = int(rows.shape[1]), int(sae.cfg.d_in)
    if width != wanted and (metadata(sae, "hook_head_index") is None or width % wanted):
        raise ValueError(
            f"{point} has width {width}, the SAE has d_in {wanted}: was it trained on another model or point?"
        )
    kind = str(getattr(sae.cfg, "normalize_activations", "none"))
    if kind == "covariance_whitening":
        raise ValueError(
            "this SAE reads whitened activations and the whitening is not in its weights: fold it in first "
            "(sae.fold_activation_whitening), as SAELens does at the end of training"
        )
    if scale is None and kind == "expected_average_only_in":
        read = rows[:, Coder(sae, point, width, None).part]
        scale = wanted**0.5 / float(read.float().norm(dim=1).mean())
        _log.warning(
            "normalize_activations is 'expected_average_only_in' and the scale is not in the weights; "
            "scale %.4g is estimated from %d rows (say scale= to give it)",
            scale,
            len(rows),
        )
    heads = getattr(sae.cfg, "reshape_activations", "none") == "hook_z"
    if scale is None and not heads:
        return Coder(sae, point, width, None)
    own: Any = copy.deepcopy(sae)
    if heads:
        own.turn_off_forward_pass_hook_z_reshaping()  # rows are flat here
    if scale is not None:
        own.fold_activation_norm_scaling_factor(scale)
    return Coder(own, point, width, scale)
