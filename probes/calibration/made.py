"""All synthetic targets of a calibration: what they are mixed of, and the blocks in which they are judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from graticule.probes.calibration.components import Answers, Mixture
from graticule.probes.calibration.instrument import BLOCK_BYTES, PROBE, STRINGS, Instrument
from graticule.probes.calibration.result import HIDDEN, NOISE, SURFACE
from graticule.probes.calibration.targets import (
    find_surface,
    hidden_from,
    noise,
    read_from_activations,
    reading_profile,
    said_by_strings,
)
from graticule.probes.findings import Findings

_DIRECTIONS = 64
_STRING_BYTES = 1 << 28
_PREDICTED_BYTES = 1 << 30


@dataclass(frozen=True)
class Made:
    """Components of all targets."""

    noise: Float[np.ndarray, "target row"]
    """Luck."""
    strings: Float[np.ndarray, "target row"]
    """What the text says."""
    hidden: Float[np.ndarray, "direction row"]
    """What only the activations hold; target i has part i, counted round."""
    share: float
    """Share of a surface-only target's variance that the n-grams decide."""
    smooth: int
    """How often the n-gram functions were smoothed."""

    @classmethod
    def of(cls, instrument: Instrument, findings: Findings, count: int, seed: int) -> Made:
        """As `calibrate` describes them."""
        rng = np.random.default_rng([seed, 0])
        n = instrument.n_train
        features = _features(instrument)
        wanted = float(np.clip(findings.verdict.surface, 0.01, 0.95))
        surface = find_surface(instrument, features, wanted, rng)
        luck = noise(instrument.clusters, count, n, rng)
        strings = said_by_strings(features, count, n, surface.smooth, rng)
        problem = findings.material.problem
        profile = reading_profile(instrument, problem.y[problem.train])
        raw = read_from_activations(instrument.ridges[PROBE], profile, min(count, _DIRECTIONS), rng)
        return cls(luck, strings, hidden_from(instrument, raw), surface.share, surface.smooth)

    def hidden_of(self, index: Int[np.ndarray, " _"]) -> Int[np.ndarray, " _"]:
        """The hidden parts of the targets `index`, each once."""
        return np.unique(index % len(self.hidden))

    def components(self, index: Int[np.ndarray, " _"]) -> Float[np.ndarray, "component row"]:
        """Noise, n-gram functions and hidden parts of the targets `index`."""
        return np.concatenate([self.noise[index], self.strings[index], self.hidden[self.hidden_of(index)]])

    def mixtures(
        self, index: Int[np.ndarray, " _"], gains: Float[np.ndarray, " gain"]
    ) -> tuple[Mixture, pd.DataFrame]:
        """Noise, surface-only and hidden targets of these components, and a line for each."""
        count = len(index)
        own = np.arange(count)
        places = np.searchsorted(self.hidden_of(index), index % len(self.hidden))
        columns = np.stack([own, count + own, 2 * count + places], axis=1)
        kinds = [(NOISE, 0.0, (1.0, 0.0, 0.0))]
        for gain in (0.0, *gains.tolist()):
            rest = 1 - gain
            kinds.append(
                (HIDDEN if gain else SURFACE, gain, (rest * (1 - self.share), rest * self.share, gain))
            )
        weights = np.repeat(np.sqrt([weights for _, _, weights in kinds]), count, axis=0)
        frame = pd.DataFrame(
            {
                "kind": np.repeat([kind for kind, _, _ in kinds], count),
                "number": np.tile(index, len(kinds)),
                "true_gain": np.repeat([gain for _, gain, _ in kinds], count),
            }
        )
        return Mixture(np.tile(columns, (len(kinds), 1)), weights), frame

    def said_of(self, instrument: Instrument, index: Int[np.ndarray, " _"]) -> Answers | None:
        """What TF-IDF says of the components of these targets: in one go, as targets share its work."""
        if instrument.strings is None:
            return None
        return instrument.answers(self.components(index), STRINGS)

    def some_of(
        self, said: Answers | None, outer: Int[np.ndarray, " _"], inner: Int[np.ndarray, " _"]
    ) -> Mapping[str, Answers]:
        """Of what TF-IDF said of the targets `outer` what it said of `inner`."""
        if said is None:
            return {}
        places, count = np.searchsorted(outer, inner), len(outer)
        hidden = np.searchsorted(self.hidden_of(outer), self.hidden_of(inner))
        return {STRINGS: said.some(np.concatenate([places, count + places, 2 * count + hidden]))}


Blocks = list[tuple[Int[np.ndarray, " _"], list[Int[np.ndarray, " _"]]]]
"""Targets whose strings are answered together → the blocks of them that are judged together."""


def blocks(instrument: Instrument, made: Made, kinds: int) -> Blocks:
    """All targets, in blocks that stay within their bytes; one block of one where they fit.

    Args:
        instrument: what judges them.
        made: the targets.
        kinds: mixtures of each target.

    Returns:
        Blocks within blocks.
    """
    count, n_hidden = len(made.noise), len(made.hidden)
    rows, predictors = instrument.rows, len(instrument.ridges) + 1
    strengths = 0 if instrument.strings is None else len(instrument.strings.alphas)
    answered = _STRING_BYTES // (4 * max(1, strengths) * rows)
    # predictions of every mixture by every predictor, and the mixtures themselves and in the stacks
    judged = _PREDICTED_BYTES // (8 * kinds * rows * (predictors + 2))
    at_once = min(BLOCK_BYTES // (8 * instrument.strengths * rows), 2 * judged + min(judged, n_hidden))
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


def _features(instrument: Instrument) -> Any:
    """What surface-only targets are functions of: n-grams, or else the first captured baseline."""
    if instrument.strings is not None:
        return instrument.strings.ridge.features()
    return instrument.ridges[instrument.baselines[0]]
