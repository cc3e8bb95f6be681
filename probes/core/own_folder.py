"""What lies beside saved findings: the activations and baselines that `probe(out=)` keeps, found again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from graticule.hooks.store import Store
from graticule.probes.core.reread import saved_problem, sweep_inputs_of
from graticule.probes.surface.baselines import Baselines
from graticule.probes.tables.groups import dense_codes
from graticule.probes.tables.table import Table

if TYPE_CHECKING:
    from graticule.probes.core.findings import Findings


def take_inputs_beside(findings: Findings) -> str:
    """Give findings that were read from a folder the activations and baselines in it, where there are any.

    They are compared with the findings as `with_inputs` compares them. The table is put together from the
    findings' own rows; it has the columns that these hold.

    Args:
        findings: changed in place; those that have their inputs stay as they are.

    Returns:
        Why what lies there is not theirs, or nothing.
    """
    folder = findings.folder
    if findings.swept is not None or folder is None or not (folder / "activations").is_dir():
        return ""
    try:
        beside = Baselines.load(folder / "baselines")
        inputs = sweep_inputs_of(findings, Store(folder / "activations"), _table_of(findings), beside)
    except (ValueError, KeyError) as error:
        return f"; what lies in {folder} cannot be taken: {error}"
    object.__setattr__(findings, "swept", inputs)
    return ""


def _table_of(findings: Findings) -> Table:
    """The table that findings are of, as far as their rows tell; its digest says whether it is the same.

    Raises:
        ValueError: Some of its rows have no activations, or are tokens.
    """
    saved: dict[str, Any] = findings.provenance.get("table") or {}
    problem, lines = saved_problem(findings), findings.predictions
    rows, first = np.unique(problem.source, return_index=True)
    if len(rows) != saved.get("rows", len(rows)) or "text" not in lines:
        raise ValueError(f"the table has {saved.get('rows')} rows, the findings are of {len(rows)} texts")
    y, own = problem.y[first], lines.iloc[first].reset_index(drop=True)
    table = Table.from_arrays(
        y,
        texts=own["text"].tolist(),
        is_test=problem.is_test[first],
        clusters=problem.clusters[first],
        target_names=findings.target_names,
        blocks={name: own[name].tolist() for name in findings.block_names},
        name=findings.table,
    )
    return table.derived(
        source_rows=own["source"].to_numpy(np.int64),
        y=y,
        units=findings.units,
        kind=findings.kind,
        classes=findings.classes,
        clusters=dense_codes(problem.clusters[first]),
        origin=str(saved.get("split", "")).split(":")[0],
    )
