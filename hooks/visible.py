"""Text from outside as characters that can be seen: nothing in it moves a cursor, turns a line or hides."""

from __future__ import annotations

import unicodedata
from html import escape

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_JOINERS = "\u200c\u200d"


def visible(text: object, lines: bool = False) -> str:
    """`text` with control characters, marks of direction and zero-width characters as escapes (`\\x1b`).

    Joiners between letters that need them (Persian, Hindi, emoji) stay. With `lines`, line ends and tabs stay
    too; otherwise all white space is single spaces, and the text one line.
    """
    words = str(text)
    if not words.isprintable():
        words = "".join(_seen(words, i, lines) for i in range(len(words)))
    return words if lines else " ".join(words.split())


def _seen(text: str, place: int, lines: bool) -> str:
    letter = text[place]
    if letter.isprintable() or unicodedata.category(letter) not in _UNSEEN:
        return letter
    if letter in "\n\t":
        return letter if lines else " "
    if letter == "\r" and (not lines or text[place + 1 : place + 2] == "\n"):
        return "" if lines else " "
    if letter in _JOINERS and 0 < place < len(text) - 1:
        before, after = text[place - 1], text[place + 1]
        if not before.isascii() and not after.isascii() and before.isprintable() and after.isprintable():
            return letter
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")


def as_html(text: object) -> str:
    """`text` for a page: what can be seen of it, escaped; lines stay."""
    return escape(visible(text, lines=True))
