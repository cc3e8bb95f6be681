"""Ambiguous words: does one changed word move a context's embedding along its completions' difference?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.hooks.calls import renamed, renamed_fields
from graticule.hooks.doors import MODEL, door
from graticule.hooks.protocols import HookedModel
from graticule.hooks.saved import SavedResult
from graticule.probes.core.resample import weights_within
from graticule.probes.geometry import Metric
from graticule.probes.scores.significance import share_reaching
from graticule.probes.words.cosines import ALPHA, TAILS, check_n_bootstrap, unit_rows
from graticule.probes.words.vocabulary import (
    LEAST,
    METRICS,
    ContextPair,
    Readout,
    ambiguous_contexts,
    last_residuals,
    make_metrics,
    shared_tokens,
    single_token,
    words_provenance,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_STRIP = "|cosine| of a context pair's embedding difference with its own completions' and with others'"


@renamed_fields(draws="n_bootstrap")
@dataclass(frozen=True)
class Ambiguous(SavedResult):
    """Pairs of contexts that differ in a word, against the difference of the words that complete them."""

    KIND: ClassVar[str] = "word_contexts"

    model: str
    """The model's name."""
    metrics: tuple[str, ...]
    """Inner products."""
    items: pd.DataFrame
    """One row per kept pair: `first`, `second` (contexts), `first_word`, `second_word`, `log_odds` (nats by
    which the second context favours its own completion more than the first does)."""
    cosines: Float[np.ndarray, "metric item item"]
    """Cosine of every context pair's embedding difference (rows) with every word pair's unembedding
    difference (columns); NaN off the diagonal where two word pairs share a word."""
    scores: pd.DataFrame
    """One row per `metric`: `matching` and `other` mean |cosine|, their difference `gain` with its bootstrap
    interval `low`, `high` over pairs, `p` (under random matching of word pairs with contexts), `positive`
    (share of matching cosines above 0) and `nearest` (share whose own words have the largest |cosine|)."""
    dropped: pd.DataFrame
    """Pairs whose completions are not single, different tokens."""
    n_bootstrap: int = field(metadata={"saved_as": "draws"})
    """Draws of the bootstrap and of the permutations."""
    provenance: Mapping[str, Any]
    """Model, settings and versions."""

    @property
    def title(self) -> str:
        """The model."""
        return f"Ambiguous words in context: {self.model}"

    def summary(self) -> str:
        """Matching against non-matching under each product."""
        rows = list(self.scores.itertuples())
        each = "; ".join(
            f"{s.metric} {s.matching:z.3f} against {s.other:z.3f} ({s.gain:+z.3f} "
            f"[{s.low:+z.3f}, {s.high:+z.3f}])"
            for s in rows
        )
        near = ", ".join(f"{s.nearest:.0%} ({s.metric})" for s in rows)
        right = float((self.items["log_odds"] > 0).mean())
        lines = [
            f"{self._verdict()}: mean |cosine| of matching and other pairs {each}",
            f"its own words are the nearest of all for {near} of {len(self.items)} pairs",
            f"the model's log-odds move towards the right word in {right:.0%} of pairs, by "
            f"{self.items['log_odds'].mean():z.2f} nats in the mean, in whatever basis",
        ]
        if len(self.dropped):
            lines.append(
                f"{len(self.dropped)} pairs left out: their completions are not single, different tokens"
            )
        return "\n".join(lines)

    def _verdict(self) -> str:
        """Under which products a context's own completions are nearer than others'."""
        nearer = self.scores["metric"][(self.scores["low"] > 0) & (self.scores["p"] <= ALPHA)]
        if nearer.empty:
            return "context pairs are no nearer to their own completions than to others'"
        return f"context pairs point to their own completions ({', '.join(map(str, nearer))})"

    def figures(self) -> dict[str, Figure]:
        """Matching and other |cosines| by metric."""
        from graticule.probes.plots.words import matching_figure

        return {_STRIP: matching_figure(self.cosines, self.metrics, list(self.items["first"]))}

    def tables(self) -> dict[str, pd.DataFrame]:
        """Scores by metric; every pair."""
        own = {f"cosine, {m}": np.diag(c) for m, c in zip(self.metrics, self.cosines, strict=True)}
        return {
            "Matching against non-matching": self.scores.round(4),
            "Every pair of contexts": self.items.assign(**own).round(3),
        }


@renamed(draws="n_bootstrap")
@door(model=MODEL)
def ambiguous(
    model: HookedModel,
    contexts: Sequence[ContextPair] | Path | str | None = None,
    *,
    metrics: str | Sequence[str] = METRICS,
    n_bootstrap: int = 1000,
    residuals: Float[np.ndarray, "row d_model"] | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Ambiguous:
    """Context pairs' embedding differences against completions' unembedding differences, matched and not.

    The embedding λ is the residual after the final norm at the last token, just before the completing word;
    its difference between two contexts that differ in one word is compared with γ(second word) − γ(first
    word) of the same pair and of all others (Jiang et al. 2403.03867, section 5.2, on Winograd schemas).

    Args:
        model: With `W_U` and a tokenizer.
        contexts: As `lists.ambiguous_contexts` gives or reads them; None for the packaged ones.
        metrics: As for `words`.
        n_bootstrap: How often rows are resampled for the intervals, and how many draws the null has.
        residuals: As for `words`.
        seed: The seed of what is drawn.
        progress: Whether a bar is drawn; by default where it takes long.

    Raises:
        ValueError: As `words` does, and for fewer than three pairs with single-token completions.
    """
    check_n_bootstrap(n_bootstrap)
    given = ambiguous_contexts(contexts) if contexts is None or isinstance(contexts, str | Path) else contexts
    usable, ids, dropped = _single(model, given)
    readout = Readout.of(model)
    products = make_metrics(model, readout, metrics, residuals, progress=progress)
    texts = [c.first for c in usable] + [c.second for c in usable]
    first, second = np.split(last_residuals(model, texts, progress), 2)
    steering = second - first
    differences = readout.rows(ids[:, 1]) - readout.rows(ids[:, 0])
    shared = shared_tokens(ids)
    cosines = {name: _cosines(steering, differences, metric, shared) for name, metric in products.items()}
    provenance = words_provenance(
        model,
        {"draws": n_bootstrap, "seed": seed, "metrics": list(products)},
        contexts="packaged" if contexts is None else "given",
    )
    return Ambiguous(
        model=str(provenance["model"]["name"]),
        metrics=tuple(products),
        items=pd.DataFrame([vars(c) for c in usable]).assign(log_odds=(steering * differences).sum(axis=1)),
        cosines=np.stack(list(cosines.values())),
        scores=pd.DataFrame([{"metric": m, **_scores(c, n_bootstrap, seed)} for m, c in cosines.items()]),
        dropped=dropped,
        n_bootstrap=n_bootstrap,
        provenance=provenance,
    )


def _single(
    model: HookedModel, given: Sequence[ContextPair]
) -> tuple[list[ContextPair], np.ndarray, pd.DataFrame]:
    """The pairs with single, different completions, their token ids `[item, 2]`, and the others."""
    tokens = [(single_token(model, p.first_word), single_token(model, p.second_word)) for p in given]
    fit = [None not in ids and ids[0] != ids[1] for ids in tokens]
    usable = [pair for pair, fits in zip(given, fit, strict=True) if fits]
    if len(usable) < LEAST:
        raise ValueError(
            f"{len(usable)} of {len(given)} context pairs have single, different tokens as completions; at "
            f"least {LEAST} are needed"
        )
    dropped = [vars(pair) for pair, fits in zip(given, fit, strict=True) if not fits]
    columns = ["first", "second", "first_word", "second_word"]
    ids = np.array([ids for ids, fits in zip(tokens, fit, strict=True) if fits], np.int64)
    return usable, ids, pd.DataFrame(dropped, columns=columns)


def _cosines(steering: np.ndarray, differences: np.ndarray, metric: Metric, shared: np.ndarray) -> np.ndarray:
    out = unit_rows(steering @ metric.write.T) @ unit_rows(differences @ metric.read.T).T
    first, second = shared[shared[:, 0] != shared[:, 1]].T
    out[first, second] = np.nan
    return out


def _scores(cosines: np.ndarray, n_bootstrap: int, seed: int) -> dict[str, float]:
    """Matching against other |cosines|, with a bootstrap over pairs and permuted matches."""
    rng, n = np.random.default_rng(seed), len(cosines)
    size = np.abs(cosines)
    matching, own = np.diag(size), np.eye(n, dtype=bool)
    other = np.where(own | np.isnan(size), 0.0, size)
    counted = (~own & ~np.isnan(size)).astype(np.float64)
    mean_other = other.sum() / counted.sum()
    weights = weights_within(np.array([n]), n_bootstrap, rng).T.astype(np.float64)
    others = ((weights @ other) * weights).sum(axis=1) / ((weights @ counted) * weights).sum(axis=1)
    low, high = np.quantile(weights @ matching / n - others, TAILS)
    orders = np.argsort(rng.random((n_bootstrap, n)), axis=1)
    # a permuted match that shares a word counts with the others' mean, which is neither for nor against
    null = np.where(np.isnan(size), mean_other, size)[np.arange(n), orders].mean(axis=1)
    return {
        "matching": float(matching.mean()),
        "other": float(mean_other),
        "gain": float(matching.mean() - mean_other),
        "low": float(low),
        "high": float(high),
        "p": float(share_reaching(null, float(matching.mean()))),
        "positive": float((np.diag(cosines) > 0).mean()),
        "nearest": float((np.nanargmax(size, axis=1) == np.arange(n)).mean()),
    }
