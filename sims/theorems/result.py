"""An exact check (statement, deciding number, bar), and all of them as one result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd

from graticule.hooks.saved import SavedResult

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

JIANG = "Jiang et al., arXiv 2403.03867"
PARK = "Park et al., arXiv 2311.03658"
_CURVES = "Descent of Theorems 4, 12 and 14: cosine with the direction that each theorem names"
_TABLE = "Every check"
_TRAINED = "The same quantities on a trained learner, which meets the premises roughly at best: no verdict"
_STATEMENTS = "What is claimed"


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

    @property
    def premise_holds(self) -> bool:
        """Whether the tables meet what the theorem presupposes."""
        return self.premise <= self.premise_tolerance

    @property
    def holds(self) -> bool:
        """Whether premise and conclusion are both met; NaN is never."""
        return self.premise_holds and self._clears_bar

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
        end = f"; {self.note}" if self.note else ""
        return f"{self.name}: {'holds' if self.holds else 'FAILS'}, {line}{end}"


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
        trained = pd.DataFrame(
            {
                "check": self.trained["check"],
                "measured": [f"{x:.3g}" for x in self.trained["measured"]],
                "premise off by": [f"{x:.3g}" for x in self.trained["premise"]],
                "what is measured": self.trained["quantity"],
            }
        )
        return {_TABLE: numbers, **({_TRAINED: trained} if len(trained) else {}), _STATEMENTS: claims}

    def to_json(self) -> dict[str, Any]:
        """All fields, and of every check whether it holds and its line."""
        out = super().to_json()
        out["checks"] = [
            {**check, "holds": c.holds, "verdict": c.verdict}
            for check, c in zip(out["checks"], self.checks, strict=True)
        ]
        return {**out, "holds": not self.failed}


def descent_figure(curves: pd.DataFrame) -> Figure:
    """Cosine with the limit against the number of steps, from 1 on, a line a series; the limit is 1.

    Args:
        curves: a line a point, with `theorem` (a colour each), `series`, `step` and `cosine`.

    Raises:
        KeyError: If a column is missing.
    """
    from graticule.probes.plots.drawing import Figure, Scatter
    from graticule.probes.plots.style import ACCENT, BLOCKS, INK, MUTED, need_columns, plain, style

    need_columns(curves, "theorem", "series", "step", "cosine")
    colours, dashes = {"4": ACCENT, "12": BLOCKS[0], "14": BLOCKS[2]}, ("solid", "dot", "dash")
    fig = Figure()
    used: dict[str, int] = {}
    for name, rows in curves.groupby("series", sort=False):
        theorem = str(rows["theorem"].iloc[0])
        place = used[theorem] = used.get(theorem, -1) + 1
        drawn = rows[rows["step"] > 0]
        fig.add_trace(
            Scatter(
                x=drawn["step"],
                y=drawn["cosine"],
                mode="lines",
                line={"color": colours.get(theorem, INK), "width": 2, "dash": dashes[place % len(dashes)]},
                name=str(name),
                hovertemplate="step %{x:,}<br>cosine %{y:.5f}<extra>" + plain(name) + "</extra>",
            )
        )
    fig.add_hline(y=1, line={"color": MUTED, "width": 1, "dash": "dash"})
    style(
        fig,
        height=440,
        aspect=0.5,
        extra=90,
        note="The dashed line is the limit. For Theorem 4 the cosine is the least over steering vectors, "
        "with the hard-margin direction in closed form; for Theorem 14 likewise.",
    )
    last = int(curves["step"].max())
    fig.update_xaxes(type="log", title_text="updates", showgrid=False, dtick=1, range=[0, np.log10(last)])
    low = float(curves.loc[curves["step"] > 0, "cosine"].min())
    fig.update_yaxes(title_text="cosine with the limit's direction", range=[min(low, 0.0) - 0.05, 1.06])
    return fig


def _further(check: Check) -> str:
    details = [f"{name} {value:.3g}" for name, value in check.details.items()]
    return "; ".join([*details, *([check.note] if check.note else [])])
