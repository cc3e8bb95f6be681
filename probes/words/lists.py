"""Lists of counterfactual word pairs and of parallel or ambiguous contexts: packaged, or read from files.

A list is a text file named `[a - b].txt` with one pair per line and a tab between, the layout of Park et al.
(2311.03658). The packaged lists are graticule's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from graticule.hooks.names import user_path
from graticule.hooks.streams.files import plain_lines

ARROW = " ⇒ "

PairLists = Mapping[str, Sequence[tuple[str, str]]]
"""Concept (`male ⇒ female`) → its pairs of words."""

_HERE = Path(__file__).parent
_ORDER = ("verb", "Ving", "3pSg", "adj", "noun", "male", "pronoun", "small", "thing", "country", "lower")


def pair_lists(given: PairLists | Path | str | None) -> PairLists:
    """The lists as given, those in a folder, or for None the packaged ones."""
    if given is None:
        return packaged_pairs()
    return read_pairs(given) if isinstance(given, str | Path) else given


def packaged_pairs() -> dict[str, tuple[tuple[str, str], ...]]:
    """The packaged lists: 30 concepts of 19 to 86 common words, word forms first and languages last."""

    def place(concept: str) -> int:
        first = concept.split(ARROW)[0]
        return _ORDER.index(first) if first in _ORDER else len(_ORDER) + (first[0].isupper())

    lists = read_pairs(_HERE / "pairs")
    return {concept: lists[concept] for concept in sorted(lists, key=place)}


def read_pairs(folder: Path | str) -> dict[str, tuple[tuple[str, str], ...]]:
    """Every `*.txt` of a folder as one concept, in the order of file names.

    `[male - female].txt` becomes `male ⇒ female`; other names are taken as they are. Empty lines and lines
    that begin with `#` are skipped, as are repeated pairs.

    Raises:
        FileNotFoundError: There is no such folder, or no list in it.
        ValueError: A line is not two words with a tab between; file and line are named.
    """
    folder = user_path(folder)
    files = sorted(folder.glob("*.txt")) if folder.is_dir() else []
    if not files:
        raise FileNotFoundError(f"{folder} holds no word lists: expected files such as '[male - female].txt'")
    return {_concept(file.stem): tuple(dict.fromkeys((a, b) for a, b in _fields(file, 2))) for file in files}


def _concept(stem: str) -> str:
    bracketed = stem.startswith("[") and stem.endswith("]") and " - " in stem
    return ARROW.join(stem[1:-1].split(" - ", 1)) if bracketed else stem


def _fields(file: Path, fields: int | None) -> list[list[str]]:
    """Tab-separated fields of non-empty lines, `fields` of them (None: as many as in the first)."""
    out: list[list[str]] = []
    for number, line in enumerate(plain_lines(file), 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = [part.strip() for part in line.split("\t")]
        fields = len(parts) if fields is None else fields
        if len(parts) != fields or not all(parts):
            raise ValueError(
                f"{file.name}, line {number}: {line!r} has {len(parts)} fields; expected {fields}, none of "
                f"them empty, with a tab between"
            )
        out.append(parts)
    if not out:
        raise ValueError(f"{file} is empty: expected one line a pair, with a tab between")
    return out


def parallel_contexts(path: Path | str | None = None) -> dict[str, tuple[str, ...]]:
    """Language → contexts, line by line the same sentence in each: the packaged 32, or a file of the user's.

    A file begins with a line of the languages' names; every further line holds one context per language,
    tabs between. Contexts should break off where the next token is a word.

    Raises:
        ValueError: There are fewer than two languages, a repeated name, or a line that is not complete.
    """
    file = _HERE / "contexts" / "parallel.txt" if path is None else user_path(path)
    names, *rows = _fields(file, None)
    if len(names) < 2 or len(set(names)) != len(names):
        raise ValueError(f"{file.name} begins with {names}: expected two or more different languages' names")
    if len(rows) < 2:
        raise ValueError(f"{file.name} has {len(rows)} lines of contexts; at least 2 are needed")
    return {name: tuple(row[i] for row in rows) for i, name in enumerate(names)}


@dataclass(frozen=True)
class ContextPair:
    """Two contexts that differ in a word and force different completions."""

    first: str
    """A context, up to just before the completing word."""
    second: str
    """The same context with another word."""
    first_word: str
    """What completes the first."""
    second_word: str
    """What completes the second."""


def ambiguous_contexts(path: Path | str | None = None) -> tuple[ContextPair, ...]:
    """Winograd-like pairs of contexts: the packaged 44, or a file of the user's.

    One line per pair: first context, second context, first completion, second completion, tabs between.

    Raises:
        ValueError: A line has another number of fields.
    """
    file = _HERE / "contexts" / "ambiguous.txt" if path is None else user_path(path)
    return tuple(ContextPair(*row) for row in _fields(file, 4))
