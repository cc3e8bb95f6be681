"""`words`: which concepts a model's vocabulary represents linearly, by counterfactual word pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from tqdm.auto import tqdm

from graticule.hooks.artifact import library_versions
from graticule.hooks.doors import MODEL, door
from graticule.hooks.identity import model_identity
from graticule.hooks.protocols import HookedModel
from graticule.probes.words.heat import gather, heat
from graticule.probes.words.lists import PairLists, pair_lists
from graticule.probes.words.projections import leave_one_out, share_above
from graticule.probes.words.readout import METRICS, Readout, make_metrics
from graticule.probes.words.result import Words
from graticule.probes.words.tokens import keep_pairs

_RANDOM = 5000


@door(model=MODEL)
def words(
    model: HookedModel,
    pairs: PairLists | Path | str | None = None,
    *,
    metrics: Sequence[str] = METRICS,
    draws: int = 1000,
    n_random: int = _RANDOM,
    residuals: Float[np.ndarray, "row d_model"] | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Words:
    """Cosines of counterfactual word pairs in the unembedding, within and between concepts.

    A pair's steering vector is γ(end) − γ(start), γ the unembedding row (Jiang et al. 2403.03867, section
    5.1; Park et al. 2311.03658). Under every inner product: mean cosines between the concepts' sets, with
    bootstrap intervals over pairs; four nulls for the diagonal; leave-one-out projections against random
    pairs. Two pairs that share a word are never set against each other: they are alike for that alone.

    **Arguments:**

    - `pairs`: concept → pairs of words, a folder of `[a - b].txt` files, or None for the packaged lists.
      Pairs whose words are not single, different tokens are left out and counted.
    - `metrics`: of `euclidean`, `whitened` (covariance of the residual after the final norm) and `causal`
      (inverse covariance of the unembedding rows).
    - `draws`: of each null and of the bootstrap.
    - `n_random`: random pairs of vocabulary tokens, and of the lists' words.
    - `residuals`: rows after the final norm for the whitened product; by default the model is run on the
      packaged contexts. With fewer rows than `d_model` it sees only the directions in which they vary.

    **Raises** `ValueError` for unknown metrics, a model without `W_U` or tokenizer, too few single-token
    pairs, or too few draws; `FileNotFoundError` for a folder without lists.
    """
    if draws < 20:
        raise ValueError(f"draws={draws}: at least 20, and 1,000 for p-values that survive a correction")
    tokens, readout = keep_pairs(model, pair_lists(pairs)), Readout.of(model)
    rows = gather(readout, tokens, n_random, seed)
    products = make_metrics(model, readout, metrics, residuals, progress=progress)
    maps: list[np.ndarray] = []
    plain: list[np.ndarray] = []
    random: list[np.ndarray] = []
    tables: dict[str, list[pd.DataFrame]] = {"within": [], "between": [], "projections": []}
    quiet = not (progress if progress is not None else draws * len(rows.starts) > 200_000)
    for name, metric in tqdm(products.items(), desc="words", unit="metric", disable=quiet, leave=False):
        mapped = rows.under(metric)
        made = heat(tokens, mapped, draws, seed)
        projections, chance = leave_one_out(tokens, mapped)
        within = made.within.assign(above=share_above(projections, chance, tokens.concepts))
        maps.append(made.means)
        plain.append(made.plain)
        random.append(chance)
        parts: dict[str, pd.DataFrame] = {
            "within": within,
            "between": made.between,
            "projections": projections,
        }
        for key, table in parts.items():
            table.insert(0, "metric", name)
            tables[key].append(table)
    joined: dict[str, Any] = {k: pd.concat(v, ignore_index=True) for k, v in tables.items()}
    return Words(
        model=str(model_identity(model)["name"]),
        concepts=tokens.concepts,
        metrics=tuple(products),
        means=np.stack(maps),
        plain=np.stack(plain),
        random=np.stack(random),
        counts=tokens.counts,
        dropped=tokens.dropped,
        draws=draws,
        provenance={
            "model": model_identity(model),
            "pairs": "packaged" if pairs is None else "given",
            "settings": {"draws": draws, "n_random": n_random, "seed": seed, "metrics": list(products)},
            "residuals": "packaged contexts" if residuals is None else f"{len(residuals)} given rows",
            "versions": library_versions(),
        },
        **joined,
    )
