"""What confounders say of a target, what is left of a gain without them, which of them reach the probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from graticule.probes.core.among_alike import alike_of_all, alike_of_test
from graticule.probes.core.bits import bits_gained
from graticule.probes.core.crossfit import PENALTY_OF_FOLDS, CrossFit
from graticule.probes.core.fit import PointFit, Predictions, Problem, fit_points, stack
from graticule.probes.core.gates import Gates
from graticule.probes.core.inputs import SweepInputs
from graticule.probes.core.intervals import Estimates, mean_of, mean_r2_estimate
from graticule.probes.core.judge import judge_predictions
from graticule.probes.core.logit_stack import logit_stack, row_bits, shares
from graticule.probes.core.members import bits_saved
from graticule.probes.core.resample import cluster_sums
from graticule.probes.core.verdict import JudgeSettings, Verdict
from graticule.probes.scores.metrics import mean_r2, pearson
from graticule.probes.surface.confounds import CONFOUNDS, additive_confounds
from graticule.probes.surface.fitted import fit_baselines
from graticule.probes.tables.confounders import built_in

MOST = 0.8
"""A confounder that reaches this share of the probe's score by itself may be what is read."""
_LEVELS = 10
_BINS = 5
_FEWEST = 2
"""Training and test rows that a level must have for a gain within it."""
_ROWS = 10
_PROBE = "probe"


@dataclass(frozen=True)
class Confounder:
    """A confounder: how far it goes by itself, how it is shared out, and the gain among rows alike in it."""

    name: str
    """A column of the table, or one computed from the texts."""
    declared: bool
    """Whether it stands in the surface; else it was looked at without being asked for."""
    alone: float
    """What it says of the target by itself, out of fold on training rows, or on all rows where the verdict is
    of all: R², or bits a row."""
    probe: float
    """What the probe says, likewise."""
    gain: float
    """What the probe adds to the surface within its levels; NaN where none has rows enough."""
    low: float
    """The lower end of the gain's 95% interval, over clusters."""
    high: float
    """The upper end."""
    levels: int
    """Levels that the gain is within: words, or ranges of numbers with equally many rows."""
    rows: int
    """Test rows in them."""
    balance: Mapping[str, Mapping[str, float]]
    """Level → class → share of the class's rows; of numbers `mean` → class → mean. Of a numeric target
    `correlation` → target → with the numbers, or of words the root of the share of the variance between
    them."""

    @property
    def reaches(self) -> bool:
        """Whether it goes most of the probe's way by itself."""
        return self.probe > 0 and self.alone >= MOST * self.probe


@dataclass(frozen=True)
class Confounding:
    """A verdict with what confounders say against it."""

    verdict: Verdict
    """With more warnings; not decided where no gain is shown among rows alike in the table's confounders."""
    lines: tuple[Confounder, ...]
    """The table's confounders, then built-in ones that reach most of what the probe reaches."""
    rest: Verdict | None
    """On the target less what the table's confounders predict together, in R²: a ridge at the same point over
    baselines fitted to the same rest; None without confounders."""


def confounding(
    judged: Verdict, gates: Gates, best: PointFit, inputs: SweepInputs, made: CrossFit | None = None
) -> Confounding:
    """Look at every confounder of the table, and at those that are computed from its texts.

    Args:
        judged: The verdict over a surface that the table's confounders stand in.
        gates: What holds for every predictor of these rows.
        best: The fit at the chosen point.
        inputs: What was swept.
        made: What is said of all rows, where the verdict is of all rows.

    Returns:
        The verdict, and what stands beside it.
    """
    declared = tuple(_confounder(n, f, inputs, best, True, made) for n, f in inputs.table.confounds.items())
    lines = (*declared, *_undeclared(inputs, best, made))
    judged = replace(judged, warnings=(*judged.warnings, *_reaching(lines, judged.metric)))
    if made is None:
        judged = alike_of_test(judged, gates, inputs, best)
    else:
        judged = alike_of_all(judged, gates, inputs, made)
    return Confounding(judged, lines, _residualised(inputs, best) if declared else None)


def _undeclared(inputs: SweepInputs, best: PointFit, made: CrossFit | None) -> tuple[Confounder, ...]:
    """Built-in confounders that nobody named and that reach most of what the probe reaches by themselves.

    The place in the table is one only where the probe's own readings follow it among rows of one target: a
    table that is sorted by its target is no matter.

    Args:
        inputs: What was swept.
        best: The fit at the chosen point.
        made: What is said of all rows, where the verdict is of all rows.

    Returns:
        Those that do, the farthest first.
    """
    table, problem = inputs.table, inputs.problem
    if table.texts is None or not _shown(best.predictions, problem):
        return ()
    place = table.source_rows / max(1, int(table.source_rows.max()))
    lines: list[Confounder] = []
    for name, frame in built_in(table.texts, place).items():
        if name in table.confounds:
            continue
        alone = additive_confounds({name: frame}, problem)
        reached, probe = (_score(one, problem, inputs.settings) for one in (alone, best.predictions))
        if reached < MOST * probe or not _shown(alone, problem):
            continue
        if name == "position" and not _read(frame, problem, best):
            continue
        line = _confounder(name, frame, inputs, best, False, made)
        lines += [line] if line.reaches else []
    return tuple(sorted(lines, key=lambda line: -line.alone))


def _reaching(lines: Sequence[Confounder], metric: str) -> list[str]:
    """Warnings: confounders that reach the probe by themselves, of the table and not."""
    out: list[str] = []
    unit = "bits a row" if metric == "bits" else "R²"
    for declared in (True, False):
        ours = [line for line in lines if line.declared == declared and line.reaches]
        if not ours:
            continue
        first, others = ours[0], ", ".join(line.name for line in ours[1:])
        also = f" ({others} nearly as well)" if others else ""
        scores = f"{first.alone:z.3f} {unit} out of fold, the probe {first.probe:z.3f}"
        sentence = f"{first.name} alone{also} reaches {scores}"
        if declared:
            sentence += "; it stands in the surface"
        else:
            sentence += (
                f": what is read may be that; Table(…, confounds=[{first.name!r}]) puts it into the surface"
            )
        out.append(sentence)
    return out


def _score(predictions: Predictions, problem: Problem, settings: JudgeSettings) -> float:
    y = problem.y[problem.train]
    if settings.score == "bits":
        return bits_gained(y, predictions.out_of_fold)
    return mean_r2(y, predictions.out_of_fold)


def _on_all_rows(frames: Mapping[str, pd.DataFrame], problem: Problem, made: CrossFit) -> float:
    """What a confounder says by itself of all rows, each by a fit without its fold."""
    predicted = np.empty_like(made.predictions["mean"])
    for repeat, fold in enumerate(made.fold):
        for k in np.unique(fold):
            part = replace(problem, is_test=fold == k)
            one, y = additive_confounds(frames, part), part.y[part.train]
            values = one.test
            if made.metric == "bits":
                stacked = logit_stack({CONFOUNDS: one.out_of_fold}, y, PENALTY_OF_FOLDS)
                values = stacked.probabilities({CONFOUNDS: one.test})
            predicted[repeat, part.test] = values
    if made.metric == "bits":
        return bits_saved(problem.y, predicted, made.predictions["mean"])
    return float(np.mean([mean_r2(problem.y, values) for values in predicted]))


def _shown(predictions: Predictions, problem: Problem) -> bool:
    """Whether predictions of training rows are better than the mean, beyond luck."""
    y, clusters = problem.y[problem.train], problem.clusters[problem.train]
    sums = cluster_sums(y, {_PROBE: predictions.out_of_fold}, clusters)
    return bool(mean_r2_estimate(sums, _PROBE).low > 0)


def _read(frame: pd.DataFrame, problem: Problem, best: PointFit) -> bool:
    """Whether the probe's readings follow a confounder among training rows of one target."""
    y, readings = problem.y[problem.train], best.fit.out_of_fold
    rest = np.zeros_like(problem.y)
    for target in range(y.shape[1]):
        design = np.column_stack([np.ones(len(y)), y])
        weights = np.linalg.lstsq(design, readings[:, target], rcond=None)[0]
        rest[problem.train, target] = readings[:, target] - design @ weights
    left = Problem(problem.source, rest, problem.is_test, problem.clusters, problem.names)
    return bool(np.ptp(rest) > 0) and _shown(additive_confounds({"place": frame}, left), left)


def _confounder(
    name: str,
    frame: pd.DataFrame,
    inputs: SweepInputs,
    best: PointFit,
    declared: bool,
    made: CrossFit | None,
) -> Confounder:
    problem, settings = inputs.problem, inputs.settings
    column = frame.iloc[problem.source, 0].reset_index(drop=True)
    codes = _levels(column, problem.train)
    within, levels, rows = _within(codes, best.predictions, inputs)
    low, high = within.ci95
    if made is None:
        alone = _score(additive_confounds({name: frame}, problem), problem, settings)
        probe = _score(best.predictions, problem, settings)
    else:
        alone, probe = _on_all_rows({name: frame}, problem, made), made.level(problem, "probe")
    return Confounder(
        name=name,
        declared=declared,
        alone=alone,
        probe=probe,
        gain=float(within.value),
        low=low,
        high=high,
        levels=levels,
        rows=rows,
        balance=_balance(column, inputs),
    )


# Within levels ---------------------------------------------------------------------------------------
def _levels(column: pd.Series, train: Int[np.ndarray, " train"]) -> Int[np.ndarray, " row"]:
    """A level for each row: its word or one of few numbers, or the fifth of training rows that it is in."""
    if not pd.api.types.is_numeric_dtype(column):
        return pd.factorize(column, sort=True)[0].astype(np.int64)
    values = column.to_numpy(np.float64)
    own = values[train][~np.isnan(values[train])]
    if len(np.unique(own)) <= _LEVELS:
        return pd.factorize(values, sort=True, use_na_sentinel=False)[0].astype(np.int64)
    edges = np.unique(np.quantile(own, np.arange(1, _BINS) / _BINS))
    return np.where(np.isnan(values), len(edges) + 1, np.searchsorted(edges, values, "right"))


def _within(
    codes: Int[np.ndarray, " row"], probe: Predictions, inputs: SweepInputs
) -> tuple[Estimates, int, int]:
    """The gain among rows of one level: with numbers, the means of every level taken out of all; with
    classes, stacks that know each level's shares. Both stacks are fitted anew to what is left on training
    rows."""
    problem, members = inputs.problem, {**inputs.baseline_predictions, _PROBE: probe}
    train, test = problem.train, problem.test
    size = int(codes.max()) + 1
    enough = np.bincount(codes[train], minlength=size) >= _FEWEST
    enough &= np.bincount(codes[test], minlength=size) >= _FEWEST
    one, other = np.flatnonzero(enough[codes[train]]), np.flatnonzero(enough[codes[test]])
    count = int(enough.sum())
    if not count or len(other) < _ROWS:
        nothing = np.asarray(np.nan)
        return Estimates(nothing, nothing, np.asarray(1.0)), 0, len(other)
    ours, theirs = codes[train][one], codes[test][other]
    folds = {name: _centred(p.out_of_fold[one], ours) for name, p in members.items()}
    tests = {name: _centred(p.test[other], theirs) for name, p in members.items()}
    y, y_test = problem.y[train][one], problem.y[test][other]
    clusters = problem.clusters[test][other]
    names = list(inputs.baseline_predictions)
    if inputs.settings.score == "bits":
        odds = _level_odds(y, ours, size)
        folds["level"], tests["level"] = odds[ours], odds[theirs]
        spent = [
            row_bits(y_test, logit_stack({n: folds[n] for n in own}, y).probabilities(tests))
            for own in (["level", *names], ["level", *names, _PROBE])
        ]
        return mean_of(spent[0] - spent[1], clusters), count, len(other)
    y, y_test = _centred(y, ours), _centred(y_test, theirs)
    surface = stack({n: folds[n] for n in names}, y).predict(tests, len(other))
    full = stack(folds, y).predict(tests)
    sums = cluster_sums(y_test, {"surface": surface, "full": full}, clusters)
    return mean_r2_estimate(sums, "full", "surface"), count, len(other)


def _centred(values: Float[np.ndarray, "row column"], codes: Int[np.ndarray, " row"]) -> np.ndarray:
    """Values less the mean of their level."""
    counts = np.bincount(codes)
    means = [np.bincount(codes, column) / np.maximum(counts, 1) for column in values.T]
    return values - np.stack(means, axis=1)[codes]


def _level_odds(y: Float[np.ndarray, "row column"], codes: np.ndarray, size: int) -> np.ndarray:
    """Log odds of class 1, or the logarithm of every class's share, in every level's training rows."""
    share = np.tile(shares(y), (size, 1))
    for level in np.unique(codes):
        share[level] = shares(y[codes == level])
    return np.log(share / (1 - share)) if y.shape[1] == 1 else np.log(share)


# The rest of the target ------------------------------------------------------------------------------
def _residualised(inputs: SweepInputs, best: PointFit) -> Verdict:
    problem, member = inputs.problem, inputs.baseline_predictions[CONFOUNDS]
    y = problem.y.copy()
    y[problem.train] -= member.out_of_fold
    y[problem.test] -= member.test
    rest = Problem(problem.source, y, problem.is_test, problem.clusters, problem.names)
    settings = inputs.in_r2.settings
    numbers: dict[str, Any] = {"kind": "numeric", "classes": (), "units": (None,) * y.shape[1]}
    table = inputs.table.derived(**numbers, target_names=problem.names)
    beside, _ = fit_baselines(inputs.baselines, inputs.activations, table, rest, settings, False)
    point = inputs.activations.select(points=best.point)
    (fit,) = fit_points(point, rest, alphas=settings.alphas, progress=False)
    width = len(fit.fit.coef)
    return judge_predictions(
        rest, fit.predictions, beside, settings, model_baselines=inputs.model_baselines, width=width
    )


# Balance ---------------------------------------------------------------------------------------------
def _balance(column: pd.Series, inputs: SweepInputs) -> dict[str, dict[str, float]]:
    table, y = inputs.table, inputs.problem.y
    numeric = pd.api.types.is_numeric_dtype(column)
    if table.kind == "numeric":
        return {"correlation": {n: _related(column, y[:, t]) for t, n in enumerate(table.target_names)}}
    names = table.classes if len(table.classes) >= 2 else ("no", "yes")
    of = (y[:, 0] > 0.5).astype(np.int64) if y.shape[1] == 1 else y.argmax(axis=1)
    if numeric:
        return {"mean": {name: float(column[of == k].mean()) for k, name in enumerate(names)}}
    most = column.value_counts().index[:_LEVELS]
    return {
        str(level): {name: float((column[of == k] == level).mean()) for k, name in enumerate(names)}
        for level in most
    }


def _related(column: pd.Series, y: Float[np.ndarray, " row"]) -> float:
    """The correlation; of words, the root of the share of the variance that lies between them."""
    if pd.api.types.is_numeric_dtype(column):
        values = column.to_numpy(np.float64)
        there = ~np.isnan(values)
        return float(pearson(y[there, None], values[there, None])[0]) if there.any() else float("nan")
    means = pd.Series(y).groupby(column.to_numpy()).transform("mean").to_numpy()
    return float(means.std() / y.std()) if np.ptp(y) > 0 else float("nan")
