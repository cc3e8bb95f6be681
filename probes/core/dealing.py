"""How rows were dealt into folds for a verdict that tests every row, in words."""

from __future__ import annotations

from dataclasses import dataclass

from graticule.hooks.points import layer_of, layer_text

ENOUGH_CLUSTERS = 200
"""Effective test clusters from which on one held-out part is judged."""


_LISTED = 4


@dataclass(frozen=True)
class Dealing:
    """Of a cross-fitted verdict."""

    repeats: int
    """How often the rows were dealt anew."""
    folds: int
    """Parts of a dealing."""
    test_clusters: float
    """Effective clusters that the one held-out part would have had."""
    points: dict[str, int]
    """Hook point → in how many folds it was chosen, the most frequent first."""

    @property
    def chosen(self) -> str:
        """`layer 12 in 7 of 10, layer 17 in 3`."""
        total = f" of {self.repeats * self.folds}"
        most = [f"{layer_text(point)} in {count}" for point, count in list(self.points.items())[:3]]
        rest = "" if len(self.points) <= 3 else f", {len(self.points) - 3} others in the rest"
        return f"{', '.join([most[0] + total, *most[1:]])}{rest}"

    @property
    def by_fold(self) -> str:
        """`layers 9 and 12, by fold`: where the verdict was reached."""
        names = list(dict.fromkeys(layer_text(point) for point in self.points))
        layers = sorted({layer for point in self.points if (layer := layer_of(point)) is not None})
        if len(names) == 1:
            return f"{names[0]}, in every fold"
        if len(layers) < len(names):  # some have no number
            return f"{', '.join(names[:-1])} and {names[-1]}, by fold"
        if len(layers) > _LISTED:
            return f"{len(layers)} layers from {layers[0]} to {layers[-1]}, by fold"
        return f"layers {', '.join(map(str, layers[:-1]))} and {layers[-1]}, by fold"

    def lines(self) -> list[str]:
        """Why there are folds."""
        few = f"{self.test_clusters:.0f} effective cluster{'' if round(self.test_clusters) == 1 else 's'}"
        why = f"because one held-out part would have {few}"
        if self.test_clusters >= ENOUGH_CLUSTERS:
            why = f"as asked; one held-out part has {few}"
        return [
            f"cross-fitted over {self.repeats} × {self.folds} folds, {why}: every row is tested, by fits "
            "whose strengths and layer were chosen without its fold",
        ]
