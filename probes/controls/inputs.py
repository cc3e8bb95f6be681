"""What all controls share: the probe at the chosen point, fits like its own, scores, lines of the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from graticule.probes.core.findings import Findings
from graticule.probes.core.fit import Predictions, with_and_without
from graticule.probes.core.inputs import SweepInputs
from graticule.probes.core.resample import Pair, Sampled, average, sampled_r2
from graticule.probes.linear.ridge_cv import RidgeFit, RidgeWeights, ridge_cv, ridge_fit

Group = Literal[
    "reference", "control", "train fit", "dimensions", "within blocks", "oracle", "subset", "check"
]
"""What a line is: the probe and its surface; a control on test rows; a fit to training rows; the probe on a
part of the activations; scores inside blocks; what a known block gives; part of the rows; a null check."""

NAN = float("nan")


# Lines of the table ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Question:
    """A control, before it is scored."""

    group: Group
    """Kind of line."""
    control: str
    """Its name."""
    asks: str
    """What it holds fixed, or the question it puts."""

    def line(
        self,
        score: Sampled | Sequence[Sampled],
        probe: Sampled | None,
        rows: int,
        *,
        metric: str = "R²",
        note: str = "",
    ) -> Line:
        """The line with its intervals; of several scores, a seed each, the mean and the range."""
        by_seed: list[float] = []
        if not isinstance(score, Sampled):
            by_seed = [s.value for s in score]
            score = average(score)
        low, high = score.ci95
        beside: dict[str, float] = {}
        if probe is not None:
            difference = probe - score
            ends = difference.ci95
            beside = {"probe": probe.value, "difference": difference.value}
            beside |= {"difference_low": ends[0], "difference_high": ends[1]}
        return Line(
            self.group,
            self.control,
            self.asks,
            metric,
            score.value,
            low,
            high,
            **beside,
            rows=rows,
            seeds=max(1, len(by_seed)),
            seed_low=min(by_seed, default=NAN),
            seed_high=max(by_seed, default=NAN),
            note=note,
        )

    def not_applicable(self, why: str) -> Line:
        """A line that says why there is none."""
        return Line(self.group, self.control, self.asks, note=f"not applicable: {why}")


@dataclass(frozen=True)
class Line(Question):
    """What one control reaches, and the probe beside it on the same rows."""

    metric: str = "R²"
    """`R²`, `gain` (R² of the surface, of surface and probe, and their difference) or `r`."""
    score: float = NAN
    """What the control reaches; the mean over seeds. NaN where the control does not apply."""
    low: float = NAN
    """Lower end of its 95% interval, over clusters of rows."""
    high: float = NAN
    """Upper end."""
    probe: float = NAN
    """The probe on the same rows by the same metric."""
    difference: float = NAN
    """`probe` − `score`."""
    difference_low: float = NAN
    """Lower end of its paired 95% interval."""
    difference_high: float = NAN
    """Upper end."""
    rows: int = 0
    """Rows scored."""
    seeds: int = 1
    """Random draws that the score is the mean of."""
    seed_low: float = NAN
    """The lowest score of a seed."""
    seed_high: float = NAN
    """The highest."""
    note: str = ""
    """Coverage, strengths, or why the control does not apply."""


# What is controlled ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Fitted:
    """A ridge fitted as the probe is, to another target or on other features."""

    test: Float[np.ndarray, "test target"]
    """Predictions of the test rows."""
    train: Float[np.ndarray, "train target"]
    """In-sample predictions of the training rows."""
    alpha: float
    """Its strength."""


@dataclass(frozen=True)
class ControlInputs:
    """The probe at the chosen point and everything that stands beside it."""

    findings: Findings
    """With their inputs."""
    x_train: Float[np.ndarray, "train width"]
    """Activations at the chosen point."""
    x_test: Float[np.ndarray, "test width"]
    """Likewise."""
    probe: Predictions
    """The probe's own, out of fold on training rows."""
    surface: Predictions
    """The stack of all baselines."""
    n_bootstrap: int
    """Of the bootstrap."""
    seed: int
    """Of the bootstrap and of every random draw."""
    seeds: int
    """Random draws per control."""

    @classmethod
    def of(cls, findings: Findings, seeds: int, seed: int) -> ControlInputs:
        """Raises `ValueError` if the findings come without their inputs."""
        swept = findings.inputs
        problem, point = swept.problem, findings.chosen_point
        return cls(
            findings,
            swept.rows(point, problem.train),
            swept.rows(point, problem.test),
            findings.predictions_at(),
            swept.surface(),
            swept.n_bootstrap,
            seed,
            seeds,
        )

    @property
    def swept(self) -> SweepInputs:
        """What the findings were made from."""
        return self.findings.inputs

    @property
    def y_train(self) -> Float[np.ndarray, "train target"]:
        """Targets of the training rows."""
        return self.swept.problem.y[self.swept.problem.train]

    @property
    def y_test(self) -> Float[np.ndarray, "test target"]:
        """Targets of the test rows."""
        return self.swept.problem.y[self.swept.problem.test]

    @property
    def clusters_train(self) -> Int[np.ndarray, " train"]:
        """Clusters of the training rows."""
        return self.swept.problem.clusters[self.swept.problem.train]

    @property
    def clusters_test(self) -> Int[np.ndarray, " test"]:
        """Clusters of the test rows."""
        return self.swept.problem.clusters[self.swept.problem.test]

    @property
    def texts(self) -> list[str] | None:
        """The text of every activation row, where there are texts."""
        texts = self.swept.table.texts
        return None if texts is None else [texts[i] for i in self.swept.problem.source]

    def rng(self, control: int, draw: int) -> np.random.Generator:
        """A generator of its own for every draw of every control."""
        return np.random.default_rng([self.seed, control, draw])

    def scores(
        self, pairs: dict[str, Pair], clusters: Int[np.ndarray, " row"] | None = None
    ) -> dict[str, Sampled]:
        """R² of every pair; `clusters` where the rows are not all test rows."""
        return sampled_r2(
            pairs, self.clusters_test if clusters is None else clusters, self.n_bootstrap, self.seed
        )

    def fit(
        self,
        y: Float[np.ndarray, "train target"],
        x_train: Float[np.ndarray, "train feature"] | None = None,
        x_test: Float[np.ndarray, "test feature"] | None = None,
        alpha: float | None = None,
    ) -> Fitted:
        """Ridge of `y` on the activations or other features, at its own out-of-fold strength or at `alpha`.

        Columns of `y` that do not vary are predicted by their mean: a draw of a rare class may have none.

        Raises:
            ValueError: If none varies.
        """
        train_rows = self.x_train if x_train is None else x_train
        test_rows = self.x_test if x_test is None else x_test
        varied = np.ptp(y, axis=0) > 0
        if not varied.any():
            raise ValueError(
                "no column of this target varies over the training rows: there is nothing to fit"
            )
        fit: RidgeFit | RidgeWeights
        if alpha is None:
            fit = ridge_cv(train_rows, y[:, varied], alphas=self.swept.alphas, clusters=self.clusters_train)
        else:
            fit = ridge_fit(train_rows, y[:, varied], alpha)
        train, test = (np.tile(y.mean(axis=0), (len(rows), 1)) for rows in (train_rows, test_rows))
        train[:, varied], test[:, varied] = fit.predict(train_rows), fit.predict(test_rows)
        return Fitted(test, train, fit.alpha)

    def gain_line(
        self,
        group: Group,
        control: str,
        asks: str,
        train: Bool[np.ndarray, " train"],
        test: Bool[np.ndarray, " test"],
        note: str = "",
    ) -> Line:
        """What the probe adds to the surface on some test rows, the stacks refitted on some training rows."""
        y, count = self.y_test[test], int(test.sum())
        baselines, probe = (
            {name: Predictions(p.out_of_fold[train], p.test[test]) for name, p in of.items()}
            for of in (self.swept.baseline_predictions, {"probe": self.probe})
        )
        base, full = with_and_without(baselines, probe["probe"], self.y_train[train])
        pairs = {"base": (y, base), "full": (y, full), "probe": (y, self.probe.test[test])}
        scores = self.scores(pairs, self.clusters_test[test])
        alone = f"probe alone {scores['probe'].value:z.3f}"
        return Question(group, control, asks).line(
            scores["base"], scores["full"], count, metric="gain", note=f"{alone}; {note}" if note else alone
        )
