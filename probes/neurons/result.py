"""What a neuron search gives: the best neurons of every target, and the search on rotated bases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.hooks.calls import old_name
from graticule.hooks.messages import UnknownNameError
from graticule.hooks.result import headed
from graticule.hooks.saved import SavedResult
from graticule.probes.plots.primitives import (
    by_block,
    dots_trace,
    histogram_trace,
    is_of_names,
    line_trace,
    median_trace,
    new_figure,
    panels,
)
from graticule.probes.plots.style import ACCENT, BLOCKS, FAINT, INK, MUTED, axis, need_columns, style
from graticule.probes.scores.significance import benjamini_hochberg

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_TARGETS = 4  # targets drawn
_LINES = 20
_LEVEL = 0.05
_OF_THE_WORD = 0.01
"""What p must be for a basis to be called special; rotated neurons have the law of real ones up to tails."""
SPECIAL = "carried better than a random basis could"
NOT_SPECIAL = "no better carried than by a random basis"
_BEST = {
    "layer": "layer",
    "neuron": "neuron",
    "r_train": "r train",
    "r_test": "r test",
    "spearman_train": "Spearman train",
    "spearman_test": "Spearman test",
    "p": "p",
    "p_bh": "p adjusted",
    "p_max": "p, best of rotations",
}
_WEIGHTS = {
    "layer": "layer",
    "neuron": "neuron",
    "weight": "weight",
    "direction": "direction",
    "cosine": "cosine",
    "p": "p",
    "p_bh": "p adjusted",
    "p_max": "p, largest of the null",
}


@dataclass(frozen=True)
class Search:
    """The best neuron of one target, chosen on training rows and scored once on test rows."""

    target: str
    """Its name."""
    layer: int
    """Of the best neuron."""
    neuron: int
    """Its index in the layer."""
    r_train: float
    """Pearson correlation on training rows: what it was chosen by."""
    r_test: float
    """Pearson correlation on test rows."""
    spearman_test: float
    """Spearman correlation on test rows."""
    rotated_median: float
    """|r| on test rows of the best neuron of a randomly rotated basis, median over rotations."""
    rotated_95: float
    """The 95th percentile of the same."""
    p: float
    """Share of rotations whose best neuron scores at least as well."""
    permuted_95: float
    """Largest |r| on training rows with permuted targets, 95th percentile: a sanity line, no null."""
    beat_permuted: float
    """Share of all neurons above it."""
    p_adjusted: float | None = None
    """`p` adjusted over the targets (Benjamini-Hochberg); None where it was saved without."""

    @property
    def label(self) -> str:
        """Whether single neurons carry the target beyond what any basis of these activations would."""
        before = self.p_adjusted is None  # of an earlier version
        p, level = (self.p, _LEVEL) if before else (self.p_adjusted or 0.0, _OF_THE_WORD)
        return SPECIAL if p <= level and abs(self.r_test) > self.rotated_95 else NOT_SPECIAL

    @property
    def words(self) -> str:
        """The old name of `label`."""
        old_name("Search.words", "label")
        return self.label

    @property
    def name(self) -> str:
        """Of the best neuron: `L7.N1044`."""
        return f"L{self.layer}.N{self.neuron}"


def counted_together(searches: Sequence[Search]) -> tuple[Search, ...]:
    """Searches for several targets, their p-values adjusted for how many they are."""
    adjusted = benjamini_hochberg([search.p for search in searches])
    return tuple(replace(one, p_adjusted=float(p)) for one, p in zip(searches, adjusted, strict=True))


@dataclass(frozen=True)
class Neurons(SavedResult):
    """The result of `graticule.neurons`."""

    KIND: ClassVar[str] = "neurons"

    model: str
    """The model's name."""
    table: str
    """The table's name."""
    point: str
    """The point that the sweep chose."""
    layers: tuple[int, ...]
    """Layers searched."""
    target_names: tuple[str, ...]
    """One name per target."""
    units: tuple[str | None, ...]
    """One unit per target."""
    searches: tuple[Search, ...]
    """The best neuron of every target, and the search repeated on rotated bases."""
    best: pd.DataFrame
    """One row per chosen neuron: `target`, `layer`, `neuron`, `r_train`, `r_test` (Pearson), `p` (one random
    direction of the same activations), `p_bh` (adjusted over all neurons searched), `p_max` (the best neuron
    of a rotated basis), `spearman_train`, `spearman_test`, `by_<level>` (Spearman on test rows), and
    `cos_<weight>_<direction>`."""
    weights: pd.DataFrame
    """One row per weight vector, largest cosines first: `target`, `layer`, `neuron`, `weight`, `direction`,
    `cosine`, `p`, `p_bh`, `p_max`."""
    histogram: pd.DataFrame
    """Cosines of all neurons and of their null, by bins."""
    rotated: Float[np.ndarray, "rotation target"]
    """|r| on test rows of the best neuron of each rotated basis, over all layers."""
    scatter: pd.DataFrame
    """The best neuron's activation on test rows: `target`, `text`, `true`, `activation`, `block`."""
    n_neurons: int
    """Neurons searched."""
    n_train: int
    """Training rows."""
    n_test: int
    """Test rows."""
    block: str | None
    """The block within which correlations are given."""
    provenance: Mapping[str, Any]
    """Model, table, settings and versions."""

    @property
    def title(self) -> str:
        """Model, table and layers."""
        first, last = self.layers[0], self.layers[-1]
        span = f"layer {first}" if len(self.layers) == 1 else f"layers {first} to {last}"
        return f"{self.model} on {self.table}: neurons of {span}"

    def of(self, target: str) -> pd.DataFrame:
        """The chosen neurons of one target.

        Raises:
            KeyError: Naming the targets there are.
        """
        if target not in self.target_names:
            raise UnknownNameError(f"no target {target!r}; there are {', '.join(self.target_names)}")
        return self.best[self.best["target"] == target].reset_index(drop=True)

    def summary(self) -> str:
        """For every target the best neuron and what rotated bases reach; then the weights."""
        lines = [line for search in self.searches[:_TARGETS] for line in self._lines(search)]
        if len(self.searches) > _TARGETS:
            lines.append(f"… and {len(self.searches) - _TARGETS} more targets")
        first = self.searches[0]
        if first.permuted_95 == first.permuted_95:
            lines.append(
                f"sanity: permuted targets reach {first.permuted_95:z.3f}, which "
                f"{first.beat_permuted:.0%} of all neurons pass for {first.target}"
            )
        lines.append(
            f"{self.n_neurons:,} neurons of layers {', '.join(map(str, self.layers))}; chosen on "
            f"{self.n_train:,} training rows, scored on {self.n_test:,} test rows"
        )
        return "\n".join(lines)

    def _lines(self, s: Search) -> list[str]:
        best = self.of(s.target)
        single, whole = (int((best[p] <= _LEVEL).sum()) for p in ("p_bh", "p_max"))
        near = self.weights[self.weights["target"] == s.target].iloc[0]
        return [
            f"{s.target}: {s.label}: {s.name}, r {s.r_test:+z.3f} on test rows (Spearman "
            f"{s.spearman_test:+z.3f}; {s.r_train:+z.3f} on training rows); best of random rotations "
            f"{s.rotated_median:z.3f} (95th percentile {s.rotated_95:z.3f}), p = {s.p:.2g}{self._counted(s)}",
            f"  of its {len(best)} best, {single} beat a random direction (Benjamini-Hochberg), "
            f"{whole} the best of a rotated basis",
            f"  weights: L{near.layer}.N{near.neuron} {near.weight} has cosine {near.cosine:+z.3f} with the "
            f"{near.direction} direction (p {near.p:.1g}, adjusted {near.p_bh:.1g}, "
            f"largest {near.p_max:.1g})",
        ]

    def _counted(self, s: Search) -> str:
        """The p-value with all targets counted."""
        several = len(self.searches) > 1 and s.p_adjusted is not None
        return f" ({s.p_adjusted:.2g} with {len(self.searches)} targets counted)" if several else ""

    def figures(self) -> dict[str, Figure]:
        """For every target: the best neuron against the truth, the best of rotations, the cosines."""
        out: dict[str, Figure] = {}
        for t, search in enumerate(self.searches[:_TARGETS]):
            name, rotated = search.target, self.rotated[:, t]
            rows = self.scatter[self.scatter["target"] == name]
            histogram = self.histogram[self.histogram["target"] == name]
            out[f"{name}: {search.name}, the best neuron, on test rows"] = _scatter_figure(
                rows, search, self.units[t]
            )
            out[f"{name}: the best neuron against the best of random rotations"] = rotation_figure(
                rotated, abs(search.r_test), search.name
            )
            out[f"{name}: cosines of weights with the probe's directions"] = _cosine_figure(histogram)
        return out

    def tables(self) -> dict[str, pd.DataFrame]:
        """The best neurons of every target, by activation and by weights."""
        out: dict[str, pd.DataFrame] = {}
        for name in self.target_names[:_TARGETS]:
            best = self.of(name).head(_LINES)
            headings = dict(_BEST)
            for prefix, what, space in (("by_", "Spearman", " "), ("cos_", "cosine", " / ")):
                for column in best.columns[best.columns.str.startswith(prefix)]:
                    headings[column] = f"{what}, {column.removeprefix(prefix).replace('_', space)}"
            out[f"{name}: neurons chosen by correlation on training rows"] = headed(best, headings)
            near = self.weights[self.weights["target"] == name].head(_LINES)
            out[f"{name}: weights nearest to the probe's directions"] = headed(near, _WEIGHTS)
        return out


# Figures ---------------------------------------------------------------------------------------------
def _scatter_figure(rows: pd.DataFrame, search: Search, unit: str | None) -> Figure:
    """A neuron's activation against the truth on test rows (Gurnee & Tegmark 2023, figure 5)."""
    need_columns(rows, "true", "activation", "text")
    fig = new_figure()
    hover = "%{text}<br>true %{x:.5~g}<br>activation %{y:.3g}<extra></extra>"
    block = "block" if "block" in rows.columns and is_of_names(rows, "block") else None
    for name, colour, part in by_block(rows, block):
        x, y = (part[column].to_numpy(np.float32) for column in ("true", "activation"))
        more: dict[str, Any] = {"text": part["text"].astype(str), "hover": hover}
        more |= {"look": {"opacity": 0.55}, "showlegend": name is not None}
        fig.add_trace(dots_trace(x, y, name, colour, 4, **more))
    true, activation = (rows[column].to_numpy(np.float64) for column in ("true", "activation"))
    hover = "near %{x:.5~g}<br>median activation %{y:.3g}<extra></extra>"
    fig.add_traces(median_trace(true, activation, "median activation", hover))
    note, up = f"{len(rows):,} test rows.", f"activation of {search.name}"
    layout: dict[str, Any] = {"height": 440, "aspect": 0.5, "extra": 70, "phone": {"extra": 150}}
    return style(fig, **layout, note=note, x=axis(search.target, unit), y=up)


def rotation_figure(rotated: Float[np.ndarray, " rotation"], observed: float, neuron: str) -> Figure:
    """|r| on test rows of the best neuron of every rotated basis, and of the best real one."""
    low, high = float(min(rotated.min(), observed)), float(max(rotated.max(), observed))
    pad = 0.05 * (high - low) or 0.01
    edges = np.linspace(low - pad, high + pad, 41)
    hover = "|r| %{x:.3f}: %{y} rotations<extra></extra>"
    bars = histogram_trace(rotated, edges, "best of a random rotation", FAINT, outline=1, hover=hover)
    top, fig = float(np.max(bars["y"])), new_figure(bars)
    for at, colour, width, dash, name in (
        (observed, ACCENT, 3, None, f"{neuron}, the best neuron"),
        (float(np.quantile(rotated, 0.95)), INK, 1, "dot", "95th percentile"),
    ):
        more: dict[str, Any] = {"dash": dash, "hover": "|r| %{x:.3f}<extra></extra>"}
        fig.add_trace(line_trace([at, at], [0, top], name, colour, width, **more))
    across = "|r| on test rows of the neuron chosen on training rows"
    return style(fig, height=320, aspect=0.36, extra=60, x=across, y="rotations")


def _cosine_figure(histogram: pd.DataFrame) -> Figure:
    """Cosines of all neurons' weights with both directions, and of vectors with the weights' covariance."""
    need_columns(histogram, "direction", "weight", "cosine", "neurons", "null")
    directions = [d for d in ("read", "write") if (histogram["direction"] == d).any()]
    titles = [f"{d} direction" for d in directions]
    fig, cells = panels(titles, shared_yaxes=True, horizontal_spacing=0.04)
    floor = 1e-5
    drawn = histogram[(histogram["neurons"] > 0) | (histogram["null"] > floor)]
    reach = float(drawn["cosine"].abs().max()) + 0.02
    for (cell, direction), (weight, colour) in product(
        zip(cells, directions, strict=True), zip(("in", "gate", "out"), BLOCKS, strict=False)
    ):
        part = histogram[(histogram["direction"] == direction) & (histogram["weight"] == weight)]
        if part.empty:
            continue
        for column, dash, width, name in (
            ("null", "dot", 1.2, f"{weight}, null"),
            ("neurons", "solid", 1.8, f"{weight} weights"),
        ):
            share = part[column].to_numpy(float)
            above = np.pad(share > floor, 1)
            alone = above[1:-1] & ~above[:-2] & ~above[2:]  # a line of one bin would not be seen
            more: dict[str, Any] = {
                "line": {"color": colour, "width": width, "dash": dash, "shape": "hvh"},
                "marker": {"color": colour, "size": np.where(alone, 6, 0)},
                "hover": "cosine %{x:.2f}: %{y:.2g}<extra></extra>",
                "legendgroup": f"{weight}{column}",
                "showlegend": cell["col"] == 1,
            }
            x, y = part["cosine"].to_numpy(float), np.where(share > floor, share, np.nan)
            fig.add_trace(line_trace(x, y, name, colour, size=6, **more), **cell)
    up = {"type": "log", "exponentformat": "power", "dtick": 1}
    layout: dict[str, Any] = {"phone": {"extra": 150}, "margin_t": 70, "legend_y": 1.12, "y": up}
    across = {"title_text": "cosine", "range": [-reach, reach]}
    style(fig, height=380, aspect=0.42, extra=80, x=across, **layout)
    fig.update_annotations(font={"size": 13, "color": MUTED})
    fig.update_yaxes(title_text="share of neurons", col=1)
    return fig
