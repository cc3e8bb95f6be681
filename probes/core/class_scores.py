"""What calibrated probabilities are worth as a classifier: AUROC, accuracy, Brier score, with intervals.

The AUROC's interval is DeLong's (1988), its terms summed by cluster (Obuchowski 1997), on the scale of log
odds. The accuracy's is Wilson's, for as many rows as would vary as much as these do in their clusters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from graticule.hooks.imports import load
from graticule.probes.core.bits import ClassOdds
from graticule.probes.core.logit_stack import shares
from graticule.probes.core.resample import effective_clusters
from graticule.probes.scores.metrics import auroc, mean
from graticule.probes.scores.significance import ranks


@dataclass(frozen=True)
class ClassScores:
    """Test scores of the probe alone; of several classes the AUROC is the mean of each against the rest."""

    auroc: float
    """Of the probe; NaN where one class has all rows."""
    auroc_ci95: tuple[float, float]
    """Over clusters of test rows."""
    surface_auroc: float
    """Of the stacked baselines."""
    full_auroc: float
    """Of the stack of baselines and probe."""
    accuracy: float
    """The most probable class, against the row's."""
    accuracy_ci95: tuple[float, float]
    """Over clusters of test rows."""
    balanced_accuracy: float
    """Mean over classes of the share of their rows put right, by the class whose probability is largest
    beside its share of the training rows."""
    always: float
    """Accuracy of always saying the class that is most frequent in training."""
    prevalence: float
    """Share of test rows of class 1; of several classes, of the most frequent one in training."""
    training_prevalence: float
    """The same among training rows."""
    brier: float
    """Mean squared error of the probabilities, summed over classes (of two, of class 1)."""
    brier_skill: float
    """1 − ``brier`` over that of the training shares, all classes pooled."""


def class_scores_of(
    odds: ClassOdds,
    y_train: Float[np.ndarray, "train column"],
    y: Float[np.ndarray, "test column"],
    clusters: Int[np.ndarray, " test"],
) -> ClassScores:
    """Scores of the probe's probabilities on test rows.

    Args:
        odds: What the stacks say of them.
        y_train: Classes of training rows.
        y: Classes of test rows.
        clusters: Clusters of test rows.

    Returns:
        The scores.
    """
    two, share = y.shape[1] == 1, shares(y_train)
    by_class, usual = (_all_classes(part) for part in (odds.probe, share[None]))
    true, taken = _all_classes(y).argmax(axis=1), by_class.argmax(axis=1)
    likely = (by_class / usual).argmax(axis=1)
    right = (taken == true).astype(np.float64)
    most = int(usual.argmax())
    area, influence = auroc_terms(y, odds.probe)
    rarest = (
        min(len(np.unique(clusters[true == k])) for k in np.unique(true)) if len(np.unique(true)) > 1 else 0
    )
    errors, reference = (float(np.square(p - y).sum(axis=1).mean()) for p in (odds.probe, share))
    of = 1 if two else most
    return ClassScores(
        auroc=area,
        auroc_ci95=_area_interval(area, influence, clusters, rarest),
        surface_auroc=mean(auroc(y, odds.surface)),
        full_auroc=mean(auroc(y, odds.full)),
        accuracy=float(right.mean()),
        accuracy_ci95=share_interval(right, clusters),
        balanced_accuracy=float(np.mean([(likely[true == k] == k).mean() for k in np.unique(true)])),
        always=float((true == most).mean()),
        prevalence=float((true == of).mean()),
        training_prevalence=float((_all_classes(y_train).argmax(axis=1) == of).mean()),
        brier=errors,
        brier_skill=1 - errors / reference,
    )


def _all_classes(p: Float[np.ndarray, "row column"]) -> Float[np.ndarray, "row class"]:
    return np.concatenate([1 - p, p], axis=1) if p.shape[1] == 1 else p


def auroc_terms(
    y: Float[np.ndarray, "row column"], scores: Float[np.ndarray, "row column"]
) -> tuple[float, Float[np.ndarray, " row"]]:
    """The AUROC (mean over columns that hold both classes), and what each row moves it by.

    The terms are DeLong's: a row's share of pairs won, less the AUROC, over the rows of its class.
    """
    areas, terms = list[float](), np.zeros(len(y))
    for column in range(y.shape[1]):
        positive, score = y[:, column] > 0.5, scores[:, column]
        n, m = int(positive.sum()), int((~positive).sum())
        if not n or not m:
            continue
        everywhere, won = ranks(score), np.empty(len(y))
        won[positive] = (everywhere[positive] - ranks(score[positive])) / m
        won[~positive] = 1 - (everywhere[~positive] - ranks(score[~positive])) / n
        area = float(won[positive].mean())
        areas.append(area)
        terms += np.where(positive, (won - area) / n, (won - area) / m)
    if not areas:
        return float("nan"), terms
    return float(np.mean(areas)), terms / len(areas)


def _area_interval(area: float, terms: np.ndarray, clusters: np.ndarray, rarest: int) -> tuple[float, float]:
    """On the scale of log odds, with as many degrees of freedom as the rarest class has clusters, less one.

    Where every pair is won nothing varies: then the end at which the rarest class's clusters, each won with
    that chance, would all be won once in forty times.
    """
    load("scipy.special")
    from scipy.special import stdtrit

    if area != area or rarest < 2:
        return float("nan"), float("nan")
    if not 0 < area < 1:
        end = 0.025 ** (1 / rarest)
        return (end, 1.0) if area == 1 else (0.0, 1 - end)
    _, codes = np.unique(clusters, return_inverse=True)
    sums = np.bincount(codes, weights=terms)
    error = float(np.sqrt(len(sums) / (len(sums) - 1) * np.square(sums).sum())) / (area * (1 - area))
    odds, reach = np.log(area / (1 - area)), float(stdtrit(rarest - 1, 0.975)) * error
    low, high = 1 / (1 + np.exp(-np.array([odds - reach, odds + reach])))
    return float(low), float(high)


def share_interval(
    right: Float[np.ndarray, " row"], clusters: Int[np.ndarray, " row"]
) -> tuple[float, float]:
    """Wilson's 95% interval of a share, rows counted for what they are worth in their clusters."""
    load("scipy.special")
    from scipy.special import stdtrit

    _, codes = np.unique(clusters, return_inverse=True)
    share, sizes = float(right.mean()), np.bincount(codes)
    if len(sizes) < 2:
        return float("nan"), float("nan")
    sums = np.bincount(codes, weights=right - share)
    spread = len(sizes) / (len(sizes) - 1) * float(np.square(sums).sum()) / len(right) ** 2
    worth = share * (1 - share) / spread if spread > 0 else effective_clusters(sizes)
    worth, t = min(worth, float(len(right))), float(stdtrit(len(sizes) - 1, 0.975))
    middle = (share + t**2 / (2 * worth)) / (1 + t**2 / worth)
    reach = t / (1 + t**2 / worth) * float(np.sqrt(share * (1 - share) / worth + t**2 / (4 * worth**2)))
    return max(0.0, middle - reach), min(1.0, middle + reach)
