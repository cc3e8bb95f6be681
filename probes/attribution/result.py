"""What `attribute` gives: the terms of a reading, their means, and their shares of its variance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.hooks.messages import UnknownNameError
from graticule.hooks.points import layer_text
from graticule.hooks.result import headed
from graticule.hooks.saved import SavedResult
from graticule.probes.plots.primitives import bar_trace, heat_trace, level, line_trace, new_figure
from graticule.probes.plots.style import (
    ACCENT,
    BLOCKS,
    DIVERGING,
    INK,
    MUTED,
    axis_title,
    error_bars,
    need_columns,
    style,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_TARGETS = 4  # targets drawn
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
    """One name per target."""
    units: tuple[str | None, ...]
    """One unit per target."""
    terms: pd.DataFrame
    """One row per term and target: `mean` (target units) and `share` (of the reading's variance), each with a
    95% cluster-bootstrap interval; `sd`; `toward_truth` (share of the reading's covariance with the truth);
    `reference` (mean over training rows, where texts of the caller's own were read)."""
    rows: pd.DataFrame
    """One row per row read: `text`, and `reading_`, `gap_`, `true_` for every target."""
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
        """The rows of `terms` for one target.

        Raises:
            KeyError: Naming the targets there are.
        """
        if target not in self.target_names:
            raise UnknownNameError(f"no target {target!r}; there are {', '.join(self.target_names)}")
        return self.terms[self.terms["target"] == target].reset_index(drop=True)

    def summary(self) -> str:
        """Who writes what is read, for each target; then whether the sum is exact."""
        lines = [self._line(name) for name in self.target_names[:_TARGETS]]
        if len(self.target_names) > _TARGETS:
            lines.append(f"… and {len(self.target_names) - _TARGETS} more targets")
        rows = f"{self.n_rows} rows, {self.n_clusters} clusters"
        lines.append(f"terms sum to the reading to {self.gap:.1e} of its standard deviation ({rows})")
        if self.unit == "neuron":
            lines.append(f"neurons chosen on {self.provenance.get('neurons_chosen_on', 'the rows shown')}")
        return "\n".join(lines)

    def _line(self, name: str) -> str:
        table, place = self.of(name), layer_text(self.point)
        if self.n_rows == 1 or not table["share"].notna().any():
            reading = float(self.rows[f"reading_{name}"].mean())
            compared = bool(table["reference"].notna().any())
            size = table["mean"] - table["reference"] if compared else table["mean"]
            largest = ", ".join(f"{table.term[i]} {size[i]:+.3g}" for i in _by_size(size)[:3])
            against = " against the mean training row" if compared else ""
            return f"{name} at {place}: reading {reading:.4g}; largest terms{against}: {largest}"
        by_kind = table.groupby("kind", sort=False)["share"].sum().sort_values(ascending=False)
        parts = ", ".join(f"{_PLURAL[str(k)]} {v:.0%}" for k, v in by_kind.items())
        alone = table[~table["kind"].isin(["other neurons", "bias"])]
        top = alone.iloc[int(alone["share"].fillna(-np.inf).to_numpy().argmax())]
        span = "" if np.isnan(top.share_low) else f" [{top.share_low:.0%}, {top.share_high:.0%}]"
        return f"{name} at {place}, variance of the reading: {parts}; most: {top.term} {top.share:.0%}{span}"

    def figures(self) -> dict[str, Figure]:
        """By component: the build-up through the layers and the terms; heads as a map; neurons as bars."""
        out: dict[str, Figure] = {}
        for t, name in enumerate(self.target_names[:_TARGETS]):
            table, unit = self.of(name), self.units[t]
            if not table["share"].notna().any():
                out[f"{name}: the terms of the reading"] = _terms_figure(table, unit, "mean")
                continue
            if self.unit == "head":
                out[f"{name}: what each head gives to the reading's variance"] = _heads_figure(table)
            if self.unit == "component":
                out[f"{name}: where the reading's variance is written"] = shares_figure(table)
                caption = f"{name}: mean of the reading as it builds up through the layers"
                out[caption] = build_up_figure(table, self.intercept[t], unit)
            else:
                out[f"{name}: largest terms of the reading's variance"] = _terms_figure(table, unit, "share")
        return out

    def tables(self) -> dict[str, pd.DataFrame]:
        """The largest terms of each target."""
        out: dict[str, pd.DataFrame] = {}
        for t, name in enumerate(self.target_names[:_TARGETS]):
            table = self.of(name)
            size = table["share"] if table["share"].notna().any() else table["mean"]
            mean = f"mean ({self.units[t]})" if self.units[t] else "mean"
            headings = {
                "term": "term",
                "share": "share of variance",
                "share_low": "95% from",
                "share_high": "95% to",
                "toward_truth": "share of agreement with the truth",
                "mean": mean,
                "mean_low": f"{mean}, 95% from",
                "mean_high": f"{mean}, 95% to",
                "sd": "sd",
                "reference": "mean of training rows",
            }
            largest = headed(table.loc[_by_size(size)[:_LINES]], headings)
            out[f"{name}: the largest terms"] = largest.dropna(axis=1, how="all")
        return out


def _by_size(values: pd.Series) -> pd.Index:
    return values.abs().sort_values(ascending=False).index


# Figures ---------------------------------------------------------------------------------------------
def _whiskers(rows: pd.DataFrame, value: str) -> dict[str, Any]:
    """Error bars from `value`'s interval, where there is one."""
    middle, low, high = (rows[column].to_numpy(float) for column in (value, f"{value}_low", f"{value}_high"))
    if not (np.isfinite(middle) & np.isfinite(low)).any():
        return {}
    return error_bars(middle, np.minimum(low, middle), np.maximum(high, middle), MUTED, 1.0, 2)


def shares_figure(terms: pd.DataFrame) -> Figure:
    """Share of the reading's variance written by every layer's attention and MLP, with intervals.

    Args:
        terms: Rows of one target; embeddings are drawn left of the first layer.

    Raises:
        KeyError: A column is missing.
    """
    need_columns(terms, "kind", "layer", "share", "share_low", "share_high")
    fig = new_figure()
    start = terms[terms["layer"].isna()]
    attention, mlp = (terms[terms["kind"] == kind] for kind in ("attention", "mlp"))
    for rows, name, colour, at in (
        (start, "embedding", BLOCKS[4], "%{x}"),
        (attention, "attention", BLOCKS[1], "layer %{x}, attention"),
        (mlp, "MLP", BLOCKS[0], "layer %{x}, MLP"),
    ):
        if name == "embedding" and rows.empty:
            continue
        x = [str(t) for t in rows["term"]] if rows is start else [str(int(v)) for v in rows["layer"]]
        y, bars = rows["share"].to_numpy(float), _whiskers(rows, "share")
        fig.add_trace(bar_trace(x, y, name, colour, error_y=bars, hover=f"{at}: %{{y:.1%}}<extra></extra>"))
    order = [*(str(t) for t in start["term"]), *map(str, _layers(terms))]
    across = {"title_text": "layer", "type": "category", "categoryorder": "array", "categoryarray": order}
    style(
        fig, height=380, aspect=0.42, extra=60, barmode="group", bargap=0.25, bargroupgap=0.05, x=across,
        y={"title_text": "share of the reading's variance", "tickformat": ".0%", "rangemode": "tozero"},
    )  # fmt: skip
    level(fig, y=0, colour=INK, dash=None)
    return fig


def _layers(terms: pd.DataFrame) -> list[int]:
    return sorted(int(v) for v in terms["layer"].dropna().unique())


def build_up_figure(terms: pd.DataFrame, intercept: float, unit: str | None = None) -> Figure:
    """The mean reading summed up to each write: intercept, embeddings, then attention and MLP in turn.

    Args:
        terms: Rows of one target in model order.
        intercept: Where the sum starts.
        unit: Of the target.

    Raises:
        KeyError: A column is missing.
    """
    need_columns(terms, "term", "mean", "kind", "layer")
    running = intercept + np.cumsum(terms["mean"].to_numpy(float))
    place = (terms["layer"].astype("Float64") + 1).fillna(0).to_numpy(float)
    place = place + np.where(terms["kind"] == "mlp", 0.5, 0.0)
    line = {"color": BLOCKS[0], "width": 2, "shape": "hv"}
    texts: dict[str, Any] = {"text": ["intercept", *terms["term"]], "size": 5, "line": line}
    texts["hover"] = "after %{text}: %{y:.4~g}<extra></extra>"
    fig = new_figure(line_trace([-0.5, *place], [intercept, *running], None, BLOCKS[0], **texts))
    level(fig, y=float(running[-1]), colour=ACCENT)
    wide, narrow = (_ticks_of_writes(_layers(terms), most) for most in (12, 5))
    phone = {f"xaxis.{key}": value for key, value in narrow.items()}
    across = {"title_text": "written by layer (attention, then MLP)", "tickangle": 0, **wide}
    up = axis_title("mean reading so far", unit)
    return style(fig, height=360, aspect=0.42, extra=40, phone=phone, x=across, y=up)


def _ticks_of_writes(layers: list[int], most: int) -> dict[str, list[Any]]:
    """The embeddings at 0, and about `most` of the layers, none so near that it touches their name."""
    step = max(1, round(len(layers) / most))
    ticks = layers[step - 1 :: step] if step > 1 else layers[1 if len(layers) > most / 2 else 0 :]
    return {"tickvals": [0, *(v + 1 for v in ticks)], "ticktext": ["embed", *map(str, ticks)]}


def _heads_figure(terms: pd.DataFrame) -> Figure:
    """Share of the reading's variance by layer and head, of one target."""
    need_columns(terms, "kind", "layer", "index", "share")
    heads = terms[terms["kind"] == "head"]
    if heads.empty:
        raise ValueError("no line is a head's: attribute(..., unit='head') gives them")
    grid = heads.pivot_table(index="index", columns="layer", values="share")
    top = float(np.nanmax(np.abs(grid.to_numpy(float)))) or 1.0
    columns, rows = ([int(n) for n in names] for names in (grid.columns, grid.index))
    hover = "layer %{x}, head %{y}: %{z:.1%}<extra></extra>"
    more: dict[str, Any] = {"bar": "share", "colorbar_tickformat": ".0%", "gap": 1}
    fig = new_figure(heat_trace(grid.to_numpy(float), columns, rows, DIVERGING, (-top, top), hover, **more))
    across = {"title_text": "layer", "dtick": max(1, len(columns) // 18), "showgrid": False}
    up = {"title_text": "head", "dtick": max(1, len(rows) // 16), "showgrid": False}
    return style(fig, height=max(240, 26 * len(rows) + 120), aspect=0.3, extra=60, x=across, y=up)


def _terms_figure(terms: pd.DataFrame, unit: str | None, by: str, limit: int = 25) -> Figure:
    """The largest terms of one target as bars, by `mean` (less their `reference`, if any) or `share`."""
    need_columns(terms, "term", by, f"{by}_low", f"{by}_high", "reference")
    compared = by == "mean" and bool(terms["reference"].notna().any())
    size = terms[by] - terms["reference"] if compared else terms[by]
    order = _by_size(size)[:limit][::-1]
    rows, value = terms.loc[order], size.loc[order]
    names, colours = [str(t) for t in rows["term"]], [ACCENT if v < 0 else BLOCKS[0] for v in value]
    more: dict[str, Any] = {"hover": "%{y}: %{x:.4~g}<extra></extra>", "error_x": _whiskers(rows, by)}
    fig = new_figure(bar_trace(value.to_numpy(float), names, None, colours, orientation="h", **more))
    note = f"The {len(order)} largest of {len(terms)} terms." if len(order) < len(terms) else None
    what = "share of the reading's variance" if by == "share" else axis_title("term", unit)
    across = {
        "title_text": f"{what}, less its mean over training rows" if compared else what,
        "tickformat": ".0%" if by == "share" else None,
    }
    up = {"showgrid": False, "ticks": "", "showline": False}
    size = 90 + 20 * len(order)
    style(fig, height=size, aspect=0.6, extra=6 * len(order), note=note, x=across, y=up)
    level(fig, x=0, colour=INK, dash=None)
    return fig
