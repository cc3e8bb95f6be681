"""Cosines of neurons' weights with a probe's two directions, and what such weights would give by chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
from jaxtyping import Float
from tqdm.auto import tqdm

from graticule.hooks.messages import NotApplicable
from graticule.hooks.protocols import HookedModel
from graticule.hooks.weights import input_norm, mlp_weights, output_norm
from graticule.probes.linear.ridge import RidgeProbe
from graticule.probes.neurons.rotations import Turns, exceeded, ratios, weight_form
from graticule.probes.scores.significance import benjamini_hochberg

_BINS = np.linspace(-1, 1, 201)
DIRECTIONS = ("read", "write")
WEIGHTS = ("in", "gate", "out")


@dataclass(frozen=True)
class WeightCosines:
    """Every neuron's cosines in some layers, with their nulls."""

    table: pd.DataFrame
    """One row per layer, neuron, weight (`in`, `gate`, `out`), direction and target: `cosine`, `p` (one
    random vector with the covariance of that layer's weights), `p_bh` (over all rows of the target), `p_max`
    (the largest of all such vectors in all these layers)."""
    histogram: pd.DataFrame
    """Shares by bin of width .01: `target`, `direction`, `weight`, `cosine`, `neurons`, `null`."""

    def of(self, target: str) -> pd.DataFrame:
        """The rows of one target, the largest |cosine| first."""
        own = self.table[self.table["target"] == target]
        return own.sort_values("cosine", key=lambda cosine: -cosine.abs(), kind="stable")


def probe_points(probes: Mapping[str, RidgeProbe], layer: int) -> tuple[str | None, str | None]:
    """The points whose probes a layer's neurons read from and write to; None where none was fitted.

    A layer's MLP reads the stream after the attention: the nearest point fitted is its `resid_mid`, else its
    `resid_pre`, which is the layer below's `resid_post`.
    """
    into = (
        f"blocks.{layer}.hook_resid_mid",
        f"blocks.{layer}.hook_resid_pre",
        f"blocks.{layer - 1}.hook_resid_post",
    )
    out = (f"blocks.{layer}.hook_resid_post", f"blocks.{layer + 1}.hook_resid_pre")
    return next((p for p in into if p in probes), None), next((p for p in out if p in probes), None)


def weight_cosines(
    model: HookedModel,
    probes: Mapping[str, RidgeProbe],
    layers: Sequence[int],
    names: Sequence[str],
    *,
    always: str | None = None,
    fold_norm: bool = False,
    n_random: int = 200,
    seed: int = 0,
    progress: bool | None = None,
) -> WeightCosines:
    """Cosines of input, gate and output weights with the read and the write direction of every target.

    Args:
        model: Whose weights.
        probes: Hook name → probe.
        layers: Whose neurons.
        names: The probes' targets.
        always: One point whose probe serves every layer, instead of each layer's own.
        fold_norm: Take the gains of the norms before and after the MLP into the weights.
        n_random: Random sets of weights per layer.
        seed: The seed of these.
        progress: Whether to show a bar.

    Returns:
        All cosines and their histograms.

    Raises:
        ValueError: Where no layer has a probe, or weights are missing.
    """
    by_weight: list[_Compared] = []
    for layer in tqdm(layers, desc="weights", unit="layer", disable=not progress, leave=False):
        into, out = (always, always) if always else probe_points(probes, layer)
        points = {"in": into, "out": out, "gate": into}
        matrices = _matrices(model, layer, fold_norm)
        rng = np.random.default_rng([seed, layer])
        normal = rng.standard_normal(matrices["in"].shape, dtype=np.float32)
        turns = Turns.draw(len(normal), n_random, rng)
        for weight, matrix in matrices.items():
            point = points[weight]
            for direction in DIRECTIONS if point is not None else ():
                toward = getattr(probes[str(point)], f"{direction}_direction")
                by_weight.append(_compare(layer, weight, direction, matrix, toward, normal, turns))
    if not by_weight:
        raise NotApplicable(
            f"no probe reads or writes beside layers {list(layers)[:5]}: sweep 'resid_post' of the layers "
            "below them, or pass directions='chosen'"
        )
    return WeightCosines(_table(by_weight, names), _histogram(by_weight, names))


def _matrices(model: HookedModel, layer: int, fold_norm: bool) -> dict[str, Float[np.ndarray, "d neuron"]]:
    """The layer's input, output and gate weights, a column per neuron."""
    weights = mlp_weights(model, layer)
    before = input_norm(model, layer) if fold_norm else None
    after = output_norm(model, layer, "mlp") if fold_norm else None
    gain_in = 1.0 if before is None else before.gain[:, None]
    gain_out = 1.0 if after is None else after.gain[:, None]
    matrices = {"in": weights.w_in * gain_in, "out": weights.w_out.T * gain_out}
    return matrices if weights.w_gate is None else {**matrices, "gate": weights.w_gate * gain_in}


@dataclass(frozen=True)
class _Compared:
    """One weight matrix against one direction."""

    layer: int
    weight: str
    direction: str
    cosine: Float[np.ndarray, "neuron target"]
    p: Float[np.ndarray, "neuron target"]
    largest: Float[np.ndarray, "draw target"]
    null: Float[np.ndarray, "bin target"]


def _compare(
    layer: int,
    weight: str,
    direction: str,
    matrix: np.ndarray,
    toward: np.ndarray,
    normal: np.ndarray,
    turns: Turns,
) -> _Compared:
    null = ratios(weight_form(matrix, toward), normal, turns)
    cosine = _unit(matrix).T @ _unit(toward)
    size, targets = np.abs(null), range(toward.shape[1])
    p = [exceeded(np.sort(size[..., t], axis=None), np.abs(cosine[:, t])) for t in targets]
    bins = [_shares(null[..., t]) for t in targets]
    largest = size.max(axis=1).astype(np.float64)
    return _Compared(layer, weight, direction, cosine, np.stack(p, axis=1), largest, np.stack(bins, axis=1))


def _unit(columns: np.ndarray) -> np.ndarray:
    return columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-300)


def _table(by_weight: Sequence[_Compared], names: Sequence[str]) -> pd.DataFrame:
    largest = np.sort(np.max([c.largest for c in by_weight], axis=0), axis=0).astype(np.float32)
    parts: list[pd.DataFrame] = []
    for t, name in enumerate(names):
        rows = [
            pd.DataFrame(
                {
                    "target": name,
                    "layer": c.layer,
                    "neuron": np.arange(len(c.cosine)),
                    "weight": c.weight,
                    "direction": c.direction,
                    "cosine": c.cosine[:, t],
                    "p": c.p[:, t],
                }
            )
            for c in by_weight
        ]
        part = pd.concat(rows, ignore_index=True)
        part["p_bh"] = benjamini_hochberg(part["p"].to_numpy(np.float64))
        part["p_max"] = exceeded(largest[:, t], np.abs(part["cosine"].to_numpy(np.float64)))
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _histogram(by_weight: Sequence[_Compared], names: Sequence[str]) -> pd.DataFrame:
    parts: list[pd.DataFrame] = []
    for (t, name), direction, weight in product(enumerate(names), DIRECTIONS, WEIGHTS):
        own = [c for c in by_weight if c.direction == direction and c.weight == weight]
        if not own:
            continue
        cosine = np.concatenate([c.cosine[:, t] for c in own])
        part = {
            "target": name,
            "direction": direction,
            "weight": weight,
            "cosine": (_BINS[:-1] + _BINS[1:]) / 2,
            "neurons": _shares(cosine),
            "null": np.mean([c.null[:, t] for c in own], axis=0),
        }
        parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)


def _shares(cosines: np.ndarray) -> np.ndarray:
    """Shares of cosines a bin; one that rounding puts beyond 1 is 1."""
    return np.histogram(np.clip(cosines, -1, 1), _BINS)[0] / cosines.size
