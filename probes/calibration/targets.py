"""Synthetic targets: noise, what the text's n-grams say, and what only the activations hold."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from graticule.probes.calibration.components import Answers, Mixture, RidgeAnswerer
from graticule.probes.calibration.instrument import BLOCK_BYTES, PROBE, Instrument
from graticule.probes.scores.metrics import r2

logger = logging.getLogger(__name__)

SHARED_NOISE = 0.5
"""Share of the noise's variance that rows of one cluster have in common."""
_MOST_SURFACE = 0.97
_SMOOTHEST = 3
_FEATURE_CELLS = 1 << 24


def noise(
    clusters: Int[np.ndarray, " row"], count: int, n_train: int, rng: np.random.Generator
) -> Float[np.ndarray, "component row"]:
    """Luck a row; half of its variance is shared by the rows of a cluster, where it has several.

    So rows depend on each other within clusters, as the bootstrap supposes, and not beyond them.
    """
    _, codes, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    values = rng.standard_normal((count, len(codes)))
    several = sizes[codes] > 1
    for own in values:  # one at a time: the same draws in no more memory than the values themselves
        common = rng.standard_normal(len(sizes))[codes]
        mixed = np.sqrt(1 - SHARED_NOISE) * own + np.sqrt(SHARED_NOISE) * common
        own[several] = mixed[several]
    return standard(values, n_train)


def said_by_strings(
    features: Any, count: int, n_train: int, smooth: int, rng: np.random.Generator
) -> Float[np.ndarray, "component row"]:
    """Random linear functions of the n-grams: a normal weight for every column of `features`.

    `smooth` times over, the function is replaced by its regression on the training rows' own products with
    each row, which puts it more into what many texts share and makes it easier to learn.
    """
    weights = rng.standard_normal((features.shape[1], count))
    out = np.empty((count, features.shape[0]))
    step = max(1, _FEATURE_CELLS // max(features.shape))
    for start in range(0, count, step):
        part = slice(start, start + step)
        values = np.asarray(features @ weights[:, part])
        for _ in range(smooth):
            values -= values[:n_train].mean(axis=0)
            values = np.asarray(features @ _products(features, values[:n_train]))
            spread = values.std(axis=0)
            values /= np.where(spread > 0, spread, 1.0)  # texts without a common n-gram say nothing
        out[part] = values.T
    return standard(out, n_train)


def _products(features: Any, values: np.ndarray) -> np.ndarray:
    """Of every feature's training rows with some values."""
    if isinstance(features, RidgeAnswerer):
        return features.along(np.ascontiguousarray(values))
    return features[: len(values)].T @ values


def read_from_activations(
    probe: RidgeAnswerer,
    profile: Float[np.ndarray, " rank"],
    count: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "component row"]:
    """Random linear functions of the activations, spread over their principal axes as `profile` says."""
    weights = profile[:, None] * rng.standard_normal((len(profile), count))
    return standard(np.ascontiguousarray((probe @ weights).T), probe.n_train)


def standard(values: Float[np.ndarray, "component row"], n_train: int) -> Float[np.ndarray, "component row"]:
    """Centred on the training rows, of variance 1 over the test rows, where shares are reckoned; in place."""
    for row in values:
        row -= row[:n_train].mean()
        spread = row[n_train:].std()
        row /= spread if spread > 0 else 1.0
    return values


@dataclass(frozen=True)
class SurfaceTarget:
    """How a surface-only target is mixed so that the baselines reach the score they reach on the real one."""

    share: float
    """Share of the variance that the n-grams decide; the rest is noise."""
    smooth: int
    """How often the random function was smoothed, see `said_by_strings`."""
    score: float
    """R² of the stacked baselines on such targets, in a trial of a few."""


def find_surface(
    instrument: Instrument, features: Any, wanted: float, rng: np.random.Generator, trials: int = 16
) -> SurfaceTarget:
    """The share of n-grams at which the stacked baselines score `wanted` on test rows.

    The plainest functions are tried first; smoother ones where even a target without noise would be too hard
    to learn from these rows. If none is easy enough, the easiest is taken and a warning is logged.
    """
    luck = noise(instrument.clusters, trials, instrument.n_train, rng)
    best = SurfaceTarget(_MOST_SURFACE, 0, float("-inf"))
    for smooth in range(_SMOOTHEST + 1):
        said = said_by_strings(features, trials, instrument.n_train, smooth, rng)
        components = np.concatenate([luck, said])
        held = instrument.answers_that_fit(components, instrument.baselines)

        def reached(
            share: float, held: Mapping[str, Answers] = held, components: np.ndarray = components
        ) -> float:
            mixture = two_parts(trials, share)
            surface = instrument.stacked(components, mixture, probe=False, held=held)["surface"]
            return float(r2(mixture.of(components[:, instrument.n_train :]).T, surface.T).mean())

        most = reached(_MOST_SURFACE)
        if most > best.score:
            best = SurfaceTarget(_MOST_SURFACE, smooth, most)
        if most < wanted:
            continue
        low, high = 0.0, _MOST_SURFACE
        for _ in range(8):
            middle = (low + high) / 2
            low, high = (middle, high) if reached(middle) < wanted else (low, middle)
        share = (low + high) / 2
        return SurfaceTarget(share, smooth, reached(share))
    logger.warning(
        "no random n-gram function is as easy as the real target: R² %.3f of %.3f", best.score, wanted
    )
    return best


def two_parts(count: int, share: float) -> Mixture:
    """Surface-only targets of the components [noise × count, n-grams × count]."""
    columns = np.stack([np.arange(count), count + np.arange(count)], axis=1)
    return Mixture(columns, np.tile(np.sqrt([1 - share, share]), (count, 1)))


def hidden_from(
    instrument: Instrument, raw: Float[np.ndarray, "component row"]
) -> Float[np.ndarray, "component row"]:
    """What the stacked baselines cannot say of some functions of the activations.

    The baselines are fitted to the functions themselves; what they predict, out of fold on training rows, is
    taken off. What is left is nothing they could read, and all of it is of the activations' making.
    """
    n, out = instrument.n_train, np.empty_like(raw)
    step = max(1, BLOCK_BYTES // (8 * instrument.strengths * instrument.rows))
    for start in range(0, len(raw), step):
        part = raw[start : start + step]
        mixture = Mixture(np.arange(len(part))[:, None], np.ones((len(part), 1)))
        said = instrument.chosen(part, mixture, instrument.baselines)
        for t, values in enumerate(part):
            train = np.stack([c.train[t] for c in said.values()], axis=1)
            design = np.concatenate([train, np.ones((n, 1))], axis=1)
            weights = np.linalg.lstsq(design, values[:n], rcond=1e-9)[0]
            test = np.stack([c.test[t] for c in said.values()], axis=1)
            out[start + t, :n] = values[:n] - design @ weights
            out[start + t, n:] = values[n:] - test @ weights[:-1] - weights[-1]
    return standard(out, n)


def reading_profile(
    instrument: Instrument, y_train: Float[np.ndarray, "train target"]
) -> Float[np.ndarray, " rank"]:
    """How strongly the real target's probe reads along each principal axis of the activations."""
    probe = instrument.ridges[PROBE]
    z = (y_train - y_train.mean(axis=0)) / y_train.std(axis=0)
    answers = probe.answers(np.ascontiguousarray(z.T))
    errors = np.array([np.square(z.T - said).sum() for said in answers.train])
    coef = probe.along(z) / (probe.spectrum.eigenvalues + answers.alphas[errors.argmin()])[:, None]
    return np.sqrt(np.square(coef).mean(axis=1))
