"""Findings read from disk, put together again with what they were made from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Int, Shaped

from graticule.hooks.rows import Rows
from graticule.probes.inputs import OF_ROWS, problem_of, table_of
from graticule.probes.layers import Problem
from graticule.probes.material import Material
from graticule.probes.read_again import check_fitted_again, check_read_again, check_same_capture
from graticule.probes.surface.baselines import Baselines, text_digest
from graticule.probes.tables.table import Table

if TYPE_CHECKING:
    from graticule.probes.findings import Findings
    from graticule.probes.inputs import Target


def material_of(
    findings: Findings,
    activations: Rows,
    target: Target,
    baselines: Baselines | None,
    split: str | Shaped[np.ndarray, " row"] | None = None,
    cluster: str | Shaped[np.ndarray, " row"] | None = None,
) -> Material:
    """What `findings` were made from, its rows aligned as their own predictions say they were.

    Args:
        findings: read from disk.
        activations: what was swept.
        target: as `sweep` was given it.
        baselines: as `sweep` was given them.
        split: as `sweep` was given it.
        cluster: as `sweep` was given it.

    Returns:
        The very material of the sweep.

    Raises:
        ValueError: if rows, targets, split, clusters, baselines or points are others.
    """
    table, numbered, here, _ = table_of(activations, target, split, cluster)
    if findings.table == OF_ROWS:
        here = np.arange(activations.n_rows)
    else:
        activations = numbered
    saved = findings.provenance.get("table", {}).get("digest")
    if saved is not None and saved != table.digest:
        raise ValueError(f"these findings are of another table than {table.name!r}: the digests differ")
    if lacking := [point for point in findings.probes if point not in activations]:
        raise ValueError(f"the activations lack {', '.join(lacking[:3])}, which these findings are of")
    if baselines is None:
        baselines = Baselines(text_digest(table), {}, table.texts is not None)
    else:
        baselines.check(table)
    _check_baselines(findings, baselines, table)
    problem = problem_of(activations, table, _source(findings, here, table))
    _check_problem(findings, problem)
    check_read_again(findings, activations, problem)
    check_fitted_again(findings, baselines, activations, problem)
    return Material(activations, table, baselines, problem, findings.rivals, findings.judged_by)


def _source(findings: Findings, here: Int[np.ndarray, " row"], table: Table) -> Int[np.ndarray, " row"]:
    """The table row of every activation row, `here`, which must be what it was in the findings."""
    said = findings.predictions["source"].to_numpy(np.int64)
    if len(said) != len(here):
        raise ValueError(
            f"these findings are of {len(said)} activation rows, these activations hold {len(here)}"
        )
    place = pd.Series(np.arange(len(table)), index=table.source_rows).reindex(said)
    source = place.fillna(-1).to_numpy(np.int64)
    if len(others := np.flatnonzero(source != here)):
        row = others[0]
        raise ValueError(
            f"the activations are in another order than these findings: row {row} was of table row "
            f"{source[row]}, here it is of {here[row]}; give those that were swept"
        )
    return source


def _check_problem(findings: Findings, problem: Problem) -> None:
    """**Raises** `ValueError` unless targets, split and clusters are those of the findings."""
    rows = findings.predictions
    columns = [f"true_{name}" for name in findings.target_names]
    same = {
        "targets": np.array_equal(rows[columns].to_numpy(np.float64), problem.y),
        "split": np.array_equal((rows["split"] == "test").to_numpy(), problem.is_test),
        "clusters": np.array_equal(rows["cluster"].to_numpy(np.int64), problem.clusters),
    }
    if others := [name for name, alike in same.items() if not alike]:
        raise ValueError(
            f"{' and '.join(others)} of these activations and this table are others than the findings': give "
            "what `sweep` was given"
        )


def _check_baselines(findings: Findings, baselines: Baselines, table: Table) -> None:
    """**Raises** `ValueError` unless these are the baselines that the findings were judged against."""
    check_same_capture(findings.provenance.get("baselines") or {}, baselines.provenance)
    if not findings.rivals:  # saved before findings held their baselines' predictions
        return
    strings = ["tfidf"] if baselines.strings and table.texts is not None else []
    given, judged = {*strings, *baselines.features}, set(findings.rivals)
    if given != judged:
        raise ValueError(
            f"these findings were judged against {', '.join(sorted(judged)) or 'no baselines'}, given are "
            f"{', '.join(sorted(given)) or 'none'}: give the baselines that `sweep` was given"
        )
