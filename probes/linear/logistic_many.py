"""Logistic regression of many yes-or-no targets on the same rows, every fold and target at once.

The loss of a target is Σ −log p + ½ α |w|², the intercept unpenalised, as `logistic`. Each (target, fold) is
a column: its weights solve Newton's equations by conjugate gradients, whose products with the rows are one
matrix product for all columns. In the rows' principal axes the Hessian is nearly diagonal, so that a few
steps do; strengths are tried from the strongest, each from where the last ended, until a target's
out-of-fold loss has risen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from graticule.hooks.messages import bar
from graticule.probes.linear.moments import Axes
from graticule.probes.linear.rows import ArrayRows
from graticule.probes.linear.strengths import N_LOGISTIC, check_alphas, default_strengths, rounding_of
from graticule.probes.tables.groups import group_folds

_CELLS = 1 << 24  # row × column values held at once, in single precision
_NEWTON = 12
_GRADIENTS = 20
_SETTLED = 1e-5  # of the loss, a row
_RISEN = 2
"""Strengths in a row at which the out-of-fold loss must have been worse for weaker ones to be left out."""


@dataclass(frozen=True)
class ManyLogistic:
    """Fits of many targets, each at the strength that its own out-of-fold loss chose."""

    alphas: Float[np.ndarray, " alpha"]
    """Strengths, ascending."""
    validation: Float[np.ndarray, "alpha target"]
    """Mean out-of-fold log-loss (nats); NaN where a strength was not tried."""
    chosen: Int[np.ndarray, " target"]
    """The strength with the lowest."""
    coef: Float[np.ndarray, "width target"]
    """Log odds per activation unit."""
    intercept: Float[np.ndarray, " target"]
    """At activation 0."""
    out_of_fold: Float[np.ndarray, "row target"]
    """Log odds of each row by the fit without its fold, at the chosen strength."""

    def log_odds(self, X: Float[np.ndarray, "row width"]) -> Float[np.ndarray, "row target"]:
        """Of other rows."""
        return X @ self.coef + self.intercept


def logistic_many(
    X: Float[np.ndarray, "row width"],
    y: Float[np.ndarray, "row target"],
    clusters: Int[np.ndarray, " row"],
    alphas: Sequence[float] | Float[np.ndarray, " alpha"] | None = None,
    *,
    folds: int = 5,
    seed: int = 0,
    progress: bool | None = None,
) -> ManyLogistic:
    """Fit every target at every strength, in every fold of whole clusters and on all rows.

    Args:
        X: rows.
        y: 0 or 1, a target a column.
        clusters: rows of one are held out together.
        alphas: strengths; by default `default_strengths`.
        folds: of clusters.
        seed: of the folds.
        progress: whether a bar is drawn; by default where it takes long.

    Returns:
        Weights on all rows and out-of-fold log odds, at the strength that each target chose.

    Raises:
        ValueError: Shapes that disagree, rows that are all the same, values other than 0 and 1, or a target
            without both classes.
    """
    if X.ndim != 2 or y.ndim != 2 or len(X) != len(y):
        raise ValueError(f"X has shape {X.shape} and y {y.shape}; give a row of y for each row of X")
    if not np.isin(y, (0.0, 1.0)).all():
        raise ValueError("y holds other values than 0 and 1; give one column of 0 and 1 for each target")
    share = y.mean(axis=0)
    if len(constant := np.flatnonzero((share == 0) | (share == 1))):
        raise ValueError(f"target {constant[0]} has one class in all rows: leave it out")
    axes = Axes.of(X)
    if not len(axes.squares):
        raise ValueError("X is the same in every row: there is nothing to tell classes by")
    grid, patience = check_alphas(alphas), _RISEN
    if grid is None:
        grid = default_strengths(axes.squares, rounding=rounding_of(ArrayRows(X)))
        if len(grid) > N_LOGISTIC:  # a small axis may hold what the others do not
            patience = len(grid)
    fold = group_folds(clusters, folds, seed)
    inside = np.stack([fold != k for k in range(int(fold.max()) + 1)] + [np.ones(len(y), bool)], axis=1)
    rows = np.concatenate([np.ones((len(y), 1)), axes.scores(X)], axis=1).astype(np.float32)
    step = max(1, _CELLS // (len(y) * inside.shape[1]))
    parts = [y[:, start : start + step] for start in range(0, y.shape[1], step)]
    done: list[tuple[np.ndarray, ...]] = []
    with bar(len(parts), "logistic", "block", progress) as advance:
        for part in parts:
            done.append(_path(rows, axes.squares, part.astype(np.float32), inside, grid, patience))
            advance.update()
    validation, theta, held_out = (np.concatenate([d[i] for d in done], axis=1) for i in range(3))
    coef = axes.vectors @ theta[1:]
    chosen = np.nanargmin(validation, axis=0)
    return ManyLogistic(grid, validation, chosen, coef, theta[0] - axes.mean @ coef, held_out)


def _path(
    rows: np.ndarray,
    squares: np.ndarray,
    y: np.ndarray,
    inside: np.ndarray,
    grid: np.ndarray,
    patience: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Out-of-fold losses, and at the best strength of each target its weights and out-of-fold log odds.

    Columns are (target, fold), the fold of all rows last.
    """
    targets, parts = y.shape[1], inside.shape[1]
    losses = np.full((len(grid), targets), np.nan)
    best, risen = np.full(targets, np.inf), np.zeros(targets, np.int64)
    weights, odds_out = np.zeros((rows.shape[1], targets)), np.zeros(y.shape)
    running = np.arange(targets)
    theta = np.zeros((rows.shape[1], targets, parts), np.float32)
    share = (y[:, :, None] * inside[:, None]).sum(axis=0) / inside.sum(axis=0)
    share = np.clip(share, 1e-3, 1 - 1e-3)
    theta[0] = np.log(share / (1 - share))
    mask = inside[:, None].astype(np.float32)
    for a in range(len(grid) - 1, -1, -1):
        columns = (rows.shape[1], len(running) * parts)
        wide = np.broadcast_to(mask, (len(y), len(running), parts)).reshape(len(y), -1)
        labels = np.repeat(y[:, running], parts, axis=1)
        flat, odds = _solve(rows, squares, labels, wide, theta[:, running].reshape(columns), float(grid[a]))
        theta[:, running] = flat.reshape(rows.shape[1], len(running), parts)
        odds = odds.reshape(len(y), len(running), parts)
        own = (odds[:, :, :-1] * ~inside[:, None, :-1]).sum(axis=2)
        loss = (np.logaddexp(0.0, own) - own * y[:, running]).mean(axis=0)
        losses[a, running] = loss
        better = loss < best[running]
        now = running[better]
        best[now], weights[:, now] = loss[better], theta[:, now, -1]
        odds_out[:, now] = own[:, better]
        risen[running] = np.where(better, 0, risen[running] + 1)
        running = running[risen[running] < patience]
        if not len(running):
            break
    return losses, weights, odds_out


def _solve(
    rows: np.ndarray, squares: np.ndarray, y: np.ndarray, mask: np.ndarray, theta: np.ndarray, alpha: float
) -> tuple[np.ndarray, np.ndarray]:
    """Weights of every column from where they are, and the log odds of all rows."""
    theta, odds = theta.copy(), rows @ theta
    penalty = np.full((len(theta), 1), alpha, np.float32)
    penalty[0] = 0.0
    count, running = mask.sum(axis=0), np.arange(theta.shape[1])
    for _ in range(_NEWTON):
        z, labels, part = odds[:, running], y[:, running], mask[:, running]
        p = 0.5 * (1 + np.tanh(0.5 * z))
        curvature = p * (1 - p) * part
        gradient = rows.T @ ((p - labels) * part) + penalty * theta[:, running]
        step, moved = _conjugate(rows, squares, curvature, gradient, penalty, count[running])
        before = _loss(z, labels, part, theta[:, running], alpha)
        size = np.ones(len(running), np.float32)
        for _ in range(5):
            after = _loss(z - size * moved, labels, part, theta[:, running] - size * step, alpha)
            worse = after > before + 1e-5 * np.abs(before)
            if not worse.any():
                break
            size[worse] /= 2
        theta[:, running] -= size * step
        odds[:, running] -= size * moved
        running = running[(gradient * step).sum(axis=0) > _SETTLED * count[running]]
        if not len(running):
            break
    return theta, odds


def _loss(z: np.ndarray, y: np.ndarray, part: np.ndarray, theta: np.ndarray, alpha: float) -> np.ndarray:
    """Of every column."""
    top = np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))
    return ((top - z * y) * part).sum(axis=0) + 0.5 * alpha * np.square(theta[1:]).sum(axis=0)


def _conjugate(
    rows: np.ndarray,
    squares: np.ndarray,
    curvature: np.ndarray,
    gradient: np.ndarray,
    penalty: np.ndarray,
    count: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Newton's step of every column, and what it moves the log odds by.

    The metric is the Hessian of rows that all weigh as much as they do on average.
    """
    weight = curvature.sum(axis=0) / count
    diagonal = np.concatenate([[float(len(rows))], squares])[:, None].astype(np.float32) * weight + penalty
    diagonal = np.maximum(diagonal, 1e-12)
    step, moved = np.zeros_like(gradient), np.zeros_like(curvature)
    left, along = gradient.copy(), gradient / diagonal
    size = (left * along).sum(axis=0)
    enough = 1e-2 * size
    for _ in range(_GRADIENTS):
        reach = rows @ along
        image = rows.T @ (curvature * reach) + penalty * along
        bend = (along * image).sum(axis=0)
        far = np.where(bend > 0, size / np.where(bend > 0, bend, 1.0), 0.0).astype(np.float32)
        step += far * along
        moved += far * reach
        left -= far * image
        turned = left / diagonal
        after = (left * turned).sum(axis=0)
        if (after <= enough).all():
            break
        ratio = np.where(size > 0, after / np.where(size > 0, size, 1.0), 0.0).astype(np.float32)
        along, size = turned + ratio * along, after
    return step, moved
