"""Erasers and probes of one point, fitted on halves of the training rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from graticule.hooks.points import layer_of
from graticule.probes.causes.controls import frame_of, matched_erasers
from graticule.probes.causes.leace import Eraser, Moments
from graticule.probes.causes.refit import Refit, refit, ridge_at
from graticule.probes.findings import Findings
from graticule.probes.scores.metrics import r2
from graticule.probes.scores.verdict import Predictions, Verdict, verdict

_FOLDS = 5


class Halves:
    """The halves of the training rows, and the fits at one point."""

    def __init__(self, findings: Findings, erased: list[int], seed: int) -> None:
        self.findings, self.material, self.erased, self.seed = findings, findings.material, erased, seed
        problem = self.material.problem
        self.train, self.test = problem.train, problem.test
        self.y = problem.y[self.train]
        rng = np.random.default_rng(seed)
        labels, codes = np.unique(problem.clusters[self.train], return_inverse=True)
        half = np.zeros(len(labels), np.int64)
        half[rng.permutation(len(labels))[: len(labels) // 2]] = 1
        self.first, self.second = np.flatnonzero(half[codes] == 0), np.flatnonzero(half[codes] == 1)
        self.folds = rng.integers(0, _FOLDS, len(labels))[codes]

    def line(self, point: str) -> dict[str, Any]:
        """Everything about one point."""
        X = self.material.rows(point)
        train, test = X[self.train], X[self.test]
        names, columns = self.findings.target_names, self.erased
        half = Moments.of(train[self.first])
        fresh = Eraser.fit(train[self.first], self.y[self.first][:, columns], moments=half)
        whole = Eraser.fit(train, self.y[:, columns])
        rng = np.random.default_rng([self.seed, 1])
        control = matched_erasers(half, frame_of(half, fresh), 1, rng)[0]
        alpha = self.findings.probes[point].alpha
        coef, intercept = ridge_at(whole.apply(train), self.y, alpha)
        same = whole.apply(test) @ coef + intercept
        erased = fresh.apply(train[self.second]), fresh.apply(test)
        arms = {
            "before": self.reprobe(train[self.second], test, alpha),
            "after": self.reprobe(*erased, alpha),
        }
        moved = self.reprobe(control.apply(train[self.second]), control.apply(test), alpha)
        line: dict[str, Any] = {
            "layer": layer_of(point),
            "point": point,
            "rank": whole.rank,
            "removed": whole.removed / float(train.var(axis=0).sum()),
        }
        truth = self.material.problem.y[self.test]
        scored = {k: v.test for k, v in arms.items()} | {"same": same, "control": moved.test}
        for arm, predicted in scored.items():
            line |= {f"{arm}_{n}": float(v) for n, v in zip(names, r2(truth, predicted), strict=True)}
        for arm, predicted in arms.items():
            judged = self.judge(predicted)
            line |= {
                f"gain_{arm}": judged.gain,
                f"gain_{arm}_low": judged.ci95[0],
                f"gain_{arm}_high": judged.ci95[1],
                f"words_{arm}": judged.words,
            }
        return line

    def reprobe(
        self, train: Float[np.ndarray, "half width"], test: Float[np.ndarray, "test width"], alpha: float
    ) -> Predictions:
        """A ridge on the second half of the training rows, applied to the test rows."""
        rows = self.second
        fit: Refit = refit(train, self.y[rows], self.folds[rows], alpha / 2)
        return Predictions(fit.out_of_fold, fit.predict(test))

    def judge(self, predictions: Predictions) -> Verdict:
        """The gain over the surface of the erased targets, the stack fitted on the second half."""
        problem, rows, columns = self.material.problem, self.second, self.erased
        rivals = {
            name: Predictions(p.out_of_fold[rows][:, columns], p.test[:, columns])
            for name, p in self.material.rivals.items()
        }
        return verdict(
            self.y[rows][:, columns],
            problem.y[self.test][:, columns],
            Predictions(predictions.out_of_fold[:, columns], predictions.test[:, columns]),
            rivals,
            test_clusters=problem.clusters[self.test],
            target_names=tuple(problem.names[i] for i in columns),
            model_baselines=self.material.model_baselines,
            min_gain=self.material.min_gain,
            draws=self.material.draws,
            seed=self.seed,
        )[0]
