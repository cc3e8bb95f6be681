"""What dictionaries recovered of a world's atoms, in words, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from graticule.hooks.calls import renamed, renamed_fields
from graticule.hooks.messages import UnknownNameError
from graticule.hooks.result import headed
from graticule.hooks.saved import SavedResult
from graticule.probes.plots.primitives import bar_trace, dots_trace, level, line_trace, new_figure, panels
from graticule.probes.plots.style import (
    ACCENT,
    BLOCKS,
    FAINT,
    INK,
    MUTED,
    SURFACE,
    need_columns,
    plain,
    style,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

BASELINES = ("untrained SAE", "random directions", "PCA")
"""Dictionaries that stand beside every SAE."""

_CAPTION_COSINE = "Cosine of every true atom with its nearest decoder vector, signed"
_CAPTION_F1 = (
    "How well one latent tells that an atom is there (F1 on rows not chosen on), against the atom's rate"
)
_CAPTION_WHERE = (
    "Where an atom is there: told by its latent, by a split-off one, by another atom's, or by none"
)
_CAPTION = "Dictionaries; mean over atoms"
_COLUMNS = {
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
"""Column of `dictionaries` → its heading on a page."""


@renamed_fields(arms="dictionaries")
@dataclass(frozen=True)
class SaeRecovery(SavedResult):
    """How many of one or several worlds' true atoms dictionaries recover."""

    KIND: ClassVar[str] = "sae_recovery"

    dictionaries: pd.DataFrame = field(metadata={"saved_as": "arms"})
    """One row per world and dictionary: `world`, `arm`, `latents`, `cosine` (mean over atoms of the nearest
    decoder vector's, signed), `cosine_median`, `found` (share of atoms at .9 or more), SAELens's `mcc`,
    `uniqueness` and `f1_saelens`, `f1` and `f1_floor` (always saying yes), `caught`, `split`, `absorbed`,
    `missed`, `l0`, `dead`, `explained_variance`."""
    atoms: pd.DataFrame
    """One row per world, dictionary and atom: `world`, `arm`, `atom`, `firing` (its rate), `cosine`,
    `latent`, `f1`, `f1_floor`, `caught`, `split`, `absorbed`, `missed`."""
    provenance: Mapping[str, Any]
    """World → SAEs and rows; versions."""

    @property
    def title(self) -> str:
        """The worlds."""
        return f"True atoms recovered: {', '.join(self.worlds)}"

    @property
    def worlds(self) -> list[str]:
        """Worlds, in order."""
        return _names(self.dictionaries, "world")

    @renamed(arm="name")
    def line(self, world: str, name: str) -> dict[str, Any]:
        """The figures of one dictionary in one world.

        Raises:
            KeyError: naming what there is.
        """
        rows = self.dictionaries[(self.dictionaries["world"] == world) & (self.dictionaries["arm"] == name)]
        if rows.empty:
            pairs = ", ".join(f"({w}, {a})" for w, a in self.dictionaries[["world", "arm"]].to_numpy(str))
            raise UnknownNameError(f"no ({world}, {name}); there are {pairs}")
        return {str(k): v for k, v in rows.iloc[0].items()}

    def beside(self, other: SaeRecovery) -> SaeRecovery:
        """Both worlds in one result.

        Raises:
            ValueError: where the two share a world.
        """
        if common := sorted(set(self.worlds) & set(other.worlds)):
            raise ValueError(f"both results hold {common}; name the worlds apart")
        return SaeRecovery(
            pd.concat([self.dictionaries, other.dictionaries], ignore_index=True),
            pd.concat([self.atoms, other.atoms], ignore_index=True),
            {**self.provenance, **other.provenance},
        )

    def summary(self) -> str:
        """World by world: every SAE against the best of what needs no training."""
        lines: list[str] = []
        for world in self.worlds:
            rows = self.dictionaries[self.dictionaries["world"] == world].set_index("arm")
            floor = rows.loc[[b for b in BASELINES if b in rows.index]]
            names = [str(a) for a in rows.index if a not in BASELINES]
            for name in names:
                mine = rows.loc[name]
                lines.append(
                    f"{world}: {name} {_verdict(mine, floor)}: {mine['found']:.0%} at cosine .9 or more "
                    f"(chance {floor['found'].max():.0%}), mean cosine {mine['cosine']:z.2f} against "
                    f"{floor['cosine'].max():z.2f} ({floor['cosine'].idxmax()}), F1 {mine['f1']:z.2f} "
                    f"against {floor['f1'].max():z.2f} ({floor['f1'].idxmax()})"
                )
        return "\n".join(lines)

    def figures(self) -> dict[str, Figure]:
        """Cosines, F1 and what happens to an atom's rows."""
        return {
            _CAPTION_COSINE: _cosine_figure(self.atoms),
            _CAPTION_F1: _f1_figure(self.atoms),
            _CAPTION_WHERE: _where_figure(self.dictionaries),
        }

    def tables(self) -> dict[str, pd.DataFrame]:
        """One row per world and dictionary."""
        return {_CAPTION: headed(self.dictionaries, _COLUMNS)}


def _verdict(mine: Any, floor: pd.DataFrame) -> str:
    """In words: an SAE is as good as what it finds beyond the best of the baselines."""
    beyond = float(mine["found"] - floor["found"].max())
    if mine["cosine"] - floor["cosine"].max() < 0.1 or beyond < 0.1:
        return "recovers no more atoms than chance"
    return "recovers most atoms" if mine["found"] >= 0.5 else "recovers some atoms"


def _names(table: pd.DataFrame, column: str) -> list[str]:
    return [str(name) for name in table[column].drop_duplicates()]


# Figures -----------------------------------------------------------------------------------------------
def _side_by_side(atoms: pd.DataFrame) -> tuple[Figure, dict[str, dict[str, Any]], dict[str, str]]:
    """An empty figure with one panel per world, the worlds' panels, and the colour of each dictionary."""
    worlds, names = _names(atoms, "world"), _names(atoms, "arm")
    own, palette = [a for a in names if a not in BASELINES], (ACCENT, SURFACE, BLOCKS[2], BLOCKS[4])
    colours = {name: palette[i % len(palette)] for i, name in enumerate(own)}
    colours |= zip(BASELINES, (MUTED, FAINT, INK), strict=True)
    fig, cells = panels(worlds, shared_yaxes=True)
    return fig, dict(zip(worlds, cells, strict=True)), {name: colours[name] for name in names}


def _cosine_figure(atoms: pd.DataFrame) -> Figure:
    """One point per atom, one column per dictionary, one panel per world."""
    need_columns(atoms, "world", "arm", "atom", "cosine")
    fig, worlds, colours = _side_by_side(atoms)
    for world, cell in worlds.items():
        for name, colour in colours.items():
            rows = atoms[(atoms["world"] == world) & (atoms["arm"] == name)]
            points = {
                "type": "box", "y": rows["cosine"], "name": name, "boxpoints": "all", "jitter": 0.6,
                "pointpos": 0, "marker": {"color": colour, "size": 4, "opacity": 0.6},
                "line": {"color": colour, "width": 1}, "fillcolor": "rgba(0,0,0,0)", "showlegend": False,
                "customdata": rows["atom"], "hovertemplate": "%{customdata}: %{y:.2f}<extra></extra>",
            }  # fmt: skip
            fig.add_trace(points, **cell)
    style(fig, height=380, aspect=0.42, extra=60, margin_t=36)
    level(fig, y=0.9, colour=FAINT)
    fig.update_yaxes(title_text="cosine", col=1)
    return fig


def _f1_figure(atoms: pd.DataFrame) -> Figure:
    """F1 of the latent that tells each atom best, against the atom's rate; the line is always saying yes."""
    need_columns(atoms, "world", "arm", "atom", "firing", "f1", "f1_floor")
    fig, worlds, colours = _side_by_side(atoms)
    for world, cell in worlds.items():
        first, here = cell["col"] == 1, atoms[atoms["world"] == world]
        floor = here.drop_duplicates("atom").sort_values("firing")
        more: dict[str, Any] = {"legendgroup": "always yes", "showlegend": first, "hover": ""}
        x, y = floor["firing"], floor["f1_floor"]
        fig.add_trace(line_trace(x, y, "always yes", FAINT, 1.5, dash="dot", **more), **cell)
        for name, colour in colours.items():
            rows = here[here["arm"] == name]
            hover = f"%{{customdata}}: F1 %{{y:.2f}} at rate %{{x:.3f}}<extra>{plain(name)}</extra>"
            more = {"look": {"opacity": 0.7}, "legendgroup": name, "showlegend": first, "hover": hover}
            more["customdata"] = rows["atom"]
            fig.add_trace(dots_trace(rows["firing"], rows["f1"], name, colour, 5, **more), **cell)
    across, up = "share of rows that hold the atom", {"title_text": "F1", "range": [-0.03, 1.03]}
    style(fig, height=380, aspect=0.42, extra=80, x=across, y=up, margin_t=36, legend_y=1.1)
    return fig.update_yaxes(title_text=None, col=2)


def _where_figure(dictionaries: pd.DataFrame) -> Figure:
    """Shares of an atom's rows, mean over atoms, one bar per world and dictionary."""
    need_columns(dictionaries, "world", "arm", "caught", "split", "absorbed", "missed")
    upwards = dictionaries.iloc[::-1]
    fig = new_figure()
    colours = {"caught": SURFACE, "split": BLOCKS[3], "absorbed": BLOCKS[4], "missed": FAINT}
    names = [upwards["world"].tolist(), upwards["arm"].tolist()]
    for part, colour in colours.items():
        hover = f"{part} %{{x:.0%}}<extra></extra>"
        fig.add_trace(bar_trace(upwards[part], names, part, colour, orientation="h", hover=hover))
    n = len(dictionaries)
    across = {"title_text": "share of the rows that hold an atom", "range": [0, 1], "tickformat": ".0%"}
    layout: dict[str, Any] = {"barmode": "stack", "bargap": 0.25, "legend_traceorder": "normal"}
    return style(fig, height=120 + 26 * n, aspect=0.045 * n, extra=110, x=across, **layout)
