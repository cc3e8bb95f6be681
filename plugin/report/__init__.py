"""One self-contained page for any results: verdicts first, then figures, tables and provenance.

The page knows nothing of what was measured beyond the `Result` surface. It holds its own script and style,
forbids itself every network request (a content security policy of `default-src 'none'`), and escapes all
text that came with the data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import numpy as np
import pandas as pd

from graticule.hooks.kinds import ForeignFolderError
from graticule.hooks.messages import visible
from graticule.hooks.names import place_of
from graticule.hooks.places import Place
from graticule.hooks.replacing import replacing
from graticule.hooks.result import DECIMALS, Result

_SCRIPTS = ("narrow.js", "page.js")


@dataclass(frozen=True)
class FigureView:
    """A figure as the template needs it."""

    id: str
    """Element id, unique on the page."""
    caption: str
    """The sentence under the figure."""
    note: str
    """What the figure itself adds to its caption: rows drawn, points beyond the axes."""
    height: int
    """Pixels before the script has laid the figure out."""
    spec: str
    """The figure as JSON, safe inside a script element."""


@dataclass(frozen=True)
class Section:
    """One result on the page."""

    id: str
    """Anchor, unique on the page."""
    title: str
    """The result's heading."""
    verdict: str
    """First line of the summary."""
    beneath: list[str]
    """Lines that stand with it in the banner."""
    details: str
    """The rest of the summary."""
    parts: list[tuple[str, FigureView | TableView]]
    """Figures and tables in the result's own order."""
    provenance: list[tuple[str, str]]
    """Dotted key → value."""


_HEAD = 4096
"""Bytes of a page in which it says what wrote it."""


def write_page(
    results: Result | Sequence[Result],
    path: Place | str,
    title: str | None = None,
    links: Mapping[str, str] | None = None,
) -> Place:
    """Lay one or several results out on one HTML page that needs no network; returns where it is.

    Args:
        results: the results, in page order.
        path: the file to write, or its url, atomically; its folder is made.
        title: the page's heading; a single result's own title by default.
        links: text → address of pages beside this one, relative to it.

    The same results give the same bytes.

    Raises:
        ValueError: if there is no result, or if a result's `layout` names a part that it does not have.
    """
    listed = [results] if isinstance(results, Result) else list(results)
    if not listed:
        raise ValueError("write_page was given no result: give it at least one")
    path = place_of(path)
    text = _render(listed, title, links or {})
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def page_in(folder: Path) -> Path:
    """Where a folder's page is: `report.html`.

    Raises:
        ForeignFolderError: What lies there is no page of graticule's.
    """
    path = folder / "report.html"
    if path.exists():
        with path.open("rb") as file:
            start = file.read(_HEAD)
        if b'<meta name="generator" content="graticule' not in start:
            raise ForeignFolderError(
                f"{path} is no page of graticule's and stays as it is: move it away, or write the page "
                "elsewhere, result.report(path)"
            )
    return path


def _render(results: list[Result], title: str | None, links: Mapping[str, str]) -> str:
    from jinja2 import Environment, StrictUndefined

    from graticule.probes.plots.drawing import get_plotlyjs

    folder = resources.files("graticule.report")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_seen
    )
    template = environment.from_string((folder / "page.html").read_text(encoding="utf-8"))
    sections = [_section(result, k) for k, result in enumerate(results)]
    drawn = any(isinstance(view, FigureView) for section in sections for _, view in section.parts)
    return template.render(
        title=title or (sections[0].title if len(sections) == 1 else "graticule report"),
        sections=sections,
        links={text: quote(address, safe="/#") for text, address in links.items()},
        style=(folder / "style.css").read_text(encoding="utf-8"),
        script="".join((folder / name).read_text(encoding="utf-8") for name in _SCRIPTS) if drawn else "",
        plotly=get_plotlyjs() if drawn else "",
        version=metadata.version("graticule"),
    )


def _seen(value: Any) -> Any:
    """Text as a page has it; what is marked as safe is ours."""
    return visible(value, lines=True) if type(value) is str else value


def _section(result: Result, number: int) -> Section:
    summary = result.summary().strip().split("\n")
    figures, tables = result.figures(), result.tables()
    parts: list[tuple[str, FigureView | TableView]] = []
    for k, (kind, caption) in enumerate(result.layout(list(figures), list(tables))):
        home: Mapping[str, Any] = figures if kind == "figure" else tables
        if kind not in ("figure", "table") or caption not in home:
            raise ValueError(
                f"{type(result).__name__}.layout() names the {kind} {caption!r}, which it does not have; "
                f"it has the figures {list(figures)} and the tables {list(tables)}"
            )
        name = f"part-{number}-{k}"
        view = (
            _figure_view(figures[caption], caption, name)
            if kind == "figure"
            else table_view(tables[caption], caption)
        )
        parts.append((kind, view))
    provenance = result.to_json().get("provenance") or {}
    return Section(
        id=f"result-{number}",
        title=result.title,
        verdict=summary[0],
        beneath=summary[1 : result.in_banner],
        details="\n".join(summary[result.in_banner :]).strip("\n"),
        parts=parts,
        provenance=list(flattened(provenance)),
    )


def _figure_view(figure: Any, caption: str, name: str) -> FigureView:
    from graticule.probes.plots.drawing import figure_json

    meta: Any = figure.layout.meta
    note = str(cast("Mapping[str, Any]", meta).get("note") or "") if isinstance(meta, Mapping) else ""
    spec = figure_json(figure)
    # inside a script element only "<" can end it; the escape is the same string to a JSON parser
    return FigureView(name, caption, note, int(figure.layout.height or 420), spec.replace("<", "\\u003c"))


def flattened(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Nested mappings as dotted key and value, in order; lists of plain values on one line."""
    if isinstance(value, Mapping):
        for name, inner in cast("Mapping[Any, Any]", value).items():
            yield from flattened(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        items = cast("Sequence[Any]", value)
        plain = all(item is None or isinstance(item, str | int | float | bool) for item in items)
        yield key, ", ".join(map(str, items)) if plain else json.dumps(items, default=str)
    elif value is not None:
        yield key, str(value)


MAX_ROWS = 500
"""Rows of a table laid out on a page; the rest are in the result's own files."""
_SENTENCE = 40
"""Characters from which a cell needs room."""


@dataclass(frozen=True)
class TableView:
    """A table as the template needs it: text only, escaped by the template."""

    caption: str
    """The sentence over the table."""
    note: str
    """How many rows are left out, if any are."""
    columns: list[tuple[str, str]]
    """Heading and class (`number`, `words`, or `words sentences` where any are long) of each column."""
    rows: list[list[str]]
    """Cells, row by row."""


def table_view(table: pd.DataFrame, caption: str) -> TableView:
    """Format `table` for a page; an index of names becomes the first column."""
    decimals: Mapping[object, int] = table.attrs.get(DECIMALS, {})
    if table.index.name is not None or not pd.api.types.is_integer_dtype(table.index):
        table = table.reset_index()
    first_rows = table.head(MAX_ROWS)
    cells = [column_words(first_rows.iloc[:, k], decimals.get(name)) for k, name in enumerate(first_rows)]
    columns = [
        (heading(name), "number" if _is_number(table.iloc[:, k]) else _kind_of_words(cells[k]))
        for k, name in enumerate(table)
    ]
    note = f"The first {MAX_ROWS:,} of {len(table):,} rows." if len(table) > MAX_ROWS else ""
    return TableView(caption, note, columns, [list(row) for row in zip(*cells, strict=True)])


def heading(name: object) -> str:
    """A column's name for people: underscores as spaces."""
    return " ".join(map(str, name)) if isinstance(name, tuple) else str(name).replace("_", " ")


def _kind_of_words(cells: list[str]) -> str:
    return "words sentences" if any(len(cell) > _SENTENCE for cell in cells) else "words"


def _is_number(column: pd.Series[Any]) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def column_words(column: pd.Series[Any], decimals: int | None = None) -> list[str]:
    """A column's cells: one number of decimals for the whole column, so that the points line up."""
    write: Callable[[Any], str] = str
    if pd.api.types.is_bool_dtype(column):
        write = _yes_no
    elif decimals is not None:
        write = _fixed(decimals)
    elif _is_number(column):
        write = _number_format(column.dropna().to_numpy(np.float64))
    return ["–" if _missing(value) else write(value) for value in column.tolist()]


def _yes_no(value: Any) -> str:
    return "yes" if value else "no"


def _missing(value: Any) -> bool:
    return (
        value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value))
    )


def _number_format(values: np.ndarray) -> Callable[[Any], str]:
    """The format for a column: whole numbers, fixed decimals, or powers of ten where it needs them."""
    finite = values[np.isfinite(values)]
    if finite.size == 0 or bool((finite == np.round(finite)).all() and np.abs(finite).max() < 1e15):
        return lambda v: _sign(f"{v:z.0f}")
    size, nonzero = float(np.abs(finite).max()), np.abs(finite[finite != 0])
    if size >= 1e7 or size < 1e-3 or float(np.median(nonzero)) < 1e-3:
        return lambda v: _sign(f"{v:.3g}")
    return _fixed(3 if size < 10 else 2 if size < 1000 else 1)


def _fixed(decimals: int) -> Callable[[Any], str]:
    return lambda v: _sign(f"{v:z.{decimals}f}")


def _sign(text: str) -> str:
    """A true minus sign, as wide as a plus."""
    return text.replace("-", "−", 1) if text.startswith("-") else text
