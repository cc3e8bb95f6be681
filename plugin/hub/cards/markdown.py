"""Numbers and tables as a card writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def is_number(value: Any) -> bool:
    """Whether `value` is a finite int or float, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any) -> str:
    """Whole numbers with thousands set apart, others to four figures, None as 'unknown', the rest as text."""
    if not is_number(value):
        return "unknown" if value is None else str(value)
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.4g}"


def said(value: Any) -> str:
    """A setting: yes or no, a number, or text as code."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if is_number(value) else f"`{value}`"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table; what would break a line or a cell is escaped."""
    clean = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in [list(head), ["---"] * len(head), *clean]]


def python(*lines: str) -> list[str]:
    """Lines of Python, fenced."""
    return ["```python", *lines, "```"]
