"""Columns of a table read as numbers, with units, and with a reason for every row that cannot be used."""

from __future__ import annotations

import datetime
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from graticule.hooks.messages import brief

Kind = Literal["numeric", "binary", "categorical"]
Units = str | Sequence[str | None] | Mapping[Any, str] | None
"""One unit for each target, or by target."""
TRAIN_WORDS, TEST_WORDS = ("train", "training", "false", "0"), ("test", "testing", "true", "1")
LIMITS = {"lat": 90.0, "lon": 360.0}
"""Unit → degrees that a place cannot be beyond."""
MEASURED = (*LIMITS, "year")
"""Units that say how a target is judged and drawn: degrees on the globe, years without separators."""
_MEANT = {
    "latitude": "lat", "longitude": "lon", "long": "lon", "lng": "lon",
    **{unit: unit for unit in MEASURED},
}  # fmt: skip
_PLAIN_WORDS = """
g kg mg t lb oz u m km cm mm nm mi ft in yd yard yards ly pc s ms min h hr d day days week weeks
month months years yr k c f hz khz mhz ghz w kw mw j kj ev n pa kpa hpa bar atm v a mol cd l ml
ha eur usd gbp people persons pages views words tokens points degrees degree deg rad percent
ratio rank score count unit units item items meter meters metre metres kilometer kilometers
kilometre kilometres mile miles gram grams kilogram kilograms second seconds minute minutes hour
hours kelvin celsius fahrenheit dollar dollars euro euros decade decades century centuries
"""
_PLAIN = frozenset(_PLAIN_WORDS.split())
_MOSTLY = 0.5
_STEPS = 100  # of float64 at a value's size, that a target varies by at least
_DATE = re.compile(r"\d{4}-\d{1,2}(-\d{1,2})?([T ]\d{1,2}:\d{2}.*)?|\d{1,2}[./]\d{1,2}[./]\d{2,4}( .*)?")
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


RANK = "rank"
"""The unit of a target that is its rank among the training rows."""


def with_grades(frame: pd.DataFrame, targets: Sequence[str], units: Units) -> pd.DataFrame:
    """A frame whose target columns are numbers in order: of categories with an order, their places in it.

    Raises:
        TableError: Units are given, which ranks do not have, or a target has no order.
    """
    if units is not None:
        raise TableError(f"units={brief(units)}: ranks have none; leave units out with kind='ordinal'")
    frame = frame.copy()
    for column in targets:
        values = frame[column]
        if isinstance(values.dtype, pd.CategoricalDtype):
            if not values.cat.ordered:
                raise TableError(
                    f"kind='ordinal': the categories of {column!r} have no order; give one, "
                    f"df[{column!r}].cat.as_ordered()"
                )
            frame[column] = values.cat.codes.astype(float).where(values.notna())
        elif _numbers(values) is None:
            raise TableError(
                f"kind='ordinal': {column!r} holds no numbers; write them, or an ordered pandas.Categorical"
            )
    return frame


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
    parts = [_numbers(frame[column]) for column in columns]
    if kind in (None, "numeric"):
        parts = [
            _with_typos(frame[column], column, bad) if part is None else part
            for column, part in zip(columns, parts, strict=True)
        ]
    if len(columns) > 1 or kind == "numeric":
        for column, values in zip(columns, parts, strict=True):
            if values is None:
                raise TableError(_not_numbers(frame[column], column))
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


def _numbers(values: pd.Series) -> np.ndarray | None:
    if pd.api.types.is_bool_dtype(values.dtype) or pd.api.types.is_numeric_dtype(values.dtype):
        if pd.api.types.is_complex_dtype(values.dtype):
            return None
        return values.to_numpy(dtype=np.float64, na_value=np.nan)
    if values.dtype != object:
        return None
    present = values[~_missing(values)]
    if len(present) and all(_is_real(v) for v in present):
        return values.where(~_missing(values), np.nan).astype(np.float64).to_numpy()
    return None


def _is_real(value: object) -> bool:
    complex_too = isinstance(value, np.complexfloating)  # which is one of numpy's numbers
    return isinstance(value, Decimal | int | float | np.number | np.bool_) and not complex_too


def _with_typos(values: pd.Series, column: str, bad: dict[int, str]) -> np.ndarray | None:
    """Numbers of a column most of whose entries are numbers, the others noted in ``bad``; else None."""
    if values.dtype != object and not pd.api.types.is_string_dtype(values.dtype):
        return None
    words = values[~_missing(values)]
    if not len(words) or not all(isinstance(v, str | int | float | np.number) for v in words):
        return None
    numbers = pd.to_numeric(words.map(lambda v: v.strip() if isinstance(v, str) else v), errors="coerce")
    share = float(numbers.notna().mean())
    if share < _MOSTLY or share == 1.0:
        return None
    place = {label: row for row, label in enumerate(values.index)}
    for label, value in words[numbers.isna()].items():
        bad.setdefault(
            place[label],
            f"target {column!r} is {value!r}, where {share:.0%} are numbers (kind='categorical' if these are "
            "labels)",
        )
    return numbers.reindex(values.index).to_numpy(dtype=np.float64)


def _missing(values: pd.Series) -> pd.Series:
    # pd.isna of a nested value is an array, so ask each one whether it is a scalar first
    if values.dtype == object:
        return values.map(lambda v: bool(pd.api.types.is_scalar(v) and pd.isna(v))).astype(bool)
    return values.isna()


def _not_numbers(values: pd.Series, column: str) -> str:
    """What a target holds that is no numbers, and what to do."""
    example = next(iter(values[~_missing(values)]), None)
    cases = (
        (
            _is_numeric_text(values),
            f"numbers as text (e.g. {example!r}): convert it with pandas.to_numeric(df[{column!r}]), or pass "
            "kind='categorical' if these are labels",
        ),
        (
            holds_dates(values),
            f"dates (e.g. {example}): convert them to numbers, e.g. years, "
            f"pandas.to_datetime(df[{column!r}]).dt.year",
        ),
        (
            isinstance(example, datetime.timedelta | np.timedelta64),
            f"durations (e.g. {example}): convert them to numbers, e.g. "
            f"pandas.to_timedelta(df[{column!r}]).dt.total_seconds()",
        ),
        (
            isinstance(example, complex | np.complexfloating),
            f"complex numbers (e.g. {example}): give their real and imaginary parts as two targets",
        ),
        (
            example is not None and not pd.api.types.is_scalar(example),
            f"{type(example).__name__} values: give one number a row in each column",
        ),
    )
    for applies, what in cases:
        if applies:
            return f"target {column!r} holds {what}"
    return f"target {column!r} is not numeric (e.g. {example!r}): several targets must all be numbers"


def _is_numeric_text(values: pd.Series) -> bool:
    present = values[~_missing(values)]
    if not len(present) or not all(isinstance(v, str) for v in present):
        return False
    return bool(pd.to_numeric(present.str.strip(), errors="coerce").notna().all())


def holds_dates(values: pd.Series) -> bool:
    """Whether all entries are dates, or words that are written like them."""
    if pd.api.types.is_datetime64_any_dtype(values.dtype) or isinstance(values.dtype, pd.PeriodDtype):
        return True
    entries = values[~_missing(values)]
    if not len(entries):
        return False
    if all(isinstance(v, datetime.date | pd.Period) for v in entries):
        return True
    return all(isinstance(v, str) and _DATE.fullmatch(v.strip()) for v in entries)


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
    """Warn of labels that are one word but for capitals, blanks or their type, and so stand apart."""
    words = [_class_name(label).strip().lower() for label in labels]
    several = Counter(words)
    if len(several) < len(words):
        alike = [label for label, word in zip(labels, words, strict=True) if several[word] > 1]
        logger.warning("%s %s differ in capitals, blanks or type alone", what, alike[:4])


def _infer(values: pd.Series, numbers: np.ndarray | None, column: str) -> Kind:
    if numbers is not None:
        distinct = np.unique(numbers[np.isfinite(numbers)])
        return "binary" if len(distinct) == 2 and set(distinct) == {0.0, 1.0} else "numeric"
    present = values[~_missing(values)]
    nested = len(present) > 0 and not all(pd.api.types.is_scalar(v) for v in present)
    is_category = isinstance(values.dtype, pd.CategoricalDtype)
    if nested or (holds_dates(values) and not is_category) or (_is_numeric_text(values) and not is_category):
        raise TableError(_not_numbers(values, column))
    if any(
        isinstance(v, complex | np.complexfloating | datetime.timedelta | np.timedelta64) for v in present
    ):
        raise TableError(_not_numbers(values, column))
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
    missing = _missing(values).to_numpy()
    for row in map(int, np.flatnonzero(missing)):
        written = f" (written {words[row]!r})" if row in words else ""
        bad.setdefault(row, f"target {column!r} is missing{written}")
    present = values[~missing]
    if any(not pd.api.types.is_scalar(v) for v in present):
        raise TableError(_not_numbers(values, column))
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


def read_units(
    units: Units,
    targets: Sequence[str],
    names: Sequence[str],
    kind: str,
) -> tuple[str | None, ...]:
    """One unit per column of y (`names`), from one for each target or by target; empty ones are None.

    Raises:
        TableError: They do not fit the targets, the targets are classes, or one is nearly a unit that is
            measured by.
    """
    if units is None:
        return (None,) * len(names)
    if isinstance(units, Mapping):
        units = {str(key): unit for key, unit in units.items()}
        unknown = [key for key in units if key not in targets]
        if unknown:
            raise TableError(f"units for {unknown}, which are no targets; targets: {list(targets)}")
        given: tuple[Any, ...] = tuple(units.get(target) for target in targets)
    elif not isinstance(units, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TableError(f"units={brief(units)}: expected a unit, or one for each target, units=['km', None]")
    else:
        given = (units,) if isinstance(units, str) else tuple(units)
    if len(given) != len(targets):
        raise TableError(
            f"{len(given)} units {given} for {len(targets)} targets {list(targets)}: one for each"
        )
    checked = tuple(check_unit(unit, target) for unit, target in zip(given, targets, strict=True))
    if kind == "numeric":
        return checked
    for unit, target in zip(checked, targets, strict=True):
        if unit is not None:
            raise TableError(
                f"target {target!r} has the unit {unit!r} and holds classes ({kind}), which have none: leave "
                "the unit out, or name a column of numbers"
            )
    return (None,) * len(names)


def check_unit(unit: Any, target: str) -> str | None:
    """A unit as given, None for none; TableError if it is no text, or nearly one of `MEASURED`."""
    if unit is None or unit == "":
        return None
    if not isinstance(unit, str):
        raise TableError(
            f"target {target!r} has the unit {brief(unit)}: expected a word, 'lat', 'lon', 'year', 'kg'"
        )
    word = unit.strip().lower()
    if unit in MEASURED or word in _PLAIN or not word.isalpha():
        return unit
    near = get_close_matches(word, _MEANT, n=1, cutoff=0.75)
    if near:
        raise TableError(f"target {target!r} has the unit {unit!r}: did you mean {_MEANT[near[0]]!r}?")
    logger.warning(
        "target %r has the unit %r, which is written on axes and changes nothing else; lat, lon and year do",
        target,
        unit,
    )
    return unit


def read_split(values: pd.Series, column: str, bad: dict[int, str]) -> Bool[np.ndarray, " row"]:
    """A shipped split as it is: booleans, 0 and 1, or ``train`` and ``test``; True means test.

    Other values (``validation``) and missing ones are noted in ``bad``.
    """
    missing = _missing(values).to_numpy()
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
