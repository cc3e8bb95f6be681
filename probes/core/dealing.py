"""How rows were dealt into folds for a verdict that tests every row, in words."""

from __future__ import annotations

from dataclasses import dataclass

from graticule.hooks.points import layer_text

ENOUGH_CLUSTERS = 200
"""Effective test clusters from which on one held-out part is judged."""


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
