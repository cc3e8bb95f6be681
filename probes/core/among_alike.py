"""Whether a gain is there among rows that are alike in all that was declared to tell the target by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from graticule.probes.core.crossfit import CrossFit, compared
from graticule.probes.core.fit import PointFit
from graticule.probes.core.gates import Gates
from graticule.probes.core.inputs import SweepInputs
from graticule.probes.core.intervals import Estimates, mean_r2_estimate
from graticule.probes.core.labels import BETTER_BY_LITTLE, STRUCTURE
from graticule.probes.core.resample import cluster_sums
from graticule.probes.core.verdict import Verdict
from graticule.probes.surface.confounds import ConfoundPlaces, confound_places

_NEAR = 3
"""Rows that a row is compared with, and all that are as near as these."""
_ALIKE = 1.0
"""Squared distance from which rows are not alike: less than between two words."""
_FEWEST = 10
_LEVEL = 0.9
"""Of the interval that must lie above 0: 5% on that side, beside the verdict's own."""
_AT_ONCE = 1000
"""Rows among which neighbours are looked for."""


@dataclass(frozen=True)
class _Left:
    """What is left of the target and of predictions where the mean of the like is taken out."""

    rows: Int[np.ndarray, " counted"]
    """Rows that have any like."""
    maker: Float[np.ndarray, "counted row"]
    """What takes it out."""

    @property
    def spread(self) -> tuple[float, float]:
        """Of a sum of squares of white noise: its variance, and what it would be if rows were independent."""
        products = self.maker @ self.maker.T
        return float(np.square(products).sum()), float(np.square(np.diagonal(products)).sum())


def alike_of_all(judged: Verdict, gates: Gates, inputs: SweepInputs, made: CrossFit) -> Verdict:
    """A verdict of all rows through gates, the one of rows that are alike in the confounders among them.

    Args:
        judged: by gain and interval.
        gates: What holds whatever the confounders are.
        inputs: What was swept.
        made: What is said of all rows.

    Returns:
        The verdict, with a warning where the gain is not shown among rows that are alike.
    """
    predictions = {name: made.predictions[name].mean(axis=0) for name in ("surface", "full")}
    return _through(judged, gates, inputs, predictions, np.arange(len(inputs.problem.y)), made.widening)


def alike_of_test(judged: Verdict, gates: Gates, inputs: SweepInputs, best: PointFit) -> Verdict:
    """The same of a verdict of the test rows.

    Args:
        judged: by gain and interval.
        gates: What holds whatever the confounders are.
        inputs: What was swept.
        best: The fit at the chosen point.

    Returns:
        The verdict, with a warning where the gain is not shown among rows that are alike.
    """
    fits = (best.point, best.predictions, best.validation, inputs.baseline_predictions)
    predictions = compared(inputs, inputs.problem, *fits).predicted
    return _through(
        judged, gates, inputs, {n: predictions[n] for n in ("surface", "full")}, inputs.problem.test
    )


def _through(
    judged: Verdict,
    gates: Gates,
    inputs: SweepInputs,
    predictions: Mapping[str, Float[np.ndarray, "row target"]],
    rows: Int[np.ndarray, " row"],
    widening: float = 1.0,
) -> Verdict:
    judged = gates.through(judged)
    names = ", ".join(inputs.table.confounds)
    if not names or judged.label not in (STRUCTURE, BETTER_BY_LITTLE):
        return judged
    gain, count = gain_among_alike(inputs, predictions, rows)
    reach, value = widening * float(gain.reach(_LEVEL)), float(gain.value)
    if value > reach:
        return judged
    sentence = f"{count} of {len(rows)} rows have any that are alike in {names}"
    if count >= _FEWEST:
        ends = f"{value - reach:+z.3f}, {value + reach:+z.3f}"
        sentence += f", and among these the gain is {value:+z.3f} R² [{ends}] ({_LEVEL:.0%} interval)"
    why = f"the gain is not shown among rows that are alike in {names}"
    return Gates((why,)).through(replace(judged, warnings=(*judged.warnings, sentence)))


def gain_among_alike(
    inputs: SweepInputs,
    predictions: Mapping[str, Float[np.ndarray, "row target"]],
    rows: Int[np.ndarray, " row"],
) -> tuple[Estimates, int]:
    """What R² gains where the mean over the most alike rows of other clusters is taken out of everything.

    Whatever is a function of the confounders and hardly differs between rows that are alike is gone, from
    the target and from what is said of it. Fits without a row's fold say less of it the more it stands out
    from its like, so that a surface may be worse than nothing here: the gain is over the better of the two.

    Args:
        inputs: What was swept, with confounders.
        predictions: `surface` and `full`, of `rows`.
        rows: Places in the problem.

    Returns:
        The gain, its error widened for rows that share their like; and rows that have any.
    """
    problem = inputs.problem
    where = confound_places(inputs.table.confounds, problem.source, problem.train).at(rows)
    y, clusters = problem.y[rows], problem.clusters[rows]
    left: dict[str, list[np.ndarray]] = {name: [] for name in ("y", *predictions)}
    counted, variances = list[np.ndarray](), np.zeros(2)
    order = np.lexsort(where.values.T[::-1])
    for part in np.array_split(order, -(-len(order) // _AT_ONCE)):
        one = _left(where.at(part), clusters[part])
        counted.append(part[one.rows])
        variances += one.spread
        for name, values in {"y": y, **predictions}.items():
            left[name].append(one.maker @ values[part])
    of = {name: np.concatenate(parts) for name, parts in left.items()}
    inside = np.concatenate(counted)
    if len(inside) < _FEWEST:
        nothing = np.asarray(np.nan)
        return Estimates(nothing, nothing, np.asarray(1.0)), len(inside)
    of["nothing"] = np.zeros_like(of["y"])
    sums = cluster_sums(of.pop("y"), of, clusters[inside])
    gain = min(
        (mean_r2_estimate(sums, "full", less) for less in ("surface", "nothing")), key=lambda one: one.low
    )
    return replace(gain, se=np.asarray(gain.se * np.sqrt(variances[0] / variances[1]))), len(inside)


def _left(where: ConfoundPlaces, clusters: Int[np.ndarray, " row"]) -> _Left:
    apart = where.apart(where)
    apart[clusters[:, None] == clusters] = np.inf
    several = min(_NEAR, len(apart)) - 1
    first, last = np.partition(apart, (0, several), axis=1)[:, [0, several]].T
    near = apart <= np.minimum(last, _ALIKE)[:, None] * (1 + 1e-9) + 1e-12
    counted = np.flatnonzero(first < _ALIKE)
    share = near[counted] / near[counted].sum(axis=1, keepdims=True)
    return _Left(counted, np.eye(len(apart))[counted] - share)
