"""Steering vectors of lookup tables, and every cosine that Jiang et al. report of them.

Of a concept with values a < b the unembedding steering vectors are g(c_(i→b)) − g(c_(i→a)) over tokens, the
embedding ones f(d_(i→b)) − f(d_(i→a)) over contexts in which the concept is known (section 2). A pair counts
once, and only where both of its ends were trained: tokens of 𝒞̂ that occur, contexts that occur.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from graticule.probes.geometry import Metric, causal, covariance, whitened
from graticule.probes.scores.significance import share_reaching
from graticule.probes.steering import (
    gauge_free,
    mean_cosines,
    mean_log_odds,
    random_pairs,
    shuffled_pairs,
    usable,
)
from graticule.sims.contexts import Contexts
from graticule.sims.training.lookup import Learned

Set = tuple[int, int, int]
"""Concept, value before, value after."""
VIEWS = ("unembedding", "embedding", "mixed")
"""Unembedding against unembedding, embedding against embedding, unembedding against embedding."""


@dataclass(frozen=True, eq=False)
class SteeringVectors:
    """Steering vectors of one pair of tables, one set per concept (and pair of its values)."""

    sets: tuple[Set, ...]
    """What each set flips."""
    unembedding: tuple[Float[np.ndarray, "_ dim"], ...]
    """Differences of unembeddings, set by set."""
    embedding: tuple[Float[np.ndarray, "_ dim"], ...]
    """Differences of embeddings, set by set."""

    def cosines(
        self, metric: Metric | None = None, self_pairs: bool = False
    ) -> dict[str, Float[np.ndarray, "set set"]]:
        """Mean cosines by view, `[set, set]`: the diagonal is within a set, or of its two kinds of vectors.

        Unembeddings are functionals under a `metric`, embeddings vectors.
        """
        u, e = self.unembedding, self.embedding
        return {
            "unembedding": mean_cosines(u, metric=metric, self_pairs=self_pairs),
            "embedding": mean_cosines(e, metric=metric, kind="write", self_pairs=self_pairs),
            "mixed": mean_cosines(u, e, metric, column_kind="write"),
        }

    def means(self, metric: Metric | None = None, self_pairs: bool = False) -> Float[np.ndarray, " view"]:
        """The three numbers of the paper's tables: within-set cosines by view, averaged over sets."""
        cosines = self.cosines(metric, self_pairs)
        return np.array([_mean(np.diagonal(cosines[view])) for view in VIEWS])

    def log_odds(self) -> Float[np.ndarray, "set set"]:
        """Mean change in nats of set i's log-odds when a context is flipped as in set j: no basis enters."""
        return mean_log_odds(self.unembedding, self.embedding)


@dataclass(frozen=True, eq=False)
class Flips:
    """The pairs of tokens and of contexts that differ in one concept alone, both ends trained."""

    contexts: Contexts
    """World, concept set and contexts."""

    @cached_property
    def sets(self) -> tuple[Set, ...]:
        """Every concept with every ordered pair of its values."""
        sizes = self.contexts.world.values
        return tuple((i, a, b) for i, size in enumerate(sizes) for a, b in combinations(range(size), 2))

    @cached_property
    def tokens(self) -> tuple[Int[np.ndarray, "_ 2"], ...]:
        """Set → (before, after) as tokens."""
        world = self.contexts.world
        return self._pairs(world.vectors, np.flatnonzero(world.possible))

    @cached_property
    def rows(self) -> tuple[Int[np.ndarray, "_ 2"], ...]:
        """Set → (before, after) as context ids."""
        return self._pairs(self.contexts.vectors, np.flatnonzero(self.contexts.probabilities))

    def of(self, f: Float[np.ndarray, "context dim"], g: Float[np.ndarray, "token dim"]) -> SteeringVectors:
        """The steering vectors of a pair of tables."""
        return SteeringVectors(
            self.sets,
            tuple(g[pair[:, 1]] - g[pair[:, 0]] for pair in self.tokens),
            tuple(f[pair[:, 1]] - f[pair[:, 0]] for pair in self.rows),
        )

    def _pairs(
        self, vectors: Int[np.ndarray, "row m"], trained: Int[np.ndarray, " trained"]
    ) -> tuple[Int[np.ndarray, "_ 2"], ...]:
        """Pairs of trained rows for every set, by numbers that vectors and only they have in common."""
        world = self.contexts.world
        keys = world.context_code(vectors[trained])
        order = np.argsort(keys)
        out: list[np.ndarray] = []
        for i, a, b in self.sets:
            before = np.flatnonzero(vectors[trained, i] == a)
            wanted = keys[before] + (b - a) * world.places[i]
            spot = np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)
            after = order[spot]
            both = keys[after] == wanted
            out.append(np.stack([trained[before[both]], trained[after[both]]], axis=1))
        return tuple(out)


def steering_vectors(
    contexts: Contexts,
    f: Float[np.ndarray, "context dim"] | Float[Tensor, "context dim"],
    g: Float[np.ndarray, "token dim"] | Float[Tensor, "token dim"],
) -> SteeringVectors:
    """The steering vectors of one pair of tables (`Learned.f[run]`, `Learned.g[run]`).

    Raises:
        ValueError: Where the tables do not have one row per context and per token.
    """
    rows, wanted = (len(f), len(g)), (contexts.n, len(contexts.world.vectors))
    if rows[0] < wanted[0] or rows[1] != wanted[1]:
        raise ValueError(f"tables of {rows} rows for {wanted[0]} contexts and {wanted[1]} tokens")
    return Flips(contexts).of(_numpy(f), _numpy(g))


def steering_of(learned: Learned) -> Iterator[SteeringVectors]:
    """The steering vectors of every run."""
    for run, contexts in enumerate(learned.contexts):
        yield steering_vectors(contexts, learned.f[run], learned.g[run])


def watch_cosines(
    contexts: Sequence[Contexts],
) -> Callable[[int, Tensor, Tensor], Float[np.ndarray, "run view"]]:
    """A `watch` for `train`: the three mean cosines of every run at every point of the curves."""
    flips = [Flips(c) for c in contexts]

    def watch(_: int, f: Tensor, g: Tensor) -> Float[np.ndarray, "run view"]:
        return np.stack([p.of(f[r].numpy(), g[r].numpy()).means() for r, p in enumerate(flips)])

    return watch


def products_of(
    contexts: Contexts,
    f: Float[np.ndarray, "context dim"] | Float[Tensor, "context dim"],
    g: Float[np.ndarray, "token dim"] | Float[Tensor, "token dim"],
) -> dict[str, Metric]:
    """The inner products that a learner brings with it: `causal`, of the covariance of its unembeddings over
    the tokens that occur, and `whitened`, of that of its embeddings over the contexts that do, all alike.

    Under the first, unembedding vectors count most along what tokens vary least in (Park et al. 2311.03658),
    under the second along what contexts vary most in: what no context moves is left out of account there.
    One whose table does not vary is not there.
    """
    products: dict[str, Metric] = {}
    tables = {"causal": _numpy(g)[contexts.world.possible], "whitened": _numpy(f)[: contexts.n]}
    tables["whitened"] = tables["whitened"][contexts.probabilities > 0]
    for (name, rows), make in zip(tables.items(), (causal, whitened), strict=True):
        spread = covariance(rows)
        if spread.any():
            products[name] = make(spread)
    return products


def concept_lines(learned: Learned, nulls: int = 0) -> pd.DataFrame:
    """One row per run and set: `run`, `concept`, `before`, `after`, numbers of vectors, mean cosines by view
    without and (`_self`) with self-pairs, and what no basis alters: `log_odds`, `positive`, `first`,
    `effective`, `rank` (see `graticule.probes.steering.Gauge`); and the cosines within `unembedding` and
    `embedding` under the learner's own `_causal` and `_whitened` products (`products_of`).

    With `nulls` draws, also `shuffled` (starts and ends re-paired at random) and `random` (pairs of any two
    tokens): the unembeddings' mean cosine under either, by the mean over draws, and the share of draws that
    reach the observed cosine, `p_shuffled` and `p_random`, the observed one counted.
    """
    lines: list[dict[str, float]] = []
    for run, (contexts, steering) in enumerate(zip(learned.contexts, steering_of(learned), strict=True)):
        free, full = steering.cosines(), steering.cosines(self_pairs=True)
        counts = usable(steering.unembedding), usable(steering.embedding)
        flips, table = Flips(contexts), _numpy(learned.g[run])
        products = products_of(contexts, learned.f[run], learned.g[run])
        under = {name: steering.cosines(metric) for name, metric in products.items()}
        for s, (concept, before, after) in enumerate(steering.sets):
            u, e = steering.unembedding[s], steering.embedding[s]
            line: dict[str, float] = {"run": run, "concept": concept, "before": before, "after": after}
            line |= {"n_unembedding": int(counts[0][s]), "n_embedding": int(counts[1][s])}
            line |= {view: float(free[view][s, s]) for view in VIEWS}
            line |= {f"{view}_self": float(full[view][s, s]) for view in VIEWS[:2]}
            for name, grid in under.items():
                line |= {f"{view}_{name}": float(grid[view][s, s]) for view in VIEWS[:2]}
            if len(u) and len(e):
                gauge = gauge_free(u, e)
                line |= {"log_odds": gauge.mean, "positive": gauge.positive, "first": gauge.first}
                line |= {"effective": gauge.effective, "rank": gauge.rank}
            if nulls and len(u) > 1:
                pairs = flips.tokens[s]
                drawn = {
                    "shuffled": shuffled_pairs(table[pairs[:, 0]], table[pairs[:, 1]], nulls, seed=run),
                    "random": random_pairs(table[contexts.world.possible], len(pairs), nulls, seed=run),
                }
                for name, values in drawn.items():
                    p = float(share_reaching(values, line["unembedding"]))
                    line |= {name: float(values.mean()), f"p_{name}": p}
            lines.append(line)
    return pd.DataFrame(lines)


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def _numpy(table: np.ndarray | Tensor) -> np.ndarray:
    return table.detach().double().cpu().numpy() if isinstance(table, torch.Tensor) else table
