"""Names that are not there: what a word was meant to be, in one line, wherever a name is looked up."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any


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
            said = f"{type(self).__name__!r} object has no attribute {name!r}"
            if not name.startswith("_"):
                said += did_you_mean(name, (one for one in dir(self) if not one.startswith("_")))
            raise AttributeError(said, name=name, obj=self)
