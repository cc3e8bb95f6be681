"""False findings judged once more with the one member of the surface that is not linear in its target."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from graticule.probes.calibration.components import Chosen
from graticule.probes.core.findings import Findings
from graticule.probes.surface.strings import TREES, StringReader
from graticule.probes.surface.trees import boosted_predictions

MOST_SUSPECTS = 40
"""Targets that boosted trees are fitted to."""


@dataclass(frozen=True)
class TreeAnswerer:
    """Boosted trees for any target, fitted anew to each."""

    train: Float[np.ndarray, "train feature"]
    """Features of the training rows."""
    test: Float[np.ndarray, "test feature"]
    """Features of the test rows."""
    fold: Int[np.ndarray, " train"]
    """Folds, those of the findings."""

    @classmethod
    def of(cls, findings: Findings, reader: StringReader) -> TreeAnswerer | None:
        """As the findings fitted them; None where they did not."""
        if TREES not in findings.baselines:
            return None
        problem, X = reader.problem, reader.seen_by_trees
        fold = np.empty(len(problem.y), np.int64)
        fold[reader.order[0]] = reader.ridge.fold
        return cls(X[problem.train], X[problem.test], fold[problem.train])

    def chosen(self, y: Float[np.ndarray, "target train"]) -> Chosen:
        """The trees' answer to each target, of as many iterations as it chooses."""
        made = [
            boosted_predictions(self.train, own[:, None], self.fold, self.test, disable=True)[0] for own in y
        ]
        train, test = (
            np.stack([getattr(one, part)[:, 0] for one in made]) for part in ("out_of_fold", "test")
        )
        return Chosen(np.zeros(len(y)), train, test)
