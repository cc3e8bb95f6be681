"""What is true of contexts, and what a probe ought to find: best linear readers, true write directions.

With every context enumerated and its probability known, the best linear reader of a posterior is one weighted
least-squares fit, without any sampling; and how a concept is written is the mean difference of activations
between contexts that differ in that concept's value and in nothing else (the steering vectors of Jiang et
al., 2403.03867, section 2, seen at any hook point of any learner).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from graticule.hooks.calls import renamed
from graticule.hooks.limits import check_indices
from graticule.sims.world import UNKNOWN, World


@dataclass(frozen=True)
class LinearReader:
    """The linear function of activations with the least expected squared error."""

    coef: Float[np.ndarray, "width target"]
    """Target units per activation unit: the read directions."""
    write: Float[np.ndarray, "width target"]
    """Activation units per target unit with the other targets held fixed: least squares of the activations on
    all targets at once, as `RidgeProbe.write_direction`."""
    intercept: Float[np.ndarray, " target"]
    """Target units."""
    r2: Float[np.ndarray, " target"]
    """Share of each target's variance that it explains; NaN for a target without variance."""

    def predict(self, activations: Float[np.ndarray, "row width"]) -> Float[np.ndarray, "row target"]:
        """Readings in target units."""
        return activations @ self.coef + self.intercept


def optimal_reader(
    activations: Float[np.ndarray, "row width"],
    targets: Float[np.ndarray, "row target"],
    weights: Float[np.ndarray, " row"] | None = None,
    rcond: float = 1e-6,
) -> LinearReader:
    """Weighted least squares over enumerated rows; `weights` are their probabilities, equal by default.

    Directions of the activations with less than `rcond` of the largest standard deviation are float rounding
    and are not read.

    Raises:
        ValueError: For row counts that differ or weights that are no probabilities.
    """
    n = len(activations)
    p = np.full(n, 1.0) if weights is None else weights
    if not len(targets) == len(p) == n or (p < 0).any() or not p.sum() > 0:
        raise ValueError(f"{n} rows, {len(targets)} targets, {len(p)} weights: one each, none negative")
    p = p / p.sum()
    x, y = activations.astype(np.float64), targets.astype(np.float64)
    x_mean, y_mean = p @ x, p @ y
    root = np.sqrt(p)[:, None]
    x, y = (x - x_mean) * root, (y - y_mean) * root
    coef = _solve(x, y, rcond)
    left = ((y - x @ coef) ** 2).sum(axis=0)
    total = (y**2).sum(axis=0)
    spread = total > 1e-12 * np.maximum(1.0, y_mean**2)
    r2 = np.divide(total - left, total, out=np.full(len(total), np.nan), where=spread)
    return LinearReader(coef, _solve(y, x, rcond).T, y_mean - x_mean @ coef, r2)


def _solve(x: np.ndarray, y: np.ndarray, rcond: float) -> np.ndarray:
    """Least squares through the Gram matrix: rows may be many, columns are few."""
    values, axes = np.linalg.eigh(x.T @ x)
    spread = values > max(values[-1], 0.0) * rcond**2
    inverse = np.where(spread, 1 / np.where(spread, values, 1.0), 0.0)
    return (axes * inverse) @ (axes.T @ (x.T @ y))


# How a concept is written ----------------------------------------------------------------------------
@dataclass(frozen=True)
class Partners:
    """Rows that differ in one concept's value and agree in everything else."""

    low: Int[np.ndarray, " pair"]
    """Rows with the concept's lower value."""
    high: Int[np.ndarray, " pair"]
    """Their partners."""


@renamed(known="concept_values")
def partners(
    concept_values: Int[np.ndarray, "row m"],
    concept: int,
    values: tuple[int, int] = (0, 1),
    same: Int[np.ndarray, "row key"] | None = None,
) -> Partners:
    """Pairs of rows whose contexts differ only in `concept`, which has value `values[0]` in one and
    `values[1]` in the other.

    `same` are further columns that have to agree (the order in which a text told its concepts, say). Rows
    without a partner are left out.

    Raises:
        ValueError: Where two rows are the same context: give `same`, or average them first.
    """
    rest = np.delete(concept_values, concept, axis=1)
    keys = rest if same is None else np.concatenate([rest, same], axis=1)
    codes = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
    ends = [np.flatnonzero(concept_values[:, concept] == v) for v in values]
    for rows in ends:
        if len(np.unique(codes[rows])) != len(rows):
            raise ValueError(f"rows for concept {concept} are not told apart by their contexts; give same=")
    _, low, high = np.intersect1d(codes[ends[0]], codes[ends[1]], return_indices=True)
    return Partners(ends[0][low], ends[1][high])


@renamed(known="concept_values")
def write_directions(
    activations: Float[np.ndarray, "row width"],
    concept_values: Int[np.ndarray, "row m"],
    concepts: Int[np.ndarray, " concept"] | list[int] | None = None,
    same: Int[np.ndarray, "row key"] | None = None,
    weights: Float[np.ndarray, " row"] | None = None,
    normalised: bool = False,
) -> Float[np.ndarray, "width concept"]:
    """The true write direction of two-valued concepts: the mean of x(d_(i→1)) − x(d_(i→0)) over all pairs.

    `weights` are the rows' probabilities, and a pair counts by the sum of its two; equal by default.
    `normalised` averages steering vectors of length 1 (those of length 0 are left out). A concept without any
    pair has a column of NaN.
    """
    m = concept_values.shape[1]
    wanted = list(range(m)) if concepts is None else check_indices("concepts", list(concepts), m)
    out = np.full((activations.shape[1], len(wanted)), np.nan)
    for k, concept in enumerate(wanted):
        pairs = partners(concept_values, concept, same=same)
        steer = activations[pairs.high].astype(np.float64) - activations[pairs.low]
        p = np.ones(len(steer)) if weights is None else weights[pairs.low] + weights[pairs.high]
        if normalised:
            length = np.linalg.norm(steer, axis=1)
            steer, p = steer[length > 0] / length[length > 0, None], p[length > 0]
        if p.sum() > 0:
            out[:, k] = p @ steer / p.sum()
    return out


# The truth of contexts -------------------------------------------------------------------------------
@renamed(known="concept_values")
def truth_table(
    world: World, concept_values: Int[np.ndarray, "row m"], concepts: Sequence[int] | None = None
) -> pd.DataFrame:
    """The exact truth of contexts, one row each, for concept values (−1 where unknown).

    Columns: `n_known`; `floor`, the entropy in nats of the completing token; and of every concept (or of
    some `concepts`) `known_i`, and its posterior, P(C_i = 1 | known) as `posterior_i` for two values and the
    expected coordinates as `expected_i` or `expected_i_axis` for more (`World.coordinates`: the posterior
    probabilities themselves where values are names, the posterior mean on a line, and the mean cosine and
    sine on a circle).

    Raises:
        ValueError: For contexts of probability 0 or worlds too large to enumerate.
    """
    wanted = list(range(world.m)) if concepts is None else check_indices("concepts", concepts, world.m)
    contexts, rows, _ = context_rows(concept_values)
    columns: dict[str, np.ndarray] = {
        "n_known": (contexts != UNKNOWN).sum(axis=1),
        **{f"known_{i}": contexts[:, i] for i in wanted},
    }
    posterior, floor = _beliefs(world, contexts)
    for i in wanted:
        names = target_names(world, i)
        expected = posterior[i] @ world.coordinates(i)
        columns |= {name: expected[:, k] for k, name in enumerate(names)}
    columns["floor"] = floor
    return pd.DataFrame({name: column[rows] for name, column in columns.items()})


def target_names(world: World, concept: int) -> list[str]:
    """The columns of a truth table that a probe for this concept is to predict."""
    size = world.values[concept]
    if size == 2 and world.kind(concept) == "nominal":
        return [f"posterior_{concept}"]
    axes = world.coordinates(concept).shape[1]
    return [f"expected_{concept}"] if axes == 1 else [f"expected_{concept}_{a}" for a in range(axes)]


def _beliefs(
    world: World, contexts: np.ndarray, cells: int = 1 << 24
) -> tuple[list[Float[np.ndarray, "context _value"]], Float[np.ndarray, " context"]]:
    """P(C_i = v | known) of every concept, and the entropy of the whole vector, in chunks of contexts."""
    chunk = max(1, cells // (len(world.vectors) * world.m))
    posterior = [np.empty((len(contexts), size)) for size in world.values]
    floor = np.empty(len(contexts))
    for start in range(0, len(contexts), chunk):
        part = slice(start, start + chunk)
        chances = world.conditional(contexts[part])
        floor[part] = (chances * -np.log(np.where(chances > 0, chances, 1.0))).sum(axis=1)
        joint = chances.reshape(len(chances), *world.values)
        for i in range(world.m):
            posterior[i][part] = joint.sum(axis=tuple(k + 1 for k in range(world.m) if k != i))
    return posterior, floor


@renamed(known="concept_values")
def context_rows(
    concept_values: Int[np.ndarray, "row m"],
) -> tuple[Int[np.ndarray, "context m"], Int[np.ndarray, " row"], Bool[np.ndarray, " context"]]:
    """Contexts in rows, the context of every row, and which contexts know everything: what a split by context
    goes by, as rows of one context are copies as far as the truth goes."""
    contexts, rows = np.unique(concept_values, axis=0, return_inverse=True)
    return contexts, rows.reshape(-1), np.asarray((contexts != UNKNOWN).all(axis=1))


@renamed(known="concept_values")
def parity(
    world: World, concept_values: Int[np.ndarray, "row m"], concepts: tuple[int, int]
) -> Float[np.ndarray, " row"]:
    """P(C_i ≠ C_j | known), the posterior of the parity of two two-valued concepts: present wherever the two
    are, and of no linear function of theirs (zero correlation with both where all four are alike likely).

    Raises:
        ValueError: For concepts of more values, or one concept twice.
    """
    i, j = concepts
    if i == j or world.values[i] != 2 or world.values[j] != 2:
        raise ValueError(f"parity of concepts {concepts}: two different ones, two values each")
    contexts, rows, _ = context_rows(concept_values)
    differ = world.vectors[:, i] != world.vectors[:, j]
    return (world.conditional(contexts) @ differ.astype(np.float64))[rows]
