"""What a trainer asks of a stream of activations, and what both kinds of stream share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from graticule.hooks.identity import EARLIER, of_earlier_digest
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
        """**Raises** `ValueError` for a batch size below one or an unknown `normalize`."""
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
