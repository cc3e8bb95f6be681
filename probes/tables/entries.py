"""What the entries of a column are: numbers, numbers as text, dates, or missing."""

from __future__ import annotations

import datetime
import re
from decimal import Decimal

import numpy as np
import pandas as pd

_MOSTLY = 0.5
_DATE = re.compile(r"\d{4}-\d{1,2}(-\d{1,2})?([T ]\d{1,2}:\d{2}.*)?|\d{1,2}[./]\d{1,2}[./]\d{2,4}( .*)?")


def numbers_of(values: pd.Series) -> np.ndarray | None:
    """The entries as numbers, NaN where missing; None where they are none."""
    if pd.api.types.is_bool_dtype(values.dtype) or pd.api.types.is_numeric_dtype(values.dtype):
        if pd.api.types.is_complex_dtype(values.dtype):
            return None
        return values.to_numpy(dtype=np.float64, na_value=np.nan)
    if values.dtype != object:
        return None
    present = values[~is_missing(values)]
    if len(present) and all(_is_real(v) for v in present):
        return values.where(~is_missing(values), np.nan).astype(np.float64).to_numpy()
    return None


def _is_real(value: object) -> bool:
    complex_too = isinstance(value, np.complexfloating)  # which is one of numpy's numbers
    return isinstance(value, Decimal | int | float | np.number | np.bool_) and not complex_too


def with_typos(values: pd.Series, column: str, bad: dict[int, str]) -> np.ndarray | None:
    """Numbers of a column most of whose entries are numbers, the others noted in ``bad``; else None."""
    if values.dtype != object and not pd.api.types.is_string_dtype(values.dtype):
        return None
    words = values[~is_missing(values)]
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


def is_missing(values: pd.Series) -> pd.Series:
    """Whether each entry is missing; a nested one, of which pandas asks every part, is not."""
    if values.dtype == object:
        return values.map(lambda v: bool(pd.api.types.is_scalar(v) and pd.isna(v))).astype(bool)
    return values.isna()


def not_numbers(values: pd.Series, column: str) -> str:
    """What a target holds that is no numbers, and what to do."""
    example = next(iter(values[~is_missing(values)]), None)
    cases = (
        (
            is_numeric_text(values),
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


def is_numeric_text(values: pd.Series) -> bool:
    """Whether all entries are numbers written as text."""
    present = values[~is_missing(values)]
    if not len(present) or not all(isinstance(v, str) for v in present):
        return False
    return bool(pd.to_numeric(present.str.strip(), errors="coerce").notna().all())


def holds_dates(values: pd.Series) -> bool:
    """Whether all entries are dates, or words that are written like them."""
    if pd.api.types.is_datetime64_any_dtype(values.dtype) or isinstance(values.dtype, pd.PeriodDtype):
        return True
    entries = values[~is_missing(values)]
    if not len(entries):
        return False
    if all(isinstance(v, datetime.date | pd.Period) for v in entries):
        return True
    return all(isinstance(v, str) and _DATE.fullmatch(v.strip()) for v in entries)
