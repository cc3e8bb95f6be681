"""Running the model again on a table's rows the way the findings' own activations were captured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from graticule.hooks.messages import UnknownNameError
from graticule.hooks.positions import Pos, from_plain
from graticule.hooks.special import asked_bos
from graticule.probes.estimators.ridge import RidgeProbe
from graticule.probes.findings import Findings

Unit = Literal["component", "head", "neuron"]
"""Into what a reading is taken apart."""


@dataclass(frozen=True)
class Asked:
    """How activations were captured."""

    prompt: str
    """Text around every input."""
    pos: Pos
    """Which tokens are read."""
    prepend_bos: bool | None
    """Whether rows start with BOS; None follows the model."""
    include_bos: bool | None = None
    """Whether special tokens may be read; None follows the positions."""


def asked(findings: Findings | None, prompt: str | None = None, pos: Pos | None = None) -> Asked:
    """The capture's own prompt and positions, unless others are given.

    **Raises** `ValueError` where the positions of the findings cannot be told from their provenance.
    """
    made: Mapping[str, Any] = {}
    if findings is not None and findings.made_of is not None:
        made = findings.made_of.activations.provenance
    return Asked(
        str(made.get("prompt", "")) if prompt is None else prompt,
        from_plain(made.get("pos", "last")) if pos is None else pos,
        asked_bos(made),
        made.get("include_bos"),
    )


@dataclass(frozen=True)
class TableRows:
    """What is known of every row of a findings' table."""

    y: Float[np.ndarray, "row target"]
    """Targets."""
    clusters: Int[np.ndarray, " row"]
    """Dependent rows share one; those of the sweep, same token rows included."""
    train: Int[np.ndarray, " train"]
    """Training rows that the probe saw."""
    test: Int[np.ndarray, " test"]
    """Test rows."""
    is_test: Bool[np.ndarray, " row"]
    """The split."""


def table_rows(findings: Findings) -> TableRows:
    """Targets, clusters and split by table row, as the sweep had them.

    **Raises** `ValueError` without material.
    """
    problem = findings.material.problem
    table = findings.material.table
    clusters = table.clusters.copy()
    clusters[problem.source] = problem.clusters
    known = np.zeros(len(table), bool)
    known[problem.source] = True
    return TableRows(
        y=table.y,
        clusters=clusters,
        train=np.flatnonzero(known & ~table.is_test),
        test=np.flatnonzero(known & table.is_test),
        is_test=table.is_test,
    )


def drawn(
    index: Int[np.ndarray, " row"], clusters: Int[np.ndarray, " all"], limit: int | None, seed: int
) -> Int[np.ndarray, " some"]:
    """At most `limit` of the rows `index`: whole clusters that fit, in a seeded order; sorted."""
    if limit is None or len(index) <= limit:
        return index
    codes = np.unique(clusters[index], return_inverse=True)[1].reshape(-1)
    sizes = np.bincount(codes)
    kept, held = np.zeros(len(sizes), bool), 0
    for code in np.random.default_rng(seed).permutation(len(sizes)):
        if held + int(sizes[code]) <= limit:
            kept[code], held = True, held + int(sizes[code])
    return index[kept[codes]]


def probe_of(what: Findings | RidgeProbe, point: str | None = None) -> tuple[RidgeProbe, str]:
    """The probe that is meant and its hook name.

    **Raises** `ValueError` for a probe without `hook_name`, `KeyError` for a point without a probe.
    """
    if isinstance(what, Findings):
        name = point or what.chosen_point
        if name not in what.probes:
            raise UnknownNameError(
                f"no probe at {name!r}; these findings have {', '.join(list(what.probes)[:4])}, …"
            )
        return what.probes[name], name
    name = point or what.hook_name
    if name is None:
        raise ValueError(
            "this probe has no hook_name: pass point=, the hook name of the activations it reads"
        )
    return what, name


def columns(probe: RidgeProbe, target: str | int | None) -> list[int]:
    """Columns of the probe that `target` names; None is all of them.

    **Raises** `KeyError` naming the targets there are.
    """
    names = probe.target_names or tuple(f"target {i}" for i in range(probe.coef.shape[1]))
    if target is None:
        return list(range(len(names)))
    if isinstance(target, int) and 0 <= target < len(names):
        return [target]
    if target in names:
        return [names.index(str(target))]
    raise UnknownNameError(f"no target {target!r}; this probe has {', '.join(names)}")
