"""`calibrate`: the findings' instrument pointed at targets whose truth is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Int
from tqdm.auto import tqdm

from graticule.hooks.artifact import library_versions
from graticule.hooks.calls import renamed
from graticule.hooks.doors import FINDINGS, door
from graticule.hooks.messages import NotApplicable
from graticule.probes.calibration.components import Answers
from graticule.probes.calibration.in_bits import judge_bits, known_bits
from graticule.probes.calibration.instrument import Instrument
from graticule.probes.calibration.judging import (
    Judged,
    held_aside,
    judge_many,
    limit_of_detection,
    monotone,
    resampled,
)
from graticule.probes.calibration.marginal import known_gain, own_values
from graticule.probes.calibration.result import HIDDEN, ODD, Calibration, put_under, tally
from graticule.probes.calibration.suspects import MOST_SUSPECTS
from graticule.probes.calibration.targets import SyntheticTargets, blocks
from graticule.probes.core.findings import Findings
from graticule.probes.core.findings_figures import rows_tested
from graticule.probes.scores.metrics import count_of, r2

MIN_CLUSTERS = 5
"""Clusters of test rows below which half of them say nothing."""
GAINS: tuple[float, ...] = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7)


@renamed(draws="n_bootstrap")
@door(findings=FINDINGS)
def calibrate(
    findings: Findings,
    *,
    targets: int = 200,
    gains: Sequence[float] = GAINS,
    seed: int = 0,
    n_bootstrap: int | None = None,
    strengths: int = 12,
    string_step: int | None = None,
    boosting: Literal["suspects", "all", "none"] = "suspects",
    progress: bool | None = None,
) -> Calibration:
    """How often would this very verdict be wrong, and how small a gain would it see?

    The findings' own activations (at the chosen point), rows, split, clusters and baselines, with synthetic
    targets in the place of the real one:

    - *noise*: independent noise per row; half its variance is shared within a cluster of several rows.
      Nothing is to be found.
    - *surface only*: a random linear function of the text's n-grams plus noise, in such a share that the
      stacked baselines score what they score on the real target. Nothing beyond the string is to be found,
      however well the activations know the string.
    - *nonlinear strings*: a random function of the text that is not linear in its n-grams (counts, ranks and
      lengths, multiplied, compared, bent or cut; `oddities`), and hardly any noise. Nothing is to be found.
    - *hidden*, one for each of `gains`: the surface-only target plus a part that only the activations hold: a
      random linear function of them, less what the baselines predict of it. It is spread over the
      activations' principal axes as the real target's probe reads them, so that it is about as hard to learn
      as what is being claimed.

    Where the real target is far from normal (yes or no, classes, counts, heavy tails), synthetic ones take
    its own values, by rank: as rare, as many alike, as far out. Gains are shares of *their* variance; of a
    rare class only a part can be linear in anything, and gains beyond it are left out.

    Every target goes through the whole instrument: TF-IDF out of fold and every captured baseline at its
    point, each with the strength that this target chooses on training rows, the ridge at the chosen point,
    both stacks, and the interval of the gain over clusters. All of it is linear but
    for the choices, so fits are shared between targets (`components`), and the result is that of `verdict`
    one target at a time. Boosted trees are not linear: they are fitted to targets that hold nothing and whose
    interval lies above 0 without them (`MOST_SUSPECTS` at most). Since they only add to the surface, the
    other verdicts stand, and rates of false findings are at most too high.

    The **true gain** is the share of the target's variance over the test rows that the hidden part makes up:
    what a reader who knew it exactly would add to the baselines (`known` in `rates`, which differs by chance
    alone).

    What ridge learns of it from these rows, and so what a verdict measures, is less (`gain` in `rates`),
    often several times less where rows are few. The detection curve is drawn against the true gain: a curve
    must stand on the truth, and the truth is what a verdict of *no better* leaves open. The **limit of
    detection** is printed beside a measured gain and has to be on its scale: it is the mean measured gain at
    the true gain (`limit_true`) whose interval lies above 0 in 80% of the targets. The mean is over all
    targets of that true gain, found or not, so that chance does not select it.

    Each target is one column: a verdict that averages several real targets varies less, so its limit is
    rather lower.

    Targets go through the instrument in blocks, so that beside themselves (two numbers per row and target)
    they need a memory that does not grow with them: about 2 GiB at 200,000 rows. Coverage is drawn block by
    block; all else is what one block of all targets would give.

    Coverage of the interval is measured twice: with half of the test clusters held aside, and with samples
    of the test clusters taken as the population.

    From then on the limit stands under the findings' own verdict (`findings.summary()`; save them again to
    keep it with them).

    Args:
        findings: Findings with their inputs, as a sweep or `with_inputs` returns them.
        targets: how many of each kind, and of each gain.
        gains: true gains, as shares of the target's variance.
        seed: The seed of the targets.
        n_bootstrap: Recorded; the interval of the gain needs no resamples.
        strengths: of the ridge grid, over the range in which a sweep tries 24; fewer are faster.
        string_step: every so many of TF-IDF's strengths are tried; by default every third, and beyond 5,000
            training rows four in all, about the chosen one.
        boosting: which targets boosted trees are fitted to: false findings alone, all targets, which takes a
            second or more for each, or none.
        progress: whether a bar is drawn; by default where it takes long.

    Returns:
        Rates of detection and of false findings, coverage, and the limit of detection.

    Raises:
        ValueError: Findings without baselines, without their inputs, with fewer than `MIN_CLUSTERS`
            clusters of test rows, or gains not in (0, 1).
    """
    grid = np.unique(np.asarray(gains, np.float64))
    if not len(grid) or not ((grid > 0) & (grid < 1)).all():
        raise ValueError(f"gains={tuple(gains)}: expected shares of the variance, above 0 and below 1")
    if targets < 2:
        raise ValueError(f"targets={targets}: at least 2 of each kind are needed for a rate")
    swept, verdict = findings.inputs, findings.verdict_of_split
    bits = verdict.metric == "bits"
    if not findings.baselines.keys() - {"shuffled"}:
        raise NotApplicable("these findings have no baselines: there is no verdict to calibrate")
    _check_enough(len(np.unique(swept.problem.clusters[swept.problem.test])))
    n_bootstrap = swept.n_bootstrap if n_bootstrap is None else n_bootstrap
    rows = len(swept.problem.y)
    quiet = not (progress if progress is not None else targets * rows > 500_000)
    instrument = Instrument.of(findings, strengths, string_step, quiet)
    synthetic = SyntheticTargets.of(instrument, findings, targets, seed)
    grid = synthetic.reachable(grid)
    parts = blocks(instrument, synthetic, kinds=3 + len(grid))
    count = sum(len(inner) for _, inner in parts)
    verdicts: list[pd.DataFrame] = []
    refitted = 0

    def add_verdicts(index: Int[np.ndarray, " _"], answers: Mapping[str, Answers]) -> None:
        """On one of `count` blocks of targets, of every kind and gain."""
        nonlocal refitted
        components = synthetic.components(index)
        mixture, frame = synthetic.mixtures(index, grid)
        part = mixture.weights[:, 2:] * components[mixture.columns[:, 2], instrument.n_train :]
        numbers = frame["number"].to_numpy(np.int64)
        of_text = (frame["kind"] == ODD).to_numpy()
        components, mixture = own_values(
            synthetic.marginal, components, mixture, numbers, of_text, instrument.n_train
        )
        whole = mixture.of(components)
        y, means = whole[:, instrument.n_train :], whole[:, : instrument.n_train].mean(axis=1)

        def judged_by(stacked: Mapping[str, np.ndarray], some: np.ndarray | slice) -> Judged:
            if bits:
                return judge_bits(
                    whole[some, : instrument.n_train],
                    y[some],
                    stacked,
                    instrument.clusters[instrument.n_train :],
                    min_gain=swept.settings.min_gain,
                    model_baselines=verdict.model_baselines,
                )
            return judge_many(
                y[some],
                stacked,
                instrument.clusters[instrument.n_train :],
                min_gain=swept.min_gain,
                model_baselines=verdict.model_baselines,
                means=means[some],
            )

        every_tree = boosting == "all"
        stacked = instrument.stacked(components, mixture, answers=answers, trees=every_tree, bits=bits)
        judged = judged_by(stacked, slice(None))
        if boosting == "suspects" and instrument.trees is not None:
            null = (frame["kind"] != HIDDEN).to_numpy()
            some = np.flatnonzero(null & (judged.low > 0))[: MOST_SUSPECTS - refitted]
            if len(some):
                again = instrument.stacked(components, mixture[some], answers=answers, trees=True, bits=bits)
                judged = judged.replaced(some, judged_by(again, some))
                refitted += len(some)
        surface = stacked["surface"]
        if bits:
            true_gain = known_bits(y, surface, part)
        elif synthetic.marginal is None:
            true_gain = r2(y.T, (surface + part).T) - r2(y.T, surface.T)
        else:
            true_gain = known_gain(y, surface, part)
        own = 100_003 * seed + 101 * len(verdicts)
        groups = max(1, min(round(40 / count), len(index) // 5))
        verdicts.append(
            frame.assign(
                known=true_gain,
                surface=judged.surface,
                gain=judged.gain,
                low=judged.low,
                high=judged.high,
                words=judged.words,
                covered_aside=held_aside(judged.sums, own, groups),
                covered_resampled=resampled(judged.sums, own, groups),
            )
        )

    with tqdm(total=targets, desc="calibrating", unit="target", disable=quiet, leave=False) as bar:
        for outer, inner in parts:
            strings = synthetic.string_answers(instrument, outer)
            for block in inner:
                add_verdicts(block, synthetic.some_answers(strings, outer, block))
                bar.update(len(block))
    every = pd.concat(verdicts).sort_values(["kind", "true_gain", "number"], ignore_index=True)
    rates = tally(every)
    hidden = rates[rates["kind"] == HIDDEN]
    counts = hidden["targets"].to_numpy(np.float64)

    def limit(what: str) -> tuple[float, bool]:
        return limit_of_detection(grid, hidden[what].to_numpy(np.float64) / counts, counts)

    seen, at_most = limit("above_0")
    measured = monotone(hidden["gain"].to_numpy(np.float64), counts)
    calibration = Calibration(
        model=findings.model,
        table=findings.table,
        point=findings.chosen_point,
        gain=verdict.gain,
        surface=verdict.surface,
        min_gain=swept.min_gain,
        metric=verdict.metric,
        classes=len(findings.classes),
        tested=rows_tested(findings),
        limit_of_detection=float(np.interp(np.log(seen), np.log(grid), measured)),
        limit_true=seen,
        at_most=at_most,
        limit_by_words=limit("structure")[0],
        rates=rates,
        targets=every,
        surface_share=synthetic.share,
        smooth=synthetic.smooth,
        provenance={
            "targets": targets,
            "gains": grid.tolist(),
            "seed": seed,
            "draws": n_bootstrap,
            "ridge_strengths": strengths,
            "own_values": synthetic.marginal is not None,
            "trees": {"fitted_to": boosting, "suspects": refitted},
            "string_alphas": None if instrument.strings is None else instrument.strings.alphas.tolist(),
            "findings": dict(findings.provenance),
            "versions": library_versions(),
        },
    )
    put_under(findings, calibration)
    return calibration


def _check_enough(clusters: int) -> None:
    """Raises:
    NotApplicable: Where intervals of half of the test rows would say nothing.
    """
    if clusters < MIN_CLUSTERS:
        raise NotApplicable(
            f"calibrate: the test rows make {count_of(clusters, 'cluster')} of dependent rows, at least "
            f"{MIN_CLUSTERS} are needed (one held-out part is calibrated, also of a verdict on all rows): "
            "give more rows, or a larger part, Table(…, test_size=)"
        )
