"""Embedding against unembedding: do contexts of two languages differ along those languages' word pairs?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float
from tqdm.auto import tqdm

from graticule.hooks.artifact import library_versions
from graticule.hooks.doors import MODEL, door
from graticule.hooks.identity import model_identity
from graticule.hooks.protocols import HookedModel
from graticule.hooks.saved import SavedResult
from graticule.probes.words.heat import gather
from graticule.probes.words.language_scores import score_languages
from graticule.probes.words.lists import ARROW, PairLists, pair_lists, parallel_contexts
from graticule.probes.words.readout import METRICS, Readout, final_residuals, make_metrics
from graticule.probes.words.tokens import TokenPairs, keep_pairs

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_BARS = "|cosine| of the mean context difference with each concept's mean word-pair difference, largest first"
_RANKS = "The matching concept among all, by pair of languages and inner product"


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
    """A line a `metric`, `pair` of languages and `concept`: `cosine` of the mean embedding difference with
    the concept's mean unembedding difference, its bootstrap interval `low`, `high` (over sentences and word
    pairs), `rank` of |cosine|, `first` (share of resamples in which it is largest), `level_random` (95% of
    |cosine| of as many random vocabulary pairs), `matching`. The same in every basis: `log_odds`, the
    mean product γᵀλ of differences in nats, `positive`, the share of sentences × word pairs in which it is
    above 0, and `p` of the mean (each sentence's difference in a random order) with `holm` over concepts."""
    draws: int
    """Draws of the bootstrap and of the nulls."""
    provenance: Mapping[str, Any]
    """Model, settings and versions."""

    @property
    def title(self) -> str:
        """The model."""
        return f"Languages in contexts and in words: {self.model}"

    @property
    def matches(self) -> pd.DataFrame:
        """The matching concept's line of every metric and pair that has one."""
        return self.scores[self.scores["matching"]].reset_index(drop=True)

    def summary(self) -> str:
        """How often the matching concept comes first."""
        found = self.matches
        if found.empty:
            return f"none of the word lists matches {', '.join(self.pairs)}"
        said: list[str] = []
        for metric in self.metrics:
            lines = found[found["metric"] == metric]
            said.append(f"{int((lines['rank'] == 1).sum())} of {len(lines)} ({metric})")
        out = [f"the matching concept is the nearest of all for {', '.join(said)} pairs of languages"]
        for pair in self.pairs:
            told = [
                f"{line.metric} {line.cosine:.3f} [{line.low:.3f}, {line.high:.3f}], rank {line.rank}"
                for line in found[found["pair"] == pair].itertuples()
            ]
            out.append(f"{pair}: {'; '.join(told) or 'no word list of these languages'}")
        out.append(f"{self.contexts} parallel contexts; intervals over contexts and word pairs")
        return "\n".join(out)

    def figures(self) -> dict[str, Figure]:
        """Ranked bars, a figure a metric."""
        from graticule.probes.plots.word_contexts import language_figure

        return {
            f"{_BARS}: {m}": language_figure(self.scores[self.scores["metric"] == m], self.pairs)
            for m in self.metrics
        }

    def tables(self) -> dict[str, pd.DataFrame]:
        """The matching concepts."""
        columns = ["metric", "pair", "cosine", "low", "high", "rank", "first", "level_random", "p", "holm"]
        return {_RANKS: self.matches[[*columns, "log_odds", "positive"]].round(4)}


@door(model=MODEL)
def languages(
    model: HookedModel,
    contexts: Mapping[str, Sequence[str]] | Path | str | None = None,
    pairs: PairLists | Path | str | None = None,
    *,
    metrics: Sequence[str] = METRICS,
    draws: int = 1000,
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

    **Arguments:** `contexts` maps languages to contexts, line by line the same sentence, or is a file as
    `lists.parallel_contexts` reads it (None: the packaged English, French, German and Spanish ones); the
    others are those of `words`.

    **Raises** `ValueError` as `words` and `parallel_contexts` do.
    """
    held = contexts if isinstance(contexts, Mapping) else parallel_contexts(contexts)
    if len({len(texts) for texts in held.values()}) != 1 or len(held) < 2:
        raise ValueError(f"contexts of {', '.join(held)}: two or more languages with as many contexts each")
    tokens, readout = keep_pairs(model, pair_lists(pairs)), Readout.of(model)
    rows = gather(readout, tokens, n_random, seed)
    products = make_metrics(model, readout, metrics, residuals, progress=progress)
    n = len(next(iter(held.values())))
    texts = [text for many in held.values() for text in many]
    finals = final_residuals(model, texts, progress=progress)["ln_final"].double().numpy()
    named = {language: finals[i * n : (i + 1) * n] for i, language in enumerate(held)}
    steering: dict[str, np.ndarray] = {}
    for first, second in combinations(named, 2):
        name = _as_listed(f"{first}{ARROW}{second}", f"{second}{ARROW}{first}", tokens)
        start, end = name.split(ARROW)
        steering[name] = named[end] - named[start]
    quiet = not (progress if progress is not None else draws * len(rows.starts) > 200_000)
    scores: list[pd.DataFrame] = []
    for metric in tqdm(products.values(), desc="languages", unit="metric", disable=quiet, leave=False):
        tables = score_languages(tokens, rows, list(steering.values()), metric, draws, seed)
        for name, table in zip(steering, tables, strict=True):
            table.insert(0, "pair", name)
            table.insert(0, "metric", metric.name)
            scores.append(table.assign(matching=table["concept"] == name))
    return Languages(
        model=str(model_identity(model)["name"]),
        metrics=tuple(products),
        pairs=tuple(steering),
        contexts=n,
        scores=pd.concat(scores, ignore_index=True),
        draws=draws,
        provenance={
            "model": model_identity(model),
            "contexts": "packaged" if contexts is None else "given",
            "pairs": "packaged" if pairs is None else "given",
            "settings": {"draws": draws, "n_random": n_random, "seed": seed, "metrics": list(products)},
            "versions": library_versions(),
        },
    )


def _as_listed(name: str, turned: str, tokens: TokenPairs) -> str:
    """The pair of languages in the order in which the word lists have it."""
    return turned if turned in tokens.concepts and name not in tokens.concepts else name
