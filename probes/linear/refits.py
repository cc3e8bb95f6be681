"""Ridge refitted without each of many blocks of rows, all from one Gram matrix: exact, and never refitted.

With G = X'X and c = X'y about a common shift, the fit without the rows B needs G − X_B'X_B and c − X_B'y_B,
centred by the mean of the rows that are left. A layer thus costs one product of rows × width², in which the
blocks' own Grams are parts of the sum, and then for each block

- (large blocks) a Cholesky factor of the downdated `width` × `width` matrix;
- (small blocks) the identity e_B = (I − H_BB)⁻¹ (y_B − ŷ_B) of the common fit, the block form of
  leave-one-out (Golub, Heath & Wahba 1979), and w − (G + α)⁻¹ X_B'e_B for the weights;
- (fewer rows than `width`) the kernel XX', of which the rows left are a part, so that nothing is taken away.

Where rounding could reach 1e-8 of the answer, by the estimated condition of what is left, the block is
fitted anew from its rows.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped

from graticule.probes.linear.moments import Moments, fewer_rows, rough_middle, side_by_side
from graticule.probes.linear.ridge_cv import ridge_fit
from graticule.probes.linear.rows import ArrayRows, as_rows, check_finite_rows, chunk_rows_for, linear_map
from graticule.probes.linear.strengths import check_alphas

_log = logging.getLogger(__name__)

_LOSS = 1e-8
"""Relative rounding that a solution may carry, by the estimated condition of its matrix."""
_SMALL_BLOCK = 0.25
"""Share of the width up to which a block is cheaper by its hat matrix than by a factor of its own."""
_GRAM_BYTES = 1 << 28

_Fit = tuple[np.ndarray, np.ndarray]
"""Weights and intercept."""


@dataclass(frozen=True)
class BlockFits:
    """A ridge without each block, at one strength."""

    alpha: float
    """Strength, on scikit-learn's scale."""
    coef: Float[np.ndarray, "block width target"]
    """Weights of the fit without each block, target units per activation unit."""
    intercept: Float[np.ndarray, "block target"]
    """Intercepts, target units."""
    y_mean: Float[np.ndarray, "block target"]
    """Mean target of the rows that each fit was given: what predicts with no activations at all."""
    n_train: Int[np.ndarray, " block"]
    """Rows that each fit was given."""
    refitted: int
    """Blocks fitted from their rows, for want of digits."""

    def predict(
        self, block: int, X: Shaped[np.ndarray, "row width"] | Shaped[torch.Tensor, "row width"]
    ) -> Float[np.ndarray, "row target"]:
        """What the fit without block `block` says of rows of activations."""
        return linear_map(as_rows(X), self.coef[block], self.intercept[block])


def leave_blocks_out(
    X: Shaped[np.ndarray, "row width"] | Shaped[torch.Tensor, "row width"],
    y: Float[np.ndarray, "row target"],
    blocks: Sequence[Int[np.ndarray, " _"]],
    alphas: Sequence[float] | Shaped[np.ndarray, " alpha"],
) -> tuple[BlockFits, ...]:
    """Ridge of `y` on the rows of `X` outside each of `blocks`; the intercept is not penalised.

    Args:
        X: activations of any real dtype, unscaled.
        y: targets.
        blocks: the rows that each fit must not see; they may overlap.
        alphas: strengths on scikit-learn's scale.

    Returns:
        One result per strength, ascending.

    Raises:
        ValueError: Shapes disagree, values are NaN or infinite, strengths are not positive, there are no
            blocks, a block is empty or leaves fewer than two rows.
    """
    source = as_rows(X)
    grid = check_alphas(alphas)
    assert grid is not None
    left_out = [np.unique(block) for block in blocks]
    _check(source, y, left_out)
    work = (_Kernel if fewer_rows(source.shape) else _Gram).of(source, y, left_out)
    return tuple(work.fits(float(alpha)) for alpha in grid)


def _check(source: ArrayRows, y: np.ndarray, blocks: Sequence[np.ndarray]) -> None:
    n = source.shape[0]
    if len(y) != n:
        raise ValueError(f"X has {n} rows and y has {len(y)}; give one target row for each activation row")
    if not blocks:
        raise ValueError("no blocks to hold out: give at least one array of rows")
    check_finite_rows(y, np.arange(n), "y")
    for i, block in enumerate(blocks):
        if not len(block):
            raise ValueError(f"block {i} is empty: leave it out")
        if block[0] < 0 or block[-1] >= n:
            raise ValueError(f"block {i} names row {block[-1] if block[0] >= 0 else block[0]} of {n}")
        if n - len(block) < 2:
            raise ValueError(f"block {i} holds {len(block)} of {n} rows: nothing is left to learn from")


# Rows at least as many as the width ------------------------------------------------------------------
@dataclass(frozen=True)
class _Solved:
    """A ridge from sums, with the factor that solved it."""

    factor: Float[np.ndarray, "width width"]
    """Cholesky factor of D (G + α) D."""
    scale: Float[np.ndarray, " width"]
    """D: ones, or where digits are short what makes the diagonal 1: badly scaled columns then cost none."""
    x_mean: Float[np.ndarray, " width"]
    y_mean: Float[np.ndarray, " target"]
    coef: Float[np.ndarray, "width target"]

    @classmethod
    def of(
        cls, sums: Moments, y_sum: Float[np.ndarray, " target"], n: int, alpha: float, lost: float
    ) -> _Solved | None:
        """From the sums of `n` rows, whose Gram is overwritten.

        None where rounding, `lost` times that of a number of order 1, could reach the digits wanted.
        """
        from scipy.linalg import blas, lapack  # their routines are made at import, out of a checker's sight

        x_mean, y_mean = sums.x / n, y_sum / n
        matrix = blas.dsyr(-1.0 / n, sums.x, lower=1, a=sums.gram, overwrite_a=1)  # pyright: ignore[reportAttributeAccessIssue]
        width = len(matrix)
        matrix[np.arange(width), np.arange(width)] += alpha
        diagonal = matrix.diagonal().copy()
        if not (diagonal > 0).all():
            return None
        # no eigenvalue is below alpha: mostly that bounds the condition well enough
        rounding = np.finfo(np.float64).eps * lost
        doubtful = rounding * width * float(diagonal.max()) > _LOSS * alpha
        scale, norm = np.ones(width), 0.0
        if doubtful:
            scale = diagonal**-0.5
            matrix *= scale
            matrix *= scale[:, None]
            sizes = np.abs(np.tril(matrix))
            norm = float((sizes.sum(axis=0) + sizes.sum(axis=1) - 1.0).max())  # the diagonal is ones
        factor = _cholesky(matrix, overwrite=True)
        if factor is None:
            return None
        if doubtful and rounding > _LOSS * float(lapack.dpocon(factor, norm, uplo="L")[0]):  # pyright: ignore[reportAttributeAccessIssue]
            return None
        right = (sums.xy - np.outer(sums.x, y_mean)) * scale[:, None]
        return cls(factor, scale, x_mean, y_mean, scale[:, None] * _solve(factor, right))

    def whiten(self, columns: Float[np.ndarray, "width _"]) -> Float[np.ndarray, "width _"]:
        """L⁻¹ D of some columns: their products are those of (G + α)⁻¹."""
        from scipy.linalg import solve_triangular

        scaled = columns * self.scale[:, None]
        return np.asarray(solve_triangular(self.factor, scaled, lower=True, check_finite=False))

    def unwhiten(self, columns: Float[np.ndarray, "width _"]) -> Float[np.ndarray, "width _"]:
        """D L⁻ᵀ of some columns."""
        from scipy.linalg import solve_triangular

        solved = solve_triangular(self.factor, columns, lower=True, trans=1, check_finite=False)
        return np.asarray(solved) * self.scale[:, None]


@dataclass(frozen=True)
class _Gram:
    """Sums over all rows about one shift, and those of the large blocks."""

    source: ArrayRows
    y: Float[np.ndarray, "row target"]
    """About `y_shift`."""
    shift: Float[np.ndarray, " width"]
    y_shift: Float[np.ndarray, " target"]
    blocks: Sequence[Int[np.ndarray, " _"]]
    total: Moments
    own: Mapping[int, Moments]
    """Those of large blocks, as many as fit in memory."""

    @classmethod
    def of(
        cls, source: ArrayRows, y: Float[np.ndarray, "row target"], blocks: Sequence[Int[np.ndarray, " _"]]
    ) -> _Gram:
        """One pass over the rows: a large block's Gram is made once and is a part of the sum."""
        n, width = source.shape
        shift, y_shift = rough_middle(source, np.median), y.mean(axis=0)
        centred = y - y_shift
        rest = np.ones(n, bool)
        parts: list[int] = []
        for i, block in enumerate(blocks):
            room = (len(parts) + 1) * width * width * 8 <= _GRAM_BYTES
            if len(block) > _SMALL_BLOCK * width and room and rest[block].all():
                rest[block] = False
                parts.append(i)

        def moments(block: np.ndarray) -> Moments:
            return Moments.of(source, centred, block, shift, chunk_rows_for(width))

        total = moments(np.flatnonzero(rest))
        own = dict(zip(parts, side_by_side(moments, [blocks[i] for i in parts]), strict=True))
        for sums in own.values():
            total.merge(sums)
        return cls(source, centred, shift, y_shift, blocks, total, own)

    def fits(self, alpha: float) -> BlockFits:
        """Every block at one strength."""
        n, width = self.source.shape
        coef = np.zeros((len(self.blocks), width, self.y.shape[1]))
        intercept, y_mean = np.zeros((2, len(self.blocks), self.y.shape[1]))
        y_sum = self.y.sum(axis=0)  # not 0: large values leave their rounding
        whole = _Solved.of(self.total.copy(), y_sum, n, alpha, 1.0)
        refitted: list[int] = []

        def fit_without(i: int) -> None:
            block = self.blocks[i]
            rest_sum = y_sum - self.y[block].sum(axis=0)
            y_mean[i] = rest_sum / (n - len(block)) + self.y_shift
            small = len(block) <= _SMALL_BLOCK * width
            fit = self._by_hat(whole, block) if small and whole is not None else None
            fit = self._downdated(i, rest_sum, alpha) if fit is None else fit
            if fit is None:
                refitted.append(i)
                rest = np.setdiff1d(np.arange(n), block)
                fit = _refit(self.source.gather(rest) - self.shift, self.y[rest], alpha)
            coef[i], intercept[i] = fit[0], fit[1] + self.y_shift - self.shift @ fit[0]

        side_by_side(fit_without, range(len(self.blocks)))
        if refitted:
            _log.info(
                "%d of %d blocks refitted from their rows, for want of digits", len(refitted), len(coef)
            )
        n_train = np.array([n - len(b) for b in self.blocks])
        return BlockFits(alpha, coef, intercept, y_mean, n_train, len(refitted))

    def _by_hat(self, whole: _Solved, block: Int[np.ndarray, " _"]) -> _Fit | None:
        """Weights and intercept (about the shifts) by the residuals of the fit to all rows."""
        n = len(self.y)
        rows = self.source.gather(block) - (self.shift + whole.x_mean)
        whitened = whole.whiten(rows.T)
        factor = _cholesky(np.eye(len(block)) - whitened.T @ whitened - 1.0 / n)
        residual = self.y[block] - rows @ whole.coef - whole.y_mean
        # a row that is its own prediction leaves its error to rounding
        if factor is None or float(np.diag(factor).min()) < 1e-3:
            return None
        error = _solve(factor, residual)
        coef = whole.coef - whole.unwhiten(whitened @ error)
        return coef, whole.y_mean - error.sum(axis=0) / n - whole.x_mean @ coef

    def _downdated(self, i: int, y_sum: Float[np.ndarray, " target"], alpha: float) -> _Fit | None:
        """Weights and intercept (about the shifts) from the sums less the block's."""
        own, block = self.own.get(i), self.blocks[i]
        if own is None:
            own = Moments.none(*self.total.xy.shape)
            own.add(self.source.gather(block) - self.shift, self.y[block])
        sums = self.total.without(own)
        n = len(self.y) - len(block)
        left = np.diag(sums.gram) - sums.x**2 / n + alpha
        lost = float(((np.diag(self.total.gram) + alpha) / np.maximum(left, 1e-300)).max())
        solved = _Solved.of(sums, y_sum, n, alpha, lost)
        return None if solved is None else (solved.coef, solved.y_mean - solved.x_mean @ solved.coef)


# Fewer rows than the width ---------------------------------------------------------------------------
@dataclass(frozen=True)
class _Kernel:
    """Products between all rows, of which those between the rows left are a part."""

    x: Float[np.ndarray, "row width"]
    """About `shift`."""
    y: Float[np.ndarray, "row target"]
    shift: Float[np.ndarray, " width"]
    kernel: Float[np.ndarray, "row row"]
    blocks: Sequence[Int[np.ndarray, " _"]]

    @classmethod
    def of(
        cls, source: ArrayRows, y: Float[np.ndarray, "row target"], blocks: Sequence[Int[np.ndarray, " _"]]
    ) -> _Kernel:
        """The one product."""
        every = np.arange(len(y))
        x = source.gather(every)
        check_finite_rows(x, every, "X")
        shift = rough_middle(source, np.median)
        x -= shift
        return cls(x, y, shift, x @ x.T, blocks)

    def fits(self, alpha: float) -> BlockFits:
        """Every block at one strength."""
        n, width = self.x.shape
        coef = np.zeros((len(self.blocks), width, self.y.shape[1]))
        intercept, y_mean = np.zeros((2, len(self.blocks), self.y.shape[1]))
        for i, block in enumerate(self.blocks):
            rest = np.setdiff1d(np.arange(n), block)
            y_mean[i] = self.y[rest].mean(axis=0)
            kernel = self.kernel[np.ix_(rest, rest)]
            middle = kernel.mean(axis=0)
            kernel = kernel - middle - middle[:, None] + middle.mean()
            kernel.flat[:: len(kernel) + 1] += alpha
            factor = _cholesky(kernel)
            x_mean = self.x[rest].mean(axis=0)
            if factor is None:
                coef[i] = _refit(self.x[rest], self.y[rest], alpha)[0]
            else:
                coef[i] = (self.x[rest] - x_mean).T @ _solve(factor, self.y[rest] - y_mean[i])
            intercept[i] = y_mean[i] - (x_mean + self.shift) @ coef[i]
        return BlockFits(alpha, coef, intercept, y_mean, np.array([n - len(b) for b in self.blocks]), 0)


# What both lean on -----------------------------------------------------------------------------------
def _refit(rows: Float[np.ndarray, "row width"], y: Float[np.ndarray, "row target"], alpha: float) -> _Fit:
    """From the rows themselves; a target that is constant there has no weights."""
    coef, intercept = np.zeros((rows.shape[1], y.shape[1])), y.mean(axis=0)
    varied = np.ptp(y, axis=0) > 0
    if varied.any() and len(rows) > 2:
        fit = ridge_fit(rows, y[:, varied], alpha)
        coef[:, varied], intercept[varied] = fit.coef, fit.intercept
    return coef, intercept


def _cholesky(matrix: Float[np.ndarray, "k k"], overwrite: bool = False) -> Float[np.ndarray, "k k"] | None:
    """The lower factor (what stands above is of no meaning), or None where there is none."""
    from scipy.linalg import lapack

    factor, info = lapack.dpotrf(matrix, lower=1, clean=0, overwrite_a=int(overwrite))  # pyright: ignore[reportAttributeAccessIssue]
    return np.asarray(factor) if info == 0 else None


def _solve(factor: Float[np.ndarray, "k k"], right: Float[np.ndarray, "k _"]) -> Float[np.ndarray, "k _"]:
    """The inverse of what was factored, times some columns."""
    from scipy.linalg import cho_solve

    return np.asarray(cho_solve((factor, True), right, check_finite=False))
