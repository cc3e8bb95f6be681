"""Streams texts through the model and takes readings apart, some hundred rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from graticule.hooks.protocols import HookedModel
from graticule.hooks.running.runner import run_in_parts
from graticule.probes.attribution.again import Asked, Unit
from graticule.probes.attribution.writes import ByPoint, Term, Writes

_CHUNK_VALUES = 1 << 25  # activations held at once (128 MiB in float32)


@dataclass(frozen=True)
class Reading:
    """What is read, and where."""

    point: str
    """A hook name of the residual stream."""
    coef: Float[np.ndarray, "d_model target"]
    """Weights."""
    intercept: Float[np.ndarray, " target"]
    """Intercepts."""


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


def take_apart(
    model: HookedModel,
    texts: Sequence[str],
    how: Asked,
    reading: Reading,
    unit: Unit,
    chosen: dict[int, Int[np.ndarray, " neuron"]] | None = None,
    progress: bool | None = None,
) -> Apart:
    """The terms of the reading in every row of `texts`.

    **Raises** `ValueError` as `Writes` and `capture` do.
    """
    writes = Writes(model, reading.point, reading.coef, unit, chosen)
    values: list[np.ndarray] = []
    readings: list[np.ndarray] = []
    sources: list[np.ndarray] = []

    def take(rows: ByPoint, source: np.ndarray) -> None:
        values.append(writes(rows))
        readings.append(rows[reading.point] @ reading.coef + reading.intercept)
        sources.append(source)

    _stream(model, texts, how, writes.points, take, f"attribute to {unit}s", progress)
    joined, read = np.concatenate(values), np.concatenate(readings)
    gap = joined.sum(axis=1) + reading.intercept - read
    return Apart(writes.terms, joined, read, np.concatenate(sources), gap)


def top_neurons(
    model: HookedModel,
    texts: Sequence[str],
    how: Asked,
    reading: Reading,
    top: int,
    progress: bool | None = None,
) -> dict[int, Int[np.ndarray, " neuron"]]:
    """The `top` neurons upstream whose writes make the reading vary most, by layer.

    By `|Cov(term, reading)| / Var(reading)`, the largest over targets; below ten rows by the mean of the
    term's absolute value.
    """
    writes = Writes(model, reading.point, reading.coef, "neuron")
    sums: dict[int, list[np.ndarray]] = {}
    whole: list[np.ndarray] = []

    def take(rows: ByPoint, source: np.ndarray) -> None:  # noqa: ARG001
        read = rows[reading.point] @ reading.coef
        whole.append(read)
        for layer, each in writes.neurons.items():
            post = each.scaled(rows)
            new = [post.sum(axis=0), np.abs(post).sum(axis=0), post.T @ (read - whole[0][0])]
            old = sums.get(layer)
            sums[layer] = new if old is None else [a + b for a, b in zip(old, new, strict=True)]

    _stream(model, texts, how, writes.points, take, "choose neurons", progress)
    read = np.concatenate(whole)
    centred, n = (read - whole[0][0]).mean(axis=0), len(read)
    score: dict[int, np.ndarray] = {}
    for layer, (total, absolute, product) in sums.items():
        covariance = product / n - total[:, None] / n * centred
        if n >= 10:
            size = np.abs(covariance) / np.maximum(read.var(axis=0), 1e-300)
        else:
            size = np.broadcast_to(absolute[:, None] / n, covariance.shape)
        score[layer] = (size * np.abs(writes.neurons[layer].to_reading)).max(axis=1)
    flat = np.concatenate(list(score.values()))
    floor = np.sort(flat)[-min(top, len(flat))]
    return {layer: np.flatnonzero(s >= floor) for layer, s in score.items()}


def _stream(
    model: HookedModel,
    texts: Sequence[str],
    how: Asked,
    points: Sequence[str],
    take: Callable[[ByPoint, Int[np.ndarray, " row"]], None],
    desc: str,
    progress: bool | None,
) -> None:
    """Read `points` some texts at a time and hand their rows on in float64."""
    width = len(points) * int(model.cfg.d_model) * 4  # neurons are some four times as wide as the stream
    step = max(32, _CHUNK_VALUES // width)
    quiet = not (progress if progress is not None else len(texts) > 1000)
    with tqdm(total=len(texts), desc=desc, unit="text", disable=quiet, leave=False) as bar:
        run_in_parts(
            model,
            list(texts),
            points,
            lambda held, table: take(
                {p: values.double().numpy() for p, values in held.items()}, table["source"].to_numpy()
            ),
            step,
            bar,
            pos=how.pos,
            prompt=how.prompt,
            prepend_bos=how.prepend_bos,
            include_bos=how.include_bos,
        )
