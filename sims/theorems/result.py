"""What all the exact checks said, as one result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from graticule.hooks.saved import SavedResult
from graticule.sims.theorems.checks import Check

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_CURVES = "Descent of Theorems 4, 12 and 14: cosine with the direction that each theorem names"
_TABLE = "Every check"
_TRAINED = "The same quantities on a trained learner, which meets the premises roughly at best: no verdict"
_STATEMENTS = "What is claimed"


@dataclass(frozen=True)
class Theorems(SavedResult):
    """The result of `theorems`."""

    KIND: ClassVar[str] = "theorems"

    m: int
    """Binary concepts of the world."""
    edges: tuple[tuple[int, int], ...]
    """Its graph, parents first."""
    checks: tuple[Check, ...]
    """Every check, in the order of the groups."""
    trained: pd.DataFrame
    """The theorems' quantities on a trained learner: `check`, `quantity`, `measured`, `premise` (how far it
    is from what the theorem presupposes). No verdict: it meets the premises roughly at best."""
    curves: pd.DataFrame
    """A line a point of a descent: `theorem`, `series`, `step`, `cosine`."""
    seed: int
    """Seed of gauges, noise, starts and training."""
    provenance: Mapping[str, Any]
    """Settings and versions."""

    @property
    def title(self) -> str:
        """What was checked."""
        return f"The paper's theorems as exact checks, {self.m} concepts"

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that do not hold."""
        return tuple(c for c in self.checks if not c.holds)

    def summary(self) -> str:
        """How many hold, then a line a check."""
        if self.failed:
            names = ", ".join(c.name for c in self.failed)
            first = f"{len(self.failed)} of {len(self.checks)} exact checks FAIL: {names}"
        else:
            first = f"all {len(self.checks)} exact checks hold"
        where = f"{self.m} concepts, {len(self.edges)} edges, seed {self.seed}"
        return "\n".join([f"{first} ({where})", *(c.verdict for c in self.checks)])

    def figures(self) -> dict[str, Figure]:
        """The descents."""
        from graticule.sims.plots.theorems import descent_figure

        return {_CURVES: descent_figure(self.curves)}

    def tables(self) -> dict[str, pd.DataFrame]:
        """Numbers and bars; what a trained learner keeps of them; statements and sources."""
        numbers = pd.DataFrame(
            {
                "check": [c.name for c in self.checks],
                "holds": ["yes" if c.holds else "NO" for c in self.checks],
                "measured": [f"{c.measured:.3g}" for c in self.checks],
                "bar": [f"{c.relation} {c.tolerance:.3g}" for c in self.checks],
                "what is measured": [c.quantity for c in self.checks],
                "further": [_further(c) for c in self.checks],
            }
        )
        claims = pd.DataFrame(
            {
                "check": [c.name for c in self.checks],
                "statement": [c.statement for c in self.checks],
                "source": [c.source for c in self.checks],
            }
        )
        kept = pd.DataFrame(
            {
                "check": self.trained["check"],
                "measured": [f"{x:.3g}" for x in self.trained["measured"]],
                "premise off by": [f"{x:.3g}" for x in self.trained["premise"]],
                "what is measured": self.trained["quantity"],
            }
        )
        return {_TABLE: numbers, **({_TRAINED: kept} if len(kept) else {}), _STATEMENTS: claims}

    def to_json(self) -> dict[str, Any]:
        """All fields, and of every check whether it holds and its line."""
        out = super().to_json()
        out["checks"] = [
            {**said, "holds": c.holds, "verdict": c.verdict}
            for said, c in zip(out["checks"], self.checks, strict=True)
        ]
        return {**out, "holds": not self.failed}


def _further(check: Check) -> str:
    told = [f"{name} {value:.3g}" for name, value in check.details.items()]
    return "; ".join([*told, *([check.note] if check.note else [])])
