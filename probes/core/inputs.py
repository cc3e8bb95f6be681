"""What a sweep is of: the table row, target, split and cluster of every activation row, and its baselines."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from graticule.hooks.alignment import by_place, paired, sources
from graticule.hooks.calls import renamed_fields
from graticule.hooks.messages import did_you_mean
from graticule.hooks.rows import Rows
from graticule.probes.core.bits import SHARE_OF_ENTROPY, saved_bits
from graticule.probes.core.fit import Predictions, Problem, stack
from graticule.probes.core.gates import Gates
from graticule.probes.core.judge import judge_predictions
from graticule.probes.core.logit_stack import entropy_bits
from graticule.probes.core.verdict import R2_GAIN, JudgeSettings, Verdict
from graticule.probes.linear.rows import as_rows, chunk_rows_for, chunks
from graticule.probes.surface.baselines import Baselines
from graticule.probes.tables.alike import AUTO, alike_rows, alike_texts
from graticule.probes.tables.checks import ColumnError
from graticule.probes.tables.groups import by_content, link_clusters, plain_form
from graticule.probes.tables.table import Table
from graticule.probes.tables.tokens import TokenTable

Target = Table | str | Shaped[np.ndarray, "..."] | Sequence[float] | pd.Series | pd.DataFrame
"""A table, a column of `activations.rows`, or one value (or row of values) an activation row."""

OF_ROWS = "activation rows"
"""The name of a table that was given as an array: its rows are activation rows, not texts."""


def table_of(
    activations: Rows,
    target: Target,
    split: str | np.ndarray | pd.Series | None,
    cluster: str | np.ndarray | pd.Series | None,
) -> tuple[Table, Rows, np.ndarray, str]:
    """The table, the activations, the table row of each of their rows, and how the two were paired.

    Of activations that go with a table, `source` is the table row: they are numbered anew where they were
    sorted or filtered with it.
    """
    if isinstance(target, Table):
        if split is not None or cluster is not None:
            raise ValueError("a Table brings its own split and clusters; set them there")
        source, pairing = paired_rows(activations, target)
        if isinstance(target, TokenTable):  # rows are of its tokens, `source` counts its texts
            labelled = source >= 0
            return (
                target,
                activations if labelled.all() else activations.select(labelled),
                source[labelled],
                pairing,
            )
        if not np.array_equal(source, sources(activations.rows)):
            activations = activations.with_sources(source, len(target))
        return target, activations, source, pairing
    frame = activations.rows.copy()
    text = "text" if "text" in frame else None
    if not isinstance(target, str):
        values = _entries(target, frame)
        names = ["target"] if values.ndim == 1 else [f"target {i}" for i in range(values.shape[1])]
        for name, column in zip(names, values.reshape(len(values), -1).T, strict=True):
            frame[name] = column
    elif target not in frame:
        near = did_you_mean(target, map(str, frame))
        raise ColumnError(
            f"no column {target!r} among the activation rows, which have {', '.join(map(str, frame))}{near}; "
            f"a column of a table needs the table: sweep(activations, graticule.Table(…, target={target!r}))"
        )
    else:
        names = [target]
    columns: dict[str, Any] = {}
    for role, given in (("split", split), ("cluster", cluster)):
        if given is not None and not isinstance(given, str):
            frame[f"given {role}"] = _one_a_row(role, given, len(frame))
            given = f"given {role}"
        columns[role] = given
    presumed = columns["cluster"] == AUTO and AUTO not in frame
    if (
        columns["cluster"] is None or presumed
    ):  # rows of one text are not independent, nor are texts that are alike
        forms = None if text is None else frame[text].map(lambda t: plain_form(str(t)))
        alike: list[pd.Series] = []
        if presumed:
            last = as_rows(activations[activations.points[-1]])
            alike.append(pd.Series(alike_rows(last.gather(np.arange(len(frame))).astype(np.float64))))
            if text is not None:
                alike.append(pd.Series(alike_texts(frame[text].map(str).tolist())))
        frame["given cluster"] = link_clusters([frame["source"], forms, *alike], len(frame))
        columns["cluster"] = "given cluster"
    table = Table(frame, text=text, target=names, name=OF_ROWS, **columns)
    return table, activations, np.arange(len(frame)), "the target is one entry per row"


def _one_a_row(role: str, given: Any, n_rows: int) -> np.ndarray:
    """Raises:
    ValueError: Unless there is one entry per activation row.
    """
    values = by_place(role, given, "activation rows")
    if values.shape != (n_rows,):
        came = f"the single entry {given!r}" if values.ndim == 0 else f"shape {values.shape}"
        raise ValueError(
            f"sweep: {role} is of {came}; expected one entry for each of {n_rows} activation rows"
        )
    return values


def _entries(target: Any, rows: pd.DataFrame) -> np.ndarray:
    """A target that was given as values, one entry per activation row."""
    if isinstance(target, pd.DataFrame) and not all(map(pd.api.types.is_numeric_dtype, target.dtypes)):
        columns = ", ".join(map(str, target.columns[:6]))
        raise TypeError(
            f"sweep: target is a DataFrame with columns {columns}; expected a Table, graticule.Table(frame, "
            "text='COLUMN', target='COLUMN'), or values, frame['COLUMN']"
        )
    flat = (
        "for a label per token, [text, position], make the table, graticule.token_table(model, texts, labels)"
    )
    try:
        values = by_place("target", target, "activation rows")
    except ValueError as error:
        if "inhomogeneous" not in str(error):
            raise
        raise ValueError(f"the target is ragged, and {len(rows)} rows need an entry each: {flat}") from None
    if values.ndim == 0 or len(values) != len(rows):
        count = "one entry" if values.ndim == 0 else f"{len(values)} entries"
        hint = f"; {flat}" if values.ndim == 2 else ""
        raise ValueError(f"the target has {count} for {len(rows)} activation rows{hint}")
    return values


def problem_of(activations: Rows, table: Table, source: Int[np.ndarray, " row"] | None = None) -> Problem:
    """Targets, split and clusters of every activation row; `source` is the table row of each.

    Clusters are numbered by what their rows say, not by where these stand: folds and resamples are drawn by
    number, and so are the same in any order of rows.
    """
    rows = paired_rows(activations, table)[0] if source is None else source
    clusters = by_content(_clusters(activations, table, rows), _said_by(activations, table, rows))
    return Problem(rows, table.y[rows], table.is_test[rows], clusters, table.target_names)


def paired_rows(activations: Rows, table: Table) -> tuple[Int[np.ndarray, " row"], str]:
    """The table row of every activation row, and how the two were paired.

    Args:
        activations: Rows that say which text they are of.
        table: Whose row i is input text i.

    Returns:
        Table rows (−1 for tokens that a table of tokens has no label of), and `alignment.COMPARED` or
        `alignment.BY_PLACE`. They are the rows' own `source`, but
        where rows and table were sorted or filtered alike.

    Raises:
        AlignmentError: They are not of the same texts, naming the first row that differs.
    """
    if isinstance(table, TokenTable):
        return table.paired(activations)
    return paired(activations.rows, activations.provenance, table.texts, len(table), table.name)


def _said_by(activations: Rows, table: Table, source: np.ndarray) -> list[str]:
    """What tells rows apart wherever they stand: their texts, or else their targets and their activations."""
    if table.texts is not None:
        return [table.texts[i] for i in source]
    point, out = activations.points[0], list[str]()
    for index in chunks(np.arange(len(source)), chunk_rows_for(activations.widths[point])):
        values = activations.gather(point, index).float().numpy()
        for i, row in zip(index, np.ascontiguousarray(values), strict=True):
            own = hashlib.blake2b(row.tobytes(), digest_size=16).hexdigest()
            out.append(table.y[source[i]].tobytes().hex() + own)
    return out


def _clusters(activations: Rows, table: Table, source: np.ndarray) -> np.ndarray:
    """The table's clusters, linked where different texts are the same tokens to the model."""
    clusters = table.clusters[source]
    if "same_tokens_as" not in activations.rows:
        return clusters
    alike = activations.rows["same_tokens_as"].reset_index(drop=True)
    return link_clusters([pd.Series(clusters), alike], len(source))


@dataclass(frozen=True)
class Predicted:
    """What one predictor says about the test rows: all that two predictors are compared by."""

    name: str
    """For titles: `ridge at blocks.7.hook_resid_post`."""
    target_names: tuple[str, ...]
    """One name per column."""
    units: tuple[str | None, ...]
    """One unit per column."""
    source: Int[np.ndarray, " test"]
    """The table row of each test row."""
    clusters: Int[np.ndarray, " test"]
    """Dependent rows share one."""
    y: Float[np.ndarray, "test target"]
    """The truth."""
    predictions: Float[np.ndarray, "test target"]
    """In target units."""
    bits: Float[np.ndarray, " test"] | None = None
    """Bits that calibrated probabilities save on each row; None for what is not judged in bits."""


@renamed_fields(draws="n_bootstrap", rivals="baseline_predictions")
@dataclass(frozen=True)
class SweepInputs:
    """Activations, table and baselines of a sweep, aligned: row i of everything is activation row i."""

    activations: Rows
    """Every point that was swept."""
    table: Table
    """Texts, targets, split, clusters, blocks; `problem.source` says which table row is whose."""
    baselines: Baselines
    """Features of the baselines."""
    problem: Problem
    """Targets, split and clusters of the activation rows."""
    baseline_predictions: Mapping[str, Predictions]
    """Baseline → its predictions of the table's own target."""
    settings: JudgeSettings
    """How the findings were judged: anything else is judged alike."""
    gates: Gates = field(default_factory=Gates)
    """What keeps a verdict on these rows open, whatever predictor it is on."""

    @property
    def alphas(self) -> tuple[float, ...] | None:
        """Ridge strengths asked for; None is the default grid."""
        return self.settings.alphas

    @property
    def min_gain(self) -> float:
        """The smallest gain called structure."""
        if self.settings.min_gain is not None:
            return self.settings.min_gain
        if self.settings.score == "r2":
            return R2_GAIN
        return SHARE_OF_ENTROPY * entropy_bits(self.problem.y[self.problem.train])

    @property
    def n_bootstrap(self) -> int:
        """Resamples of an interval."""
        return self.settings.n_bootstrap

    @property
    def seed(self) -> int:
        """Of the bootstrap and the controls."""
        return self.settings.seed

    @property
    def in_r2(self) -> SweepInputs:
        """The same, judged by R², for what cannot be measured in bits."""
        if self.settings.score == "r2":
            return self
        return replace(self, settings=replace(self.settings, score="r2", min_gain=R2_GAIN))

    def rows(
        self, point: str, index: Int[np.ndarray, " row"] | None = None
    ) -> Float[np.ndarray, "row width"]:
        """Activations at a point in float64, all rows or those of `index`."""
        values = as_rows(self.activations[point])
        return values.gather(np.arange(values.shape[0]) if index is None else index)

    @property
    def model_baselines(self) -> tuple[str, ...]:
        """The baselines that read the model."""
        return tuple(self.baselines.features)

    def surface(self) -> Predictions:
        """What the stack of all baselines predicts: out of fold on training rows, plainly on test rows."""
        problem = self.problem
        folds = {name: p.out_of_fold for name, p in self.baseline_predictions.items()}
        tests = {name: p.test for name, p in self.baseline_predictions.items()}
        fit = stack(folds, problem.y[problem.train])
        return Predictions(fit.predict(folds, len(problem.train)), fit.predict(tests, len(problem.test)))

    def judge(
        self, predictions: Predictions, leave_out: Sequence[str] = (), *, width: int | None = None
    ) -> Verdict:
        """The verdict on any predictor against the very surface that the sweep's probe stands against.

        Args:
            predictions: What it says of every row.
            leave_out: Baselines that it does not stand against.
            width: Columns that it could choose from; by default those of the widest point swept.

        Returns:
            The verdict; not decided where the predictor is still the training mean, as the sweep's own, and
            where what stood against the sweep's verdict stands against it as well.
        """
        judged = judge_predictions(
            self.problem,
            predictions,
            {name: p for name, p in self.baseline_predictions.items() if name not in leave_out},
            self.settings,
            model_baselines=self.model_baselines,
            width=max(self.activations.widths.values()) if width is None else width,
        )
        return self.gates.through(judged)

    def predicted(self, name: str, test: Float[np.ndarray, "test target"]) -> Predicted:
        """Predictions of the test rows as something to compare."""
        return predicted_rows(name, self.problem, self.table.units, test)


def predicted_rows(
    name: str,
    problem: Problem,
    units: tuple[str | None, ...],
    test: Float[np.ndarray, "test target"],
    out_of_fold: Float[np.ndarray, "train target"] | None = None,
) -> Predicted:
    """Predictions of a problem's test rows as something to compare; in bits with `out_of_fold` scores."""
    index = problem.test
    bits = None if out_of_fold is None else saved_bits(problem, Predictions(out_of_fold, test))
    return Predicted(
        name=name,
        target_names=problem.names,
        units=units,
        source=problem.source[index],
        clusters=problem.clusters[index],
        y=problem.y[index],
        predictions=test,
        bits=bits,
    )
