"""Tables as words: how a DataFrame's columns are aligned and its numbers written."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

MAX_ROWS = 500
"""Rows of a table laid out on a page; the rest are in the result's own files."""


@dataclass(frozen=True)
class TableView:
    """A table as the template needs it: text only, escaped by the template."""

    caption: str
    """The sentence over the table."""
    note: str
    """How many rows are left out, if any are."""
    columns: list[tuple[str, str]]
    """Heading and class (`number` or `words`) of each column."""
    rows: list[list[str]]
    """Cells, row by row."""


def table_view(table: pd.DataFrame, caption: str) -> TableView:
    """Format `table` for a page; an index of names becomes the first column."""
    if table.index.name is not None or not pd.api.types.is_integer_dtype(table.index):
        table = table.reset_index()
    shown = table.head(MAX_ROWS)
    columns = [
        (heading(name), "number" if _is_number(table.iloc[:, k]) else "words") for k, name in enumerate(table)
    ]
    cells = [column_words(shown.iloc[:, k]) for k in range(shown.shape[1])]
    note = f"The first {MAX_ROWS:,} of {len(table):,} rows." if len(table) > MAX_ROWS else ""
    return TableView(caption, note, columns, [list(row) for row in zip(*cells, strict=True)])


def heading(name: object) -> str:
    """A column's name for people: underscores as spaces."""
    return " ".join(map(str, name)) if isinstance(name, tuple) else str(name).replace("_", " ")


def _is_number(column: "pd.Series[Any]") -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def column_words(column: "pd.Series[Any]") -> list[str]:
    """A column's cells: one number of decimals for the whole column, so that the points line up."""
    write: Callable[[Any], str] = str
    if pd.api.types.is_bool_dtype(column):
        write = _yes_no
    elif _is_number(column):
        write = _number_format(column.dropna().to_numpy(np.float64))
    return ["–" if _missing(value) else write(value) for value in column.tolist()]


def _yes_no(value: Any) -> str:
    return "yes" if value else "no"


def _missing(value: Any) -> bool:
    return (
        value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value))
    )


def _number_format(values: np.ndarray) -> Callable[[Any], str]:
    """The format for a column: whole numbers, fixed decimals, or powers of ten where it needs them."""
    finite = values[np.isfinite(values)]
    if finite.size == 0 or bool((finite == np.round(finite)).all() and np.abs(finite).max() < 1e15):
        return lambda v: _sign(f"{v:.0f}")
    size, nonzero = float(np.abs(finite).max()), np.abs(finite[finite != 0])
    if size >= 1e7 or size < 1e-3 or float(np.median(nonzero)) < 1e-3:
        return lambda v: _sign(f"{v:.3g}")
    decimals = 3 if size < 10 else 2 if size < 1000 else 1
    return lambda v: _sign(f"{v:.{decimals}f}")


def _sign(text: str) -> str:
    """A true minus sign, as wide as a plus."""
    return text.replace("-", "−", 1) if text.startswith("-") else text
