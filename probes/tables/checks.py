"""Checks that a table can be used as asked, with errors that say what to do."""

from __future__ import annotations

import logging
import re
from collections.abc import Hashable, Mapping, Sequence
from difflib import get_close_matches
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd

from graticule.hooks.calls import came
from graticule.hooks.messages import UnknownNameError, brief, half_character
from graticule.probes.tables.columns import TableError
from graticule.probes.tables.entries import holds_dates
from graticule.probes.tables.units import LIMITS

_WHOLE = re.compile(r"-?\d+")

logger = logging.getLogger(__name__)

_LARGEST = 1e100


class ColumnError(UnknownNameError):
    """A column that the table does not have."""


def _need_labels(values: pd.Series, column: str, role: str) -> None:
    """Refuse entries that name no group: lists, arrays and the like."""
    if values.dtype != object:
        return
    for row, value in enumerate(values):
        if not pd.api.types.is_scalar(value):
            raise TableError(
                f"{role} {column!r} holds {type(value).__name__} at row {row}: give one name or number a row"
            )


def _called(column: Any, is_value: bool) -> str:
    """A column that is not there, as it was written; a value that was taken for its name without quotes."""
    if isinstance(column, str):
        return column if is_value else repr(column)
    return brief(column)


def need_column(frame: pd.DataFrame, column: Any, role: str) -> str:
    """The name of a column that is there.

    Args:
        frame: Rows whose columns are named by text.
        column: The name; what text a number, a date or a tuple makes will do.
        role: The argument: `text`.

    Returns:
        The name, as text.

    Raises:
        ColumnError: There is none of that name; the nearest are told.
        TableError: There are several, or it holds no labels where labels are wanted.
    """
    names, name = frame.columns.tolist(), str(column)
    if name in names:
        if names.count(name) > 1:
            raise TableError(f"the table has {names.count(name)} columns named {name!r}: rename all but one")
        if role in ("cluster", "blocks"):
            _need_labels(frame[name], name, role)
        return name
    names = [str(one) for one in names]
    lower = {one.lower(): one for one in names}
    near = [lower[m] for m in get_close_matches(name.lower(), list(lower), n=3, cutoff=0.5)]
    hint = (
        f"nearest: {', '.join(map(repr, near))}" if near else f"columns: {', '.join(map(repr, names[:20]))}"
    )
    numbered = any(map(_WHOLE.fullmatch, names))  # columns may be called 0, 1, 2
    is_value = not isinstance(column, str) or (_WHOLE.fullmatch(name) is not None and not numbered)
    values = f"; {role} takes names of columns, not their values" if is_value else ""
    raise ColumnError(f"no column {_called(column, is_value)} for {role}; {hint}{values}")


def need_whole(values: pd.Series, role: str) -> None:
    """Raises:
    TableError: A label holds half a character, which no file can keep.
    """
    for row, value in enumerate(values):
        if isinstance(value, str) and (half := half_character(value)) is not None:
            raise TableError(
                f"{role} {values.name!r} holds half a character ({half!r}) at row {row}: mend it"
            )


def say_unclustered(labels: pd.Series) -> None:
    """Warn of rows without a cluster: missing ones stand each by itself, blank ones all together."""
    missing = labels.isna().to_numpy()
    blank = np.array([isinstance(v, str) and not v.strip() for v in labels])
    counted = [
        f"{rows.sum()} of {len(labels)} rows are {what}, the first row {int(rows.argmax())}, and {how}"
        for rows, what, how in (
            (missing, "missing", "each is a cluster of its own"),
            (blank, "blank", "all of them are one cluster"),
        )
        if rows.any()
    ]
    if counted:
        logger.warning("cluster %r: %s; write their cluster, or drop them", labels.name, "; ".join(counted))


def column_name(role: str, given: Any, labels: Sequence[Any] = ()) -> str | None:
    """The name of a column, where one is to be named.

    Args:
        role: The argument: `text`.
        given: A name as the frame has it, the text of one, or None.
        labels: The names that the frame has, of any type.

    Returns:
        The name as text, None for None.

    Raises:
        TypeError: It is a list of names, or the column itself.
    """
    if given is None:
        return None
    if (name := _one_name(given, labels)) is not None:
        return name
    first = given[0] if isinstance(given, list | tuple) and given else getattr(given, "name", None)
    write = first if isinstance(first, str) else "COLUMN"
    raise TypeError(f"Table: {role} is {came(given)}; expected the name of a column: {role}={write!r}")


def column_names(role: str, given: Any, labels: Sequence[Any] = ()) -> list[str]:
    """Names of columns, where one or several are to be named.

    Args:
        role: The argument: `target`.
        given: A name, or several.
        labels: The names that the frame has, of any type.

    Returns:
        The names as text.

    Raises:
        TypeError: It is the columns themselves, or their values.
    """
    if (name := _one_name(given, labels)) is not None:
        return [name]
    several: list[Any] = list(given) if isinstance(given, list | tuple | pd.Index) else [given]
    names = [_one_name(one, labels) for one in several]
    if None not in names:
        return [name for name in names if name is not None]
    columns: list[Any] = list(getattr(given, "columns", [getattr(given, "name", None)]))
    write = columns[0] if len(columns) == 1 else columns
    write = write if write is not None and not isinstance(write, int) else "COLUMN"
    raise TypeError(f"Table: {role} is {came(given)}; expected names of columns: {role}={write!r}")


def _one_name(given: Any, labels: Sequence[Any]) -> str | None:
    """The text of one column's name; None for what is none."""
    if isinstance(given, str):
        return given
    if not isinstance(given, Hashable) or getattr(given, "ndim", 0):
        return None
    alike = [label for label in labels if isinstance(label, tuple) == isinstance(given, tuple)]
    same = next((label for label in alike if label is not None and bool(label == given)), None)
    if same is not None:  # 1.0, which pandas takes for 1, has the name that the column has
        return str(same)
    return str(given) if isinstance(given, Integral) else None


def read_texts(values: pd.Series, column: str, bad: dict[int, str]) -> list[str]:
    """Texts as given; missing and empty ones are noted in ``bad``. TableError for other types."""
    out: list[str] = []
    for row, value in enumerate(values):
        missing = not isinstance(value, str) and pd.api.types.is_scalar(value) and bool(pd.isna(value))
        if not missing and not isinstance(value, str | int | np.integer):
            rows = isinstance(value, list | tuple | np.ndarray)
            hint = (
                "of token rows leave text out, and give them to capture(model, rows); of conversations give "
                "the text that the template writes, tokenizer.apply_chat_template(turns, tokenize=False)"
                if rows
                else "convert it to text"
            )
            raise TableError(f"text {column!r} holds {type(value).__name__} at row {row}: {hint}")
        text = "" if missing else str(value)
        if not text.strip():
            bad.setdefault(row, f"text {column!r} is missing or empty")
        elif (half := half_character(text)) is not None:
            bad.setdefault(row, f"text {column!r} holds half a character ({half!r}), which no model can read")
        out.append(text)
    if len(values) and not any(isinstance(value, str) for value in values):
        logger.warning("text %r holds numbers, not text: the model reads their digits", column)
    return out


def need_text_and_target(texts: pd.Series, target: pd.Series) -> None:
    """Refuse a target that is text of its own in nearly every row: no class of it could be learned.

    Args:
        texts: The column named as text.
        target: The column named as target.

    Raises:
        TableError: There are more classes than half the rows; where the text could be the target, both are
            taken for swapped.
    """
    words = target.dropna()
    if not len(words) or not all(isinstance(v, str) for v in words):
        return
    if holds_dates(words) or pd.to_numeric(words, errors="coerce").notna().any():
        return
    values, labels = len(set(words)), len(set(map(str, texts)))
    if values <= len(words) / 2:
        return
    swap = f"text={target.name!r}, target={texts.name!r}"
    if labels <= values / 2:
        raise TableError(
            f"text {texts.name!r} looks like labels ({labels} in {len(texts)} rows) and target "
            f"{target.name!r} like text ({values} in {len(words)}): swap the two, {swap}"
        )
    numbers = pd.to_numeric(texts, errors="coerce").notna().all()
    raise TableError(
        f"target {target.name!r} is text with {values} classes in {len(words)} rows, too few of each: "
        + (
            f"are the columns swapped? Write {swap}"
            if numbers
            else "name a column of numbers or of few classes"
        )
    )


def check_coordinates(
    y: np.ndarray, units: Sequence[str | None], names: Sequence[str], bad: dict[int, str]
) -> None:
    """Note in ``bad`` the latitudes and longitudes that cannot be (swapped columns, say)."""
    for column, unit in enumerate(units):
        limit = LIMITS.get(unit or "", np.inf)
        for row in np.flatnonzero(np.abs(y[:, column]) > limit):
            value = y[row, column]
            bad.setdefault(int(row), f"{names[column]!r} is {value:g}, outside ±{limit:g} degrees ({unit})")


def refuse(bad: Mapping[int, str], n_rows: int, hint: str = "") -> None:
    """Refuse bad rows, listing the first, and what to write (`hint`)."""
    if bad:
        rows = sorted(bad)
        first = "; ".join(f"row {row}: {bad[row]}" for row in rows[:5])
        mend = "Mend them, or pass on_bad='drop' to leave them out"
        if len(bad) == n_rows:
            mend = "No row would be left: name another column, or mend this one"
        raise TableError(
            f"{len(bad)} of {n_rows} rows cannot be used: {first}{' …' if len(rows) > 5 else ''}{hint}. "
            f"{mend}"
        )


def need_variation(y: np.ndarray, names: Sequence[str], kind: str, where: str) -> None:
    """Refuse no rows at all, and a target that is constant over them or beyond what can be squared."""
    if len(y) == 0:
        raise TableError(f"no usable rows{where}")
    for name, column in zip(names, y.T, strict=True):
        if np.ptp(column) == 0:
            what = f"{name!r} is constant{where} (always {column[0]:g})"
            if kind == "categorical":
                what = f"no row is of class {name!r}{where}" if column[0] == 0 else f"all are {name!r}{where}"
            raise TableError(f"{what}: nothing to learn; choose another target, split or rows")
        largest, spread = float(np.abs(column).max()), float(np.ptp(column))
        if largest > _LARGEST or spread < 1 / _LARGEST:
            raise TableError(
                f"{name!r} runs from {column.min():g} to {column.max():g}{where}: squares of that are no "
                f"numbers here (up to {_LARGEST:g}, differing by {1 / _LARGEST:g} or more): give it in "
                "another unit, or its logarithm"
            )


def need_two_clusters(clusters: np.ndarray, y: np.ndarray, names: Sequence[str], kind: str) -> None:
    """Refuse a class all of whose rows belong together: it cannot be in both parts of a split drawn here.

    Args:
        clusters: The cluster of each row.
        y: Indicators of classes.
        names: A name for each column of ``y``.
        kind: The kind of target; numbers are let pass.

    Raises:
        TableError: There is such a class.
    """
    if kind == "numeric":
        return
    columns = np.concatenate([y, 1 - y], axis=1) if kind == "binary" else y
    lone = [c for c in range(columns.shape[1]) if len(np.unique(clusters[columns[:, c] > 0.5])) == 1]
    if lone:
        column = lone[0]
        name = names[0] if kind == "binary" else names[column]
        which = f"{name!r} is {1 - column}" if kind == "binary" else f"of class {name!r}"
        more = f" (and {len(lone) - 1} classes more)" if len(lone) > 1 else ""
        count = int((columns[:, column] > 0.5).sum())
        rows = f"{count} rows, all in one cluster, are" if count > 1 else "1 row alone is"
        raise TableError(
            f"{rows} {which}{more}: they cannot be in both training and test rows: leave the class out, "
            "merge it with another, or give a split="
        )


def duplicates(texts: Sequence[str] | None, y: np.ndarray) -> tuple[int, int]:
    """How many texts several rows share, and how many of these differ in the target."""
    if texts is None:
        return 0, 0
    groups = pd.DataFrame(y).groupby(pd.factorize(pd.Series([t.strip() for t in texts], dtype=object))[0])
    several = groups.size() > 1
    differ = (groups.max() != groups.min()).any(axis=1)
    return int(several.sum()), int((several & differ).sum())
