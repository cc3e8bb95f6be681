"""The point that is judged: chosen on training rows by what its probe adds to the stacked baselines."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from graticule.probes.core.fit import PointFit, Predictions, Problem, chosen, stack_design
from graticule.probes.core.logit_stack import held_out_bits
from graticule.probes.core.verdict import Score

_SPANNED = 1e-9
"""Share of a column's length outside the others below which they span it."""
_CERTAIN = 1e-9
"""What is added to a denominator of leave-one-out that may be 0: a row that decides a weight by itself."""


@dataclass(frozen=True)
class Choice:
    """The point that a verdict is reached at, and what every point would add on training rows."""

    best: PointFit
    """The one that is judged."""
    gains: tuple[float, ...] | None
    """Out-of-fold gain of each point over the stacked baselines, in the order of the fits; None without
    baselines that read the model, where the best out-of-fold score of the probe itself chooses."""

    def gain_of(self, place: int) -> float | None:
        """Of the fit at a place."""
        return None if self.gains is None else self.gains[place]


def choose_point(
    fits: Sequence[PointFit],
    baselines: Mapping[str, Predictions],
    problem: Problem,
    model_baselines: Collection[str],
    metric: Score = "r2",
) -> Choice:
    """The point whose probe adds most to the stack of the baselines, out of fold on training rows.

    Of points that add as much as the one that adds most, but for one standard error of the difference, the
    best probe is taken; so it is of all points where none adds more than that to the baselines.

    Args:
        fits: Ridges, a point each.
        baselines: What each is stacked with.
        problem: Targets, split and clusters.
        model_baselines: Names of the baselines that read the model; without any of them there is no
            verdict, and the best probe is taken.
        metric: what the gain is measured in, R² or bits.

    Returns:
        The choice.
    """
    if (len(fits) == 1 and not baselines) or not any(name in model_baselines for name in baselines):
        return Choice(chosen(fits), None)
    place, gains = chosen_place(
        [fit.fit.out_of_fold for fit in fits],
        [fit.validation if fit.bits is None else fit.bits for fit in fits],
        [one.out_of_fold for one in baselines.values()],
        problem.y[problem.train],
        problem.clusters[problem.train],
        metric,
    )
    return Choice(fits[place], tuple(float(gain) for gain in gains))


def chosen_place(
    probes: Sequence[Float[np.ndarray, "train column"]],
    scores: Sequence[float],
    baselines: Sequence[Float[np.ndarray, "train column"]],
    y: Float[np.ndarray, "train column"],
    clusters: Int[np.ndarray, " train"],
    metric: Score = "r2",
) -> tuple[int, Float[np.ndarray, " point"]]:
    """The rule of `choose_point` on out-of-fold predictions.

    Args:
        probes: Out-of-fold predictions, a point each.
        scores: of each probe by itself.
        baselines: Out-of-fold predictions; at least one of them reads the model.
        y: The targets.
        clusters: Of training rows.
        metric: what the gain is measured in.

    Returns:
        The place of the point, and the gain of each.
    """
    parts = (bits_by_cluster if metric == "bits" else gain_by_cluster)(probes, baselines, y, clusters)
    gains = parts.sum(axis=0)
    most = int(gains.argmax())
    equal = gains[most] - gains <= _standard_error(parts[:, [most]] - parts)
    if gains[most] <= _standard_error(parts[:, [most]])[0]:
        equal[:] = True
    return max(np.flatnonzero(equal).tolist(), key=lambda place: scores[place]), gains


def bits_by_cluster(
    probes: Sequence[Float[np.ndarray, "train column"]],
    baselines: Sequence[Float[np.ndarray, "train column"]],
    y: Float[np.ndarray, "train column"],
    clusters: Int[np.ndarray, " train"],
) -> Float[np.ndarray, "cluster point"]:
    """What each cluster of training rows contributes to each probe's gain in bits, as `gain_by_cluster` does.

    Each row's probabilities are of a stack without the row's fold of clusters (`held_out_bits`).

    Args:
        probes: Out-of-fold scores, a point each.
        baselines: Out-of-fold scores.
        y: Classes: a column of class 1, or one of every class.
        clusters: Of training rows.

    Returns:
        Parts that add up to the gains, in bits a row.
    """
    surface = {f"{i}": score for i, score in enumerate(baselines)}
    codes, before = np.unique(clusters, return_inverse=True)[1], held_out_bits(surface, y, clusters)
    gains = [before - held_out_bits({**surface, "probe": score}, y, clusters) for score in probes]
    return np.stack([np.bincount(codes, gain) / len(y) for gain in gains], axis=1)


def _standard_error(parts: Float[np.ndarray, "cluster point"]) -> Float[np.ndarray, " point"]:
    """Of sums over clusters."""
    return np.sqrt(len(parts)) * parts.std(axis=0)


def gain_by_cluster(
    probes: Sequence[Float[np.ndarray, "train target"]],
    baselines: Sequence[Float[np.ndarray, "train target"]],
    y: Float[np.ndarray, "train target"],
    clusters: Int[np.ndarray, " train"],
) -> Float[np.ndarray, "cluster point"]:
    """What each cluster of training rows contributes to each probe's gain over the stacked baselines.

    The stacks are least squares as those of the verdict, each row predicted by a stack that was fitted
    without the row's cluster, exactly: e + Q(I − Q'Q)⁻¹Q'e for the rows of one cluster, where Q is an
    orthonormal basis of the predictions. So a probe that adds luck alone loses as much as it wins, and many
    points of luck are no better than one. A probe that goes against the target, or that the baselines span,
    adds nothing.

    Args:
        probes: Out-of-fold predictions, a point each.
        baselines: Out-of-fold predictions.
        y: The targets.
        clusters: Rows of one cluster are left out together.

    Returns:
        Shares of the targets' variance, mean over targets; their sum over clusters is the gain of R².
    """
    rows = _Clusters.of(clusters)
    out = np.zeros((rows.count, len(probes)))
    for target in range(y.shape[1]):
        columns = np.stack([one[:, target] for one in (*baselines, *probes)], axis=1)
        parts = stack_design(columns, y[:, target])
        right, beside = parts.right, len(baselines)
        basis = np.ones((len(y), 1)) / np.sqrt(len(y))
        for column in parts.design[:, :beside].T:
            basis = _extended(basis, column)
        without = rows.squares(_left_out(basis, right, rows))
        for point, column in enumerate(parts.design[:, beside:].T):
            more = _extended(basis, column)
            if more is not basis:
                out[:, point] += without - rows.squares(_left_out(more, right, rows))
    return out / (len(y) * y.shape[1])


def _extended(basis: np.ndarray, column: np.ndarray) -> np.ndarray:
    """A basis with what a column has outside it; the same one where that is nothing."""
    rest = column - basis @ (basis.T @ column)
    rest -= basis @ (basis.T @ rest)
    length = float(np.linalg.norm(rest))
    if not length > _SPANNED * np.linalg.norm(column):
        return basis
    return np.concatenate([basis, rest[:, None] / length], axis=1)


def _left_out(
    basis: Float[np.ndarray, "row rank"], y: Float[np.ndarray, " row"], rows: _Clusters
) -> Float[np.ndarray, " row"]:
    """Errors of least squares on an orthonormal basis, each row's without its cluster."""
    errors = y - basis @ (basis.T @ y)
    out = errors / np.maximum(1 - np.square(basis).sum(axis=1), _CERTAIN)
    if len(rows.several):
        own, starts = basis[rows.several], rows.starts
        products = np.add.reduceat(own[:, :, None] * own[:, None, :], starts, axis=0)
        sums = np.add.reduceat(own * errors[rows.several, None], starts, axis=0)
        rest = (1 + _CERTAIN) * np.eye(basis.shape[1]) - products
        weights = np.linalg.solve(rest, sums[:, :, None])[:, :, 0]
        moved = np.einsum("nr,nr->n", own, np.repeat(weights, rows.sizes, axis=0))
        out[rows.several] = errors[rows.several] + moved
    return out


@dataclass(frozen=True)
class _Clusters:
    """Clusters of rows, those of one row apart from those of several."""

    codes: Int[np.ndarray, " row"]
    count: int
    several: Int[np.ndarray, " some"]
    """Rows of clusters of several, cluster by cluster."""
    starts: Int[np.ndarray, " cluster"]
    """Where each of these begins."""
    sizes: Int[np.ndarray, " cluster"]

    @classmethod
    def of(cls, clusters: Int[np.ndarray, " row"]) -> _Clusters:
        """Of labels."""
        _, codes, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
        codes = codes.reshape(-1)
        order = np.argsort(codes, kind="stable")
        several = order[sizes[codes[order]] > 1]
        large = sizes[sizes > 1]
        starts = np.cumsum(large) - large
        return cls(codes, len(sizes), several, starts, large)

    def squares(self, errors: Float[np.ndarray, " row"]) -> Float[np.ndarray, " cluster"]:
        """Sums of squared errors."""
        return np.bincount(self.codes, np.square(errors), self.count)
