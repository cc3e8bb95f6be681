"""Dictionaries to be compared: SAEs, an untrained one, random directions, principal components."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from graticule.hooks.coders import SparseCoder, as_published
from graticule.saes.atoms.truth import Truth

_ROWS = 4096
BASELINES = ("untrained SAE", "random directions", "PCA")
"""Arms that stand beside every SAE."""


@dataclass(frozen=True, eq=False)
class Arm:
    """A dictionary on the rows of a world."""

    name: str
    """For tables."""
    decoder: Float[np.ndarray, "latent d_in"]
    """What each latent writes."""
    latents: Float[np.ndarray, "row latent"]
    """How strongly each fires on each row."""
    explained_variance: float
    """Of the rows; NaN where nothing is reconstructed."""


def make_arms(saes: Mapping[str, SparseCoder], truth: Truth, seed: int) -> list[Arm]:
    """Every SAE, then, of the first one's size: that SAE untrained, random directions, and PCA.

    Random directions and principal components (each with both signs, as latents have one) fire with what is
    positive of a centred row's projection.
    """
    arms = [_coded(name, as_published(sae), truth) for name, sae in saes.items()]
    first = next(iter(saes.values()))
    rng = np.random.default_rng(seed)
    centred = truth.rows - truth.rows.mean(axis=0)
    drawn = rng.normal(size=(int(first.cfg.d_sae), truth.d_in))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    axes = np.linalg.svd(centred.astype(np.float64), full_matrices=False)[2]
    signed = np.concatenate([axes, -axes])
    return [
        *arms,
        _coded(BASELINES[0], untrained(first, seed), truth),
        Arm(BASELINES[1], drawn, np.maximum(centred @ drawn.T, 0.0), float("nan")),
        Arm(BASELINES[2], signed, np.maximum(centred @ signed.T, 0.0), float("nan")),
    ]


def untrained(sae: SparseCoder, seed: int) -> SparseCoder:
    """The same SAE before training, its weights drawn anew; the caller's random state is left as it is."""
    made: Any = type(as_published(sae))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return made(copy.deepcopy(as_published(sae).cfg))


def _coded(name: str, sae: SparseCoder, truth: Truth) -> Arm:
    if int(sae.cfg.d_in) != truth.d_in:
        raise ValueError(f"{name} has d_in {sae.cfg.d_in}, the world's rows have width {truth.d_in}")
    held: list[np.ndarray] = []
    left, where = 0.0, sae.W_dec.device
    with torch.no_grad():
        for start in range(0, len(truth.rows), _ROWS):
            x = torch.from_numpy(truth.rows[start : start + _ROWS]).to(where, sae.W_dec.dtype)
            acts = sae.encode(x)
            left += float((x - sae.decode(acts)).double().square().sum())
            held.append((acts.to_dense() if acts.is_sparse else acts).cpu().double().numpy())
    spread = float(np.square(truth.rows.astype(np.float64) - truth.rows.mean(axis=0, dtype=np.float64)).sum())
    decoder = sae.W_dec.detach().to("cpu", torch.float64).numpy()
    return Arm(name, decoder, np.concatenate(held), 1 - left / spread)
