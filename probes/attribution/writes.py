"""What the residual stream at a point is the sum of, and what each summand gives to a linear reading."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from graticule.hooks.protocols import HookedModel
from graticule.probes.applicable import NotApplicable
from graticule.probes.attribution.again import Unit
from graticule.probes.attribution.weights import Norm, head_weights, out_weights, output_norm

_STREAM = re.compile(r"^blocks\.(\d+)\.hook_resid_(pre|mid|post)$")

ByPoint = Mapping[str, Float[np.ndarray, "row width"]]
"""Hook name → activations in float64."""


@dataclass(frozen=True)
class Term:
    """One summand of a reading."""

    name: str
    """For people: `L7 attention`, `L7 head 2`, `L7 neuron 1044`."""
    kind: str
    """`embedding`, `position`, `attention`, `mlp`, `head`, `neuron`, `other neurons` or `bias`."""
    layer: int | None = None
    """Its block; None for embeddings."""
    index: int | None = None
    """Its head or neuron."""


@dataclass(frozen=True)
class _Source:
    """Terms that are read from the same hook points."""

    points: tuple[str, ...]
    terms: tuple[Term, ...]
    read: Callable[[ByPoint], Float[np.ndarray, "row term target"]]


@dataclass(frozen=True)
class Neurons:
    """How the neurons of one layer are read."""

    point: str
    """Hook name of their activations."""
    to_reading: Float[np.ndarray, "neuron target"]
    """What one unit of activation gives, but for the norm's scale."""
    norm: Norm | None
    """Between MLP and stream."""

    def scaled(self, rows: ByPoint) -> Float[np.ndarray, "row neuron"]:
        """Activations divided by the norm's scale: `to_reading` times these are the terms."""
        post = rows[self.point]
        return post if self.norm is None else post / rows[self.norm.point].reshape(-1, 1)


class Writes:
    """A reading `x @ coef` of the residual stream at `point`, as a sum over what was written upstream.

    The embeddings, then every attention and MLP output up to the point, as TransformerLens hooks them, that
    is, after any norm between sublayer and stream. Heads (`hook_z · W_O`) and neurons (`hook_post · W_out`)
    go through that norm with its scale as it was in the pass, in which it is linear. `neurons` says which
    neurons of which layer stand alone; the others of a layer are one term.

    **Raises** `ValueError` for a point that is no residual stream, or for missing weights.
    """

    def __init__(
        self,
        model: HookedModel,
        point: str,
        coef: Float[np.ndarray, "d_model target"],
        unit: Unit = "component",
        neurons: Mapping[int, Int[np.ndarray, " neuron"]] | None = None,
    ) -> None:
        match = _STREAM.match(point)
        if match is None:
            raise NotApplicable(
                f"{point} is no point of the residual stream; readings at blocks.L.hook_resid_pre, "
                "hook_resid_mid and hook_resid_post are sums of upstream writes"
            )
        if unit not in ("component", "head", "neuron"):
            raise ValueError(f"unit={unit!r}: expected 'component', 'head' or 'neuron'")
        last, where = int(match.group(1)), match.group(2)
        self._model, self._coef = model, coef
        self.point = point
        self.neurons: dict[int, Neurons] = {}
        """Layer → how its neurons are read, where they are a term each."""
        self._sources = list(self._embeddings())
        for layer in range(last + (where != "pre")):
            self._sources.append(self._heads(layer) if unit == "head" else self._whole(layer, "attn"))
            if (layer < last or where == "post") and f"blocks.{layer}.hook_mlp_out" in model.hook_dict:
                chosen = (neurons or {}).get(layer, np.zeros(0, np.int64))
                mlp = self._neurons(layer, chosen) if unit == "neuron" else self._whole(layer, "mlp")
                self._sources.append(mlp)
        self.terms: tuple[Term, ...] = tuple(t for s in self._sources for t in s.terms)
        """The summands, in model order."""

    @property
    def points(self) -> tuple[str, ...]:
        """Hook names to capture, the reading's own among them."""
        return tuple(dict.fromkeys([*(p for s in self._sources for p in s.points), self.point]))

    def __call__(self, rows: ByPoint) -> Float[np.ndarray, "row term target"]:
        """The terms of each row, without the intercept."""
        return np.concatenate([source.read(rows) for source in self._sources], axis=1)

    # Sources -----------------------------------------------------------------------------------------
    def _embeddings(self) -> list[_Source]:
        start, position = "blocks.0.hook_resid_pre", "hook_pos_embed"
        coef = self._coef
        if position not in self._model.hook_dict or getattr(self._model, "pos_embed", None) is None:
            return [
                _Source((start,), (Term("embedding", "embedding"),), lambda r: (r[start] @ coef)[:, None])
            ]
        # what enters the first block less the positions: embeddings are scaled or normed in some models
        return [
            _Source(
                (start, position),
                (Term("embedding", "embedding"), Term("position", "position")),
                lambda r: np.stack([(r[start] - r[position]) @ coef, r[position] @ coef], axis=1),
            )
        ]

    def _whole(self, layer: int, part: str) -> _Source:
        point, coef = f"blocks.{layer}.hook_{part}_out", self._coef
        kind = "attention" if part == "attn" else "mlp"
        label = "attention" if part == "attn" else "MLP"
        return _Source(
            (point,), (Term(f"L{layer} {label}", kind, layer),), lambda r: (r[point] @ coef)[:, None]
        )

    def _heads(self, layer: int) -> _Source:
        weights = head_weights(self._model, layer)
        norm, coef = output_norm(self._model, layer, "attn"), self._coef
        pulled = coef if norm is None else norm.pull(coef)
        n_heads, d_head = weights.w_o.shape[:2]
        to_reading = weights.w_o @ pulled
        point = f"blocks.{layer}.attn.hook_z"
        terms = [Term(f"L{layer} head {h}", "head", layer, h) for h in range(n_heads)]

        def read(rows: ByPoint) -> np.ndarray:
            z = rows[point].reshape(-1, n_heads, d_head)
            return np.einsum("rhd,hdt->rht", z, to_reading, optimize=True)

        return self._normed(point, terms, read, norm, weights.b_o @ pulled, f"L{layer} attention bias")

    def _neurons(self, layer: int, chosen: Int[np.ndarray, " neuron"]) -> _Source:
        weights = out_weights(self._model, layer)
        norm, coef = output_norm(self._model, layer, "mlp"), self._coef
        pulled = coef if norm is None else norm.pull(coef)
        to_reading = weights.w_out @ pulled
        point = f"blocks.{layer}.mlp.hook_post"
        self.neurons[layer] = Neurons(point, to_reading, norm)
        terms = [Term(f"L{layer} neuron {n}", "neuron", layer, int(n)) for n in chosen]
        terms.append(Term(f"L{layer} other neurons", "other neurons", layer))

        def read(rows: ByPoint) -> np.ndarray:
            post = rows[point]
            alone = post[:, chosen, None] * to_reading[chosen]
            return np.concatenate([alone, (post @ to_reading - alone.sum(axis=1))[:, None]], axis=1)

        return self._normed(point, terms, read, norm, weights.b_out @ pulled, f"L{layer} MLP bias")

    def _normed(
        self,
        point: str,
        terms: list[Term],
        read: Callable[[ByPoint], np.ndarray],
        norm: Norm | None,
        bias: Float[np.ndarray, " target"],
        bias_name: str,
    ) -> _Source:
        """Divide terms behind a norm by its scale; biases, where there are any, are a term of their own."""
        after = np.zeros(self._coef.shape[1]) if norm is None else norm.bias @ self._coef
        biased = bool(bias.any() or after.any())
        if biased:
            terms = [*terms, Term(bias_name, "bias", terms[0].layer)]

        def scaled(rows: ByPoint) -> np.ndarray:
            out = read(rows)
            if biased:
                line = np.broadcast_to(bias, (len(out), 1, len(bias)))
                out = np.concatenate([out, line], axis=1)
            if norm is not None:
                out = out / rows[norm.point].reshape(-1, 1, 1)
                if biased:
                    out[:, -1] += after
            return out

        return _Source((point,) if norm is None else (point, norm.point), tuple(terms), scaled)
