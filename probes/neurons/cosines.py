"""Cosines of neurons' weights with a probe's two directions, and what such weights would give by chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from tqdm.auto import tqdm

from graticule.hooks.protocols import HookedModel
from graticule.probes.applicable import NotApplicable
from graticule.probes.attribution.weights import input_norm, mlp_weights, output_norm
from graticule.probes.estimators.ridge import RidgeProbe
from graticule.probes.neurons.draws import Turns, exceeded, ratios, weight_form
from graticule.probes.scores.multiplicity import benjamini_hochberg

_BINS = np.linspace(-1, 1, 201)
DIRECTIONS = ("read", "write")


@dataclass(frozen=True)
class Cosines:
    """Every neuron's cosines in some layers, with their nulls."""

    table: pd.DataFrame
    """A line a layer, neuron, weight (`in`, `gate`, `out`), direction and target: `cosine`, `p` (one random
    vector with the covariance of that layer's weights), `p_bh` (over all lines of the target), `p_max` (the
    largest of all such vectors in all these layers)."""
    histogram: pd.DataFrame
    """Shares by bin of width .01: `target`, `direction`, `weight`, `cosine`, `neurons`, `null`."""


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


def cosines(
    model: HookedModel,
    probes: Mapping[str, RidgeProbe],
    layers: Sequence[int],
    names: Sequence[str],
    *,
    always: str | None = None,
    fold_norm: bool = False,
    draws: int = 200,
    seed: int = 0,
    progress: bool | None = None,
) -> Cosines:
    """Cosines of input, gate and output weights with the read and the write direction of every target.

    `always` names one point whose probe serves every layer, instead of each layer's own. `fold_norm` takes
    the gains of the norms before and after the MLP into the weights.

    **Raises** `ValueError` where no layer has a probe, or weights are missing.
    """
    held: list[_Layer] = []
    for layer in tqdm(layers, desc="weights", unit="layer", disable=not progress, leave=False):
        into, out = (always, always) if always else probe_points(probes, layer)
        held += _of_layer(model, probes, layer, into, out, fold_norm, draws, seed)
    if not held:
        raise NotApplicable(
            f"no probe reads or writes beside layers {list(layers)[:5]}: sweep 'resid_post' of the layers "
            "below them, or pass directions='chosen'"
        )
    return Cosines(_table(held, names, draws), _histogram(held, names))


@dataclass(frozen=True)
class _Layer:
    """One weight matrix against one direction."""

    layer: int
    weight: str
    direction: str
    cosine: Float[np.ndarray, "neuron target"]
    p: Float[np.ndarray, "neuron target"]
    largest: Float[np.ndarray, "draw target"]
    null: Float[np.ndarray, "bin target"]


def _of_layer(
    model: HookedModel,
    probes: Mapping[str, RidgeProbe],
    layer: int,
    into: str | None,
    out: str | None,
    fold_norm: bool,
    draws: int,
    seed: int,
) -> list[_Layer]:
    weights = mlp_weights(model, layer)
    before = input_norm(model, layer) if fold_norm else None
    after = output_norm(model, layer, "mlp") if fold_norm else None
    gain_in = 1.0 if before is None else before.gain[:, None]
    gain_out = 1.0 if after is None else after.gain[:, None]
    matrices = {"in": (into, weights.w_in * gain_in), "out": (out, weights.w_out.T * gain_out)}
    if weights.w_gate is not None:
        matrices["gate"] = (into, weights.w_gate * gain_in)
    rng = np.random.default_rng([seed, layer])
    width, n_neurons = weights.w_in.shape
    normal = rng.standard_normal((width, n_neurons), dtype=np.float32)
    turns = Turns.draw(width, draws, rng)
    found: list[_Layer] = []
    for weight, (point, matrix) in matrices.items():
        if point is None:
            continue
        unit = matrix / np.maximum(np.linalg.norm(matrix, axis=0), 1e-300)
        probe = probes[point]
        for name, toward in (("read", probe.read_direction), ("write", probe.write_direction)):
            form = weight_form(matrix, toward)
            null = ratios(form, normal, turns)
            seen = unit.T @ (toward / np.maximum(np.linalg.norm(toward, axis=0), 1e-300))
            size = np.abs(null)
            p = [exceeded(np.sort(size[..., t], axis=None), np.abs(seen[:, t])) for t in range(seen.shape[1])]
            bins = [_shares(null[..., t]) for t in range(seen.shape[1])]
            found.append(
                _Layer(
                    layer,
                    weight,
                    name,
                    seen,
                    np.stack(p, axis=1),
                    size.max(axis=1).astype(np.float64),
                    np.stack(bins, axis=1),
                )
            )
    return found


def _table(held: Sequence[_Layer], names: Sequence[str], draws: int) -> pd.DataFrame:
    largest = np.max([h.largest for h in held], axis=0)
    parts: list[pd.DataFrame] = []
    for t, name in enumerate(names):
        lines = pd.concat(
            [
                pd.DataFrame(
                    {
                        "target": name,
                        "layer": h.layer,
                        "neuron": np.arange(len(h.cosine)),
                        "weight": h.weight,
                        "direction": h.direction,
                        "cosine": h.cosine[:, t],
                        "p": h.p[:, t],
                    }
                )
                for h in held
            ],
            ignore_index=True,
        )
        size = np.abs(lines["cosine"].to_numpy(np.float64))
        lines["p_bh"] = benjamini_hochberg(lines["p"].to_numpy(np.float64))
        lines["p_max"] = exceeded(np.sort(largest[:, t]).astype(np.float32), size)
        parts.append(lines)
    assert len(largest) == draws
    return pd.concat(parts, ignore_index=True)


def _histogram(held: Sequence[_Layer], names: Sequence[str]) -> pd.DataFrame:
    middle = (_BINS[:-1] + _BINS[1:]) / 2
    parts: list[pd.DataFrame] = []
    for t, name in enumerate(names):
        for direction in DIRECTIONS:
            for weight in ("in", "gate", "out"):
                own = [h for h in held if h.direction == direction and h.weight == weight]
                if not own:
                    continue
                seen = np.concatenate([h.cosine[:, t] for h in own])
                line = {
                    "target": name,
                    "direction": direction,
                    "weight": weight,
                    "cosine": middle,
                    "neurons": _shares(seen),
                    "null": np.mean([h.null[:, t] for h in own], axis=0),
                }
                parts.append(pd.DataFrame(line))
    return pd.concat(parts, ignore_index=True)


def _shares(cosines: np.ndarray) -> np.ndarray:
    """Shares of cosines a bin; one that rounding puts beyond 1 is 1."""
    return np.histogram(np.clip(cosines, -1, 1), _BINS)[0] / cosines.size
