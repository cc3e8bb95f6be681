"""Numbers, names and tables as a card writes them: what comes from outside is text, whatever it holds.

Every name, word and setting of a model, table or file goes through `text` or `code`; what they return is one
line without markup, links or marks of comments.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape
from typing import Any

from graticule.hooks.messages import visible

_LINKS = re.compile(r"://|www\.|@|mailto:|javascript:|data:", re.IGNORECASE)
_MARKUP = re.compile(r"[\\`*\[\]{}#!~$^]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def text(value: object) -> str:
    """`value` as words that no reader of Markdown takes for more; as code where they would become a link."""
    words = visible(value)
    if _LINKS.search(words):
        return code(words)
    return _MARKUP.sub(r"\\\g<0>", escape(words, quote=False))


def code(value: object) -> str:
    """`value` as code on one line."""
    words = visible(value)
    if "\\|" in words or words.endswith("\\"):  # which a table takes apart before it sees the code
        return f"<code>{''.join(_entity(letter) for letter in words)}</code>"
    runs = [len(run) for run in re.findall("`+", words)]
    fence = "`" * next(n for n in range(1, len(runs) + 2) if n not in runs)
    pad = " " if not words or words[0] == "`" or words[-1] == "`" else ""
    return f"{fence}{pad}{words}{pad}{fence}" if words else "` `"


def _entity(letter: str) -> str:
    return letter if letter.isalnum() or letter in " .,-" else f"&#{ord(letter)};"


def is_number(value: Any) -> bool:
    """Whether `value` is a finite int or float, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any) -> str:
    """Whole numbers with thousands set apart, others to four figures, None as 'unknown', the rest as text."""
    if not is_number(value):
        return "unknown" if value is None else text(value)
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.4g}"


def setting(value: Any) -> str:
    """A setting: yes or no, a number, or text as code."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if is_number(value) else code(value)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, from cells that are Markdown on one line; what would break a cell is escaped."""
    clean = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in [list(head), ["---"] * len(head), *clean]]


def python(*lines: str) -> list[str]:
    """Lines of Python, fenced."""
    return ["```python", *lines, "```"]
