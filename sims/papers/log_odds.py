"""What fixed log-odds say about steering vectors: Theorems 3 and 10, and the identity under them.

Cracks worth knowing: the premise literally makes ⟨Δ_{c,i}, f(d)⟩ independent of c, so the projected vectors
are *equal*, and 2^|ne(i)| is a loose bound; its strength lies in the pairs where c contradicts d, about which
p(c | d) says nothing (both probabilities are 0). Where p(C_i) = ½ the projected vectors are 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from graticule.sims.papers.tables import JIANG, PARK, Check, Tables, largest
from graticule.sims.world import Undirected

_SPAN = 1e-9  # singular values of embeddings below this share of the largest span nothing
_RANK = 1e-8  # likewise for stacks of steering vectors


@dataclass(frozen=True, eq=False)
class Projected:
    """The steering vectors of one concept, as contexts that do not know it see them."""

    concept: int
    """i."""
    contexts: Int[np.ndarray, " some"]
    """Context ids whose embeddings span the subspace of Π_i."""
    raw: Float[np.ndarray, "pair dim"]
    """Δ_{c,i}."""
    projected: Float[np.ndarray, "pair dim"]
    """Π_iΔ_{c,i}."""
    deviation: float
    """max |⟨Δ_{c,i}, f(d)⟩ − wanted log-odds| in nats, over all c, contradicting ones included."""

    @property
    def scale(self) -> float:
        """The longest Δ_{c,i}."""
        return float(np.linalg.norm(self.raw, axis=1).max())

    @property
    def vacuous(self) -> bool:
        """Whether every projected vector is 0 (p(C_i) = ½)."""
        return bool(np.linalg.norm(self.projected, axis=1).max() <= _RANK * self.scale)

    @property
    def spread(self) -> float:
        """Largest distance of a projected vector from their mean, over the mean's length (0 if vacuous)."""
        mean = self.projected.mean(axis=0)
        away = float(np.linalg.norm(self.projected - mean, axis=1).max())
        return 0.0 if self.vacuous else away / max(float(np.linalg.norm(mean)), 1e-300)

    def rank(self, projected: bool = True) -> int:
        """Numerical rank of the stack of steering vectors."""
        stack = self.projected if projected else self.raw
        return int((np.linalg.svd(stack, compute_uv=False) > _RANK * self.scale).sum())

    def beyond(self, rank: int) -> float:
        """Singular value number `rank` + 1 of the projected stack over the first: 0 if it has that rank."""
        values = np.linalg.svd(self.projected, compute_uv=False)
        if self.vacuous or rank >= len(values):
            return 0.0
        return float(values[rank] / values[0])


def project(tables: Tables, concept: int, neighbours: Sequence[int] | None = None) -> Projected:
    """Steering vectors of a concept on the span of the f(d) with d_i = ⋄ (and all of `neighbours` known).

    The log-odds wanted are those of p(C_i) or, with neighbours, of p(C_i | d).

    Raises:
        ValueError: If no such context is met.
    """
    world = tables.contexts.world
    ids = tables.where([concept], neighbours or ())
    if not len(ids):
        raise ValueError(f"no context met leaves concept {concept} unknown; train on others")
    raw = tables.differences(concept)
    if neighbours is not None:
        chances = tables.contexts.posterior(ids)[:, concept, :2]
    else:
        chances = np.broadcast_to(world.marginal([concept]), (len(ids), 2))
    with np.errstate(divide="ignore"):
        wanted = np.log(chances[:, 1]) - np.log(chances[:, 0])
    rows = tables.f[ids]
    _, values, axes = np.linalg.svd(rows, full_matrices=False)
    basis = axes[values > _SPAN * values[0]]
    deviation = float(np.abs(rows @ raw.T - wanted[:, None]).max())
    return Projected(concept, ids, raw, raw @ basis.T @ basis, deviation)


# Checks ----------------------------------------------------------------------------------------------
def theorem_2_2(
    tables: Tables, log_p: Float[np.ndarray, "some token"] | None = None, tolerance: float = 1e-9
) -> Check:
    """Park's Theorem 2.2: within a pair of tokens the log-odds are λᵀ(γ₁ − γ₀), for any tables.

    `log_p` holds ln p̂ of every context `met`, read off a model, say (None: the tables' own softmax).

    Raises:
        ValueError: For log-probabilities of another shape.
    """
    log_p = tables.log_p if log_p is None else np.asarray(log_p, np.float64)
    if log_p.shape != tables.truth.shape:
        raise ValueError(f"log_p is {log_p.shape}, expected {tables.truth.shape}: contexts met by tokens")
    worst = 0.0
    for i in range(tables.m):
        pairs = tables.token_pairs(i)
        odds = log_p[:, pairs[:, 1]] - log_p[:, pairs[:, 0]]
        away = np.abs(odds - tables.f[tables.met] @ tables.differences(i).T)
        worst = largest((worst, float(away.max(initial=0.0))))
    return Check(
        name="Park's Theorem 2.2",
        statement="ln p̂(c_(i→1)|d) − ln p̂(c_(i→0)|d) = f(d)ᵀΔ_{c,i}: the unembedding difference measures C_i",
        source=f"{PARK}, Theorem 2.2",
        quantity="largest difference in nats",
        measured=worst,
        tolerance=tolerance,
    )


def theorem_3(tables: Tables, tolerance: float = 1e-9) -> Check:
    """Theorem 3: log-odds equal to those of p(C_i) make the projected Δ_{c,i} parallel; in fact equal.

    Every concept is checked and the worst one reported.
    """
    concepts = [project(tables, i) for i in range(tables.m)]
    return Check(
        name="Theorem 3",
        statement="if the log-odds of C_i are those of p(C_i) in every context without it, its projected "
        "steering vectors are parallel (stronger, and checked: equal)",
        source=f"{JIANG}, Theorem 3",
        quantity="largest relative distance between a concept's projected steering vectors and their mean",
        measured=largest(p.spread for p in concepts),
        tolerance=tolerance,
        premise=largest(p.deviation for p in concepts),
        premise_tolerance=tolerance,
        details={
            "rank, projected": largest(p.rank() for p in concepts),
            "rank, raw": largest(p.rank(projected=False) for p in concepts),
            "vacuous concepts": float(sum(p.vacuous for p in concepts)),
        },
        note=_vacuity(concepts),
    )


def projection_needed(tables: Tables) -> Check:
    """Whether the unprojected steering vectors are *not* parallel: noise that no context sees, say."""
    ranks = [project(tables, i).rank(projected=False) for i in range(tables.m)]
    return Check(
        name="Theorem 3, unprojected",
        statement="without the projection the steering vectors need not be parallel",
        source=f"{JIANG}, Theorem 3",
        quantity="least rank of a concept's raw steering vectors",
        measured=float(min(ranks)),
        tolerance=2.0,
        relation="≥",
    )


def conflicts_needed(tables: Tables, tolerance: float = 1e-2) -> Check:
    """Whether tables that fit p(c | d), and no more, leave the projected steering vectors apart.

    The premise is the fit; the conclusion is that Theorem 3's conclusion is *not* met by some concept.
    """
    concepts = [project(tables, i) for i in range(tables.m)]
    return Check(
        name="Theorem 3, from p(c | d) alone",
        statement="fitting p(c | d) does not make projected steering vectors parallel: the premise's "
        "strength lies in pairs where c contradicts d, whose probabilities are all 0",
        source=f"{JIANG}, Theorem 3 (its premise)",
        quantity="second singular value of a concept's projected steering vectors over the first, at most",
        measured=largest(p.beyond(1) for p in concepts),
        tolerance=tolerance,
        relation="≥",
        premise=tables.error,
        premise_tolerance=1e-9,
    )


def theorem_10(tables: Tables, graph: Undirected | None = None, tolerance: float = 1e-9) -> Check:
    """Theorem 10: with log-odds given by the neighbours, projected Δ_{c,i} have rank ≤ 2^|ne(i)|.

    `graph` is G_C (None: the world's moral graph, which has more edges than a Markov random field that had to
    be made chordal).
    """
    joined = neighbours_in(tables, graph)
    concepts = [project(tables, i, joined[i]) for i in range(tables.m)]
    sizes = [len(neighbours) for neighbours in joined]
    empty = sum(2**n >= 2 ** (tables.m - 1) for n in sizes)
    return Check(
        name="Theorem 10",
        statement="if the log-odds of C_i are those given its neighbours, its projected steering vectors lie "
        "in a subspace of 2^|ne(i)| dimensions",
        source=f"{JIANG}, Theorem 10",
        quantity="largest singular value beyond 2^|ne(i)|, over the first",
        measured=largest(p.beyond(2**n) for p, n in zip(concepts, sizes, strict=True)),
        tolerance=tolerance,
        premise=largest(p.deviation for p in concepts),
        premise_tolerance=tolerance,
        details={
            "rank, projected": largest(p.rank() for p in concepts),
            "smallest bound": float(2 ** min(sizes)),
            "concepts with no more vectors than the bound": float(empty),
        },
        note=f"the bound says nothing for {empty} of {tables.m} concepts, joined to all others"
        if empty
        else "",
    )


def theorem_10_equal(tables: Tables, graph: Undirected | None = None, tolerance: float = 1e-9) -> Check:
    """What Theorem 10's premise gives in fact: equal projected vectors, rank 1."""
    concepts = [project(tables, i, joined) for i, joined in enumerate(neighbours_in(tables, graph))]
    return Check(
        name="Theorem 10, sharpened",
        statement="the same premise makes ⟨Δ_{c,i}, f(d)⟩ independent of c, so the projected steering "
        "vectors are equal: rank 1, not 2^|ne(i)|",
        source=f"{JIANG}, Theorem 10 (its premise)",
        quantity="largest relative distance between a concept's projected steering vectors and their mean",
        measured=largest(p.spread for p in concepts),
        tolerance=tolerance,
        premise=largest(p.deviation for p in concepts),
        premise_tolerance=tolerance,
        details={"rank, projected": largest(p.rank() for p in concepts)},
        note=_vacuity(concepts),
    )


def neighbours_in(tables: Tables, graph: Undirected | None) -> list[list[int]]:
    """ne(i) of every concept.

    Raises:
        ValueError: For a graph of other concepts.
    """
    graph = tables.contexts.world.moral_graph if graph is None else graph
    if set(graph) != set(range(tables.m)):
        raise ValueError(f"the graph's nodes are {sorted(graph)}, expected 0 … {tables.m - 1}")
    return [sorted(graph.neighbors(i)) for i in range(tables.m)]


def _vacuity(concepts: list[Projected]) -> str:
    empty = [str(p.concept) for p in concepts if p.vacuous]
    return f"vacuously for concepts {', '.join(empty)}, whose projected vectors are 0" if empty else ""
