"""Figures of recovery: cosines atom by atom, F1 against chance, and what happens where an atom is there."""

from __future__ import annotations

import pandas as pd

from graticule.probes.plots.drawing import Bar, Box, Figure, Scatter, make_subplots
from graticule.probes.plots.markup import plain
from graticule.probes.plots.style import ACCENT, BLOCKS, FAINT, INK, MUTED, SURFACE, need_columns, style
from graticule.saes.atoms.arms import BASELINES

_OWN = (ACCENT, SURFACE, BLOCKS[2], BLOCKS[4])
_BASE = dict(zip(BASELINES, (MUTED, FAINT, INK), strict=True))
_PARTS = {"caught": SURFACE, "split": BLOCKS[3], "absorbed": BLOCKS[4], "missed": FAINT}


def _colours(arms: list[str]) -> dict[str, str]:
    own = [a for a in arms if a not in _BASE]
    return {**{a: _OWN[i % len(_OWN)] for i, a in enumerate(own)}, **_BASE}


def _worlds(table: pd.DataFrame) -> tuple[list[str], list[str]]:
    return [str(w) for w in table["world"].drop_duplicates()], [
        str(a) for a in table["arm"].drop_duplicates()
    ]


def cosine_figure(atoms: pd.DataFrame) -> Figure:
    """Every atom a point, a column a dictionary, a panel a world.

    Args:
        atoms: `world`, `arm`, `atom`, `cosine`.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(atoms, "world", "arm", "atom", "cosine")
    worlds, arms = _worlds(atoms)
    colours = _colours(arms)
    fig = make_subplots(rows=1, cols=len(worlds), subplot_titles=worlds, shared_yaxes=True)
    for c, world in enumerate(worlds, 1):
        for arm in arms:
            rows = atoms[(atoms["world"] == world) & (atoms["arm"] == arm)]
            fig.add_trace(
                Box(
                    y=rows["cosine"],
                    name=arm,
                    boxpoints="all",
                    jitter=0.6,
                    pointpos=0,
                    marker={"color": colours[arm], "size": 4, "opacity": 0.6},
                    line={"color": colours[arm], "width": 1},
                    fillcolor="rgba(0,0,0,0)",
                    customdata=rows["atom"],
                    hovertemplate="%{customdata}: %{y:.2f}<extra></extra>",
                    showlegend=False,
                ),
                row=1,
                col=c,
            )
    fig.add_hline(y=0.9, line={"color": FAINT, "width": 1, "dash": "dot"})
    fig.update_yaxes(title={"text": "cosine"}, col=1)
    styled = style(fig, height=380, aspect=0.42, extra=60)
    styled.update_layout(margin={"t": 36})
    return styled


def f1_figure(atoms: pd.DataFrame) -> Figure:
    """F1 of the latent that tells each atom best, against the atom's rate; the line is always saying yes.

    Args:
        atoms: `world`, `arm`, `atom`, `firing`, `f1`, `f1_floor`.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(atoms, "world", "arm", "atom", "firing", "f1", "f1_floor")
    worlds, arms = _worlds(atoms)
    colours = _colours(arms)
    fig = make_subplots(rows=1, cols=len(worlds), subplot_titles=worlds, shared_yaxes=True)
    for c, world in enumerate(worlds, 1):
        held = atoms[atoms["world"] == world]
        floor = held.drop_duplicates("atom").sort_values("firing")
        fig.add_trace(
            Scatter(
                x=floor["firing"],
                y=floor["f1_floor"],
                mode="lines",
                name="always yes",
                legendgroup="always yes",
                showlegend=c == 1,
                line={"color": FAINT, "width": 1.5, "dash": "dot"},
                hoverinfo="skip",
            ),
            row=1,
            col=c,
        )
        for arm in arms:
            rows = held[held["arm"] == arm]
            fig.add_trace(
                Scatter(
                    x=rows["firing"],
                    y=rows["f1"],
                    mode="markers",
                    name=arm,
                    legendgroup=arm,
                    showlegend=c == 1,
                    marker={"color": colours[arm], "size": 5, "opacity": 0.7},
                    customdata=rows["atom"],
                    hovertemplate="%{customdata}: F1 %{y:.2f} at rate %{x:.3f}<extra>"
                    + plain(arm)
                    + "</extra>",
                ),
                row=1,
                col=c,
            )
    fig.update_xaxes(title={"text": "share of rows that hold the atom"})
    fig.update_yaxes(title={"text": "F1"}, range=[-0.03, 1.03])
    fig.update_yaxes(title=None, col=2)
    styled = style(fig, height=380, aspect=0.42, extra=80)
    styled.update_layout(margin={"t": 36}, legend={"y": 1.1})
    return styled


def where_figure(arms: pd.DataFrame) -> Figure:
    """Shares of an atom's rows, mean over atoms, a bar a world and dictionary.

    Args:
        arms: `world`, `arm`, `caught`, `split`, `absorbed`, `missed`.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(arms, "world", "arm", *_PARTS)
    held = arms.iloc[::-1]
    labels = [held["world"].tolist(), held["arm"].tolist()]
    fig = Figure()
    for part, colour in _PARTS.items():
        fig.add_trace(
            Bar(
                x=held[part],
                y=labels,
                orientation="h",
                name=part,
                marker={"color": colour},
                hovertemplate=plain(part) + " %{x:.0%}<extra></extra>",
            )
        )
    fig.update_layout(barmode="stack", bargap=0.25, legend={"traceorder": "normal"})
    fig.update_xaxes(title={"text": "share of the rows that hold an atom"}, range=[0, 1], tickformat=".0%")
    return style(fig, height=120 + 26 * len(held), aspect=0.045 * len(held), extra=110)
