"""Rows far longer than the others (attention sinks, massive activations): left out by norm, or told of.

A hundredth of the rows at a hundred times the norm holds nearly all variance: a dictionary learns those rows,
and explained variance is about them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from graticule.hooks.limits import check

MAX_NORM = 10.0
"""Rows longer than so many times the median are left out where nothing else is asked for."""
LONGEST = 1e16
"""Norms beyond it have squares of which a batch's sum overflows float32."""
LARGE_SHARE = 0.2
"""Share of the variance from which rows over `MAX_NORM` times the median are warned of."""


def row_norms(rows: Float[Tensor, "row width"]) -> Float[Tensor, " row"]:
    """Euclidean norms, in float32 at least, and in float64 where squares of these rows overflow."""
    norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.promote_types(rows.dtype, torch.float32))
    if bool(norms.isinf().any()):
        return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return norms


def check_longest(point: str, norms: Float[Tensor, " row"]) -> None:
    """**Raises** `ValueError` for rows so long that nothing can be trained on them in float32."""
    longest = float(norms.max()) if len(norms) else 0.0
    if longest > LONGEST:
        raise ValueError(
            f"rows of {point} are up to {longest:.3g} long, and sums of their squares are no numbers in "
            f"float32 (up to {LONGEST:g}): divide the activations by a constant"
        )


def median_norm(norms: Float[Tensor, " row"]) -> float:
    """Median of the norms; of those above 0 where most rows are 0."""
    if not len(norms):
        return 0.0
    middle = float(norms.median())
    if middle == 0 and bool((norms > 0).any()):
        middle = float(norms[norms > 0].median())
    return middle


class NormLimit:
    """What is too long: `multiple` times the median norm of the first rows seen at each point."""

    def __init__(self, multiple: float | int | None) -> None:
        """`multiple` None leaves no row out.

        Raises:
            LimitError: for a multiple that is not above 1.
        """
        check("max_norm", multiple)
        self.multiple = multiple
        self.limits: dict[str, float] = {}
        self.rows, self.left_out = 0, 0

    def beyond(self, point: str, rows: Float[Tensor, "row width"]) -> Bool[Tensor, " row"]:
        """Which rows are too long; the first rows at a point set its limit."""
        norms = row_norms(rows)
        if self.multiple is None or not len(norms):
            return torch.zeros_like(norms, dtype=torch.bool)
        if point not in self.limits:
            self.limits[point] = self.multiple * median_norm(norms)
        return norms > self.limits[point]

    def count(self, rows: int, left_out: int) -> None:
        """Take note of rows seen and left out."""
        self.rows, self.left_out = self.rows + rows, self.left_out + left_out

    def state_dict(self) -> dict[str, Any]:
        """Limits and counts."""
        return {"limits": dict(self.limits), "rows": self.rows, "left_out": self.left_out}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Go on from there; a state of 0.1 has none."""
        held = state or {"limits": {}, "rows": 0, "left_out": 0}
        self.limits, self.rows, self.left_out = dict(held["limits"]), held["rows"], held["left_out"]

    @property
    def words(self) -> str:
        """What was left out, for people; empty where nothing was."""
        if not self.left_out:
            return ""
        return (
            f"{self.left_out:,} of {self.rows:,} rows ({self.left_out / self.rows:.2%}) are left out: their "
            f"norm is over {self.multiple:g} times the median (max_norm)"
        )


@dataclass(frozen=True)
class LargeRows:
    """Rows over `MAX_NORM` times the median norm, and the share of the variance that they hold."""

    n: int
    """How many."""
    of: int
    """Of so many rows."""
    share: float
    """Of Σ‖x − x̄‖² over all rows; 0 where there are none."""

    @property
    def words(self) -> str:
        """For people; empty where there are none."""
        if not self.n:
            return ""
        return (
            f"{self.n / self.of:.2%} of the rows have over {MAX_NORM:g} times the median norm and hold "
            f"{self.share:.0%} of the variance"
        )


NO_LARGE = LargeRows(0, 0, 0.0)
"""Where nothing was looked at."""


def large_rows(rows: Float[Tensor, "row width"]) -> LargeRows:
    """The rows over `MAX_NORM` times the median norm, and their share of the variance."""
    norms = row_norms(rows)
    large = norms > MAX_NORM * median_norm(norms)
    if not bool(large.any()):
        return LargeRows(0, len(rows), 0.0)
    apart = (rows.double() - rows.double().mean(0)).square().sum(1)
    return LargeRows(int(large.sum()), len(rows), float(apart[large].sum() / apart.sum()))
