"""Inner products: Theorem 7 and Corollary 8, the causal inner product, and what a gauge leaves alone."""

from __future__ import annotations

import networkx as nx
import numpy as np
from jaxtyping import Float

from graticule.hooks.values import finite
from graticule.probes.geometry import Metric, covariance, root
from graticule.sims.contexts import UNKNOWN
from graticule.sims.papers.tables import JIANG, PARK, Check, Tables, largest, log_softmax

_RCOND = 1e-11  # the oracle's vocabulary has directions of little, but real, spread
_DEGENERATE = "g spans every difference between tokens, which fixes causal cosines whatever the learner"


def causal_of(tables: Tables) -> Metric:
    """The causal inner product of a learner's vocabulary, all tokens weighted alike."""
    spread = covariance(tables.g)
    return Metric("causal", root(spread, -0.5, _RCOND), root(spread, 0.5, _RCOND))


def degenerate(tables: Tables) -> bool:
    """Whether g, centred, has as many dimensions as tokens allow.

    Then Cov(γ)^−½ makes a regular simplex of *any* vocabulary: causal cosines are constants of the design and
    say nothing about the learner. It takes k < tokens − 1 to have more.
    """
    values = np.linalg.svd(tables.g - tables.g.mean(axis=0), compute_uv=False)
    return int((values > np.sqrt(_RCOND) * values[0]).sum()) >= len(tables.g) - 1


def mean_differences(tables: Tables) -> Float[np.ndarray, "m dim"]:
    """The mean unembedding steering vector of every concept."""
    return np.stack([tables.differences(i).mean(axis=0) for i in range(tables.m)])


def embedding_differences(tables: Tables, concept: int) -> Float[np.ndarray, "pair dim"]:
    """f(d_(i→1)) − f(d_(i→0)) wherever both contexts are met.

    Raises:
        ValueError: If there is no such pair.
    """
    zero = tables.met[tables.contexts.vectors[tables.met, concept] == 0]
    low, high = tables.changed(zero, concept, 1)
    if not len(low):
        raise ValueError(f"no two contexts met differ in concept {concept} alone")
    return tables.f[high] - tables.f[low]


# Orthogonality ---------------------------------------------------------------------------------------
def orthogonality(tables: Tables) -> Float[np.ndarray, "m m"]:
    """Entry (i, j): max |⟨Δ_{c,i}, f(d) − f(d_(j→⋄))⟩| in nats over c and d in D_c with d_j known; NaN on the
    diagonal and where no such pair of contexts is met."""
    out = np.full((tables.m, tables.m), np.nan)
    for i in range(tables.m):
        vectors, tokens = tables.differences(i), tables.token_pairs(i)[:, 1]
        for j in range(tables.m):
            knowing, without = tables.changed(tables.where([i], [j]), j, UNKNOWN)
            if i == j or not len(knowing):
                continue
            products = (tables.f[knowing] - tables.f[without]) @ vectors.T
            agreeing = products[tables.agrees(knowing, tokens, ignoring=i)]
            out[i, j] = np.abs(finite(f"inner products of concepts {i} and {j}", agreeing)).max()
    return out


def theorem_7(tables: Tables, tolerance: float = 1e-9) -> Check:
    """Theorem 7 on all pairs of concepts: p̂ = p makes Δ_{c,i} ⊥ f(d_(j→c_j)) − f(d_(j→⋄)) for d in D_c.

    The paper asks for C_i and C_j separated in G_C. It is not needed: for d in D_c the log-odds of C_i are
    ln p(c_(i→1)) / p(c_(i→0)), whatever d_j. So all pairs are checked and those that the graph joins counted.
    """
    products, world = orthogonality(tables), tables.contexts.world
    joined = [(i, j) for i in range(world.m) for j in range(world.m) if i != j and _joined(tables, i, j)]
    return Check(
        name="Theorem 7",
        statement="p̂ = p makes Δ_{c,i} orthogonal to what knowing C_j adds to an embedding, for every i ≠ j "
        "(separation in the graph is not needed)",
        source=f"{JIANG}, Theorem 7",
        quantity="largest inner product in nats",
        measured=float(np.nanmax(products)),
        tolerance=tolerance,
        premise=tables.error,
        premise_tolerance=tolerance,
        details={
            "ordered pairs that the graph does not separate": float(len(joined)),
            "largest inner product among them": max(
                (float(products[p]) for p in joined), default=float("nan")
            ),
        },
        note=f"{len(joined)} of {world.m * (world.m - 1)} ordered pairs are not separated",
    )


def corollary_8(tables: Tables, tolerance: float = 1e-9) -> Check:
    """Corollary 8: where f's and g's steering vectors are matched, those of two concepts are orthogonal."""
    both = [(tables.differences(i), embedding_differences(tables, i)) for i in range(tables.m)]
    unmatched = largest(float((1 - _cosines(g, f)).max()) for g, f in both)
    worst = largest(
        float(np.abs(_cosines(both[i][0], both[j][0])).max())
        for i in range(tables.m)
        for j in range(tables.m)
        if i != j
    )
    return Check(
        name="Corollary 8",
        statement="matched representations of two concepts are orthogonal: Δ_{c,i} ⊥ Δ_{c,j}",
        source=f"{JIANG}, Corollary 8",
        quantity="largest |cosine| between steering vectors of two concepts",
        measured=worst,
        tolerance=tolerance,
        premise=unmatched,
        premise_tolerance=tolerance,
    )


# The causal inner product ----------------------------------------------------------------------------
def causal_diagonal(tables: Tables, metric: Metric | None = None, tolerance: float = 1e-9) -> Check:
    """Whether GᵀCov(γ)⁻¹G is diagonal, the columns of G being the concepts' mean steering vectors.

    It is where Cov(γ) = GDGᵀ: concepts that vary independently over the vocabulary, each along one direction.
    The premise is 1, and not met, where g is `degenerate`.
    """
    seen = mean_differences(tables) @ (metric or causal_of(tables)).read.T
    units = seen / np.linalg.norm(seen, axis=1, keepdims=True)
    plain = _cosines(mean_differences(tables), mean_differences(tables))
    off = ~np.eye(tables.m, dtype=bool)
    return Check(
        name="Causal inner product",
        statement="with Cov(γ) = GDGᵀ the concepts' directions are orthogonal under Cov(γ)⁻¹",
        source=f"{PARK}, Theorem 3.4",
        quantity="largest |cosine| between two concepts' directions",
        measured=float(np.abs((units @ units.T)[off]).max()),
        tolerance=tolerance,
        premise=float(degenerate(tables)),
        note=_DEGENERATE if degenerate(tables) else "",
        details={"largest |Euclidean cosine|": float(np.abs(plain[off]).max())},
    )


def unification(tables: Tables, metric: Metric | None = None, tolerance: float = 1e-9) -> Check:
    """Whether the causal inner product takes a concept's unembedding direction to its embedding direction."""
    read = (metric or causal_of(tables)).read
    mapped = mean_differences(tables) @ read.T @ read
    written = np.stack([embedding_differences(tables, i).mean(axis=0) for i in range(tables.m)])
    return Check(
        name="Unification",
        statement="Cov(γ)⁻¹ takes a concept's unembedding direction to its embedding direction",
        source=f"{PARK}, Theorem 3.2",
        quantity="1 − cosine of the two, at most",
        measured=float((1 - np.diag(_cosines(mapped, written))).max()),
        tolerance=tolerance,
        details={"without the map": float((1 - np.diag(_cosines(mean_differences(tables), written))).max())},
    )


def theorem_2_5(
    tables: Tables, directions: Float[np.ndarray, "m dim"] | None = None, tolerance: float = 1e-9
) -> Check:
    """Park's Theorem 2.5: adding concept i's embedding direction moves its log-odds and no other concept's.

    `directions` are added to every f(d) (None: the mean embedding steering vectors); log-odds are read off
    the softmax, over all pairs of tokens.
    """
    if directions is None:
        directions = np.stack([embedding_differences(tables, i).mean(axis=0) for i in range(tables.m)])
    leak, least = 0.0, np.inf
    for i, direction in enumerate(directions):
        moved = log_softmax((tables.f[tables.met] + direction) @ tables.g.T)
        for j in range(tables.m):
            pairs = tables.token_pairs(j)
            change = (moved - tables.log_p)[:, pairs[:, 1]] - (moved - tables.log_p)[:, pairs[:, 0]]
            if i == j:
                least = min(least, float(change.min()))
            else:
                leak = max(leak, float(np.abs(change).max()))
    return Check(
        name="Park's Theorem 2.5",
        statement="adding a concept's embedding direction raises its log-odds and leaves others' alone",
        source=f"{PARK}, Theorem 2.5",
        quantity="largest change of another concept's log-odds over the least change of its own",
        measured=leak / least if least > 0 else float("nan"),
        tolerance=tolerance,
        details={"least change of its own": least, "largest change of another's": leak},
    )


# Gauge -----------------------------------------------------------------------------------------------
def gauge(tables: Tables, other: Tables, tolerance: float = 1e-9) -> tuple[Check, ...]:
    """Whether two pairs of tables are one learner in two gauges, f → A⁻ᵀf and g → Ag + β.

    Probabilities and log-odds must agree and causal cosines too (their premise: g is not `degenerate`);
    Euclidean cosines must *not*, by .01 or more, or the gauge was a rotation and the comparison says nothing.
    """
    probability = float(np.abs(np.exp(tables.log_p) - np.exp(other.log_p)).max())
    first, second = _odds(tables), _odds(other)
    odds = largest(float(np.abs(a - b).max()) for a, b in zip(first, second, strict=True))
    causal = np.abs(_seen(tables, causal_of(tables).read) - _seen(other, causal_of(other).read)).max()
    plain = np.abs(_seen(tables, np.eye(tables.g.shape[1])) - _seen(other, np.eye(other.g.shape[1]))).max()
    empty = float(degenerate(tables))
    rows = (
        ("probabilities", "probabilities are the same", "max |p̂ − p̂'|", probability, 1e-12),
        ("log-odds", "⟨Δ_{c,i}, f(d)⟩ is the same", "largest difference in nats", odds, tolerance),
        ("causal cosines", "cosines under Cov(γ)⁻¹ are the same", "largest difference", causal, tolerance),
        ("Euclidean cosines", "Euclidean cosines are not", "largest difference", plain, 0.01),
    )
    return tuple(
        Check(
            name=f"Gauge, {name}",
            statement=f"after f → A⁻ᵀf, g → Ag + β, {statement}",
            source=f"{PARK}, section 3",
            quantity=quantity,
            measured=float(measured),
            tolerance=bar,
            relation="≥" if name == "Euclidean cosines" else "≤",
            premise=empty if "causal" in name else 0.0,
            note=_DEGENERATE if empty and "causal" in name else "",
        )
        for name, statement, quantity, measured, bar in rows
    )


def _odds(tables: Tables) -> list[np.ndarray]:
    return [tables.f[tables.met] @ tables.differences(i).T for i in range(tables.m)]


def _seen(tables: Tables, through: np.ndarray) -> np.ndarray:
    """Cosines between all steering vectors after a map."""
    vectors = np.concatenate([tables.differences(i) for i in range(tables.m)]) @ through.T
    return _cosines(vectors, vectors)


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    one, other = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    return one @ other.T


def _joined(tables: Tables, i: int, j: int) -> bool:
    return bool(nx.has_path(tables.contexts.world.moral_graph, i, j))
