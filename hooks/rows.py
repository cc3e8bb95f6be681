"""Rows of activations, wherever they lie: what every analysis reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Integer
from torch import Tensor

from graticule.hooks.points import captured_name, layer_of, name_of, several

if TYPE_CHECKING:
    from typing import Self


PointKey = str | tuple[str, int]
"""A hook point: its full name, or a short name and a layer."""


class Rows(Mapping[str, Tensor], ABC):
    """A mapping from hook name to a `[row, width]` tensor, with a table of the rows beside it.

    `Activations` hold them in memory, a `Store` on disk. A further source implements the abstract members;
    nothing that reads rows asks which source it has, but for `in_memory`.
    """

    in_memory: ClassVar[bool]
    """Whether a point's tensor is there already; otherwise it is read, and `gather` reads a few rows."""

    @property
    @abstractmethod
    def points(self) -> tuple[str, ...]:
        """Hook names, in model order."""

    @property
    @abstractmethod
    def widths(self) -> dict[str, int]:
        """Point → width."""

    @property
    @abstractmethod
    def n_rows(self) -> int:
        """How many rows every point has."""

    @property
    @abstractmethod
    def rows(self) -> pd.DataFrame:
        """One line per row: `source` (which input text), `position`, `token` where known, own columns."""

    @property
    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """Where the rows come from: model, inputs, prompt, positions, versions."""

    @abstractmethod
    def __getitem__(self, key: PointKey) -> Float[Tensor, "row width"]:
        """The `[row, width]` tensor of a point.

        Raises:
            PointError: If it was not captured.
        """

    @abstractmethod
    def gather(
        self, hook_name: PointKey, index: Integer[np.ndarray, " chunk"]
    ) -> Float[Tensor, "chunk width"]:
        """Rows `index` of a point, in that order.

        Raises:
            IndexError: for a row that is not there.
        """

    @abstractmethod
    def select(self, rows: Any = None, points: Any = None) -> Rows:
        """Some rows (indices, a mask or a slice) and points, in memory."""

    @abstractmethod
    def checksum(self, points: Sequence[str]) -> str:
        """A digest of every value at `points`."""

    @abstractmethod
    def with_texts(self, texts: Sequence[str]) -> Self:
        """The same rows, said to be of these texts: row i is of text `rows["source"][i]`.

        Args:
            texts: One for each input, in order. A table's rows are compared with them.

        Raises:
            AlignmentError: A row's source is none of the texts, or the row is known to be of another of them;
                or there are more or fewer than inputs.
        """

    @abstractmethod
    def with_sources(self, source: Int[np.ndarray, " row"], n_inputs: int) -> Self:
        """The same rows with their texts numbered anew.

        Args:
            source: The number of each row's text.
            n_inputs: How many texts there are.
        """

    @property
    def request(self) -> dict[str, Any]:
        """What was asked for: model, inputs, prompt, positions, as far as it is known."""
        return dict(self.provenance)

    @property
    def location(self) -> str:
        """The folder on disk, or nothing."""
        return ""

    @property
    def layers(self) -> tuple[int | None, ...]:
        """The block of every point, None outside the blocks."""
        return tuple(layer_of(point) for point in self.points)

    def __iter__(self) -> Iterator[str]:
        return iter(self.points)

    def __len__(self) -> int:
        return len(self.points)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str | tuple) and name_of(key) in self.points

    def name(self, key: PointKey) -> str:
        """The full name of a captured point.

        Raises:
            PointError: if it was not captured.
        """
        return captured_name(key, self.points)


def wanted_names(points: Any, all_points: Sequence[str]) -> list[str]:
    """Full names of one or several points, each a name or a (short name, layer) pair; None is all of them."""
    if points is None:
        return list(all_points)
    return [name_of(point) for point in several(points)]
