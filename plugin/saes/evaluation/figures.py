"""Figures of an evaluation: densities, the clusters behind them, and what happens along a context."""

from __future__ import annotations

import numpy as np
import pandas as pd

from graticule.probes.plots.drawing import Bar, Figure, Scatter, make_subplots
from graticule.probes.plots.markup import plain
from graticule.probes.plots.style import ACCENT, BLOCKS, FAINT, INK, MUTED, SURFACE, need_columns, style

_BINS_A_DECADE = 5
_MOST_POINTS = 8000
_NAMES = {"alive": "alive", "ultralow": "ultralow cluster"}
_COLOURS = {"alive": SURFACE, "ultralow": ACCENT}


def density_figure(latents: pd.DataFrame, n_rows: int) -> Figure:
    """Histogram of log densities, the ultralow cluster in its own colour; dead latents are counted in the
    note.

    Args:
        latents: `density`, `cluster`, and `training_density` where a run counted it (which is then drawn).
        n_rows: rows behind `density`.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(latents, "density", "cluster")
    counted = "training_density" in latents
    shown = latents["training_density" if counted else "density"]
    alive = latents[shown > 0]
    log = np.log10(shown[shown > 0].to_numpy(np.float64))
    fig = Figure()
    low = min(-1, int(np.floor(log.min()))) if len(log) else -6
    edges = np.linspace(low, 0.0, -low * _BINS_A_DECADE + 1)
    middle = 10 ** ((edges[1:] + edges[:-1]) / 2)
    cluster = alive["cluster"].to_numpy()
    for name in ("alive", "ultralow"):
        picked = (cluster == name) if name == "ultralow" else (cluster != "ultralow")
        counts = np.histogram(log[picked], edges)[0]
        if not counts.sum():
            continue
        fig.add_trace(
            Bar(
                x=middle,
                y=counts,
                width=10 ** edges[1:] - 10 ** edges[:-1],
                name=_NAMES[name],
                marker={"color": _COLOURS[name], "line": {"color": "white", "width": 0.5}},
                hovertemplate="density %{x:.1e}: %{y} latents<extra></extra>",
            )
        )
    dead = int((latents["cluster"] == "dead").sum())
    note = f"{dead:,} of {len(latents):,} latents fired on none of {n_rows:,} tokens and are not drawn."
    if counted:
        note += " Densities are those that training counted."
    fig.update_layout(barmode="stack")
    fig.update_xaxes(type="log", title={"text": "share of tokens on which the latent fires"})
    fig.update_xaxes(exponentformat="power", dtick=1)
    fig.update_yaxes(title={"text": "latents"})
    return style(fig, height=340, aspect=0.36, extra=60, note=note)


def cluster_figure(latents: pd.DataFrame) -> Figure:
    """Encoder bias, and encoder·decoder cosine, against density: where the paper's two clusters part.

    Args:
        latents: living latents' `latent`, `density`, `b_enc`, `encoder_decoder`, `cluster`.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(latents, "latent", "density", "b_enc", "encoder_decoder", "cluster")
    column = "training_density" if "training_density" in latents else "density"
    held = latents[latents[column] > 0]
    step = max(1, -(-len(held) // _MOST_POINTS))
    drawn = held.iloc[::step]
    fig = make_subplots(rows=1, cols=2, horizontal_spacing=0.12)
    for c, y in enumerate(("b_enc", "encoder_decoder"), 1):
        for name in ("alive", "ultralow"):
            rows = drawn[(drawn["cluster"] == "ultralow") == (name == "ultralow")]
            if rows.empty:
                continue
            fig.add_trace(
                Scatter(
                    x=rows[column],
                    y=rows[y],
                    mode="markers",
                    name=_NAMES[name],
                    legendgroup=name,
                    showlegend=c == 1,
                    marker={"color": _COLOURS[name], "size": 4, "opacity": 0.5},
                    customdata=rows["latent"],
                    hovertemplate="latent %{customdata}: %{x:.1e}, %{y:.3f}<extra></extra>",
                ),
                row=1,
                col=c,
            )
    fig.update_xaxes(type="log", exponentformat="power", dtick=1, title={"text": "density"})
    fig.update_yaxes(title={"text": "encoder bias"}, col=1)
    fig.update_yaxes(title={"text": "cosine of encoder and decoder"}, col=2)
    note = "" if step == 1 else f"One in {step} latents is drawn."
    return style(fig, height=360, aspect=0.4, extra=60, note=note)


def position_figure(positions: pd.DataFrame) -> Figure:
    """Explained variance and cosine along a context, and the losses of the four versions where they were
    taken.

    Args:
        positions: `position`, `explained_variance`, `cosine`, and optionally `ce_clean`, `ce_sae`, `ce_mean`.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(positions, "position", "explained_variance", "cosine")
    losses = "ce_clean" in positions
    fig = make_subplots(rows=1, cols=2 if losses else 1, horizontal_spacing=0.12)
    named = {"explained_variance": ("explained variance", INK), "cosine": ("median cosine", SURFACE)}
    for name, (label, colour) in named.items():
        fig.add_trace(_line(positions, name, label, colour), row=1, col=1)
    if losses:
        arms = {
            "ce_clean": ("loss, clean", INK),
            "ce_sae": ("loss, SAE", ACCENT),
            "ce_mean": ("loss, mean", BLOCKS[4]),
            "ce_zero": ("loss, zero", FAINT),
        }
        for name, (label, colour) in arms.items():
            if name in positions:
                fig.add_trace(_line(positions, name, label, colour), row=1, col=2)
        fig.update_yaxes(title={"text": "nats a token"}, rangemode="tozero", col=2)
    fig.update_yaxes(title={"text": "of the rows at the position"}, range=_range(positions), col=1)
    fig.update_xaxes(title={"text": "token position"})
    fig.update_layout(hovermode="x", legend={"font": {"color": MUTED}})
    return style(fig, height=340, aspect=0.38, extra=80)


def _line(table: pd.DataFrame, column: str, label: str, colour: str) -> Scatter:
    return Scatter(
        x=table["position"],
        y=table[column],
        mode="lines",
        name=label,
        line={"color": colour, "width": 1.5},
        hovertemplate="%{y:.3f}<extra>" + plain(label) + "</extra>",
    )


def _range(positions: pd.DataFrame) -> tuple[float, float]:
    """From the lowest value, but no further down than −.5: a bad position must not flatten the rest."""
    low = float(np.nanmin(positions[["explained_variance", "cosine"]].to_numpy()))
    return max(-0.5, min(0.0, low - 0.05)), 1.02
