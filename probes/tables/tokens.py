"""Tables whose rows are tokens: labels of each, or spans of characters, aligned with a model's rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from graticule.hooks.alignment import BY_PLACE, BY_TOKENS, AlignmentError, paired
from graticule.hooks.capture_spec import Places, Pos
from graticule.hooks.chats import written
from graticule.hooks.doors import INPUTS, MODEL, door, several_inputs, texts_of
from graticule.hooks.messages import brief
from graticule.hooks.offsets import character_offsets, touched
from graticule.hooks.protocols import HookedModel
from graticule.hooks.rows import Rows
from graticule.hooks.tokens import Inputs, TokenRows, tokenize
from graticule.probes.tables.columns import Kind, TableError
from graticule.probes.tables.groups import row_clusters
from graticule.probes.tables.table import Table

AROUND = 3
"""Tokens on either side of a token that readers of strings are given with it."""
_COLUMNS = ("text", "position", "token", "piece", "window", "cluster", "split")


class TokenTable(Table):
    """Rows of a table that are tokens of some texts; what `token_table` makes.

    Columns of `frame`: `text` (number of the input), `position` and `token` (id) in its row, `piece` (the
    token as text) and `window` (it and the tokens around it). Clusters are those of the texts.
    """

    ids: tuple[np.ndarray, ...]
    """The token ids of every one of them, special tokens included."""
    pieces: dict[int, str]
    """Every token of theirs as text."""

    _read: Any

    @property
    def inputs(self) -> Any:
        """The texts, or token rows, that the tokens are of: `capture(model, table.inputs, pos=table.pos)`."""
        return self._read

    @property
    def strings(self) -> list[str]:
        """The window of every token."""
        return self.frame["window"].tolist()

    @property
    def pos(self) -> Places:
        """Where in every text its labelled tokens are, as `capture` takes it."""
        by_text = self.frame.groupby("text")["position"].agg(lambda p: tuple(sorted(map(int, p))))
        return Places(tuple(by_text.get(text, ()) for text in range(len(self.ids))))

    @property
    def digest(self) -> str:
        """sha256 over texts' tokens, labelled positions, targets, split and clusters."""
        digest = hashlib.sha256(super().digest.encode())
        for row in (*self.ids, self._key):
            digest.update(np.ascontiguousarray(row, dtype="<i8").tobytes() + b"|")
        return digest.hexdigest()

    def derived(self, **changes: Any) -> TokenTable:
        """A table with some fields replaced, unchecked, of the same texts."""
        out: Any = super().derived(**changes)
        return out.of_inputs(self.inputs, self.ids, self.pieces)

    def of_inputs(self, inputs: Any, ids: tuple[np.ndarray, ...], pieces: dict[int, str]) -> TokenTable:
        """This very table, once it is made, with what its tokens are of."""
        object.__setattr__(self, "pieces", pieces)
        object.__setattr__(self, "_read", inputs)
        object.__setattr__(self, "ids", ids)
        return self

    def paired(self, activations: Rows) -> tuple[Int[np.ndarray, " row"], str]:
        """The table row of every activation row, by text and position, and how texts were paired.

        Returns:
            Rows, −1 where the table has no label of a token; and `alignment.COMPARED`, `BY_TOKENS` or
            `BY_PLACE`.

        Raises:
            AlignmentError: Rows do not say their position, or are of other texts or tokens.
        """
        frame = activations.rows
        if "position" not in frame:
            raise AlignmentError(
                f"the activations do not say which token of its text a row is, and table {self.name!r} is of "
                "tokens: capture(model, table.inputs, pos=table.pos)"
            )
        text, pairing = paired(frame, activations.provenance, texts_of(self.inputs), len(self.ids), self.name)
        position = frame["position"].to_numpy(np.int64)
        if (long := position >= np.array([len(row) for row in self.ids])[text]).any():
            row = int(long.argmax())
            raise self._other(row, f"position {position[row]} of text {text[row]}, which has fewer tokens")
        row_of = pd.Series(np.arange(len(self)), index=self._key)
        out = row_of.reindex(text * self._stride + position, fill_value=-1).to_numpy(np.int64)
        if "token" in frame:
            expected = np.array([self.ids[t][p] for t, p in zip(text, position, strict=True)])
            if (wrong := expected != frame["token"].to_numpy(np.int64)).any():
                row = int(wrong.argmax())
                raise self._other(
                    row, f"token {frame['token'].iloc[row]}, where text {text[row]} has {expected[row]}"
                )
            pairing = BY_TOKENS if pairing == BY_PLACE else pairing
        if (out < 0).all():
            raise self._other(0, "none of the tokens that have labels, nor is any other row")
        return out, pairing

    @property
    def _stride(self) -> int:
        return max(len(row) for row in self.ids) + 1

    @property
    def _key(self) -> Int[np.ndarray, " row"]:
        text, position = (self.frame[column].to_numpy(np.int64) for column in ("text", "position"))
        return text * self._stride + position

    def _other(self, row: int, what: str) -> AlignmentError:
        return AlignmentError(
            f"activation row {row} is of {what} in table {self.name!r}: capture(model, table.inputs, "
            "pos=table.pos), with the special tokens that the table was made with"
        )


def places_of(table: Table, pos: Pos) -> Pos:
    """Where a table's rows are read: where `pos` says, and of a table of tokens at these tokens.

    Raises:
        ValueError: Another position is asked for the tokens of a table.
    """
    if not isinstance(table, TokenTable):
        return pos
    if pos not in ("last", table.pos):
        raise ValueError(
            f"pos={brief(pos)}: the rows of table {table.name!r} are tokens, which say where they are; leave "
            "pos= out"
        )
    return table.pos


@door(model=MODEL.or_none(), inputs=INPUTS)
def token_table(
    model: HookedModel | None,
    inputs: Inputs | pd.Series,
    labels: Any = None,
    *,
    spans: Any = None,
    outside: Any = None,
    clusters: Any = None,
    split: Any = None,
    target: str = "label",
    kind: Kind | None = None,
    positive: Any = None,
    prepend_bos: bool | None = None,
    name: str = "tokens",
    test_size: float = 0.2,
    seed: int = 0,
) -> TokenTable:
    """A table whose rows are tokens, from a label for each of them or from spans of characters.

    ```python
    table = graticule.token_table(model, texts, spans=[[(0, 5, "name")], …], outside="other")
    activations = graticule.capture(model, table.inputs, pos=table.pos)
    findings = graticule.sweep(activations, table, baselines=graticule.baselines(model, table))
    ```

    Tokens of one text are a cluster, and so are those of texts that are alike or share an entry of
    `clusters`. What stands against a probe of tokens: `graticule.baselines`.

    Args:
        model: whose tokens they are; None for token rows.
        inputs: texts, ragged lists of token ids, a `[text, pos]` tensor of ids, or conversations: what the
            tokenizer's chat template writes is `table.inputs`.
        labels: for every text one for each of its tokens, with or without special ones; None and NaN is
            none: the token is no row.
        spans: for every text `(start, end)` or `(start, end, label)` in characters: tokens that stand for one
            of these have the label, by default True; the last one where spans overlap.
        outside: the label of all other tokens, by default False where spans have no labels of their own,
            else none.
        clusters: for every text what it shares with texts that depend on it.
        split: for every text whether it is a test text, as in a table's column.
        target: what the labels are of.
        kind: as in `Table`.
        positive: as in `Table`.
        prepend_bos: whether rows get special tokens, as in `capture`, to which it is given as well.
        name: for titles.
        test_size: share of test rows where there is no `split`.
        seed: of that split.

    Returns:
        The table.

    Raises:
        TableError: labels or spans are not those of the texts, or the rows cannot be used.
        ValueError: spans of token rows, or of a tokenizer whose tokens cannot be looked up.
    """
    given = written(model, several_inputs("token_table", inputs))
    tokenizer = getattr(model, "tokenizer", None)
    rows = _bare_rows(given) if model is None else tokenize(model, given, "", prepend_bos)
    texts = texts_of(given)
    if (labels is None) == (spans is None):
        raise TableError("token_table: give labels=, one for each token, or spans= of characters")
    if spans is not None and (texts is None or tokenizer is None):
        raise ValueError(
            "spans= are of characters, and these are token rows: give labels=, one for each token"
        )
    made: Any = spans if labels is None else labels
    if len(made) != len(rows.ids):
        raise TableError(
            f"{len(made)} entries of {'spans' if labels is None else 'labels'} for {len(rows.ids)} texts"
        )
    if spans is not None:
        ranges = character_offsets(tokenizer, texts or [], rows)
        named = any(len(span) > 2 for several in spans for span in several)
        rest = outside if outside is not None or named else False
        values = [_of_spans(*one, rest) for one in zip(spans, ranges, texts or [], rows.own, strict=True)]
    else:
        values = [
            _of_labels(i, *one) for i, one in enumerate(zip(made, rows.ids, rows.own, given, strict=True))
        ]
    words = _Words(rows.ids, tokenizer)
    frame = _frame(rows, values, target, words)
    frame["cluster"] = _text_clusters(rows, texts, clusters)[frame["text"]]
    if split is not None:
        frame["split"] = pd.Series(_one_each("split", split, rows))[frame["text"]].to_numpy()
    table = TokenTable(
        frame, target=target, cluster="cluster", split=None if split is None else "split", name=name,
        kind=kind, positive=positive, test_size=test_size, seed=seed,
    )  # fmt: skip
    return table.of_inputs(texts or [row.tolist() for row in rows.ids], tuple(rows.ids), words.of)


def _bare_rows(inputs: Any) -> TokenRows:
    """Token rows as they are, of no model."""
    if texts_of(inputs) is not None:
        raise ValueError(
            "token_table(None, texts): which tokens texts have, a model says; give it, or token rows"
        )
    ids = [np.asarray(row, dtype=np.int64) for row in inputs]
    whole = [(0, len(row)) for row in ids]
    return TokenRows(ids, whole, whole, False)


def _of_labels(i: int, labels: Any, ids: np.ndarray, own: tuple[int, int], given: Any) -> list[Any]:
    """A label or None for every token of a row, special ones included."""
    row, values = len(ids), [None if _missing(value) else value for value in _listed(labels)]
    start, end = own
    padded = None if isinstance(given, str) else _listed(given)
    if padded is not None and len(values) == len(padded) > row:
        shift = next(s for s in range(len(padded) - row + 1) if padded[s : s + row] == ids.tolist())
        values = values[shift : shift + row]
    if len(values) > row and all(value is None for value in values[row:]):
        values = values[:row]
    if len(values) == end - start:
        values = [*[None] * start, *values, *[None] * (row - end)]
    if len(values) != row:
        special = "" if end - start == row else f", {row - end + start} of them special"
        raise TableError(f"text {i} has {row} tokens{special}, and {len(values)} labels: give one for each")
    return values


def _listed(values: Any) -> list[Any]:
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _of_spans(spans: Any, ranges: np.ndarray, text: str, own: tuple[int, int], rest: Any) -> list[Any]:
    """A label or None for every token: that of the span that it stands in, or that of the rest."""
    values: list[Any] = [None] * len(ranges)
    values[slice(*own)] = [rest] * (own[1] - own[0])
    for start, end, *label in spans:
        if not 0 <= start < end <= len(text):
            raise TableError(
                f"span ({start}, {end}) does not lie in {text[:40]!r}, of {len(text)} characters"
            )
        for token in np.flatnonzero(touched(ranges, start, end)):
            values[token] = label[0] if label else True
    return values


def _one_each(what: str, values: Any, rows: TokenRows) -> list[Any]:
    listed = _listed(values)
    if len(listed) != len(rows.ids):
        raise TableError(f"{what}= has {len(listed)} entries for {len(rows.ids)} texts; one for each")
    return listed


def _text_clusters(rows: TokenRows, texts: list[str] | None, clusters: Any) -> np.ndarray:
    """The cluster of every text: what is given, and texts or token rows that are alike."""
    given = None if clusters is None else pd.Series(_one_each("clusters", clusters, rows), dtype=object)
    alike = texts or [" ".join(map(str, row.tolist())) for row in rows.ids]
    return row_clusters(alike, given, len(rows.ids))[0]


def _frame(rows: TokenRows, values: list[list[Any]], target: str, words: _Words) -> pd.DataFrame:
    """One line for each labelled token."""
    if target in _COLUMNS:
        raise TableError(
            f"target={target!r} is a column of every table of tokens: call the labels something else"
        )
    lines: list[tuple[Any, ...]] = []
    for text, (ids, labels, own) in enumerate(zip(rows.ids, values, rows.own, strict=True)):
        for position, label in enumerate(labels):
            if label is not None:
                first, end = own if own[0] <= position < own[1] else (0, len(ids))
                near = slice(max(first, position - AROUND), min(end, position + AROUND + 1))
                token = int(ids[position])
                lines.append((text, position, token, words.of[token], words.joined(ids[near]), label))
    if not lines:
        raise TableError("no token has a label")
    return pd.DataFrame(lines, columns=[*_COLUMNS[:5], target])


class _Words:
    """Tokens as text: as a tokenizer decodes them, or their numbers where there is none."""

    def __init__(self, ids: Sequence[np.ndarray], tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._joined: dict[bytes, str] = {}
        self._every = [int(token) for token in np.unique(np.concatenate(ids))]

    @cached_property
    def of(self) -> dict[int, str]:
        """Every token."""
        return {token: self.joined(np.array([token])) for token in self._every}

    def joined(self, ids: np.ndarray) -> str:
        """Some tokens, one after the other; never empty."""
        key = ids.tobytes()
        if key not in self._joined:
            numbers = " ".join(f"t{token}" for token in ids)
            if self._tokenizer is None:
                self._joined[key] = numbers
            else:
                text = str(self._tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False))
                self._joined[key] = text if text.strip() else f"{text}{numbers}"
        return self._joined[key]
