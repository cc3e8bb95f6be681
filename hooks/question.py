"""What a saved result was asked: a folder that answers something else is not written over without a word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from graticule.hooks.artifact import ArtifactError, json_ready
from graticule.hooks.kinds import ForeignFolderError
from graticule.hooks.places import Place
from graticule.hooks.requests import differences, flat, told

if TYPE_CHECKING:
    from graticule.hooks.result import Result

_FIELDS = ("model", "table", "target_names", "classes", "split_note", "hook_name", "title")
_OF_INPUTS = (
    *("model", "table", "tables", "inputs", "prompt", "pos", "prepend_bos", "include_bos"),
    *("points", "saes", "corpus", "pairs", "contexts"),
)
"""Parts of a provenance that say what was asked; seeds, strengths and draws say how it was judged."""
_OF_THE_MOMENT = ("versions", "made_at", "captured_at", "saved_with", "seconds", "answer", "seed")


def question_of(result: Result) -> dict[str, Any]:
    """What a result was asked: its model, table, targets, and the inputs that its provenance names."""
    asked: dict[str, Any] = {}
    for name, value in _inputs(getattr(result, "provenance", None) or {}):
        asked.setdefault(name, value)  # the first is of the activations, others of what lies beside them
    for name in _FIELDS:
        if (value := getattr(result, name, None)) is not None:
            asked.setdefault(name, _named(name, value))
    return json_ready(asked)


def check_same_question(path: Place, now: Result, overwrite: bool) -> None:
    """Refuse to write a result over one that was asked something else.

    Args:
        path: the folder; what is no whole result of this kind is not looked at.
        now: what is to be saved.
        overwrite: whether it may take any result's place.

    Raises:
        ForeignFolderError: naming what differs.
    """
    if overwrite or not path.is_dir():
        return
    try:
        before = type(now).load(path if isinstance(path, Path) else str(path))
    except ArtifactError:  # missing, damaged or of another version: what it was asked cannot be told
        return
    if differing := now.differs_from(before):
        raise ForeignFolderError(
            f"{path} answers another question ({told(differing)}); choose another folder, or say "
            "overwrite=True"
        )


def check_beforehand(path: Path, kind: type[Result], **asked: Any) -> None:
    """Refuse, before long work, a folder that holds a result which was asked something else.

    Args:
        path: where the result will be saved; it may be missing.
        kind: the class of the result.
        asked: attributes of the result that are known by now, such as its model.

    Raises:
        ForeignFolderError: naming what differs.
    """
    if not path.is_dir():
        return
    try:
        before = kind.load(path)
    except ArtifactError:
        return
    for name, value in asked.items():
        if getattr(before, name) != value:
            raise ForeignFolderError(
                f"{path} answers another question ({name}: {getattr(before, name)} → {value}); choose "
                "another folder"
            )


def question_differences(before: Result, now: Result) -> list[str]:
    """`name: before → now` for what two results were asked, as far as both say it."""
    old, new = (dict(flat(question_of(one))) for one in (before, now))
    shared = [name for name in old if name in new]
    apart = differences({n: old[n] for n in shared}, {n: new[n] for n in shared})
    return [words for words in apart if not words.startswith("title: ")] or apart


def _inputs(provenance: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The parts that name inputs, wherever they lie."""
    for name, value in provenance.items():
        if name in _OF_INPUTS:
            yield name, _named(name, _lasting(value))
        elif isinstance(value, Mapping):
            yield from _inputs(cast("Mapping[str, Any]", value))


def _named(name: str, value: Any) -> Any:
    """A model's or table's name alone as a mapping, as provenances have them."""
    return {"name": value} if name in ("model", "table") and isinstance(value, str) else value


def _lasting(value: Any) -> Any:
    if isinstance(value, Mapping):
        held = cast("Mapping[str, Any]", value)
        return {name: _lasting(item) for name, item in held.items() if name not in _OF_THE_MOMENT}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_lasting(item) for item in cast("Sequence[Any]", value)]
    return value
