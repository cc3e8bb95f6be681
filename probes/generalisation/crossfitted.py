"""`cross_fit`: the verdict with every row tested, where one held-out part would be small."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from graticule.hooks.artifact import json_ready
from graticule.hooks.doors import FINDINGS, door
from graticule.hooks.messages import NotApplicable
from graticule.hooks.points import layer_text
from graticule.hooks.saved import SavedResult
from graticule.probes.core.among_alike import alike_of_all
from graticule.probes.core.crossfit import cross_fitted, widening_of
from graticule.probes.core.crossfit_verdict import MIN_CLUSTERS, crossfit_verdict
from graticule.probes.core.findings import Findings
from graticule.probes.core.gates import Gates
from graticule.probes.plots.primitives import dots_trace, level, new_figure
from graticule.probes.plots.style import FAINT, INK, error_bars, short_labels, style
from graticule.probes.scores.metrics import count_of, with_interval

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_CAPTION = "Gain over the stacked baselines, by one held-out part and cross-fitted"
_CAPTION_LAYERS = "Layers chosen in the folds"


@dataclass(frozen=True)
class CrossFitted(SavedResult):
    """The result of `cross_fit`."""

    KIND: ClassVar[str] = "cross_fitted"

    model: str
    """The model's name."""
    table: str
    """The table's name."""
    metric: str
    """`r2`, or for classes `bits` a row."""
    label: str
    """The verdict, as a sweep words it."""
    gain: float
    """What the probe adds to the stacked baselines on rows that no fit has seen, mean of the repeats."""
    ci95: tuple[float, float]
    """Of the gain: over clusters of all rows, widened for folds that learn from the same rows."""
    surface: float
    """The stacked baselines' own score, beyond the training mean."""
    score: float
    """The probe's own, likewise."""
    min_gain: float
    """The smallest gain called structure."""
    one_split: dict[str, Any]
    """The verdict on the findings' own test part: `label`, `gain`, `low`, `high`, `rows`."""
    rows: int
    """All rows."""
    clusters: int
    """Clusters of dependent rows among them."""
    folds: int
    """Parts that each repeat was cut into."""
    repeats: int
    """How often the rows were dealt anew."""
    points: pd.DataFrame
    """One row per hook point chosen: `point`, `folds`, how often."""
    provenance: Mapping[str, Any]
    """Model, table, settings and versions."""

    @property
    def title(self) -> str:
        """Model and table."""
        return f"{self.model} on {self.table}: {count_of(self.folds, 'fold')}, {self.repeats} times"

    def summary(self) -> str:
        """The verdict, what it rests on, the layers, and the one split beside it."""
        unit, one = "bits a row" if self.metric == "bits" else "R²", self.one_split
        why = count_of(self.clusters, "cluster")
        split = with_interval(one["gain"], (one["low"], one["high"]), why)
        most = self.points.iloc[0]
        return "\n".join(
            [
                f"{self.label}: gain {with_interval(self.gain, self.ci95, why)} {unit}, every row tested",
                f"over the stacked baselines' {self.surface:z.3f}; structure needs a gain of "
                f"{self.min_gain:.3g} and an interval above 0; probe alone {self.score:z.3f}",
                f"{count_of(self.rows, 'row')} in {why}, {self.folds} folds dealt {self.repeats} times; "
                f"the interval is {widening_of(self.folds):z.2f} times as wide as the rows "
                "show, as folds learn from the same rows",
                f"{layer_text(str(most['point']))} was chosen in {most['folds']} of "
                f"{self.folds * self.repeats} folds",
                f"one held-out part of {one['rows']} rows: {one['label']}, gain {split}",
            ]
        )

    def figures(self) -> dict[str, Figure]:
        """The two gains with their intervals."""
        one = self.one_split
        rows = [(one["gain"], one["low"], one["high"]), (self.gain, *self.ci95)]
        middle, low, high = np.array(rows, np.float64).T
        names = pd.Series([f"one held-out part ({one['rows']} rows)", f"cross-fitted ({self.rows} rows)"])
        bars = error_bars(middle, low, high, INK, width=4)
        fig = new_figure(dots_trace(middle, short_labels(names), None, INK, error_x=bars))
        across = "gain, bits a row" if self.metric == "bits" else "gain of R²"
        style(fig, height=180, x=across, y={"autorange": "reversed", "type": "category"})
        level(fig, x=0, colour=FAINT, width=1.5, dash=None)
        return {_CAPTION: fig}

    def tables(self) -> dict[str, pd.DataFrame]:
        """Layers chosen in the folds."""
        return {_CAPTION_LAYERS: self.points}


@door(findings=FINDINGS)
def cross_fit(
    findings: Findings,
    *,
    n_folds: int = 5,
    n_repeats: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> CrossFitted:
    """The findings' verdict with every row tested, as `sweep` by itself judges small tables that it split.

    All rows are dealt, in whole clusters, into `n_folds` parts. For each, everything is fitted and chosen
    anew on the other parts: strengths, layer, baselines, stacks. The gain is that of all rows together, mean
    over `n_repeats` dealings. Its interval is Student's t over clusters, with a standard error that is
    √(1 + K/(K − 1)) times what the rows show: 1.5 for five folds (Nadeau & Bengio 2003), fixed beforehand.

    A split that came with the table is left as the findings have it: their own verdict is told beside.

    Args:
        findings: With their inputs and baselines.
        n_folds: Parts; 2 at least.
        n_repeats: How often the rows are dealt anew; by default twice, or once where targets are many.
        seed: Of the dealing.
        progress: whether a bar is drawn; by default where it takes long.

    Returns:
        The verdict, with its interval and the layers chosen.

    Raises:
        ValueError: Findings without inputs or baselines, fewer than ten clusters, or settings out of range.
    """
    if n_folds < 2 or (n_repeats is not None and n_repeats < 1):
        raise ValueError(
            f"cross_fit: n_folds={n_folds}, n_repeats={n_repeats}; expected 2 or more, and 1 or more"
        )
    inputs = findings.inputs
    problem = inputs.problem
    if not findings.baselines.keys() - {"shuffled"}:
        raise NotApplicable("these findings have no baselines: there is nothing that a gain could be over")
    if (count := len(np.unique(problem.clusters))) < MIN_CLUSTERS:
        raise NotApplicable(
            f"cross_fit: the rows make {count_of(count, 'cluster')} of dependent rows; at least "
            f"{MIN_CLUSTERS} are needed: give more rows"
        )
    made = cross_fitted(inputs, n_folds=n_folds, n_repeats=n_repeats, seed=seed, progress=progress)
    split = findings.verdict_of_split
    verdict = alike_of_all(crossfit_verdict(made, inputs, split), findings.gates or Gates(), inputs, made)
    chosen = Counter(made.points).most_common()
    return CrossFitted(
        model=findings.model,
        table=findings.table,
        metric=made.metric,
        label=verdict.label,
        gain=verdict.gain,
        ci95=verdict.ci95,
        surface=verdict.surface,
        score=verdict.score,
        min_gain=verdict.min_gain,
        one_split={
            "label": split.label,
            "gain": split.gain,
            "low": split.ci95[0],
            "high": split.ci95[1],
            "rows": len(problem.test),
        },
        rows=len(problem.y),
        clusters=count,
        folds=made.folds,
        repeats=made.repeats,
        points=pd.DataFrame(chosen, columns=["point", "folds"]),
        provenance=json_ready(findings.provenance_of(n_folds=n_folds, n_repeats=n_repeats, seed=seed)),
    )
