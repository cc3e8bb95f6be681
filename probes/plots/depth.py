"""Score against depth, with the baselines as labelled lines."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from graticule.hooks.messages import UnknownNameError
from graticule.probes.plots.primitives import dots_trace, level, line_trace, mark_trace, new_figure
from graticule.probes.plots.style import (
    BLOCKS,
    FAINT,
    INK,
    MUTED,
    SURFACE,
    Markup,
    depth_of,
    label,
    layer_axis,
    need_columns,
    plain,
    short,
    spread,
    style,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

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
            (out-of-fold on training rows) and `test_r2`; with `validation_gain`, what each adds out of fold
            to the stacked baselines is a dotted line.
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
    x, chosen = depth_of(layers), layers["point"] == chosen_point
    numbered = bool(layers["layer"].notna().all())
    fig = new_figure()
    kinds = layers["point"].astype(str).map(_kind) if numbered else pd.Series("", index=layers.index)
    for k, (kind, rows) in enumerate(layers.groupby(kinds, sort=False)):
        colour = INK if k == 0 else BLOCKS[k % len(BLOCKS)]
        name = f"validation, {kind}" if kinds.nunique() > 1 else "validation (train, out of fold)"
        hover = "%{customdata}<br>validation %{y:.3f}<extra></extra>"
        points, values = rows["point"].astype(str), rows["validation"]
        fig.add_trace(line_trace(x[rows.index], values, name, colour, size=5, hover=hover, customdata=points))
        others = rows[~chosen[rows.index]]  # test scores that feed no verdict, faint
        look = {"line": {"color": FAINT if k == 0 else colour, "width": 1.5}}
        fig.add_trace(
            dots_trace(
                x[others.index], others["test_r2"], "test, other layers (exploratory)", "white", 7, look=look,
                hover="%{customdata}<br>test %{y:.3f}<extra>exploratory</extra>", legendgroup="exploratory",
                showlegend=k == 0, customdata=others["point"].astype(str),
            )
        )  # fmt: skip
    gains = layers.get("validation_gain", pd.Series(np.nan, index=layers.index)).astype(float)
    if gains.notna().any():
        name, hover = "validation, gain over the stacked baselines", "%{y:+.3f}<extra>gain</extra>"
        fig.add_trace(line_trace(x, gains, name, MUTED, 1.5, dash="dot", hover=hover))
    test = float(layers["test_r2"][chosen].iloc[0])
    hover = f"{plain(chosen_point)}<br>test {score} %{{y:.3f}}<extra>chosen on training rows</extra>"
    name = f"test at the chosen layer: {_score(test)}"
    fig.add_trace(mark_trace(x[chosen].iloc[:1], [test], name, hover=hover))
    lines = {**({"surface stack": surface} if surface is not None else {}), **baselines}
    drawn = pd.concat([layers["validation"], layers["test_r2"], gains]).astype(float)
    low, high = _score_range(drawn, list(lines.values()))
    style(
        fig, height=_PLOT_PIXELS + 120, x={"showgrid": False}, y={"range": [low, high], "title_text": score}
    )
    _baseline_lines(fig, lines, low, high, emphasised="surface stack" if surface is not None else None)
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


def _score(value: float) -> str:
    """A score as papers print it: .642, −.031."""
    return f"{value:z.3f}".replace("0.", ".", 1).replace("-", "−")


def _score_range(drawn: pd.Series[Any], lines: Sequence[float]) -> tuple[float, float]:
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
            level(fig, y=value, colour=colour, width=2 if strong else 1, dash="dash" if strong else "dot")
        text = f"{_score(value)} {short(label(name), 20)}{'' if value >= low else ' ↓'}"
        fig.add_annotation(
            x=1, xref="paper", y=max(value, low), xanchor="left", borderpad=4,
            text=Markup(f"<b>{plain(text)}</b>") if strong else text,
            hovertext=f"{name}: test score {value:z.3f}", font={"size": 11, "color": colour},
            showarrow=True, arrowhead=0, arrowwidth=0.75, arrowcolor=colour, ax=12, ay=at - moved,
        )  # fmt: skip
