"""Columns of a table read as numbers, classes or a split, with a reason for every row that cannot be used."""

from __future__ import annotations

import datetime
import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from graticule.hooks.messages import brief
from graticule.probes.tables.entries import (
    holds_dates,
    is_missing,
    is_numeric_text,
    not_numbers,
    numbers_of,
    with_typos,
)

Kind = Literal["numeric", "binary", "categorical"]
TRAIN_WORDS, TEST_WORDS = ("train", "training", "false", "0"), ("test", "testing", "true", "1")
_STEPS = 100  # of float64 at a value's size, that a target varies by at least
_YES, _NO = {"true", "yes", "t", "y", "1"}, {"false", "no", "f", "n", "0"}

logger = logging.getLogger(__name__)


class TableError(ValueError):
    """A table that cannot be used as asked; the message names rows, columns and the way out."""


@dataclass(frozen=True)
class Targets:
    """Target columns as numbers, one row a row of the table."""

    y: Float[np.ndarray, "row target"]
    """Values, or indicators of classes; NaN in bad rows."""
    names: tuple[str, ...]
    """A name for each column of ``y``; ``column=class`` for the classes of a category."""
    kind: Kind
    """Numbers, two classes (one column: class 1), or several (a column each)."""
    classes: tuple[str, ...]
    """Classes in the order of the columns (binary: class 0, class 1); empty for numbers."""


def read_targets(
    frame: pd.DataFrame,
    columns: Sequence[str],
    kind: Kind | None,
    bad: dict[int, str],
    words: Mapping[int, str] | None = None,
    positive: Any = None,
) -> Targets:
    """Numbers or indicator columns of the target; missing and non-finite values are noted in ``bad``.

    ``words`` are what a file has written where a class was read as missing, by row. ``positive`` is the value
    that is to be class 1 of two.

    Raises:
        TableError: Text that holds numbers, dates, nested values, one class, too many for ``binary``, or
            several columns that are not all numbers.
    """
    if not columns:
        raise TableError("no target: name one column or several, e.g. target='death_year'")
    if twice := [column for i, column in enumerate(columns) if column in columns[:i]]:
        raise TableError(f"target {twice[0]!r} is named twice: name each column once")
    parts = [numbers_of(frame[column]) for column in columns]
    if kind in (None, "numeric"):
        parts = [
            with_typos(frame[column], column, bad) if part is None else part
            for column, part in zip(columns, parts, strict=True)
        ]
    if len(columns) > 1 or kind == "numeric":
        for column, values in zip(columns, parts, strict=True):
            if values is None:
                raise TableError(not_numbers(frame[column], column))
    first = parts[0]
    if kind is None:
        kind = "numeric" if len(columns) > 1 else _infer(frame[columns[0]], first, columns[0])
    if kind != "numeric":
        if len(columns) > 1:
            raise TableError(f"kind={kind!r} takes one target column, not {len(columns)}: {list(columns)}")
        return _indicators(frame[columns[0]], columns[0], kind, bad, words or {}, positive)
    if positive is not None:
        raise TableError(
            f"positive={brief(positive)}: the target holds numbers; two classes need kind='binary'"
        )
    y = np.stack([p for p in parts if p is not None], axis=1)
    for row, column in np.argwhere(~np.isfinite(y)):
        value = y[row, column]
        reason = "is missing" if np.isnan(value) else f"is {value}"
        bad.setdefault(int(row), f"target {columns[column]!r} {reason}")
    for column, values in zip(columns, y.T, strict=True):
        _check_steps(column, values[np.isfinite(values)])
    return Targets(y, tuple(columns), "numeric", ())


def _check_steps(column: str, values: np.ndarray) -> None:
    """Raises `TableError` where values vary by hardly more than the steps that float64 has at their size."""
    largest = float(np.abs(values).max(initial=0.0))
    with np.errstate(over="ignore"):
        width = float(np.ptp(values)) if len(values) else 0.0
    if 0 < width < _STEPS * np.spacing(largest):
        raise TableError(
            f"target {column!r} varies by {width:.3g} about values of {largest:.3g}, where float64 "
            f"tells {np.spacing(largest):.3g} apart: subtract a constant"
        )


def _check_labels(labels: Sequence[Any], column: str) -> None:
    """Refuse words for yes and no of several kinds; say where labels differ in case or blanks alone."""
    words = [str(label).strip().lower() for label in labels]
    if len(set(labels)) > 2 and set(words) <= _YES | _NO:
        written = ", ".join(map(repr, labels[:6]))
        raise TableError(
            f"target {column!r} writes yes and no in several ways ({written}): write two words, one for each"
        )
    names = [_class_name(label) for label in labels]
    if twice := [i for i, name in enumerate(names) if name in names[:i]]:
        pair = labels[names.index(names[twice[0]])], labels[twice[0]]
        one, other = (f"{label!r} ({type(label).__name__})" for label in pair)
        raise TableError(
            f"target {column!r} has two classes named {names[twice[0]]!r}, {one} and {other}: write both "
            f"in one way, df[{column!r}].astype(str), or apart"
        )
    say_alike(f"target {column!r}: classes", labels)


def say_alike(what: str, labels: Sequence[Any]) -> None:
    """Warn of labels that are one word but for capitals, blanks, Unicode form or type, and so stand apart."""
    words = [unicodedata.normalize("NFC", _class_name(label)).strip().lower() for label in labels]
    several = Counter(words)
    if len(several) < len(words):
        alike = [label for label, word in zip(labels, words, strict=True) if several[word] > 1]
        printed = ", ".join(map(ascii, alike[:4]))  # 'é' and 'é' would look the same
        logger.warning("%s [%s] differ in capitals, blanks, Unicode form or type alone", what, printed)


def _infer(values: pd.Series, numbers: np.ndarray | None, column: str) -> Kind:
    if numbers is not None:
        distinct = np.unique(numbers[np.isfinite(numbers)])
        return "binary" if len(distinct) == 2 and set(distinct) == {0.0, 1.0} else "numeric"
    present = values[~is_missing(values)]
    nested = len(present) > 0 and not all(pd.api.types.is_scalar(v) for v in present)
    is_category = isinstance(values.dtype, pd.CategoricalDtype)
    if nested or (holds_dates(values) and not is_category) or (is_numeric_text(values) and not is_category):
        raise TableError(not_numbers(values, column))
    if any(
        isinstance(v, complex | np.complexfloating | datetime.timedelta | np.timedelta64) for v in present
    ):
        raise TableError(not_numbers(values, column))
    return "binary" if present.nunique() == 2 else "categorical"


def read_as_missing(words: Iterable[str]) -> str:
    """What to write where a file's word for a class is one for what is missing; empty where there is none."""
    written = list(dict.fromkeys(word.strip() for word in words))
    if not written:
        return ""
    return (
        f" ({', '.join(map(repr, written[:4]))} in a file is read as missing: if it is a class, write "
        "another word for it there, or pass pandas.read_csv(FILE, keep_default_na=False, na_values=['']))"
    )


def _indicators(
    values: pd.Series, column: str, kind: Kind, bad: dict[int, str], words: Mapping[int, str], positive: Any
) -> Targets:
    missing = is_missing(values).to_numpy()
    for row in map(int, np.flatnonzero(missing)):
        written = f" (written {words[row]!r})" if row in words else ""
        bad.setdefault(row, f"target {column!r} is missing{written}")
    present = values[~missing]
    if any(not pd.api.types.is_scalar(v) for v in present):
        raise TableError(not_numbers(values, column))
    if isinstance(values.dtype, pd.CategoricalDtype):  # an order of its own
        labels = [c for c in values.cat.categories.tolist() if (present == c).any()]
    else:  # sorted as values, not as text, so that 2 stands before 10
        labels = sorted(set(present.tolist()), key=lambda v: (isinstance(v, str), v))
    _check_labels(labels, column)
    if len(labels) < 2:
        what = f"is constant: the only value is {labels[0]!r}" if labels else "has no value in any row"
        raise TableError(f"target {column!r} {what}{read_as_missing(words.values())}")
    if kind == "binary" and len(labels) != 2:
        raise TableError(f"kind='binary' needs two classes; {column!r} has {len(labels)}: {labels[:5]}")
    if positive is not None:
        labels = _with_last(labels, positive, kind, column)
    positions = {label: i for i, label in enumerate(labels)}
    codes = np.array([-1 if gone else positions[v] for v, gone in zip(values, missing, strict=True)])
    classes = tuple(_class_name(label) for label in labels)
    wanted = [1] if kind == "binary" else list(range(len(labels)))
    y = np.stack([(codes == i).astype(np.float64) for i in wanted], axis=1)
    y[missing] = np.nan
    names = (column,) if kind == "binary" else tuple(f"{column}={c}" for c in classes)
    return Targets(y, names, kind, classes)


def _with_last(labels: list[Any], positive: Any, kind: Kind, column: str) -> list[Any]:
    """Two classes, that which is to be class 1 in second place.

    Raises:
        TableError: There are several, or it is none of the two.
    """
    names = [_class_name(label) for label in labels]
    if kind != "binary":
        raise TableError(
            f"positive={brief(positive)}: {column!r} has {len(labels)} classes, none of which is class 1"
        )
    if _class_name(positive) not in names:
        raise TableError(
            f"positive={brief(positive)}: expected {names[0]!r} or {names[1]!r}, the classes of {column!r}"
        )
    return labels if names[1] == _class_name(positive) else labels[::-1]


def _class_name(label: Any) -> str:
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def read_split(values: pd.Series, column: str, bad: dict[int, str]) -> Bool[np.ndarray, " row"]:
    """A shipped split as it is: booleans, 0 and 1, or ``train`` and ``test``; True means test.

    Other values (``validation``) and missing ones are noted in ``bad``.
    """
    missing = is_missing(values).to_numpy()
    is_test = np.zeros(len(values), bool)
    for row, value in enumerate(values):
        word = _class_name(value).strip().lower()
        if missing[row]:
            bad.setdefault(row, f"split {column!r} is missing")
        elif word in TEST_WORDS:
            is_test[row] = True
        elif word not in TRAIN_WORDS:
            bad.setdefault(row, f"split {column!r} is {value!r}, neither train nor test")
    return is_test
