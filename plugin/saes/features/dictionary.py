"""The dictionary itself: how often each latent fires, which are dead or ultralow, which are copies of
others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from graticule.hooks.coders import SparseCoder

ALWAYS_ON = 0.5
"""A latent that fires on more than this share of the rows is always on."""
DENSE = 0.01
"""The paper's line: many latents that fire on more than 1 % of the rows mean that λ is too small."""
ALIKE = 0.9
"""Decoder cosine from which two latents are called copies."""
_DECADES = 1.0
_LOW = -3.0
_SMOOTH, _STEP = 0.2, 0.02  # decades
_FEWEST = 20
_CHUNK = 2048
_DRAWN = 256


@dataclass(frozen=True)
class Dictionary:
    """The state of the latents."""

    dead: int
    """Latents that fired on no row."""
    ultralow: int
    """Latents in the ultralow-density cluster: they fire, far more rarely than the rest (Bricken et al. 2023:
    densities near 1e-7 beside 1e-5, and biases and encoder·decoder cosines apart)."""
    ultralow_below: float
    """Density that parts the cluster from the rest; NaN where there is no cluster."""
    always_on: int
    """Latents that fire on more than half of the rows."""
    dense: int
    """Latents that fire on more than 1 % of the rows (the paper's sign of a small λ)."""
    alive: int
    """Latents that are neither dead nor ultralow."""
    lowest: float
    """The lowest density of a latent outside the cluster; NaN where there is none."""
    copies: int
    """Living latents with another living one at a decoder cosine of .9 or more."""
    nearest_cosine: float
    """Median over living latents of the greatest decoder cosine with another living one."""
    nearest_cosine_random: float
    """The same of as many random directions: what chance gives."""

    @property
    def dead_fraction(self) -> float:
        """Share of latents that are dead."""
        return self.dead / max(self.dead + self.ultralow + self.alive, 1)


def dictionary(
    sae: SparseCoder,
    fired: Int[np.ndarray, " d_sae"],
    n_rows: int,
    density: Float[np.ndarray, " d_sae"] | None = None,
    seed: int = 0,
) -> tuple[Dictionary, pd.DataFrame]:
    """The state of the latents, and a table of one row per latent, as `SaeEvaluation.latents` has it.

    Args:
        sae: the SAE.
        fired: on how many rows of the evaluation each latent fired.
        n_rows: rows of the evaluation.
        density: from more rows (training's own count), what the ultralow cluster is looked for in.
        seed: The seed of the random directions.
    """
    decoder = sae.W_dec.detach().to("cpu", torch.float32)
    bias, aligned = encoder_side(sae)
    share = fired / max(n_rows, 1)
    most_counted = share if density is None else density
    low = ultralow(most_counted)
    cluster = np.where(fired == 0, "dead", "alive").astype(object)
    cluster[low & ((fired > 0) | (most_counted > 0))] = "ultralow"
    living = np.flatnonzero(cluster == "alive")
    nearest = np.full(len(fired), -1, np.int64)
    cosine = np.full(len(fired), np.nan)
    if len(living) > 1:
        place, value = nearest_neighbours(decoder[torch.from_numpy(living)])
        nearest[living], cosine[living] = living[place], value
    table = pd.DataFrame(
        {
            "latent": np.arange(len(fired)),
            "density": share,
            "b_enc": bias,
            "encoder_decoder": aligned,
            "decoder_norm": decoder.norm(dim=1).double().numpy(),
            "nearest": nearest,
            "nearest_cosine": cosine,
            "cluster": cluster.astype(str),
        }
    )
    if density is not None:
        table.insert(2, "training_density", density)
    state = Dictionary(
        dead=int((cluster == "dead").sum()),
        ultralow=int((cluster == "ultralow").sum()),
        ultralow_below=float(most_counted[low].max()) if low.any() else float("nan"),
        always_on=int((share > ALWAYS_ON).sum()),
        dense=int((share > DENSE).sum()),
        alive=len(living),
        lowest=float(share[living].min()) if len(living) else float("nan"),
        copies=int((cosine[living] >= ALIKE).sum()),
        nearest_cosine=float(np.median(cosine[living])) if len(living) > 1 else float("nan"),
        nearest_cosine_random=random_nearest(len(living), decoder.shape[1], seed),
    )
    return state, table


def encoder_side(sae: SparseCoder) -> tuple[Float[np.ndarray, " d_sae"], Float[np.ndarray, " d_sae"]]:
    """b_enc (a gated SAE's gate bias; NaN where there is none) and the cosine of W_enc and W_dec, a
    latent."""
    decoder = sae.W_dec.detach().to("cpu", torch.float32)
    nothing = np.full(len(decoder), np.nan)
    encoder = getattr(sae, "W_enc", None)
    bias = getattr(sae, "b_enc", None)
    bias = getattr(sae, "b_gate", None) if bias is None else bias
    biases = bias.detach().to("cpu", torch.float64).numpy() if isinstance(bias, Tensor) else nothing
    if not isinstance(encoder, Tensor) or encoder.shape != decoder.T.shape:
        return biases, nothing
    rows = encoder.detach().to("cpu", torch.float32).T
    cosine = torch.nn.functional.cosine_similarity(rows, decoder, dim=1)
    return biases, cosine.double().numpy()


def ultralow(density: Float[np.ndarray, " d_sae"]) -> Bool[np.ndarray, " d_sae"]:
    """Latents of the ultralow-density cluster; none where there are not two clusters.

    The cluster is what lies below the deepest valley of the histogram of log₁₀ density, smoothed over a fifth
    of a decade: at most half as high as the hills on both sides, lower than the smaller one by three standard
    deviations of its counts, the hills a decade apart and the lower one below 1e-3. A tail is no hill.
    """
    out = np.zeros(len(density), bool)
    log = np.log10(density[density > 0])
    if len(log) < _FEWEST or np.ptp(log) < _DECADES:
        return out
    grid = np.arange(log.min(), log.max() + _STEP, _STEP)
    places = np.rint((log - grid[0]) / _STEP).astype(np.int64)
    counts = np.bincount(places, minlength=len(grid)).astype(np.float64)
    away = np.arange(-8 * _SMOOTH / _STEP, 8 * _SMOOTH / _STEP + 1) * _STEP
    kernel = np.exp(-0.5 * (away / _SMOOTH) ** 2)
    # about the latents in half a decade
    height = np.convolve(counts, kernel)[len(kernel) // 2 :][: len(grid)]
    left, right = np.maximum.accumulate(height), np.maximum.accumulate(height[::-1])[::-1]
    hill = np.minimum(left, right)
    first = np.array([height[: k + 1].argmax() for k in range(len(grid))])
    last = np.array([k + height[k:].argmax() for k in range(len(grid))])
    parted = (height <= hill / 2) & (hill - height >= 3 * np.sqrt(hill + height))
    parted &= (grid[first] < _LOW) & (grid[last] - grid[first] >= _DECADES)
    if parted.any():
        valley = grid[np.where(parted, height / hill, np.inf).argmin()]
        out[density > 0] = log < valley
    return out


def nearest_neighbours(
    directions: Float[Tensor, "latent d_in"],
) -> tuple[Int[np.ndarray, " latent"], Float[np.ndarray, " latent"]]:
    """For every direction the one with the greatest cosine among the others, and that cosine."""
    unit = directions / directions.norm(dim=1, keepdim=True).clamp_min(1e-12)
    place, value = np.empty(len(unit), np.int64), np.empty(len(unit))
    for start in range(0, len(unit), _CHUNK):
        rows = torch.arange(start, min(start + _CHUNK, len(unit)))
        cosine = unit[rows] @ unit.T
        cosine[torch.arange(len(rows)), rows] = -2.0
        best = cosine.max(dim=1)
        place[rows.numpy()], value[rows.numpy()] = best.indices.numpy(), best.values.double().numpy()
    return place, value


def random_nearest(n: int, d_in: int, seed: int) -> float:
    """Median greatest cosine of a random direction with n − 1 others in d_in dimensions, drawn with
    `seed`."""
    if n < 2:
        return float("nan")
    rng = np.random.default_rng(seed)
    own = rng.normal(size=(min(_DRAWN, n), d_in)).astype(np.float32)
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    best = np.full(len(own), -1.0)
    for start in range(0, n - 1, _CHUNK):
        others = rng.normal(size=(min(_CHUNK, n - 1 - start), d_in)).astype(np.float32)
        others /= np.linalg.norm(others, axis=1, keepdims=True)
        best = np.maximum(best, (own @ others.T).max(axis=1))
    return float(np.median(best))
