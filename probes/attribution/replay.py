"""Running the model again on a table's rows the way the findings' own activations were captured."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from graticule.hooks.capture_spec import CaptureSpec
from graticule.hooks.messages import UnknownNameError
from graticule.hooks.positions import Pos, pos_to_data
from graticule.probes.core.findings import Findings
from graticule.probes.linear.ridge import RidgeProbe


def spec_of(findings: Findings | None, prompt: str | None = None, pos: Pos | None = None) -> CaptureSpec:
    """How the findings' activations were captured; a prompt and positions that are given stand instead."""
    saved = {} if findings is None or findings.swept is None else findings.swept.activations.provenance
    spec = CaptureSpec.from_json(saved)
    return replace(
        spec,
        prompt=spec.prompt if prompt is None else prompt,
        positions=spec.positions if pos is None else pos_to_data(pos),
    )


@dataclass(frozen=True)
class TableRows:
    """Every row of a findings' table, as the sweep had it."""

    texts: list[str] | None
    """None where the table has none."""
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

    @classmethod
    def of(cls, findings: Findings) -> TableRows:
        """Targets, clusters and split by table row.

        Raises:
            ValueError: Without inputs.
        """
        problem, table = findings.inputs.problem, findings.inputs.table
        clusters = table.clusters.copy()
        clusters[problem.source] = problem.clusters
        swept = np.zeros(len(table), bool)
        swept[problem.source] = True
        train, test = np.flatnonzero(swept & ~table.is_test), np.flatnonzero(swept & table.is_test)
        return cls(table.texts, table.y, clusters, train, test, table.is_test)

    def draw(self, index: Int[np.ndarray, " row"], limit: int | None, seed: int) -> Int[np.ndarray, " some"]:
        """At most `limit` of the rows `index`: whole clusters that fit, in a seeded order; sorted."""
        if limit is None or len(index) <= limit:
            return index
        codes = np.unique(self.clusters[index], return_inverse=True)[1].reshape(-1)
        sizes = np.bincount(codes)
        chosen, count = np.zeros(len(sizes), bool), 0
        for code in np.random.default_rng(seed).permutation(len(sizes)):
            if count + int(sizes[code]) <= limit:
                chosen[code], count = True, count + int(sizes[code])
        return index[chosen[codes]]


def probe_of(findings: Findings | RidgeProbe, point: str | None = None) -> tuple[RidgeProbe, str]:
    """The probe that is meant and its hook name.

    Raises:
        ValueError: For a probe without `hook_name`.
        KeyError: For a point without a probe.
    """
    if isinstance(findings, Findings):
        name = point or findings.chosen_point
        if name not in findings.probes:
            raise UnknownNameError(
                f"no probe at {name!r}; these findings have {', '.join(list(findings.probes)[:4])}, …"
            )
        return findings.probes[name], name
    name = point or findings.hook_name
    if name is None:
        raise ValueError(
            "this probe has no hook_name: pass hook_name=, the hook name of the activations it reads"
        )
    return findings, name


def columns(probe: RidgeProbe, target: str | int | None) -> list[int]:
    """Columns of the probe that `target` names; None is all of them.

    Raises:
        KeyError: Naming the targets there are.
    """
    names = probe.target_names or tuple(f"target {i}" for i in range(probe.coef.shape[1]))
    if target is None:
        return list(range(len(names)))
    if isinstance(target, int) and 0 <= target < len(names):
        return [target]
    if target in names:
        return [names.index(str(target))]
    raise UnknownNameError(f"no target {target!r}; this probe has {', '.join(names)}")
