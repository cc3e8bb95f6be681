"""Logistic regression with an L2 penalty, all strengths at once; and which few coordinates hold a target.

The loss is Σ −log p(class) + ½ α |W|², intercepts unpenalised (scikit-learn's, with α = 1/C). In the
eigenbasis of X'X its curvature is bounded by a diagonal (Böhning & Lindsay 1988: X'X/4 for two classes, X'X/2
for several), so gradient steps in that metric need no line search, and every strength takes them together;
they are accelerated, and start afresh where the momentum points uphill (O'Donoghue & Candès 2015).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from graticule.probes.linear.moments import Axes
from graticule.probes.linear.rows import ArrayRows
from graticule.probes.linear.strengths import check_alphas, default_strengths, rounding_of
from graticule.probes.tables.groups import group_folds

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LogisticWeights:
    """Fits of one set of rows, one a strength."""

    alphas: Float[np.ndarray, " alpha"]
    """Strengths, ascending."""
    coef: Float[np.ndarray, "alpha width column"]
    """Log odds (two classes, one column) or class scores (several) per activation unit."""
    intercept: Float[np.ndarray, "alpha column"]
    """At activation 0."""
    converged: bool
    """Whether every strength did."""

    def probabilities(
        self, X: Float[np.ndarray, "row width"], at: int = 0
    ) -> Float[np.ndarray, "row column"]:
        """Of class 1 (one column), or of every class."""
        return _probabilities(X @ self.coef[at] + self.intercept[at])


@dataclass(frozen=True)
class LogisticFit(LogisticWeights):
    """A fit whose strength was chosen by its log-loss out of fold on training rows."""

    validation: Float[np.ndarray, " alpha"]
    """Mean out-of-fold log-loss (nats) of every strength of `alphas`."""
    chosen: int
    """The strength with the lowest."""
    out_of_fold: Float[np.ndarray, "row column"]
    """Probabilities of training rows from fits without their fold, at the chosen strength."""

    @property
    def alpha(self) -> float:
        """The chosen strength."""
        return float(self.alphas[self.chosen])

    def predict(self, X: Float[np.ndarray, "row width"]) -> Float[np.ndarray, "row column"]:
        """Probabilities at the chosen strength."""
        return self.probabilities(X, self.chosen)


def logistic(
    X: Float[np.ndarray, "row width"],
    y: Float[np.ndarray, "row column"],
    alphas: Sequence[float] | Float[np.ndarray, " alpha"] | None = None,
    *,
    tolerance: float = 1e-10,
    iterations: int = 3000,
) -> LogisticWeights:
    """Fit every strength. `y` is 1 in class 1 (one column), or one indicator a class.

    `tolerance` bounds the last step's squared length in the metric of the curvature bound, a row.

    Raises:
        ValueError: Shapes that disagree, a class without a row, or strengths not above 0.
    """
    if X.ndim != 2 or len(X) != len(y):
        raise ValueError(f"X has shape {X.shape} and y {y.shape}; give a row of y for each row of X")
    present = np.concatenate([y, 1 - y], axis=1) if y.shape[1] == 1 else y
    if lacking := np.flatnonzero(present.sum(axis=0) == 0).tolist():
        raise ValueError(f"no training row is of class {lacking}: drop the class, or give it rows")
    axes = Axes.of(X)
    if not len(axes.squares):
        raise ValueError("X is the same in every row: there is nothing to tell classes by")
    grid = check_alphas(alphas)
    if grid is None:
        grid = default_strengths(axes.squares, rounding=rounding_of(ArrayRows(X)))
    theta, converged = _solve(axes.scores(X), axes.squares, y, grid, tolerance * len(X), iterations)
    if not converged:
        _log.warning("logistic regression stopped after %d steps before it settled; raise alphas", iterations)
    coef = np.einsum("wr,arc->awc", axes.vectors, theta[:, 1:])
    return LogisticWeights(grid, coef, theta[:, 0] - axes.mean @ coef, converged)


def logistic_cv(
    X: Float[np.ndarray, "row width"],
    y: Float[np.ndarray, "row column"],
    clusters: Int[np.ndarray, " row"],
    alphas: Sequence[float] | Float[np.ndarray, " alpha"] | None = None,
    *,
    folds: int = 5,
    seed: int = 0,
    progress: bool | None = None,
) -> LogisticFit:
    """Choose the strength by the log-loss of `folds` of whole clusters, then fit all rows as `logistic`."""
    whole = logistic(X, y, alphas)
    fold = group_folds(clusters, folds, seed)
    predicted = np.zeros((len(whole.alphas), *y.shape))
    count = int(fold.max()) + 1
    quiet = not (progress if progress is not None else X.size * y.shape[1] > 5_000_000)
    for k in tqdm(range(count), desc="logistic folds", unit="fold", disable=quiet, leave=False):
        out = fold == k
        predicted[:, out] = held_out(X[~out], y[~out], X[out], whole.alphas)
    losses = np.array([cross_entropy(y, predicted[a]) for a in range(len(predicted))])
    chosen = int(losses.argmin())
    return LogisticFit(
        alphas=whole.alphas,
        coef=whole.coef,
        intercept=whole.intercept,
        converged=whole.converged,
        validation=losses,
        chosen=chosen,
        out_of_fold=predicted[chosen],
    )


def held_out(
    X: Float[np.ndarray, "train width"],
    y: Float[np.ndarray, "train column"],
    other: Float[np.ndarray, "other width"],
    alphas: Sequence[float] | Float[np.ndarray, " alpha"],
) -> Float[np.ndarray, "alpha other column"]:
    """Probabilities of other rows from fits to these, which may lack a class: its probability is then 0."""
    out = np.zeros((len(alphas), len(other), y.shape[1]))
    if y.shape[1] == 1 and len(np.unique(y)) < 2:
        return out + y.mean()
    there = np.arange(1) if y.shape[1] == 1 else np.flatnonzero(y.sum(axis=0) > 0)
    part = logistic(X, y[:, there], alphas)
    for a in range(len(alphas)):
        out[a][:, there] = part.probabilities(other, a)
    return out


def cross_entropy(y: Float[np.ndarray, "row column"], p: Float[np.ndarray, "row column"]) -> float:
    """Mean −log probability (nats) of the true class."""
    return float(row_cross_entropies(y, p).mean())


def row_cross_entropies(
    y: Float[np.ndarray, "row column"], p: Float[np.ndarray, "row column"]
) -> Float[np.ndarray, " row"]:
    """−log probability of each row's class, probabilities kept above 1e-15."""
    two = y.shape[1] == 1
    true = np.where(y[:, 0] > 0.5, p[:, 0], 1 - p[:, 0]) if two else (y * p).sum(axis=1)
    return -np.log(np.clip(true, 1e-15, 1.0))


def _probabilities(scores: np.ndarray) -> np.ndarray:
    if scores.shape[-1] == 1:
        return 0.5 * (1 + np.tanh(0.5 * scores))
    shifted = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def _solve(
    rows: np.ndarray, squares: np.ndarray, y: np.ndarray, grid: np.ndarray, tolerance: float, iterations: int
) -> tuple[Float[np.ndarray, "alpha rank1 column"], bool]:
    """Intercept and weights in the eigenbasis, every strength; and whether all settled."""
    n, columns = y.shape
    bound = 0.25 if columns == 1 else 0.5
    metric = np.empty((len(grid), len(squares) + 1, 1))
    metric[:, 0, 0] = bound * n
    metric[:, 1:, 0] = bound * squares + grid[:, None]
    out = np.zeros((len(grid), len(squares) + 1, columns))
    share = y.mean(axis=0)
    out[:, 0] = np.log(share / (1 - share)) if columns == 1 else np.log(share)  # without features
    running = np.arange(len(grid))
    theta, before = out.copy(), out.copy()
    speed = np.ones(len(grid))
    for _ in range(iterations):
        faster = 0.5 * (1 + np.sqrt(1 + 4 * speed**2))
        ahead = theta + ((speed - 1) / faster)[:, None, None] * (theta - before)
        m = metric[running]
        step = _gradient(rows, y, ahead, grid[running]) / m
        before, theta, speed = theta, ahead - step, faster
        uphill = ((ahead - theta) * m * (theta - before)).sum(axis=(1, 2)) > 0
        speed[uphill] = 1.0
        done = (step * step * m).sum(axis=(1, 2)) < tolerance
        if done.any():
            out[running[done]] = theta[done]
            keep = ~done
            running, theta, before, speed = running[keep], theta[keep], before[keep], speed[keep]
            if not len(running):
                return out, True
    out[running] = theta
    return out, False


def _gradient(rows: np.ndarray, y: np.ndarray, theta: np.ndarray, alphas: np.ndarray) -> np.ndarray:
    """Of the penalised loss, all strengths; the products of all strengths are one matrix product."""
    n, columns = y.shape
    flat = theta[:, 1:].transpose(1, 0, 2).reshape(rows.shape[1], -1)
    scores = (rows @ flat).reshape(n, len(theta), columns) + theta[:, 0]
    error = _probabilities(scores) - y[:, None]
    out = np.empty_like(theta)
    out[:, 0] = error.sum(axis=0)
    back = (rows.T @ error.reshape(n, -1)).reshape(rows.shape[1], len(theta), columns)
    out[:, 1:] = back.transpose(1, 0, 2) + alphas[:, None, None] * theta[:, 1:]
    return out


Select = Literal["difference", "omp"]
"""How coordinates are ranked."""

_LEFT = 1e-10


def rank_coordinates(
    X: Float[np.ndarray, "row width"],
    y: Float[np.ndarray, "row column"],
    count: int,
    select: Select = "difference",
) -> Int[np.ndarray, " chosen"]:
    """The best `count` coordinates, best first; the first k of them are the choice of k.

    Constant coordinates are never chosen; with `omp` neither are those that the chosen ones already give.

    Raises:
        ValueError: An unknown way to select, or fewer coordinates than `count` to choose from: that vary, and
            with `omp` that are not given by those chosen before.
    """
    varied = int((X.std(axis=0) > 0).sum())
    if not 1 <= count <= varied:
        raise ValueError(f"k={count}: there are {varied} coordinates that vary over the training rows")
    order = best_coordinates(X, y, count, select)
    if len(order) < count:
        raise ValueError(
            f"k={count}: {len(order)} coordinates give all others over the training rows; write k="
            f"{len(order)} or less, or select='difference'"
        )
    return order


def best_coordinates(
    X: Float[np.ndarray, "row width"], y: Float[np.ndarray, "row column"], most: int, select: Select
) -> Int[np.ndarray, " chosen"]:
    """As `rank_coordinates`, as many as there are up to `most`."""
    if select not in ("difference", "omp"):
        raise ValueError(f"select={select!r}: 'difference' or 'omp'")
    spread = X.std(axis=0)
    varied = np.flatnonzero(spread > 0)
    z = (X[:, varied] - X[:, varied].mean(axis=0)) / spread[varied]
    t = y - y.mean(axis=0)
    scale = t.std(axis=0)
    t = t[:, scale > 0] / scale[scale > 0]
    shared = z.T @ t / len(X)
    if select == "difference":
        order = np.argsort(-np.square(shared).mean(axis=1), kind="stable")[:most]
    else:
        order = _pursuit(z.T @ z / len(X), shared, min(most, len(varied)))
    return varied[order]


def _pursuit(gram: np.ndarray, shared: np.ndarray, count: int) -> np.ndarray:
    """Each step takes the coordinate whose part beyond those taken explains most, and takes it out of the
    rest (a Gram-Schmidt step on the correlations)."""
    gram, shared = gram.copy(), shared.copy()
    taken: list[int] = []
    left = np.ones(len(gram), dtype=bool)
    for _ in range(count):
        own = np.diag(gram)
        left &= own > _LEFT
        if not left.any():
            break
        worth = np.square(shared).sum(axis=1) / np.where(left, own, 1.0)
        best = int(np.where(left, worth, -1.0).argmax())
        taken.append(best)
        left[best] = False
        along = gram[best] / gram[best, best]
        shared = shared - np.outer(along, shared[best])
        gram = gram - np.outer(along, gram[best])
    return np.array(taken, np.int64)
