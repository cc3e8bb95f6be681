"""Which text every row of activations is of, and whether a table has that text in that place.

Every row carries a digest of its text (the column `text_digest`) through selections, stores and files, so
that activations of other texts, of fewer of them or in another order are told from the table's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int, Shaped

from graticule.hooks.masked import unmasked

DIGEST = "text_digest"
"""The column of a row table that holds the digest of each row's text."""
TOKEN_DIGEST = "token_digest"
"""The column that holds the digest of the tokens of each row's text, special ones left out."""
COMPARED = "texts compared"
"""How rows were paired with a table: every row's text is the table's."""
BY_TOKENS = "tokens compared"
"""How rows were paired with a table: every row's tokens are those of the table's text."""
BY_PLACE = "by place"
"""How rows were paired with a table: nothing says which texts they are of."""


class AlignmentError(ValueError):
    """Activations and a table that are not of the same rows, or values that may be of other rows."""


def text_digests(texts: Sequence[str]) -> Int[np.ndarray, " text"]:
    """A 64-bit digest of every text."""
    made = [
        int.from_bytes(
            hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(),
            "little",
            signed=True,
        )
        for text in texts
    ]
    return np.array(made, dtype=np.int64)


def with_digests(rows: pd.DataFrame, texts: Sequence[str], n_inputs: int | None = None) -> pd.DataFrame:
    """A row table that says of which of `texts` every row is.

    Args:
        rows: Rows with a `source` column.
        texts: The texts that `source` counts.
        n_inputs: How many inputs `source` counts, where that is known.

    Returns:
        The same rows with their digests.

    Raises:
        AlignmentError: A row's source is none of the texts, or there are more or fewer texts than inputs:
            which of them is left out, nothing says.
        TypeError: The texts are no texts.
    """
    source = sources(rows)
    given: list[Any] = list(texts)
    if isinstance(texts, str) or not all(isinstance(text, str) for text in given):
        raise TypeError(f"texts= is {type(texts).__name__}; expected a list of texts, one for each input")
    if n_inputs is not None and n_inputs != len(given):
        raise AlignmentError(
            f"the activations are of {n_inputs} inputs and texts= has {len(given)}: give the text of each "
            "input, in their order, or rows= with a column 'source', the number of each row's text"
        )
    if len(source) and not 0 <= source.min() <= source.max() < len(given):
        raise AlignmentError(
            f"the rows are of inputs {source.min()} to {source.max()}, but texts= has {len(given)}: "
            "give one text for each input"
        )
    return rows.assign(**{DIGEST: text_digests(given)[source]})


def sources(rows: pd.DataFrame) -> Int[np.ndarray, " row"]:
    """Which input every row is of.

    Raises:
        AlignmentError: The row table does not say, or not in whole numbers.
    """
    if "source" not in rows:
        raise AlignmentError(
            "the row table has no column 'source' (which text each row is of): make the activations with "
            "Activations.from_tensors, or add it"
        )
    given = rows["source"]
    numbers = pd.to_numeric(given, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    whole = np.isfinite(numbers) & (np.trunc(numbers) == numbers) & (given.dtype != bool)
    if len(wrong := np.flatnonzero(~whole)):
        row = int(wrong[0])
        raise AlignmentError(
            f"column 'source' of the row table is {given.iloc[row]} at row {row}: expected the number of "
            "the text that the row is of, from 0"
        )
    return numbers.astype(np.int64)


def paired(
    rows: pd.DataFrame,
    provenance: Mapping[str, Any],
    texts: Sequence[str] | None,
    n_rows: int,
    table: str,
) -> str:
    """How rows of activations go with the rows of a table.

    Args:
        rows: The row table of the activations.
        provenance: Theirs; `n_inputs` is how many texts `source` counts.
        texts: The table's texts, or None.
        n_rows: How many rows the table has.
        table: Its name.

    Returns:
        `COMPARED`, or `BY_PLACE` where nothing says which texts the rows are of.

    Raises:
        AlignmentError: Some row is of another text than the table has in its place, or nothing says which
            texts the rows are of and there are more or fewer of them than the table has.
    """
    source = sources(rows)
    known = rows.get(DIGEST)
    if texts is not None and known is not None and bool(known.notna().all()):
        _compare(source, known.to_numpy(np.int64), texts, table)
        return COMPARED
    if len(source) and not 0 <= source.min() <= source.max() < n_rows:
        raise AlignmentError(
            f"the activations come from {source.max() + 1} texts, table {table!r} has {n_rows} rows; "
            "capture table.texts (rows dropped by the table shift the others)"
        )
    if "call" in rows and rows["call"].nunique() > 1:
        raise AlignmentError(
            f"{rows['call'].nunique()} calls were recorded, each counts its texts from 0: which rows of "
            f"table {table!r} they are of is not known; record(model, texts=table.texts) says it"
        )
    n_inputs = provenance.get("n_inputs")
    if n_inputs is not None and int(n_inputs) != n_rows:
        raise AlignmentError(
            f"the activations come from {n_inputs} inputs, table {table!r} has {n_rows} rows, and nothing "
            "says which these are: give texts=, or a 'source' column with the table row of each"
        )
    return BY_PLACE


def _compare(source: np.ndarray, known: np.ndarray, texts: Sequence[str], table: str) -> None:
    expected = text_digests(texts)
    inside = (source >= 0) & (source < len(expected))
    same = inside.copy()
    same[inside] = known[inside] == expected[source[inside]]
    if same.all():
        return
    row = int(np.flatnonzero(~same)[0])
    place = int(source[row])
    theirs = f"has {str(texts[place])[:40]!r} there" if inside[row] else f"has {len(texts)} rows"
    missing = int((~np.isin(known, expected)).sum())
    order = "its texts in another order" if len(np.unique(source)) == len(texts) else "some of its texts"
    kind = f"{missing} of the rows are of none of its texts" if missing else order
    raise AlignmentError(
        f"activation row {row} is of another text than row {place} of table {table!r}, which {theirs} "
        f"({kind}): capture table.texts; if they are its rows all the same (a prompt written into the texts, "
        "say), write activations.with_texts(table.texts)"
    )


def by_tokens(rows: pd.DataFrame, others: pd.DataFrame, table: str) -> bool:
    """Whether rows of token ids are those of a table's texts, by other rows that were made of these texts.

    Args:
        rows: The row table of activations of which nothing says the texts.
        others: That of activations of the table's texts, captured with the same tokenizer.
        table: Its name.

    Returns:
        Whether every row has the tokens of the table's text in its place; False where that cannot be told,
        as of texts that were set into a prompt before they were tokenised.

    Raises:
        AlignmentError: Some row has the tokens of another of the table's texts, and not of its own.
    """
    if any(TOKEN_DIGEST not in one or one[TOKEN_DIGEST].isna().any() for one in (rows, others)):
        return False
    expected = others.drop_duplicates("source").set_index("source")[TOKEN_DIGEST]
    source, known = sources(rows), rows[TOKEN_DIGEST].to_numpy(np.int64)
    if not np.isin(source, expected.index).all():
        return False
    own = expected.loc[source].to_numpy(np.int64) == known
    elsewhere = ~own & np.isin(known, expected.to_numpy())
    if elsewhere.any():
        row = int(np.flatnonzero(elsewhere)[0])
        place = expected.index[expected.to_numpy() == known[row]][0]
        raise AlignmentError(
            f"activation row {row} has the tokens of row {place} of table {table!r}, not those of its row "
            f"{source[row]}: capture token rows in the table's order, or with texts=table.texts"
        )
    return bool(own.all())


def by_place(what: str, values: Any, rows: str = "rows") -> Shaped[np.ndarray, ...]:
    """Values as an array whose place says which row each is of.

    Args:
        what: The argument, for the message.
        values: A list, an array, or a pandas Series, Index or DataFrame.
        rows: What the rows are of, for the message.

    Returns:
        The values as an array.

    Raises:
        AlignmentError: A Series or DataFrame whose index is not 0, 1, 2, …: its index says one order, its
            place another.
        MaskedError: Some entries are masked.
    """
    if isinstance(values, pd.Series | pd.DataFrame):
        if not np.array_equal(values.index.to_numpy(), np.arange(len(values))):
            first = ", ".join(map(str, values.index[:3]))
            raise AlignmentError(
                f"{what} is a {type(values).__name__} whose index ({first}, …) is not 0, 1, 2, …, and {rows} "
                f"are counted by place: pass {what}.to_numpy() if it stands in their order, or "
                f"{what}.sort_index().to_numpy() if its index says the row"
            )
        return values.to_numpy()
    return np.asarray(unmasked(what, values))


def named_by_text(frame: pd.DataFrame) -> pd.DataFrame:
    """The same rows with the text of every column's name, be it a number, a date or a tuple, as its name."""
    names = [str(one) for one in frame.columns]
    return frame if frame.columns.tolist() == names else frame.set_axis(pd.Index(names, dtype=object), axis=1)
