"""The verdict in words: what can be said by a gain and its interval, and by what leaves it undecided."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from graticule.probes.core.undecided import no_floor, ruled_by_few, too_few

STRUCTURE = "structure beyond the baselines"
NO_BETTER = "no better than the baselines"
BETTER_BY_LITTLE = "better than the baselines, by less than min_gain"
NOT_DECIDED = "not decided"
MISSING = "not decided: model baselines missing"
NO_BETTER_THAN_MEAN = (
    "not decided: that baselines and probe together are better than the training mean is not shown"
)
NO_BETTER_THAN_BEST = (
    "not decided: that baselines and probe together are better than the strongest baseline alone is not shown"
)
HARDLY_VARIES = "not decided: the target hardly varies over the test rows"
ALSO_FINDS = "also finds structure"
ALSO_READ = "are also read"
AT_MEAN = "the probe's best fit is the training mean"
_NOTHING = 1e-3  # of min_gain: less is what iterations leave where two stacks say the same


def label_of(gain: float, ci95: tuple[float, float], min_gain: float, model_baselines: bool) -> str:
    """The verdict in words, by the gain and its interval; what is undefined decides nothing."""
    if not model_baselines:
        return MISSING
    if np.isnan([gain, *ci95]).any():
        return NOT_DECIDED
    if ci95[0] > 0 and gain >= min_gain:
        return STRUCTURE
    if ci95[1] >= min_gain:
        return NOT_DECIDED
    return BETTER_BY_LITTLE if ci95[0] > _NOTHING * min_gain else NO_BETTER


def of_null(label: str) -> bool:
    """Whether a label is undecided for what a null check finds, whose own score it tells."""
    return ALSO_FINDS in label or ALSO_READ in label


def standing(
    label: str,
    rows: int,
    effective: float,
    shares: Float[np.ndarray, " target"],
    surface: float,
    target_names: Sequence[str],
) -> str:
    """The label, or that nothing is decided where gain and interval say nothing.

    Args:
        label: by gain and interval.
        rows: of the test part.
        effective: clusters of them.
        shares: of `largest_share`.
        surface: R² of the stacked baselines.
        target_names: of the targets.

    Returns:
        Words with the reason.
    """
    why = too_few(rows, effective) or ruled_by_few(shares, target_names)
    if why is None and label in (NO_BETTER, BETTER_BY_LITTLE):
        why = no_floor(surface)
    return label if why is None else f"{NOT_DECIDED}: {why}"
