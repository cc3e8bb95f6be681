"""`words`: which concepts a model's vocabulary represents linearly, by counterfactual word pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32

from graticule.hooks.calls import old_name, renamed, renamed_fields
from graticule.hooks.doors import MODEL, door
from graticule.hooks.messages import UnknownNameError, bar
from graticule.hooks.protocols import HookedModel
from graticule.hooks.result import headed
from graticule.hooks.saved import SavedResult
from graticule.probes.words.cosines import (
    ALPHA,
    ConceptCosines,
    check_n_bootstrap,
    concept_cosines,
    pair_rows,
)
from graticule.probes.words.vocabulary import (
    METRICS,
    PairLists,
    Readout,
    keep_pairs,
    make_metrics,
    pair_lists,
    words_provenance,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_HEAT = "Mean cosine between concepts' unembedding differences; a pair meets neither itself nor its words"
_WITHIN = "Within concepts: mean cosine with its 95% interval, against chance"
_LOO = "Each pair on the direction of its concept's other pairs, against random pairs"
_COLUMNS = {
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


@renamed_fields(draws="n_bootstrap")
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
    """One row per `metric` and `concept`: `kept` pairs, `mean` with `low` and `high` (bootstrap over pairs),
    `plain`, `largest_other` (|mean| with any other concept), the 95% level and one-sided p of four nulls
    (`flipped`: each pair in a random order; `vocabulary`: random pairs of tokens; `listed`: of the lists' own
    words; `shuffled`: the concept's words paired anew, against `plain`), `holm` and `benjamini_hochberg` of
    `p_flipped`, `holm_shuffled`, and `above` (share of leave-one-out projections beyond 95% of random
    pairs')."""
    between: pd.DataFrame
    """One row per `metric` and two concepts (`first`, `second`): `mean`, `low`, `high`, `plain`, `shared`
    (entries left out because two pairs share a word), `aligned` (the mean over the root of both diagonals:
    the cosine of the two directions), `p` (two-sided), `holm`, `benjamini_hochberg`."""
    projections: pd.DataFrame
    """One row per `metric` and pair: `concept`, `start`, `end`, `projection` (leave-one-out, in standard
    deviations of random pairs)."""
    random: Float32[np.ndarray, "metric concept random"]
    """Random vocabulary pairs on each concept's direction, in their standard deviations."""
    counts: pd.DataFrame
    """`concept`, `given` and `kept` pairs, concepts with too few for analysis among them."""
    dropped: pd.DataFrame
    """Pairs left out: `concept`, `start`, `end`, `why`."""
    n_bootstrap: int = field(metadata={"saved_as": "draws"})
    """Draws of every null and of the bootstrap."""
    provenance: Mapping[str, Any]
    """Model, settings and versions."""

    @property
    def title(self) -> str:
        """The model."""
        return f"Counterfactual word pairs: {self.model}"

    def above_chance(self, metric: str) -> tuple[str, ...]:
        """Concepts whose pairs point one way under a metric: Holm's p over concepts at most 0.05.

        Raises:
            KeyError: The metric is not among `metrics`.
        """
        rows = self._rows(metric)
        return tuple(map(str, rows.loc[rows["holm"] <= ALPHA, "concept"]))

    def found(self, metric: str) -> tuple[str, ...]:
        """The old name of `above_chance`."""
        old_name("Words.found", "above_chance")
        return self.above_chance(metric)

    def own(self, metric: str) -> int:
        """How many concepts' pairs are closer to each other in the mean than to any other concept's; 0 where
        there is one concept alone."""
        rows = self._rows(metric)
        return int((rows["mean"] > rows["largest_other"]).sum())

    def contrast(self, metric: str) -> tuple[float, float]:
        """Mean of the diagonal, and mean absolute value off it."""
        means = self.means[self.metrics.index(metric)]
        off = ~np.eye(len(means), dtype=bool)
        return float(np.nanmean(np.diag(means))), float(np.nanmean(np.abs(means[off]))) if off.any() else 0.0

    def _rows(self, metric: str) -> pd.DataFrame:
        if metric not in self.metrics:
            raise UnknownNameError(f"no metric {metric!r}; this result has {', '.join(self.metrics)}")
        return self.within[self.within["metric"] == metric]

    def summary(self) -> str:
        """Diagonal against off-diagonal under each product, then what stands behind it."""
        n, contrasts = len(self.concepts), {metric: self.contrast(metric) for metric in self.metrics}

        def rank(metric: str) -> tuple[int, float]:
            within, between = contrasts[metric]
            return -self.own(metric), -(within / between if between > 0 else np.inf)

        order = sorted(self.metrics, key=rank)
        head, each = (
            "mean cosine of the pairs",
            [f"{contrasts[m][0]:z.3f} under the {m} product" for m in order],
        )
        if n > 1:
            head = "concepts nearest to their own pairs"
            each = [
                f"{self.own(m)} of {n} under the {m} product "
                f"(mean cosine {contrasts[m][0]:z.3f} within, {contrasts[m][1]:z.3f} between)"
                for m in order
            ]
        lines = [f"{head}: {'; '.join(each)}"]
        if n / (1 + self.n_bootstrap) > ALPHA:
            lines.append(
                f"not decidable: {self.n_bootstrap} draws cannot bring a p-value below {ALPHA:g} / {n} "
                f"(Holm); take {ceil(n / ALPHA):,} or more"
            )
        few = int((self.counts["kept"] > 0).sum()) - n
        n_usable, given = int(self.counts["kept"].sum()), int(self.counts["given"].sum())
        more = f"; {few} more have too few" if few > 0 else ""
        lines += [self._metric_line(metric) for metric in order]
        return "\n".join([*lines, f"{n_usable} of {given} pairs kept (single tokens) in {n} concepts{more}"])

    def _metric_line(self, metric: str) -> str:
        rows, n = self._rows(metric), len(self.concepts)
        paired = int((rows["holm_shuffled"] <= ALPHA).sum())
        line = (
            f"{metric}: {len(self.above_chance(metric))} of {n} concepts above chance (Holm), the pairing "
            f"matters (re-paired words do worse) in {paired}; {rows['above'].mean():.0%} of pairs lie beyond "
            f"95% of random ones"
        )
        shared = self.between[(self.between["metric"] == metric) & (self.between["shared"] > 0)]
        moved = (shared["plain"] - shared["mean"])[shared["mean"].notna()].abs()
        if moved.empty:
            return line
        return f"{line}; shared words would have moved a cosine between concepts by up to {moved.max():z.3f}"

    def figures(self) -> dict[str, Figure]:
        """Heat-maps, the diagonal with its nulls, leave-one-out projections by metric."""
        from graticule.probes.plots.words import heat_figure, loo_figure, within_figure

        out = {
            _HEAT: heat_figure(self.means, self.concepts, self.metrics),
            _WITHIN: within_figure(self.within, self.concepts, self.metrics),
        }
        for metric, random in zip(self.metrics, self.random, strict=True):
            projections = self.projections[self.projections["metric"] == metric]
            out[f"{_LOO}: {metric}"] = loo_figure(projections, random, self.concepts)
        return out

    def tables(self) -> dict[str, pd.DataFrame]:
        """Concepts under every metric; the largest off-diagonals; kept and dropped pairs."""
        largest = self.between.reindex(self.between["mean"].abs().sort_values(ascending=False).index)
        top = largest.groupby("metric", sort=False).head(12).sort_values("metric", kind="stable")
        top = top.drop(columns="benjamini_hochberg")
        pairs = self.dropped["start"] + " " + self.dropped["end"]
        dropped = [", ".join(pairs[self.dropped["concept"] == c]) for c in self.counts["concept"]]
        return {
            "Concepts": headed(self.within, _COLUMNS).round(4),
            "The largest cosines between concepts": top.round(4).reset_index(drop=True),
            "Pairs kept: both words single tokens, and different": self.counts.assign(dropped=dropped),
        }


@renamed(draws="n_bootstrap")
@door(model=MODEL)
def words(
    model: HookedModel,
    pairs: PairLists | Path | str | None = None,
    *,
    metrics: str | Sequence[str] = METRICS,
    n_bootstrap: int = 1000,
    n_random: int = 5000,
    residuals: Float[np.ndarray, "row d_model"] | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Words:
    """Cosines of counterfactual word pairs in the unembedding, within and between concepts.

    A pair's steering vector is γ(end) − γ(start), γ the unembedding row (Jiang et al. 2403.03867, section
    5.1; Park et al. 2311.03658). Under every inner product: mean cosines between the concepts' sets, with
    bootstrap intervals over pairs; four nulls for the diagonal; leave-one-out projections against random
    pairs. Two pairs that share a word are never set against each other: they are alike for that alone.

    Args:
        model: With `W_U` and a tokenizer.
        pairs: Concept → pairs of words, a folder of `[a - b].txt` files, or None for the packaged lists.
            Pairs whose words are not single, different tokens are left out and counted.
        metrics: Of `euclidean`, `whitened` (covariance of the residual after the final norm) and `causal`
            (inverse covariance of the unembedding rows).
        n_bootstrap: How often pairs are resampled for the intervals, and how many draws each null has.
        n_random: Random pairs of vocabulary tokens, and of the lists' words.
        residuals: Rows after the final norm for the whitened product; by default the model is run on the
            packaged contexts. With fewer rows than `d_model` it sees only the directions in which they vary.
        seed: The seed of what is drawn.
        progress: Whether a bar is drawn; by default where it takes long.

    Raises:
        ValueError: Unknown metrics, a model without `W_U` or tokenizer, too few single-token pairs, or too
            few draws.
        FileNotFoundError: A folder without lists.
    """
    check_n_bootstrap(n_bootstrap)
    tokens, readout = keep_pairs(model, pair_lists(pairs)), Readout.of(model)
    rows = pair_rows(readout, tokens, n_random, seed)
    products = make_metrics(model, readout, metrics, residuals, progress=progress)
    cosines: dict[str, ConceptCosines] = {}
    with bar(len(products), "words", "metric", progress) as advance:
        for name, metric in products.items():
            cosines[name] = concept_cosines(rows.under(metric), n_bootstrap, seed)
            advance.update()
    provenance = words_provenance(
        model,
        {"draws": n_bootstrap, "n_random": n_random, "seed": seed, "metrics": list(products)},
        pairs="packaged" if pairs is None else "given",
        residuals="packaged contexts" if residuals is None else f"{len(residuals)} given rows",
    )
    each = list(cosines.values())
    return Words(
        model=str(provenance["model"]["name"]),
        concepts=tokens.concepts,
        metrics=tuple(products),
        means=np.stack([c.means for c in each]),
        plain=np.stack([c.plain for c in each]),
        random=np.stack([c.random for c in each]),
        within=_joined({name: c.within for name, c in cosines.items()}),
        between=_joined({name: c.between for name, c in cosines.items()}),
        projections=_joined({name: c.projections for name, c in cosines.items()}),
        counts=tokens.counts,
        dropped=tokens.dropped,
        n_bootstrap=n_bootstrap,
        provenance=provenance,
    )


def _joined(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Tables one after another, each with its metric in a first column."""
    for metric, table in tables.items():
        table.insert(0, "metric", metric)
    return pd.concat(list(tables.values()), ignore_index=True)
