"""The one shape of a result: what a terminal, a page and a Hub card need of it, whatever was measured.

A folder that answers another question is not written over without a word.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import pandas as pd

from graticule.hooks.artifact import ArtifactError, json_ready
from graticule.hooks.kinds import ForeignFolderError, differences, flat, listing
from graticule.hooks.messages import TellsNames, as_html, visible
from graticule.hooks.names import place_of
from graticule.hooks.places import Place

if TYPE_CHECKING:
    from typing import Self

    from plotly.graph_objects import Figure


Part = tuple[Literal["figure", "table"], str]
"""A part of a page: a figure or a table, by its caption."""

PAGE_RENDERER = "graticule.report:write_page"
"""Where pages are laid out: a string, resolved on use, because imports point down and the page is up."""


DECIMALS = "decimals"
"""In a table's attrs: column → decimals."""

_NONE = object()
_LINES = 8
"""Of a result shown by its name."""


def _renderer() -> Callable[..., Place]:
    module, name = PAGE_RENDERER.split(":")
    return getattr(import_module(module), name)


def _table_html(table: pd.DataFrame) -> str:
    """A table for a notebook, its index left out; headings and cells are text."""

    def seen(value: Any) -> Any:
        return visible(value) if isinstance(value, str) else value

    return table.rename(columns=seen).map(seen).to_html(index=False, float_format="{:.3f}".format)


def _parts(kind: Literal["figure", "table"], captions: Sequence[str]) -> list[Part]:
    return [(kind, caption) for caption in captions]


def headed(table: pd.DataFrame, headings: Mapping[str, str]) -> pd.DataFrame:
    """The columns that `headings` name, in their order, under the headings that people read."""
    return table[list(headings)].rename(columns=dict(headings)).reset_index(drop=True)


def with_decimals(table: pd.DataFrame, columns: Iterable[str], decimals: int = 3) -> pd.DataFrame:
    """The same table, whose columns of scores a page writes with fixed decimals, however small they are."""
    table.attrs[DECIMALS] = dict.fromkeys(columns, decimals)
    return table


class Result(TellsNames, ABC):
    """A finding that can be said in a few lines, drawn, tabulated, written to JSON, saved and loaded.

    A new analysis is a new subclass; nothing that prints, draws or publishes results changes for it.
    """

    def __init_subclass__(cls, **settings: Any) -> None:
        """Every result is shown in a few lines, dataclasses too, which would write out all their fields."""
        super().__init_subclass__(**settings)
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = Result.__repr__

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__}: {self.title}", *self.summary().splitlines()]
        more = (
            [f"… {len(lines) - _LINES + 1} lines more: print(result.summary())"]
            if len(lines) > _LINES
            else []
        )
        return visible("\n".join([*lines[: _LINES - len(more)], *more]), lines=True)

    @property
    @abstractmethod
    def title(self) -> str:
        """What was measured, as a page's heading."""

    @abstractmethod
    def summary(self) -> str:
        """A few lines for a terminal; the first is the verdict."""

    @property
    def in_banner(self) -> int:
        """How many lines of the summary stand in a page's banner."""
        return 1

    @abstractmethod
    def figures(self) -> dict[str, Figure]:
        """Caption → plotly figure, in page order."""

    @abstractmethod
    def tables(self) -> dict[str, pd.DataFrame]:
        """Caption → table, in page order."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The whole result in JSON's own types; tables by row are left to Parquet."""

    @abstractmethod
    def save(self, path: Path | str, *, overwrite: bool = False) -> Place:
        """Write the result as a folder, in place of an earlier answer to the same question.

        Args:
            path: The folder, or its url on a file system of fsspec.
            overwrite: Whether it may take the place of an answer to another question too.

        Returns:
            Where it is.

        Raises:
            FileExistsError: `path` holds something else, or an answer to another question.
        """

    @classmethod
    @abstractmethod
    def load(cls, path: Path | str) -> Self:
        """Read a result that `save` wrote.

        Raises:
            ArtifactError: If the folder is missing, incomplete, damaged or of another schema.
        """

    def asked(self) -> dict[str, Any]:
        """What it was asked beside its provenance and the fields that name it; nothing by default."""
        return {}

    def differs_from(self, before: Any) -> list[str]:
        """`name: before → now` for what two results were asked; nothing where the question is the same."""
        return question_differences(before, self)

    def layout(self, figures: Sequence[str], tables: Sequence[str]) -> list[Part]:
        """The order of parts on a page, by their captions: figures, then tables, unless a subclass knows
        better."""
        return [*_parts("figure", figures), *_parts("table", tables)]

    @staticmethod
    def figure_then_table(figures: Sequence[str], tables: Sequence[str]) -> list[Part]:
        """A layout: the first figure, the table behind it, then the rest."""
        drawn, tabulated = _parts("figure", figures), _parts("table", tables)
        return [drawn[0], tabulated[0], *drawn[1:], *tabulated[1:]]

    def report(self, path: Path | str) -> Place:
        """Write one self-contained HTML page with this result on it, by its path or url; returns where."""
        return _renderer()(self, place_of(path))

    def _repr_html_(self) -> str:
        """For a notebook: the summary, then the tables that fit on a screen."""
        parts = [f"<h4>{as_html(self.title)}</h4><pre>{as_html(self.summary())}</pre>"]
        for caption, table in self.tables().items():
            parts.append(f"<p>{as_html(caption)}</p>{_table_html(table.head(20))}")
        # notebooks take dollars for formulas, which may hold links, except in this class
        return f'<div class="tex2jax_ignore mathjax_ignore">{"".join(parts)}</div>'


_FIELDS = (
    *("model", "table", "target_names", "classes", "split_note", "hook_name", "title", "name", "data"),
    *("point", "points", "chosen", "layers", "what", "unit", "by", "column", "text", "block", "select"),
    *("prompts", "reference", "outcomes", "span", "erased", "concepts", "metrics", "pairs", "a", "b"),
)
"""Fields that are asked for, wherever they are no tables: what they say is never an answer."""
_OF_INPUTS = (
    *("model", "table", "tables", "inputs", "prompt", "pos", "prepend_bos", "include_bos"),
    *("points", "sae", "saes", "corpus", "pairs", "contexts"),
)
"""Parts of a provenance that name inputs: what earlier versions did not say of one is passed over."""
_MAPPINGS = ("prompts", "captured", "plan")
"""Settings by name, which are the same only where all their entries are."""
_JUDGED = (
    *("draws", "n_bootstrap", "seed", "seeds", "min_gain", "alphas", "twins", "controls", "rotations"),
    *("permutations", "repeats", "strengths", "ridge_strengths", "string_alphas", "gains", "n_random"),
)
"""Settings that say how an answer was judged, or how finely: another judgement may take its place."""
_PASSING = (
    *("pairing", "fingerprint", "request", "findings_point", "refitted_for_want_of_digits", "route"),
    *("baselines_on_trust", "neurons_chosen_on", "processor", "captured_by"),
)
"""Parts of a provenance that came of the others."""
_OF_THE_MOMENT = ("versions", "made_at", "captured_at", "saved_with", "seconds", "answer", "seed")


def captured_as(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Which tokens findings were made of, for the provenance of what goes on from them: `captured`.

    Args:
        provenance: Of the findings.
    """
    names = ("inputs", "prompt", "pos", "prepend_bos", "include_bos")
    activations: Mapping[str, Any] = provenance.get("activations") or {}
    tokens = {name: activations[name] for name in names if activations.get(name) is not None}
    return {"captured": tokens} if tokens else {}


def contents_digest(value: Any) -> str:
    """A short digest of what something was made from, the same in every version."""
    return hashlib.sha256(json.dumps(json_ready(value), sort_keys=True).encode()).hexdigest()[:16]


def question_of(result: Result) -> dict[str, Any]:
    """What a result was asked: its inputs and settings as its provenance names them, the fields that are
    asked for, and what else it says (`Result.asked`)."""
    asked: dict[str, Any] = {}
    provenance = getattr(result, "provenance", None) or {}
    for name, value in (*_inputs(provenance), *_settings(provenance)):
        asked.setdefault(name, value)  # the first is of the activations, others of what lies beside them
    for name in _FIELDS:
        value = getattr(result, name, _NONE)
        if value is not _NONE and not isinstance(value, pd.DataFrame) and not callable(value):
            asked.setdefault(name, _named(name, value))
    return json_ready({**asked, **result.asked()})


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
            f"{path} answers another question ({listing(differing)}); choose another folder, or say "
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
    old, new = question_of(before), question_of(now)
    then, today = ({n: one[n] for n in old if n in new} for one in (old, new))
    sides = [dict(flat(one)) for one in (then, today)]
    lacking = {
        leaf
        for one, other in (sides, reversed(sides))
        for leaf in one
        if leaf not in other and leaf.split(".")[0] in _OF_INPUTS
    }
    apart = differences(*({n: v for n, v in one.items() if n not in lacking} for one in sides))
    return [words for words in apart if not words.startswith("title: ")] or apart


def _settings(provenance: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What an analysis says that it was asked, but for its inputs."""
    others = (*_OF_INPUTS, *_JUDGED, *_PASSING, *_OF_THE_MOMENT)
    for name, value in provenance.items():
        if name == "settings" and isinstance(value, Mapping):
            yield from ((n, v) for n, v in value.items() if n not in others)
        elif name in _MAPPINGS or (name not in others and not isinstance(value, Mapping)):
            yield name, value


def _inputs(provenance: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The parts that name inputs, wherever they lie."""
    for name, value in provenance.items():
        if name in _OF_INPUTS:
            yield name, _named(name, _lasting(value))
        elif isinstance(value, Mapping) and name not in _MAPPINGS:
            yield from _inputs(cast("Mapping[str, Any]", value))


def _named(name: str, value: Any) -> Any:
    """A model's or table's name alone as a mapping, as provenances have them."""
    is_name = name in ("model", "table") and (value is None or isinstance(value, str))
    return {"name": value} if is_name else value


def _lasting(value: Any) -> Any:
    if isinstance(value, Mapping):
        entries = cast("Mapping[str, Any]", value)
        return {name: _lasting(item) for name, item in entries.items() if name not in _OF_THE_MOMENT}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_lasting(item) for item in cast("Sequence[Any]", value)]
    return value
