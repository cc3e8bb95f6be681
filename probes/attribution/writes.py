"""What the residual stream at a point is the sum of, and what each summand gives to a linear reading."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from graticule.hooks.capture_spec import CaptureSpec
from graticule.hooks.messages import NotApplicable
from graticule.hooks.model_view import ModelView
from graticule.hooks.protocols import HookedModel
from graticule.hooks.running.runner import run_in_parts
from graticule.hooks.weights import Norm, output_norm, output_weights

_STREAM = re.compile(r"^blocks\.(\d+)\.hook_resid_(pre|mid|post)$")
_CHUNK_VALUES = 1 << 25  # activations in memory at once (128 MiB in float32)

Unit = Literal["component", "head", "neuron"]
"""Into what a reading is taken apart."""

ByPoint = Mapping[str, Float[np.ndarray, "row width"]]
"""Hook name → activations in float64."""

NeuronsByLayer = dict[int, Int[np.ndarray, " neuron"]]
"""Layer → those of its neurons that are a term each."""


# The summands ----------------------------------------------------------------------------------------
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
class _NeuronWrites:
    """How the neurons of one layer write to the reading."""

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


class _Writes:
    """A reading `x @ coef` of the residual stream at `point`, as a sum over what was written upstream.

    The embeddings, then every attention and MLP output up to the point, as TransformerLens hooks them, that
    is, after any norm between sublayer and stream. Heads (`hook_z · W_O`) and neurons (`hook_post · W_out`)
    go through that norm with its scale as it was in the pass, in which it is linear. `chosen` says which
    neurons of which layer stand alone; the others of a layer are one term.
    """

    def __init__(
        self,
        model: HookedModel,
        point: str,
        coef: Float[np.ndarray, "d_model target"],
        unit: Unit,
        chosen: NeuronsByLayer | None = None,
    ) -> None:
        match = _STREAM.match(point)
        if match is None:
            raise NotApplicable(
                f"{point} is no point of the residual stream; readings at blocks.L.hook_resid_pre, "
                "hook_resid_mid and hook_resid_post are sums of upstream writes"
            )
        last, where = int(match.group(1)), match.group(2)
        self._model, self._coef = model, coef
        self.neurons: dict[int, _NeuronWrites] = {}
        """Layer → how its neurons write, where they are a term each."""
        self._sources = [self._embeddings()]
        for layer in range(last + (where != "pre")):
            self._sources.append(self._heads(layer) if unit == "head" else self._whole(layer, "attn"))
            if (layer < last or where == "post") and f"blocks.{layer}.hook_mlp_out" in model.hook_dict:
                alone = (chosen or {}).get(layer, np.zeros(0, np.int64))
                mlp = self._neurons(layer, alone) if unit == "neuron" else self._whole(layer, "mlp")
                self._sources.append(mlp)
        self.terms: tuple[Term, ...] = tuple(t for s in self._sources for t in s.terms)
        """The summands, in model order."""
        self.points = tuple(dict.fromkeys([*(p for s in self._sources for p in s.points), point]))
        """Hook names to capture, the reading's own among them."""

    def __call__(self, rows: ByPoint) -> Float[np.ndarray, "row term target"]:
        """The terms of each row, without the intercept."""
        return np.concatenate([source.read(rows) for source in self._sources], axis=1)

    def _embeddings(self) -> _Source:
        start, position, coef = "blocks.0.hook_resid_pre", "hook_pos_embed", self._coef
        token = Term("embedding", "embedding")
        if position not in self._model.hook_dict or not ModelView(self._model).embeds_positions:
            return _Source((start,), (token,), lambda r: (r[start] @ coef)[:, None])
        # what enters the first block less the positions: embeddings are scaled or normed in some models
        return _Source(
            (start, position),
            (token, Term("position", "position")),
            lambda r: np.stack([(r[start] - r[position]) @ coef, r[position] @ coef], axis=1),
        )

    def _whole(self, layer: int, part: str) -> _Source:
        point, coef = f"blocks.{layer}.hook_{part}_out", self._coef
        kind, label = ("attention", "attention") if part == "attn" else ("mlp", "MLP")
        term = Term(f"L{layer} {label}", kind, layer)
        return _Source((point,), (term,), lambda r: (r[point] @ coef)[:, None])

    def _heads(self, layer: int) -> _Source:
        weights, norm = output_weights(self._model, layer, "attn"), output_norm(self._model, layer, "attn")
        pulled = self._coef if norm is None else norm.pull(self._coef)
        n_heads, d_head = weights.weight.shape[:2]
        to_reading = weights.weight @ pulled
        point = f"blocks.{layer}.attn.hook_z"
        terms = [Term(f"L{layer} head {h}", "head", layer, h) for h in range(n_heads)]

        def read(rows: ByPoint) -> np.ndarray:
            z = rows[point].reshape(-1, n_heads, d_head)
            return np.einsum("rhd,hdt->rht", z, to_reading, optimize=True)

        return self._normed(point, terms, read, norm, weights.bias @ pulled, f"L{layer} attention bias")

    def _neurons(self, layer: int, chosen: Int[np.ndarray, " neuron"]) -> _Source:
        weights, norm = output_weights(self._model, layer, "mlp"), output_norm(self._model, layer, "mlp")
        pulled = self._coef if norm is None else norm.pull(self._coef)
        to_reading = weights.weight @ pulled
        point = f"blocks.{layer}.mlp.hook_post"
        self.neurons[layer] = _NeuronWrites(point, to_reading, norm)
        terms = [Term(f"L{layer} neuron {n}", "neuron", layer, int(n)) for n in chosen]
        terms.append(Term(f"L{layer} other neurons", "other neurons", layer))

        def read(rows: ByPoint) -> np.ndarray:
            post = rows[point]
            alone = post[:, chosen, None] * to_reading[chosen]
            return np.concatenate([alone, (post @ to_reading - alone.sum(axis=1))[:, None]], axis=1)

        return self._normed(point, terms, read, norm, weights.bias @ pulled, f"L{layer} MLP bias")

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
                out = np.concatenate([out, np.broadcast_to(bias, (len(out), 1, len(bias)))], axis=1)
            if norm is not None:
                out = out / rows[norm.point].reshape(-1, 1, 1)
                if biased:
                    out[:, -1] += after
            return out

        return _Source((point,) if norm is None else (point, norm.point), tuple(terms), scaled)


# Texts taken apart -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Apart:
    """Readings taken apart."""

    terms: tuple[Term, ...]
    """The summands, the intercept not among them."""
    values: Float[np.ndarray, "row term target"]
    """What each gives, in target units."""
    reading: Float[np.ndarray, "row target"]
    """The probe's own reading of the stream, intercept included."""
    source: Int[np.ndarray, " row"]
    """Which text a row comes from."""
    gap: Float[np.ndarray, "row target"]
    """Terms and intercept less the reading."""


@dataclass(frozen=True)
class ProbeReading:
    """A linear reading of a model's residual stream, and how texts are run to take it."""

    model: HookedModel
    """What reads."""
    spec: CaptureSpec
    """Prompt and positions."""
    point: str
    """A hook name of the residual stream."""
    coef: Float[np.ndarray, "d_model target"]
    """Weights."""
    intercept: Float[np.ndarray, " target"]
    """Intercepts."""
    progress: bool | None = None
    """Whether to show a bar; None shows it for many texts."""

    def take_apart(self, texts: Sequence[str], unit: Unit, chosen: NeuronsByLayer | None = None) -> Apart:
        """The terms of the reading in every row of `texts`.

        Raises:
            ValueError: For a point that is no residual stream, missing weights, and as `capture` does.
        """
        writes = _Writes(self.model, self.point, self.coef, unit, chosen)
        values: list[np.ndarray] = []
        readings: list[np.ndarray] = []
        sources: list[np.ndarray] = []

        def take(rows: ByPoint, source: np.ndarray) -> None:
            values.append(writes(rows))
            readings.append(rows[self.point] @ self.coef + self.intercept)
            sources.append(source)

        self._stream(texts, writes.points, take, f"attribute to {unit}s")
        joined, reading = np.concatenate(values), np.concatenate(readings)
        gap = joined.sum(axis=1) + self.intercept - reading
        return Apart(writes.terms, joined, reading, np.concatenate(sources), gap)

    def top_neurons(self, texts: Sequence[str], top: int) -> NeuronsByLayer:
        """The `top` neurons upstream whose writes make the reading vary most, by layer.

        By `|Cov(term, reading)| / Var(reading)`, the largest over targets; below ten rows by the mean of the
        term's absolute value.
        """
        writes = _Writes(self.model, self.point, self.coef, "neuron")
        sums: dict[int, list[np.ndarray]] = {}
        readings: list[np.ndarray] = []

        def take(rows: ByPoint, source: np.ndarray) -> None:  # noqa: ARG001
            reading = rows[self.point] @ self.coef
            readings.append(reading)
            for layer, neurons in writes.neurons.items():
                post = neurons.scaled(rows)
                new = [post.sum(axis=0), np.abs(post).sum(axis=0), post.T @ (reading - readings[0][0])]
                old = sums.get(layer)
                sums[layer] = new if old is None else [a + b for a, b in zip(old, new, strict=True)]

        self._stream(texts, writes.points, take, "choose neurons")
        reading = np.concatenate(readings)
        centred, n = (reading - reading[0]).mean(axis=0), len(reading)
        score: dict[int, np.ndarray] = {}
        for layer, (total, absolute, product) in sums.items():
            covariance = product / n - total[:, None] / n * centred
            if n >= 10:
                size = np.abs(covariance) / np.maximum(reading.var(axis=0), 1e-300)
            else:
                size = np.broadcast_to(absolute[:, None] / n, covariance.shape)
            score[layer] = (size * np.abs(writes.neurons[layer].to_reading)).max(axis=1)
        flat = np.concatenate(list(score.values()))
        floor = np.sort(flat)[-min(top, len(flat))]
        return {layer: np.flatnonzero(s >= floor) for layer, s in score.items()}

    def _stream(
        self,
        texts: Sequence[str],
        points: Sequence[str],
        take: Callable[[ByPoint, Int[np.ndarray, " row"]], None],
        desc: str,
    ) -> None:
        """Read `points` some texts at a time and hand their rows on in float64."""
        width = len(points) * int(self.model.cfg.d_model) * 4  # neurons are four times as wide or so
        at_once = max(32, _CHUNK_VALUES // width)
        quiet = not (self.progress if self.progress is not None else len(texts) > 1000)
        with tqdm(total=len(texts), desc=desc, unit="text", disable=quiet, leave=False) as bar:
            run_in_parts(
                self.model,
                list(texts),
                points,
                lambda part, table: take(
                    {p: values.double().numpy() for p, values in part.items()}, table["source"].to_numpy()
                ),
                at_once,
                bar,
                self.spec,
            )
