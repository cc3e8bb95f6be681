"""The one shape of a result: what a terminal, a page and a Hub card need of it, whatever was measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from graticule.hooks.messages import TellsNames, as_html, visible
from graticule.hooks.names import user_path
from graticule.hooks.question import question_differences

if TYPE_CHECKING:
    from typing import Self

    from plotly.graph_objects import Figure

Part = tuple[Literal["figure", "table"], str]
"""A part of a page: a figure or a table, by its caption."""

PAGE_RENDERER = "graticule.report.page:write_page"
"""Where pages are laid out: a string, resolved on use, because imports point down and the page is up."""


_LINES = 8
"""Of a result shown by its name."""


def _renderer() -> Callable[..., Path]:
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
    def save(self, path: Path | str, overwrite: bool = False) -> None:
        """Write the result as a folder, in place of an earlier answer to the same question.

        Args:
            path: The folder, or its url on a file system of fsspec.
            overwrite: Whether it may take the place of an answer to another question too.

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

    def report(self, path: Path | str) -> Path:
        """Write one self-contained HTML page with this result on it; returns where it is."""
        return _renderer()(self, user_path(path))

    def _repr_html_(self) -> str:
        """For a notebook: the summary, then the tables that fit on a screen."""
        parts = [f"<h4>{as_html(self.title)}</h4><pre>{as_html(self.summary())}</pre>"]
        for caption, table in self.tables().items():
            parts.append(f"<p>{as_html(caption)}</p>{_table_html(table.head(20))}")
        # notebooks take dollars for formulas, which may hold links, except in this class
        return f'<div class="tex2jax_ignore mathjax_ignore">{"".join(parts)}</div>'
