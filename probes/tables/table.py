"""Entity tables: texts, targets, clusters of dependent rows, and the one split that everything keeps to."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from graticule.hooks.alignment import by_place
from graticule.hooks.doors import DATA, door
from graticule.hooks.limits import check_limits
from graticule.hooks.messages import TellsNames, visible
from graticule.probes.scores.metrics import coordinate_columns
from graticule.probes.tables.arrays import frame_of_arrays, targets_of_array
from graticule.probes.tables.checks import (
    need_variation,
)
from graticule.probes.tables.columns import (
    Kind,
    TableError,
)
from graticule.probes.tables.fields import MIN_TEST, MIN_TRAIN, completed, read_fields
from graticule.probes.tables.groups import (
    dense_codes,
    draw_rows,
    link_clusters,
)
from graticule.probes.tables.reading import packaged_settings
from graticule.probes.tables.units import RANK, Units

logger = logging.getLogger(__name__)


class Table(TellsNames):
    """Rows to probe: what the model reads, what is to be read out of it, and which rows belong together.

    **clusters** are sets of rows that are not independent: rows that share a value of the cluster column or
    the same text (white space at the ends aside), linked transitively; without a cluster column also texts
    that differ in case, blanks, punctuation or Unicode form alone. They are the unit of resampling, of folds,
    and of a split made here, which is drawn by the rows' places (in another order they are split otherwise);
    a split that comes with the table is used as it is. A table never changes after construction.
    """

    name: str
    """For titles and provenance."""
    frame: pd.DataFrame
    """The rows kept, all columns, index 0 … n − 1."""
    source_rows: Int[np.ndarray, " row"]
    """Where each row stood in the data given."""
    texts: list[str] | None
    """What the model reads, as given; None for a table of targets alone."""
    target_names: tuple[str, ...]
    """One name per column of ``y``."""
    units: tuple[str | None, ...]
    """One unit per column of ``y``: ``lat``, ``lon``, ``year``, or any other, for axes."""
    kind: Kind
    """``numeric``, ``binary`` or ``categorical``."""
    classes: tuple[str, ...]
    """Names of the classes; empty for numbers."""
    y: Float[np.ndarray, "row target"]
    """Values; for ``binary`` one column that is 1 in class 1, for ``categorical`` one indicator a class."""
    is_test: Bool[np.ndarray, " row"]
    """The split."""
    clusters: Int[np.ndarray, " row"]
    """Cluster of each row: 0, 1, 2, … in order of appearance."""
    blocks: dict[str, pd.Series]
    """Levels of the target (country, century): for maps, scores within blocks and hold-outs."""
    confounds: dict[str, pd.DataFrame]
    """What could tell the target without the concept: it stands in the surface. Columns of each, the first of
    which stands for it."""
    dropped: pd.DataFrame
    """Rows left out: ``row`` (where it stood in the data), ``reason``."""
    split_note: str
    """Where the split comes from, its sizes, and how many clusters straddle it."""
    duplicate_texts: int
    """Texts that several rows share."""
    conflicting_texts: int
    """Those of them whose rows differ in the target."""

    @door(data=DATA)
    def __init__(
        self,
        data: pd.DataFrame | str | Path,
        text: Hashable | None = None,
        target: Hashable | Sequence[Hashable] | pd.Index = (),
        units: Units = None,
        split: Hashable | None = None,
        cluster: Hashable | None = None,
        blocks: Hashable | Sequence[Hashable] | pd.Index = (),
        name: str | None = None,
        on_bad: Literal["raise", "drop"] = "raise",
        test_size: float = 0.2,
        seed: int = 0,
        kind: Kind | Literal["ordinal"] | None = None,
        positive: Any = None,
        confounds: Hashable | Sequence[Hashable] | pd.Index = (),
    ) -> None:
        """Read and check a table.

        Args:
            data: A DataFrame, a CSV or Parquet file, or a folder saved by ``datasets``. Columns are named as
                they are there; from here on their names are text, ``'1'`` for a column ``1``.
            text: The column that the model reads.
            target: What is to be read out.
            units: One for each target, or by target.
            split: The column that says which rows are test rows; without one ``test_size`` of the rows become
                test rows, in whole clusters.
            cluster: A column whose rows of one value belong together; ``auto``, where no column has that
                name, presumes it of texts that share most of their letters.
            blocks: Columns of groups, such as a country, for hold-outs and scores within a group.
            name: For titles; by default the file's.
            on_bad: ``drop`` leaves out rows that cannot be used and records them in ``dropped``.
            test_size: Share of test rows.
            seed: Of the split.
            kind: By default told from the target: text and booleans are classes, 0 and 1 are binary.
                ``ordinal``, of grades, counts and numbers a few of which are far larger than the others: the
                target is the rank among the training rows, from 0 to 1.
            positive: The value that is class 1 of two; by default the later in order: `True`, 1, `yes`.
            confounds: What could tell the target without the concept: columns, or what a text shows,
                `length`, `case`, `digits`, `punctuation`, `script`, `template` and `position` (in the table).
                The verdict then is over a surface that knows them.

        Raises:
            ColumnError: A column is not there (a KeyError).
            TableError: Rows cannot be used (the first are listed), a target is constant, there are too few
                rows, or a part of the split is empty (a ValueError).
            FileNotFoundError: There is no such file.
        """
        fields, hint = read_fields(
            data, text, target, units, split, cluster, blocks, name, on_bad, test_size, seed, kind, positive,
            confounds,
        )  # fmt: skip
        self._fill(**fields)
        for part, where in ((~self.is_test, "training"), (self.is_test, "test")):
            need_variation(self.y[part], self.target_names, self.kind, f" in the {where} rows")
        if len(self.dropped):
            logger.warning(
                "%s: %d rows dropped; first: %s%s", self.name, len(self.dropped), self.dropped.reason[0], hint
            )

    @classmethod
    def packaged(cls, name: str) -> Table:
        """A table that comes with graticule: ``world_cities`` or ``historical_figures``.

        Raises:
            TableError: There is no such table.
        """
        path, settings = packaged_settings(name)
        return cls(path, name=name, **settings)

    @classmethod
    def from_arrays(
        cls,
        y: Any,
        texts: Sequence[str] | pd.Series | None = None,
        is_test: Any = None,
        clusters: Any = None,
        *,
        target_names: Sequence[Hashable] | pd.Index | None = None,
        blocks: Mapping[Any, Sequence[Any]] | None = None,
        name: str = "arrays",
        **settings: Any,
    ) -> Table:
        """A table of arrays with one entry per row; ``y`` is [row] or [row, target].

        ``settings`` are ``units``, ``on_bad``, ``test_size``, ``seed``, ``kind``, ``positive`` and
        ``confounds`` (blocks, or what a text shows) of the constructor.

        Raises:
            TableError: Lengths differ, besides what the constructor raises.
        """
        frame, names, levels, roles = frame_of_arrays(y, texts, is_test, clusters, target_names, blocks or {})
        return cls(frame, target=names, blocks=levels, name=name, **roles, **settings)

    # --- derived tables

    def take(self, rows: Int[np.ndarray, " some"] | Bool[np.ndarray, " row"] | Sequence[int]) -> Table:
        """The rows at these positions (or where True), with their split, clusters and columns of ``y`` kept.

        Raises:
            TableError: A part of the split is left with too few rows.
        """
        index = np.asarray(rows)
        index = np.flatnonzero(index) if index.dtype == bool else index.astype(np.int64)
        return self.derived(
            frame=self.frame.iloc[index].reset_index(drop=True),
            source_rows=self.source_rows[index],
            texts=None if self.texts is None else [self.texts[i] for i in index],
            y=self.y[index],
            is_test=self.is_test[index],
            clusters=dense_codes(self.clusters[index]),
            blocks={c: s.iloc[index].reset_index(drop=True) for c, s in self.blocks.items()},
            confounds={c: d.iloc[index].reset_index(drop=True) for c, d in self.confounds.items()},
        )

    def head(self, n: int, seed: int = 0) -> Table:
        """At most ``n`` rows: random whole clusters that fit, in row order, of both parts of the split.

        Raises:
            LimitError: The number of rows is not whole or below 1, or the seed below 0.
            TableError: There are fewer rows than a table has at the least.
        """
        check_limits(rows=n, seed=seed)
        if n >= len(self):
            return self
        return self.take(draw_rows(self.clusters, self.is_test, n, (MIN_TRAIN, MIN_TEST), seed))

    def with_target(
        self,
        y: Float[np.ndarray, "row target"] | Float[np.ndarray, " row"],
        target_names: Sequence[Hashable] | pd.Index | None = None,
        units: Sequence[str | None] | None = None,
    ) -> Table:
        """The same rows and split with other targets.

        Of the same shape and without names they keep names, units and kind (shuffled targets, say);
        otherwise they are numbers.

        Raises:
            TableError: There is another number of rows, names do not fit, or values are not finite.
        """
        values, names, unit_of = targets_of_array(y, len(self), target_names, units)
        if target_names is None and values.shape == self.y.shape:
            return self.derived(y=values)
        return self.derived(y=values, target_names=names, units=unit_of, kind="numeric", classes=())

    def with_split(self, is_test: Bool[np.ndarray, " row"], note: str = "drawn anew") -> Table:
        """The same rows with another split.

        Args:
            is_test: True for test rows.
            note: where it comes from.

        Returns:
            A table.

        Raises:
            TableError: There is another number of rows, or too few in one part.
        """
        if len(is_test) != len(self):
            raise TableError(f"is_test has {len(is_test)} entries for {len(self)} rows of {self.name}")
        return self.derived(is_test=np.array(is_test, bool), origin=note)

    def with_clusters(self, labels: Sequence[Any] | Shaped[np.ndarray, " row"]) -> Table:
        """The same rows, with those that share a label linked on top of the clusters there are.

        Raises:
            TableError: The number of labels is not that of rows.
        """
        if len(labels) != len(self):
            raise TableError(f"{len(labels)} labels for {len(self)} rows: one label a row")
        given = pd.Series(list(by_place("labels", labels, "table rows")), dtype=object)
        return self.derived(clusters=link_clusters([pd.Series(self.clusters), given], len(self)))

    @property
    def inputs(self) -> Sequence[Any] | None:
        """What a model is given: the texts, or what a table of tokens is of."""
        return self.texts

    @property
    def strings(self) -> list[str] | None:
        """What readers of strings are given, one a row: its text, or what stands around its token."""
        return self.texts

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        targets = visible(", ".join(self.target_names[:4]))
        return f"Table({self.name!r}, {len(self)} rows, {self._kind_in_words} {targets})"

    @property
    def _kind_in_words(self) -> str:
        """`ordinal` of ranks, which are judged as numbers are."""
        return "ordinal" if RANK in self.units else self.kind

    def __setattr__(self, key: str, value: object) -> None:
        raise AttributeError(f"a Table does not change; make another with take, head or with_target ({key})")

    @property
    def has_coordinates(self) -> bool:
        """Whether one target is a latitude and one a longitude."""
        return self.kind == "numeric" and coordinate_columns(self.units) is not None

    def coordinates(self) -> tuple[int, int]:
        """Columns of ``y`` that hold latitude and longitude, in this order; TableError if there are none."""
        columns = coordinate_columns(self.units) if self.kind == "numeric" else None
        if columns is None:
            raise TableError(
                f"{self.name} has no coordinates: units are {self.units}, not one lat and one lon"
            )
        return columns

    @property
    def split_is_drawn(self) -> bool:
        """Whether the split was drawn here: it came with no column, and is nobody's."""
        return self.split_note.startswith("drawn here")

    @property
    def digest(self) -> str:
        """sha256 over texts, targets, split, clusters and confounders."""
        digest = hashlib.sha256()
        for text in self.texts or ():
            digest.update(str(len(text)).encode() + b":" + text.encode("utf-8", "surrogatepass"))
        for array in (self.y, self.is_test, self.clusters):
            digest.update(f"{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        for name, columns in self.confounds.items():
            digest.update(f"{name}\0{columns.to_csv()}".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def describe(self) -> pd.DataFrame:
        """What is in the table, one row per property."""
        properties = {
            "table": self.name,
            "rows": len(self),
            "target": ", ".join(self.target_names[:8]) + (" …" if len(self.target_names) > 8 else ""),
            "kind": self._kind_in_words,
            "split": self.split_note,
            "clusters": int(self.clusters.max()) + 1,
            "texts shared by several rows": self.duplicate_texts,
            "… with different targets": self.conflicting_texts,
            "blocks": ", ".join(f"{c} ({s.nunique()})" for c, s in self.blocks.items()),
            **({"confounders": ", ".join(self.confounds)} if self.confounds else {}),
            "rows dropped": len(self.dropped),
            "digest": self.digest[:12],
        }
        values = [str(value) for value in properties.values()]
        return pd.DataFrame({"property": list(properties), "value": values})

    def derived(self, **changes: Any) -> Table:
        """A table with some fields replaced, unchecked; `origin` is where its split comes from."""
        fields = ("name", "frame", "source_rows", "texts", "target_names", "units", "kind", "classes", "y",
                  "is_test", "clusters", "blocks", "confounds", "dropped")  # fmt: skip
        own = {field: getattr(self, field) for field in fields}
        out = object.__new__(type(self))
        out._fill(**{**own, "origin": self.split_note.split(":")[0], **changes})
        return out

    def _fill(self, *, origin: str, **values: Any) -> None:
        for key, value in completed(values, origin).items():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
            object.__setattr__(self, key, value)
