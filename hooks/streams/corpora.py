"""Corpora: documents in order from files, data sets, lists or token rows, tokenised in batches.

A corpus knows nothing of models and keeps no position: `documents(start)` begins wherever it is asked to.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor

from graticule.hooks.artifact import users_folder
from graticule.hooks.names import user_path
from graticule.hooks.streams.files import (
    SUFFIXES,
    Document,
    Reader,
    SampleBy,
    as_documents,
    choose_column,
    file_documents,
    file_rows,
    holds_ids,
    other_column,
)
from graticule.hooks.values import token_ids

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

        Raises:
            ValueError: for nothing to read, an unknown kind of file or a column that is not there.
            TypeError: for anything else.
        """
        if isinstance(source, Corpus):
            return source
        if isinstance(source, str | Path):
            return _of_path(user_path(source), column, name or str(source), sample_by)
        if hasattr(source, "column_names"):
            return _of_dataset(source, column, name)
        if isinstance(source, Tensor | np.ndarray):
            return _of_array(source, name)
        if isinstance(source, Sequence):
            return _of_list(cast("Sequence[Any]", source), column, name, sample_by)
        if hasattr(source, "iloc"):
            write = "frame['COLUMN'].tolist()" if hasattr(source, "columns") else "series.tolist()"
            raise TypeError(f"a corpus of {type(source).__name__}: give its texts, {write}")
        raise TypeError(
            f"a corpus of {type(source).__name__}: give a path, a datasets.Dataset, texts or token rows"
        )

    def documents(self, start: int = 0) -> Iterator[Document]:
        """Documents from number `start` on."""
        return self.open(start)

    def first(self) -> Document:
        """The first document that is not empty."""
        return next(document for document in self.open(0) if len(document))

    def tokens(
        self,
        tokenizer: Any = None,
        start: int = 0,
        batch: int = _BATCH,
        watch: Callable[[int, bytes], None] | None = None,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """`(document number, token ids [pos])` from document `start` on, tokenised `batch` texts at a time.

        Texts get no special tokens; empty documents are passed over. `watch` is told the number and digest
        of every document that is read, empty ones too, before its tokens are given.

        Raises:
            ValueError: where texts need a tokenizer and there is none.
        """
        documents: Iterator[Document] = self.open(start)
        if watch is not None:
            documents = _watched(documents, start, watch)
        if self.tokenised:
            for number, ids in enumerate(documents, start):
                if len(ids):
                    yield number, token_ids(ids, f"document {number} of {self.name}")
            return
        if tokenizer is None:
            raise ValueError(f"{self.name} holds texts and the model has no tokenizer; give token ids")
        numbered = enumerate(cast("Iterator[str]", documents), start)
        for group in _groups(numbered, batch):
            numbers, texts = [n for n, _ in group], [t for _, t in group]
            # verbose: documents longer than the model are cut into contexts, which is no mistake
            rows = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
            for number, row in zip(numbers, rows, strict=True):
                if len(row):
                    yield number, np.array(row, dtype=np.int64)

    def digests(self, start: int = 0) -> Iterator[bytes]:
        """A digest of every document from number `start` on."""
        return map(_digest, self.open(start))

    def identity(self) -> dict[str, Any]:
        """Size and a digest of the first documents: what a checkpoint compares."""
        digest = hashlib.sha256()
        for document in itertools.islice(self.open(0), _DIGESTED):
            data = _bytes(document)
            digest.update(len(data).to_bytes(8, "little") + data)
        return {"n_documents": self.n_documents, "digest": digest.hexdigest()[:16]}


def _bytes(document: Document) -> bytes:
    if isinstance(document, str):
        return document.encode("utf-8", "surrogatepass")
    return np.asarray(document, np.int64).tobytes()


def _digest(document: Document) -> bytes:
    return hashlib.sha256(_bytes(document)).digest()


def _watched(
    documents: Iterator[Document], start: int, watch: Callable[[int, bytes], None]
) -> Iterator[Document]:
    for number, document in enumerate(documents, start):
        watch(number, _digest(document))
        yield document


def _groups(numbered: Iterator[tuple[int, str]], size: int) -> Iterator[list[tuple[int, str]]]:
    """At most `size` texts at a time, fewer where they are long; without empty ones."""
    group: list[tuple[int, str]] = []
    n_characters = 0
    for number, text in numbered:
        if not text:
            continue
        group.append((number, text))
        n_characters += len(text)
        if len(group) == size or n_characters >= _CHARACTERS:
            yield group
            group, n_characters = [], 0
    if group:
        yield group


# Sources -----------------------------------------------------------------------------------------------
def _of_path(path: Path, column: str | None, name: str, sample_by: SampleBy) -> Corpus:
    if not path.exists():
        raise ValueError(
            f"{path} does not exist; a single text goes in a list, a data set of the Hub through "
            "datasets.load_dataset(name, split=..., streaming=True)"
        )
    if path.is_dir() and (path / "dataset_dict.json").exists():
        parts = sorted(folder.name for folder in path.iterdir() if (folder / "state.json").is_file())
        chosen = "train" if "train" in parts or not parts else parts[0]
        raise ValueError(
            f"{path} holds the parts {', '.join(parts)}: give one of them, as in {path / chosen}"
        )
    if path.is_dir() and (path / "state.json").exists():
        from datasets import load_from_disk

        return _of_dataset(load_from_disk(str(users_folder(path))), column, name)
    files = sorted(f for f in path.rglob("*") if f.suffix in SUFFIXES) if path.is_dir() else [path]
    return _of_files(files, column, name, sample_by)


def _of_files(files: Sequence[Path], column: str | None, name: str, sample_by: SampleBy) -> Corpus:
    if not files:
        raise ValueError(f"{name}: no {', '.join(SUFFIXES)} file there")
    for file in files:
        if file.suffix not in SUFFIXES:
            raise ValueError(f"{file}: expected one of {', '.join(SUFFIXES)}")
    readers = [file_documents(f, column, sample_by) for f in files]
    sizes = [file_rows(f) for f in files]
    count = sum(n for n in sizes if n is not None) if None not in sizes else None

    def values(start: int) -> Iterator[Any]:
        for reader, rows in zip(readers, sizes, strict=True):
            if rows is not None and start >= rows:
                start -= rows
            elif rows is not None:
                yield from reader(start)
                start = 0
            else:
                for value in reader(0):
                    if start:
                        start -= 1
                    else:
                        yield value

    return _corpus(name, count, values)


def _of_dataset(dataset: Any, column: str | None, name: str | None) -> Corpus:
    if hasattr(dataset, "keys"):
        raise ValueError(f"several splits ({', '.join(dataset)}); give one of them, as in dataset['train']")
    info = getattr(dataset, "info", None)
    corpus_name = name or str(getattr(info, "dataset_name", None) or type(dataset).__name__)
    sample = next(iter(dataset.take(1)), None)
    if sample is None:
        raise ValueError(f"{corpus_name}: no document there")
    present = list(sample)
    chosen = choose_column(present, column, corpus_name)
    dataset = dataset.select_columns([chosen])
    length: int | None = len(dataset) if hasattr(dataset, "__len__") else None

    def values(start: int) -> Iterator[Any]:
        if length is None:
            for row in dataset.skip(start) if start else dataset:
                yield row[chosen]
            return
        for at in range(start, length, _BATCH):
            yield from dataset[at : at + _BATCH][chosen]

    return _corpus(
        corpus_name, length, values, f"column {chosen!r} of {corpus_name}", other_column(present, chosen)
    )


def _of_array(array: Any, name: str | None) -> Corpus:
    ids = array.cpu().numpy() if isinstance(array, Tensor) else array
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(
            f"token ids of shape {ids.shape} and type {ids.dtype}; expected integers [document, pos]"
        )
    return _corpus(name or "token ids", len(ids), lambda start: iter(ids[start:]))


def _of_list(source: Sequence[Any], column: str | None, name: str | None, sample_by: SampleBy) -> Corpus:
    if len(source) == 0:
        raise ValueError("no documents: give at least one")
    if all(isinstance(d, Path) for d in source):
        files = [user_path(file) for file in source]
        return _of_files(files, column, name or str(files[0].parent), sample_by)
    if len({isinstance(d, str) for d in source if d is not None}) > 1:
        raise TypeError("texts and token rows are mixed; give one or the other")
    corpus = _corpus(name or "the list", len(source), lambda start: iter(source[start:]))
    return corpus if name else replace(corpus, name="token ids" if corpus.tokenised else "texts")


def _corpus(
    name: str, count: int | None, values: Reader, where: str | None = None, offer: str = ""
) -> Corpus:
    """A corpus of what `values` reads, judged by its first documents; `where` is its name in messages."""
    tokenised = holds_ids(values(0), where or name, offer)
    return Corpus(
        name, tokenised, count, lambda start: as_documents(values(start), tokenised, where or name, start)
    )


class ReadSoFar:
    """A digest of the documents up to a place, kept while they are read a little ahead of it."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._documents = 0
        self._digest = hashlib.sha256()
        self._ahead: deque[tuple[int, bytes]] = deque()

    def watch(self, number: int, digest: bytes) -> None:
        """Take note of a document that is read."""
        if number >= self._documents:
            self._ahead.append((number, digest))

    def finish(self, before: int | None) -> None:
        """The documents below number `before` (all, for None) have been used."""
        while self._ahead and (before is None or self._ahead[0][0] < before):
            number, digest = self._ahead.popleft()
            if number == self._documents:
                self._digest.update(digest)
                self._documents += 1

    def state_dict(self) -> dict[str, Any]:
        """How many documents, and their digest."""
        return {"documents_read": self._documents, "read": self._digest.hexdigest()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there.

        Raises:
            ValueError: where the documents until then are no longer what they were.
        """
        self._ahead.clear()
        wanted = state.get("read")
        if wanted is None or wanted == self._digest.hexdigest():  # a state of 0.1 has none
            return
        self._documents, self._digest = 0, hashlib.sha256()
        for digest in islice(self._corpus.digests(), state["documents_read"]):
            self._digest.update(digest)
            self._documents += 1
        if self._digest.hexdigest() != wanted:
            raise ValueError(
                f"{self._corpus.name} has changed within the {state['documents_read']:,} documents read so "
                "far: give it as it was, or begin in another folder"
            )
