"""How a row of a table becomes the words that a model reads: the paper's rewritings, as pure functions.

Gurnee & Tegmark (arXiv 2310.02207) rewrite world places, works of art and places in New York before the
model sees them; without it the first layer already tells a world place's country from its last token
(R² .53 against .25). `raw` is the column as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd

from graticule.probes.tables.checks import need_column
from graticule.probes.tables.columns import TableError

_PARENTHESES = re.compile(r"\((.*?)\)")
SMALL_WORDS = frozenset({"AND", "OR", "OF", "THE", "A", "AT", "&", "IN", "TO"})
"""Words that the New York names have in lower case, wherever they stand."""
ABBREVIATIONS = frozenset({"FDNY", "NYCT", "YMCA", "LGA", "US", "NYC", "PS", "IS", "NYS", "UN", "NY", "EMS",
                           "JCC", "NYU", "CC", "NYPD", "NYPA", "DHS"})  # fmt: skip
"""Words that stay in capitals."""


def possessive_place(name: str) -> str:
    """ "X (Y)" as "Y's X", or else "A, B, C" as "C's A, B"; other names as they are.

    The first parenthesis counts, all are taken out, and white space at the ends is stripped (the paper's own
    strings end in a space there, which costs a token). A name with nothing on one side stays as it is.
    """
    if inner := _PARENTHESES.search(name):
        head, rest = inner.group(1).strip(), _PARENTHESES.sub("", name).strip()
    elif "," in name:
        rest, _, head = (part.strip() for part in name.rpartition(","))
    else:
        return name
    return f"{head}'s {rest}" if head and rest else name


def possessive_work(creator: str, title: str) -> str:
    """ "Stephen King's It"; after an s a bare apostrophe: "The Beatles' Help!"."""
    return f"{creator}{chr(39) if creator.endswith('s') else chr(39) + 's'} {title}"


def title_case_place(name: str) -> str:
    """ "CHURCH OF THE PS 1" as "Church of the PS 1": small words lower, abbreviations upper, runs of white
    space as one space."""
    return " ".join(_cased(word) for word in name.split())


def _cased(word: str) -> str:
    if word in SMALL_WORDS:
        return word.lower()
    return word if word in ABBREVIATIONS else word.capitalize()


@dataclass(frozen=True)
class EntityString:
    """A named way from a row to what the model reads."""

    columns: tuple[str, ...]
    """Columns that it needs, in the order of `make`'s arguments; none for the table's own text column."""
    make: Callable[..., str]
    """From the values of the columns to the string."""
    description: str
    """A line for the command line and the docs."""


ENTITY_STRINGS: Mapping[str, EntityString] = {
    "raw": EntityString((), str, "the text column as it stands"),
    "possessive_place": EntityString((), possessive_place, "X (Y) as Y's X, and A, B as B's A"),
    "possessive_work": EntityString(("creator", "title"), possessive_work, "creator's title"),
    "title_case_place": EntityString((), title_case_place, "NAME OF A PLACE as Name of a Place"),
}
"""Name → rewriting; any of them can be asked for on any table that has its columns."""


def entity_strings(frame: pd.DataFrame, text: str, how: str) -> list[str | None]:
    """What the model reads for every row of `frame`; None where a needed column is missing.

    Raises:
        TableError: There is no such way.
        ColumnError: A needed column is not there.
    """
    if how not in ENTITY_STRINGS:
        options = "; ".join(f"{name!r} ({e.description})" for name, e in ENTITY_STRINGS.items())
        raise TableError(f"no entity string {how!r}; there are {options}")
    option = ENTITY_STRINGS[how]
    columns = option.columns or (text,)
    for column in columns:
        need_column(frame, column, f"the entity string {how!r}")
    rows = zip(*(frame[column] for column in columns), strict=True)
    return [option.make(*map(str, row)) if not any(map(_gone, row)) else None for row in rows]


def _gone(value: object) -> bool:
    return value is None or (isinstance(value, float) and value != value) or not str(value).strip()
