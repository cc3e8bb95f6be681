"""Synthetic targets: noise, functions of the text, what only the activations hold, and mixtures."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from graticule.probes.calibration.components import Answers, Mixture, RidgeAnswerer
from graticule.probes.calibration.instrument import BLOCK_BYTES, PROBE, STRINGS, Instrument
from graticule.probes.calibration.marginal import Marginal
from graticule.probes.calibration.oddities import odd_functions
from graticule.probes.calibration.result import HIDDEN, NOISE, ODD, SURFACE
from graticule.probes.core.findings import Findings
from graticule.probes.core.fit import stack
from graticule.probes.scores.metrics import r2

logger = logging.getLogger(__name__)

SHARED_NOISE = 0.5
"""Share of the noise's variance that rows of one cluster have in common."""
_MOST_SURFACE = 0.97
_SMOOTHEST = 3
_FEATURE_CELLS = 1 << 24
_DIRECTIONS = 64
_STRING_BYTES = 1 << 28
_PREDICTED_BYTES = 1 << 30


@dataclass(frozen=True)
class SyntheticTargets:
    """Components of all targets."""

    noise: Float[np.ndarray, "target row"]
    """Independent of everything."""
    strings: Float[np.ndarray, "target row"]
    """What the text says."""
    hidden: Float[np.ndarray, "direction row"]
    """What only the activations hold; target i has part i, counted round."""
    share: float
    """Share of a surface-only target's variance that the n-grams decide."""
    smooth: int
    """How often the n-gram functions were smoothed."""
    odd: Float[np.ndarray, "target row"] | None = None
    """Functions of the text that are not linear in its n-grams; None without texts."""
    marginal: Marginal | None = None
    """The values that targets take; None where the real ones are nearly normal, as the components are."""

    @classmethod
    def of(cls, instrument: Instrument, findings: Findings, count: int, seed: int) -> SyntheticTargets:
        """As `calibrate` describes them."""
        rng = np.random.default_rng([seed, 0])
        n = instrument.n_train
        features = _features(instrument)
        problem, texts = findings.inputs.problem, findings.inputs.table.strings
        marginal = Marginal.of(problem.y)
        linear = 1.0 if marginal is None else marginal.linear
        wanted = float(np.clip(findings.verdict_in_r2.surface / linear, 0.01, 0.95))
        surface = find_surface(instrument, features, wanted, rng)
        noises = noise(instrument.clusters, count, n, rng)
        strings = string_functions(features, count, n, surface.smooth, rng)
        odd = None
        if texts is not None and instrument.strings is not None:
            order = problem.source[np.concatenate([problem.train, problem.test])]
            own = np.random.default_rng([seed, 1])
            odd = standard(odd_functions([texts[i] for i in order], count, own), n)
        profile = reading_profile(instrument, problem.y[problem.train])
        raw = read_from_activations(instrument.ridges[PROBE], profile, min(count, _DIRECTIONS), rng)
        hidden = hidden_from(instrument, raw)
        return cls(noises, strings, hidden, surface.share, surface.smooth, odd, marginal)

    @property
    def own(self) -> tuple[Float[np.ndarray, "target row"], ...]:
        """Components of which each target has one of its own."""
        return (self.noise, self.strings, *(() if self.odd is None else (self.odd,)))

    def reachable(self, gains: Float[np.ndarray, " gain"]) -> Float[np.ndarray, " reached"]:
        """Those gains that a target of these values can have: of a rare class little variance is linear."""
        most = _MOST_SURFACE * (1.0 if self.marginal is None else self.marginal.linear)
        return gains[: max(1, int((gains <= most).sum()))]

    def hidden_of(self, index: Int[np.ndarray, " _"]) -> Int[np.ndarray, " _"]:
        """The hidden parts of the targets `index`, each once."""
        return np.unique(index % len(self.hidden))

    def components(self, index: Int[np.ndarray, " _"]) -> Float[np.ndarray, "component row"]:
        """Noise, functions of the text and hidden parts of the targets `index`."""
        return np.concatenate([*(own[index] for own in self.own), self.hidden[self.hidden_of(index)]])

    def mixtures(
        self, index: Int[np.ndarray, " _"], gains: Float[np.ndarray, " gain"]
    ) -> tuple[Mixture, pd.DataFrame]:
        """Noise, surface-only and hidden targets of these components, and a line for each."""
        count, sets = len(index), len(self.own)
        own = np.arange(count)
        places = sets * count + np.searchsorted(self.hidden_of(index), index % len(self.hidden))
        linear = 1.0 if self.marginal is None else self.marginal.linear
        kinds = [(NOISE, 0.0, 1, (1.0, 0.0, 0.0))]
        if sets > 2:
            kinds.append((ODD, 0.0, 2, (1 - _MOST_SURFACE, _MOST_SURFACE, 0.0)))
        for gain in (0.0, *gains.tolist()):
            part = min(gain / linear, _MOST_SURFACE)
            shares = ((1 - part) * (1 - self.share), (1 - part) * self.share, part)
            kinds.append((HIDDEN if gain else SURFACE, gain, 1, shares))
        columns = [np.stack([own, string * count + own, places], axis=1) for _, _, string, _ in kinds]
        weights = np.repeat(np.sqrt([shares for *_, shares in kinds]), count, axis=0)
        frame = pd.DataFrame(
            {
                "kind": np.repeat([kind for kind, *_ in kinds], count),
                "number": np.tile(index, len(kinds)),
                "true_gain": np.repeat([gain for _, gain, *_ in kinds], count),
            }
        )
        return Mixture(np.concatenate(columns), weights), frame

    def string_answers(self, instrument: Instrument, index: Int[np.ndarray, " _"]) -> Answers | None:
        """TF-IDF's answers to the components of these targets: in one go, as targets share its work."""
        if instrument.strings is None or self.marginal is not None:  # own values are no mixtures
            return None
        return instrument.answers(self.components(index), STRINGS)

    def some_answers(
        self, strings: Answers | None, outer: Int[np.ndarray, " _"], inner: Int[np.ndarray, " _"]
    ) -> Mapping[str, Answers]:
        """Of TF-IDF's answers to the targets `outer` those to `inner`."""
        if strings is None:
            return {}
        places, count, sets = np.searchsorted(outer, inner), len(outer), len(self.own)
        hidden = sets * count + np.searchsorted(self.hidden_of(outer), self.hidden_of(inner))
        parts = [*(i * count + places for i in range(sets)), hidden]
        return {STRINGS: strings.some(np.concatenate(parts))}


Blocks = list[tuple[Int[np.ndarray, " _"], list[Int[np.ndarray, " _"]]]]
"""Targets whose strings are answered together → the blocks of them that are judged together."""


def blocks(instrument: Instrument, synthetic: SyntheticTargets, kinds: int) -> Blocks:
    """All targets, `kinds` mixtures of each, in blocks that stay within their bytes; one if all fit."""
    count, n_hidden = len(synthetic.noise), len(synthetic.hidden)
    rows, predictors = instrument.rows, len(instrument.ridges) + 1
    strengths = 0 if instrument.strings is None else len(instrument.strings.alphas)
    answered = _STRING_BYTES // (4 * max(1, strengths) * rows)
    # predictions of every mixture by every predictor, and the mixtures themselves and in the stacks
    judged = _PREDICTED_BYTES // (8 * kinds * rows * (predictors + 2))
    at_once = min(BLOCK_BYTES // (8 * instrument.strengths * rows), 2 * judged + min(judged, n_hidden))
    if synthetic.marginal is not None:  # every mixture is a component
        at_once = max(3, at_once * 3 // kinds)
    elif synthetic.odd is not None:
        at_once = max(3, at_once * 2 // 3)
    return [
        (outer, _split(outer, n_hidden, int(at_once)))
        for outer in _split(np.arange(count), n_hidden, int(answered))
    ]


def _split(index: Int[np.ndarray, " _"], n_hidden: int, most: int) -> list[Int[np.ndarray, " _"]]:
    """Targets in blocks of at most `most` components, three a target, by the hidden part that they share."""
    part = index % n_hidden
    hidden = np.unique(part)
    if 2 * len(index) + len(hidden) <= most:
        return [index]
    each = max(1, most // (1 + 2 * int(np.bincount(part).max())))
    out: list[Int[np.ndarray, " _"]] = []
    for start in range(0, len(hidden), each):
        shared = index[np.isin(part, hidden[start : start + each])]
        room = max(1, (most - each) // 2)
        out += [shared[i : i + room] for i in range(0, len(shared), room)]
    return out


# Parts -----------------------------------------------------------------------------------------------
def _features(instrument: Instrument) -> Any:
    """What surface-only targets are functions of: n-grams, or else the first captured baseline."""
    if instrument.strings is not None:
        return instrument.strings.ridge.features()
    return instrument.ridges[instrument.baselines[0]]


def noise(
    clusters: Int[np.ndarray, " row"], count: int, n_train: int, rng: np.random.Generator
) -> Float[np.ndarray, "component row"]:
    """Independent noise per row; half its variance is shared within a cluster of several rows.

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


def string_functions(
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
    """As in `string_functions`."""
    score: float
    """R² of the stacked baselines on such targets, in a trial of a few."""


def find_surface(
    instrument: Instrument, features: Any, wanted: float, rng: np.random.Generator, trials: int = 16
) -> SurfaceTarget:
    """The share of n-grams at which the stacked baselines score `wanted` on test rows.

    The plainest functions are tried first; smoother ones where even a target without noise would be too hard
    to learn from these rows. If none is easy enough, the easiest is taken and a warning is logged.
    """
    noises = noise(instrument.clusters, trials, instrument.n_train, rng)
    best = SurfaceTarget(_MOST_SURFACE, 0, float("-inf"))
    for smooth in range(_SMOOTHEST + 1):
        functions = string_functions(features, trials, instrument.n_train, smooth, rng)
        components = np.concatenate([noises, functions])
        answers = instrument.answers_that_fit(components, instrument.baselines)
        reached = partial(_surface_score, instrument, components, answers)
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


def _surface_score(
    instrument: Instrument,
    components: Float[np.ndarray, "component row"],
    answers: Mapping[str, Answers],
    share: float,
) -> float:
    """R² of the stacked baselines on surface-only targets of the components [noises, n-gram functions]."""
    count = len(components) // 2
    columns = np.stack([np.arange(count), count + np.arange(count)], axis=1)
    mixture = Mixture(columns, np.tile(np.sqrt([1 - share, share]), (count, 1)))
    surface = instrument.stacked(components, mixture, probe=False, answers=answers)["surface"]
    return float(r2(mixture.of(components[:, instrument.n_train :]).T, surface.T).mean())


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
        chosen = instrument.chosen(part, mixture, instrument.baselines)
        for t, values in enumerate(part):
            folds = {name: c.train[t][:, None] for name, c in chosen.items()}
            tests = {name: c.test[t][:, None] for name, c in chosen.items()}
            # the verdict's own stack: a left-out row's mean goes against its value, and would say it all
            fit = stack(folds, values[:n, None])
            out[start + t, :n] = values[:n] - fit.predict(folds, n)[:, 0]
            out[start + t, n:] = values[n:] - fit.predict(tests, len(values) - n)[:, 0]
    return standard(out, n)


def reading_profile(
    instrument: Instrument, y_train: Float[np.ndarray, "train target"]
) -> Float[np.ndarray, " rank"]:
    """How strongly the real target's probe reads along each principal axis of the activations."""
    probe = instrument.ridges[PROBE]
    z = (y_train - y_train.mean(axis=0)) / y_train.std(axis=0)
    answers = probe.answers(np.ascontiguousarray(z.T))
    errors = np.array([np.square(z.T - predicted).sum() for predicted in answers.train])
    coef = probe.along(z) / (probe.spectrum.eigenvalues + answers.alphas[errors.argmin()])[:, None]
    return np.sqrt(np.square(coef).mean(axis=1))
