"""Figures whose text from outside is text: plotly takes tags, entities and formulas in any label for markup.

What a figure holds is escaped where it leaves for a page (`figure_json`): all but hover templates, which are
ours and take text from outside through `plain`, and what is marked as our own `Markup`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from graticule.hooks.messages import visible
from graticule.probes.plots.drawing import Figure

_OURS = ("hovertemplate", "texttemplate")
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;"}


class Markup(str):
    """A label with tags of ours (`<b>`, `<br>`); text from outside enters it through `plain`."""

    __slots__ = ()


def plain(value: object) -> str:
    """Text from outside as a part of a hover template or of `Markup`."""
    return _escaped(value).replace("%{", "&#37;{")


def figure_json(figure: Figure) -> str:
    """`figure` as JSON in which all text from outside is text."""
    from graticule.probes.plots.drawing import to_json

    spec = cast("dict[str, Any]", figure.to_dict())
    return str(to_json(_as_text(spec), validate=False))


def _as_text(value: Any) -> Any:
    if isinstance(value, Markup):
        return str(value)
    if isinstance(value, str):
        return _escaped(value)
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value).items()
        return {key: inner if key in _OURS else _as_text(inner) for key, inner in items}
    if isinstance(value, np.ndarray):
        return value if value.dtype.kind in "biufcmM" else _as_text(value.tolist())
    if isinstance(value, list | tuple):
        return [_as_text(inner) for inner in cast("list[Any]", value)]
    return value


def _escaped(value: object) -> str:
    return "".join(_ESCAPES.get(letter, letter) for letter in visible(value, lines=True))
