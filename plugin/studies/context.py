"""What every step of a study works on, and how one step differs from another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from graticule.hooks.artifact import fingerprint
from graticule.hooks.saved import SavedResult
from graticule.probes.core.findings import Findings
from graticule.probes.tables.table import Table
from graticule.studies.settings import Settings, digest_of


@dataclass(frozen=True)
class Context:
    """The model, the table and its findings, and where things are written."""

    model: Any
    """A hooked model."""
    table: Table
    """The table as probed."""
    findings: Findings
    """Of the first step."""
    out: Path
    """The study's folder."""
    settings: Settings
    """What was asked for."""
    made: Mapping[str, Mapping[str, SavedResult]] = field(default_factory=dict[str, Any])
    """Step → results so far, for steps that go on from others."""
    progress: bool | None = None
    """Progress bars; None decides by size."""

    def with_made(self, step: str, results: Mapping[str, SavedResult]) -> Context:
        """The same with the results of one more step."""
        return replace(self, made={**self.made, step: results})


@dataclass(frozen=True)
class Step:
    """One part of a study: a page of its own."""

    name: str
    """For `--only` and `--skip`."""
    title: str
    """What it answers, as a heading."""
    run: Callable[[Context], Mapping[str, SavedResult]]
    """Results by name, in page order. **Raises** `NotApplicable` where there is nothing to do."""
    uses: tuple[str, ...] = ()
    """Settings that it depends on; with the findings they make its fingerprint."""
    skips: Callable[[Context], Mapping[str, str]] | None = None
    """Of a step with a result a column: the columns that it does not apply to, and why."""

    def fingerprint(self, context: Context) -> str:
        """What a result must have been made from to be taken for this step's."""
        given = {name: getattr(context.settings, name) for name in (*self.uses, "seed")}
        if "saes" in given:
            given["saes"] = {name: digest_of(sae) for name, sae in context.settings.saes.items()}
        made_from = {"step": self.name, "findings": context.findings.provenance.get("fingerprint"), **given}
        return fingerprint(made_from)
