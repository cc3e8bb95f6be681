"""What the geometry of probes' directions is: the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from graticule.hooks.saved import SavedResult
from graticule.probes.directions.angles import KINDS

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_SHOWN = 6  # targets with a heat-map of their own


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
    """A line a concept, kind and pair of points: `concept`, `kind`, `point_a`, `point_b`, `layer_a`,
    `layer_b`, `cosine`; of noise targets fitted at both points the mean, `noise`, and its 95% range."""
    ranks: pd.DataFrame
    """A line a set of two targets or more, point and kind: `set`, `point`, `layer`, `kind`, `targets`,
    `effective_rank` (exp of the entropy of the singular values, Roy & Vetterli 2007), and that of shuffled
    targets, `shuffled` and its range."""
    singular: pd.DataFrame
    """Singular values of the directions in standardised target units: `set`, `point`, `kind`, `order`,
    `value` (a share of their sum)."""
    angles: pd.DataFrame
    """A line a kind, geometry and pair of concepts: `kind`, `geometry`, `a`, `b`, `same_table`, `cosine`,
    `degrees`, `p` (chance of such a |cosine| had one of the two targets been shuffled, the larger of two),
    `p_bh` (adjusted over the pairs), `level` (|cosine| that shuffling exceeds in 5%)."""
    alone: pd.DataFrame
    """A line a concept, kind and geometry: `split_half` cosine (the same direction from two halves of the
    rows: what noise leaves of a cosine of 1) and `read_write` cosine."""
    provenance: Mapping[str, Any]
    """Model, tables, settings and versions."""

    @property
    def title(self) -> str:
        """Model and tables."""
        return f"Directions of {', '.join(self.table_names)} in {self.model}"

    def summary(self) -> str:
        """Which concepts lie closer than chance, then layers, then rank."""
        lines = [*self._pair_lines(), self._layer_line(), *self._rank_lines()]
        if "causal" not in self.geometries:
            lines.append("the causal inner product was not taken: give model=")
        return "\n".join(lines)

    def _pair_lines(self) -> list[str]:
        if self.angles.empty:
            return []
        lines: list[str] = []
        for geometry in reversed(self.geometries):
            said: list[str] = []
            for kind in KINDS:
                of = (self.angles["geometry"] == geometry) & (self.angles["kind"] == kind)
                held = self.angles[of]
                close = held.iloc[int(held["p"].to_numpy().argmin())]
                said.append(
                    f"{kind} {int((held['p_bh'] < 0.05).sum())} (most {close['a']} and {close['b']}, "
                    f"{close['degrees']:.0f}°, p {close['p']:.2g})"
                )
            count = len(self.angles) // (len(KINDS) * len(self.geometries))
            lines.append(
                f"pairs of concepts, of {count}, at another angle than shuffled targets give, {geometry}: "
                f"{', '.join(said)}"
            )
        return lines

    def _layer_line(self) -> str:
        near = self.layer_cosines
        points = list(dict.fromkeys(near["point_a"]))
        place = {point: i for i, point in enumerate(points)}
        near = near[near["point_b"].map(place) - near["point_a"].map(place) == 1]
        if near.empty:
            return "one layer only: nothing to compare across layers"
        said = [
            f"{kind} {near[near['kind'] == kind]['cosine'].mean():.2f} "
            f"(a noise target {near[near['kind'] == kind]['noise'].mean():.2f})"
            for kind in KINDS
        ]
        return f"mean cosine between neighbouring layers: {', '.join(said)}"

    def _rank_lines(self) -> list[str]:
        held = self.ranks[self.ranks["point"] == self.point]
        return [
            f"effective rank of {int(line['targets'])} targets ({line['set']}), {line['kind']}: "
            f"{line['effective_rank']:.1f}"
            + ("" if pd.isna(line["shuffled"]) else f" (shuffled {line['shuffled']:.1f})")
            for _, line in held.iterrows()
        ][:6]

    def figures(self) -> dict[str, Figure]:
        """Layer × layer heat-maps, angles between concepts, rank by layer."""
        from graticule.probes.plots.directions import angles_figure, layers_figure, rank_figure

        out: dict[str, Figure] = {}
        if self.layer_cosines["point_a"].nunique() > 1:
            for concept in self.concepts[:_SHOWN]:
                held = self.layer_cosines[self.layer_cosines["concept"] == concept]
                out[f"Cosine between layers, {concept}: read and write"] = layers_figure(held)
        if not self.angles.empty:
            for geometry in self.geometries:
                held = self.angles[self.angles["geometry"] == geometry]
                own = self.alone[self.alone["geometry"] == geometry]
                caption = f"Cosines between concepts at {self.point}, {geometry} inner product"
                out[caption] = angles_figure(held, own, self.concepts)
        if not self.ranks.empty and self.ranks["point"].nunique() > 1:
            out["Effective rank of the targets' directions by layer"] = rank_figure(self.ranks)
        return out

    def tables(self) -> dict[str, pd.DataFrame]:
        """Angles, single directions, ranks."""
        from graticule.probes.directions.tables import alone_table, angles_table, ranks_table

        out = {"Each direction alone": alone_table(self.alone)}
        if not self.angles.empty:
            out = {"Angles between concepts": angles_table(self.angles), **out}
        if not self.ranks.empty:
            out["Rank of several targets' directions"] = ranks_table(
                self.ranks[self.ranks["point"] == self.point]
            )
        return out
