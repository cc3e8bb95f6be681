"""What a sweep was made from, kept beside its findings for every analysis that goes on from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from graticule.hooks.rows import Rows
from graticule.probes.core.doubts import undecided_at_mean
from graticule.probes.core.fit import Problem
from graticule.probes.core.settings import JudgeSettings
from graticule.probes.core.verdict import Predictions, StackFit, Verdict, stack, verdict
from graticule.probes.linear.ridge_rows import as_rows
from graticule.probes.surface.baselines import Baselines
from graticule.probes.tables.table import Table


@dataclass(frozen=True)
class Predicted:
    """What one predictor says about the test rows: all that two predictors are compared by."""

    name: str
    """For titles: `ridge at blocks.7.hook_resid_post`."""
    target_names: tuple[str, ...]
    """A name a column."""
    units: tuple[str | None, ...]
    """A unit a column."""
    source: Int[np.ndarray, " test"]
    """The table row of each test row."""
    clusters: Int[np.ndarray, " test"]
    """Dependent rows share one."""
    y: Float[np.ndarray, "test target"]
    """The truth."""
    predictions: Float[np.ndarray, "test target"]
    """In target units."""


@dataclass(frozen=True)
class SweepInputs:
    """Activations, table and baselines of a sweep, aligned: row i of everything is activation row i."""

    activations: Rows
    """Every point that was swept."""
    table: Table
    """Texts, targets, split, clusters, blocks; `problem.source` says which table row is whose."""
    baselines: Baselines
    """Features of the baselines."""
    problem: Problem
    """Targets, split and clusters of the activation rows."""
    rivals: Mapping[str, Predictions]
    """Baseline → its predictions of the table's own target."""
    settings: JudgeSettings
    """How the findings were judged: anything else is judged alike."""

    @property
    def alphas(self) -> tuple[float, ...] | None:
        """Ridge strengths asked for; None is the default grid."""
        return self.settings.alphas

    @property
    def min_gain(self) -> float:
        """The smallest gain called structure."""
        return self.settings.min_gain

    @property
    def draws(self) -> int:
        """Of the bootstrap."""
        return self.settings.draws

    @property
    def seed(self) -> int:
        """Of the bootstrap and the controls."""
        return self.settings.seed

    def rows(
        self, point: str, index: Int[np.ndarray, " row"] | None = None
    ) -> Float[np.ndarray, "row width"]:
        """Activations at a point in float64, all rows or those of `index`."""
        held = as_rows(self.activations[point])
        return held.gather(np.arange(held.shape[0]) if index is None else index)

    @property
    def model_baselines(self) -> tuple[str, ...]:
        """The baselines that read the model."""
        return tuple(self.baselines.features)

    def surface_stack(self) -> StackFit:
        """The stack of all baselines, fitted on out-of-fold predictions of training rows."""
        folds = {name: p.out_of_fold for name, p in self.rivals.items()}
        return stack(folds, self.problem.y[self.problem.train])

    def surface(self) -> Predictions:
        """What the surface predicts: out of fold on training rows, plainly on test rows."""
        fit = self.surface_stack()
        train = fit.predict({n: p.out_of_fold for n, p in self.rivals.items()}, len(self.problem.train))
        return Predictions(
            train, fit.predict({n: p.test for n, p in self.rivals.items()}, len(self.problem.test))
        )

    def judge(
        self, predictions: Predictions, leave_out: Sequence[str] = (), *, width: int | None = None
    ) -> Verdict:
        """The verdict on any predictor against the very surface that the sweep's probe stands against.

        Args:
            predictions: What it says of every row.
            leave_out: Baselines that it does not stand against.
            width: Columns that it could choose from; by default those of the widest point swept.

        Returns:
            The verdict; not decided where the predictor is still the training mean, as the sweep's own.
        """
        problem = self.problem
        judged = verdict(
            problem.y[problem.train],
            problem.y[problem.test],
            predictions,
            {name: p for name, p in self.rivals.items() if name not in leave_out},
            test_clusters=problem.clusters[problem.test],
            target_names=problem.names,
            model_baselines=self.model_baselines,
            min_gain=self.min_gain,
            draws=self.draws,
            seed=self.seed,
        )[0]
        columns = max(self.activations.widths.values()) if width is None else width
        return undecided_at_mean(judged, predictions, problem, columns)

    def predicted(self, name: str, test: Float[np.ndarray, "test target"]) -> Predicted:
        """Predictions of the test rows as something to compare."""
        problem = self.problem
        index = problem.test
        return Predicted(
            name=name,
            target_names=self.table.target_names,
            units=self.table.units,
            source=problem.source[index],
            clusters=problem.clusters[index],
            y=problem.y[index],
            predictions=test,
        )
