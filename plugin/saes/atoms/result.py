"""What dictionaries recovered of a world's atoms, in words, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from graticule.hooks.messages import UnknownNameError
from graticule.hooks.saved import SavedResult
from graticule.saes.atoms.arms import BASELINES

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_CAPTION_COSINE = "Cosine of every true atom with its nearest decoder vector, signed"
_CAPTION_F1 = (
    "How well one latent tells that an atom is there (F1 on rows not chosen on), against the atom's rate"
)
_CAPTION_WHERE = (
    "Where an atom is there: told by its latent, by a split-off one, by another atom's, or by none"
)
_CAPTION = "Dictionaries; mean over atoms"


@dataclass(frozen=True)
class SaeRecovery(SavedResult):
    """How many of one or several worlds' true atoms dictionaries recover."""

    KIND: ClassVar[str] = "sae_recovery"

    arms: pd.DataFrame
    """A line a world and dictionary: `world`, `arm`, `latents`, `cosine` (mean over atoms of the nearest
    decoder vector's, signed), `cosine_median`, `found` (share of atoms at .9 or more), SAELens's `mcc`,
    `uniqueness` and `f1_saelens`, `f1` and `f1_floor` (always saying yes), `caught`, `split`, `absorbed`,
    `missed`, `l0`, `dead`, `explained_variance`."""
    atoms: pd.DataFrame
    """A line a world, dictionary and atom: `world`, `arm`, `atom`, `firing` (its rate), `cosine`, `latent`,
    `f1`, `f1_floor`, `caught`, `split`, `absorbed`, `missed`."""
    provenance: Mapping[str, Any]
    """World → SAEs and rows; versions."""

    @property
    def title(self) -> str:
        """The worlds."""
        return f"True atoms recovered: {', '.join(self.worlds)}"

    @property
    def worlds(self) -> list[str]:
        """Worlds, in order."""
        return [str(w) for w in self.arms["world"].drop_duplicates()]

    def line(self, world: str, arm: str) -> dict[str, Any]:
        """The figures of one dictionary in one world.

        **Raises** `KeyError` naming what there is.
        """
        rows = self.arms[(self.arms["world"] == world) & (self.arms["arm"] == arm)]
        if rows.empty:
            pairs = ", ".join(f"({w}, {a})" for w, a in self.arms[["world", "arm"]].to_numpy(str))
            raise UnknownNameError(f"no ({world}, {arm}); there are {pairs}")
        return {str(k): v for k, v in rows.iloc[0].items()}

    def beside(self, other: SaeRecovery) -> SaeRecovery:
        """Both worlds in one result.

        **Raises** `ValueError` where the two share a world.
        """
        if set(self.worlds) & set(other.worlds):
            raise ValueError(
                f"both results hold {sorted(set(self.worlds) & set(other.worlds))}; name the worlds apart"
            )
        return SaeRecovery(
            pd.concat([self.arms, other.arms], ignore_index=True),
            pd.concat([self.atoms, other.atoms], ignore_index=True),
            {**self.provenance, **other.provenance},
        )

    def summary(self) -> str:
        """World by world: every SAE against the best of what needs no training."""
        lines: list[str] = []
        for world in self.worlds:
            rows = self.arms[self.arms["world"] == world].set_index("arm")
            floor = rows.loc[[b for b in BASELINES if b in rows.index]]
            names = [str(a) for a in rows.index if a not in BASELINES]
            for name in names:
                mine = rows.loc[name]
                lines.append(
                    f"{world}: {name} {_verdict(mine, floor)}: {mine['found']:.0%} at cosine .9 or more "
                    f"(chance {floor['found'].max():.0%}), mean cosine {mine['cosine']:.2f} against "
                    f"{floor['cosine'].max():.2f} ({floor['cosine'].idxmax()}), F1 {mine['f1']:.2f} "
                    f"against {floor['f1'].max():.2f} ({floor['f1'].idxmax()})"
                )
        return "\n".join(lines)

    def figures(self) -> dict[str, Figure]:
        """Cosines, F1 and what happens to an atom's rows."""
        from graticule.saes.atoms.figures import cosine_figure, f1_figure, where_figure

        return {
            _CAPTION_COSINE: cosine_figure(self.atoms),
            _CAPTION_F1: f1_figure(self.atoms),
            _CAPTION_WHERE: where_figure(self.arms),
        }

    def tables(self) -> dict[str, pd.DataFrame]:
        """A line a world and dictionary."""
        names = {
            "world": "world",
            "arm": "dictionary",
            "latents": "latents",
            "cosine": "cosine",
            "found": "cosine ≥ .9",
            "mcc": "MCC (SAELens)",
            "uniqueness": "uniqueness (SAELens)",
            "f1": "F1",
            "f1_floor": "F1, always yes",
            "f1_saelens": "F1 (SAELens)",
            "caught": "caught",
            "split": "split",
            "absorbed": "absorbed",
            "missed": "missed",
            "l0": "L0",
            "explained_variance": "explained variance",
        }
        return {_CAPTION: self.arms[list(names)].rename(columns=names)}


def _verdict(mine: Any, floor: pd.DataFrame) -> str:
    """In words: an SAE is as good as what it finds beyond the best of the baselines."""
    beyond = float(mine["found"] - floor["found"].max())
    if mine["cosine"] - floor["cosine"].max() < 0.1 or beyond < 0.1:
        return "recovers no more atoms than chance"
    return "recovers most atoms" if mine["found"] >= 0.5 else "recovers some atoms"
