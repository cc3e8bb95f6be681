"""`Words`: the heat-map of a vocabulary's concepts, as a result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32

from graticule.hooks.messages import UnknownNameError
from graticule.hooks.saved import SavedResult
from graticule.probes.words.heat import ALPHA

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_HEAT = "Mean cosine between concepts' unembedding differences; a pair meets neither itself nor its words"
_WITHIN = "Within concepts: mean cosine with its 95% interval, against chance"
_LOO = "Each pair on the direction of its concept's other pairs, against random pairs"
_TABLE = "Concepts"
_BETWEEN = "The largest cosines between concepts"
_COUNTS = "Pairs kept: both words single tokens, and different"


@dataclass(frozen=True)
class Words(SavedResult):
    """Counterfactual word pairs in a model's unembedding, under several inner products."""

    KIND: ClassVar[str] = "words"

    model: str
    """The model's name."""
    concepts: tuple[str, ...]
    """Analysed concepts, in the order of the heat-maps."""
    metrics: tuple[str, ...]
    """Inner products, in the order of the arrays."""
    means: Float[np.ndarray, "metric concept concept"]
    """Mean cosine between concepts' steering vectors; on the diagonal within. Self-pairs and pairs that share
    a word are left out."""
    plain: Float[np.ndarray, "metric concept concept"]
    """The same with pairs that share a word left in, as in Jiang et al. (2403.03867, figure 3)."""
    within: pd.DataFrame
    """A line a `metric` and `concept`: `kept` pairs, `mean` with `low` and `high` (bootstrap over pairs),
    `plain`, `largest_other` (|mean| with any other concept), the 95% level and one-sided p of four nulls
    (`flipped`: each pair in a random order; `vocabulary`: random pairs of tokens; `listed`: of the lists' own
    words; `shuffled`: the concept's words paired anew, against `plain`), `holm` and `benjamini_hochberg` of
    `p_flipped` over concepts, `holm_shuffled`, `above` (share of leave-one-out projections beyond 95% of
    random pairs')."""
    between: pd.DataFrame
    """A line a `metric` and two concepts (`first`, `second`): `mean`, `low`, `high`, `plain`, `shared`
    (entries left out because two pairs share a word), `aligned` (the mean over the root of both diagonals:
    the cosine of the two directions), `p` (two-sided), `holm`, `benjamini_hochberg`."""
    projections: pd.DataFrame
    """A line a `metric` and pair: `concept`, `start`, `end`, `projection` (leave-one-out, in standard
    deviations of random pairs)."""
    random: Float32[np.ndarray, "metric concept random"]
    """Random vocabulary pairs on each concept's direction, in their standard deviations."""
    counts: pd.DataFrame
    """`concept`, `given` and `kept` pairs, concepts with too few for analysis among them."""
    dropped: pd.DataFrame
    """Pairs left out: `concept`, `start`, `end`, `why`."""
    draws: int
    """Draws of every null and of the bootstrap."""
    provenance: Mapping[str, Any]
    """Model, settings and versions."""

    @property
    def title(self) -> str:
        """The model."""
        return f"Counterfactual word pairs: {self.model}"

    def found(self, metric: str) -> tuple[str, ...]:
        """Concepts whose pairs point one way under a metric: Holm's p over concepts at most 0.05.

        **Raises** `KeyError` for a metric not among `metrics`.
        """
        lines = self._lines(metric)
        return tuple(map(str, lines.loc[lines["holm"] <= ALPHA, "concept"]))

    def own(self, metric: str) -> int:
        """How many concepts' pairs are closer to each other in the mean than to any other concept's; 0 where
        there is one concept alone."""
        lines = self._lines(metric)
        return int((lines["mean"] > lines["largest_other"]).sum())

    def _lines(self, metric: str) -> pd.DataFrame:
        if metric not in self.metrics:
            raise UnknownNameError(f"no metric {metric!r}; this result has {', '.join(self.metrics)}")
        return self.within[self.within["metric"] == metric]

    def contrast(self, metric: str) -> tuple[float, float]:
        """Mean of the diagonal, and mean absolute value off it."""
        means = self.means[self.metrics.index(metric)]
        off = ~np.eye(len(means), dtype=bool)
        return float(np.nanmean(np.diag(means))), float(np.nanmean(np.abs(means[off]))) if off.any() else 0.0

    def summary(self) -> str:
        """Diagonal against off-diagonal under each product, then what stands behind it."""
        n = len(self.concepts)
        order = sorted(self.metrics, key=lambda m: (-self.own(m), -self._ratio(m)))
        first = "; ".join(
            f"{self.own(m)} of {n} under the {m} product (mean cosine {a:.3f} within, {b:.3f} between)"
            if n > 1
            else f"{a:.3f} under the {m} product"
            for m in order
            for a, b in [self.contrast(m)]
        )
        first = ("concepts nearest to their own pairs: " if n > 1 else "mean cosine of the pairs: ") + first
        few = int((self.counts["kept"] > 0).sum()) - n
        kept, given = int(self.counts["kept"].sum()), int(self.counts["given"].sum())
        out = [
            first,
            *self._undecidable(),
            *(self._told(m) for m in order),
            f"{kept} of {given} pairs kept (single tokens) in {n} concepts"
            + (f"; {few} more have too few" if few > 0 else ""),
        ]
        return "\n".join(out)

    def _undecidable(self) -> list[str]:
        """A line where so few draws cannot clear Holm's correction over so many concepts."""
        n = len(self.concepts)
        if n / (1 + self.draws) <= ALPHA:
            return []
        wanted = ceil(n / ALPHA)
        return [
            f"not decidable: {self.draws} draws cannot bring a p-value below {ALPHA:g} / {n} (Holm); take "
            f"{wanted:,} or more"
        ]

    def _told(self, metric: str) -> str:
        lines, n = self._lines(metric), len(self.concepts)
        paired = int((lines["holm_shuffled"] <= ALPHA).sum())
        high = self.between[self.between["metric"] == metric]
        high = high[(high["shared"] > 0) & high["mean"].notna()]
        line = (
            f"{metric}: {len(self.found(metric))} of {n} concepts above chance (Holm), the pairing matters "
            f"(re-paired words do worse) in {paired}; {lines['above'].mean():.0%} of pairs lie beyond 95% of "
            f"random ones"
        )
        if high.empty:
            return line
        moved = float((high["plain"] - high["mean"]).abs().max())
        return f"{line}; shared words would have moved a cosine between concepts by up to {moved:.3f}"

    def _ratio(self, metric: str) -> float:
        within, between = self.contrast(metric)
        return within / between if between > 0 else np.inf

    def figures(self) -> dict[str, Figure]:
        """Heat-maps, the diagonal with its nulls, leave-one-out projections by metric."""
        from graticule.probes.plots.words import heat_figure, loo_figure, within_figure

        out = {
            _HEAT: heat_figure(self.means, self.concepts, self.metrics),
            _WITHIN: within_figure(self.within, self.concepts, self.metrics),
        }
        for i, metric in enumerate(self.metrics):
            mine = self.projections[self.projections["metric"] == metric]
            out[f"{_LOO}: {metric}"] = loo_figure(mine, self.random[i], self.concepts)
        return out

    def tables(self) -> dict[str, pd.DataFrame]:
        """Concepts under every metric; the largest off-diagonals; kept and dropped pairs."""
        names = {
            "metric": "metric",
            "concept": "concept",
            "kept": "pairs",
            "mean": "mean cosine",
            "low": "2.5%",
            "high": "97.5%",
            "plain": "with shared words",
            "largest_other": "largest |cosine| with another",
            "level_vocabulary": "95% of random pairs",
            "level_listed": "95% of listed words",
            "p_flipped": "p (turned round)",
            "holm": "Holm",
            "p_shuffled": "p (re-paired)",
            "above": "beyond random pairs",
        }
        largest = self.between.reindex(self.between["mean"].abs().sort_values(ascending=False).index)
        top = largest.groupby("metric", sort=False).head(12).sort_values("metric", kind="stable")
        counts = self.counts.assign(
            dropped=[
                ", ".join(f"{a} {b}" for a, b in zip(lines["start"], lines["end"], strict=True))
                for concept in self.counts["concept"]
                for lines in [self.dropped[self.dropped["concept"] == concept]]
            ]
        )
        return {
            _TABLE: self.within[list(names)].rename(columns=names).round(4),
            _BETWEEN: top.drop(columns=["benjamini_hochberg"]).round(4).reset_index(drop=True),
            _COUNTS: counts,
        }
