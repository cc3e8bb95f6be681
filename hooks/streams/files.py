"""Documents in files: text, JSON lines and Parquet, read piece by piece."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

SUFFIXES = (".txt", ".jsonl", ".parquet")
"""Kinds of files that a corpus reads."""

SampleBy = Literal["line", "paragraph", "document"]
"""What a document of a text file is, named as in `datasets`."""

_ROWS = 1024
_COLUMNS = ("tokens", "input_ids", "text", "problem")  # SAELens's, in its order


def file_rows(file: Path) -> int | None:
    """How many documents a file holds, where it says so (Parquet)."""
    if file.suffix != ".parquet":
        return None
    import pyarrow.parquet as parquet

    return int(parquet.ParquetFile(file).metadata.num_rows)


def file_documents(file: Path, column: str | None, sample_by: SampleBy) -> Callable[[int], Iterator[Any]]:
    """A reader of the documents of one file from a number on (Parquet), or of all (the others).

    **Raises** `ValueError` where a table has none of the columns.
    """
    if file.suffix == ".parquet":
        chosen = _parquet_column(file, column)
        return lambda start: _parquet(file, chosen, start)
    if file.suffix == ".jsonl":
        return lambda _start: _json_lines(file, column)
    return lambda _start: _text(file, sample_by)


def choose_column(present: Sequence[str], column: str | None, where: str) -> str:
    """The column asked for, or the first known one. **Raises** `ValueError` where there is none."""
    chosen = column if column is not None else next((c for c in _COLUMNS if c in present), None)
    if chosen is None or chosen not in present:
        wanted = repr(column) if column else " or ".join(map(repr, _COLUMNS))
        raise ValueError(
            f"{where} has columns {', '.join(present)}, none is {wanted}; say which with column="
        )
    return chosen


def _parquet_column(file: Path, column: str | None) -> str:
    import pyarrow.parquet as parquet

    return choose_column(parquet.ParquetFile(file).schema_arrow.names, column, str(file))


def _parquet(file: Path, column: str, start: int) -> Iterator[Any]:
    """Documents of a Parquet file; row groups before `start` are not read."""
    import pyarrow.parquet as parquet

    table: Any = parquet.ParquetFile(file)
    sizes = [table.metadata.row_group(i).num_rows for i in range(table.metadata.num_row_groups)]
    first = 0
    while first < len(sizes) and start >= sizes[first]:
        start -= sizes[first]
        first += 1
    for batch in table.iter_batches(_ROWS, row_groups=range(first, len(sizes)), columns=[column]):
        values = batch.column(0)
        if start >= len(values):
            start -= len(values)
            continue
        for value in values.slice(start).to_pylist():
            yield np.asarray(value, dtype=np.int64) if isinstance(value, list) else str(value or "")
        start = 0


def _json_lines(file: Path, column: str | None) -> Iterator[Any]:
    chosen: str | None = None
    with open(file, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            row = json.loads(line)
            if chosen is None:
                chosen = choose_column(list(row), column, f"{file}, line {number}")
            if chosen not in row:
                raise ValueError(f"{file}, line {number}: no {chosen!r}")
            value = row[chosen]
            yield np.asarray(value, dtype=np.int64) if isinstance(value, list) else str(value or "")


def _text(file: Path, sample_by: SampleBy) -> Iterator[str]:
    """Documents of a text file, without line ends at their own; blank lines and paragraphs are none."""
    if sample_by == "document":
        yield file.read_text(encoding="utf-8")
        return
    if sample_by not in ("line", "paragraph"):
        raise ValueError(f"sample_by={sample_by!r}: expected 'line', 'paragraph' or 'document'")
    held: list[str] = []
    with open(file, encoding="utf-8") as lines:
        for line in lines:
            if sample_by == "line":
                if line.strip():
                    yield line.rstrip("\n")
            elif line.strip():
                held.append(line)
            elif held:
                yield "".join(held).rstrip("\n")
                held = []
    if held:
        yield "".join(held).rstrip("\n")
