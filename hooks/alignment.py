"""Which text every row of activations is of, and whether a table has that text in that place.

Every row carries a digest of its text (the column `text_digest`) through selections, stores and files, so
that activations of other texts, of fewer of them or in another order are told from the table's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int, Shaped

from graticule.hooks.values import unmasked

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
        AlignmentError: A row's source is none of the texts, or a row is known to be of another of them; or
            there are more or fewer texts than inputs: which of them is left out, nothing says.
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
    digests = text_digests(given)
    if (before := whole_column(rows, DIGEST)) is not None:
        check_places(
            before,
            source,
            digests,
            lambda row, place: (
                f"row {row} is already known to be of entry {place} of the texts given, not of entry "
                f"{source[row]}, which its column 'source' says: leave these texts out (a table that is "
                "sorted or filtered as the rows are is paired with them as they stand)"
            ),
        )
    return rows.assign(**{DIGEST: digests[source]})


def whole_column(rows: pd.DataFrame, column: str) -> Int[np.ndarray, " row"] | None:
    """A column of digests, or None where there is none or it has gaps."""
    if column not in rows or rows[column].isna().any():
        return None
    return rows[column].to_numpy(np.int64)


def check_places(
    ours: Int[np.ndarray, " row"],
    place: Int[np.ndarray, " row"],
    theirs: Int[np.ndarray, " text"],
    words: Callable[[int, int], str],
) -> None:
    """Refuse rows that are another's: what is none of the texts (they were set into a prompt, say) may be.

    Args:
        ours: The digest of what each row is known to be of.
        place: Which text each row is said to be of.
        theirs: The digests of all texts.
        words: What to say of a row, and of the place of the text that it is of.

    Raises:
        AlignmentError: Some row has the digest of another text, and not that of its own.
    """
    wrong = np.flatnonzero((ours != theirs[place]) & np.isin(ours, theirs))
    if len(wrong):
        row = int(wrong[0])
        raise AlignmentError(words(row, int(np.flatnonzero(theirs == ours[row])[0])))


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
) -> tuple[Int[np.ndarray, " row"], str]:
    """Which row of a table every row of activations goes with, and how that is known.

    That is row `source`; or, where all digests say so, the k-th text in the order of the rows is of the
    table's row k: both were sorted or filtered alike after the rows were made.

    Args:
        rows: The row table of the activations.
        provenance: Theirs; `n_inputs` is how many texts `source` counts.
        texts: The table's texts, or None.
        n_rows: How many rows the table has.
        table: Its name.

    Returns:
        Table rows; and `COMPARED`, or `BY_PLACE` where nothing says which texts the rows are of.

    Raises:
        AlignmentError: Some row is of another text than the table has in its place, or nothing says which
            texts the rows are of and there are more or fewer of them than the table has.
    """
    source = sources(rows)
    digests = whole_column(rows, DIGEST)
    if texts is not None and digests is not None:
        return _compared(source, digests, texts, table), COMPARED
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
    return source, BY_PLACE


def _compared(
    source: np.ndarray, digests: np.ndarray, texts: Sequence[str], table: str
) -> Int[np.ndarray, " row"]:
    """The table row of every row, whose text is the table's.

    Raises:
        AlignmentError: Naming the first row of another text.
    """
    expected = text_digests(texts)
    inside = (source >= 0) & (source < len(expected))
    same = inside.copy()
    same[inside] = digests[inside] == expected[source[inside]]
    if same.all():
        return source
    appears = pd.factorize(source)[0].astype(np.int64)
    if appears.max() + 1 == len(expected) and (digests == expected[appears]).all():
        return appears
    row = int(np.flatnonzero(~same)[0])
    place = int(source[row])
    theirs = f"has {str(texts[place])[:40]!r} there" if inside[row] else f"has {len(texts)} rows"
    missing = int((~np.isin(digests, expected)).sum())
    order = "its texts in another order" if len(np.unique(source)) == len(texts) else "some of its texts"
    kind = f"{missing} of the rows are of none of its texts" if missing else order
    way = "sort or filter both alike: activations.select(rows), table.take(rows)"
    if missing == len(digests):
        way = (
            "if they are its rows all the same (a prompt written into the texts, say), write "
            "activations.with_texts(table.texts)"
        )
    raise AlignmentError(
        f"activation row {row} is of another text than row {place} of table {table!r}, which {theirs} "
        f"({kind}): capture table.texts; {way}"
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
    ours, read = whole_column(rows, TOKEN_DIGEST), whole_column(others, TOKEN_DIGEST)
    if ours is None or read is None:
        return False
    first = others.assign(read=read).drop_duplicates("source")
    source, index = sources(rows), pd.Index(first["source"])
    place = index.get_indexer(pd.Index(source))
    if (place < 0).any():
        return False
    expected = first["read"].to_numpy(np.int64)
    check_places(
        ours,
        place,
        expected,
        lambda row, other: (
            f"activation row {row} has the tokens of row {index[other]} of table {table!r}, not those of its "
            f"row {source[row]}: capture in the table's order, or say whose texts these are, texts=, in "
            "the order of the inputs"
        ),
    )
    return bool((expected[place] == ours).all())


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
