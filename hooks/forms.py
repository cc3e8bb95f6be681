"""What an option may be, read off its annotation: a value of none of its kinds is refused in one line.

`int`, `float`, `str`, literals, sequences, mappings, pairs, classes and unions of them are judged. Points,
positions and layers are judged where they are read, and whatever else an annotation says is taken.
"""

from __future__ import annotations

import builtins
import collections.abc
import pathlib
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any

import numpy as np
import torch

from graticule.hooks.messages import brief

_ELSEWHERE = (
    "PointSpec LayerSpec PointKey Inputs Target Rows Lengths By Say Place PairLists StepNames Units "
    "ContextPair Name Pushed Truth"
)
"""Names of annotations whose values are judged where they are read."""
_POSITIONS = ("Pos", "RowPos", "Span")
"""Those of positions, of which arrays alone are refused here."""
_OURS = ("Findings", "RidgeProbe", "Outcome", "Prompt", "Settings", "Optimisation")
"""Classes of other rooms that are known by their names."""


@dataclass(frozen=True)
class OptionForm:
    """One kind of value, or several."""

    words: str
    """For people: `a whole number`."""
    fits: Callable[[Any], bool]
    """Whether a value is one."""
    several: bool = False
    """Whether it is several values, or may be."""
    number: bool = False
    """Whether it is one number, or may be."""


def _is_sequence(value: Any) -> bool:
    if isinstance(value, str | bytes | Mapping) or hasattr(value, "columns"):
        return False
    return (hasattr(value, "__len__") and hasattr(value, "__iter__")) and getattr(value, "ndim", 1) > 0


_PLAIN: Mapping[Any, OptionForm] = {
    NoneType: OptionForm("None", lambda v: v is None),
    str: OptionForm("text", lambda v: isinstance(v, str)),
    bool: OptionForm(
        "True or False", lambda v: isinstance(v, bool | np.bool_) or (_is(v, Integral) and v in (0, 1))
    ),
    int: OptionForm("a whole number", lambda v: _is(v, Integral), number=True),
    float: OptionForm("a number", lambda v: _is(v, Real), number=True),
    torch.dtype: OptionForm("a torch.dtype", lambda v: isinstance(v, torch.dtype)),
    torch.device: OptionForm("a torch.device", lambda v: isinstance(v, torch.device)),
    np.ndarray: OptionForm("an array", lambda v: hasattr(v, "shape") and not hasattr(v, "columns")),
    pathlib.Path: OptionForm("a path", lambda v: hasattr(v, "__fspath__") or hasattr(v, "joinpath")),
}
_POSITION = OptionForm(
    "'last', 'all', an index such as -1, or a slice",
    lambda v: isinstance(v, np.integer) or not hasattr(v, "__array__"),
    number=True,
)
_SEQUENCES = (collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection, list)


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool | np.bool_)


class _Names(dict[str, Any]):
    """The names that an annotation is read with; one that nobody knows stands for anything."""

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            return getattr(builtins, name)
        return type(name, (), {"__module__": "graticule"}) if name in _OURS else Any


_KNOWN = {
    **{name: getattr(collections.abc, name) for name in ("Callable", "Iterable", "Mapping", "Sequence")},
    **{name: getattr(typing, name) for name in ("Any", "Literal")},
    "Path": pathlib.Path,
}


def forms(annotation: Any, module: Mapping[str, Any]) -> OptionForm | None:
    """What an argument with this annotation may be, or None where it may be anything.

    Args:
        annotation: A type, or one as it is written.
        module: The names of the module where it stands.
    """
    if isinstance(annotation, str):
        if set(_POSITIONS) & set(annotation.split(" | ")):
            return _POSITION
        names = _Names({**_KNOWN, **module, **dict.fromkeys(_ELSEWHERE.split(), Any)})
        try:
            annotation = eval(annotation, {"__builtins__": {}}, names)
        except (TypeError, AttributeError):
            return None
    return _form(annotation)


def _form(hint: Any) -> OptionForm | None:
    """The form of a type; None for one of which everything is taken."""
    hint = NoneType if hint is None else hint
    if hint in _PLAIN:
        return _PLAIN[hint]
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        words = [one for one in inner if typing.get_origin(one) is typing.Literal]
        values = tuple(value for one in words for value in typing.get_args(one))
        literal = [typing.Literal[values]] if values else []  # one list of several
        return _any_of([_form(one) for one in (*literal, *(one for one in inner if one not in words))])
    if origin is typing.Literal:
        kinds = tuple({type(one) for one in inner})
        return OptionForm(_listed([repr(one) for one in inner]), lambda v: type(v) in kinds and v in inner)
    if origin in _SEQUENCES:
        return _several(_form(inner[0]))
    if origin is collections.abc.Mapping:
        return _mapping(_form(inner[1]))
    if origin is tuple and inner and inner[-1] is not Ellipsis:
        return _tuple([_form(one) for one in inner])
    if hasattr(hint, "array_type"):  # of jaxtyping
        return _PLAIN[np.ndarray]
    if isinstance(hint, type) and hint.__module__.split(".")[0] == "graticule" and not _is_protocol(hint):
        name = hint.__name__
        return OptionForm(name, lambda v: any(c.__name__ == name for c in type(v).__mro__))
    return None


def _is_protocol(hint: type) -> bool:
    return bool(getattr(hint, "_is_protocol", False))


def _listed(words: list[str]) -> str:
    *others, last = dict.fromkeys(words)
    return f"{', '.join(others)} or {last}" if others else last


def _any_of(members: list[OptionForm | None]) -> OptionForm | None:
    if any(one is None for one in members):
        return None
    kinds = [one for one in members if one is not None]
    return OptionForm(
        _listed([one.words for one in kinds]),
        lambda v: any(one.fits(v) for one in kinds),
        any(one.several for one in kinds),
        any(one.number for one in kinds),
    )


_PLURAL = {"text": "texts", "a whole number": "whole numbers", "a number": "numbers"}


def _several(entry: OptionForm | None) -> OptionForm:
    if entry is None:
        return OptionForm("several", _is_sequence, several=True)
    of = _PLURAL.get(entry.words, f"of {entry.words}")
    return OptionForm(
        f"several {of}",
        lambda v: _is_sequence(v) and all(entry.fits(one) for one in v),
        several=True,
    )


def _mapping(entry: OptionForm | None) -> OptionForm:
    what = "a mapping" if entry is None else f"a mapping to {entry.words}"
    return OptionForm(
        what,
        lambda v: isinstance(v, Mapping) and (entry is None or all(map(entry.fits, v.values()))),
        several=True,
    )


def _tuple(parts: list[OptionForm | None]) -> OptionForm:
    def fits(value: Any) -> bool:
        if not isinstance(value, tuple | list | np.ndarray) or len(value) != len(parts):
            return False
        return all(part is None or part.fits(one) for part, one in zip(parts, value, strict=True))

    words = ", ".join("anything" if part is None else part.words for part in parts)
    return OptionForm(f"({words})", fits, several=True)


def check_form(argument: str, value: Any, form: OptionForm) -> None:
    """Raises:
    WrongKindError: For a value of another kind; the message is one line.
    """
    if form.fits(value):
        return
    several, name = form.words.removesuffix(" or None"), argument.rpartition(" ")[2]
    if form.several and isinstance(value, Iterator):
        several = several.replace("several ", "a list of ", 1)
        raise WrongKindError(f"{argument}={brief(value)}: expected {several}: list({name})")
    if several == "several texts" and isinstance(value, str):
        raise WrongKindError(
            f"{argument} is {brief(value)}; expected a list of texts, {name}=[{brief(value)}]"
        )
    if form.several and several.startswith("several ") and form.fits([value]):
        raise WrongKindError(f"{argument}={brief(value)}: expected {several}, {name}=[{brief(value)}]")
    raise WrongKindError(f"{argument}={brief(value)}: expected {form.words}")


class WrongKindError(TypeError, ValueError):
    """A value of a kind that an argument does not take; the message says which it takes."""


def plain_number(value: Any) -> Any:
    """A number of Python in place of numpy's or torch's own, and of an array without dimensions."""
    if isinstance(value, np.generic | np.ndarray | torch.Tensor) and value.ndim == 0:
        return value.item()
    return value
