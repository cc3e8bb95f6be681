"""Whether a direction is read at all, and what else is read with it: asked before whether it is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.probes.core.findings import Findings
from graticule.probes.core.resample import interval, resampled_sums
from graticule.probes.linear.ridge import cosines
from graticule.probes.linear.ridge_cv import ridge_fit
from graticule.probes.scores.metrics import with_interval

_RESAMPLES = 2000
NOTABLE = 0.2
"""Correlation of two readings from which it is named."""


@dataclass(frozen=True)
class Readable:
    """How what a probe reads goes with a target on test rows, at the point of the interventions."""

    target: str
    """Its name."""
    correlation: float
    """NaN where the probe reads one value."""
    low: float
    """Of a 95% interval over clusters."""
    high: float
    """The other end."""

    @property
    def shown(self) -> bool:
        """Whether the interval lies above 0."""
        return self.low > 0

    @property
    def text(self) -> str:
        """Target, correlation and interval."""
        return f"{self.target} {with_interval(self.correlation, (self.low, self.high), 'these test rows')}"


def readable_targets(findings: Findings, point: str, names: Sequence[str]) -> tuple[Readable, ...]:
    """What the probe of a point reads of some targets on test rows.

    Correlations, not R²: a direction has no size, and whether it is used is asked of hardly readable ones,
    too.
    """
    problem = findings.inputs.problem
    rows, out = problem.test, list[Readable]()
    read = findings.predictions_at(point).test
    for name in names:
        k = findings.target_names.index(name)
        y, x = (values - values.mean() for values in (problem.y[rows][:, k], read[:, k]))
        if not (np.ptp(y) > 0 and np.ptp(x) > 1e-9 * np.ptp(y)):
            out.append(Readable(name, *(float("nan"),) * 3))
            continue
        columns = np.column_stack([np.ones(len(y)), y, x, y * y, x * x, y * x])
        samples = resampled_sums(columns, problem.clusters[rows], _RESAMPLES, 0)
        value = float(_correlation(columns.sum(axis=0)[None])[0])
        out.append(Readable(name, value, *interval(_correlation(samples))))
    return tuple(out)


def _correlation(sums: Float[np.ndarray, "sample 6"]) -> Float[np.ndarray, " sample"]:
    """Of sums of 1, y, x, y², x² and xy; NaN where one of the two is constant."""
    n, y, x, yy, xx, xy = sums.T
    spread = (yy - y * y / n) * (xx - x * x / n)
    return np.where(spread > 0, (xy - x * y / n) / np.sqrt(np.where(spread > 0, spread, 1.0)), np.nan)


def correlated_readings(
    findings: Findings, point: str, names: Sequence[str], other: Findings | None
) -> pd.DataFrame:
    """Correlations over test rows of what the probe reads of `names` with what it and `other` read of
    anything else: `target`, `beside`, `correlation`, those of at least .2."""
    rows = findings.inputs.rows(point, findings.inputs.problem.test)
    read = findings.probes[point].predict(rows)
    beside = dict(zip(findings.target_names, read.T, strict=True))
    if other is not None and point in other.probes:
        more = other.probes[point].predict(rows).T
        beside |= {f"{other.table}: {n}": v for n, v in zip(other.target_names, more, strict=True)}
    lines = [
        {"target": name, "beside": also, "correlation": float(np.corrcoef(beside[name], values)[0, 1])}
        for name in names
        for also, values in beside.items()
        if also != name and np.ptp(values) > 0 and np.ptp(beside[name]) > 0
    ]
    table = pd.DataFrame(lines, columns=["target", "beside", "correlation"])
    return table[table["correlation"].abs() >= NOTABLE].reset_index(drop=True)


def halves_agree(
    X: Float[np.ndarray, "row width"],
    y: Float[np.ndarray, "row target"],
    clusters: np.ndarray,
    alpha: float,
    seed: int,
) -> tuple[Float[np.ndarray, " target"], Float[np.ndarray, " target"]]:
    """Cosines of the write and of the read directions from two halves of the training clusters."""
    labels, codes = np.unique(clusters, return_inverse=True)
    first = np.zeros(len(labels), bool)
    first[np.random.default_rng([seed, 6]).permutation(len(labels))[: len(labels) // 2]] = True
    try:
        one, two = (ridge_fit(X[part], y[part], alpha / 2) for part in (first[codes], ~first[codes]))
    except ValueError:  # a half of one value, or of hardly any rows
        return np.full(y.shape[1], np.nan), np.full(y.shape[1], np.nan)
    return cosines(one.write, two.write), cosines(one.coef, two.coef)
