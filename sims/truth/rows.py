"""A learner's activations with their whole truth beside them: what instruments are pointed at, and judged by.

`lookup_rows` and `sequence_rows` give either every context with its probability, from which the truth of
directions is computed exactly, or a sample, as a user would have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from graticule.hooks.activations import Activations
from graticule.hooks.calls import renamed_fields
from graticule.hooks.capture import capture
from graticule.hooks.capture_spec import Pos
from graticule.hooks.limits import check_indices
from graticule.hooks.points import PointSpec
from graticule.hooks.protocols import HookedModel
from graticule.sims.contexts import Contexts
from graticule.sims.learners import sequences
from graticule.sims.sequence import SequenceTokens
from graticule.sims.truth.optimal import (
    LinearReader,
    optimal_reader,
    target_names,
    truth_table,
    write_directions,
)
from graticule.sims.world import UNKNOWN, World


@renamed_fields(known="concept_values", told="order")
@dataclass(frozen=True, eq=False)
class TrueRows:
    """Activations, the truth of every row, and how likely each is."""

    world: World
    """Where concepts come from."""
    activations: Activations
    """Its row table has the columns of `truth_table` and `context`, a number for what is known."""
    concept_values: Int[np.ndarray, "row m"]
    """What is known at every row, −1 where unknown."""
    weights: Float[np.ndarray, " row"]
    """How likely each row is; they add up to 1."""
    order: Int[np.ndarray, "row pos"]
    """The order in which a text told its concepts, −1 beyond: rows that differ in one concept's value and in
    nothing else agree in it. Without columns for the lookup learner."""

    @property
    def contexts(self) -> Int[np.ndarray, " row"]:
        """What is known at every row as a number: rows that share one are never split."""
        return self.activations.rows["context"].to_numpy()

    def targets(
        self, concepts: Sequence[int] | None = None
    ) -> tuple[list[str], Float[np.ndarray, "row target"]]:
        """Names and values of what probes are to predict: of every concept, or of some, its posterior."""
        m = self.world.m
        wanted = range(m) if concepts is None else check_indices("concepts", concepts, m, "this world")
        names = [name for i in wanted for name in target_names(self.world, i)]
        return names, self.activations.rows[names].to_numpy(np.float64)

    def test_rows(self, share: float = 0.25, seed: int = 0) -> Bool[np.ndarray, " row"]:
        """Rows of a random `share` of the contexts: a context is either trained on or tested on, never both.

        The share is kept among contexts that know as many concepts. The few that know next to nothing, above
        all the empty one, are often a good part of all rows: in the test part by accident, one of them alone
        would decide the score. What is too few to share stays in the training part.

        Raises:
            ValueError: For a share outside (0, 1).
        """
        if not 0 < share < 1:
            raise ValueError(f"share={share}: of the contexts, between 0 and 1")
        _, first, rows = np.unique(self.contexts, return_index=True, return_inverse=True)
        size = (self.concept_values[first] != UNKNOWN).sum(axis=1)
        rng, chosen = np.random.default_rng(seed), np.zeros(len(first), bool)
        for n in np.unique(size):
            alike = rng.permutation(np.flatnonzero(size == n))
            chosen[alike[: round(share * len(alike))]] = True
        return chosen[rows.reshape(-1)]

    def reader(
        self, point: str | tuple[str, int], targets: Float[np.ndarray, "row target"] | None = None
    ) -> LinearReader:
        """The best linear reader of `targets` (by default all posteriors) at a point, rows by their weights.

        Exact where the rows are all contexts."""
        wanted = self.targets()[1] if targets is None else targets
        return optimal_reader(self._numpy(point), wanted, self.weights)

    def write_directions(
        self, point: str | tuple[str, int], concepts: list[int] | None = None, normalised: bool = False
    ) -> Float[np.ndarray, "width concept"]:
        """How each two-valued concept is written at a point (`optimal.write_directions`), pairs by their
        weights.

        Raises:
            ValueError: On a sample, whose rows repeat.
        """
        same = self.order if self.order.shape[1] else None
        return write_directions(
            self._numpy(point), self.concept_values, concepts, same, self.weights, normalised
        )

    def _numpy(self, point: str | tuple[str, int]) -> np.ndarray:
        return self.activations[point].double().cpu().numpy()


def lookup_rows(
    model: HookedModel,
    contexts: Contexts,
    points: PointSpec = "resid_post",
    n: int | None = None,
    seed: int = 0,
) -> TrueRows:
    """The lookup learner's activations: every context that is ever met, or n drawn ones."""
    if n is None:
        ids = np.flatnonzero(contexts.probabilities)
        weights = contexts.probabilities[ids]
    else:
        ids, _ = contexts.sample(n, np.random.default_rng(seed))
        weights = np.full(n, 1 / n)
    values = contexts.vectors[ids]
    activations = capture(
        model,
        sequences(ids, np.zeros_like(ids))[:, :1],
        points=points,
        pos="last",
        prepend_bos=False,
        progress=False,
    )
    return _true(contexts.world, activations, values, weights, np.zeros((len(ids), 0), np.int64))


def sequence_rows(
    model: HookedModel,
    tokens: SequenceTokens,
    points: PointSpec = "resid_post",
    n: int | None = None,
    seed: int = 0,
    *,
    orders: int | None = 12,
    pos: Pos = "all",
) -> TrueRows:
    """The sequence learner's activations after the tokens at `pos`: of every text in some `orders` (None is
    all of them; see `SequenceTokens.every`), each beginning of a text once; or of n drawn texts.

    Raises:
        IndexError: For a position beyond the texts.
    """
    if n is None:
        texts = tokens.every(orders, seed)
        likely = tokens.chances(texts)
    else:
        texts, _ = tokens.draw(n, np.random.default_rng(seed))
        likely = np.ones(n)
    activations = capture(model, texts, points=points, pos=pos, prepend_bos=False, progress=False)
    source, position = (activations.rows[c].to_numpy() for c in ("source", "position"))
    order, prefix = _prefixes(tokens, texts, source, position)
    values, weights = tokens.known(texts)[source, position], likely[source]
    if n is None:
        _, first, rows = np.unique(prefix, axis=0, return_index=True, return_inverse=True)
        weights = np.bincount(rows.reshape(-1), weights=weights)
        activations, values, order = activations.select(first), values[first], order[first]
    return _true(tokens.world, activations, values, weights / weights.sum(), order)


def _prefixes(
    tokens: SequenceTokens, texts: Tensor, source: np.ndarray, position: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The concepts told up to each row, in order, and the tokens; −1 beyond."""
    ids = texts.numpy()[source]
    seen = np.arange(ids.shape[1])[None] <= position[:, None]
    concepts = np.searchsorted(tokens.first, ids, side="right") - 1
    return np.where(seen, concepts, -1)[:, 1:], np.where(seen, ids, -1)


def _true(
    world: World, captured: Activations, values: np.ndarray, weights: np.ndarray, order: np.ndarray
) -> TrueRows:
    table = truth_table(world, values)
    table.insert(0, "context", world.context_code(values))
    for column in ("source", "position", "token"):
        table[column] = captured.rows[column].to_numpy()
    activations = Activations(dict(captured.items()), table, captured.provenance)
    return TrueRows(world, activations, values, weights, order)
