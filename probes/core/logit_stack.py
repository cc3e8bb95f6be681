"""Probabilities from several predictors: a small logistic regression on their out-of-fold scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from graticule.hooks.messages import UnknownNameError
from graticule.probes.tables.groups import group_folds

PENALTY = 0.3
"""On the variance of the log odds: what some hundreds of rows hardly feel, and what keeps the weights finite
where a score tells all classes apart."""
_FOLDS = 10
_STEPS = 60
_SETTLED = 1e-9
_ROUNDING = 1e-12


@dataclass(frozen=True)
class LogitStack:
    """Log odds of class 1, or of every class up to a constant, linear in the predictors' scores.

    Of several classes a predictor has one weight, which multiplies its score of every class.
    """

    names: tuple[str, ...]
    """Predictors, in the order of ``weights``."""
    weights: Float[np.ndarray, " predictor"]
    """Log odds per unit of score; exactly 0 for a predictor that goes against the target out of fold."""
    intercept: Float[np.ndarray, " column"]
    """At scores of 0."""
    least: float
    """No probability is below it: so many training rows cannot tell 1 / (rows + 2) from never, and that much
    all other classes have together."""

    def probabilities(
        self, scores: Mapping[str, Float[np.ndarray, "row column"]], n_rows: int | None = None
    ) -> Float[np.ndarray, "row column"]:
        """Of class 1 (one column), or of every class.

        Args:
            scores: of every predictor.
            n_rows: needed only where the stack holds no predictor.

        Raises:
            KeyError: A predictor of the fit is missing.
        """
        if missing := [name for name in self.names if name not in scores]:
            raise UnknownNameError(f"the stack was fitted with {missing} too; scores hold {list(scores)}")
        rows = len(scores[self.names[0]]) if self.names else n_rows or 0
        odds = np.tile(self.intercept, (rows, 1))
        for name, weight in zip(self.names, self.weights, strict=True):
            odds += weight * scores[name]
        return shrunk(class_probabilities(odds), self.least)


def class_probabilities(odds: Float[np.ndarray, "row column"]) -> Float[np.ndarray, "row column"]:
    """Of class 1 from its log odds (one column), or of every class."""
    if odds.shape[1] == 1:
        return 0.5 * (1 + np.tanh(0.5 * odds))
    powers = np.exp(odds - odds.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def shrunk(p: Float[np.ndarray, "row column"], least: float) -> Float[np.ndarray, "row column"]:
    """Probabilities none of which is below ``least`` (or, of class 1, above 1 − ``least``)."""
    if p.shape[1] == 1:
        return np.clip(p, least, 1 - least)
    return least + (1 - p.shape[1] * least) * p


def row_bits(
    y: Float[np.ndarray, "row column"], p: Float[np.ndarray, "row column"]
) -> Float[np.ndarray, " row"]:
    """−log₂ of the probability of each row's class."""
    true = np.where(y[:, 0] > 0.5, p[:, 0], 1 - p[:, 0]) if y.shape[1] == 1 else (y * p).sum(axis=1)
    return -np.log2(true)


def shares(y: Float[np.ndarray, "row column"]) -> Float[np.ndarray, " column"]:
    """Of class 1, or of every class, half a row added to each: never 0 or 1."""
    classes = max(2, y.shape[1])
    return (y.sum(axis=0) + 0.5) / (len(y) + 0.5 * classes)


def entropy_bits(y: Float[np.ndarray, "row column"]) -> float:
    """Entropy of the classes of some rows, in bits a row."""
    p = y.mean(axis=0)
    p = np.r_[p, 1 - p] if y.shape[1] == 1 else p
    p = p[p > 0]
    return float(-(p * np.log2(p)).sum())


def logit_stack(
    out_of_fold: Mapping[str, Float[np.ndarray, "train column"]],
    y: Float[np.ndarray, "train column"],
    penalty: float = PENALTY,
) -> LogitStack:
    """Fit the stack on out-of-fold scores of training rows.

    Scores are whatever rises with the class: log odds, probabilities, values of a ridge on 0 and 1. Those
    that go against the target out of fold, or do not vary, are left out, as `fit.stack` leaves them out.

    Args:
        out_of_fold: a predictor's scores, a column of class 1 or one of every class.
        y: 0 and 1 in the same columns.
        penalty: half of it times the variance of the log odds is added to the loss in nats.

    Returns:
        The stack; without predictors the classes' shares.
    """
    names, columns = tuple(out_of_fold), y.shape[1]
    start, (design, centre, unit) = _odds(shares(y)), _standardised(out_of_fold, y)
    theta = _newton(design, y, start, penalty)[0]
    least = 1 / ((len(y) + 2) * max(1, columns - 1))
    weights = theta[columns:] * unit
    return LogitStack(names, weights, start + theta[:columns] - weights @ centre, least)


def held_out_bits(
    out_of_fold: Mapping[str, Float[np.ndarray, "train column"]],
    y: Float[np.ndarray, "train column"],
    clusters: Int[np.ndarray, " train"],
    penalty: float = PENALTY,
) -> Float[np.ndarray, " train"]:
    """−log₂ p of each training row's class by a stack without the row's fold, one of ten of whole clusters.

    The stack without a fold is one Newton step from the stack of all rows, so ten folds cost one fit.

    Args:
        out_of_fold: As `logit_stack` takes them.
        y: As `logit_stack` takes it.
        clusters: Of training rows.
        penalty: As `logit_stack` takes it.

    Returns:
        Bits, a row each.
    """
    columns = y.shape[1]
    start, (design, _, _) = _odds(shares(y)), _standardised(out_of_fold, y)
    theta, ridge = _newton(design, y, start, penalty)
    p = class_probabilities(start + theta[:columns] + design @ theta[columns:])
    curvature, fold = _derivatives(design, p - y, p)[1] + ridge, group_folds(clusters, _FOLDS, 0)
    least, bits = 1 / ((len(y) + 2) * max(1, columns - 1)), np.empty(len(y))
    for k in range(int(fold.max()) + 1):
        rows = fold == k
        gradient, own = _derivatives(design[rows], (p - y)[rows], p[rows])
        moved = theta + np.linalg.solve(curvature - own + 1e-9 * len(y) * np.eye(len(theta)), gradient)
        odds = start + moved[:columns] + design[rows] @ moved[columns:]
        bits[rows] = row_bits(y[rows], shrunk(class_probabilities(odds), least))
    return bits


def _odds(share: Float[np.ndarray, " column"]) -> Float[np.ndarray, " column"]:
    return np.log(share / (1 - share)) if len(share) == 1 else np.log(share)


def _standardised(
    out_of_fold: Mapping[str, Float[np.ndarray, "train column"]], y: Float[np.ndarray, "train column"]
) -> tuple[
    Float[np.ndarray, "train column predictor"],
    Float[np.ndarray, "predictor column"],
    Float[np.ndarray, " predictor"],
]:
    """Scores in standard deviations from their means, the means, and one over the deviations.

    0 for those that go against the target, or do not vary.
    """
    count, columns = len(out_of_fold), y.shape[1]
    design = np.zeros((len(y), columns, count))
    centre, unit = np.zeros((count, columns)), np.zeros(count)
    for j, score in enumerate(out_of_fold.values()):
        centre[j] = score.mean(axis=0)
        apart = score - centre[j]
        spread = float(np.sqrt(np.square(apart).mean()))
        if (apart * y).sum() > 0 and spread > _ROUNDING * (1 + float(np.abs(centre[j]).max())):
            unit[j] = 1 / spread
            design[:, :, j] = apart * unit[j]
    return design, centre, unit


def _newton(
    design: np.ndarray, y: np.ndarray, start: np.ndarray, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Intercepts (from `start`) and weights of the penalised fit, by Newton steps that are halved if need be;
    and the curvature of the penalty.

    The penalty is on the variance of the log odds, and not on each weight: a copy of a predictor would halve
    what single weights pay, and so be worth something. Of several classes the intercepts are penalised too:
    their sum is not determined otherwise.
    """
    n, columns, predictors = design.shape
    ridge = np.zeros((columns + predictors,) * 2)
    if columns > 1:
        ridge[:columns, :columns] = penalty * np.eye(columns)
    flat = design.reshape(n * columns, predictors)
    ridge[columns:, columns:] = penalty * flat.T @ flat / len(flat) + 1e-6 * np.eye(predictors)
    theta = np.zeros(columns + predictors)

    def loss(at: np.ndarray) -> float:
        odds = start + at[:columns] + design @ at[columns:]
        top = np.logaddexp(0.0, odds[:, 0]) if columns == 1 else np.logaddexp.reduce(odds, axis=1)
        return float(top.sum() - (odds * y).sum() + 0.5 * at @ ridge @ at)

    now = loss(theta)
    for _ in range(_STEPS):
        p = class_probabilities(start + theta[:columns] + design @ theta[columns:])
        gradient, curvature = _derivatives(design, p - y, p)
        gradient += ridge @ theta
        curvature += ridge + 1e-10 * n * np.eye(len(ridge))
        step = np.linalg.solve(curvature, gradient)
        if gradient @ step < _SETTLED:
            break
        for _ in range(30):
            after = loss(theta - step)
            if after <= now:
                break
            step = step / 2
        else:
            break
        theta, now = theta - step, after
    return theta, ridge


def _derivatives(design: np.ndarray, error: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradient and Hessian of the loss in intercepts and weights."""
    n, columns, predictors = design.shape
    gradient = np.r_[error.sum(axis=0), np.einsum("nkj,nk->j", design, error)]
    if columns == 1:
        flat = np.concatenate([np.ones((n, 1)), design[:, 0]], axis=1)
        return gradient, flat.T @ (flat * (p * (1 - p)))
    mean = np.einsum("nkj,nk->nj", design, p)
    cross = np.einsum("nkj,nk->kj", design, p) - p.T @ mean
    flat = design.reshape(n * columns, predictors)
    inner = flat.T @ (flat * p.reshape(-1, 1)) - mean.T @ mean
    outer = np.diag(p.sum(axis=0)) - p.T @ p
    return gradient, np.block([[outer, cross], [cross.T, inner]])
