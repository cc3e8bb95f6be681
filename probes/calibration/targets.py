"""Synthetic targets: noise, what the text's n-grams say, and what only the activations hold."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from graticule.probes.calibration.components import Mixture, RidgeAnswerer
from graticule.probes.calibration.instrument import PROBE, Held, Instrument, joined
from graticule.probes.scores.metrics import r2

logger = logging.getLogger(__name__)

SHARED_NOISE = 0.5
"""Share of the noise's variance that rows of one cluster have in common."""
_MOST_SURFACE = 0.97
_SMOOTHEST = 3


def noise(
    clusters: Int[np.ndarray, " row"], count: int, n_train: int, rng: np.random.Generator
) -> Float[np.ndarray, "component row"]:
    """Luck a row; half of its variance is shared by the rows of a cluster, where it has several.

    So rows depend on each other within clusters, as the bootstrap supposes, and not beyond them.
    """
    _, codes, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    own = rng.standard_normal((count, len(codes)))
    common = rng.standard_normal((count, len(sizes)))[:, codes]
    mixed = np.sqrt(1 - SHARED_NOISE) * own + np.sqrt(SHARED_NOISE) * common
    return standard(np.where(sizes[codes] > 1, mixed, own), n_train)


def said_by_strings(
    features: Any, count: int, n_train: int, smooth: int, rng: np.random.Generator
) -> Float[np.ndarray, "component row"]:
    """Random linear functions of the n-grams: a normal weight for every column of `features`.

    `smooth` times over, the function is replaced by its regression on the training rows' own products with
    each row, which puts it more into what many texts share and makes it easier to learn.
    """
    values = np.asarray(features @ rng.standard_normal((features.shape[1], count)))
    for _ in range(smooth):
        values -= values[:n_train].mean(axis=0)
        values = np.asarray(features @ (features[:n_train].T @ values[:n_train]))
        values /= values.std(axis=0)
    return standard(values.T, n_train)


def read_from_activations(
    probe: RidgeAnswerer,
    profile: Float[np.ndarray, " rank"],
    count: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "component row"]:
    """Random linear functions of the activations, spread over their principal axes as `profile` says."""
    train, test = probe.axes()
    weights = profile[:, None] * rng.standard_normal((len(profile), count))
    return standard(np.concatenate([train @ weights, test @ weights]).T, probe.n_train)


def standard(values: Float[np.ndarray, "component row"], n_train: int) -> Float[np.ndarray, "component row"]:
    """Centred on the training rows, of variance 1 over the test rows, where shares are reckoned."""
    values = values - values[:, :n_train].mean(axis=1, keepdims=True)
    spread = values[:, n_train:].std(axis=1, keepdims=True)
    return values / np.where(spread > 0, spread, 1.0)


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
    heard = instrument.answers(luck, instrument.baselines)
    for smooth in range(_SMOOTHEST + 1):
        said = said_by_strings(features, trials, instrument.n_train, smooth, rng)
        held = joined([heard, instrument.answers(said, instrument.baselines)])
        components = np.concatenate([luck, said])

        def reached(share: float, held: Held = held, components: np.ndarray = components) -> float:
            mixture = two_parts(trials, share)
            surface = instrument.stacked(held, components, mixture)["surface"]
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
    mixture = Mixture(np.arange(len(raw))[:, None], np.ones((len(raw), 1)))
    held = instrument.answers(raw, instrument.baselines)
    n = instrument.n_train
    chosen = instrument.chosen(held, raw, mixture)
    said = {name: chosen[name] for name in instrument.baselines}
    out = np.empty_like(raw)
    for t in range(len(raw)):
        train = np.stack([c.train[t] for c in said.values()], axis=1)
        design = np.concatenate([train, np.ones((n, 1))], axis=1)
        weights = np.linalg.lstsq(design, raw[t, :n], rcond=1e-9)[0]
        test = np.stack([c.test[t] for c in said.values()], axis=1)
        out[t, :n] = raw[t, :n] - design @ weights
        out[t, n:] = raw[t, n:] - test @ weights[:-1] - weights[-1]
    return standard(out, n)


def reading_profile(
    instrument: Instrument, y_train: Float[np.ndarray, "train target"]
) -> Float[np.ndarray, " rank"]:
    """How strongly the real target's probe reads along each principal axis of the activations."""
    probe = instrument.ridges[PROBE]
    z = (y_train - y_train.mean(axis=0)) / y_train.std(axis=0)
    answers = probe.answers(np.ascontiguousarray(z.T))
    errors = np.square(z.T - answers.train).sum(axis=(1, 2))
    train, _ = probe.axes()
    values = np.square(train).sum(axis=0)
    coef = (train.T @ z) / (values + answers.alphas[errors.argmin()])[:, None]
    return np.sqrt(np.square(coef).mean(axis=1))
