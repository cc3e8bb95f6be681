"""Every row tested once a repeat: predictions by repeated cross-fitting over whole clusters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from graticule.hooks.messages import bar
from graticule.probes.core.bits import class_odds
from graticule.probes.core.choice import choose_point
from graticule.probes.core.fit import Problem, fit_points, with_and_without
from graticule.probes.core.inputs import SweepInputs
from graticule.probes.core.intervals import Estimates, mean_of, mean_r2_estimate
from graticule.probes.core.logit_stack import row_bits
from graticule.probes.core.resample import ClusterSums, cluster_sums
from graticule.probes.scores.metrics import mean_r2
from graticule.probes.surface.fitted import fit_baselines, with_bits
from graticule.probes.tables.groups import group_folds

COMPARED = ("surface", "full", "probe", "best", "mean")
"""Both stacks, the probe alone, the strongest baseline alone, and the training mean (of classes, the
shares)."""


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

    @property
    def repeats(self) -> int:
        """How often all rows were dealt into folds anew."""
        return len(self.predictions["full"])

    @property
    def widening(self) -> float:
        """What a standard error that takes the folds for independent is multiplied by.

        Fits of two folds share most of their rows, so their errors rise and fall together: with n rows
        tested for n(K − 1)/K learned from, the variance is 1 + K/(K − 1) times what the rows show (Nadeau &
        Bengio, Machine Learning 2003): 1.5 for five folds.
        """
        return float(np.sqrt(1 + self.folds / (self.folds - 1)))

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
            of = {name: _mean_bits(problem.y, self.predictions[name]) for name in (first, second)}
            made = mean_of(of[second] - of[first], problem.clusters)
        else:
            made = mean_r2_estimate(self._sums(problem.y, problem.clusters), first, second)
        return replace(made, se=np.asarray(self.widening * made.se))

    def _sums(self, y: Float[np.ndarray, "row target"], clusters: Int[np.ndarray, " row"]) -> ClusterSums:
        each = [
            cluster_sums(y, {name: values[r] for name, values in self.predictions.items()}, clusters)
            for r in range(self.repeats)
        ]
        return replace(each[0], sse=np.mean([one.sse for one in each], axis=0))


def _mean_bits(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    return np.mean([row_bits(y, one) for one in p], axis=0)


def cross_fitted(
    inputs: SweepInputs, *, n_folds: int = 5, n_repeats: int = 2, seed: int = 0, progress: bool | None = None
) -> CrossFit:
    """Predict every row by fits that have not seen its fold.

    In each fold all that a sweep does on its training rows is done on the rows outside the fold: strengths
    and layer are chosen, baselines fitted, stacks fitted on out-of-fold predictions.

    Args:
        inputs: of a sweep; its split is not looked at.
        n_folds: Parts, of whole clusters; no more than clusters.
        n_repeats: How often the clusters are dealt anew.
        seed: Of the dealing.
        progress: Whether a bar is drawn.

    Returns:
        Predictions of every row, in every repeat.
    """
    problem = inputs.problem
    parts = min(n_folds, len(np.unique(problem.clusters)))
    out = {name: np.empty((n_repeats, *problem.y.shape)) for name in COMPARED}
    points: list[str] = []
    with bar(n_repeats * parts, "cross_fit", "fold", progress) as advance:
        for repeat in range(n_repeats):
            fold = group_folds(problem.clusters, parts, 7919 * seed + repeat)
            for k in range(parts):
                part = replace(problem, is_test=fold == k)
                point, predicted = one_fold(inputs, part)
                points.append(point)
                for name, values in predicted.items():
                    out[name][repeat, part.test] = values
                advance.update()
    return CrossFit(out, tuple(points), parts, inputs.settings.score)


def one_fold(inputs: SweepInputs, problem: Problem) -> tuple[str, dict[str, np.ndarray]]:
    """The point chosen outside a fold, and what is predicted of the rows in it."""
    settings, activations = inputs.settings, inputs.activations
    fits = with_bits(
        fit_points(activations, problem, alphas=settings.alphas, progress=False), problem, settings
    )
    beside = fit_baselines(inputs.baselines, activations, inputs.table, problem, settings, False)[0]
    best = choose_point(fits, beside, problem, inputs.model_baselines, settings.score).best
    if settings.score == "bits":
        odds = class_odds(problem, best.predictions, beside)
        return best.point, {
            "surface": odds.surface,
            "full": odds.full,
            "probe": odds.probe,
            "best": odds.best,
            "mean": odds.shares,
        }
    y = problem.y[problem.train]
    surface, full = with_and_without(beside, best.predictions, y)
    mean = np.tile(y.mean(axis=0), (len(problem.test), 1))
    scores = {name: mean_r2(y, one.out_of_fold) for name, one in beside.items()}
    alone = beside[max(scores, key=lambda name: scores[name])].test if scores else mean
    return best.point, {"surface": surface, "full": full, "probe": best.test, "best": alone, "mean": mean}
