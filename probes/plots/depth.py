"""Score against depth, with the baselines as labelled lines."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from graticule.hooks.messages import UnknownNameError
from graticule.probes.plots.drawing import Figure, Scatter
from graticule.probes.plots.primitives import mark_trace
from graticule.probes.plots.style import (
    BLOCKS,
    FAINT,
    INK,
    MUTED,
    SURFACE,
    Markup,
    label,
    layer_axis,
    need_columns,
    plain,
    short,
    spread,
    style,
)

_PLOT_PIXELS = 330
"""Height of the depth figure's plotting area: labels are moved apart in pixels."""


def depth_figure(
    layers: pd.DataFrame,
    baselines: Mapping[str, float],
    chosen_point: str,
    surface: float | None = None,
    score: str = "R²",
) -> Figure:
    """Score against depth: validation as the solid line, the chosen layer's test score as the marked point.

    Other layers' test scores are faint: they are exploratory and feed no verdict.

    Args:
        layers: One row per hook point, with `layer` (None for points that have none), `point`, `validation`
            (out-of-fold on training rows) and `test_r2`.
        baselines: name → test score, drawn as labelled horizontal lines.
        chosen_point: the `point` chosen inside the training rows.
        surface: test score of the stacked baselines, emphasised.
        score: the metric's name, for the axis.

    Raises:
        KeyError: If a column or the chosen point is missing.
    """
    need_columns(layers, "layer", "point", "validation", "test_r2")
    if chosen_point not in set(layers["point"]):
        raise UnknownNameError(
            f"chosen point {chosen_point!r} is not among the points {list(layers['point'])}"
        )
    numbered = bool(layers["layer"].notna().all())
    x = layers["layer"].astype(float) if numbered else layers["point"].astype(str)
    fig = Figure()
    kinds = layers["point"].astype(str).map(_kind) if numbered else pd.Series("", index=layers.index)
    for k, (kind, rows) in enumerate(layers.groupby(kinds, sort=False)):
        colour = INK if k == 0 else BLOCKS[k % len(BLOCKS)]
        _validation_line(fig, rows, x[rows.index], str(kind) if kinds.nunique() > 1 else "", colour)
        others = rows[rows["point"] != chosen_point]
        _exploratory(fig, others, x[others.index], FAINT if k == 0 else colour, legend=k == 0)
    at = int(np.flatnonzero((layers["point"] == chosen_point).to_numpy())[0])
    chosen = layers.iloc[at]
    fig.add_trace(
        mark_trace(
            [x.iloc[at]],
            [chosen["test_r2"]],
            f"test at the chosen layer: {_score(chosen['test_r2'])}",
            hovertemplate=f"{plain(chosen_point)}<br>test {score} %{{y:.3f}}"
            "<extra>chosen on training rows</extra>",
        )
    )
    style(fig, height=_PLOT_PIXELS + 120)
    lines = {**({"surface stack": surface} if surface is not None else {}), **baselines}
    drawn = pd.concat([layers["validation"], layers["test_r2"]]).astype(float)
    low, high = _score_range(drawn, list(lines.values()))
    _baseline_lines(fig, lines, low, high, emphasised="surface stack" if surface is not None else None)
    fig.update_yaxes(range=[low, high], title_text=score)
    fig.update_xaxes(showgrid=False)
    layer_axis(fig, layers["layer"])
    _room_for_labels(fig)
    return fig


def _room_for_labels(fig: Figure) -> None:
    """A right margin as wide as the labels; smaller labels on a phone."""
    layout: Any = fig.layout
    letters = max((len(re.sub("<.*?>", "", a.text)) for a in layout.annotations), default=0)
    smaller = {f"annotations[{k}].font.size": 9.5 for k in range(len(layout.annotations))}
    phone = {
        "margin.r": 24 + round(5.6 * letters),
        "margin.l": 44,
        "xaxis.nticks": 6,
        **smaller,
        **layout.meta["phone"],
    }
    fig.update_layout(margin={"r": 20 + round(6.4 * letters)}, meta={**layout.meta, "phone": phone})


def _kind(point: str) -> str:
    """What the points of one line share: `resid_post` for `blocks.7.hook_resid_post`."""
    return re.sub(r"^blocks\.\d+\.(hook_)?", "", re.sub(r"\.hook_", ".", point).replace("hook_", ""))


def _validation_line(fig: Figure, rows: pd.DataFrame, x: "pd.Series[Any]", kind: str, colour: str) -> None:
    fig.add_trace(
        Scatter(
            x=x,
            y=rows["validation"],
            mode="lines+markers",
            line={"color": colour, "width": 2.5},
            marker={"size": 5},
            name=f"validation, {kind}" if kind else "validation (train, out of fold)",
            customdata=rows["point"].astype(str),
            hovertemplate="%{customdata}<br>validation %{y:.3f}<extra></extra>",
        )
    )


def _exploratory(fig: Figure, rows: pd.DataFrame, x: "pd.Series[Any]", colour: str, legend: bool) -> None:
    """Test scores that feed no verdict, faint."""
    fig.add_trace(
        Scatter(
            x=x,
            y=rows["test_r2"],
            mode="markers",
            marker={"size": 7, "color": "white", "line": {"color": colour, "width": 1.5}},
            name="test, other layers (exploratory)",
            legendgroup="exploratory",
            showlegend=legend,
            customdata=rows["point"].astype(str),
            hovertemplate="%{customdata}<br>test %{y:.3f}<extra>exploratory</extra>",
        )
    )


def _score(value: float) -> str:
    """A score as papers print it: .642, −.031."""
    return f"{value:.3f}".replace("0.", ".", 1).replace("-", "−")


def _score_range(drawn: "pd.Series[Any]", lines: Sequence[float]) -> tuple[float, float]:
    """An axis range that holds the scores; a hopeless baseline far below 0 does not flatten the rest."""
    values = np.asarray([*drawn.dropna(), *[v for v in lines if np.isfinite(v)]], dtype=np.float64)
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = max(float(values.min()), -0.25), max(float(values.max()), 0.05)
    pad = 0.06 * (high - low) + 0.01
    return min(low, 0.0) - pad, high + pad


def _baseline_lines(
    fig: Figure, lines: Mapping[str, float], low: float, high: float, emphasised: str | None
) -> None:
    """Horizontal lines with their names and values right of the plot, moved apart where they would touch."""
    finite = {name: float(v) for name, v in lines.items() if np.isfinite(v)}
    if not finite:
        return
    scale = _PLOT_PIXELS / (high - low)
    wanted = [(max(v, low) - low) * scale for v in finite.values()]
    placed = spread(wanted, 15.0, 4.0, _PLOT_PIXELS - 4.0)
    for (name, value), at, moved in zip(finite.items(), wanted, placed, strict=True):
        strong = name == emphasised
        colour = SURFACE if strong else MUTED
        if value >= low:
            fig.add_hline(
                y=value,
                line={"color": colour, "width": 2 if strong else 1, "dash": "dash" if strong else "dot"},
            )
        text = f"{_score(value)} {short(label(name), 20)}{'' if value >= low else ' ↓'}"
        fig.add_annotation(
            x=1,
            xref="paper",
            y=max(value, low),
            text=Markup(f"<b>{plain(text)}</b>") if strong else text,
            hovertext=f"{name}: test score {value:.3f}",
            font={"size": 11, "color": colour},
            showarrow=True,
            arrowhead=0,
            arrowwidth=0.75,
            arrowcolor=colour,
            ax=12,
            ay=at - moved,
            xanchor="left",
            borderpad=1,
        )
