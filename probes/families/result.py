"""`Family`: many findings together, and which of them stand when all tests are counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd

from graticule.hooks.messages import UnknownNameError
from graticule.hooks.result import Part, headed, with_decimals
from graticule.hooks.saved import SavedResult
from graticule.probes.core.verdict import STRUCTURE
from graticule.probes.plots.primitives import dots_trace, level, line_trace, new_figure
from graticule.probes.plots.style import ACCENT, FAINT, INK, need_columns, style
from graticule.probes.scores.metrics import count_of, signed

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Method = Literal["benjamini-hochberg", "benjamini-yekutieli", "max-t"]
METHODS: Mapping[str, tuple[str, str]] = {
    "benjamini-hochberg": ("q_bh", "share of false ones among those named, Benjamini-Hochberg"),
    "benjamini-yekutieli": ("q_by", "share of false ones among those named, Benjamini-Yekutieli"),
    "max-t": ("p_max", "chance of any false one, max-T"),
}
"""Method → its column of `members`, and what it keeps below the level."""
_MEMBERS = {
    "name": "finding",
    "model": "model",
    "table": "table",
    "label": "verdict in the family",
    "gain": "gain",
    "unit": "in",
    "low": "95% from",
    "high": "95% to",
    "p": "p",
    "q_bh": "q (Benjamini-Hochberg)",
    "q_by": "q (Benjamini-Yekutieli)",
    "p_max": "p (max-T)",
    "bonferroni": "p (Bonferroni)",
    "surface": "surface",
    "score": "probe alone",
    "left": "baselines leave",
    "judged_at": "judged at",
    "point": "hook point",
    "alone": "verdict by itself",
}
_CHANCES = ("p", "q_bh", "q_by", "p_max", "bonferroni")
_IN_UNIT = ("gain", "surface", "score", "left")
_LISTED = 10
_FEW = 30
"""Findings whose ranks are drawn one by one."""
_LEAST_P = 1e-12
"""The least p-value that is drawn in its place."""


@dataclass(frozen=True)
class Family(SavedResult):
    """The result of `graticule.judge_family`."""

    KIND: ClassVar[str] = "family"

    members: pd.DataFrame
    """One row per finding, the smallest `p` first: `name`, `model`, `table`, `target`, `point`,
    `judged_at` (the same, or of a verdict by folds their layers), `gain`, `unit`, `low`, `high`, `surface`,
    `score`, `left`, `saturated` (the verdict's), `clusters`, `rows` (the same where findings share their
    test rows), `every_row` (where they share all rows), `p` (one-sided, that the gain is not above 0),
    `q_bh`, `q_by`, `p_max`, `bonferroni`, `alone` (the verdict by itself), `named`, `label`."""
    method: str
    """What decides: a key of `METHODS`."""
    level: float
    """What it is kept below."""
    provenance: Mapping[str, Any]
    """What the findings are of, draws, seed and versions."""

    @property
    def title(self) -> str:
        """How many findings, of which models and tables."""
        models, tables = (list(dict.fromkeys(self.members[column])) for column in ("model", "table"))
        of = models[0] if len(models) == 1 else f"{len(models)} models"
        sets = min(len(tables), self.members.get("every_row", self.members["rows"]).nunique())
        on = f"{sets} tables" if sets > 1 else tables[0] if len(tables) == 1 else "the same rows"
        return f"{count_of(len(self.members), 'finding')} of {of} on {on}"

    @property
    def saturated(self) -> int:
        """Findings whose baselines leave less than could be called structure."""
        return int(self.members["saturated"].sum()) if "saturated" in self.members else 0

    @property
    def in_banner(self) -> int:
        """How many are named, and of how many that is no evidence."""
        return 1 + (self.saturated > 0)

    @property
    def named(self) -> tuple[str, ...]:
        """The findings that stand in the family, the smallest p first."""
        return tuple(map(str, self.members.loc[self.members["named"], "name"]))

    def label(self, name: str) -> str:
        """The verdict of one finding in the family.

        Raises:
            KeyError: There is none of this name.
        """
        rows = self.members.loc[self.members["name"] == name, "label"]
        if rows.empty:
            raise UnknownNameError(f"no finding {name!r}; there are {', '.join(self.members['name'])}")
        return str(rows.iloc[0])

    def count(self, column: str) -> int:
        """How many would be named by a column of adjusted p-values: `q_bh`, `q_by`, `p_max`, `bonferroni`."""
        stands = self.members["alone"] == STRUCTURE
        return int((stands & (self.members[column] <= self.level)).sum())

    def summary(self) -> str:
        """How many are named and by what, how many would be by other means, and the first of them."""
        members, tests = self.members, int(self.members["p"].notna().sum())
        named, alone = members[members["named"]], int((members["alone"] == STRUCTURE).sum())
        lines = [
            f"{len(named)} of {count_of(len(members), 'finding')} named {STRUCTURE}, with "
            f"{count_of(tests, 'test')} counted",
            *self._saturated(),
            f"kept at or below {self.level:g}: {METHODS[self.method][1]}",
            f"by their own verdicts {alone}; where there is nothing at all, at most {0.025 * tests:.3g} of "
            "them would lie above 0 by chance, on average",
            "by other means: "
            + ", ".join(
                f"{what} {self.count(column)}"
                for column, what in (
                    ("q_bh", "Benjamini-Hochberg"),
                    ("q_by", "Benjamini-Yekutieli"),
                    ("p_max", "max-T"),
                    ("bonferroni", "Bonferroni"),
                )
                if column != METHODS[self.method][0]
            ),
        ]
        if tests < len(members):
            lines.append(f"{len(members) - tests} gains are undefined, and are no test")
        column = METHODS[self.method][0]
        rows: Any = named.head(_LISTED).itertuples()
        lines += [
            f"{row.name}: gain {signed(row.gain, 'these rows')}, p {row.p:.2g}, adjusted "
            f"{getattr(row, column):.2g}"
            for row in rows
        ]
        if len(named) > _LISTED:
            lines.append(f"… and {len(named) - _LISTED} more")
        stopped = members[self._stopped()]
        if len(stopped):
            several: Any = stopped.head(_LISTED).itertuples()
            each = "; ".join(f"{row.name} (p {row.p:.2g}): {row.alone}" for row in several)
            more = f"; and {len(stopped) - _LISTED} more" if len(stopped) > _LISTED else ""
            lines.append(f"small p, and not named for what their own verdicts say: {each}{more}")
        return "\n".join(lines)

    def _stopped(self) -> pd.Series:
        """Findings whose gain would pass for its p alone, and whose own verdict is not structure."""
        p = self.members["p"]
        return (p <= self.level * p.rank() / len(p)) & (self.members["alone"] != STRUCTURE)

    def _saturated(self) -> list[str]:
        if not self.saturated:
            return []
        return [
            f"in {self.saturated} of {len(self.members)} the baselines leave less than could be called "
            "structure: no evidence that the model lacks these concepts"
        ]

    def figures(self) -> dict[str, Figure]:
        """Every p-value by its rank, and the line under which the false-discovery rate holds."""
        if not self.members["p"].notna().any():
            return {}
        return {"Every finding's p-value by its rank": ranked_figure(self.members, self.level),
                "Every finding's gain against its p-value": gain_figure(self.members)}  # fmt: skip

    def tables(self) -> dict[str, pd.DataFrame]:
        """All findings, the smallest p first."""
        members = self.members
        same = [c for c in ("model", "table", "point", "judged_at", "unit") if c in members]
        one = {c for c in same if members[c].nunique() == 1}
        left_out = one | ({"table"} if members["table"].equals(members["name"]) else set())
        by_fold = "judged_at" in members and not members["judged_at"].equals(members["point"])
        left_out |= set() if by_fold else {"judged_at"}
        left_out |= {"alone"} if members["alone"].equals(members["label"]) else set()
        members = members.assign(**{c: members[c].map(_chance) for c in _CHANCES if c in members})
        headings = {key: _MEMBERS[key] for key in _MEMBERS if key in members and key not in left_out}
        if by_fold and "point" in headings:
            headings["point"] = "saved probe"
        if "unit" in one:
            headings |= {c: f"{headings[c]}, {members['unit'].iloc[0]}" for c in _IN_UNIT if c in headings}
        scores = [headings[c] for c in (*_IN_UNIT, "low", "high") if c in headings]
        return {
            f"{count_of(len(members), 'finding')}, the smallest p first": with_decimals(
                headed(members, headings), scores
            )
        }

    def layout(self, figures: Sequence[str], tables: Sequence[str]) -> list[Part]:
        """The first figure, the table, then the gains."""
        return self.figure_then_table(figures, tables) if figures else super().layout(figures, tables)


def _chance(p: float) -> str:
    """Two digits, however small; of an undefined gain none."""
    return "" if p != p else f"{p:.2g}"


def ranked_figure(members: pd.DataFrame, at: float) -> Figure:
    """p-values by rank on logarithmic axes, with the lines of Benjamini-Hochberg and Bonferroni."""
    need_columns(members, "name", "p", "named")
    rows = members[members["p"].notna()].sort_values("p", kind="stable")
    rank, tests = np.arange(1, len(rows) + 1), len(rows)
    fig = new_figure(*_dots(rows, rank, rows["p"].to_numpy(np.float64)))
    ends = np.array([1.0, float(max(tests, 2))])
    few = tests <= _FEW
    fig.add_trace(line_trace(ends, at * ends / tests, "Benjamini-Hochberg", ACCENT, 1.5, dash="dash"))
    fig.add_trace(line_trace(ends, np.full(2, at / tests), "Bonferroni", INK, 1, dash="dot"))
    across = {"type": "linear" if few else "log", "title_text": "rank of the p-value", "dtick": 1}
    if few:
        across |= {"dtick": max(1, tests // 10), "range": [0.5, tests + 0.5]}
    return style(fig, height=400, x=across, y=_p_axis(rows))


def _p_axis(rows: pd.DataFrame) -> dict[str, Any]:
    """Powers of ten, as many as are told apart."""
    decades = -np.log10(_drawn(rows["p"].to_numpy(np.float64)).min())
    what = "p" if rows["p"].min() >= _LEAST_P else f"p (below {_LEAST_P:.0e} drawn there)"
    step = max(1, int(np.ceil(decades / 8)))
    return {"type": "log", "title_text": what, "exponentformat": "power", "dtick": step}


def gain_figure(members: pd.DataFrame) -> Figure:
    """Gains against p-values, those named apart."""
    need_columns(members, "name", "gain", "p", "named")
    rows = members[members["p"].notna()]
    fig = new_figure(*_dots(rows, rows["gain"].to_numpy(np.float64), rows["p"].to_numpy(np.float64)))
    units = rows["unit"].unique() if "unit" in rows else []
    unit = f", {units[0]}" if len(units) == 1 else ""
    style(fig, height=400, x=f"gain over the surface{unit}", y={**_p_axis(rows), "autorange": "reversed"})
    level(fig, x=0, colour=FAINT, dash=None)
    return fig


def _dots(rows: pd.DataFrame, x: np.ndarray, y: np.ndarray) -> list[dict[str, Any]]:
    named = rows["named"].to_numpy(bool)
    passes = named if "alone" not in rows else named | (rows["alone"] == STRUCTURE).to_numpy(bool)
    names = rows["name"].astype(str) + "<br>p " + rows["p"].map("{:.2g}".format)
    texts, hover = names.to_numpy(), "%{text}<extra></extra>"
    parts = (
        (~passes, "not structure by its own verdict", FAINT),
        (passes & ~named, "structure by itself, not named", ACCENT),
        (named, "named", INK),
    )
    return [
        dots_trace(x[part], _drawn(y)[part], words, colour, 7, hover=hover, text=texts[part])
        for part, words, colour in parts
        if part.any()
    ]


def _drawn(p: np.ndarray) -> np.ndarray:
    """p-values with those that no axis can show at its end."""
    return np.maximum(p, _LEAST_P)
