"""What `attribute` found: the terms of a reading, their means, and their shares of its variance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.hooks.messages import UnknownNameError
from graticule.hooks.points import layer_of
from graticule.hooks.saved import SavedResult

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_SHOWN = 4  # targets drawn
_LINES = 25
_PLURAL = {
    "embedding": "the embedding",
    "position": "positions",
    "attention": "attention",
    "mlp": "MLPs",
    "head": "heads",
    "neuron": "the neurons shown",
    "other neurons": "other neurons",
    "bias": "biases",
}


@dataclass(frozen=True)
class Attribution(SavedResult):
    """A probe's reading as a sum over upstream writes."""

    KIND: ClassVar[str] = "attribution"

    model: str
    """The model's name."""
    table: str | None
    """The table whose test rows were read; None for texts of the caller's own."""
    point: str
    """Where the probe reads."""
    unit: str
    """`component`, `head` or `neuron`."""
    target_names: tuple[str, ...]
    """A name a target."""
    units: tuple[str | None, ...]
    """A unit a target."""
    terms: pd.DataFrame
    """A line a term and target: `mean` (target units) and `share` (of the reading's variance), each with a
    95% cluster-bootstrap interval; `sd`; `toward_truth` (share of the reading's covariance with the truth);
    `reference` (mean over training rows, where texts of the caller's own were read)."""
    rows: pd.DataFrame
    """A line a row: `text`, and `reading_`, `gap_`, `true_` for every target."""
    values: Float[np.ndarray, "row term target"]
    """Every term in every row, in target units; terms as in `terms`."""
    intercept: tuple[float, ...]
    """Of each target: the summand that is no write."""
    gap: float
    """Largest difference between terms and reading, in standard deviations of the reading."""
    n_rows: int
    """Rows read."""
    n_clusters: int
    """Clusters among them, the unit of resampling."""
    provenance: Mapping[str, Any]
    """Model, table, point, settings and versions."""

    @property
    def title(self) -> str:
        """Model, unit and point."""
        names = ", ".join(self.target_names[:3]) + (" …" if len(self.target_names) > 3 else "")
        return f"{self.model}: {names} at {self.point}, by {self.unit}"

    def of(self, target: str) -> pd.DataFrame:
        """The lines of one target. **Raises** `KeyError` naming the targets there are."""
        if target not in self.target_names:
            raise UnknownNameError(f"no target {target!r}; there are {', '.join(self.target_names)}")
        return self.terms[self.terms["target"] == target].reset_index(drop=True)

    def summary(self) -> str:
        """Who writes what is read, for each target; then whether the sum is exact."""
        lines = [self._line(name) for name in self.target_names[:_SHOWN]]
        if len(self.target_names) > _SHOWN:
            lines.append(f"… and {len(self.target_names) - _SHOWN} more targets")
        rows = f"{self.n_rows} rows, {self.n_clusters} clusters"
        lines.append(f"terms sum to the reading to {self.gap:.1e} of its standard deviation ({rows})")
        if self.unit == "neuron":
            lines.append(f"neurons chosen on {self.provenance.get('neurons_chosen_on', 'the rows shown')}")
        return "\n".join(lines)

    def _line(self, name: str) -> str:
        table = self.of(name)
        where = layer_of(self.point)
        place = self.point if where is None else f"layer {where}"
        if self.n_rows == 1 or not table["share"].notna().any():
            reading = float(self.rows[f"reading_{name}"].mean())
            by = "reference" if table["reference"].notna().any() else None
            size = table["mean"] - table["reference"] if by else table["mean"]
            best = size.abs().sort_values(ascending=False).index[:3]
            words = ", ".join(f"{table.term[i]} {size[i]:+.3g}" for i in best)
            against = " against the mean training row" if by else ""
            return f"{name} at {place}: reading {reading:.4g}; largest terms{against}: {words}"
        by_kind = table.groupby("kind", sort=False)["share"].sum().sort_values(ascending=False)
        parts = ", ".join(f"{_PLURAL[str(k)]} {v:.0%}" for k, v in by_kind.items())
        alone = table[~table["kind"].isin(["other neurons", "bias"])]
        top = alone.iloc[int(alone["share"].fillna(-np.inf).to_numpy().argmax())]
        span = "" if np.isnan(top.share_low) else f" [{top.share_low:.0%}, {top.share_high:.0%}]"
        return f"{name} at {place}, variance of the reading: {parts}; most: {top.term} {top.share:.0%}{span}"

    def figures(self) -> dict[str, Figure]:
        """By component: the build-up through the layers and the terms; heads as a map; neurons as bars."""
        from graticule.probes.plots.attribution import (
            build_up_figure,
            heads_figure,
            shares_figure,
            terms_figure,
        )

        out: dict[str, Figure] = {}
        for name, unit in list(zip(self.target_names, self.units, strict=True))[:_SHOWN]:
            table = self.of(name)
            if not table["share"].notna().any():
                out[f"{name}: the terms of the reading"] = terms_figure(table, unit)
                continue
            if self.unit == "head":
                out[f"{name}: what each head gives to the reading's variance"] = heads_figure(table)
            if self.unit == "component":
                out[f"{name}: where the reading's variance is written"] = shares_figure(table)
                caption = f"{name}: mean of the reading as it builds up through the layers"
                out[caption] = build_up_figure(table, self.intercept[self.target_names.index(name)], unit)
            else:
                out[f"{name}: largest terms of the reading's variance"] = terms_figure(table, unit, "share")
        return out

    def tables(self) -> dict[str, pd.DataFrame]:
        """The largest terms of each target."""
        out: dict[str, pd.DataFrame] = {}
        for name, unit in list(zip(self.target_names, self.units, strict=True))[:_SHOWN]:
            table = self.of(name)
            size = table["share"] if table["share"].notna().any() else table["mean"]
            table = table.loc[size.abs().sort_values(ascending=False).index[:_LINES]]
            of = f"mean ({unit})" if unit else "mean"
            shown = pd.DataFrame(
                {
                    "term": table["term"],
                    "share of variance": table["share"],
                    "95% from": table["share_low"],
                    "95% to": table["share_high"],
                    "share of agreement with the truth": table["toward_truth"],
                    of: table["mean"],
                    f"{of}, 95% from": table["mean_low"],
                    f"{of}, 95% to": table["mean_high"],
                    "sd": table["sd"],
                    "mean of training rows": table["reference"],
                }
            )
            out[f"{name}: the largest terms"] = shown.dropna(axis=1, how="all").reset_index(drop=True)
        return out
