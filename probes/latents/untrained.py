"""SAEs that know nothing of the activations: the same SAE, reading them turned at random.

Latents of any SAE are functions of the activations, and twenty of thousands, chosen by the target, can hold
much of what the activations hold. What is the SAE's own shows only beside an SAE of the same size, norms and
sparsity whose latents have nothing to do with these activations' directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from graticule.hooks.coders import SparseCoder, as_found
from graticule.hooks.imports import load
from graticule.hooks.latents import Latents, encode
from graticule.probes.neurons.rotations import haar

_ROWS = 2048  # for the centre and the sparsity
_FITS = 0.05  # share by which the number of active latents may differ
_SCALES = (1 / 64, 64.0)
_HALVINGS = 12
LEVEL = 0.025
"""One-sided, as a 95% interval above 0 has it."""


class TurnedCoder:
    """An SAE that reads activations turned about a centre, and scaled."""

    def __init__(self, sae: SparseCoder, turn: Tensor, centre: Tensor, scale: float = 1.0) -> None:
        """`sae` on `(x − centre) · scale · turn + centre`; `turn` is a rotation."""
        self.cfg, self.W_dec = sae.cfg, sae.W_dec
        self._sae, self._turn, self._centre, self.scale = sae, turn, centre, scale

    def encode(self, x: Any) -> Any:
        """Activations to latents."""
        with as_found(self._sae):
            return self._sae.encode((x - self._centre) @ self._turn * self.scale + self._centre)

    def decode(self, feature_acts: Any) -> Any:
        """Latents to what the SAE writes."""
        return self._sae.decode(feature_acts)


def turned(latents: Latents, rows: Int[np.ndarray, " row"], rng: np.random.Generator) -> Latents:
    """The latents of the same SAE on activations turned at random: of an untrained SAE, for all they tell.

    The turn is about the vector that the SAE takes off its input, or the mean of `rows`. Where other numbers
    of latents are active than before (a ReLU's bias, a threshold), the activations are scaled until the same
    are. An SAE whose encoder is isotropic noise has latents of the same law before and after.

    Args:
        latents: Of the SAE itself.
        rows: Rows whose mean and sparsity are taken.
        rng: Where the rotation comes from.

    Returns:
        Other latents of all rows, as many of them.
    """
    sae: Any = latents.sae
    weights = sae.W_dec.detach()
    some = rows[:: max(1, len(rows) // _ROWS)]
    x = torch.from_numpy(latents.inputs(some)).to(weights.device, weights.dtype)
    takes_off = bool(getattr(sae.cfg, "apply_b_dec_to_input", False)) and hasattr(sae, "b_dec")
    centre = sae.b_dec.detach().to(weights) if takes_off else x.mean(dim=0)
    turn = torch.from_numpy(haar(x.shape[1], rng)).to(weights)
    coder = TurnedCoder(latents.sae, turn, centre)
    _match_sparsity(coder, x, latents.values[some].nnz / max(len(some), 1))
    return encode(latents.activations, coder, latents.point, progress=False)


def _match_sparsity(coder: TurnedCoder, x: Tensor, l0: float) -> None:
    """Scale what the coder reads until as many latents are active on `x`, as nearly as a scale can."""

    def active() -> float:
        with torch.no_grad():
            latents = coder.encode(x)
        return float(torch.count_nonzero(latents.to_dense() if latents.is_sparse else latents)) / len(x)

    if abs(active() - l0) <= _FITS * l0:
        return
    low, high = np.log(_SCALES)
    best, apart = 1.0, np.inf
    for _ in range(_HALVINGS):
        coder.scale = float(np.exp((low + high) / 2))
        now = active()
        if abs(now - l0) < apart:
            best, apart = coder.scale, abs(now - l0)
        if apart <= _FITS * l0:
            break
        low, high = (low, np.log(coder.scale)) if now > l0 else (np.log(coder.scale), high)
    coder.scale = best


def chance_of(gain: float, untrained: Sequence[float]) -> float:
    """One-sided p of a gain among those of untrained SAEs on the same rows: a t prediction interval.

    Were the SAE one of them, its distance from their mean in units of their spread would be t with one degree
    of freedom fewer than there are; the luck of the test rows is in all of them.

    Args:
        gain: Of the SAE.
        untrained: Of two or more untrained ones.

    Returns:
        The chance of so large a gain; NaN for fewer than two.
    """
    others, count = np.asarray(untrained, np.float64), len(untrained)
    if count < 2 or np.isnan([gain, *others]).any():
        return float("nan")
    load("scipy.stats")
    from scipy.stats import t

    spread = float(others.std(ddof=1)) * np.sqrt(1 + 1 / count)
    if spread <= 1e-12:
        return 0.0 if gain > others.mean() + 1e-12 else 1.0
    return float(t.sf((gain - others.mean()) / spread, count - 1))
