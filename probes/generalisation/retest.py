"""`retest`: the same question of the same rows, split otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from graticule.hooks.artifact import library_versions
from graticule.hooks.doors import FINDINGS, door
from graticule.hooks.messages import NotApplicable, bar
from graticule.hooks.points import layer_of
from graticule.probes.core.findings import Findings
from graticule.probes.core.sweep import sweep
from graticule.probes.generalisation.retest_result import Retest
from graticule.probes.tables.groups import dense_codes, draw_split

_FEWEST = 4
"""Clusters that can be split in more than a few ways."""


@door(findings=FINDINGS)
def retest(findings: Findings, *, repeats: int = 10, seed: int = 0, progress: bool | None = None) -> Retest:
    """Does the verdict, the layer and the direction come out again on other splits of the same rows?

    Every repeat draws another test part of whole clusters, as large as the findings' own, with another seed,
    and goes through the whole sweep: baselines, layer and strength chosen on its own training rows, verdict
    on its own test rows, or on all rows dealt anew where the findings' own is cross-fitted.
    `retest(findings).under(findings)` are the findings with the answer in one line under their verdict.

    Splits share rows, so that agreement here is the most that another sample of as many rows would give; that
    verdicts differ says that the rows are too few to decide, and which of them one split found is luck.

    Args:
        findings: with their inputs; no model is run.
        repeats: other splits.
        seed: of the splits, and of what is drawn in each.
        progress: whether a bar is drawn; by default where it takes long.

    Returns:
        Every split's verdict, gain and layer, and how far the directions agree.

    Raises:
        NotApplicable: The rows are too few clusters to be split in other ways.
        ValueError: The findings lack their inputs.
    """
    inputs = findings.inputs
    problem, judged_by = inputs.problem, inputs.settings
    clusters = dense_codes(problem.clusters)
    if clusters.max() + 1 < _FEWEST:
        raise NotApplicable(
            f"the rows are of {clusters.max() + 1} clusters, which other splits are hardly possible of"
        )
    share = len(problem.test) / len(problem.y)
    options: dict[str, Any] = {
        "baselines": inputs.baselines,
        "alphas": judged_by.alphas,
        "score": judged_by.score,
        "min_gain": judged_by.min_gain,
        "n_bootstrap": judged_by.n_bootstrap,
        "crossfit": findings.verdict.dealing is not None,
    }
    lines: list[dict[str, Any]] = []
    directions: dict[str, list[np.ndarray]] = {"read": [], "write": []}
    with bar(repeats, "retesting", "split", progress) as advance:
        for run in range(repeats):
            own = int(np.random.default_rng([seed, run]).integers(2**31))
            is_test = draw_split(clusters, problem.y, inputs.table.kind, share, own)
            table = inputs.table.with_split(_of_table(is_test, problem.source, len(inputs.table)))
            again = sweep(inputs.activations, table, **options, seed=own, progress=False)
            lines.append({"run": run + 1, "seed": own, **_line(again)})
            probe = again.probes[findings.chosen_point]
            directions["read"].append(_unit(probe.read_direction))
            directions["write"].append(_unit(probe.write_direction))
            advance.update()
    cosines = {
        column: values
        for kind, several in directions.items()
        for column, values in zip((kind, f"{kind}_least"), _pairs(np.stack(several)), strict=True)
    }
    return Retest(
        model=findings.model,
        table=findings.table,
        target_names=findings.target_names,
        label=findings.verdict.label,
        gain=findings.verdict.gain,
        chosen_point=findings.chosen_point,
        runs=pd.DataFrame(lines),
        cosines=pd.DataFrame({"target": list(findings.target_names), **cosines}),
        provenance=findings.provenance_of(repeats=repeats, share=share, seed=seed)
        | {"versions": library_versions()},
    )


def _of_table(
    is_test: Bool[np.ndarray, " row"], source: np.ndarray, n_rows: int
) -> Bool[np.ndarray, " table"]:
    """The split of activation rows, which keeps the rows of a text together, as one of table rows."""
    out = np.zeros(n_rows, bool)
    out[source] = is_test
    return out


def _line(findings: Findings) -> dict[str, Any]:
    verdict, problem = findings.verdict, findings.problem
    layer = layer_of(findings.chosen_point)
    return {
        "label": verdict.label,
        "gain": verdict.gain,
        "low": verdict.ci95[0],
        "high": verdict.ci95[1],
        "score": verdict.score,
        "point": findings.chosen_point,
        "layer": float("nan") if layer is None else float(layer),
        "n_train": len(problem.train),
        "n_test": len(problem.test),
    }


def _unit(directions: Float[np.ndarray, "width target"]) -> Float[np.ndarray, "width target"]:
    """Columns of length 1; NaN for a direction of none."""
    length = np.linalg.norm(directions, axis=0)
    return np.where(length > 0, directions / np.where(length > 0, length, 1.0), np.nan)


def _pairs(
    several: Float[np.ndarray, "split width target"],
) -> tuple[Float[np.ndarray, " target"], Float[np.ndarray, " target"]]:
    """Mean and least cosine of pairs of splits, for every target; NaN for one split."""
    cosines = np.einsum("awt,bwt->abt", several, several)
    pairs = cosines[np.triu_indices(len(several), 1)]
    if not len(pairs):
        return np.full(several.shape[2], np.nan), np.full(several.shape[2], np.nan)
    return pairs.mean(axis=0), pairs.min(axis=0)
