"""Which rows are held out together, and what probe and baselines say of them, refitted without."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from einops import rearrange
from jaxtyping import Float, Int, Shaped
from tqdm.auto import tqdm

from graticule.hooks.alignment import by_place
from graticule.hooks.messages import NotApplicable, UnknownNameError, did_you_mean
from graticule.probes.core.findings import Findings
from graticule.probes.core.fit import Problem, stack
from graticule.probes.core.inputs import SweepInputs
from graticule.probes.linear.refits import BlockFits, leave_blocks_out
from graticule.probes.linear.ridge_cv import ridge_fit
from graticule.probes.linear.rows import as_rows, linear_map
from graticule.probes.linear.sparse import sparse_ridge
from graticule.probes.surface.joint import JOINT, joint_rows
from graticule.probes.surface.serving import features_of
from graticule.probes.surface.string_ridge import TermCounts
from graticule.probes.surface.strings import SPELLING, STRINGS, TFIDF, TREES, StringReader
from graticule.probes.surface.token_readers import TOKENS
from graticule.probes.surface.trees import boosted_test, plan_of
from graticule.probes.tables.checks import need_column
from graticule.probes.tables.table import Table

_TOLERANCE = 1e-4  # of the sparse solves, in standard deviations: far below any error of the strings
_STRING_WORK = 2_000_000
_TREE_WORK = 100_000
_VALUES_AT_ONCE = 1 << 22

By: TypeAlias = "str | int | Shaped[np.ndarray, ' row'] | pd.Series | Sequence[Any]"
"""A column of the table, or one label per table row."""


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

    Raises:
        KeyError: An unknown column.
        ValueError: Labels of another length, an unknown value, fewer than two blocks, a block with no test
            row, or one that leaves no rows to learn from.
    """
    name, column = _labels(table, by)
    codes, values_there = pd.factorize(column.where(column.map(_present)), sort=False)
    codes = codes[problem.source]
    labels = [_text(v) for v in values_there]
    numeric = pd.api.types.is_numeric_dtype(pd.Series(list(values_there)).infer_objects())
    size = np.bincount(codes[codes >= 0], minlength=len(labels))
    tests = np.bincount(codes[(codes >= 0) & problem.is_test], minlength=len(labels))
    if values is None:
        # stable sorts, so that equal sizes keep the table's order
        order = np.argsort(np.asarray(values_there, np.float64) if numeric else -size, kind="stable")
        chosen = [int(i) for i in order if tests[i] >= max(minimum, 1)]
    else:
        wanted = [_text(v) for v in values]
        if twice := [v for i, v in enumerate(wanted) if v in wanted[:i]]:
            raise ValueError(f"values= names {name} {twice[0]!r} twice: name every block once")
        chosen = [_find(v, labels, name) for v in wanted]
        if without := [labels[i] for i in chosen if tests[i] == 0]:
            raise ValueError(
                f"{name} {without[0]!r} has no test row, so there is no nominal score to compare"
            )
    small = len(labels) - len(chosen)
    largest = int(size.argmax()) if len(size) else -1
    if skip_majority and largest in chosen:
        chosen.remove(largest)
    if len(chosen) < 2:
        raise NotApplicable(
            f"{len(chosen)} blocks of {name} can be held out, of {len(labels)} with rows (at least {minimum} "
            f"test rows each; the largest has {int(tests.max(initial=0))}): give another column or a lower "
            "minimum="
        )
    rows = tuple(np.flatnonzero(codes == i) for i in chosen)
    clusters = problem.clusters
    mates = tuple(np.setdiff1d(np.flatnonzero(np.isin(clusters, clusters[r])), r) for r in rows)
    for i, own, others in zip(chosen, rows, mates, strict=True):
        if len(codes) - len(own) - len(others) < 3:
            raise NotApplicable(
                f"{name} {labels[i]!r} takes {len(own) + len(others)} of {len(codes)} rows out (with those "
                "that share a cluster with it): nothing is left to learn from"
            )
    note = [f"{small} blocks left out" + (f" (fewer than {minimum} test rows)" if values is None else "")]
    if skip_majority and largest >= 0:
        note.append(f"the largest, {labels[largest]}, is never held out")
    if unlabelled := int((codes < 0).sum()):
        note.append(f"{unlabelled} rows without {name} are always learnt from")
    return Blocks(name, tuple(labels[i] for i in chosen), rows, mates, numeric, "; ".join(note))


def _labels(table: Table, by: By) -> tuple[str, pd.Series]:
    if isinstance(by, str | int | np.integer):
        by = str(by)
        if by in table.blocks:
            return by, table.blocks[by].reset_index(drop=True)
        if by not in table.frame.columns:
            columns = list(dict.fromkeys([*table.blocks, *map(str, table.frame.columns)]))
            hint = did_you_mean(by, columns).removeprefix("; ")
            hint = f"{hint} " if hint else ""
            raise UnknownNameError(f"no column {by!r} in {table.name}: {hint}it has {', '.join(columns)}")
        return by, table.frame[need_column(table.frame, by, "blocks")].reset_index(drop=True)
    labels = pd.Series(by_place("by", by, "table rows") if isinstance(by, pd.Series) else list(by))
    if len(labels) != len(table):
        raise ValueError(f"{len(labels)} labels for the {len(table)} rows of {table.name}: give one per row")
    return (str(by.name) if isinstance(by, pd.Series) and by.name is not None else "block"), labels


def _present(value: Any) -> bool:
    return not (pd.isna(value) or (isinstance(value, str) and not value.strip()))


def _text(value: Any) -> str:
    whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return str(int(value)) if whole else str(value)


def _find(value: str, labels: Sequence[str], name: str) -> int:
    if value not in labels:
        hint = did_you_mean(value, labels) or f"; it has {', '.join(labels[:10])} …"
        raise ValueError(f"no row has {name} {value!r}{hint}")
    if labels.count(value) > 1:
        raise ValueError(f"rows have {name} {value!r} as text and as a number: make them one kind")
    return labels.index(value)


# Refits ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class ProbeWithout:
    """The probe of one point with every block inside, and without each."""

    alpha: float
    """Strength, the same in all fits."""
    nominal: Float[np.ndarray, "row target"]
    """Of every row, by the fit on the training rows of the table's own split."""
    fits: BlockFits
    """One fit per block, on all other rows, test rows too."""
    held_out: Float[np.ndarray, "held target"]
    """Of every held-out row, block by block, by the fit without its block."""


def probe_without(findings: Findings, point: str, blocks: Blocks, alpha: float | None = None) -> ProbeWithout:
    """Refit the probe of `point` without each block, at its own strength or at `alpha`."""
    swept, probe = findings.inputs, findings.probes[point]
    X, problem = swept.activations[point], swept.problem
    if alpha is None:
        strength, nominal = probe.alpha, probe.predict(X)
    else:
        strength, train = float(alpha), problem.train
        nominal = ridge_fit(swept.rows(point, train), problem.y[train], strength).predict(X)
    (fits,) = leave_blocks_out(X, problem.y, blocks.taken_out, [strength])
    held_out = [fits.predict(i, swept.rows(point, rows)) for i, rows in enumerate(blocks.rows)]
    return ProbeWithout(strength, nominal, fits, np.concatenate(held_out))


def probes_without(
    findings: Findings, blocks: Blocks, progress: bool | None
) -> Iterator[tuple[str, ProbeWithout]]:
    """Every point with its `probe_without`, each at its own strength."""
    quiet = progress is False or (progress is None and len(findings.probes) * len(blocks.every) < 50_000)
    for point in tqdm(findings.probes, desc="hold-outs", unit="layer", disable=quiet, leave=False):
        yield point, probe_without(findings, point, blocks)


def predicted_everywhere(
    swept: SweepInputs, point: str, fits: BlockFits
) -> Iterator[tuple[int, Float[np.ndarray, "row target"]]]:
    """Every block's number, and what the fit without it says of all rows; a few blocks in one product."""
    rows = as_rows(swept.activations[point])
    n = rows.shape[0]
    n_blocks, n_targets = fits.intercept.shape
    step = max(1, _VALUES_AT_ONCE // (n * n_targets))
    for first in range(0, n_blocks, step):
        part = slice(first, first + step)
        coef = rearrange(fits.coef[part], "block width target -> width (block target)")
        readings = linear_map(rows, coef, fits.intercept[part].ravel())
        by_block = rearrange(readings, "row (block target) -> block row target", target=n_targets)
        yield from enumerate(np.ascontiguousarray(by_block), first)


def baselines_without(
    findings: Findings, blocks: Blocks, strings: bool | None, progress: bool | None
) -> tuple[dict[str, Float[np.ndarray, "held target"]], tuple[str, ...]]:
    """Baseline → its predictions of the held-out rows, refitted like the probe; and baselines left out.

    Each keeps the layer and the strength that it was given on training rows. `surface`, the first, is their
    stack, with the weights of the nominal split. TF-IDF needs a sparse solve for each block, boosted trees
    as many iterations as they were given: without being asked for (`strings=True`) they are left out where
    these would take minutes, and the stack is then made without them.
    """
    swept = findings.inputs
    problem = swept.problem
    out: dict[str, np.ndarray] = {}
    features = features_of(swept.baselines, swept.activations, problem)
    for name, (feature, rows) in features.items():
        fitted = findings.baselines[name]
        X = as_rows(feature[fitted["point"]])
        same = np.array_equal(rows, np.arange(X.shape[0]))
        values = X.values if same else X.gather(rows)
        (fits,) = leave_blocks_out(values, problem.y, blocks.taken_out, [fitted["alpha"]])
        held_out = [fits.predict(i, X.gather(rows[r])) for i, r in enumerate(blocks.rows)]
        out[name] = np.concatenate(held_out)
    left_out: tuple[str, ...] = tuple(name for name in TOKENS if name in swept.baseline_predictions)
    work = len(blocks.rows) * len(problem.y)
    own = {*swept.baseline_predictions} & {*STRINGS}
    reader = StringReader.of(swept.table, problem, swept.baselines.tokens) if own - {TFIDF} else None
    if SPELLING in own and reader is not None:
        values = as_rows(reader.additive[SPELLING]).gather(reader.place)
        out[SPELLING] = _ridge_without(findings, blocks, SPELLING, values)
    points = {name: findings.baselines[name]["point"] for name in features}
    if JOINT in findings.baselines:
        joint = joint_rows(features, points, swept.table, problem, reader)
        assert joint is not None
        joint = joint.only(findings.baselines[JOINT]["of"])
        out[JOINT] = _ridge_without(findings, blocks, JOINT, joint.every())
    for name, too_much in ((TFIDF, _STRING_WORK), (TREES, _TREE_WORK // problem.y.shape[1])):
        if name not in own:
            continue
        if not (work <= too_much if strings is None else strings):
            left_out = (*left_out, name)
        elif name == TFIDF:
            out[name] = np.concatenate(list(_tfidf_without(findings, blocks, progress)))
        elif reader is not None:
            out[name] = _trees_without(findings, blocks, reader)
    if out:
        folds = {name: swept.baseline_predictions[name].out_of_fold for name in out}
        out = {"surface": stack(folds, problem.y[problem.train]).predict(out), **out}
    return out, left_out


def _tfidf_without(findings: Findings, blocks: Blocks, progress: bool | None) -> Iterable[np.ndarray]:
    """TF-IDF of each block's rows from those outside it, by ridge at the strength chosen on training rows."""
    swept = findings.inputs
    table, problem = swept.table, swept.problem
    strings = table.strings or []
    texts = [strings[i] for i in problem.source]
    counts = TermCounts.of(texts, len(texts))
    min_df = counts.usable_df(2)
    alpha = float(findings.baselines["tfidf"]["alpha"])
    quiet = progress is False or (progress is None and len(texts) * len(blocks.rows) < 100_000)
    pairs = tqdm(
        zip(blocks.rows, blocks.taken_out, strict=True),
        desc="TF-IDF", total=len(blocks.rows), unit="block", disable=quiet, leave=False,
    )  # fmt: skip
    for rows, gone in pairs:
        rest = np.setdiff1d(np.arange(len(texts)), gone)
        matrix = counts.matrix(rest, min_df)
        middle, spread = problem.y[rest].mean(axis=0), problem.y[rest].std(axis=0)
        if matrix.shape[1] == 0:
            yield np.tile(middle, (len(rows), 1))
            continue
        z = (problem.y[rest] - middle) / np.where(spread > 0, spread, 1.0)
        (coef,), (intercept,) = sparse_ridge(matrix[rest], z, [alpha], tol=_TOLERANCE)
        yield (matrix[rows] @ coef + intercept) * spread + middle


def _ridge_without(findings: Findings, blocks: Blocks, name: str, values: np.ndarray) -> np.ndarray:
    """A member on columns, of each block's rows from those outside it, at the strength chosen before."""
    alpha = findings.baselines[name]["alpha"]
    (fits,) = leave_blocks_out(values, findings.inputs.problem.y, blocks.taken_out, [alpha])
    return np.concatenate([fits.predict(i, values[rows]) for i, rows in enumerate(blocks.rows)])


def _trees_without(findings: Findings, blocks: Blocks, reader: StringReader) -> np.ndarray:
    """Boosted trees of each block's rows from those outside it, of as many iterations as chosen before."""
    y, X = findings.inputs.problem.y, reader.seen_by_trees
    line = findings.baselines[TREES]
    iterations, rate = line["iterations"], plan_of(y.shape[1])[1]
    parts: list[np.ndarray] = []
    for rows, gone in zip(blocks.rows, blocks.taken_out, strict=True):
        rest = np.setdiff1d(np.arange(len(y)), gone)
        pairs = zip(y[rest].T, iterations, strict=True)
        columns = [boosted_test(X[rest], own, X[rows], int(count), rate) for own, count in pairs]
        parts.append(np.stack(columns, axis=1))
    return np.concatenate(parts)
