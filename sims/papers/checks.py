"""An exact check of a theorem: a statement, the number that decides it, and the bar that it must clear."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

JIANG = "Jiang et al., arXiv 2403.03867"
PARK = "Park et al., arXiv 2311.03658"


def largest(values: Iterable[float]) -> float:
    """The largest of some numbers; NaN if one of them is, wherever it stands."""
    return float(np.max(list(values)))


@dataclass(frozen=True)
class Check:
    """One statement about tables f and g, decided by one number (and by its premise, where it has one)."""

    name: str
    """`Theorem 3`, say."""
    statement: str
    """What is claimed, in words."""
    source: str
    """Paper and theorem."""
    quantity: str
    """What `measured` is, in words, with its unit."""
    measured: float
    """The deciding number."""
    tolerance: float
    """The bar."""
    relation: Literal["≤", "≥"] = "≤"
    """On which side of the bar `measured` must lie."""
    premise: float = 0.0
    """How far the tables are from what the theorem presupposes; 0 where it presupposes nothing."""
    premise_tolerance: float = 0.0
    """How far they may be."""
    details: Mapping[str, float] = field(default_factory=dict[str, float])
    """Further numbers, by name."""
    note: str = ""
    """What a reader should know beside the number."""
    undecided: str = ""
    """Why the number decides nothing yet, and what would make it; empty where it decides."""

    @property
    def premise_holds(self) -> bool:
        """Whether the tables meet what the theorem presupposes."""
        return self.premise <= self.premise_tolerance

    @property
    def holds(self) -> bool:
        """Whether premise and conclusion are both met; NaN is never."""
        return self.premise_holds and self._clears_bar and not self.undecided

    @property
    def fails(self) -> bool:
        """Whether it is decided, and does not hold."""
        return not self.holds and not self.undecided

    @property
    def _clears_bar(self) -> bool:
        if self.relation == "≤":
            return self.measured <= self.tolerance
        return self.measured >= self.tolerance

    @property
    def verdict(self) -> str:
        """One line."""
        sign = {"≤": (">", "≤"), "≥": ("<", "≥")}[self.relation]
        line = f"{self.quantity} {self.measured:.3g} {sign[self._clears_bar]} {self.tolerance:.3g}"
        if not self.premise_holds:
            line += f"; its premise is off by {self.premise:.3g} (at most {self.premise_tolerance:.3g})"
        label = "not decided" if self.undecided else "holds" if self.holds else "FAILS"
        return "; ".join(
            part for part in (f"{self.name}: {label}, {line}", self.undecided, self.note) if part
        )
