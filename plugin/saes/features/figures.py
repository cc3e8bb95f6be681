"""Figures of features: the largest logit effects."""

from __future__ import annotations

import pandas as pd

from graticule.probes.plots.drawing import Figure, Scatter
from graticule.probes.plots.style import ACCENT, FAINT, SURFACE, need_columns, style

_MOST = 12


def effects_figure(effects: pd.DataFrame, features: pd.DataFrame) -> Figure:
    """For the features with the largest effects, the tokens raised and lowered most, as words at their
    effect.

    Args:
        effects: `latent`, `sign`, `rank`, `token`, `effect`.
        features: `latent` and `maximum`: effects are drawn at the feature's strongest activation.

    **Raises** `KeyError` if a column is missing.
    """
    need_columns(effects, "latent", "sign", "rank", "token", "effect")
    need_columns(features, "latent", "maximum")
    most = features.set_index("latent")["maximum"]
    held = effects.assign(logits=effects["effect"] * effects["latent"].map(most))
    size = held[held["sign"] == 1].groupby("latent")["logits"].max().sort_values(ascending=False)
    fig = Figure()
    names = [str(latent) for latent in size.index[:_MOST]][::-1]
    for sign, colour in ((1, SURFACE), (-1, ACCENT)):
        rows = held[(held["sign"] == sign) & held["latent"].astype(str).isin(names) & (held["rank"] < 5)]
        fig.add_trace(
            Scatter(
                x=rows["logits"],
                y=rows["latent"].astype(str),
                mode="markers",
                name="raised" if sign == 1 else "lowered",
                marker={"color": colour, "size": 7, "symbol": "line-ns-open"},
                customdata=rows["token"],
                hovertemplate="%{customdata}: %{x:.2f}<extra>latent %{y}</extra>",
            )
        )
        best = rows[rows["rank"] == 0]
        fig.add_trace(
            Scatter(
                x=best["logits"],
                y=best["latent"].astype(str),
                mode="text",
                text=[f" {t.strip() or '␣'} " for t in best["token"]],
                textposition="middle right" if sign == 1 else "middle left",
                textfont={"color": colour, "size": 11},
                cliponaxis=False,
                showlegend=False,
                hoverinfo="skip",
            )
        )
    fig.add_vline(x=0.0, line={"color": FAINT, "width": 1})
    low, high = float(held["logits"].min()), float(held["logits"].max())
    fig.update_xaxes(title={"text": "effect at the strongest activation, before the final norm (median 0)"})
    fig.update_xaxes(range=[1.25 * low - 0.05 * high, 1.25 * high - 0.05 * low])
    fig.update_yaxes(type="category", categoryorder="array", categoryarray=names, title={"text": "latent"})
    note = f"The {len(names)} features with the largest effects; the token moved most is written out."
    return style(fig, height=140 + 24 * len(names), aspect=0.05 * len(names), extra=110, note=note)
