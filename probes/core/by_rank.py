"""The gain in ranks, for targets whose squares a few rows rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from graticule.probes.core.fit import Predictions, with_and_without
from graticule.probes.core.intervals import mean_r2_estimate
from graticule.probes.core.resample import cluster_sums
from graticule.probes.scores.metrics import mean_r2, share_below


@dataclass(frozen=True)
class RankGain:
    """What the probe adds to the stacked baselines where targets and predictions are ranks."""

    surface: float
    """R² of the ranks of the test rows' targets, by the stack of the baselines' ranks."""
    gain: float
    """R² of the stack with the probe's ranks added, less `surface`."""
    ci95: tuple[float, float]
    """Of the gain, as the verdict's."""


def rank_gain(
    y_train: Float[np.ndarray, "train target"],
    y_test: Float[np.ndarray, "test target"],
    probe: Predictions,
    baselines: Mapping[str, Predictions],
    clusters: Int[np.ndarray, " test"],
) -> RankGain:
    """The gain with every target and prediction replaced by its rank among the training rows.

    A target's value is the share of training rows below it, a prediction's the share of out-of-fold
    predictions below it, ties by half. The stacks are fitted to these on training rows anew; the predictors
    are not, so that a reader whose fit the largest rows spoilt stays spoilt.

    Args:
        y_train: Targets of training rows.
        y_test: Targets of test rows.
        probe: The probe's predictions.
        baselines: What it stands against.
        clusters: of the test rows.

    Returns:
        Surface and gain in R² of ranks.
    """
    ranked = {
        name: Predictions(share_below(p.out_of_fold, p.out_of_fold), share_below(p.out_of_fold, p.test))
        for name, p in baselines.items()
    }
    reader = Predictions(
        share_below(probe.out_of_fold, probe.out_of_fold), share_below(probe.out_of_fold, probe.test)
    )
    train, test = share_below(y_train, y_train), share_below(y_train, y_test)
    surface, full = with_and_without(ranked, reader, train)
    added = mean_r2_estimate(
        cluster_sums(test, {"surface": surface, "full": full}, clusters), "full", "surface"
    )
    return RankGain(mean_r2(test, surface), float(added.value), added.ci95)
