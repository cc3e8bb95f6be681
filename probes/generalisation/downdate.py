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

from graticule.probes.estimators.ridge_rows import (
    ArrayRows,
    as_rows,
    check_alphas,
    check_finite_rows,
    chunk_rows_for,
    chunks,
)
from graticule.probes.estimators.side_by_side import side_by_side
from graticule.probes.generalisation.factors import Solved, Sums, cholesky, middle_of, refit, solve

_log = logging.getLogger(__name__)

_SMALL_BLOCK = 0.25
"""Share of the width up to which a block is cheaper by its hat matrix than by a factor of its own."""
_KEPT_BYTES = 1 << 28


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
        rows = as_rows(X)
        out = np.empty((rows.shape[0], self.intercept.shape[1]))
        for index in chunks(np.arange(len(out)), chunk_rows_for(rows.shape[1])):
            out[index] = rows.gather(index) @ self.coef[block] + self.intercept[block]
        return out


def leave_blocks_out(
    X: Shaped[np.ndarray, "row width"] | Shaped[torch.Tensor, "row width"],
    y: Float[np.ndarray, "row target"],
    blocks: Sequence[Int[np.ndarray, " _"]],
    alphas: Sequence[float] | Shaped[np.ndarray, " alpha"],
) -> tuple[BlockFits, ...]:
    """Ridge of `y` on the rows of `X` outside each of `blocks`, one result a strength (ascending).

    **Arguments:** `X` `[row, width]` of any real dtype, unscaled; `blocks` the rows that each fit must not
    see, which may overlap; `alphas` on scikit-learn's scale. The intercept is not penalised.

    **Raises** `ValueError` for shapes that disagree, NaN or infinity, strengths that are not positive, no
    blocks, an empty block, or one that leaves fewer than two rows.
    """
    source = as_rows(X)
    grid = check_alphas(alphas)
    assert grid is not None
    held = [np.unique(b) for b in blocks]
    _check(source, y, held)
    work = (_Kernel if source.shape[0] < source.shape[1] else _Gram).of(source, y, held)
    return tuple(work.fits(float(alpha)) for alpha in grid)


# Rows at least as many as the width ------------------------------------------------------------------
@dataclass(frozen=True)
class _Gram:
    """Sums over all rows about one shift, and those of the large blocks."""

    source: ArrayRows
    y: Float[np.ndarray, "row target"]
    """About `y_shift`."""
    shift: Float[np.ndarray, " width"]
    y_shift: Float[np.ndarray, " target"]
    blocks: Sequence[Int[np.ndarray, " _"]]
    total: Sums
    own: Mapping[int, Sums]
    """Those of large blocks, as many as fit in memory."""

    @classmethod
    def of(
        cls, source: ArrayRows, y: Float[np.ndarray, "row target"], blocks: Sequence[Int[np.ndarray, " _"]]
    ) -> _Gram:
        """One pass over the rows: a large block's Gram is made once and is a part of the sum."""
        n, width = source.shape
        shift = middle_of(source)
        y_shift = y.mean(axis=0)
        centred = y - y_shift
        todo = np.ones(n, bool)
        parts: list[tuple[int, np.ndarray]] = []
        for i, block in enumerate(blocks):
            room = (len(parts) + 1) * width * width * 8 <= _KEPT_BYTES
            if len(block) > _SMALL_BLOCK * width and room and todo[block].all():
                todo[block] = False
                parts.append((i, block))

        def summed(part: tuple[int, np.ndarray]) -> Sums:
            sums = Sums.none(width, y.shape[1])
            for index in chunks(part[1], chunk_rows_for(width)):
                rows = source.gather(index)
                rows -= shift
                sums.add(rows, centred[index])
                if not np.isfinite(sums.x).all():
                    check_finite_rows(rows, index, "X")
            return sums

        total = summed((-1, np.flatnonzero(todo)))
        own = {i: sums for (i, _), sums in zip(parts, side_by_side(summed, parts), strict=True)}
        for sums in own.values():
            total.merge(sums)
        return cls(source, centred, shift, y_shift, blocks, total, own)

    def fits(self, alpha: float) -> BlockFits:
        """Every block at one strength."""
        n, width = self.source.shape
        coef = np.zeros((len(self.blocks), width, self.y.shape[1]))
        intercept, y_mean = np.zeros((2, len(self.blocks), self.y.shape[1]))
        y_sum = self.y.sum(axis=0)  # not 0: large values leave their rounding
        whole = Solved.of(self.total.copy(), y_sum, n, alpha, 1.0)
        refitted: list[int] = []

        def fitted(i: int) -> None:
            block = self.blocks[i]
            kept_sum = y_sum - self.y[block].sum(axis=0)
            y_mean[i] = kept_sum / (n - len(block)) + self.y_shift
            small = len(block) <= _SMALL_BLOCK * width
            fit = self._by_hat(whole, block) if small and whole is not None else None
            fit = self._downdated(i, block, kept_sum, alpha) if fit is None else fit
            if fit is None:
                refitted.append(i)
                kept = np.setdiff1d(np.arange(n), block)
                fit = refit(self.source.gather(kept) - self.shift, self.y[kept], alpha)
            coef[i], intercept[i] = fit[0], fit[1] + self.y_shift - self.shift @ fit[0]

        side_by_side(fitted, range(len(self.blocks)))
        if refitted:
            _log.info(
                "%d of %d blocks refitted from their rows, for want of digits", len(refitted), len(coef)
            )
        n_train = np.array([n - len(b) for b in self.blocks])
        return BlockFits(alpha, coef, intercept, y_mean, n_train, len(refitted))

    def _by_hat(self, whole: Solved, block: Int[np.ndarray, " held"]) -> tuple[np.ndarray, np.ndarray] | None:
        """Weights and intercept (about the shifts) by the residuals of the fit to all rows."""
        n = len(self.y)
        rows = self.source.gather(block) - (self.shift + whole.x_mean)
        whitened = whole.whiten(rows.T)
        maker = np.eye(len(block)) - whitened.T @ whitened - 1.0 / n
        residual = self.y[block] - rows @ whole.coef - whole.y_mean
        factor = cholesky(maker)
        # a row that is its own prediction leaves its error to rounding
        if factor is None or float(np.diag(factor).min()) < 1e-3:
            return None
        error = solve(factor, residual)
        coef = whole.coef - whole.unwhiten(whitened @ error)
        return coef, whole.y_mean - error.sum(axis=0) / n - whole.x_mean @ coef

    def _downdated(
        self,
        i: int,
        block: Int[np.ndarray, " held"],
        y_sum: Float[np.ndarray, " target"],
        alpha: float,
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Weights and intercept (about the shifts) from the sums less the block's."""
        own = self.own.get(i)
        if own is None:
            own = Sums.none(*self.total.xy.shape)
            own.add(self.source.gather(block) - self.shift, self.y[block])
        sums = self.total.without(own)
        kept = len(self.y) - len(block)
        left = np.diag(sums.gram) - sums.x**2 / kept + alpha
        lost = float(((np.diag(self.total.gram) + alpha) / np.maximum(left, 1e-300)).max())
        solved = Solved.of(sums, y_sum, kept, alpha, lost)
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
        shift = middle_of(source)
        x -= shift
        return cls(x, y, shift, x @ x.T, blocks)

    def fits(self, alpha: float) -> BlockFits:
        """Every block at one strength."""
        n, width = self.x.shape
        coef = np.zeros((len(self.blocks), width, self.y.shape[1]))
        intercept, y_mean = np.zeros((2, len(self.blocks), self.y.shape[1]))
        for i, block in enumerate(self.blocks):
            kept = np.setdiff1d(np.arange(n), block)
            y_mean[i] = self.y[kept].mean(axis=0)
            kernel = self.kernel[np.ix_(kept, kept)]
            middle = kernel.mean(axis=0)
            kernel = kernel - middle - middle[:, None] + middle.mean()
            kernel.flat[:: len(kernel) + 1] += alpha
            factor = cholesky(kernel)
            x_mean = self.x[kept].mean(axis=0)
            if factor is None:
                coef[i] = refit(self.x[kept], self.y[kept], alpha)[0]
            else:
                coef[i] = (self.x[kept] - x_mean).T @ solve(factor, self.y[kept] - y_mean[i])
            intercept[i] = y_mean[i] - (x_mean + self.shift) @ coef[i]
        return BlockFits(alpha, coef, intercept, y_mean, np.array([n - len(b) for b in self.blocks]), 0)


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
