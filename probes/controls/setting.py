"""What all controls share: rows of the chosen point, the probe's predictions, and fits like the probe's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from graticule.probes.controls.lines import Group, Line, line
from graticule.probes.controls.scoring import Pair, Sampled, sampled_r2
from graticule.probes.estimators.solvers import RidgeFit, RidgeWeights, ridge_cv, ridge_fit
from graticule.probes.findings import Findings
from graticule.probes.material import Material
from graticule.probes.scores.verdict import Predictions, stack


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
class Setting:
    """The probe at the chosen point and everything that stands beside it."""

    findings: Findings
    """With their material."""
    x_train: Float[np.ndarray, "train width"]
    """Activations at the chosen point."""
    x_test: Float[np.ndarray, "test width"]
    """Likewise."""
    probe: Predictions
    """The probe's own, out of fold on training rows."""
    surface: Predictions
    """The stack of all baselines."""
    draws: int
    """Of the bootstrap."""
    seed: int
    """Of the bootstrap and of every random draw."""
    seeds: int
    """Random draws a control."""

    @classmethod
    def of(cls, findings: Findings, seeds: int, seed: int) -> Setting:
        """**Raises** `ValueError` if the findings come without their material."""
        material = findings.material
        problem, point = material.problem, findings.chosen_point
        columns = [f"pred_{name}" for name in material.table.target_names]
        predicted = findings.predictions[columns].to_numpy(np.float64)
        return cls(
            findings,
            material.rows(point, problem.train),
            material.rows(point, problem.test),
            Predictions(predicted[problem.train], predicted[problem.test]),
            material.surface(),
            material.draws,
            seed,
            seeds,
        )

    @property
    def material(self) -> Material:
        """What the findings were made from."""
        return self.findings.material

    @property
    def y_train(self) -> Float[np.ndarray, "train target"]:
        """Targets of the training rows."""
        return self.material.problem.y[self.material.problem.train]

    @property
    def y_test(self) -> Float[np.ndarray, "test target"]:
        """Targets of the test rows."""
        return self.material.problem.y[self.material.problem.test]

    @property
    def clusters_train(self) -> Int[np.ndarray, " train"]:
        """Clusters of the training rows."""
        return self.material.problem.clusters[self.material.problem.train]

    @property
    def clusters_test(self) -> Int[np.ndarray, " test"]:
        """Clusters of the test rows."""
        return self.material.problem.clusters[self.material.problem.test]

    @property
    def texts(self) -> list[str] | None:
        """The text of every activation row, where there are texts."""
        texts = self.material.table.texts
        return None if texts is None else [texts[i] for i in self.material.problem.source]

    def rng(self, control: int, draw: int) -> np.random.Generator:
        """A generator of its own for every draw of every control."""
        return np.random.default_rng([self.seed, control, draw])

    def score(self, y: Float[np.ndarray, "test target"], pred: Float[np.ndarray, "test target"]) -> Sampled:
        """R² over all test rows."""
        return self.scores({"": (y, pred)})[""]

    def scores(
        self, pairs: dict[str, Pair], clusters: Int[np.ndarray, " row"] | None = None
    ) -> dict[str, Sampled]:
        """R² of every pair; `clusters` where the rows are not all test rows."""
        return sampled_r2(pairs, self.clusters_test if clusters is None else clusters, self.draws, self.seed)

    def fit(
        self,
        y: Float[np.ndarray, "train target"],
        x_train: Float[np.ndarray, "train feature"] | None = None,
        x_test: Float[np.ndarray, "test feature"] | None = None,
        alpha: float | None = None,
    ) -> Fitted:
        """Ridge of `y` on the activations or other features, at its own out-of-fold strength or at `alpha`.

        Columns of `y` that do not vary are predicted by their mean: a draw of a rare class may have none.

        **Raises** `ValueError` if none varies.
        """
        held = self.x_train if x_train is None else x_train
        other = self.x_test if x_test is None else x_test
        varied = np.ptp(y, axis=0) > 0
        if not varied.any():
            raise ValueError(
                "no column of this target varies over the training rows: there is nothing to fit"
            )
        fit: RidgeFit | RidgeWeights
        if alpha is None:
            fit = ridge_cv(held, y[:, varied], alphas=self.material.alphas, clusters=self.clusters_train)
        else:
            fit = ridge_fit(held, y[:, varied], alpha)
        train, test = np.tile(y.mean(axis=0), (len(held), 1)), np.tile(y.mean(axis=0), (len(other), 1))
        train[:, varied], test[:, varied] = fit.predict(held), fit.predict(other)
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
        rivals = self.material.rivals
        folds = {name: p.out_of_fold[train] for name, p in rivals.items()}
        tests = {name: p.test[test] for name, p in rivals.items()}
        y, count = self.y_test[test], int(test.sum())
        base = stack(folds, self.y_train[train]).predict(tests, count)
        folds["probe"], tests["probe"] = self.probe.out_of_fold[train], self.probe.test[test]
        full = stack(folds, self.y_train[train]).predict(tests, count)
        pairs = {"base": (y, base), "full": (y, full), "probe": (y, self.probe.test[test])}
        found = self.scores(pairs, self.clusters_test[test])
        alone = f"probe alone {found['probe'].value:.3f}"
        return line(
            group,
            control,
            asks,
            found["base"],
            found["full"],
            count,
            metric="gain",
            note=f"{alone}; {note}" if note else alone,
        )
