"""Running the model again on a table's rows the way the findings' own activations were captured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from graticule.hooks.messages import UnknownNameError
from graticule.hooks.positions import Pos, from_plain
from graticule.hooks.special import asked_bos
from graticule.probes.core.findings import Findings
from graticule.probes.linear.ridge import RidgeProbe


@dataclass(frozen=True)
class CaptureSettings:
    """How activations were captured."""

    prompt: str
    """Text around every input."""
    pos: Pos
    """Which tokens are read."""
    prepend_bos: bool | None
    """Whether rows start with BOS; None follows the model."""
    include_bos: bool | None = None
    """Whether special tokens may be read; None follows the positions."""

    @property
    def arguments(self) -> dict[str, Any]:
        """As `capture` takes them."""
        return {
            "pos": self.pos,
            "prompt": self.prompt,
            "prepend_bos": self.prepend_bos,
            "include_bos": self.include_bos,
        }


def capture_settings(
    findings: Findings | None, prompt: str | None = None, pos: Pos | None = None
) -> CaptureSettings:
    """The capture's own prompt and positions, unless others are given.

    Raises:
        ValueError: Where the positions of the findings cannot be told from their provenance.
    """
    made: Mapping[str, Any] = {}
    if findings is not None and findings.swept is not None:
        made = findings.swept.activations.provenance
    return CaptureSettings(
        str(made.get("prompt", "")) if prompt is None else prompt,
        from_plain(made.get("pos", "last")) if pos is None else pos,
        asked_bos(made),
        made.get("include_bos"),
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
            "this probe has no hook_name: pass point=, the hook name of the activations it reads"
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
