"""Row tables of the truth: what every activation's context knows, and what can be said of the rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from graticule.hooks.limits import check_indices
from graticule.sims.world import UNKNOWN, World


def truth_table(
    world: World, known: Int[np.ndarray, "row m"], concepts: Sequence[int] | None = None
) -> pd.DataFrame:
    """The exact truth of contexts, one line each, for `known` concept values (−1 where unknown).

    Columns: `n_known`; `floor`, the entropy in nats of the completing token; and of every concept (or of
    some `concepts`) `known_i`, and its posterior, P(C_i = 1 | known) as `posterior_i` for two values and the
    expected coordinates as `expected_i` or `expected_i_axis` for more (`World.coordinates`: the posterior
    probabilities themselves where values are names, the posterior mean on a line, and the mean cosine and
    sine on a circle).

    **Raises** `ValueError` for contexts of probability 0 or worlds too large to enumerate.
    """
    wanted = list(range(world.m)) if concepts is None else check_indices("concepts", concepts, world.m)
    contexts, rows = np.unique(known, axis=0, return_inverse=True)
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
    return pd.DataFrame({name: column[rows.reshape(-1)] for name, column in columns.items()})


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
