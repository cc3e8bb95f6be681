"""The predictors of some findings, each ready to answer any target: the baselines and the probe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from graticule.hooks.rows import Rows
from graticule.probes.calibration.components import (
    FEW_ROWS,
    Answers,
    Chosen,
    Mixture,
    RidgeAnswerer,
    StringAnswerer,
    choose,
)
from graticule.probes.calibration.in_bits import logit_stacks
from graticule.probes.calibration.judging import stacks
from graticule.probes.calibration.suspects import TreeAnswerer
from graticule.probes.core.findings import Findings
from graticule.probes.core.fit import PointRows
from graticule.probes.linear.spectrum import plan_holdout
from graticule.probes.surface.confounds import CONFOUNDS, confounder_columns
from graticule.probes.surface.joint import JOINT, joint_rows
from graticule.probes.surface.serving import features_of
from graticule.probes.surface.string_ridge import ALPHAS, StringRidge
from graticule.probes.surface.strings import SPELLING, TREES, StringReader

PROBE = "probe"
STRINGS = "tfidf"
BLOCK_BYTES = 1 << 29
"""What the answers to one block of components may take: blocks are as large as that allows."""


@dataclass(frozen=True)
class Instrument:
    """All that a verdict is made of, at the points that the findings chose. Rows: training, then test."""

    ridges: dict[str, RidgeAnswerer]
    """Captured baselines by name, and `probe`; where the table has confounders the ridge on them, without
    the trees that are beside it in a verdict."""
    strings: StringAnswerer | None
    """TF-IDF, where the table has texts; on a coarse grid about the strength that the findings chose."""
    n_train: int
    """Training rows."""
    clusters: Int[np.ndarray, " row"]
    """Of training rows, then of test rows."""
    trees: TreeAnswerer | None = None
    """Boosted trees, where the findings have them: they are fitted to one target at a time."""

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
        swept = findings.inputs
        problem = swept.problem
        order = np.concatenate([problem.train, problem.test])
        n_train = len(problem.train)
        plan = plan_holdout(n_train, problem.clusters[problem.train])

        def ridge(activations: Rows, point: str, rows: np.ndarray) -> RidgeAnswerer:
            train, test = (PointRows(activations, point, rows[p]) for p in (problem.train, problem.test))
            return RidgeAnswerer.of(train, test, plan, swept.alphas, strengths)

        own = np.arange(len(problem.y))
        ridges = {PROBE: ridge(swept.activations, findings.chosen_point, own)}
        features = features_of(swept.baselines, swept.activations, problem)
        points = {name: findings.baselines[name]["point"] for name in features}
        for name, (feature, rows) in features.items():
            ridges[name] = ridge(feature, points[name], rows)
        strings = None
        texts = swept.table.strings
        if STRINGS in findings.baselines and texts is not None:
            ordered = [texts[i] for i in problem.source[order]]
            clusters = problem.clusters[problem.train]
            chosen = float(findings.baselines[STRINGS]["alpha"])
            few = string_step is None and n_train > FEW_ROWS
            grid = _about(chosen) if few else _coarse(chosen, string_step or 3)
            ridge_on_terms = StringRidge.of(ordered[:n_train], clusters, ordered[n_train:], seed=0)
            strings = StringAnswerer.of(ridge_on_terms, grid, quiet)
        trees, reader = None, None
        if SPELLING in findings.baselines and texts is not None:
            reader = StringReader.of(swept.table, problem, swept.baselines.tokens)
            rows = [
                PointRows(reader.additive, SPELLING, reader.place[part])
                for part in (problem.train, problem.test)
            ]
            ridges[SPELLING] = RidgeAnswerer.of(rows[0], rows[1], plan, None, strengths)
            trees = TreeAnswerer.of(findings, reader)
        if swept.table.confounds:
            columns = confounder_columns(swept.table.confounds, problem.source, problem.train)
            if columns.shape[1]:
                train, test = (columns[part].astype(np.float64) for part in (problem.train, problem.test))
                ridges[CONFOUNDS] = RidgeAnswerer.of(train, test, plan, None, strengths)
        if JOINT in findings.baselines:
            joint = joint_rows(features, points, swept.table, problem, reader)
            assert joint is not None
            joint = joint.only(findings.baselines[JOINT]["of"])
            both = joint.part(problem.train), joint.part(problem.test)
            ridges[JOINT] = RidgeAnswerer.of(*both, plan, None, strengths)
        return cls(ridges, strings, n_train, problem.clusters[order], trees)

    @property
    def baselines(self) -> tuple[str, ...]:
        """Names, in the order of the findings' stack."""
        captured = [name for name in self.ridges if name != PROBE]
        return (*([] if self.strings is None else [STRINGS]), *captured)

    @property
    def rows(self) -> int:
        """Training and test rows."""
        return len(self.clusters)

    @property
    def strengths(self) -> int:
        """Of the ridge that tries most."""
        return max(len(ridge.alphas) for ridge in self.ridges.values())

    def answers(self, components: Float[np.ndarray, "component row"], name: str) -> Answers:
        """A predictor's answers to components that are centred on the training rows."""
        predictor = self.strings if name == STRINGS else self.ridges[name]
        assert predictor is not None
        return predictor.answers(components[:, : self.n_train])

    def answers_that_fit(
        self, components: Float[np.ndarray, "component row"], names: Iterable[str]
    ) -> dict[str, Answers]:
        """The answers of the first of these predictors, as many as `BLOCK_BYTES` hold."""
        out: dict[str, Answers] = {}
        for name in names:
            taken = sum(a.train.nbytes + a.test.nbytes for a in out.values())
            if taken + 8 * self.strengths * components.size > BLOCK_BYTES:
                break
            out[name] = self.answers(components, name)
        return out

    def chosen(
        self,
        components: Float[np.ndarray, "component row"],
        mixture: Mixture,
        names: Iterable[str],
        answers: Mapping[str, Answers] | None = None,
    ) -> dict[str, Chosen]:
        """Every predictor at the strength that each target chooses, one predictor after the other.

        `answers` to these very components are taken from those that have been asked.
        """
        train, given = components[:, : self.n_train], answers or {}
        out: dict[str, Chosen] = {}
        for name in names:
            own = given[name] if name in given else self.answers(components, name)
            out[name] = choose(own, train, mixture, strongest_of_equals=name == STRINGS)
        return out

    def stacked(
        self,
        components: Float[np.ndarray, "component row"],
        mixture: Mixture,
        *,
        probe: bool = True,
        trees: bool = False,
        bits: bool = False,
        answers: Mapping[str, Answers] | None = None,
    ) -> dict[str, Float[np.ndarray, "target test"]]:
        """Test predictions of the stack of the baselines, `surface`, and with the probe as well, `full`.

        With `trees`, boosted trees are among the baselines; with `bits`, targets have two values and
        predictions are probabilities of the larger.
        """
        names = (*self.baselines, PROBE) if probe else self.baselines
        chosen = self.chosen(components, mixture, names, answers)
        added = chosen.pop(PROBE) if probe else None
        y = mixture.of(components[:, : self.n_train])
        if trees and self.trees is not None:
            chosen[TREES] = self.trees.chosen(y)
        return (logit_stacks if bits else stacks)(y, chosen, added)


def _about(chosen: float) -> Float[np.ndarray, " alpha"]:
    grid = np.asarray(ALPHAS)
    return grid[np.unique(np.clip(_place(chosen) + np.array([-2, 0, 2, 6]), 0, len(grid) - 1))]


def _place(chosen: float) -> int:
    return int(np.abs(np.log(np.asarray(ALPHAS) / chosen)).argmin())


def _coarse(chosen: float, step: int) -> Float[np.ndarray, " alpha"]:
    grid, at = np.asarray(ALPHAS), _place(chosen)
    first = max(at % step, at - 2 * step)
    return grid[first::step]
