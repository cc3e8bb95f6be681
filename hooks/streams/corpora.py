"""Corpora: documents in order from files, data sets, lists or token rows, tokenised in batches.

A corpus knows nothing of models and keeps no position: `documents(start)` begins wherever it is asked to.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor

from graticule.hooks.streams.files import SUFFIXES, SampleBy, choose_column, file_documents, file_rows

Document = str | np.ndarray
"""A text, or its token ids."""

_BATCH = 256
_CHARACTERS = 2**21
_DIGESTED = 16


@dataclass(frozen=True)
class Corpus:
    """Documents in order: texts, or token ids."""

    name: str
    """Where they come from: SAELens's `dataset_path`."""
    tokenised: bool
    """Whether documents are token ids, not texts."""
    n_documents: int | None
    """How many there are; None where only reading them all would tell."""
    open: Callable[[int], Iterator[Document]]
    """Documents from a number on."""

    @classmethod
    def read(
        cls,
        source: Any,
        column: str | None = None,
        *,
        name: str | None = None,
        sample_by: SampleBy = "line",
    ) -> Corpus:
        """A corpus of whatever holds texts.

        `source` is one of

        - a path, several, or a folder: `.txt`, `.jsonl` and `.parquet` files, or what
          `datasets.Dataset.save_to_disk` wrote;
        - a `datasets.Dataset` or (streaming) `IterableDataset`;
        - a list of texts;
        - token ids: a `[document, pos]` tensor or array, or lists of ids, special tokens included.

        `column` is the column of tables; by default the first of `tokens`, `input_ids`, `text` and `problem`
        that is there, as SAELens looks for it. `sample_by` says what a document of a `.txt` file is: a line,
        a paragraph (up to a blank line) or the whole file (`"document"`); the names are those of `datasets`.

        **Raises** `ValueError` for nothing to read, an unknown kind of file or a column that is not there;
        `TypeError` for anything else.
        """
        if isinstance(source, Corpus):
            return source
        if isinstance(source, str | Path):
            return _of_path(Path(source), column, name or str(source), sample_by)
        if hasattr(source, "column_names"):
            return _of_dataset(source, column, name)
        if isinstance(source, Tensor | np.ndarray):
            return _of_array(source, name)
        if isinstance(source, Sequence):
            return _of_list(cast("Sequence[Any]", source), column, name, sample_by)
        raise TypeError(
            f"a corpus of {type(source).__name__}: give a path, a datasets.Dataset, texts or token rows"
        )

    def documents(self, start: int = 0) -> Iterator[Document]:
        """Documents from number `start` on."""
        return self.open(start)

    def tokens(
        self, tokenizer: Any = None, start: int = 0, batch: int = _BATCH
    ) -> Iterator[tuple[int, np.ndarray]]:
        """`(document number, token ids [pos])` from document `start` on, tokenised `batch` texts at a time.

        Texts get no special tokens; empty documents are passed over.

        **Raises** `ValueError` where texts need a tokenizer and there is none.
        """
        if self.tokenised:
            for number, ids in enumerate(self.open(start), start):
                if len(ids):
                    yield number, np.asarray(ids, dtype=np.int64)
            return
        if tokenizer is None:
            raise ValueError(f"{self.name} holds texts and the model has no tokenizer; give token ids")
        numbered = enumerate(cast("Iterator[str]", self.open(start)), start)
        for group in _groups(numbered, batch):
            numbers, texts = [n for n, _ in group], [t for _, t in group]
            # verbose: documents longer than the model are cut into contexts, which is no mistake
            rows = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
            for number, row in zip(numbers, rows, strict=True):
                if len(row):
                    yield number, np.array(row, dtype=np.int64)

    def identity(self) -> dict[str, Any]:
        """Size and a digest of the first documents: what a checkpoint compares."""
        digest = hashlib.sha256()
        for document in itertools.islice(self.open(0), _DIGESTED):
            data = (
                document.encode() if isinstance(document, str) else np.asarray(document, np.int64).tobytes()
            )
            digest.update(len(data).to_bytes(8, "little") + data)
        return {"n_documents": self.n_documents, "digest": digest.hexdigest()[:16]}


def _groups(numbered: Iterator[tuple[int, str]], size: int) -> Iterator[list[tuple[int, str]]]:
    """At most `size` texts at a time, fewer where they are long; without empty ones."""
    group: list[tuple[int, str]] = []
    held = 0
    for number, text in numbered:
        if not text:
            continue
        group.append((number, text))
        held += len(text)
        if len(group) == size or held >= _CHARACTERS:
            yield group
            group, held = [], 0
    if group:
        yield group


# Sources -----------------------------------------------------------------------------------------------
def _of_path(path: Path, column: str | None, name: str, sample_by: SampleBy) -> Corpus:
    if not path.exists():
        raise ValueError(
            f"{path} does not exist; a single text goes in a list, a data set of the Hub through "
            "datasets.load_dataset(name, split=..., streaming=True)"
        )
    if path.is_dir() and (path / "state.json").exists():
        from datasets import Dataset, load_from_disk

        loaded: Any = load_from_disk(str(path))
        if not isinstance(loaded, Dataset):
            raise ValueError(
                f"{path} holds several splits ({', '.join(loaded)}); give one: load_from_disk(path)[split]"
            )
        return _of_dataset(loaded, column, name)
    files = sorted(f for f in path.rglob("*") if f.suffix in SUFFIXES) if path.is_dir() else [path]
    return _of_files(files, column, name, sample_by)


def _of_files(files: Sequence[Path], column: str | None, name: str, sample_by: SampleBy) -> Corpus:
    if not files:
        raise ValueError(f"{name}: no {', '.join(SUFFIXES)} file there")
    for file in files:
        if file.suffix not in SUFFIXES:
            raise ValueError(f"{file}: expected one of {', '.join(SUFFIXES)}")
    readers = [file_documents(f, column, sample_by) for f in files]
    known = [file_rows(f) for f in files]
    count = sum(n for n in known if n is not None) if None not in known else None

    def documents(start: int) -> Iterator[Document]:
        for reader, rows in zip(readers, known, strict=True):
            if rows is not None and start >= rows:
                start -= rows
            elif rows is not None:
                yield from reader(start)
                start = 0
            else:
                for document in reader(0):
                    if start:
                        start -= 1
                    else:
                        yield document

    first = next(documents(0), None)
    if first is None:
        raise ValueError(f"{name}: no document there")
    return Corpus(name, not isinstance(first, str), count, documents)


def _of_dataset(dataset: Any, column: str | None, name: str | None) -> Corpus:
    if hasattr(dataset, "keys"):
        raise ValueError(f"several splits ({', '.join(dataset)}); give one of them, as in dataset['train']")
    info = getattr(dataset, "info", None)
    found = name or str(getattr(info, "dataset_name", None) or type(dataset).__name__)
    sample = next(iter(dataset.take(1)), None)
    if sample is None:
        raise ValueError(f"{found}: no document there")
    chosen = choose_column(list(sample), column, found)
    tokenised = not isinstance(sample[chosen], str)
    dataset = dataset.select_columns([chosen])
    length: int | None = len(dataset) if hasattr(dataset, "__len__") else None

    def documents(start: int) -> Iterator[Document]:
        if length is None:
            for row in dataset.skip(start) if start else dataset:
                yield _document(row[chosen], tokenised)
            return
        for at in range(start, length, _BATCH):
            for value in dataset[at : at + _BATCH][chosen]:
                yield _document(value, tokenised)

    return Corpus(found, tokenised, length, documents)


def _document(value: Any, tokenised: bool) -> Document:
    return np.asarray(value, dtype=np.int64) if tokenised else str(value or "")


def _of_array(array: Any, name: str | None) -> Corpus:
    ids = array.cpu().numpy() if isinstance(array, Tensor) else array
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(
            f"token ids of shape {ids.shape} and type {ids.dtype}; expected integers [document, pos]"
        )
    return _listed(list(ids.astype(np.int64)), True, name or "token ids")


def _of_list(source: Sequence[Any], column: str | None, name: str | None, sample_by: SampleBy) -> Corpus:
    if len(source) == 0:
        raise ValueError("no documents: give at least one")
    if all(isinstance(d, Path) for d in source):
        return _of_files(list(source), column, name or str(Path(source[0]).parent), sample_by)
    kinds = {isinstance(d, str) for d in source}
    if len(kinds) > 1:
        raise TypeError("texts and token rows are mixed; give one or the other")
    if kinds == {True}:
        return _listed(source, False, name or "texts")
    return _listed([np.asarray(d, dtype=np.int64) for d in source], True, name or "token ids")


def _listed(documents: Sequence[Any], tokenised: bool, name: str) -> Corpus:
    return Corpus(name, tokenised, len(documents), lambda start: iter(documents[start:]))
