"""What can be read off the string alone: TF-IDF of its words and letters, through ridge."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from graticule.probes.core.stack import Predictions
from graticule.probes.scores.metrics import mean_r2
from graticule.probes.surface.string_ridge import StringRidge

logger = logging.getLogger(__name__)

ALPHAS: tuple[float, ...] = tuple(float(a) for a in np.logspace(-3, 3, 19))
"""Default strengths: rows of the matrix have length √2 at most, so 1 is a middling one."""

_STRONG = 0.4  # strengths above it are always tried: weaker ones take many more iterations


def tfidf_predictions(
    texts_train: Sequence[str],
    y_train: Float[np.ndarray, "train target"],
    clusters_train: Int[np.ndarray, " train"],
    texts_test: Sequence[str],
    *,
    alphas: Sequence[float] | None = None,
    folds: int = 5,
    seed: int = 0,
    min_df: int = 2,
    disable: bool | None = None,
) -> tuple[Predictions, dict[str, Any]]:
    """Out-of-fold training and test predictions of ridge on TF-IDF, all targets at once.

    Terms are lower-cased word 1-2 grams and char_wb 2-5 grams that ``min_df`` texts hold. The strength, one
    for all targets, is the one with the best out-of-fold R² (mean over targets) in a group k-fold over the
    clusters of the **training** rows; vocabulary and frequencies are made anew in each fold. Strengths are
    tried from the top, three at a time below .4, until the best is not the smallest tried. If no term is
    frequent enough, ``min_df`` falls to 1; if no text tells rows apart, or all training rows are one
    cluster, the prediction is the training mean (a warning is logged).

    The second value holds ``alpha``, ``alpha_at_edge``, ``validation`` (that R²), ``alphas``,
    ``validation_by_alpha`` (NaN where not tried), ``n_terms``, ``min_df`` and ``folds``.
    ``disable`` goes to tqdm.

    **Raises** ValueError where the numbers of rows differ, for an empty train or test part, or values that
    are not finite.
    """
    strengths = np.sort(np.asarray(ALPHAS if alphas is None else alphas, np.float64))
    _check(texts_train, y_train, clusters_train, texts_test)
    centre, scale = y_train.mean(axis=0), y_train.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    z = (y_train - centre) / scale
    ridge = StringRidge.of(texts_train, clusters_train, texts_test, folds=folds, seed=seed, min_df=min_df)
    groups = _groups(strengths)
    scores, best, held_out = np.full(len(strengths), np.nan), -1, np.zeros(z.shape)
    with tqdm(total=len(groups) * ridge.n_folds, desc="TF-IDF", disable=disable, leave=False) as bar:
        for group in groups:
            predicted = ridge.out_of_fold(z, strengths[group], bar)
            scores[group] = [mean_r2(z, p) for p in predicted.astype(np.float64)]
            chosen = _pick(scores)
            if chosen != best:
                best, held_out = chosen, predicted[chosen - group[0]]
            if best != group[0]:
                break
    test = ridge.test(z, strengths[best : best + 1])[0]
    info: dict[str, Any] = {
        "alpha": float(strengths[best]),
        "alpha_at_edge": len(strengths) > 1 and best in (0, len(strengths) - 1),
        "validation": float(scores[best]),
        "validation_by_alpha": [float(s) for s in scores],
        "alphas": [float(a) for a in strengths],
        "n_terms": ridge.n_terms,
        "min_df": ridge.min_df,
        "folds": ridge.n_folds,
    }
    if np.nanmax(scores, initial=-np.inf) == np.nanmin(scores, initial=np.inf) and len(strengths) > 1:
        logger.warning("TF-IDF: the texts do not tell the rows apart; predicting the training mean")
    elif info["alpha_at_edge"]:
        logger.info("TF-IDF: the chosen strength %g is at an edge of the grid", info["alpha"])
    predicted = held_out.astype(np.float64) * scale + centre
    return Predictions(out_of_fold=predicted, test=test * scale + centre), info


def _groups(strengths: np.ndarray) -> list[np.ndarray]:
    """Indices of the ascending strengths in the order of trial: the strong ones, then three at a time."""
    first = min(int(np.searchsorted(strengths, _STRONG)), len(strengths) - 1)
    cuts = list(range(first, 0, -3))
    return [np.arange(first, len(strengths)), *(np.arange(max(cut - 3, 0), cut) for cut in cuts)]


def _pick(scores: np.ndarray) -> int:
    """The best strength tried; the strongest of equals, so that texts which tell nothing choose the mean."""
    if np.isnan(scores).all():
        return len(scores) - 1
    return len(scores) - 1 - int(np.nanargmax(scores[::-1]))


def _check(
    texts_train: Sequence[str], y_train: np.ndarray, clusters_train: np.ndarray, texts_test: Sequence[str]
) -> None:
    if not len(texts_train) == len(y_train) == len(clusters_train):
        raise ValueError(
            f"training rows differ: {len(texts_train)} texts, {len(y_train)} targets, "
            f"{len(clusters_train)} cluster labels"
        )
    if not len(texts_train) or not len(texts_test):
        raise ValueError(
            f"TF-IDF needs texts in both parts: {len(texts_train)} train, {len(texts_test)} test"
        )
    if not np.isfinite(y_train).all():
        row = int(np.argwhere(~np.isfinite(y_train))[0][0])
        raise ValueError(f"the target of training row {row} is {y_train[row]}: drop such rows first")
