"""The verdict of a sweep whose every row was tested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from graticule.probes.core.bits import ClassOdds, by_class
from graticule.probes.core.class_scores import ClassScores, class_scores_of
from graticule.probes.core.crossfit import COMPARED, CrossFit, fits_shared
from graticule.probes.core.dealing import ENOUGH_CLUSTERS, Dealing
from graticule.probes.core.fit import Problem
from graticule.probes.core.idle import least_seen
from graticule.probes.core.inputs import SweepInputs
from graticule.probes.core.intervals import r2_estimates
from graticule.probes.core.judge import at_mean
from graticule.probes.core.labels import (
    HARDLY_VARIES,
    MISSING,
    NO_BETTER,
    NO_BETTER_THAN_BEST,
    NO_BETTER_THAN_MEAN,
    STRUCTURE,
    label_of,
    standing,
)
from graticule.probes.core.power import design_effect, design_of_means
from graticule.probes.core.resample import effective_clusters
from graticule.probes.core.selection import unselected_gain
from graticule.probes.core.undecided import MIN_APART, clusters_apart, largest_share
from graticule.probes.core.verdict import Verdict, few_effective
from graticule.probes.scores.significance import score_difference
from graticule.probes.surface.baselines import Baselines
from graticule.probes.tables.table import Table

MIN_CLUSTERS = 10
"""Clusters below which rows are not dealt."""


def crossfit_verdict(made: CrossFit, inputs: SweepInputs, split: Verdict) -> Verdict:
    """The verdict on all rows, in the words of the verdict on one test part.

    Args:
        made: what is said of every row.
        inputs: of the sweep.
        split: the verdict on its own test part.

    Returns:
        The verdict; its interval is over clusters of all rows, widened for folds that share rows.
    """
    problem = inputs.problem
    gain, over = made.score(problem, "full", "surface"), made.score(problem, "full", "mean")
    margin, least = made.score(problem, "probe", "best"), split.min_gain
    surface = made.level(problem, "surface")
    _, sizes = np.unique(problem.clusters, return_counts=True)
    effective = effective_clusters(sizes)
    added, ci95 = float(gain.value), gain.ci95
    label = label_of(added, ci95, least, split.model_baselines)
    if label == STRUCTURE and not (float(over.value) >= least and over.ci95[0] > 0):
        label = NO_BETTER_THAN_MEAN
    alone = made.score(problem, "full", "best")
    if label == STRUCTURE and not (float(alone.value) >= least and alone.ci95[0] > 0):
        label = NO_BETTER_THAN_BEST
    shares = largest_share(problem.y) if made.metric == "r2" else np.zeros(1)
    if label != MISSING:
        label = standing(label, len(problem.y), effective, shares, surface, problem.names)
        apart = clusters_apart(problem.y, problem.clusters, problem.names).values()
        if effective >= MIN_APART and all(n < MIN_APART for n in apart):
            label = HARDLY_VARIES
    se, df = float(gain.se), float(gain.df)
    test = problem.clusters[problem.test]
    judged = replace(
        split,
        score=made.level(problem, "probe"),
        surface=surface,
        gain=added,
        ci95=ci95,
        gain_by_target=_by_target(made, problem),
        margin=float(margin.value),
        margin_ci95=margin.ci95,
        strongest_baseline=Counter(made.strongest).most_common(1)[0][0] if made.strongest else None,
        clusters=len(sizes),
        effective_clusters=effective,
        label=label,
        warnings=few_effective(effective, "rows"),
        se=None if np.isnan(se) else se,
        df=df,
        rows=len(problem.y),
        design=made.widening**2 * _design(made, problem),
        largest_share=float(shares.max()) or None,
        by_rank=None,
        unselected_gain=unselected_gain(added, se, df, least) if label == STRUCTURE else None,
        entropy=float(made.bits(problem.y, "mean").mean()) if made.metric == "bits" else None,
        dealing=Dealing(
            made.repeats,
            made.folds,
            effective_clusters(np.unique(test, return_counts=True)[1]),
            dict(Counter(made.points).most_common()),
        ),
    )
    if label == NO_BETTER and 2 * made.idle >= len(made.points):
        width = max(inputs.activations.widths.values())
        return at_mean(judged, least_seen(problem, width, made.metric))
    return judged


def rows_gained(made: CrossFit, problem: Problem) -> Float[np.ndarray, " row"]:
    """What each row adds to the gain; they add up to it, and have mean 0 where there is none.

    Args:
        made: what is said of every row.
        problem: their targets.

    Returns:
        Bits over the number of rows, or shares of the targets' squares.
    """
    y = problem.y
    if made.metric == "bits":
        return score_difference(made.bits(y, "surface"), made.bits(y, "full")) / len(y)
    total, varied = np.square(y - y.mean(axis=0)).sum(axis=0), np.ptp(y, axis=0) > 0
    squares = {n: np.square(y - made.predictions[n]).mean(axis=0) for n in ("surface", "full")}
    return ((squares["surface"] - squares["full"])[:, varied] / total[varied]).mean(axis=1)


def crossfit_class_scores(made: CrossFit, problem: Problem) -> ClassScores | None:
    """The probe as a classifier of all rows, mean over the dealings; None for numbers.

    Intervals are widened, on the scale of log odds, as the gain's is.

    Args:
        made: what is said of every row.
        problem: their classes.

    Returns:
        The scores.
    """
    if made.metric != "bits":
        return None
    y, parts = problem.y, made.predictions
    each: list[ClassScores] = []
    for r in range(made.repeats):
        surface, full, probe, best, mean = (parts[name][r] for name in COMPARED)
        odds = ClassOdds(surface, full, probe, probe, best, mean, None)
        each.append(class_scores_of(odds, y, y, problem.clusters))
    means = {
        name: float(np.mean([getattr(one, name) for one in each]))
        for name in vars(each[0])
        if not name.endswith("ci95")
    }
    ends = {
        f"{name}_ci95": _widened(means[name], [getattr(one, f"{name}_ci95") for one in each], made.widening)
        for name in ("auroc", "accuracy")
    }
    return replace(each[0], **means, **ends)


def _widened(value: float, ends: Sequence[tuple[float, float]], times: float) -> tuple[float, float]:
    low, high = (float(end) for end in np.mean(ends, axis=0))
    if not 0 < value < 1:
        return low, high
    down, middle, up = (float(np.log(p / (1 - p))) for p in np.clip([low, value, high], 1e-9, 1 - 1e-9))
    out = 1 / (1 + np.exp(-np.array([middle - times * (middle - down), middle + times * (up - middle)])))
    return float(out[0]), float(out[1])


def _by_target(made: CrossFit, problem: Problem) -> dict[str, float]:
    if made.metric == "bits":
        gained = score_difference(made.bits(problem.y, "surface"), made.bits(problem.y, "full"))
        return by_class(gained, problem.y, problem.names)
    values = r2_estimates(made.sums(problem.y, problem.clusters), "full", "surface").value
    return {name: float(value) for name, value in zip(problem.names, values, strict=True)}


def _design(made: CrossFit, problem: Problem) -> float:
    if made.metric == "bits":
        return design_of_means(
            made.bits(problem.y, "surface") - made.bits(problem.y, "full"), problem.clusters
        )
    surface, full = made.predictions["surface"][0], made.predictions["full"][0]
    return design_effect(problem.y - surface, full - surface, problem.clusters)


def to_be_dealt(table: Table, problem: Problem, baselines: Baselines, asked: bool | None) -> bool:
    """Whether every row is tested: where graticule drew the split and its test part is small, or as asked.

    Args:
        table: of a sweep.
        problem: its targets, split and clusters.
        baselines: What the probe stands against.
        asked: as `sweep` was asked; None decides it here.

    Returns:
        False as well where there is nothing to judge: no baselines of the model, or hardly any clusters.
    """
    _, sizes = np.unique(problem.clusters[problem.test], return_counts=True)
    if not baselines.features or len(np.unique(problem.clusters)) < MIN_CLUSTERS:
        return False
    if asked is not None:
        return asked
    few = effective_clusters(sizes) < ENOUGH_CLUSTERS and fits_shared(table, problem)
    return few and table.split_is_drawn
