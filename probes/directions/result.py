"""What the geometry of probes' directions is: the result, in words, figures and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from graticule.hooks.result import headed
from graticule.hooks.saved import SavedResult
from graticule.probes.directions.angles import KINDS
from graticule.probes.plots.primitives import (
    PlotTrace,
    dots_trace,
    heat_trace,
    level,
    line_trace,
    new_figure,
    panels,
)
from graticule.probes.plots.style import (
    ACCENT,
    FAINT,
    SURFACE,
    layer_axis,
    need_columns,
    rows_axis,
    short,
    short_labels,
    style,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_TARGETS = 6  # targets with a heat-map of their own
_GRID = 40  # concepts in a heat-map
_DASHES = ("solid", "dash", "dot", "dashdot")
_ANGLES = {
    "a": "concept",
    "b": "other concept",
    "kind": "direction",
    "geometry": "inner product",
    "cosine": "cosine",
    "degrees": "angle (degrees)",
    "level": "shuffled, 95% below",
    "p": "p",
    "p_bh": "p (BH)",
}
_ALONE = {
    "concept": "concept",
    "kind": "direction",
    "geometry": "inner product",
    "split_half": "cosine of two halves",
    "read_write": "cosine of read and write",
}
_RANKS = {
    "set": "targets of",
    "kind": "direction",
    "targets": "targets",
    "effective_rank": "effective rank",
    "shuffled": "shuffled",
    "shuffled_low": "shuffled, from",
    "shuffled_high": "to",
}


@dataclass(frozen=True)
class Directions(SavedResult):
    """The result of `graticule.directions`."""

    KIND: ClassVar[str] = "directions"

    model: str
    """The model's name."""
    point: str
    """Where angles between concepts are taken."""
    table_names: tuple[str, ...]
    """The tables, in the order given."""
    concepts: tuple[str, ...]
    """Every target of every table; with the table's name where two tables share one."""
    geometries: tuple[str, ...]
    """`euclidean`, `whitened`, and `causal` where a model was given."""
    layer_cosines: pd.DataFrame
    """One row per concept, kind and pair of points: `concept`, `kind`, `point_a`, `point_b`, `layer_a`,
    `layer_b`, `cosine`; of noise targets fitted at both points the mean, `noise`, and its 95% range."""
    ranks: pd.DataFrame
    """One row per set of two targets or more, point and kind: `set`, `point`, `layer`, `kind`, `targets`,
    `effective_rank` (exp of the entropy of the singular values, Roy & Vetterli 2007), and that of shuffled
    targets, `shuffled` and its range."""
    singular: pd.DataFrame
    """Singular values of the directions in standardised target units: `set`, `point`, `kind`, `order`,
    `value` (a share of their sum)."""
    angles: pd.DataFrame
    """One row per kind, geometry and pair of concepts: `kind`, `geometry`, `a`, `b`, `same_table`, `cosine`,
    `degrees`, `p` (chance of such a |cosine| had one of the two targets been shuffled, the larger of two),
    `p_bh` (adjusted over the pairs), `level` (|cosine| that shuffling exceeds in 5%)."""
    alone: pd.DataFrame
    """One row per concept, kind and geometry: `split_half` cosine (the same direction from two halves of the
    rows: what noise leaves of a cosine of 1) and `read_write` cosine."""
    provenance: Mapping[str, Any]
    """Model, tables, settings and versions."""

    @property
    def title(self) -> str:
        """Model and tables."""
        return f"Directions of {', '.join(self.table_names)} in {self.model}"

    def summary(self) -> str:
        """Which concepts lie closer than chance, then layers, then rank."""
        pairs = [] if self.angles.empty else [self._pair_line(name) for name in reversed(self.geometries)]
        lines = [*pairs, self._layer_line(), *self._rank_lines()]
        if "causal" not in self.geometries:
            lines.append("the causal inner product was not taken: give model=")
        return "\n".join(lines)

    def _pair_line(self, geometry: str) -> str:
        by_kind: list[str] = []
        for kind in KINDS:
            rows = self.angles[(self.angles["geometry"] == geometry) & (self.angles["kind"] == kind)]
            close = rows.iloc[int(rows["p"].to_numpy().argmin())]
            by_kind.append(
                f"{kind} {int((rows['p_bh'] < 0.05).sum())} (most {close['a']} and {close['b']}, "
                f"{close['degrees']:.0f}°, p {close['p']:.2g})"
            )
        count = len(self.angles) // (len(KINDS) * len(self.geometries))
        return (
            f"pairs of concepts, of {count}, at another angle than shuffled targets give, {geometry}: "
            f"{', '.join(by_kind)}"
        )

    def _layer_line(self) -> str:
        near = self.layer_cosines
        place = {point: i for i, point in enumerate(dict.fromkeys(near["point_a"]))}
        near = near[near["point_b"].map(place) - near["point_a"].map(place) == 1]
        if near.empty:
            return "one layer only: nothing to compare across layers"
        means = near.groupby("kind")[["cosine", "noise"]].mean()
        by_kind = [
            f"{kind} {means.at[kind, 'cosine']:z.2f} (a noise target {means.at[kind, 'noise']:z.2f})"
            for kind in KINDS
        ]
        return f"mean cosine between neighbouring layers: {', '.join(by_kind)}"

    def _rank_lines(self) -> list[str]:
        return [
            f"effective rank of {int(line['targets'])} targets ({line['set']}), {line['kind']}: "
            f"{line['effective_rank']:.1f}"
            + ("" if pd.isna(line["shuffled"]) else f" (shuffled {line['shuffled']:.1f})")
            for _, line in self.ranks[self.ranks["point"] == self.point].head(6).iterrows()
        ]

    def figures(self) -> dict[str, Figure]:
        """Layer × layer heat-maps, angles between concepts, rank by layer."""
        out: dict[str, Figure] = {}
        if self.layer_cosines["point_a"].nunique() > 1:
            for concept in self.concepts[:_TARGETS]:
                cosines = self.layer_cosines[self.layer_cosines["concept"] == concept]
                out[f"Cosine between layers, {concept}: read and write"] = _layers_figure(cosines)
        if not self.angles.empty:
            for geometry in self.geometries:
                angles = self.angles[self.angles["geometry"] == geometry]
                own = self.alone[self.alone["geometry"] == geometry]
                caption = f"Cosines between concepts at {self.point}, {geometry} inner product"
                out[caption] = _angles_figure(angles, own, self.concepts)
        if not self.ranks.empty and self.ranks["point"].nunique() > 1:
            out["Effective rank of the targets' directions by layer"] = _rank_figure(self.ranks)
        return out

    def tables(self) -> dict[str, pd.DataFrame]:
        """Angles (the closest first), single directions, ranks."""
        out: dict[str, pd.DataFrame] = {}
        if not self.angles.empty:
            ordered = self.angles.sort_values(["p", "kind", "geometry"], kind="stable")
            out["Angles between concepts"] = headed(ordered, _ANGLES)
        out["Each direction alone"] = headed(self.alone, _ALONE)
        if not self.ranks.empty:
            ranks = self.ranks[self.ranks["point"] == self.point]
            out["Rank of several targets' directions"] = headed(ranks, _RANKS)
        return out


# Figures ---------------------------------------------------------------------------------------------
def _heat(grid: np.ndarray, labels: Sequence[str], names: str, **marks: Any) -> PlotTrace:
    """Cosines between everything that `labels` name; `names` begins the text under the pointer."""
    scale = [[0.0, SURFACE], [0.5, "#ffffff"], [1.0, ACCENT]]
    hover = f"{names}<br>cosine %{{z:.2f}}<extra></extra>"
    return heat_trace(grid, labels, labels, scale, (-1, 1), hover, bar="cosine", **marks)


def _layers_figure(cosines: pd.DataFrame) -> Figure:
    """Layer × layer cosines of one concept's read direction (left) and write direction (right);
    above the diagonal the cosines, below it those of a noise target fitted at both layers."""
    need_columns(cosines, "kind", "point_a", "point_b", "layer_a", "cosine", "noise")
    layer = cosines.drop_duplicates("point_a").set_index("point_a")["layer_a"]
    points = list(layer.index)
    place = {point: i for i, point in enumerate(points)}
    labels = [str(int(layer[p])) if pd.notna(layer[p]) else short(p, 14) for p in points]
    if len(set(labels)) < len(labels):
        labels = [short(p, 18) for p in points]
    fig, cells = panels(("read direction", "write direction"), horizontal_spacing=0.1)
    for kind, cell in zip(KINDS, cells, strict=True):
        grid = np.full((len(points), len(points)), np.nan)
        for line in cosines[cosines["kind"] == kind].itertuples():
            i, j = place[line.point_a], place[line.point_b]
            grid[j, i] = line.noise
            grid[i, j] = line.cosine  # last: on the diagonal it stands
        heat = _heat(grid.T, labels, "layer %{x} and %{y}", showscale=cell["col"] == 2)
        fig.add_trace(heat, **cell)
    note = "Above the diagonal the concept; below it a noise target fitted at both layers."
    step = max(1, len(labels) // 9)
    ticks: dict[str, Any] = {"tickvals": labels[::step], "showgrid": False, "type": "category"}
    across = {"title_text": "layer (block index)", **ticks}
    style(fig, height=440, aspect=0.46, extra=70, note=note, margin_t=36, x=across, y=ticks)
    fig.update_yaxes(title_text="layer (block index)", row=1, col=1)
    return fig


def _angles_figure(angles: pd.DataFrame, alone: pd.DataFrame, concepts: Sequence[str]) -> Figure:
    """Cosines between concepts: a line each for few pairs, a heat-map for many."""
    need_columns(angles, "kind", "a", "b", "cosine", "level")
    need_columns(alone, "concept", "kind", "split_half")
    if len(concepts) > 5:
        return _concept_grid(angles, alone, concepts[:_GRID])
    fig = new_figure()
    pairs = list(dict.fromkeys(zip(angles["a"], angles["b"], strict=True)))
    rows = [f"{short(a, 26)} – {short(b, 26)}" for a, b in pairs]
    rows += [f"{short(c, 26)}, two halves" for c in concepts]
    for kind, colour, shift in (("read", SURFACE, 0.14), ("write", ACCENT, -0.14)):
        between = angles[angles["kind"] == kind].set_index(["a", "b"])[["cosine", "level"]].loc[pairs]
        halves = alone[alone["kind"] == kind].set_index("concept")["split_half"].loc[list(concepts)]
        heights = [len(rows) - 1 - i + shift for i in range(len(rows))]
        for y, chance in zip(heights, between["level"], strict=False):
            hover = f"shuffled targets: |cosine| below {chance:z.2f} in 95%<extra></extra>"
            fig.add_trace(line_trace([-chance, chance], [y, y], None, FAINT, 7, hover=hover))
        look = {"line": {"color": "white", "width": 1}}
        more: dict[str, Any] = {"look": look, "hover": "cosine %{x:.3f}<extra></extra>"}
        values = [*between["cosine"], *halves]
        fig.add_trace(dots_trace(values, heights, f"{kind} direction", colour, 10, **more))
    level(fig, x=0)
    note = (
        "Grey: where 95% of cosines lie with one of the two targets shuffled. Two halves: one direction "
        "fitted on either half of the training rows."
    )
    across = {"title_text": "cosine", "range": [-1.05, 1.05]}
    up = rows_axis(rows[::-1], 0.6, 0.4, showgrid=False)
    return style(fig, height=120 + 46 * len(rows), note=note, x=across, y=up)


def _concept_grid(angles: pd.DataFrame, alone: pd.DataFrame, concepts: Sequence[str]) -> Figure:
    """Read above the diagonal, write below it, the cosine of two halves of the rows (read) on it."""
    place = {concept: i for i, concept in enumerate(concepts)}
    grid = np.full((len(concepts), len(concepts)), np.nan)
    for line in angles.itertuples():
        if line.a in place and line.b in place:
            i, j = place[str(line.a)], place[str(line.b)]
            grid[(i, j) if line.kind == "read" else (j, i)] = line.cosine
    for line in alone[alone["kind"] == "read"].itertuples():
        if line.concept in place:
            grid[place[str(line.concept)], place[str(line.concept)]] = line.split_half
    fig = new_figure(_heat(grid, short_labels(concepts), "%{y} and %{x}"))
    note = "Above the diagonal read, below it write directions; on it one read direction from two halves."
    across, up = {"showgrid": False, "tickangle": -45}, {"autorange": "reversed", "showgrid": False}
    size = 220 + 18 * len(concepts)
    return style(fig, height=size, aspect=0.8, extra=80, note=note, x=across, y=up)


def _rank_figure(ranks: pd.DataFrame) -> Figure:
    """Effective rank against depth, with that of shuffled targets faint."""
    need_columns(ranks, "set", "point", "layer", "kind", "targets", "effective_rank", "shuffled")
    fig = new_figure()
    by_layer = ranks.groupby("set").filter(lambda part: part["point"].nunique() > 1)
    for s, (name, part) in enumerate(by_layer.groupby("set", sort=False)):
        for kind, own_colour in (("read", SURFACE), ("write", ACCENT)):
            rows = part[part["kind"] == kind]
            x = rows["layer"] if rows["layer"].notna().all() else rows["point"]
            own_name = f"{name}, {kind} ({int(rows['targets'].iloc[0])} targets)"
            for column, colour, width, size, label, in_legend in (
                ("effective_rank", own_colour, 2.5, 5, own_name, True),
                ("shuffled", FAINT, 1.5, None, "shuffled", s == 0 and kind == "read"),
            ):
                more: dict[str, Any] = {
                    "dash": _DASHES[s % len(_DASHES)],
                    "size": size,
                    "hover": "layer %{x}<br>effective rank %{y:.2f}<extra></extra>",
                    "legendgroup": column,
                    "showlegend": in_legend,
                }
                fig.add_trace(line_trace(x, rows[column], label, colour, width, **more))
    up = {"title_text": "effective rank", "rangemode": "tozero"}
    style(fig, height=380, x={"showgrid": False}, y=up)
    layer_axis(fig, by_layer["layer"])
    return fig
