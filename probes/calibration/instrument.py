"""The predictors of some findings, each ready to answer any target: the baselines and the probe."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from graticule.probes.calibration.components import (
    FEW_ROWS,
    Answers,
    Chosen,
    Mixture,
    RidgeAnswerer,
    StringAnswerer,
    choose,
)
from graticule.probes.calibration.judging import stacks
from graticule.probes.estimators.ridge_holdout import plan_holdout
from graticule.probes.estimators.ridge_rows import as_rows
from graticule.probes.findings import Findings
from graticule.probes.surface.fitted import served_by
from graticule.probes.surface.string_ridge import StringRidge
from graticule.probes.surface.tfidf import ALPHAS

PROBE = "probe"
STRINGS = "tfidf"
Held = dict[str, Answers]
"""Predictor → its answers to the same components."""


@dataclass(frozen=True)
class Instrument:
    """All that a verdict is made of, at the points that the findings chose. Rows: training, then test."""

    ridges: dict[str, RidgeAnswerer]
    """Captured baselines by name, and `probe`."""
    strings: StringAnswerer | None
    """TF-IDF, where the table has texts; on a coarse grid about the strength that the findings chose."""
    n_train: int
    """Training rows."""
    clusters: Int[np.ndarray, " row"]
    """Of training rows, then of test rows."""

    @classmethod
    def of(
        cls, findings: Findings, strengths: int = 24, string_step: int | None = 2, quiet: bool = True
    ) -> Instrument:
        """The instrument behind some findings.

        `strengths` of the default ridge grid (all 24 are what a sweep tries) and every `string_step`-th of
        TF-IDF's, from two of these steps below the chosen one upwards. With None that is every third, or,
        beyond 5,000 training rows, four strengths: two steps of the grid below the chosen one, that one, and
        two and six above it.
        """
        material = findings.material
        problem = material.problem
        order = np.concatenate([problem.train, problem.test])
        n_train = len(problem.train)
        plan = plan_holdout(n_train, problem.clusters[problem.train])

        def ridge(values: np.ndarray) -> RidgeAnswerer:
            return RidgeAnswerer.of(values[:n_train], values[n_train:], plan, material.alphas, strengths)

        ridges = {PROBE: ridge(material.rows(findings.chosen_point, order))}
        for name, feature in material.baselines.features.items():
            rows = served_by(feature, material.activations, problem.source)
            point = findings.baselines[name]["point"]
            ridges[name] = ridge(as_rows(feature[point]).gather(rows[order]))
        strings = None
        texts = material.table.texts
        if STRINGS in findings.baselines and texts is not None:
            named = [texts[i] for i in problem.source[order]]
            clusters = problem.clusters[problem.train]
            chosen = float(findings.baselines[STRINGS]["alpha"])
            few = string_step is None and n_train > FEW_ROWS
            grid = _about(chosen) if few else _coarse(chosen, string_step or 3)
            ridge_on_terms = StringRidge.of(named[:n_train], clusters, named[n_train:], seed=0)
            strings = StringAnswerer.of(ridge_on_terms, grid, quiet)
        return cls(ridges, strings, n_train, problem.clusters[order])

    @property
    def baselines(self) -> tuple[str, ...]:
        """Names, in the order of the findings' stack."""
        captured = [name for name in self.ridges if name != PROBE]
        return (*([] if self.strings is None else [STRINGS]), *captured)

    def answers(self, components: Float[np.ndarray, "component row"], names: Iterable[str]) -> Held:
        """What the predictors named say of components that are centred on the training rows."""
        train = components[:, : self.n_train]
        held: Held = {}
        for name in names:
            if name == STRINGS:
                assert self.strings is not None
                held[name] = self.strings.answers(train)
            else:
                held[name] = self.ridges[name].answers(train)
        return held

    def chosen(
        self, held: Held, components: Float[np.ndarray, "component row"], mixture: Mixture
    ) -> dict[str, Chosen]:
        """Every predictor at the strength that each target chooses."""
        train = components[:, : self.n_train]
        return {
            name: choose(answers, train, mixture, strongest_of_equals=name == STRINGS)
            for name, answers in held.items()
        }

    def stacked(
        self, held: Held, components: Float[np.ndarray, "component row"], mixture: Mixture
    ) -> dict[str, Float[np.ndarray, "target test"]]:
        """Test predictions of the stack of the baselines, and with the probe where `held` has it."""
        chosen = self.chosen(held, components, mixture)
        baselines = {name: chosen[name] for name in self.baselines}
        y = mixture.of(components[:, : self.n_train])
        return stacks(y, baselines, chosen.get(PROBE))


def _about(chosen: float) -> Float[np.ndarray, " alpha"]:
    grid = np.asarray(ALPHAS)
    return grid[np.unique(np.clip(_place(chosen) + np.array([-2, 0, 2, 6]), 0, len(grid) - 1))]


def _place(chosen: float) -> int:
    return int(np.abs(np.log(np.asarray(ALPHAS) / chosen)).argmin())


def _coarse(chosen: float, step: int) -> Float[np.ndarray, " alpha"]:
    grid, at = np.asarray(ALPHAS), _place(chosen)
    first = max(at % step, at - 2 * step)
    return grid[first::step]


def joined(parts: Iterable[Held]) -> Held:
    """Answers to several sets of components, one after the other."""
    parts = list(parts)
    return {
        name: Answers(
            first.alphas,
            np.concatenate([p[name].train for p in parts], axis=1),
            np.concatenate([p[name].test for p in parts], axis=1),
        )
        for name, first in parts[0].items()
    }


def some(held: Held, index: Int[np.ndarray, " component"]) -> Held:
    """The answers to some of the components."""
    return {n: Answers(a.alphas, a.train[:, index], a.test[:, index]) for n, a in held.items()}
