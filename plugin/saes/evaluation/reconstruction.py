"""What reconstruction is like, row by row, in one pass: sums that are kept, not the rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from graticule.hooks.latents import Latents
from graticule.hooks.streams.base import MAX_NORM, NO_LARGE, LargeRows, NormLimit
from graticule.hooks.values import finite

_COLUMNS = ("position", "size", "error", "cosine", "ratio", "l0")  # of a row: ‖x‖², ‖x − x̂‖², ‖x̂‖ / ‖x‖
N_TOP = 5
"""Principal directions that are left out of the second explained variance."""


@dataclass(frozen=True)
class Reconstruction:
    """How well an SAE reconstructs rows x as x̂; sums over rows, float64."""

    n_rows: int
    """Rows."""
    l0: float
    """Mean number of latents that are not 0: SAELens's `sparsity/l0`."""
    l0_median: float
    """Median of the same."""
    explained_variance: float
    """1 − Σ‖x − x̂‖² / Σ‖x − x̄‖², x̄ the mean of all rows: SAELens's
    `reconstruction_quality/explained_variance` (its `explained_variance_legacy` is a mean of ratios token by
    token and another number)."""
    explained_variance_without_top: float
    """The same after the rows' first `n_top` principal directions are projected out of x − x̄ and x − x̂."""
    n_top: int
    """How many principal directions that is."""
    top_share: float
    """Share of the variance along them."""
    cosine_median: float
    """Median over rows of cos(x, x̂)."""
    cosine_mean: float
    """Mean over rows: SAELens's `reconstruction_quality/cossim`."""
    mse: float
    """Mean over rows of ‖x − x̂‖²: SAELens's `reconstruction_quality/mse`."""
    norm_ratio: float
    """Mean over rows of ‖x̂‖ / ‖x‖: SAELens's `shrinkage/l2_ratio`."""
    large: LargeRows = NO_LARGE
    """Rows far longer than the others, and the share of the variance that they hold."""
    left_out: str = ""
    """Rows left out by their norm, in words; empty where none were."""


class RowSums:
    """Sums over rows, filled a batch at a time."""

    def __init__(self, d_in: int, d_sae: int, n_pos: int) -> None:
        self.d_in, self.n_pos = d_in, n_pos
        self.fired = np.zeros(d_sae, np.int64)
        self._sum = torch.zeros(d_in, dtype=torch.float64)
        self._gram = torch.zeros(d_in, d_in, dtype=torch.float64)
        self._error_gram = torch.zeros(d_in, d_in, dtype=torch.float64)
        self._pos_sum = torch.zeros(n_pos, d_in, dtype=torch.float64)
        self._limit = NormLimit(MAX_NORM)  # what counts as large
        self._large = np.zeros(2)
        self._large_sum = torch.zeros(d_in, dtype=torch.float64)
        self._rows: list[np.ndarray] = []  # one row each, `_COLUMNS`

    def add(
        self,
        x: Float[Tensor, "row d_in"],
        made: Float[Tensor, "row d_in"],
        latents: Latents,
        position: Int[np.ndarray, " row"],
    ) -> None:
        """Rows, their reconstructions and latents, and where in its context each lies.

        Raises:
            NonFiniteError: where an activation or a reconstruction is no number.
        """
        x, made = x.to("cpu", torch.float64), made.double()
        finite("the model's activations", x, hint="run the model in float32")
        finite("the SAE's reconstruction", made, hint="are its weights numbers?")
        error = x - made
        self._sum += x.sum(0)
        self._gram += x.T @ x
        self._error_gram += error.T @ error
        self._pos_sum.index_add_(0, torch.from_numpy(position), x)
        self.fired += np.bincount(latents.values.indices, minlength=len(self.fired))
        large = x[self._limit.beyond("", x)]
        self._large += len(large), float(large.square().sum())
        self._large_sum += large.sum(0)
        size, made_size = x.norm(dim=1), made.norm(dim=1)
        cosine = (x * made).sum(1) / (size * made_size).clamp_min(1e-30)
        columns = [
            position.astype(np.float64),
            size.square().numpy(),
            error.square().sum(1).numpy(),
            cosine.numpy(),
            (made_size / size.clamp_min(1e-30)).numpy(),
            np.diff(latents.values.indptr).astype(np.float64),
        ]
        self._rows.append(np.stack(columns, axis=1))

    @property
    def n_rows(self) -> int:
        """Rows so far."""
        return sum(len(part) for part in self._rows)

    @property
    def mean(self) -> Float[Tensor, " d_in"]:
        """x̄."""
        return self._sum / max(self.n_rows, 1)

    def reconstruction(self) -> Reconstruction:
        """The figures of all rows.

        Raises:
            ValueError: without rows.
        """
        if not self.n_rows:
            raise ValueError("no row is left to evaluate on: every token of the sample is excluded")
        rows, n = dict(zip(_COLUMNS, np.concatenate(self._rows).T, strict=True)), self.n_rows
        scatter = self._gram - n * torch.outer(self.mean, self.mean)
        total, left = float(scatter.trace()), float(self._error_gram.trace())
        n_top = min(N_TOP, self.d_in - 1)
        values, axes = torch.linalg.eigh(scatter)
        top = axes[:, len(values) - n_top :]
        top_total = float(values[len(values) - n_top :].sum())
        top_left = float((top * (self._error_gram @ top)).sum())
        return Reconstruction(
            n_rows=n,
            l0=float(rows["l0"].mean()),
            l0_median=float(np.median(rows["l0"])),
            explained_variance=_explained(left, total),
            explained_variance_without_top=_explained(left - top_left, total - top_total),
            n_top=n_top,
            top_share=top_total / total if total > 0 else float("nan"),
            cosine_median=float(np.median(rows["cosine"])),
            cosine_mean=float(rows["cosine"].mean()),
            mse=left / n,
            norm_ratio=float(rows["ratio"].mean()),
            large=self._large_rows(total),
        )

    def _large_rows(self, total: float) -> LargeRows:
        """Rows over `MAX_NORM` times the median norm of the first rows, and their share of `total`."""
        number, squares = self._large
        apart = squares - 2 * float(self._large_sum @ self.mean) + number * float(self.mean @ self.mean)
        return LargeRows(int(number), self.n_rows, float(apart / total) if number else 0.0)

    def by_position(self) -> pd.DataFrame:
        """One row per position that has any: `position`, `rows`, `explained_variance` (x̄ is that of all
        rows), `cosine` (median) and `l0` (mean)."""
        rows = pd.DataFrame(np.concatenate(self._rows), columns=[*_COLUMNS])
        groups = rows.groupby("position", sort=True)
        index = groups.size().index.to_numpy(np.int64)
        mean = self.mean
        count = groups.size().to_numpy(np.float64)
        along = (self._pos_sum[torch.from_numpy(index)] @ mean).numpy()
        spread = groups["size"].sum().to_numpy() - 2 * along + count * float(mean @ mean)
        left = groups["error"].sum().to_numpy()
        return pd.DataFrame(
            {
                "position": index,
                "rows": count.astype(np.int64),
                "explained_variance": 1 - left / np.maximum(spread, 1e-30),
                "cosine": groups["cosine"].median().to_numpy(),
                "l0": groups["l0"].mean().to_numpy(),
            }
        )


def _explained(left: float, total: float) -> float:
    return 1 - left / total if total > 0 else float("nan")
