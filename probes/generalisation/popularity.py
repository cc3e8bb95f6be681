"""What the model knows: the probe's error against how well known a row is, page views or any other column."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from graticule.hooks.artifact import json_ready, library_versions
from graticule.hooks.calls import renamed
from graticule.hooks.doors import FINDINGS, door
from graticule.hooks.messages import bar
from graticule.hooks.points import layer_text
from graticule.hooks.result import captured_as
from graticule.hooks.rows import PointKey
from graticule.hooks.saved import SavedResult
from graticule.probes.core.findings import Findings
from graticule.probes.core.inputs import SweepInputs
from graticule.probes.core.resample import interval, resampled_sums
from graticule.probes.plots.primitives import line_trace, new_figure
from graticule.probes.plots.style import ACCENT, SURFACE, error_bars, in_unit, need_columns, plain, style
from graticule.probes.scores.geo import haversine_km
from graticule.probes.scores.metrics import count_of, with_interval
from graticule.probes.scores.significance import ranks
from graticule.probes.tables.checks import need_column

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_ERRORS = {
    "probe": "the probe's error",
    "surface": "the surface's error",
    "saved": "error saved by the probe",
}


@dataclass(frozen=True)
class Popularity(SavedResult):
    """The result of `popularity`."""

    KIND: ClassVar[str] = "popularity"

    model: str
    table: str
    column: str
    """The column of popularity."""
    point: str
    """Where the probe reads."""
    unit: str
    """Of the errors: `km`, the target's own unit, `sd` of the training targets, or `share wrong`; empty
    where a target has none."""
    rows: int
    """Test rows with a popularity."""
    missing: int
    """Test rows without one, left out."""
    strata: pd.DataFrame
    """One row per stratum, least known first: `stratum`, `low_value`, `high_value` and `median_value` of the
    column, `rows`, mean error of the `probe` and of the `surface` and `saved` (surface − probe), each with
    its 95% interval in `…_low`, `…_high`."""
    spearman: pd.DataFrame
    """`error` (`probe`, `surface`, `saved`), its rank correlation `rho` with the column, `low`, `high`."""
    provenance: Mapping[str, Any]
    """Model, table, settings and versions."""

    @property
    def title(self) -> str:
        """Model, table and column."""
        return f"{self.model} on {self.table}: error against {self.column}"

    def summary(self) -> str:
        """Error at both ends, and the correlations."""
        first, last = self.strata.iloc[0], self.strata.iloc[-1]
        unit = f" {self.unit}" if self.unit else ""
        parts = f"{first['rows']} and {last['rows']} of {self.rows} test rows"
        lines = [
            f"mean error {first['probe']:.4g}{unit} in the lowest of {len(self.strata)} strata of "
            f"{self.column}, {last['probe']:.4g} in the highest ({parts})",
            f"the surface: {first['surface']:.4g} and {last['surface']:.4g}; what the probe saves on it: "
            f"{_with_interval(first, 'saved')} and {_with_interval(last, 'saved')}{unit}",
        ]
        for _, row in self.spearman.iterrows():
            lines.append(
                f"Spearman of {self.column} with {_ERRORS[row['error']]}: "
                f"{with_interval(row['rho'], (row['low'], row['high']), count_of(self.rows, 'test row'))}"
            )
        place = layer_text(self.point)
        lines.append(f"at {place}; {self.rows} test rows, {self.missing} without {self.column} left out")
        return "\n".join(lines)

    @property
    def _caption(self) -> str:
        return f"Mean error by {self.column}, test rows in {len(self.strata)} strata, at its quantiles"

    def figures(self) -> dict[str, Figure]:
        """Error of probe and surface by stratum."""
        return {self._caption: popularity_figure(self.strata, self.column, self.unit)}

    def tables(self) -> dict[str, pd.DataFrame]:
        """The strata."""
        rows = [row for _, row in self.strata.iterrows()]
        spans = [f"{_value_text(row['low_value'])} to {_value_text(row['high_value'])}" for row in rows]
        errors = {
            in_unit(text, self.unit): [_with_interval(row, name) for row in rows]
            for name, text in _ERRORS.items()
        }
        return {self._caption: pd.DataFrame({self.column: spans, "rows": self.strata["rows"], **errors})}


@renamed(point="hook_name", draws="n_bootstrap")
@door(findings=FINDINGS)
def popularity(
    findings: Findings,
    column: Hashable,
    *,
    strata: int = 5,
    hook_name: PointKey | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
    progress: bool | None = None,
) -> Popularity:
    """Error of the probe and of the surface on test rows, by how well known the row is.

    Godey et al. (arXiv 2402.19406) and the criticisms of Gurnee & Tegmark: a model may place what it has
    read about and guess the rest from the string. Strata are quantiles of `column` over the test rows, equal
    values in one stratum. Errors are km for coordinates, |y − ŷ| for a number, wrong classes for
    categories; several numbers of different units are averaged in standard deviations of training rows.
    Intervals resample clusters; those of the correlations keep the ranks of the whole.

    Args:
        findings: what the probe was fitted for, with their inputs.
        column: of the table's frame (`page_views`, `population`).
        strata: Into how many strata of popularity rows are parted, at most.
        hook_name: where the probe reads; by default the chosen point.
        n_bootstrap: How often the clusters are resampled for the intervals.
        seed: The seed of the resamples.
        progress: whether a bar is drawn; by default where it takes long.

    Returns:
        Mean errors by stratum, and rank correlations of the errors with the column.

    Raises:
        ColumnError: There is no such column.
        ValueError: It holds no numbers, too few test rows or one value only, `strata` is below 2, or the
            findings lack their inputs.
        KeyError: There is no probe at `hook_name`.
    """
    swept, hook_name = findings.inputs, findings.point_of(hook_name)
    problem = swept.problem
    column = need_column(swept.table.frame, column, "popularity")
    values = _values(swept, column)
    present = np.isfinite(values)
    if present.sum() < 2 * strata:
        raise ValueError(f"{int(present.sum())} test rows have {column!r}; {strata} strata need {2 * strata}")
    probe, unit = _errors(swept, findings.at(hook_name).predictions)
    surface, _ = _errors(swept, swept.surface().test)
    errors = np.stack([probe, surface, surface - probe], axis=1)[present]
    values, clusters = values[present], problem.clusters[problem.test][present]
    stratum = _strata(values, strata, column)
    with bar(2, "popularity", "bootstrap", progress) as advance:
        by_stratum = _by_stratum(values, errors, stratum, clusters, n_bootstrap, seed)
        advance.update()
        correlations = _correlations(values, errors, clusters, n_bootstrap, seed)
        advance.update()
    return Popularity(
        model=findings.model,
        table=findings.table,
        column=column,
        point=hook_name,
        unit=unit,
        rows=len(values),
        missing=int((~present).sum()),
        strata=by_stratum,
        spearman=correlations,
        provenance=json_ready(
            {
                "model": swept.activations.provenance.get("model", {}),
                "table": findings.provenance.get("table", {}),
                **captured_as(findings.provenance),
                "point": hook_name,
                "strata": strata,
                "draws": n_bootstrap,
                "seed": seed,
                "versions": library_versions(),
            }
        ),
    )


# Parts -----------------------------------------------------------------------------------------------
def _values(swept: SweepInputs, column: str) -> np.ndarray:
    """The column at every test row, NaN where missing."""
    frame, problem = swept.table.frame, swept.problem
    series = pd.to_numeric(frame[column], errors="coerce")
    if series.isna().all():
        raise ValueError(f"column {column!r} holds no numbers (e.g. {frame[column].iloc[0]!r})")
    return series.to_numpy(np.float64, na_value=np.nan)[problem.source[problem.test]]


def _errors(swept: SweepInputs, predicted: np.ndarray) -> tuple[np.ndarray, str]:
    """The error of every test row, and its unit."""
    table, problem = swept.table, swept.problem
    y = problem.y[problem.test]
    if table.kind == "binary":
        return ((predicted[:, 0] > 0.5) != (y[:, 0] > 0.5)).astype(np.float64), "share wrong"
    if table.kind == "categorical":
        return (predicted.argmax(axis=1) != y.argmax(axis=1)).astype(np.float64), "share wrong"
    if table.has_coordinates:
        lat, lon = table.coordinates()
        return haversine_km(y[:, lat], y[:, lon], predicted[:, lat], predicted[:, lon]), "km"
    away = np.abs(y - predicted)
    if y.shape[1] == 1 or (len(set(table.units)) == 1 and table.units[0] is not None):
        unit = table.units[0] or ""
        return away.mean(axis=1), {"year": "years"}.get(unit, unit)
    return (away / problem.y[problem.train].std(axis=0)).mean(axis=1), "sd"


def _strata(values: np.ndarray, strata: int, column: str) -> np.ndarray:
    """Stratum of every row, 0 the least known; equal values share one."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, strata + 1)[1:-1]))
    stratum = pd.factorize(np.searchsorted(edges, values, side="left"), sort=True)[0]
    if stratum.max() == 0:
        raise ValueError(f"column {column!r} is {values[0]:g} in nearly every test row: no strata to compare")
    return stratum


def _by_stratum(
    values: np.ndarray,
    errors: np.ndarray,
    stratum: np.ndarray,
    clusters: np.ndarray,
    n_bootstrap: int,
    seed: int,
) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for number in range(int(stratum.max()) + 1):
        inside = stratum == number
        sums = np.column_stack([errors[inside], np.ones(int(inside.sum()))])
        drawn = resampled_sums(sums, clusters[inside], n_bootstrap, seed + number)
        row: dict[str, Any] = {
            "stratum": number + 1,
            "low_value": values[inside].min(),
            "high_value": values[inside].max(),
            "median_value": float(np.median(values[inside])),
            "rows": int(inside.sum()),
        }
        for i, name in enumerate(_ERRORS):
            low, high = interval(drawn[:, i] / drawn[:, -1])
            row |= {name: errors[inside, i].mean(), f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def _correlations(
    values: np.ndarray, errors: np.ndarray, clusters: np.ndarray, n_bootstrap: int, seed: int
) -> pd.DataFrame:
    def standard_ranks(column: np.ndarray) -> np.ndarray:
        ranked = ranks(column.astype(np.float64))
        return (ranked - ranked.mean()) / max(float(ranked.std()), 1e-12)

    x, rows = standard_ranks(values), []
    for i, name in enumerate(_ERRORS):
        e = standard_ranks(errors[:, i])
        sums = np.column_stack([np.ones(len(x)), x, e, x * x, e * e, x * e])
        n, sx, se, sxx, see, sxe = resampled_sums(sums, clusters, n_bootstrap, seed).T
        product = (sxx - sx**2 / n) * (see - se**2 / n)
        varied = product > 1e-9 * n**2  # below it is rounding: the resample holds one value only
        rho = (sxe - sx * se / n) / np.sqrt(np.where(varied, product, 1.0))
        low, high = interval(np.where(varied, rho, np.nan))
        rows.append({"error": name, "rho": float((x * e).mean()), "low": low, "high": high})
    return pd.DataFrame(rows)


def _with_interval(row: pd.Series, name: str) -> str:
    return f"{row[name]:.4g} [{row[f'{name}_low']:.4g}, {row[f'{name}_high']:.4g}]"


def _value_text(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 or float(value).is_integer() else f"{value:.4g}"


# The figure ------------------------------------------------------------------------------------------
def popularity_figure(strata: pd.DataFrame, column: str, unit: str) -> Figure:
    """Mean error of the probe and of the surface by stratum, at the stratum's median, with 95% intervals.

    The axis is logarithmic where all values are positive and span a factor of ten.
    """
    parts = {"surface": (SURFACE, "the surface"), "probe": (ACCENT, "the probe")}
    need_columns(strata, "median_value", "rows", *(f"{p}{e}" for p in parts for e in ("", "_low", "_high")))
    x = strata["median_value"].to_numpy(np.float64)
    wide = bool((x > 0).all() and x.max() >= 10 * x.min())
    fig = new_figure()
    for part, (colour, name) in parts.items():
        bars = error_bars(strata[part], strata[f"{part}_low"], strata[f"{part}_high"], colour)
        hover = (
            f"{plain(name)}<br>{plain(column)} %{{x:,.4~s}}<br>{plain(in_unit('mean error', unit))} "
            "%{y:.4~g}<br>%{customdata} rows<extra></extra>"
        )
        more: dict[str, Any] = {"size": 8, "hover": hover, "customdata": strata["rows"], "error_y": bars}
        fig.add_trace(line_trace(x, strata[part], name, colour, 2, **more))
    across: dict[str, Any] = {"title_text": column.replace("_", " "), "type": "log" if wide else "linear"}
    if wide:
        across |= {"tickvals": _round_values(float(x.min()), float(x.max())), "tickformat": "~s"}
    up = {"title_text": in_unit("mean error", unit), "rangemode": "tozero"}
    note = "One point per stratum, at its median; bars are 95% intervals over clusters."
    return style(fig, height=400, note=note, x=across, y=up)


def _round_values(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between `low` and `high`, or the powers alone where those are many."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    steps = (1, 2, 5) if len(decades) <= 4 else (1,)
    return [step * 10.0**k for k in decades for step in steps if low / 1.5 <= step * 10.0**k <= high * 1.5]
