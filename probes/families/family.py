"""`judge_family`: findings of many concepts, layers and models, judged together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from graticule.hooks.artifact import fingerprint, library_versions
from graticule.hooks.calls import came
from graticule.hooks.doors import FINDINGS, door
from graticule.hooks.messages import bar, did_you_mean
from graticule.probes.core.findings import Findings
from graticule.probes.core.verdict import NOT_DECIDED, STRUCTURE
from graticule.probes.families.gain_tests import GainTest, findings_test, max_t, rows_of
from graticule.probes.families.result import METHODS, Family, Method
from graticule.probes.scores.significance import benjamini_hochberg, benjamini_yekutieli

_NAMES = ("target", "table", "model", "point")

Several = Mapping[str, Findings | Path | str] | Iterable[Findings | Path | str]
"""Findings, or folders of them, by name or one after another."""


@door()
def judge_family(
    findings: Several,
    *,
    method: Method = "benjamini-hochberg",
    level: float = 0.05,
    n_bootstrap: int = 2000,
    seed: int = 0,
    progress: bool | None = None,
) -> Family:
    """Which of many findings stand, when it is counted how many were asked for.

    A hundred concepts without structure give a few verdicts of structure by chance. Each finding's gain is
    tested one-sided (that of its fitted predictors on fresh clusters is not above 0: the studentised sum of
    the clusters' parts, against t), and the p-values are adjusted for all tests. **Named** is what its own
    verdict calls structure (so with at least `min_gain`, and nothing that stands against it) and whose
    adjusted p is at most `level`; whatever its own verdict does not call structure is counted as a test with
    p = 1. Nothing is fitted again, no activations are needed, and findings may be of any tables and models.

    Args:
        findings: several, by name or as a list; or their folders, which are read one after another.
        method: `"benjamini-hochberg"` keeps the expected share of false ones among those named at or below
            `level` where tests are independent or rise together, `"benjamini-yekutieli"` whatever their
            dependence; `"max-t"` keeps the chance of any false one there, over sign turns that findings of
            the same test rows share. All three are in the table.
        level: what is kept.
        n_bootstrap: how often signs are turned, for max-T.
        seed: the seed of the signs.
        progress: whether a bar is drawn; by default where it takes long.

    Returns:
        Every finding with its p-values, raw and adjusted, and its verdict in the family.

    Raises:
        ValueError: There are none, an unknown method, or findings that were saved before they held the
            baselines' predictions.
        TypeError: Something among them is no findings.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r}: expected {', '.join(map(repr, METHODS))}"
                         + did_you_mean(method, METHODS))  # fmt: skip
    given = _several(findings)
    lines: list[dict[str, Any]] = []
    tests: list[GainTest] = []
    with bar(len(given), "testing", "finding", progress) as advance:
        for name, one in given:
            one = Findings.load(one) if isinstance(one, str | Path) else one
            tests.append(findings_test(one))
            lines.append({"name": name, **_line(one, tests[-1])})
            advance.update()
    members = pd.DataFrame(lines)
    members["name"] = _names(members)
    return Family(
        members=adjusted_members(members, tests, method, level, n_bootstrap, seed),
        method=method,
        level=float(level),
        provenance={
            "inputs": fingerprint({"members": members[["name", *_NAMES]].to_dict("records")}),
            "draws": n_bootstrap,
            "seed": seed,
            "versions": library_versions(),
        },
    )


def adjusted_members(
    members: pd.DataFrame, tests: list[GainTest], method: str, level: float, n_bootstrap: int, seed: int
) -> pd.DataFrame:
    """The lines of `Family.members`, with their p-values and what stands, the smallest p first.

    Args:
        members: with `alone`, the verdict of each by itself.
        tests: one each.
        method: what decides.
        level: what is kept.
        n_bootstrap: of max-T.
        seed: of max-T.

    Returns:
        The lines with more columns.
    """
    refused = (members["alone"] != STRUCTURE).to_numpy(bool)
    p = np.array([test.p for test in tests], np.float64)
    counted = np.where(refused & ~np.isnan(p), 1.0, p)
    out = members.assign(
        p=p,
        q_bh=benjamini_hochberg(counted),
        q_by=benjamini_yekutieli(counted),
        p_max=max_t(tests, n_bootstrap, seed, refused),
        bonferroni=np.minimum(counted * max(int((~np.isnan(p)).sum()), 1), 1.0),
    )
    adjusted = out[METHODS[method][0]].to_numpy(np.float64)
    named = ~refused & (adjusted <= level)
    count = int((~np.isnan(p)).sum())
    words = [
        f"{NOT_DECIDED}: one of {count} tests, adjusted p {q:.2g}" if own == STRUCTURE and not stands else own
        for own, stands, q in zip(members["alone"], named, adjusted, strict=True)
    ]
    return out.assign(named=named, label=words).sort_values("p", kind="stable", ignore_index=True)


def _line(findings: Findings, test: GainTest) -> dict[str, Any]:
    verdict = findings.verdict
    return {
        "model": findings.model,
        "table": findings.table,
        "target": ", ".join(findings.target_names),
        "point": findings.chosen_point,
        "judged_at": findings.chosen_point if verdict.dealing is None else verdict.dealing.by_fold,
        "gain": verdict.gain,
        "unit": verdict.unit,
        "low": verdict.ci95[0],
        "high": verdict.ci95[1],
        "surface": verdict.surface,
        "score": verdict.score,
        "left": max(verdict.left, 0.0),
        "saturated": verdict.saturated,
        "clusters": verdict.clusters,
        "rows": test.rows[:16],
        "every_row": rows_of(findings, every=True)[:16],
        "alone": verdict.label,
    }


def _several(findings: Any) -> list[tuple[str | None, Any]]:
    """Findings or folders with their names; None for those that have none."""
    if isinstance(findings, Mapping):
        given: list[tuple[str | None, Any]] = list(cast("Mapping[str, Any]", findings).items())
    elif FINDINGS.fits(findings) or isinstance(findings, str | PathLike) or not hasattr(findings, "__iter__"):
        raise TypeError(
            f"judge_family: findings is {came(findings)}; expected several of them, by name or in a list: "
            "{'one': findings, 'two': others}"
        )
    else:
        given = [(None, one) for one in findings]
    for name, one in given:
        if not (FINDINGS.fits(one) or isinstance(one, str | Path)):
            called = "one of them" if name is None else repr(name)
            raise TypeError(
                f"judge_family: {called} is {came(one)}; expected findings: {FINDINGS.write(one)}"
            )
    if not given:
        raise ValueError("judge_family: no findings; give several of them, by name or in a list")
    return given


def _names(members: pd.DataFrame) -> list[str]:
    """The names given; else of targets, tables, models and points as many as tell them apart."""
    if members["name"].notna().all():
        return [str(name) for name in members["name"]]
    names = pd.Series("", index=members.index)
    for column in _NAMES:
        if column == "target" or (names.duplicated(keep=False).any() and members[column].nunique() > 1):
            names = names + (", " if column != "target" else "") + members[column].astype(str)
    times = names.groupby(names).cumcount()
    return [name if not n else f"{name} ({n + 1})" for name, n in zip(names, times, strict=True)]
