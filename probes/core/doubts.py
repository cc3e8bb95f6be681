"""What stands against a verdict: cells that outweigh all others, a fit that is the training mean, null checks
that find something, near neighbours across the split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Int

from graticule.hooks.activations import Activations
from graticule.hooks.rows import Rows
from graticule.probes.core.cells import Outlying, absurd_targets, outlying, outlying_said, pulled_in
from graticule.probes.core.copies import near_copies
from graticule.probes.core.fit import PointFit, PointRows, fit_points
from graticule.probes.core.gates import Gates
from graticule.probes.core.idle import least_seen, still
from graticule.probes.core.inputs import SweepInputs
from graticule.probes.core.labels import ALSO_FINDS, ALSO_READ, AT_MEAN, NO_BETTER, NOT_DECIDED, STRUCTURE
from graticule.probes.core.neighbours import WithoutNeighbours, without_neighbours
from graticule.probes.core.stretches import LEAST_SHARE as LEAST_OF_STRETCHES
from graticule.probes.core.stretches import without_stretches
from graticule.probes.core.verdict import R2_GAIN, Verdict
from graticule.probes.linear.rows import chunk_rows_for, chunks
from graticule.probes.surface.serving import features_of
from graticule.probes.tables.tokens import TokenTable

_MOST_POINTS = 3
_MANY_COPIES = 0.1
_MUCH = 0.5
"""A gain that keeps less than this share of itself without the neighbours of every row is told as such."""


def doubted(
    judged: Verdict,
    checks: Mapping[str, Verdict],
    best: PointFit,
    fits: Sequence[PointFit],
    inputs: SweepInputs,
    lines: Mapping[str, Mapping[str, Any]],
) -> tuple[Verdict, Gates]:
    """The verdict with all that stands against it, and undecided where that is why it says what it says.

    Args:
        judged: the verdict by gain and interval.
        checks: the same with a twin in the probe's place.
        best: the fit at the chosen point.
        fits: the fits at all points.
        inputs: what was swept, and the baselines.
        lines: One entry per baseline, with its point, and of the shuffled targets.

    Returns:
        The same verdict, or one that is not decided, with more warnings; and what holds for every other
        predictor of these rows as well.
    """
    odd = absurd_targets(inputs.problem)
    cells = tuple(few for few, _ in odd)
    of_nulls = _nulls(checks, lines.get("shuffled", {}), judged)
    sentences: list[list[str]] = [[sentence for _, sentence in odd]]
    gates = Gates(cells, cells)
    for warnings, more in (
        _of_probe(judged, best, fits, inputs),
        _of_baselines(inputs, lines),
        ([f"{null}: a null check must find nothing" for null in of_nulls], Gates(tuple(of_nulls))),
        _of_gain(judged, best, inputs),
        (near_copies(inputs), Gates()),
    ):
        sentences.append(warnings)
        gates |= more
    own = gates | Gates((), _at_mean(judged, best, inputs))
    if judged.adds_nothing and _idle(best, inputs):
        judged = replace(judged, ci95=(float("nan"), float("nan")))
    warnings = tuple(sentence for part in sentences for sentence in part)
    return own.through(replace(judged, warnings=(*judged.warnings, *warnings))), gates


def _of_probe(
    judged: Verdict, best: PointFit, fits: Sequence[PointFit], inputs: SweepInputs
) -> tuple[list[str], Gates]:
    """What to say of the probe, and why it may read less than there is."""
    activations, problem = inputs.activations, inputs.problem
    outliers = _at(activations, best)
    warnings = outlying_said(outliers, best.point, "the probe", problem, activations)
    at_mean = _idle(best, inputs)
    if best.fit.alpha_at_edge:
        warnings.append(
            f"the chosen strength {best.fit.alpha:.3g} is an end of the strengths tried "
            f"({best.fit.alphas[0]:.3g} to {best.fit.alphas[-1]:.3g}), and a wider grid might do better: "
            "sweep(…, alphas=…)"
        )
    if best.fit.axes_unread and judged.label == NO_BETTER and not outliers.any:
        warnings.append(
            f"{best.fit.axes_unread} of {len(best.fit.coef)} principal axes at {best.point} vary so little "
            f"that the smallest strength tried, {best.fit.alphas[0]:.3g}, shrinks them by over half: a "
            "target that lies there alone is not read; divide wide columns by a constant, or try smaller "
            "strengths, sweep(…, alphas=…)"
        )
    if at_mean:
        least = least_seen(problem, len(best.fit.coef), judged.metric)
        cause = (
            "" if outliers.any else f"; a part below about {least:.2g} would not be learned from these rows"
        )
        warnings.append(
            "out of fold the probe's best fit is no better than the training mean, so that its gain says "
            f"nothing{cause}"
        )
    why, absurd = list[str](), list[str]()
    own = np.arange(activations.n_rows)
    if outliers.any and _hinder(outliers, activations, best.point, own, best.validation, inputs):
        effect = "leave the probe nothing but the training mean" if at_mean else "hinder the probe"
        why.append(f"outliers at {best.point} {effect}")
    if outliers.absurd:
        absurd.append(f"row {outliers.rows[0]} is beyond all measure at {best.point}")
    elsewhere = [
        (fit, other)
        for fit in fits
        if fit is not best and (fit.validation <= 0 or judged.label == NO_BETTER)
        if (other := _at(activations, fit)).any
    ]
    for place, (fit, other) in enumerate(elsewhere):
        if place < _MOST_POINTS:
            warnings += outlying_said(other, fit.point, "the probe", problem, activations)
        if why or not _hinder(other, activations, fit.point, own, fit.validation, inputs):
            continue
        effect = (
            "leave the probe nothing but the training mean" if fit.validation <= 0 else "hinder the probe"
        )
        why.append(f"outliers at {fit.point} {effect} there")
    if (more := len(elsewhere) - _MOST_POINTS) > 0:
        warnings.append(f"outliers at {more} more points, the last {elsewhere[-1][0].point}")
    return warnings, Gates(tuple(absurd), (*why, *absurd))


def _at_mean(judged: Verdict, best: PointFit, inputs: SweepInputs) -> tuple[str, ...]:
    """Why a probe that is the training mean decides nothing, where so few rows would not show more."""
    problem = inputs.problem
    hidden = least_seen(problem, len(best.fit.coef), judged.metric) >= judged.min_gain
    return (AT_MEAN,) if hidden and _idle(best, inputs) else ()


def _idle(best: PointFit, inputs: SweepInputs) -> bool:
    """Whether the probe is the training mean."""
    return best.validation <= 0 or still(best.predictions, inputs.problem)


def _of_baselines(inputs: SweepInputs, lines: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], Gates]:
    """What to say of the baselines, and why they may read less than there is."""
    warnings, why, absurd = list[str](), list[str](), list[str]()
    activations, problem, beside = inputs.activations, inputs.problem, inputs.baseline_predictions
    for name, (feature, served) in features_of(inputs.baselines, activations, problem).items():
        point = lines[name]["point"]
        outliers = outlying(PointRows(feature, point, served))
        warnings += outlying_said(outliers, point, f"the baseline {name}", problem, activations)
        if not outliers.any or not _hinder(
            outliers, feature, point, served, lines[name]["validation"], inputs
        ):
            continue
        if lines[name]["validation"] <= 0 or still(beside[name], problem):
            why.append(f"outliers leave the baseline {name} nothing but the training mean")
        else:
            why.append(f"outliers hinder the baseline {name}")
        if outliers.absurd:
            absurd.append(f"row {outliers.rows[0]} is beyond all measure in the baseline {name}")
    return warnings, Gates((*why, *absurd), tuple(absurd))


def _hinder(
    outliers: Outlying, rows: Rows, point: str, served: np.ndarray, score: float, inputs: SweepInputs
) -> bool:
    """Whether a ridge reads more, out of fold, where outlying rows are pulled in; presumed where that mends
    nothing."""
    values = pulled_in(PointRows(rows, point, served), outliers)
    if values is None:
        return True
    feature = Activations.from_tensors({point: values})
    (fit,) = fit_points(feature, inputs.problem, alphas=inputs.alphas, progress=False)
    return fit.validation - max(score, 0.0) >= R2_GAIN


def _at(activations: Rows, fit: PointFit) -> Outlying:
    return outlying(PointRows(activations, fit.point, np.arange(activations.n_rows)))


def _nulls(checks: Mapping[str, Verdict], shuffled: Mapping[str, Any], judged: Verdict) -> list[str]:
    """Null checks that find something, in words, with what each scores itself."""
    warnings = [
        f"{name} {ALSO_FINDS} (its own gain {check.gain:+z.3f})"
        for name, check in checks.items()
        if check.label == STRUCTURE
    ]
    low = shuffled.get("ci95", (float("nan"),))[0]
    if low > 0 and shuffled["test"][judged.metric] >= judged.min_gain:
        score = shuffled["test"][judged.metric]
        warnings.append(f"shuffled targets {ALSO_READ} (their own score {score:+z.3f})")
    return warnings


# Rows beside a row -----------------------------------------------------------------------------------
def _of_gain(judged: Verdict, best: PointFit, inputs: SweepInputs) -> tuple[list[str], Gates]:
    """What to say of the rows that a claimed gain may rest on."""
    if judged.label == NO_BETTER or judged.label.startswith(NOT_DECIDED):
        return [], Gates()
    beside = (inputs.activations, inputs.problem, best, inputs.baseline_predictions)
    classes = inputs.table.kind != "numeric"
    left = without_neighbours(*beside, classes=classes)
    looks = [_of_copies(best, inputs)]
    if left is None:
        sentence = (
            "whether the gain rests on near neighbours across the split, or on rows next to each other in "
            "the table, was not looked at: too many rows"
        )
        looks.insert(0, ([sentence], Gates()))
    else:
        share = without_stretches(*beside, classes=classes)
        looks = [_of_neighbours(left, inputs), _of_stretches(share), *looks]
    gates = Gates()
    for _, one in looks:
        gates |= one
    part = "" if judged.dealing is None else "on the one held-out part, "
    return [f"{part}{sentence}" for sentences, _ in looks for sentence in sentences], gates


def _of_neighbours(left: WithoutNeighbours, inputs: SweepInputs) -> tuple[list[str], Gates]:
    if not left.share < _MUCH:
        return [], Gates()
    gates = Gates(("the gain rests on near neighbours across the split",) * (left.share < left.least))
    return [_neighbours_said(left, inputs)], gates


def _of_stretches(share: float) -> tuple[list[str], Gates]:
    if not share < LEAST_OF_STRETCHES:
        return [], Gates()
    sentence = (
        f"without the tenth of the table that each test row stands in, {max(share, 0.0):.0%} of the gain is "
        "left, beside what as many other rows take: if rows come one after another (in time, by source), "
        "say which belong together, cluster=, or declare their place, Table(…, confounds=['position'])"
    )
    return [sentence], Gates(("the gain rests on rows that stand next to each other in the table",))


def _of_copies(best: PointFit, inputs: SweepInputs) -> tuple[list[str], Gates]:
    """Of test rows that have the very activations and target of a training row."""
    if isinstance(inputs.table, TokenTable):  # tokens after the same tokens are the same
        return [], Gates()
    problem = inputs.problem
    seen = set(_digests(best, inputs, problem.train))
    of_test = _digests(best, inputs, problem.test)
    copies = [row for row, key in zip(problem.test, of_test, strict=True) if key in seen]
    if len(copies) < _MANY_COPIES * len(problem.test):
        return [], Gates()
    sentence = (
        f"{len(copies)} of {len(problem.test)} test rows have the very activations and target of a training "
        f"row, first row {problem.source[copies[0]]}: leave them out, or say which rows belong together, "
        "cluster="
    )
    return [sentence], Gates(("test rows are copies of training rows",))


def _digests(best: PointFit, inputs: SweepInputs, part: Int[np.ndarray, " row"]) -> Iterator[bytes]:
    """Of activations and target of some rows, few of them held at once."""
    rows = PointRows(inputs.activations, best.point, part)
    for index in chunks(np.arange(len(part)), chunk_rows_for(rows.shape[1])):
        values, y = np.asarray(rows.gather(index)), inputs.problem.y[part[index]]
        for row, target in zip(values, y, strict=True):
            yield hashlib.blake2b(row.tobytes() + target.tobytes(), digest_size=16).digest()


def _neighbours_said(left: WithoutNeighbours, inputs: SweepInputs) -> str:
    sentence = (
        f"of a gain of {left.gain:+z.3f} R², {left.without:+z.3f} is left where each test row is read "
        f"without the {left.neighbours} training rows next to it"
    )
    if len(left.close):
        rows = (int(left.close[0]), int(left.beside[0]))
        names = [f"row {row}" if (text := _text(inputs, row)) is None else repr(text) for row in rows]
        sentence += (
            f": {len(left.close)} of {left.looked_at} test rows have one of nearly the same target next to "
            f"them, first {names[0]} beside {names[1]}"
        )
    return (
        f"{sentence}; if rows belong together, say which with cluster=, a column, or cluster='auto', and let "
        "the split be drawn anew by clusters"
    )


def _text(inputs: SweepInputs, row: int) -> str | None:
    texts = inputs.table.strings
    return None if texts is None else texts[inputs.problem.source[row]]
