"""Documents in files: text, JSON lines and Parquet, read piece by piece; what is wrong is told by file and
line."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from torch import Tensor

from graticule.hooks.artifact import users_file
from graticule.hooks.messages import check_whole
from graticule.hooks.values import token_ids

SUFFIXES = (".txt", ".jsonl", ".parquet")
"""Kinds of files that a corpus reads."""

SampleBy = Literal["line", "paragraph", "document"]
"""What a document of a text file is, named as in `datasets`."""

_ROWS = 1024
_COLUMNS = ("tokens", "input_ids", "text", "problem")  # SAELens's, in its order
_BOM = b"\xef\xbb\xbf"
_WIDE = (b"\xff\xfe", b"\xfe\xff")


def file_rows(file: Path) -> int | None:
    """How many documents a file holds, where it says so (Parquet)."""
    return None if file.suffix != ".parquet" else int(_open_parquet(file).metadata.num_rows)


def file_documents(file: Path, column: str | None, sample_by: SampleBy) -> Callable[[int], Iterator[Any]]:
    """A reader of the documents of one file from a number on (Parquet), or of all (the others).

    Raises:
        ValueError: where a table has none of the columns.
    """
    if file.suffix == ".parquet":
        chosen = choose_column(_open_parquet(file).schema_arrow.names, column, str(file))
        return lambda start: _parquet(file, chosen, start)
    if file.suffix == ".jsonl":
        return lambda _start: _json_lines(file, column)
    return lambda _start: _text(file, sample_by)


def choose_column(present: Sequence[str], column: str | None, where: str) -> str:
    """The column asked for, or the first known one.

    Raises:
        ValueError: where there is none.
    """
    chosen = column if column is not None else next((c for c in _COLUMNS if c in present), None)
    if chosen is None or chosen not in present:
        wanted = repr(column) if column else " or ".join(map(repr, _COLUMNS))
        raise ValueError(
            f"{where} has columns {', '.join(present)}, none is {wanted}; say which with column="
        )
    return chosen


def other_column(present: Sequence[str], chosen: str) -> str:
    """What to write where the chosen column is no corpus and there is a column of texts beside it."""
    texts = next((c for c in ("text", "problem", "content") if c in present and c != chosen), None)
    return "" if texts is None else f"; is it column={texts!r}?"


# Parquet -----------------------------------------------------------------------------------------------
def _open_parquet(file: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        return parquet.ParquetFile(users_file(file))
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{file} is no Parquet file, or damaged ({_first_line(error)})") from error


def _parquet(file: Path, column: str, start: int) -> Iterator[Any]:
    """Values of a Parquet file's column; row groups before `start` are not read."""
    import pyarrow as pa

    table = _open_parquet(file)
    sizes = [table.metadata.row_group(i).num_rows for i in range(table.metadata.num_row_groups)]
    first = 0
    while first < len(sizes) and start >= sizes[first]:
        start -= sizes[first]
        first += 1
    try:
        for batch in table.iter_batches(_ROWS, row_groups=range(first, len(sizes)), columns=[column]):
            values = batch.column(0)
            yield from values.slice(start).to_pylist()
            start = max(0, start - len(values))
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{file} is damaged ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


# Lines -------------------------------------------------------------------------------------------------
def numbered_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Lines with their numbers from 1 and their line ends, a byte-order mark left out.

    Args:
        file: A text file, or one packed as `.gz`.

    Raises:
        ValueError: It is not UTF-8; file, line and way out are named. Or it is no file: `ArtifactError`.
    """
    file = users_file(file)
    with gzip.open(file, "rb") if file.suffix.lower() == ".gz" else open(file, "rb") as raw:
        for number, line in enumerate(raw, 1):
            if number == 1 and line.startswith(_WIDE):
                raise ValueError(f"{file} is UTF-16, not UTF-8: save it as UTF-8 (iconv -f utf-16 -t utf-8)")
            try:
                yield number, line.removeprefix(_BOM if number == 1 else b"").decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{file}, line {number} is not UTF-8 (byte 0x{line[error.start]:02x}): save the file as "
                    "UTF-8 (iconv -f cp1252 -t utf-8, if it is from Windows)"
                ) from error


def plain_lines(file: Path) -> list[str]:
    """Lines without their line ends, `\\n` or `\\r\\n`.

    Args:
        file: As for `numbered_lines`.

    Raises:
        ValueError: As `numbered_lines` does.
    """
    return [line.removesuffix("\n").removesuffix("\r") for _, line in numbered_lines(file)]


def _json_lines(file: Path, column: str | None) -> Iterator[Any]:
    """A value a line: the column of an object, or the line's own string or list of ids."""
    chosen: str | None = None
    for number, line in numbered_lines(file):
        if not line.strip():
            continue
        row = _parsed(file, number, line)
        if not isinstance(row, dict):
            yield row
            continue
        entries = cast("dict[str, Any]", row)
        if chosen is None:
            chosen = choose_column(list(entries), column, f"{file}, line {number}")
        if chosen not in entries:
            raise ValueError(f"{file}, line {number}: no {chosen!r}")
        yield entries[chosen]


def _parsed(file: Path, number: int, line: str) -> Any:
    array = line.lstrip().startswith("[")
    hint = "write one object a line, not an array (pandas: to_json(file, orient='records', lines=True))"
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        reason = hint if array else "mend the line, or take it out; was the file cut off?"
        raise ValueError(
            f"{file}, line {number} is no whole JSON value ({error.msg} at column {error.colno}); {reason}"
        ) from error
    if array and row and isinstance(row[0], dict):
        raise ValueError(f"{file}, line {number}: {hint}")
    return row


def _text(file: Path, sample_by: SampleBy) -> Iterator[str]:
    """Documents of a text file, without line ends at their own; blank lines and paragraphs are none."""
    if sample_by not in ("line", "paragraph", "document"):
        raise ValueError(f"sample_by={sample_by!r}: expected 'line', 'paragraph' or 'document'")
    lines = (line[:-2] + "\n" if line.endswith("\r\n") else line for _, line in numbered_lines(file))
    if sample_by == "document":
        yield "".join(lines)
        return
    paragraph: list[str] = []
    for line in lines:
        if sample_by == "line":
            if line.strip():
                yield line.rstrip("\n")
        elif line.strip():
            paragraph.append(line)
        elif paragraph:
            yield "".join(paragraph).rstrip("\n")
            paragraph = []
    if paragraph:
        yield "".join(paragraph).rstrip("\n")


Document = str | np.ndarray
"""A text, or its token ids."""

Reader = Callable[[int], Iterator[Any]]
"""Documents as they were read, from a number on."""

_LOOKED_AT = 10_000


def holds_ids(values: Iterable[Any], name: str, offer: str = "") -> bool:
    """Whether documents are token ids, told by the first that is not missing.

    Args:
        values: documents as they were read.
        name: what the corpus is called.
        offer: what to write instead, where the values are neither texts nor ids.

    Raises:
        ValueError: where all of the first 10,000 are missing, or for what is neither text nor ids.
    """
    number = -1
    for number, value in enumerate(itertools.islice(values, _LOOKED_AT)):
        if _is_missing(value) or (not isinstance(value, str) and _is_row(value) and len(value) == 0):
            continue
        return not isinstance(_document(value, f"document {number} of {name}", offer), str)
    raise ValueError(
        f"{name}: no document there" if number < 0 else f"{name}: {number + 1} documents, no text"
    )


def as_documents(values: Iterator[Any], tokenised: bool, name: str, first: int = 0) -> Iterator[Document]:
    """Documents of one kind, numbered from `first`; a missing one is empty, and is passed over later.

    Raises:
        ValueError: naming the document that is neither text nor token ids, or not of the others' kind.
    """
    empty: Document = np.empty(0, dtype=np.int64) if tokenised else ""
    for number, value in enumerate(values, first):
        if _is_missing(value):
            yield empty
            continue
        document = _document(value, f"document {number} of {name}")
        if isinstance(document, str) == tokenised:
            kinds = ("token ids", "a text") if tokenised else ("texts", "token ids")
            raise ValueError(f"document {number} of {name} is {kinds[1]} where the others are {kinds[0]}")
        yield document


def _document(value: Any, where: str, offer: str = "") -> Document:
    if isinstance(value, str):
        check_whole(value, where)
        return value
    if not _is_row(value):
        raise ValueError(
            f"{where} is {type(value).__name__} {_short(value)}, neither a text nor token ids{offer}"
        )
    inner = next((item for item in value if item is not None), None) if isinstance(value, Sequence) else None
    if isinstance(inner, dict):
        raise ValueError(
            f"{where} is a conversation (a list of messages), not a text: make one text of each, as "
            f"tokenizer.apply_chat_template(messages, tokenize=False) does{offer}"
        )
    if isinstance(inner, str):
        raise ValueError(f"{where} is a list of words {_short(value)}, not token ids{offer}")
    return token_ids(value, where)


def _is_missing(value: Any) -> bool:
    """None, and pandas' NaN, NA and NaT."""
    return value is None or (not isinstance(value, str) and np.ndim(value) == 0 and bool(value != value))


def _is_row(value: Any) -> bool:
    return isinstance(value, list | tuple | np.ndarray | Tensor)


def _short(value: Any) -> str:
    words = repr(value)
    return words if len(words) <= 50 else f"{words[:47]}…"
