"""Tables built from a known joint, so that a theorem's premise holds to rounding.

The logits are written down first and factored by a singular value decomposition; then a random gauge hides
the factorisation's orthogonality, and noise is added to g where no embedding can see it.
"""

from __future__ import annotations

import networkx as nx
import numpy as np
from jaxtyping import Float

from graticule.hooks.calls import renamed
from graticule.sims.contexts import UNKNOWN, Contexts
from graticule.sims.papers.tables import JIANG, Check, Tables, log_softmax
from graticule.sims.world import World

_RANK = 1e-13  # of the largest singular value: what is below is rounding


def product_world(world: World) -> World:
    """The same concepts with the same marginals, but independent."""
    graph = nx.empty_graph(world.m, nx.DiGraph)
    return World(graph, tuple(world.marginal([i]) for i in range(world.m)))


def imposed_logits(contexts: Contexts, conflict: float = 50.0) -> Float[np.ndarray, "context token"]:
    """ln p(c with d's known values imposed) − `conflict` · (how many known values c contradicts).

    With a large `conflict` its softmax is p(c | d), and the log-odds of C_i do not depend on the rest of c
    even where c contradicts d: what Theorems 3 and 10 presuppose.

    Raises:
        ValueError: Unless p(c) > 0 for every c.
    """
    values, vectors = contexts.vectors[:, None], contexts.world.vectors[None]
    joint = _positive(contexts.world)
    imposed = np.where(values == UNKNOWN, vectors, values)
    conflicts = ((values != UNKNOWN) & (values != vectors)).sum(axis=2)
    return np.log(joint[contexts.world.token(imposed)]) - conflict * conflicts


def compatible_logits(
    contexts: Contexts, conflict: float = 50.0, spread: float = 0.0, seed: int = 0
) -> Float[np.ndarray, "context token"]:
    """ln p(c) where c agrees with d, −`conflict` elsewhere: p(c | d) fitted, and nothing more (Theorem 7).

    With `spread` every contradiction has a price of its own, uniform on `conflict` · (1 ± `spread`).

    Raises:
        ValueError: Unless p(c) > 0 for every c and 0 ≤ spread < 1.
    """
    if not 0 <= spread < 1:
        raise ValueError(f"spread={spread}: a share of the price, in [0, 1)")
    values, vectors = contexts.vectors[:, None], contexts.world.vectors[None]
    agrees = ((values == UNKNOWN) | (values == vectors)).all(axis=2)
    price = conflict * (1 + spread * np.random.default_rng(seed).uniform(-1, 1, agrees.shape))
    return np.where(agrees, np.log(_positive(contexts.world)), -price)


def factor(
    contexts: Contexts,
    logits: Float[np.ndarray, "context token"],
    noise: int = 2,
    gauge: bool = True,
    seed: int = 0,
) -> Tables:
    """Tables with f(d)ᵀg(c) = `logits`, by the singular value decomposition.

    `noise` more dimensions hold standard normal numbers in g and nothing in f, so no probability depends on
    them; with `gauge`, f and g then go to fA⁻¹ and gAᵀ for a random A, so that f and noise are no longer
    told apart by coordinates.
    """
    left, values, right = np.linalg.svd(logits, full_matrices=False)
    used = values > _RANK * values[0]
    f = left[:, used] * np.sqrt(values[used])
    g = right[used].T * np.sqrt(values[used])
    rng = np.random.default_rng(seed)
    f = np.concatenate([f, np.zeros((len(f), noise))], axis=1)
    g = np.concatenate([g, rng.standard_normal((len(g), noise))], axis=1)
    if gauge:
        f, g = regauge(f, g, random_gauge(f.shape[1], rng))
    return Tables(contexts, f, g)


def random_gauge(width: int, rng: np.random.Generator) -> Float[np.ndarray, "dim dim"]:
    """An invertible matrix with singular values from .5 to 2 in even steps, and random axes."""
    left = np.linalg.qr(rng.standard_normal((width, width)))[0]
    right = np.linalg.qr(rng.standard_normal((width, width)))[0]
    return (left * np.linspace(0.5, 2.0, width)) @ right


def regauge(
    f: Float[np.ndarray, "context dim"],
    g: Float[np.ndarray, "token dim"],
    a: Float[np.ndarray, "dim dim"],
    shift: Float[np.ndarray, " dim"] | None = None,
) -> tuple[Float[np.ndarray, "context dim"], Float[np.ndarray, "token dim"]]:
    """f(d) → A⁻ᵀf(d), g(c) → Ag(c) + β: other tables, the same probabilities."""
    return np.linalg.solve(a.T, f.T).T, g @ a.T + (0.0 if shift is None else shift)


@renamed(known="log_odds")
def linear_tables(
    contexts: Contexts, basis: Float[np.ndarray, "m dim"] | None = None, log_odds: float = 50.0
) -> Tables:
    """The perfectly linear learner of independent concepts: g(c) = Σ c_i w_i, f(d) = Σ h_i(d_i) u_i.

    The w_i are the rows of an invertible `basis` (None: orthonormal), the u_i its dual, u_iᵀw_j = δ_ij, and
    h_i is the log-odds of C_i: `log_odds` or −`log_odds` where its value is known, that of p(C_i) where not.

    Raises:
        ValueError: For concepts that depend on each other, are not binary, or are certain.
    """
    world = contexts.world
    marginals = np.stack([world.marginal([i]) for i in range(world.m)]) if set(world.values) == {2} else None
    if marginals is None or not (marginals > 0).all():
        raise ValueError(f"values {world.values}: linear tables are for binary concepts of p in (0, 1)")
    if np.abs(product_world(world).joint - world.joint).max() > 1e-12:
        raise ValueError("the concepts depend on each other; see product_world")
    w = np.eye(world.m) if basis is None else np.asarray(basis, np.float64)
    u = np.linalg.inv(w).T
    vectors = contexts.vectors
    prior = np.log(marginals[:, 1] / marginals[:, 0])
    odds = np.where(vectors == UNKNOWN, prior, np.where(vectors == 1, log_odds, -log_odds))
    return Tables(contexts, odds @ u, world.vectors @ w)


# Checks ----------------------------------------------------------------------------------------------
def fit(tables: Tables, logits: Float[np.ndarray, "context token"], tolerance: float = 1e-12) -> Check:
    """Whether the tables' products are the logits they were made from, gauge and noise included."""
    error = np.abs(tables.f @ tables.g.T - logits).max() / np.abs(logits).max()
    return Check(
        name="Oracle logits",
        statement="f(d)ᵀg(c) is the logit written down, whatever gauge and unseen noise",
        source=f"{JIANG}, section 2",
        quantity="largest difference over the largest logit",
        measured=float(error),
        tolerance=tolerance,
        details={"dimensions": float(tables.f.shape[1])},
    )


def fits_probabilities(tables: Tables, tolerance: float = 1e-12) -> Check:
    """Whether p̂(c | d) = p(c | d) for every context met."""
    return Check(
        name="Oracle probabilities",
        statement="the softmax of the logits is p(c | d)",
        source=f"{JIANG}, section 2",
        quantity="max |p̂ − p|",
        measured=tables.error,
        tolerance=tolerance,
    )


def conflict_limit(
    contexts: Contexts, conflicts: tuple[float, float] = (10.0, 15.0), tolerance: float = 1e-2
) -> Check:
    """Whether softmax → p(c | d) as K → ∞, at the rate e^(−K) that the construction has."""
    truth = contexts.conditional(np.arange(contexts.n))
    errors = [
        float(np.abs(np.exp(log_softmax(imposed_logits(contexts, k))) - truth).max()) for k in conflicts
    ]
    slope = float(np.log(errors[1] / errors[0]) / (conflicts[1] - conflicts[0]))
    return Check(
        name="Oracle limit",
        statement="max |p̂ − p| falls as e^(−K) with the price K of a contradiction",
        source=f"{JIANG}, section 2",
        quantity="|d ln max|p̂ − p| / dK + 1|",
        measured=abs(slope + 1),
        tolerance=tolerance,
        details={f"max |p̂ − p| at K = {k:g}": e for k, e in zip(conflicts, errors, strict=True)},
    )


def _positive(world: World) -> np.ndarray:
    joint = world.joint.reshape(-1)
    if not (joint > 0).all():
        raise ValueError("some concept vector has probability 0; the oracle's logits need p(c) > 0")
    return joint
