"""Embedding against unembedding: do contexts of two languages differ along those languages' word pairs?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.hooks.calls import renamed, renamed_fields
from graticule.hooks.doors import MODEL, door
from graticule.hooks.messages import bar
from graticule.hooks.protocols import HookedModel
from graticule.hooks.saved import SavedResult
from graticule.probes.core.resample import weights_within
from graticule.probes.geometry import Metric
from graticule.probes.scores.significance import holm, share_reaching
from graticule.probes.steering import signs
from graticule.probes.words.cosines import (
    LEVEL,
    TAILS,
    PairRows,
    check_n_bootstrap,
    pair_rows,
    unit_rows,
)
from graticule.probes.words.vocabulary import (
    ARROW,
    METRICS,
    PairLists,
    Readout,
    keep_pairs,
    last_residuals,
    make_metrics,
    pair_lists,
    parallel_contexts,
    words_provenance,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_BARS = "|cosine| of the mean context difference with each concept's mean word-pair difference, largest first"
_RANKS = "The matching concept among all, by pair of languages and inner product"
_SHOWN = ("metric", "pair", "cosine", "low", "high", "rank", "first", "level_random", "p", "holm")


@renamed_fields(draws="n_bootstrap")
@dataclass(frozen=True)
class Languages(SavedResult):
    """Parallel contexts in several languages against the concepts of word pairs."""

    KIND: ClassVar[str] = "word_languages"

    model: str
    """The model's name."""
    metrics: tuple[str, ...]
    """Inner products."""
    pairs: tuple[str, ...]
    """Pairs of languages, `French ⇒ Spanish`."""
    contexts: int
    """Sentences, each in every language."""
    scores: pd.DataFrame
    """One row per `metric`, `pair` of languages and `concept`: `cosine` of the mean embedding difference with
    the concept's mean unembedding difference, its bootstrap interval `low`, `high` (over sentences and word
    pairs), `rank` of |cosine|, `first` (share of resamples in which it is largest), `level_random` (95% of
    |cosine| of as many random vocabulary pairs), `matching`. The same in every basis: `log_odds`, the
    mean product γᵀλ of differences in nats, `positive`, the share of sentences × word pairs in which it is
    above 0, and `p` of the mean (each sentence's difference in a random order) with `holm` over concepts."""
    n_bootstrap: int = field(metadata={"saved_as": "draws"})
    """Draws of the bootstrap and of the nulls."""
    provenance: Mapping[str, Any]
    """Model, settings and versions."""

    @property
    def title(self) -> str:
        """The model."""
        return f"Languages in contexts and in words: {self.model}"

    @property
    def matches(self) -> pd.DataFrame:
        """The matching concept's row of every metric and pair that has one."""
        return self.scores[self.scores["matching"]].reset_index(drop=True)

    def summary(self) -> str:
        """How often the matching concept comes first."""
        matches = self.matches
        if matches.empty:
            return f"none of the word lists matches {', '.join(self.pairs)}"
        first = [
            f"{int((rows['rank'] == 1).sum())} of {len(rows)} ({metric})"
            for metric in self.metrics
            for rows in [matches[matches["metric"] == metric]]
        ]
        lines = [f"the matching concept is the nearest of all for {', '.join(first)} pairs of languages"]
        for pair in self.pairs:
            each = "; ".join(
                f"{row.metric} {row.cosine:z.3f} [{row.low:z.3f}, {row.high:z.3f}], rank {row.rank}"
                for row in matches[matches["pair"] == pair].itertuples()
            )
            lines.append(f"{pair}: {each or 'no word list of these languages'}")
        lines.append(f"{self.contexts} parallel contexts; intervals over contexts and word pairs")
        return "\n".join(lines)

    def figures(self) -> dict[str, Figure]:
        """Ranked bars, one figure per metric."""
        from graticule.probes.plots.words import language_figure

        return {
            f"{_BARS}: {m}": language_figure(self.scores[self.scores["metric"] == m], self.pairs)
            for m in self.metrics
        }

    def tables(self) -> dict[str, pd.DataFrame]:
        """The matching concepts."""
        return {_RANKS: self.matches[[*_SHOWN, "log_odds", "positive"]].round(4)}


@renamed("pairs", draws="n_bootstrap")
@door(model=MODEL)
def languages(
    model: HookedModel,
    contexts: Mapping[str, Sequence[str]] | Path | str | None = None,
    *,
    pairs: PairLists | Path | str | None = None,
    metrics: str | Sequence[str] = METRICS,
    n_bootstrap: int = 1000,
    n_random: int = 5000,
    residuals: Float[np.ndarray, "row d_model"] | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Languages:
    """The mean embedding steering vector of two languages against every concept's mean unembedding vector.

    The embedding is λ, the residual after the final norm at the last token of a context; the vector is the
    mean of λ(second language) − λ(first) over parallel contexts (Jiang et al. 2403.03867, section 5.2).
    Vectors are compared with functionals under an inner product: the causal one compares Cov^½ λ̄ with
    Cov^−½ γ̄, and does not depend on the basis.

    Args:
        model: With `W_U` and a tokenizer.
        contexts: Languages → contexts, line by line the same sentence, or a file as `lists.parallel_contexts`
            reads it; None for the packaged English, French, German and Spanish ones.
        pairs: As for `words`.
        metrics: As for `words`.
        n_bootstrap: How often rows are resampled for the intervals, and how many draws each null has.
        n_random: Random pairs of vocabulary tokens.
        residuals: As for `words`.
        seed: The seed of what is drawn.
        progress: Whether a bar is drawn; by default where it takes long.

    Raises:
        ValueError: As `words` and `parallel_contexts` do.
    """
    check_n_bootstrap(n_bootstrap)
    texts = contexts if isinstance(contexts, Mapping) else parallel_contexts(contexts)
    if len({len(column) for column in texts.values()}) != 1 or len(texts) < 2:
        raise ValueError(f"contexts of {', '.join(texts)}: two or more languages with as many contexts each")
    tokens, readout = keep_pairs(model, pair_lists(pairs)), Readout.of(model)
    rows = pair_rows(readout, tokens, n_random, seed)
    products = make_metrics(model, readout, metrics, residuals, progress=progress)
    finals = last_residuals(model, [text for column in texts.values() for text in column], progress)
    final_of = dict(zip(texts, np.split(finals, len(texts)), strict=True))
    steering: dict[str, np.ndarray] = {}
    for two in combinations(final_of, 2):
        name, turned = ARROW.join(two), ARROW.join(two[::-1])
        if turned in tokens.concepts and name not in tokens.concepts:  # the order that the word lists have
            name = turned
        start, end = name.split(ARROW)
        steering[name] = final_of[end] - final_of[start]
    scores: list[pd.DataFrame] = []
    with bar(len(products), "languages", "metric", progress) as advance:
        for metric in products.values():
            tables = _scores(rows, list(steering.values()), metric, n_bootstrap, seed)
            for name, table in zip(steering, tables, strict=True):
                table.insert(0, "pair", name)
                table.insert(0, "metric", metric.name)
                scores.append(table.assign(matching=table["concept"] == name))
            advance.update()
    provenance = words_provenance(
        model,
        {"draws": n_bootstrap, "n_random": n_random, "seed": seed, "metrics": list(products)},
        contexts="packaged" if contexts is None else "given",
        pairs="packaged" if pairs is None else "given",
    )
    return Languages(
        model=str(provenance["model"]["name"]),
        metrics=tuple(products),
        pairs=tuple(steering),
        contexts=len(finals) // len(texts),
        scores=pd.concat(scores, ignore_index=True),
        n_bootstrap=n_bootstrap,
        provenance=provenance,
    )


def _scores(
    rows: PairRows, contexts: Sequence[np.ndarray], metric: Metric, n_bootstrap: int, seed: int
) -> list[pd.DataFrame]:
    """Every concept against each pair of languages' `[context, width]` differences."""
    rng, n, slices, tokens = np.random.default_rng(seed), len(contexts[0]), rows.slices, rows.tokens
    steering = np.stack([c @ metric.write.T for c in contexts])  # [pair, context, width]
    averages = unit_rows(steering.mean(axis=1))
    weights = weights_within(np.array([n]), n_bootstrap, rng).T.astype(np.float64)
    drawn = np.stack([unit_rows(weights @ s) for s in steering]).astype(np.float32)
    differences = (rows.steering @ metric.read.T).astype(np.float32)
    booted = np.empty((len(contexts), n_bootstrap, len(slices)), np.float32)
    for c, s in enumerate(slices):
        weights = weights_within(np.array([s.stop - s.start]), n_bootstrap, rng).T
        booted[:, :, c] = (unit_rows(weights @ differences[s]) * drawn).sum(axis=2)
    pool = (rows.vocabulary @ metric.read.T).astype(np.float32)
    chance = _random_level(pool, averages.astype(np.float32), tokens.sizes, n_bootstrap, rng)
    means = unit_rows(np.stack([differences[s].mean(axis=0, dtype=np.float64) for s in slices]))
    turns = signs(n, n_bootstrap, np.random.default_rng(seed))
    tables: list[pd.DataFrame] = []
    for k, context in enumerate(contexts):
        cosine, samples = means @ averages[k], booted[k].astype(np.float64)
        # resampling adds noise to both means and so shrinks their cosine: that bias is taken off
        low, high = np.quantile(samples - samples.mean(axis=0), TAILS, axis=0)
        # in any basis: γᵀλ of differences [word pair, context], in nats, and random signs of contexts
        products = rows.steering @ context.T
        moved = np.stack([products[s].mean(axis=0) for s in slices])
        p = share_reaching(np.abs(moved @ turns / n).T, np.abs(moved.mean(axis=1)))
        columns: dict[str, Any] = {
            "concept": tokens.concepts,
            "kept": tokens.sizes,
            "cosine": cosine,
            "low": cosine + low,
            "high": cosine + high,
            "rank": 1 + (-np.abs(cosine)).argsort(kind="stable").argsort(kind="stable"),
            "first": (np.abs(samples).argmax(axis=1)[:, None] == np.arange(len(cosine))).mean(axis=0),
            "level_random": chance[k],
            "p": p,
            "holm": holm(p),
            "log_odds": moved.mean(axis=1),
            "positive": [float((products[s] > 0).mean()) for s in slices],
        }
        tables.append(pd.DataFrame(columns))
    return tables


def _random_level(
    pool: np.ndarray, averages: np.ndarray, sizes: np.ndarray, n_bootstrap: int, rng: np.random.Generator
) -> np.ndarray:
    """`LEVEL` of |cosine| of means of so many random pairs with each average: `[pair, concept]`."""
    most, out = int(sizes.max()), np.empty((n_bootstrap, len(averages), len(sizes)))
    for d in range(n_bootstrap):
        running = np.cumsum(pool[rng.choice(len(pool), most, replace=False)], axis=0, dtype=np.float32)
        out[d] = np.abs(averages @ unit_rows(running[sizes - 1]).T)
    return np.quantile(out, LEVEL, axis=0)
