"""What a trainer asks of a stream of activations: batches, a look at the data, an exact place to resume."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


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
        """Position, random state and buffer: what `pack` can write (`hooks/streams/state.py`)."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state` with the very batches that would have come. **Raises** `ValueError` where the
        state is of another stream."""
        ...

    def metadata(self) -> dict[str, Any]:
        """What SAELens's `cfg.json` keeps of the data, under SAELens's names, and `"graticule": {…}`."""
        ...
