"""What a trainer asks of a stream of activations, and what both kinds share: scale and a limit of norms.

A hundredth of the rows at a hundred times the norm (attention sinks, massive activations) holds nearly all
variance: a dictionary learns those rows, and explained variance is about them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from graticule.hooks.identity import EARLIER, of_earlier_digest
from graticule.hooks.limits import check_limits
from graticule.hooks.points import PointError

Normalize = Literal["none", "expected_average_only_in"]
"""`"expected_average_only_in"`: rows times √d_in over their mean norm, as SAELens's `ActivationScaler`."""


class BaseStream:
    """An iterator over batches; `StoreStream` and `LiveStream` say where rows come from."""

    points: tuple[str, ...]
    widths: Mapping[str, int]
    batch_size: int

    def __init__(
        self, points: tuple[str, ...], widths: Mapping[str, int], batch_size: int, normalize: Normalize
    ) -> None:
        """Raises:
        ValueError: For a batch size below one or an unknown `normalize`.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: a batch has at least one row")
        if normalize not in ("none", "expected_average_only_in"):
            raise ValueError(f"normalize={normalize!r}: expected 'none' or 'expected_average_only_in'")
        self.points, self.widths, self.batch_size = points, dict(widths), batch_size
        self.normalize: Normalize = normalize
        self._factors: dict[str, float] | None = None

    # Batches -----------------------------------------------------------------------------------------
    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return self

    def __next__(self) -> dict[str, Tensor]:
        raise NotImplementedError  # each kind of stream has its own; so have the two below

    def provider(self, point: str | None = None) -> Iterator[Tensor]:
        """The batches of one point, `[batch, width]`, as SAELens's `SAETrainer(data_provider=)` takes them.

        It draws from the stream itself: what one provider has taken does not come again from another.

        Raises:
            PointError: for a point that is not in the stream.
            ValueError: where `point` is not given and there are several.
        """
        if point is None and len(self.points) > 1:
            raise ValueError(f"several points: say which, one of {', '.join(self.points)}")
        name = next(iter(self.points)) if point is None else point
        if name not in self.points:
            raise PointError(f"{name} is not in the stream: {', '.join(self.points)}")
        return (batch[name] for batch in self)

    # Scaling -----------------------------------------------------------------------------------------
    @property
    def scaling_factors(self) -> dict[str, float]:
        """Point → the factor its rows are multiplied by: 1 with `normalize="none"`.

        An SAE trained on scaled rows wants SAELens's `fold_activation_norm_scaling_factor(factor)` before it
        meets the model's own.
        """
        return dict(self._know_factors())

    def _know_factors(self) -> dict[str, float]:
        if self._factors is None and self.normalize == "none":
            self._factors = dict.fromkeys(self.points, 1.0)
        elif self._factors is None:
            norms = self._mean_norms()
            for point, norm in norms.items():
                if norm == 0:
                    raise ValueError(f"{point}: every row is zero, and cannot be scaled; normalize='none'")
            self._factors = {p: math.sqrt(self.widths[p]) / norms[p] for p in self.points}
        return self._factors

    def _mean_norms(self) -> dict[str, float]:
        """Point → mean Euclidean norm of unscaled rows."""
        raise NotImplementedError

    def _scaled(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.normalize != "none":
            for point, factor in self._know_factors().items():
                rows[point].mul_(factor)
        return rows

    # State -------------------------------------------------------------------------------------------
    def _settings(self) -> dict[str, Any]:
        """What a state must agree on, in JSON's types."""
        raise NotImplementedError

    def _check(self, state: Mapping[str, Any]) -> None:
        theirs: Mapping[str, Any] = state["settings"]
        ours = self._settings()
        unsaid = {"values"} - {*theirs}  # states of 0.1 have no digest of the rows
        differing = [k for k in sorted({*theirs, *ours} - unsaid) if theirs.get(k) != ours.get(k)]
        if of_earlier_digest(theirs.get("model")) and "model" in differing:
            raise ValueError(f"the state is of another stream (model: {EARLIER}); begin a new one")
        if differing:
            detail = "; ".join(f"{k}: {theirs.get(k)!r} there, {ours.get(k)!r} here" for k in differing)
            raise ValueError(
                f"the state is of another stream ({detail}); make the stream as it was made then"
            )

    def _load_factors(self, state: Mapping[str, Any]) -> None:
        factors: Mapping[str, float] | None = state["scaling_factors"]
        self._factors = None if factors is None else dict(factors)


@runtime_checkable
class Stream(Protocol):
    """Batches of activation rows at one or several hook points.

    A stream is its own iterator: it ends by StopIteration, and goes on from where it stands.
    """

    points: tuple[str, ...]
    """Hook names, as they were asked for, in model order."""
    widths: Mapping[str, int]
    """Hook name → width of its rows (`d_in`)."""
    batch_size: int
    """Rows a batch."""

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """The stream itself."""
        ...

    def __next__(self) -> dict[str, Tensor]:
        """`{hook name: [batch, width]}`: the same rows (tokens) at every point. The caller's own."""
        ...

    def provider(self, point: str | None = None) -> Iterator[Tensor]:
        """The batches of one point, as SAELens's `SAETrainer(data_provider=)` takes them."""
        ...

    def sample(self, n: int, seed: int = 0) -> dict[str, Tensor]:
        """Up to `n` rows, scaled as the batches are; the stream's position does not move."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Position, random state and buffer: what `pack` can write (`saes/training/folder.py`)."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state` with the very batches that would have come.

        Raises:
            ValueError: where the state is of another stream.
        """
        ...

    def metadata(self) -> dict[str, Any]:
        """What SAELens's `cfg.json` keeps of the data, under SAELens's names, and `"graticule": {…}`."""
        ...


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
    """Raises:
    ValueError: For rows so long that nothing can be trained on them in float32.
    """
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
        check_limits(max_norm=multiple)
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
        saved = state or {"limits": {}, "rows": 0, "left_out": 0}
        self.limits, self.rows, self.left_out = dict(saved["limits"]), saved["rows"], saved["left_out"]

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
