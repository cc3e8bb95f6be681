"""Which rows are held out together: the blocks of a table, and the rows that must go out with them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Int, Shaped

from graticule.hooks.alignment import by_place
from graticule.hooks.messages import UnknownNameError
from graticule.probes.applicable import NotApplicable
from graticule.probes.layers import Problem
from graticule.probes.tables.checks import need_column
from graticule.probes.tables.table import Table

By: TypeAlias = "str | int | Shaped[np.ndarray, ' row'] | pd.Series | Sequence[Any]"
"""A column of the table, or a label a table row."""


@dataclass(frozen=True)
class Blocks:
    """Blocks of activation rows to be held out, one at a time."""

    by: str
    """What they are blocks of: a column's name."""
    names: tuple[str, ...]
    """Numbers (a century) by value, words by size, the largest first."""
    rows: tuple[Int[np.ndarray, " _"], ...]
    """Activation rows of each block."""
    mates: tuple[Int[np.ndarray, " _"], ...]
    """Rows outside a block that share a cluster with one inside: not to be learnt from either."""
    numeric: bool
    """Whether the labels are numbers."""
    note: str
    """What was left out."""

    @property
    def taken_out(self) -> tuple[Int[np.ndarray, " _"], ...]:
        """The rows that each fit must not see."""
        return tuple(np.concatenate([r, m]) for r, m in zip(self.rows, self.mates, strict=True))

    @property
    def code(self) -> Int[np.ndarray, " held"]:
        """The block of every held-out row, in the order of `every`."""
        return np.repeat(np.arange(len(self.rows)), [len(r) for r in self.rows])

    @property
    def every(self) -> Int[np.ndarray, " held"]:
        """All held-out rows, block by block."""
        return np.concatenate(self.rows)


def find_blocks(
    table: Table,
    problem: Problem,
    by: By,
    *,
    values: Sequence[Any] | None = None,
    minimum: int = 10,
    skip_majority: bool = False,
) -> Blocks:
    """The blocks of `by` with at least `minimum` test rows, or those named by `values`.

    Rows without a label belong to no block. With `skip_majority` the largest block is not held out, as in
    the paper's hold-outs of entity types.

    **Raises** `KeyError` for an unknown column; `ValueError` for labels of another length, an unknown value,
    fewer than two blocks, a block with no test row, or one that leaves no rows to learn from.
    """
    name, labels = _labels(table, by)
    codes, found = pd.factorize(labels.where(labels.map(_present)), sort=False)
    codes = codes[problem.source]
    words = [_word(v) for v in found]
    numeric = pd.api.types.is_numeric_dtype(pd.Series(list(found)).infer_objects())
    size = np.bincount(codes[codes >= 0], minlength=len(words))
    tests = np.bincount(codes[(codes >= 0) & problem.is_test], minlength=len(words))
    # stable sorts, so that equal sizes keep the table's order
    order = (
        np.argsort(np.asarray(found, np.float64), kind="stable")
        if numeric
        else np.argsort(-size, kind="stable")
    )
    if values is None:
        kept = [int(i) for i in order if tests[i] >= max(minimum, 1)]
    else:
        asked = [_word(v) for v in values]
        if twice := [v for i, v in enumerate(asked) if v in asked[:i]]:
            raise ValueError(f"values= names {name} {twice[0]!r} twice: name every block once")
        kept = [_find(v, words, name) for v in asked]
        if without := [words[i] for i in kept if tests[i] == 0]:
            raise ValueError(
                f"{name} {without[0]!r} has no test row, so there is no nominal score to compare"
            )
    small = len(words) - len(kept)
    largest = int(size.argmax()) if len(size) else -1
    if skip_majority and largest in kept:
        kept.remove(largest)
    if len(kept) < 2:
        raise NotApplicable(
            f"{len(kept)} blocks of {name} can be held out, of {len(words)} with rows (at least {minimum} "
            f"test rows each; the largest has {int(tests.max(initial=0))}): give another column or a lower "
            "minimum="
        )
    rows = tuple(np.flatnonzero(codes == i) for i in kept)
    mates = tuple(_mates(r, problem.clusters) for r in rows)
    for i, held, others in zip(kept, rows, mates, strict=True):
        if len(codes) - len(held) - len(others) < 3:
            raise NotApplicable(
                f"{name} {words[i]!r} takes {len(held) + len(others)} of {len(codes)} rows out (with those "
                "that share a cluster with it): nothing is left to learn from"
            )
    note = [f"{small} blocks left out" + (f" (fewer than {minimum} test rows)" if values is None else "")]
    if skip_majority and largest >= 0:
        note.append(f"the largest, {words[largest]}, is never held out")
    if unlabelled := int((codes < 0).sum()):
        note.append(f"{unlabelled} rows without {name} are always learnt from")
    return Blocks(name, tuple(words[i] for i in kept), rows, mates, numeric, "; ".join(note))


def _labels(table: Table, by: By) -> tuple[str, pd.Series]:
    if isinstance(by, str | int | np.integer):
        by = str(by)
        if by in table.blocks:
            return by, table.blocks[by].reset_index(drop=True)
        if by not in table.frame.columns:
            known = [*table.blocks, *map(str, table.frame.columns)]
            near = difflib.get_close_matches(by, known, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UnknownNameError(
                f"no column {by!r} in {table.name}: {hint}it has {', '.join(dict.fromkeys(known))}"
            )
        return by, table.frame[need_column(table.frame, by, "blocks")].reset_index(drop=True)
    labels = pd.Series(by_place("by", by, "table rows") if isinstance(by, pd.Series) else list(by))
    if len(labels) != len(table):
        raise ValueError(f"{len(labels)} labels for the {len(table)} rows of {table.name}: give one a row")
    return (str(by.name) if isinstance(by, pd.Series) and by.name is not None else "block"), labels


def _present(value: Any) -> bool:
    return not (pd.isna(value) or (isinstance(value, str) and not value.strip()))


def _word(value: Any) -> str:
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _find(value: str, words: Sequence[str], name: str) -> int:
    if value not in words:
        near = difflib.get_close_matches(value, words, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(words[:10])} …"
        raise ValueError(f"no row has {name} {value!r}{hint}")
    if words.count(value) > 1:
        raise ValueError(f"rows have {name} {value!r} as text and as a number: make them one kind")
    return words.index(value)


def _mates(rows: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    return np.setdiff1d(np.flatnonzero(np.isin(clusters, clusters[rows])), rows)
