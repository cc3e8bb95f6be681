"""Every row tested once a repeat: predictions by repeated cross-fitting over whole clusters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from graticule.hooks.messages import bar
from graticule.hooks.rows import Rows
from graticule.probes.core.bits import bits_gained, class_odds
from graticule.probes.core.choice import choose_point, chosen_place
from graticule.probes.core.fit import PointRows, Predictions, Problem, fit_points, with_and_without
from graticule.probes.core.inputs import SweepInputs
from graticule.probes.core.intervals import Estimates, mean_of, mean_r2_estimate
from graticule.probes.core.logit_stack import PENALTY, row_bits
from graticule.probes.core.members import Part, members_of
from graticule.probes.core.resample import ClusterSums, cluster_sums
from graticule.probes.linear.left_out import PartFit, fits_without, row_products_of
from graticule.probes.linear.rows import ArrayRows
from graticule.probes.linear.strengths import rounding_of
from graticule.probes.scores.metrics import mean_r2
from graticule.probes.surface.confounds import CONFOUNDS, confound_trees, fit_confounds
from graticule.probes.surface.fitted import fit_baselines, with_bits
from graticule.probes.surface.joint import JOINT, joint_rows
from graticule.probes.surface.serving import features_of
from graticule.probes.surface.string_ridge import ALPHAS
from graticule.probes.surface.strings import SPELLING, TFIDF, TREES, StringReader
from graticule.probes.surface.trees import boosted_without
from graticule.probes.tables.groups import group_folds
from graticule.probes.tables.table import Table
from graticule.probes.tables.tokens import TokenTable

COMPARED = ("surface", "full", "probe", "best", "mean")
"""Both stacks, the probe alone, the best baseline alone, and the training mean (of classes, their shares)."""
MOST_ROWS = 1000
"""Rows up to which fits share one eigendecomposition a layer; of more, each fold is fitted by itself."""
_SEVERAL = 4
PENALTY_OF_FOLDS = 2.0
"""Of logistic stacks in folds, several times the usual: log odds that few rows make too sure vary much more
from row to row, and gain hardly more bits."""


@dataclass(frozen=True)
class CrossFit:
    """What is said of every row by fits that have not seen its fold: layer, strengths and stacks."""

    predictions: Mapping[str, Float[np.ndarray, "repeat row target"]]
    """Predictor (`COMPARED`) → the target's values, or in bits the classes' probabilities."""
    points: tuple[str, ...]
    """The point chosen in every fold of every repeat."""
    folds: int
    """Parts that each repeat is cut into."""
    metric: str
    """`r2` or `bits`."""
    idle: int = 0
    """Folds in which the probe was the training mean."""
    strongest: tuple[str, ...] = ()
    """The strongest baseline of every fold on its training rows, out of fold; empty where there is none."""
    members: Mapping[Part, Float[np.ndarray, "repeat row target"]] = field(default_factory=dict)
    """What each baseline says by itself, and the stack without it (`members_of`)."""
    fold: Int[np.ndarray, "repeat row"] = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    """The part that each row was dealt into."""

    @property
    def repeats(self) -> int:
        """How often all rows were dealt into folds anew."""
        return len(self.predictions["full"])

    @property
    def widening(self) -> float:
        """What a standard error that takes the folds for independent is multiplied by."""
        return widening_of(self.folds)

    def score(self, problem: Problem, first: str, second: str) -> Estimates:
        """What one predictor scores more than another on all rows: R², or bits a row.

        Args:
            problem: Targets and clusters.
            first: One of `COMPARED`.
            second: What is subtracted.

        Returns:
            The difference, mean of the repeats, with its widened standard error.
        """
        if self.metric == "bits":
            of = {name: self.bits(problem.y, name) for name in (first, second)}
            made = mean_of(of[second] - of[first], problem.clusters)
        else:
            made = mean_r2_estimate(self.sums(problem.y, problem.clusters), first, second)
        return replace(made, se=np.asarray(self.widening * made.se))

    def level(self, problem: Problem, name: str) -> float:
        """What a predictor reaches by itself: R² of all rows, or the bits a row that it saves."""
        if self.metric == "bits":
            return float(self.score(problem, name, "mean").value)
        return float(mean_r2_estimate(self.sums(problem.y, problem.clusters), name).value)

    def bits(self, y: Float[np.ndarray, "row column"], name: str) -> Float[np.ndarray, " row"]:
        """−log₂ of the probability of each row's class, mean of the repeats."""
        return np.mean([row_bits(y, one) for one in self.predictions[name]], axis=0)

    def sums(self, y: Float[np.ndarray, "row target"], clusters: Int[np.ndarray, " row"]) -> ClusterSums:
        """Squared errors by cluster, mean of the repeats."""
        each = [
            cluster_sums(y, {name: values[r] for name, values in self.predictions.items()}, clusters)
            for r in range(self.repeats)
        ]
        return replace(each[0], sse=np.mean([one.sse for one in each], axis=0))


def widening_of(folds: int) -> float:
    """By what the standard error of so many folds is wider than if they were independent.

    Fits of two folds share most of their rows, so their errors rise and fall together: with n rows tested for
    n(K − 1)/K learned from, the variance is 1 + K/(K − 1) times what the rows show (Nadeau & Bengio, Machine
    Learning 2003): 1.5 for five folds.

    Args:
        folds: K.

    Returns:
        A factor.
    """
    return float(np.sqrt(1 + folds / (folds - 1)))


def repeats_for(targets: int) -> int:
    """How often rows are dealt anew by default: twice, but once where many targets each have their trees."""
    return 1 if targets > _SEVERAL else 2


def fits_shared(table: Table, problem: Problem) -> bool:
    """Whether folds can share fits: rows are few, and no reader of tokens stands in the surface."""
    return len(problem.y) <= MOST_ROWS and not isinstance(table, TokenTable)


def cross_fitted(
    inputs: SweepInputs,
    *,
    n_folds: int = 5,
    n_repeats: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> CrossFit:
    """Predict every row by fits that have not seen its fold.

    In each fold all that a sweep does on its training rows is done on the rows outside the fold: strengths
    and layer are chosen, baselines fitted, stacks fitted on out-of-fold predictions.

    Args:
        inputs: of a sweep; its split is not looked at.
        n_folds: Parts, of whole clusters; no more than clusters.
        n_repeats: How often the clusters are dealt anew; by default `repeats_for` the targets.
        seed: Of the dealing.
        progress: Whether a bar is drawn.

    Returns:
        Predictions of every row, in every repeat.
    """
    problem = inputs.problem
    parts = min(n_folds, len(np.unique(problem.clusters)))
    count = repeats_for(problem.y.shape[1]) if n_repeats is None else n_repeats
    folds = [group_folds(problem.clusters, parts, 7919 * seed + repeat) for repeat in range(count)]
    out = {name: np.empty((count, *problem.y.shape)) for name in COMPARED}
    done: list[Fold] = []
    members: dict[Part, np.ndarray] = {}
    shared = _SharedFits(inputs, folds, progress) if fits_shared(inputs.table, problem) else None
    with bar(count * parts, "cross_fit", "fold", progress) as advance:
        for repeat, fold in enumerate(folds):
            for k in range(parts):
                part = replace(problem, is_test=fold == k)
                done.append(
                    one_fold(inputs, part)
                    if shared is None
                    else _stacked(inputs, part, *shared.of(repeat, k))
                )
                for name, values in done[-1].predicted.items():
                    out[name][repeat, part.test] = values
                for name, values in done[-1].members.items():
                    members.setdefault(name, np.empty((count, *problem.y.shape)))[repeat, part.test] = values
                advance.update()
    return CrossFit(
        out,
        tuple(one.point for one in done),
        parts,
        inputs.settings.score,
        sum(one.still for one in done),
        tuple(one.strongest for one in done if one.strongest),
        members,
        np.stack(folds),
    )


@dataclass(frozen=True)
class Fold:
    """What is said of the rows of a fold."""

    point: str
    """The one chosen."""
    predicted: dict[str, Float[np.ndarray, "test target"]]
    """Predictor (`COMPARED`) → what it says."""
    still: bool
    """Whether the probe is the training mean."""
    strongest: str
    """The strongest baseline on training rows, out of fold; empty without any."""
    members: Mapping[Part, Float[np.ndarray, "test target"]] = field(default_factory=dict)
    """Of `members_of`."""


def one_fold(inputs: SweepInputs, problem: Problem) -> Fold:
    """A fold by fits of its own."""
    settings, activations = inputs.settings, inputs.activations
    fits = with_bits(
        fit_points(activations, problem, alphas=settings.alphas, progress=False), problem, settings
    )
    beside = fit_baselines(inputs.baselines, activations, inputs.table, problem, settings, False)[0]
    best = choose_point(fits, beside, problem, inputs.model_baselines, settings.score).best
    return _with_members(inputs, problem, best.point, best.predictions, best.validation, beside)


def _stacked(
    inputs: SweepInputs,
    problem: Problem,
    fits: Mapping[str, Mapping[str, PartFit]],
    trees: Mapping[str, Predictions],
) -> Fold:
    """A fold by fits that all folds share."""
    y = problem.y[problem.train]
    own = {name: [_own_score(inputs, y, one) for one in of.values()] for name, of in fits.items()}
    beside: dict[str, Predictions] = {}
    for name, of in fits.items():
        if name != "probe":
            best = list(of.values())[int(np.argmax(own[name]))]
            beside[name] = Predictions(best.out_of_fold, best.test)
        if name == SPELLING and TREES in trees:
            beside[TREES] = trees[TREES]
    if CONFOUNDS in trees:
        beside[CONFOUNDS] = fit_confounds(inputs.table.confounds, problem, trees[CONFOUNDS])[0]
    points, probes = list(fits["probe"]), list(fits["probe"].values())
    place = chosen_place(
        [one.out_of_fold for one in probes],
        own["probe"],
        [one.out_of_fold for one in beside.values()],
        y,
        problem.clusters[problem.train],
        inputs.settings.score,
    )[0]
    best = probes[place]
    predictions = Predictions(best.out_of_fold, best.test)
    return _with_members(inputs, problem, points[place], predictions, best.validation, beside)


def _with_members(
    inputs: SweepInputs,
    problem: Problem,
    point: str,
    probe: Predictions,
    validation: float,
    beside: Mapping[str, Predictions],
) -> Fold:
    made = compared(inputs, problem, point, probe, validation, beside, PENALTY_OF_FOLDS)
    penalty = PENALTY_OF_FOLDS if inputs.settings.score == "bits" else None
    return replace(made, members=members_of(problem, beside, penalty))


def _own_score(inputs: SweepInputs, y: Float[np.ndarray, "rest target"], one: PartFit) -> float:
    """By which a baseline's point is chosen: out-of-fold bits, or R²."""
    return bits_gained(y, one.out_of_fold) if inputs.settings.score == "bits" else one.validation


def compared(
    inputs: SweepInputs,
    problem: Problem,
    point: str,
    probe: Predictions,
    validation: float,
    beside: Mapping[str, Predictions],
    penalty: float = PENALTY,
) -> Fold:
    """What all of `COMPARED` say of the rows of a fold, or of the test rows of a split."""
    y, still = problem.y[problem.train], validation <= 0
    if inputs.settings.score == "bits":
        odds = class_odds(problem, probe, beside, penalty)
        values = (odds.surface, odds.full, odds.probe, odds.best, odds.shares)
        return Fold(point, dict(zip(COMPARED, values, strict=True)), still, odds.strongest or "")
    surface, full = with_and_without(beside, probe, y)
    mean = np.tile(y.mean(axis=0), (len(problem.test), 1))
    scores = {name: mean_r2(y, one.out_of_fold) for name, one in beside.items()}
    strongest = max(scores, key=lambda name: -np.inf if np.isnan(scores[name]) else scores[name], default="")
    best = beside[strongest].test if strongest else mean
    values = (surface, full, probe.test, best, mean)
    return Fold(point, dict(zip(COMPARED, values, strict=True)), still, strongest)


def _rows_of(rows: Rows, point: str, index: np.ndarray) -> np.ndarray:
    """Rows of a point, in this order."""
    return np.asarray(PointRows(rows, point, index).gather(np.arange(len(index))), np.float64)


class _SharedFits:
    """Ridges at every point and of every baseline without each fold of each repeat, and boosted trees."""

    def __init__(self, inputs: SweepInputs, folds: list[np.ndarray], progress: bool | None) -> None:
        problem, settings = inputs.problem, inputs.settings
        self._parts = int(folds[0].max()) + 1
        parts = [np.flatnonzero(fold == k) for fold in folds for k in range(self._parts)]
        self._fits: dict[str, dict[str, list[PartFit]]] = {}
        self._trees: dict[str, list[list[Predictions]]] = {}

        def fit_rows(rows: np.ndarray, alphas: tuple[float, ...] | None, of: list[Any]) -> list[PartFit]:
            products, rounding = row_products_of(rows), rounding_of(ArrayRows(rows))
            return fits_without(products, problem.y, problem.clusters, of, alphas, rounding=rounding)

        every = replace(problem, is_test=np.zeros(len(problem.y), bool))
        reader = None
        features = {
            "probe": (inputs.activations, np.arange(len(problem.y))),
            **(served := features_of(inputs.baselines, inputs.activations, every)),
        }
        texts = inputs.baselines.strings and inputs.table.texts is not None
        count = sum(len(rows.points) for rows, _ in features.values()) + 2 * texts
        with bar(count, "cross_fit", "point", progress) as advance:
            if texts:
                reader = StringReader.of(inputs.table, every, inputs.baselines.tokens)
                order = reader.order[0]
                terms = reader.ridge.features()
                back = np.argsort(order, kind="stable")
                products = np.asarray((terms @ terms.T).todense(), np.float64)[np.ix_(back, back)]
                self._fits[TFIDF] = {
                    TFIDF: fits_without(products, problem.y, problem.clusters, parts, ALPHAS)
                }
                advance.update()
                spelled = _rows_of(reader.additive, SPELLING, reader.place)
                self._fits[SPELLING] = {SPELLING: fit_rows(spelled, None, parts)}
                advance.update()
                seen = reader.seen_by_trees
                self._trees[TREES] = [boosted_without(seen, problem.y, fold) for fold in folds]
            if confounds := inputs.table.confounds:
                self._trees[CONFOUNDS] = [confound_trees(confounds, problem, fold) for fold in folds]
            for name, (rows, index) in features.items():
                own = self._fits.setdefault(name, {})
                for point in rows.points:
                    own[point] = fit_rows(_rows_of(rows, point, index), settings.alphas, parts)
                    advance.update()
        chosen = [self._chosen(inputs, served, place, part) for place, part in enumerate(parts)]
        joint: dict[str, dict[int, PartFit]] = {}
        for points in set(chosen):
            places = [i for i, own in enumerate(chosen) if own == points]
            own = dict(zip(served, points, strict=True))
            rows = joint_rows(served, own, inputs.table, every, reader)
            for choice, one in enumerate([] if rows is None else rows.choices):
                fits = fit_rows(one.every(), None, [parts[i] for i in places])
                joint.setdefault(f"{JOINT} {choice}", {}).update(zip(places, fits, strict=True))
        if joint:
            self._fits[JOINT] = {name: [of[i] for i in range(len(parts))] for name, of in joint.items()}

    def _chosen(
        self, inputs: SweepInputs, features: Iterable[str], place: int, part: np.ndarray
    ) -> tuple[str, ...]:
        """The point of every feature without one part."""
        y = np.delete(inputs.problem.y, part, axis=0)
        fits = [self._fits[name] for name in features]
        return tuple(max(of, key=lambda p: _own_score(inputs, y, of[p][place])) for of in fits)

    def of(self, repeat: int, k: int) -> tuple[dict[str, dict[str, PartFit]], dict[str, Predictions]]:
        """Of one fold."""
        place = repeat * self._parts + k
        fits = {name: {p: of[place] for p, of in points.items()} for name, points in self._fits.items()}
        return fits, {name: of[repeat][k] for name, of in self._trees.items()}
