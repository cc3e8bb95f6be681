"""Many verdicts, neurons or layers at once: adjusted p-values, and bands that hold all of them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.probes.scores.ties import difference


def holm(p: Sequence[float] | Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Adjusted p-values that keep the chance of *any* false finding below their level (Holm 1979).

    Whatever the dependence between the tests. NaN stays NaN and is not counted as a test.

    **Raises** `ValueError` for values outside [0, 1].
    """
    values, defined = _checked(p)
    given = values[defined]
    order = np.argsort(given, kind="stable")
    steps = np.arange(len(given), 0, -1) * given[order]
    adjusted = np.empty(len(given))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    values[defined] = adjusted
    return values


def benjamini_hochberg(p: Sequence[float] | Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Adjusted p-values (q) that keep the expected share of false findings below their level (1995).

    For independent or positively dependent tests. NaN stays NaN and is not counted as a test.

    **Raises** `ValueError` for values outside [0, 1].
    """
    values, defined = _checked(p)
    given = values[defined]
    order = np.argsort(-given, kind="stable")
    steps = given[order] * len(given) / np.arange(len(given), 0, -1)
    adjusted = np.empty(len(given))
    adjusted[order] = np.minimum(np.minimum.accumulate(steps), 1.0)
    values[defined] = adjusted
    return values


def bootstrap_p(samples: Float[np.ndarray, " draw"], null: float = 0.0, two_sided: bool = True) -> float:
    """p-value of `null` by inverting the percentile interval: the level at which the interval just meets it.

    Twice the share of draws on the null's side of it (once, for the one-sided alternative that the quantity
    is larger), with one added to numerator and denominator so that it is never 0. Undefined draws are left
    out; NaN if all are. Samples are of scores of order 1: one that is `null` but for rounding counts on both
    sides.
    """
    defined = samples[~np.isnan(samples)]
    if not len(defined):
        return float("nan")
    from_null = difference(defined, np.full(len(defined), null))
    below = (1 + int((from_null <= 0).sum())) / (1 + len(defined))
    above = (1 + int((from_null >= 0).sum())) / (1 + len(defined))
    return min(1.0, 2 * min(below, above)) if two_sided else below


def max_t_band(
    estimates: Float[np.ndarray, " part"], samples: Float[np.ndarray, "draw part"], level: float = 0.95
) -> tuple[Float[np.ndarray, " part"], Float[np.ndarray, " part"]]:
    """Limits that hold every part at once with probability `level`, from one set of resamples.

    Each part's deviation from its estimate is measured in its own standard error, and the largest of a
    resample is what the band must hold (Romano & Wolf, Econometrica 2005): where parts rise and fall together
    the band is narrower than Bonferroni's. Draws with an undefined part are left out.

    **Raises** `ValueError` if no draw is defined.
    """
    defined = samples[~np.isnan(samples).any(axis=1)]
    if not len(defined):
        raise ValueError("no resample defines every part, so there is no band")
    spread = defined.std(axis=0)
    safe = np.where(spread > 0, spread, 1.0)
    largest = (np.abs(defined - estimates) / safe).max(axis=1)
    reach = float(np.quantile(largest, level)) * spread
    return estimates - reach, estimates + reach


def adjusted_table(p: Mapping[str, float]) -> pd.DataFrame:
    """`name`, raw `p`, `holm` and `benjamini_hochberg`, the smallest first."""
    raw = np.array(list(p.values()), np.float64)
    table = pd.DataFrame(
        {"name": list(p), "p": raw, "holm": holm(raw), "benjamini_hochberg": benjamini_hochberg(raw)}
    )
    return table.sort_values("p", kind="stable", ignore_index=True)


def _checked(p: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = np.array(p, np.float64)
    defined = ~np.isnan(values)
    bad = values[defined & ~((values >= 0) & (values <= 1))]
    if values.ndim != 1 or len(bad):
        raise ValueError(f"p is {bad[:3].tolist() or values.shape}: expected a list of values from 0 to 1")
    return values, defined
