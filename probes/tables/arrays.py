"""Arrays with one entry per row: a table of them, laid out as the frame that `Table` reads, and targets."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.hooks.alignment import by_place
from graticule.hooks.messages import half_character
from graticule.hooks.values import unmasked
from graticule.probes.tables.columns import TableError
from graticule.probes.tables.units import check_unit


def frame_of_arrays(
    y: Any,
    texts: Sequence[str] | pd.Series | None,
    is_test: Any,
    clusters: Any,
    target_names: Sequence[Hashable] | pd.Index | None,
    blocks: Mapping[Any, Sequence[Any]],
) -> tuple[pd.DataFrame, list[str], list[str], dict[str, str | None]]:
    """The frame, its columns of targets and of blocks, and those of `text`, `split` and `cluster`.

    Raises:
        TableError: Lengths, shapes or indices do not fit together.
    """
    blocks = {str(key): values for key, values in blocks.items()}
    given = {"y": y, "texts": texts, "is_test": is_test, "clusters": clusters}
    given |= {key: values for key, values in blocks.items() if key not in given}
    check_arrays(given, texts)
    columns = columns_of(y, target_names)
    names = list(columns)
    levels = {key: list(values) for key, values in blocks.items()}
    if both := [key for key in levels if key in columns]:
        raise TableError(f"blocks {both[0]!r} has the name of a target: give one of the two another")
    columns |= levels
    roles: dict[str, str | None] = {"text": None, "split": None, "cluster": None}
    for role, values in (("text", texts), ("split", is_test), ("cluster", clusters)):
        if values is not None:
            column = role
            while column in columns:
                column += "_"
            roles[role], columns[column] = column, list(values)
    lengths = {key: len(values) for key, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise TableError(f"all arrays need one entry per row, but their lengths are {lengths}")
    frame = pd.DataFrame({key: pd.Series(values) for key, values in columns.items()})
    return frame, names, list(levels), roles


def check_arrays(given: Mapping[str, Any], texts: Sequence[str] | pd.Series | None) -> None:
    """Refuse masked arrays, texts with half a character, and arrays that may stand in different orders.

    Args:
        given: What the arrays are, and the arrays; a pandas Series or DataFrame has an order of its own.
        texts: Those of them that are texts.

    Raises:
        MaskedError: One has masked entries.
        TableError: A text holds half a character; indices differ, or one has an index other than 0, 1, 2, …
            among plain arrays.
    """
    for what, values in given.items():
        unmasked(what, values)
    for row, value in enumerate([] if texts is None else texts):
        if half_character(str(value)):  # which pandas refuses in its own words
            raise TableError(f"texts holds half a character at row {row}: {value!r}")
    indexed = {k: v.index for k, v in given.items() if isinstance(v, pd.Series | pd.DataFrame)}
    plain = [k for k, v in given.items() if v is not None and k not in indexed]
    for name, index in indexed.items():
        other, order = next(iter(indexed.items()))
        if plain:
            other, order = plain[0], pd.RangeIndex(len(index))
        if not np.array_equal(index.to_numpy(), order.to_numpy()):
            raise TableError(
                f"{name} has the index {', '.join(map(str, index[:3]))}, … and {other} "
                f"{'is counted by place' if plain else 'another'}: pass {name}.to_numpy() if both stand in "
                "one order, or sort by the index first"
            )


def columns_of(y: Any, target_names: Sequence[Any] | pd.Index | None) -> dict[str, Any]:
    """Target columns of an array [row] or [row, target]; TableError for another shape."""
    try:
        values = np.asarray(y)
    except ValueError as error:
        raise TableError("y is ragged: give every row the same number of targets") from error
    if values.ndim not in (1, 2):
        raise TableError(f"y has shape {values.shape}: pass [row] or [row, target]")
    n_targets = 1 if values.ndim == 1 else values.shape[1]
    default = ["target"] if n_targets == 1 else [f"target_{i}" for i in range(n_targets)]
    given = default if target_names is None or not len(target_names) else target_names
    names = [str(name) for name in given]
    if len(names) != n_targets or len(set(names)) != len(names):
        raise TableError(f"{n_targets} targets need as many different names, got {names}")
    columns = values.reshape(len(values), n_targets).T
    return dict(zip(names, columns, strict=True))


def targets_of_array(
    y: Float[np.ndarray, "row target"] | Float[np.ndarray, " row"],
    n_rows: int,
    target_names: Sequence[Hashable] | pd.Index | None,
    units: Sequence[str | None] | None,
) -> tuple[Float[np.ndarray, "row target"], tuple[str, ...], tuple[str | None, ...]]:
    """Other targets of a table's rows: values, names and units.

    Raises:
        TableError: There is another number of rows, names do not fit, or values are not finite.
    """
    values = by_place("y", y, "table rows").astype(np.float64).reshape(len(y), -1)
    if len(values) != n_rows:
        raise TableError(f"the new target needs {n_rows} finite rows; it has {len(values)}")
    for row in np.flatnonzero(~np.isfinite(values).all(axis=1))[:1]:
        raise TableError(f"the new target needs {n_rows} finite rows; row {row} is {values[row].tolist()}")
    given = () if target_names is None else target_names
    names = tuple(map(str, given)) or tuple(f"target_{i}" for i in range(values.shape[1]))
    unit_of = tuple(units or (None,) * len(names))
    if not len(names) == len(unit_of) == values.shape[1]:
        raise TableError(f"{values.shape[1]} targets, but {len(names)} names and {len(unit_of)} units")
    unit_of = tuple(check_unit(unit, name) for unit, name in zip(unit_of, names, strict=True))
    return values, names, unit_of
