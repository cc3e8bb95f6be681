"""`calibrate`: the findings' instrument pointed at targets whose truth is known."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from graticule.hooks.artifact import library_versions
from graticule.hooks.doors import FINDINGS, door
from graticule.probes.applicable import NotApplicable
from graticule.probes.calibration.components import Mixture
from graticule.probes.calibration.coverage import held_aside, resampled
from graticule.probes.calibration.instrument import PROBE, STRINGS, Held, Instrument, joined, some
from graticule.probes.calibration.judging import judge
from graticule.probes.calibration.rates import limit_of_detection, monotone
from graticule.probes.calibration.result import HIDDEN, NOISE, SURFACE, Calibration, tally
from graticule.probes.calibration.targets import (
    find_surface,
    hidden_from,
    noise,
    read_from_activations,
    reading_profile,
    said_by_strings,
)
from graticule.probes.findings import Findings
from graticule.probes.scores.metrics import r2

_log = logging.getLogger(__name__)

GAINS: tuple[float, ...] = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
_DIRECTIONS = 64
_BLOCK_BYTES = 1 << 29


@door(findings=FINDINGS)
def calibrate(
    findings: Findings,
    *,
    targets: int = 200,
    gains: Sequence[float] = GAINS,
    seed: int = 0,
    draws: int | None = None,
    strengths: int = 12,
    string_step: int | None = None,
    progress: bool | None = None,
) -> Calibration:
    """How often would this very verdict be wrong, and how small a gain would it see?

    The findings' own activations (at the chosen point), rows, split, clusters and baselines, with synthetic
    targets in the place of the real one:

    - *noise*: luck a row, half of it shared within clusters of several rows. Nothing is to be found.
    - *surface only*: a random linear function of the text's n-grams plus noise, in such a share that the
      stacked baselines score what they score on the real target. Nothing beyond the string is to be found,
      however well the activations know the string.
    - *hidden*, one for each of `gains`: the surface-only target plus a part that only the activations hold: a
      random linear function of them, less what the baselines predict of it. It is spread over the
      activations' principal axes as the real target's probe reads them, so that it is about as hard to learn
      as what is being claimed.

    Every target goes through the whole instrument: TF-IDF out of fold and every captured baseline at its
    point, each with the strength that this target chooses on training rows, the ridge at the chosen point,
    both stacks, and the paired bootstrap over clusters with the findings' own draws. All of it is linear but
    for the choices, so fits are shared between targets (`components`), and the result is that of `verdict`
    one target at a time.

    The **true gain** is the share of the target's variance over the test rows that the hidden part makes up:
    what a reader who knew it exactly would add to the baselines (`known` in `rates`, which differs by luck
    alone).

    What ridge learns of it from these rows, and so what a verdict measures, is less (`gain` in `rates`),
    often several times less where rows are few. The detection curve is drawn against the true gain: a curve
    must stand on the truth, and the truth is what a verdict of *no better* leaves open. The **limit of
    detection** is printed beside a measured gain and has to be on its scale: it is the mean measured gain at
    the true gain (`limit_true`) whose interval lies above 0 in 80% of the targets. The mean is over all
    targets of that true gain, found or not, so that luck does not select it.

    Each target is one column: a verdict that averages several real targets varies less, so its limit is
    rather lower. `targets` of each kind (and of each gain); `strengths` of the ridge grid, over the
    range in which a sweep tries 24, and every `string_step`-th of TF-IDF's (by default every third; beyond
    5,000 training rows four in all, about the chosen one): fewer are faster.

    Coverage of the interval is measured twice, see `coverage`: with half of the test clusters held aside, and
    with samples of the test clusters taken as the population.

    **Raises** `ValueError` for findings without baselines, without their material, or gains not in (0, 1).
    """
    grid = np.unique(np.asarray(gains, np.float64))
    if not len(grid) or grid[0] <= 0 or grid[-1] >= 1:
        raise ValueError(f"gains={tuple(gains)}: expected shares of the variance, above 0 and below 1")
    if targets < 2:
        raise ValueError(f"targets={targets}: at least 2 of each kind are needed for a rate")
    material = findings.material
    if not findings.baselines.keys() - {"shuffled"}:
        raise NotApplicable("these findings have no baselines: there is no verdict to calibrate")
    draws = material.draws if draws is None else draws
    rows = len(material.problem.y)
    quiet = not (progress if progress is not None else targets * rows > 500_000)
    instrument = Instrument.of(findings, strengths, string_step, quiet)
    made = _Made(instrument, findings, targets, seed)
    lines: list[pd.DataFrame] = []
    blocks = _blocks(instrument, targets, len(made.hidden))
    with tqdm(total=targets, desc="calibrating", unit="target", disable=quiet, leave=False) as bar:
        for number, block in enumerate(blocks):
            lines.append(_judged(instrument, made, block, grid, findings, draws, [seed, number], len(blocks)))
            bar.update(len(block))
    every = pd.concat(lines).sort_values(["kind", "true_gain", "number"], ignore_index=True)
    rates = tally(every)
    hidden = rates[rates["kind"] == HIDDEN]
    counts = hidden["targets"].to_numpy(np.float64)

    def limit(what: str) -> tuple[float, bool]:
        return limit_of_detection(grid, hidden[what].to_numpy(np.float64) / counts, counts)

    seen, at_most = limit("above_0")
    measured = monotone(hidden["gain"].to_numpy(np.float64), counts)
    return Calibration(
        model=findings.model,
        table=findings.table,
        point=findings.chosen_point,
        gain=findings.verdict.gain,
        surface=findings.verdict.surface,
        min_gain=material.min_gain,
        limit_of_detection=float(np.interp(np.log(seen), np.log(grid), measured)),
        limit_true=seen,
        at_most=at_most,
        limit_by_words=limit("structure")[0],
        rates=rates,
        targets=every,
        surface_share=made.share,
        smooth=made.smooth,
        provenance=_provenance(findings, targets, grid, seed, draws, strengths, instrument),
    )


class _Made:
    """Components of all targets, and the answers that are shared by all blocks of them."""

    def __init__(self, instrument: Instrument, findings: Findings, count: int, seed: int) -> None:
        rng = np.random.default_rng([seed, 0])
        n = instrument.n_train
        features = _features(instrument)
        wanted = float(np.clip(findings.verdict.surface, 0.01, 0.95))
        surface = find_surface(instrument, features, wanted, rng)
        self.share, self.smooth = surface.share, surface.smooth
        self.noise = noise(instrument.clusters, count, n, rng)
        self.strings = said_by_strings(features, count, n, surface.smooth, rng)
        problem = findings.material.problem
        profile = reading_profile(instrument, problem.y[problem.train])
        raw = read_from_activations(instrument.ridges[PROBE], profile, min(count, _DIRECTIONS), rng)
        self.hidden = hidden_from(instrument, raw)
        names = (*instrument.baselines, PROBE)
        self.hidden_held = instrument.answers(self.hidden, [n for n in names if n != STRINGS])
        # one factorisation of the strings' products serves all targets, so they are answered in one go
        every = np.concatenate([self.noise, self.strings, self.hidden])
        self.string_held: Held = instrument.answers(every, names[:1] if instrument.strings else ())

    def block(
        self, instrument: Instrument, index: Int[np.ndarray, " _"]
    ) -> tuple[Float[np.ndarray, "component row"], Held]:
        """Noise, n-gram functions and hidden parts for the targets `index`, with all answers to them."""
        both = np.concatenate([self.noise[index], self.strings[index]])
        names = [n for n in (*instrument.baselines, PROBE) if n != STRINGS]
        held = joined([instrument.answers(both, names), self.hidden_held])
        if instrument.strings is not None:
            count = len(self.noise)
            own = np.concatenate([index, count + index, 2 * count + np.arange(len(self.hidden))])
            held |= some(self.string_held, own)
        return np.concatenate([both, self.hidden]), held


def _features(instrument: Instrument) -> Any:
    """What surface-only targets are functions of: n-grams, or else the first captured baseline."""
    if instrument.strings is not None:
        return instrument.strings.ridge.features()
    train, test = instrument.ridges[instrument.baselines[0]].axes()
    return np.concatenate([train, test])


def _blocks(instrument: Instrument, count: int, hidden: int) -> list[Int[np.ndarray, " _"]]:
    """Targets in blocks whose answers fit in half a gigabyte."""
    alphas = max(len(r.alphas) for r in instrument.ridges.values())
    per_component = 8 * alphas * len(instrument.clusters)
    size = max(4, (_BLOCK_BYTES // per_component - hidden) // 2)
    return [np.arange(start, min(start + size, count)) for start in range(0, count, size)]


def _judged(
    instrument: Instrument,
    made: _Made,
    index: Int[np.ndarray, " _"],
    gains: Float[np.ndarray, " gain"],
    findings: Findings,
    draws: int,
    seed: list[int],
    blocks: int,
) -> pd.DataFrame:
    """Verdicts on one block of targets, of every kind and gain."""
    components, held = made.block(instrument, index)
    mixture, frame = _mixtures(index, gains, made.share, len(made.hidden))
    y = mixture.of(components[:, instrument.n_train :])
    stacked = instrument.stacked(held, components, mixture)
    judged = judge(
        y,
        stacked,
        instrument.clusters[instrument.n_train :],
        min_gain=findings.material.min_gain,
        model_baselines=findings.verdict.model_baselines,
        draws=draws,
        seed=findings.material.seed,
    )
    part = mixture.weights[:, 2:] * components[mixture.columns[:, 2], instrument.n_train :]
    known = r2(y.T, (stacked["surface"] + part).T) - r2(y.T, stacked["surface"].T)
    few, own = min(draws, 1000), 100_003 * seed[0] + 101 * seed[1]
    groups = max(1, min(round(40 / blocks), len(index) // 5))
    return frame.assign(
        known=known,
        surface=judged.surface,
        gain=judged.gain,
        low=judged.low,
        high=judged.high,
        words=judged.words,
        covered_aside=held_aside(judged.sums, few, own, groups),
        covered_resampled=resampled(judged.sums, few, own, groups),
    )


def _mixtures(
    index: Int[np.ndarray, " _"], gains: Float[np.ndarray, " gain"], share: float, hidden: int
) -> tuple[Mixture, pd.DataFrame]:
    """Noise, surface-only and hidden targets of the components [noise, n-grams, hidden parts]."""
    count = len(index)
    own = np.arange(count)
    columns = np.stack([own, count + own, 2 * count + index % hidden], axis=1)
    kinds = [(NOISE, 0.0, (1.0, 0.0, 0.0))]
    for gain in (0.0, *gains.tolist()):
        rest = 1 - gain
        kinds.append((HIDDEN if gain else SURFACE, gain, (rest * (1 - share), rest * share, gain)))
    weights = np.repeat(np.sqrt([weights for _, _, weights in kinds]), count, axis=0)
    frame = pd.DataFrame(
        {
            "kind": np.repeat([kind for kind, _, _ in kinds], count),
            "number": np.tile(index, len(kinds)),
            "true_gain": np.repeat([gain for _, gain, _ in kinds], count),
        }
    )
    return Mixture(np.tile(columns, (len(kinds), 1)), weights), frame


def _provenance(
    findings: Findings,
    targets: int,
    gains: Float[np.ndarray, " gain"],
    seed: int,
    draws: int,
    strengths: int,
    instrument: Instrument,
) -> dict[str, Any]:
    strings = instrument.strings
    return {
        "targets": targets,
        "gains": gains.tolist(),
        "seed": seed,
        "draws": draws,
        "ridge_strengths": strengths,
        "string_alphas": None if strings is None else strings.alphas.tolist(),
        "findings": dict(findings.provenance),
        "versions": library_versions(),
    }
