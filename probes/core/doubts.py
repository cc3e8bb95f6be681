"""What stands against a verdict: rows and columns that outweigh all others, a fit that is the training mean,
null checks that find something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from graticule.hooks.rows import Rows
from graticule.hooks.streams.base import MAX_NORM
from graticule.probes.core.fit import PointFit, PointRows, Problem
from graticule.probes.core.inputs import SweepInputs
from graticule.probes.core.verdict import (
    AT_MEAN,
    NO_BETTER,
    NOT_DECIDED,
    STRUCTURE,
    Verdict,
    least_seen,
    still,
)
from graticule.probes.linear.rows import chunk_rows_for, chunks
from graticule.probes.surface.fitted import served_by

WIDE_COLUMN = 1e4
"""A column that varies so many times as much as the median one hides the others from every strength tried."""
_SAMPLE = 512


@dataclass(frozen=True)
class Outlying:
    """Rows far from the others, and columns that vary far more than the others."""

    rows: Int[np.ndarray, " outlying"]
    """Numbers of the rows, the farthest first."""
    times: Float[np.ndarray, " outlying"]
    """Their distance from the middle, in distances of the median row."""
    columns: Int[np.ndarray, " wide"]
    """Numbers of the columns, the widest first."""

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return bool(len(self.rows) or len(self.columns))


def outlying(rows: PointRows) -> Outlying:
    """Rows over `MAX_NORM` times as far from the middle as the median row, and columns over `WIDE_COLUMN`.

    The middle is the median of some rows, column by column: a few rows do not move it.

    Args:
        rows: rows of one point.

    Returns:
        What outweighs the others.
    """
    n, width = rows.shape
    some = np.unique(np.linspace(0, n - 1, min(n, _SAMPLE)).astype(np.int64))
    middle = np.median(rows.gather(some).astype(np.float64), axis=0)
    squares, by_column = np.empty(n), np.zeros(width)
    for index in chunks(np.arange(n), chunk_rows_for(width)):
        apart = np.square(rows.gather(index) - middle)
        squares[index] = apart.sum(axis=1)
        by_column += apart.sum(axis=0)
    distance, spread = np.sqrt(squares), np.sqrt(by_column)
    times, wide = (values / _typical(values) for values in (distance, spread))
    return Outlying(*_above(times, MAX_NORM), _above(wide, WIDE_COLUMN)[0])


def _typical(values: Float[np.ndarray, " some"]) -> float:
    """The median; of those above 0 where most are 0."""
    middle = float(np.median(values))
    return middle if middle > 0 else float(np.median(values[values > 0])) if (values > 0).any() else 1.0


def _above(times: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-times, kind="stable")
    order = order[times[order] > limit]
    return order, times[order]


def doubted(
    judged: Verdict,
    checks: Mapping[str, Verdict],
    best: PointFit,
    fits: Sequence[PointFit],
    inputs: SweepInputs,
    lines: Mapping[str, Mapping[str, Any]],
) -> Verdict:
    """The verdict with all that stands against it, and undecided where that is why it says what it says.

    Args:
        judged: the verdict by gain and interval.
        checks: the same with a twin in the probe's place.
        best: the fit at the chosen point.
        fits: the fits at all points.
        inputs: what was swept, and the baselines.
        lines: One entry per baseline, with its point, and of the shuffled targets.

    Returns:
        The same verdict, or one that is not decided, with more warnings.
    """
    of_probe, no_less = _of_probe(judged, best, fits, inputs)
    of_baselines, no_more = _of_baselines(inputs, lines)
    nulls = _nulls(checks, lines.get("shuffled", {}), judged)
    warnings = [*of_probe, *of_baselines, *(f"{null}: a null check must find nothing" for null in nulls)]
    against = {NO_BETTER: no_less, STRUCTURE: [*nulls, *no_more]}.get(judged.label)
    label = f"{NOT_DECIDED}: {against[0]}" if against else judged.label
    return replace(judged, label=label, warnings=(*judged.warnings, *warnings))


def _of_probe(
    judged: Verdict, best: PointFit, fits: Sequence[PointFit], inputs: SweepInputs
) -> tuple[list[str], list[str]]:
    """What to say of the probe, and why it may read less than there is."""
    activations, problem, why = inputs.activations, inputs.problem, list[str]()
    outliers = _at(activations, best)
    warnings = _outlying_said(outliers, best.point, "the probe", problem, activations)
    if best.fit.alpha_at_edge:
        warnings.append(
            f"the chosen strength {best.fit.alpha:.3g} is an end of the strengths tried "
            f"({best.fit.alphas[0]:.3g} to {best.fit.alphas[-1]:.3g}), and a wider grid might do better: "
            "sweep(…, alphas=…)"
        )
    if best.validation <= 0 or still(best.predictions, problem):
        least = least_seen(problem, len(best.fit.coef), judged.metric)
        if outliers.any:
            why.append(f"outliers at {best.point} leave the probe nothing but the training mean")
        elif least >= judged.min_gain:
            why.append(AT_MEAN)
        cause = "" if outliers.any else f"; these rows would show a part of about {least:.2g}"
        warnings.append(
            "out of fold the probe's best fit is no better than the training mean, so that the interval of "
            f"the gain says nothing{cause}"
        )
    for fit in fits:
        if fit is not best and fit.validation <= 0 and (other := _at(activations, fit)).any:
            warnings += _outlying_said(other, fit.point, "the probe", problem, activations)
            why.append(f"outliers at {fit.point} leave the probe nothing but the training mean there")
    return warnings, why


def _of_baselines(inputs: SweepInputs, lines: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """What to say of the baselines, and why they may read less than there is."""
    warnings, why = list[str](), list[str]()
    activations, problem, beside = inputs.activations, inputs.problem, inputs.baseline_predictions
    for name, feature in inputs.baselines.features.items():
        point, served = lines[name]["point"], served_by(feature, activations, problem.source)
        outliers = outlying(PointRows(feature, point, served))
        warnings += _outlying_said(outliers, point, f"the baseline {name}", problem, activations)
        if outliers.any and (lines[name]["validation"] <= 0 or still(beside[name], problem)):
            why.append(f"outliers leave the baseline {name} nothing but the training mean")
    return warnings, why


def _at(activations: Rows, fit: PointFit) -> Outlying:
    return outlying(PointRows(activations, fit.point, np.arange(activations.n_rows)))


def _nulls(checks: Mapping[str, Verdict], shuffled: Mapping[str, Any], judged: Verdict) -> list[str]:
    """Null checks that find something, in words."""
    warnings = [f"{name} also finds structure" for name, check in checks.items() if check.label == STRUCTURE]
    low = shuffled.get("ci95", (float("nan"),))[0]
    if low > 0 and shuffled["test"][judged.metric] >= judged.min_gain:
        warnings.append("shuffled targets are also read")
    return warnings


def _outlying_said(
    outliers: Outlying, point: str, who: str, problem: Problem, activations: Rows
) -> list[str]:
    warnings: list[str] = []
    if len(outliers.rows):
        row = int(outliers.rows[0])
        part = "test" if problem.is_test[row] else "training"
        token = f", token {activations.rows['token'].iloc[row]!r}" if "token" in activations.rows else ""
        warnings.append(
            f"rows over {MAX_NORM:g} times as far from the middle as the median row at {point}: "
            f"{len(outliers.rows)} of {len(problem.y)}, the farthest row {row} ({part}{token}), "
            f"{outliers.times[0]:.3g} times; a few such rows decide what {who} reads: look at them, and "
            "leave them out, activations.select(rows)"
        )
    if len(outliers.columns):
        column = _numbers(outliers.columns)
        warnings.append(
            f"column {column} of {point} varies over {WIDE_COLUMN:g} times as much as the median column: "
            f"strengths that suit it hardly let {who} read the others: divide it by a constant, or leave it "
            "out"
        )
    return warnings


def _numbers(values: Sequence[int] | np.ndarray) -> str:
    return ", ".join(map(str, values[:3])) + (", …" if len(values) > 3 else "")
