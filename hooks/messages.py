"""What people see: text from outside made visible, names that were meant, bars for long work."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches
from html import escape
from os import PathLike
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_JOINERS = "\u200c\u200d"
_NOT_PLAIN = re.compile(r"[^ -~\n\t]")
_LINE_END = re.compile(r"\r\n")


def visible(text: object, lines: bool = False) -> str:
    """`text` with control characters, marks of direction and zero-width characters as escapes (`\\x1b`).

    Joiners between letters that need them (Persian, Hindi, emoji) stay. With `lines`, line ends and tabs stay
    too; otherwise all white space is single spaces, and the text one line.
    """
    words = (
        _LINE_END.sub("\n", str(text))
        if lines
        else " ".join(re.split(r"[ \t\r\n]+", str(text).strip(" \t\r\n")))
    )
    return words if words.isprintable() else _NOT_PLAIN.sub(_seen, words)


def as_html(text: object) -> str:
    """`text` for a page: what can be seen of it, escaped; lines stay."""
    return escape(visible(text, lines=True))


def half_character(text: str) -> str | None:
    """The first surrogate without its other half, or None: text that UTF-8 cannot write."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return text[error.start]
    return None


def check_whole(text: str, what: str) -> None:
    """Raises:
    ValueError: For a text with half a character, which no tokenizer reads.
    """
    if (half := half_character(text)) is not None:
        raise ValueError(
            f"{what} holds half a character ({half!r}), which no model can read: read its file as UTF-8, or "
            "take it out"
        )


def _seen(match: re.Match[str]) -> str:
    letter, text, place = match[0], match.string, match.start()
    if letter.isprintable() or unicodedata.category(letter) not in _UNSEEN:
        return letter
    if letter in _JOINERS and 0 < place < len(text) - 1:
        before, after = text[place - 1], text[place + 1]
        if not before.isascii() and not after.isascii() and before.isprintable() and after.isprintable():
            return letter
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")


def came(value: Any) -> str:
    """A value for people: short words and paths whole, anything else by its class."""
    if isinstance(value, str | PathLike):
        text = repr(str(value))
        return text if len(text) <= 60 else f"{text[:50]}…' ({len(text) - 2:,} characters)"
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    return f"a {type(value).__name__}"


def brief(value: Any) -> str:
    """A value as it is written where that is short and one line, else as `came` has it."""
    if isinstance(value, list | tuple | dict | set | frozenset) and len(value) > 20:
        return came(value)
    text = repr(value)
    return came(value) if len(text) > 60 or "\n" in text or " at 0x" in text else text


class UnknownNameError(KeyError):
    """A name that is none of those there are; its message is a sentence, not a key in quotes."""

    def __str__(self) -> str:
        return str(self.args[0])


def did_you_mean(word: object, names: Iterable[str]) -> str:
    """The name that a word is nearest to: `; did you mean 'verdict'?`; empty where none is near."""
    near = get_close_matches(str(word), list(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


class TellsNames:
    """A class whose missing attributes name the nearest that there is."""

    if not TYPE_CHECKING:  # a checker would take every attribute for one that is there

        def __getattr__(self, name: str) -> Any:
            if not name.startswith("_") and hasattr(type(self), name):
                return object.__getattribute__(
                    self, name
                )  # a property failed: its own error is the one to see
            message = f"{type(self).__name__!r} object has no attribute {name!r}"
            if not name.startswith("_"):
                message += did_you_mean(name, (one for one in dir(self) if not one.startswith("_")))
            raise AttributeError(message, name=name, obj=self)


class NotApplicable(ValueError):
    """An analysis asks something that this table, model or point has no answer to; the message says why.

    A study tells the reason and goes on. Any other error is a failure, and told as one.
    """


PATIENCE = 3.0
"""Seconds of work before a bar that nobody asked for appears."""
EVERY = 0.1
"""Seconds between two drawings of a bar, at least."""


def bar(total: int, what: str, unit: str, progress: bool | None) -> Any:
    """A bar of `total` units on standard error, gone once the work is done; use it in a `with`.

    Args:
        total: how many units the work has; each is a second or less where that can be.
        what: the work, before the bar.
        unit: what is counted.
        progress: True for a bar at once, False for none; None for one as soon as the work has taken
            `PATIENCE` seconds, however little it looked beforehand.

    Returns:
        A tqdm bar, which says how much is done and about how long the rest will take.
    """
    return tqdm(
        total=total,
        desc=what,
        unit=unit,
        disable=progress is False,
        leave=False,
        delay=0.0 if progress else PATIENCE,
        mininterval=EVERY,
        miniters=1,
    )
