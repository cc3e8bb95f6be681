"""Leave-one-out projections: does a pair lie along the direction that the concept's other pairs give?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.probes.steering import set_slices
from graticule.probes.words.heat import LEVEL, Rows
from graticule.probes.words.tokens import TokenPairs


def leave_one_out(tokens: TokenPairs, rows: Rows) -> tuple[pd.DataFrame, Float[np.ndarray, "concept random"]]:
    """Every pair's difference on the unit mean of the other pairs of its concept, and random pairs' (Park et
    al. 2311.03658, figure 2).

    Pairs that share a word with it are left out of the direction too. Random pairs of vocabulary tokens are
    projected on the mean of all pairs. Both are in standard deviations of the random pairs' projections, so
    that inner products can be compared.

    **Returns** a line a pair (`concept`, `start`, `end`, `projection`; NaN where no other pair is left), and
    the random pairs' projections.
    """
    vectors = rows.ends - rows.starts
    (left, right), kept = tokens.shared.T, tokens.kept[["concept", "start", "end"]].copy()
    projection = np.full(len(vectors), np.nan)
    random = np.empty((len(tokens.concepts), len(rows.vocabulary)))
    for c, s in enumerate(set_slices(tokens.sizes)):
        own = vectors[s]
        inside = (left >= s.start) & (left < s.stop) & (right >= s.start) & (right < s.stop)
        meets = np.ones((len(own), len(own)))
        meets[left[inside] - s.start, right[inside] - s.start] = 0.0
        others = meets @ own
        random[c] = rows.vocabulary @ own.mean(axis=0) / np.linalg.norm(own.mean(axis=0))
        scale = float(random[c].std())
        lengths = np.linalg.norm(others, axis=1)
        inner = (own * others).sum(axis=1)
        projection[s] = np.divide(inner, lengths * scale, out=np.full(len(own), np.nan), where=lengths > 0)
        random[c] /= scale
    kept["projection"] = projection
    return kept, random.astype(np.float32)


def share_above(projections: pd.DataFrame, random: np.ndarray, concepts: tuple[str, ...]) -> np.ndarray:
    """Share of each concept's pairs that lie beyond `LEVEL` of the random pairs."""
    out = np.empty(len(concepts))
    for c, concept in enumerate(concepts):
        own = projections.loc[projections["concept"] == concept, "projection"].to_numpy(float)
        own = own[~np.isnan(own)]
        out[c] = (own > np.quantile(random[c], LEVEL)).mean() if len(own) else np.nan
    return out
