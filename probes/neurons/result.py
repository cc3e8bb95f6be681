"""What a neuron search found: the best neurons of every target, and the search on rotated bases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.hooks.messages import UnknownNameError
from graticule.hooks.saved import SavedResult

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_SHOWN = 4  # targets drawn
_LINES = 20
_LEVEL = 0.05
SPECIAL = "carried better than a random basis could"
NOT_SPECIAL = "no better carried than by a random basis"


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

    @property
    def words(self) -> str:
        """Whether single neurons carry the target beyond what any basis of these activations would."""
        return SPECIAL if self.p <= _LEVEL and abs(self.r_test) > self.rotated_95 else NOT_SPECIAL


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
    """A name a target."""
    units: tuple[str | None, ...]
    """A unit a target."""
    searches: tuple[Search, ...]
    """The best neuron of every target, and the search repeated on rotated bases."""
    best: pd.DataFrame
    """A line a chosen neuron: `target`, `layer`, `neuron`, `r_train`, `r_test` (Pearson), `p` (one random
    direction of the same activations), `p_bh` (adjusted over all neurons searched), `p_max` (the best neuron
    of a rotated basis), `spearman_train`, `spearman_test`, `by_<level>` (Spearman on test rows), and
    `cos_<weight>_<direction>`."""
    weights: pd.DataFrame
    """A line a weight vector, largest cosines first: `target`, `layer`, `neuron`, `weight`, `direction`,
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
        span = (
            f"layer {self.layers[0]}"
            if len(self.layers) == 1
            else f"layers {self.layers[0]} to {self.layers[-1]}"
        )
        return f"{self.model} on {self.table}: neurons of {span}"

    def of(self, target: str) -> pd.DataFrame:
        """The chosen neurons of one target. **Raises** `KeyError` naming the targets there are."""
        if target not in self.target_names:
            raise UnknownNameError(f"no target {target!r}; there are {', '.join(self.target_names)}")
        return self.best[self.best["target"] == target].reset_index(drop=True)

    def summary(self) -> str:
        """For every target the best neuron and what rotated bases reach; then the weights."""
        lines: list[str] = []
        for s in self.searches[:_SHOWN]:
            lines.append(
                f"{s.target}: {s.words}: L{s.layer}.N{s.neuron}, r {s.r_test:+.3f} on test rows (Spearman "
                f"{s.spearman_test:+.3f}; {s.r_train:+.3f} on training rows); best of random rotations "
                f"{s.rotated_median:.3f} (95th percentile {s.rotated_95:.3f}), p = {s.p:.2g}"
            )
            found = self.of(s.target)
            passed = int((found["p_bh"] <= _LEVEL).sum()), int((found["p_max"] <= _LEVEL).sum())
            lines.append(
                f"  of its {len(found)} best, {passed[0]} beat a random direction (Benjamini-Hochberg), "
                f"{passed[1]} the best of a rotated basis"
            )
            lines.append(self._weights_line(s.target))
        if len(self.searches) > _SHOWN:
            lines.append(f"… and {len(self.searches) - _SHOWN} more targets")
        first = self.searches[0]
        if first.permuted_95 == first.permuted_95:
            lines.append(
                f"sanity: permuted targets reach {first.permuted_95:.3f}, which "
                f"{first.beat_permuted:.0%} of all neurons pass for {first.target}"
            )
        lines.append(
            f"{self.n_neurons:,} neurons of layers {', '.join(map(str, self.layers))}; chosen on "
            f"{self.n_train:,} training rows, scored on {self.n_test:,} test rows"
        )
        return "\n".join(lines)

    def _weights_line(self, target: str) -> str:
        own = self.weights[self.weights["target"] == target]
        line = own.iloc[0]
        return (
            f"  weights: L{line.layer}.N{line.neuron} {line.weight} has cosine {line.cosine:+.3f} with the "
            f"{line.direction} direction (p {line.p:.1g}, adjusted {line.p_bh:.1g}, largest {line.p_max:.1g})"
        )

    def figures(self) -> dict[str, Figure]:
        """For every target: the best neuron against the truth, its rotated rivals, the cosines."""
        from graticule.probes.plots.neurons import cosine_figure, neuron_scatter, rotation_figure

        out: dict[str, Figure] = {}
        for t, search in enumerate(self.searches[:_SHOWN]):
            own = self.scatter[self.scatter["target"] == search.target]
            name = f"L{search.layer}.N{search.neuron}"
            out[f"{search.target}: {name}, the best neuron, on test rows"] = neuron_scatter(
                own, search.target, name, self.units[t]
            )
            out[f"{search.target}: the best neuron against the best of random rotations"] = rotation_figure(
                self.rotated[:, t], abs(search.r_test), name
            )
            cosine = self.histogram[self.histogram["target"] == search.target]
            out[f"{search.target}: cosines of weights with the probe's directions"] = cosine_figure(cosine)
        return out

    def tables(self) -> dict[str, pd.DataFrame]:
        """The best neurons of every target, by activation and by weights."""
        out: dict[str, pd.DataFrame] = {}
        for name in self.target_names[:_SHOWN]:
            found = self.of(name).head(_LINES)
            shown = pd.DataFrame(
                {
                    "layer": found["layer"],
                    "neuron": found["neuron"],
                    "r train": found["r_train"],
                    "r test": found["r_test"],
                    "Spearman train": found["spearman_train"],
                    "Spearman test": found["spearman_test"],
                    "p": found["p"],
                    "p adjusted": found["p_bh"],
                    "p, best of rotations": found["p_max"],
                }
            )
            for column in [c for c in found.columns if c.startswith("by_")]:
                shown[f"Spearman, {column.removeprefix('by_').replace('_', ' ')}"] = found[column]
            for column in [c for c in found.columns if c.startswith("cos_")]:
                shown[f"cosine, {column.removeprefix('cos_').replace('_', ' / ')}"] = found[column]
            out[f"{name}: neurons chosen by correlation on training rows"] = shown
            own = self.weights[self.weights["target"] == name].head(_LINES)
            out[f"{name}: weights nearest to the probe's directions"] = pd.DataFrame(
                {
                    "layer": own["layer"],
                    "neuron": own["neuron"],
                    "weight": own["weight"],
                    "direction": own["direction"],
                    "cosine": own["cosine"],
                    "p": own["p"],
                    "p adjusted": own["p_bh"],
                    "p, largest of the null": own["p_max"],
                }
            ).reset_index(drop=True)
        return out
