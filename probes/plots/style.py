"""What every figure shares: fonts, margins, colours that colour-blind readers can tell apart, page hints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from graticule.hooks.messages import UnknownNameError, visible

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK = "#1c2733"
"""Text and the main line."""
MUTED = "#5c6b7a"
"""Secondary text: baselines, notes."""
FAINT = "#b4bec8"
"""Marks that must not compete: blocks beyond the palette, exploratory scores."""
GRID = "#e8ecf0"
ACCENT = "#b3003c"
"""The one mark a figure is about."""
SURFACE = "#00639c"
"""The surface stack."""
DIVERGING = [[0.0, SURFACE], [0.5, "#f7f7f7"], [1.0, ACCENT]]
"""A colour scale about a middle."""

# Paul Tol's "muted" scheme (SRON/EPS/TN/09-002), re-ordered so that the first few are farthest apart
BLOCKS = ("#332288", "#cc6677", "#117733", "#88ccee", "#ddaa33", "#882255", "#44aa99", "#999933", "#aa4499")

OTHER = "other"
"""The legend's name for blocks beyond the palette."""


def style(
    fig: Figure,
    height: int = 400,
    aspect: float | None = None,
    extra: int = 0,
    note: str | None = None,
    phone: Mapping[str, Any] | None = None,
    *,
    x: str | Mapping[str, Any] | None = None,
    y: str | Mapping[str, Any] | None = None,
    **layout: Any,
) -> Figure:
    """Give `fig`, with all its traces, the common look, in place, and return it.

    Args:
        fig: any figure of cartesian axes.
        height: pixels, where nobody lays the figure out (a notebook).
        aspect: height over width wanted on a page, so that a map keeps its shape on a phone.
        extra: pixels of height on top of `aspect`, for legends and axis titles.
        phone: layout changes in relayout's dotted keys, and a different `extra`, where the page is narrow.
        note: a sentence for the caption, e.g. how many rows are drawn; read it with `note_of`.
        x: title of the horizontal axes, or more of them, as of `axis`.
        y: title of the vertical axes, or more of them.
        layout: more of plotly's layout, such as `margin_t`, `barmode`.
    """
    fig.update_layout(
        template="none",
        font={"family": FONT, "size": 13, "color": INK},
        paper_bgcolor="white",
        plot_bgcolor="white",
        height=height,
        margin={"l": 56, "r": 16, "t": 16, "b": 48},
        dragmode=False,  # on a phone, a finger on a figure scrolls the page
        hoverlabel={"bgcolor": "white", "bordercolor": FAINT, "font": {"family": FONT, "size": 12}},
        legend={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.02,
            "yanchor": "bottom",
            "itemsizing": "constant",
            "font": {"size": 12},
        },
        meta={"aspect": aspect, "extra": extra, "note": note or "", "phone": dict(phone or {})},
    )
    axis: dict[str, Any] = {
        "showline": True,
        "linecolor": FAINT,
        "gridcolor": GRID,
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": FAINT,
        "automargin": True,
        "title": {"standoff": 8, "font": {"size": 13}},
    }
    fig.update_xaxes(**axis)
    fig.update_yaxes(**axis)
    _names_stay_names(fig)
    fig.update_layout(layout)
    fig.update_xaxes({"title_text": x} if isinstance(x, str) else x)
    fig.update_yaxes({"title_text": y} if isinstance(y, str) else y)
    return fig


def axis(
    title: str, unit: str | None = None, *, unit_in_title: str | None = None, **more: Any
) -> dict[str, Any]:
    """An axis with its unit, for `x` and `y` of `style`: years are whole numbers without commas.

    Args:
        title: what it is of.
        unit: goes behind the title in brackets; latitudes and longitudes are in degrees.
        unit_in_title: a unit that the title says already.
        more: of plotly's axis.
    """
    text = axis_title(title, None if unit == unit_in_title else unit)
    return {"title_text": text, "tickformat": "d" if unit == "year" else None, **more}


def log_axis(
    ticks: Iterable[int | float], title: str, texts: Iterable[str] | None = None, **more: Any
) -> dict[str, Any]:
    """A logarithmic axis, for `x` and `y` of `style`, with these ticks alone."""
    ticks = list(ticks)
    written = [str(tick) for tick in ticks] if texts is None else list(texts)
    return {"type": "log", "tickvals": ticks, "ticktext": written, "title_text": title, **more}


def rows_axis(names: Sequence[str], below: float = 0.7, above: float = 0.3, **more: Any) -> dict[str, Any]:
    """Names at 0, 1, 2 …, for `y` of `style`: an axis would take names such as 1990 for numbers."""
    places = list(range(len(names)))
    return {"tickvals": places, "ticktext": list(names), "range": [-below, len(names) - above], **more}


def _names_stay_names(fig: Figure) -> None:
    """An axis with text among its values is one of names: plotly would read "1990" as a number or a date."""
    for trace in cast("Iterable[Any]", fig.data):
        for letter in "xy":
            kind = _kind_of_names(trace, letter)
            if kind is not None:
                axis = (trace[f"{letter}axis"] or letter).replace(letter, f"{letter}axis", 1)
                fig.update_layout({axis: {"type": kind}})


def _kind_of_names(trace: Any, letter: str) -> str | None:
    """plotly's type for an axis of names, of names in two levels, or None where a trace has none on it."""
    if letter not in trace:
        return None
    values = trace[letter]
    if values is None:  # a box without places stands at its name
        return "category" if trace.type == "box" and letter == "x" and trace.name else None
    if any(isinstance(value, str) for value in values):
        return "category"
    levels = len(values) > 0 and all(isinstance(value, list | tuple) for value in values)
    return "multicategory" if levels else None


def note_of(fig: Figure) -> str:
    """What the caption under `fig` must add, such as how many rows were drawn; empty if nothing."""
    layout: Any = fig.layout
    meta: Any = layout.meta
    return str(meta.get("note", "")) if isinstance(meta, Mapping) else ""


def scored_rows(predictions: pd.DataFrame) -> pd.DataFrame:
    """The test rows, if `predictions` has a `split` column; else all rows."""
    if "split" not in predictions.columns:
        return predictions
    rows = predictions[predictions["split"] == "test"]
    if rows.empty:
        splits = sorted(map(str, predictions["split"].unique()))
        raise ValueError(f"no row has split 'test': the column holds {splits}; give test rows to draw")
    return rows


def need_columns(table: pd.DataFrame, *names: str) -> None:
    """Raises:
    KeyError: Naming the columns of `names` that `table` lacks, and those it has.
    """
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise UnknownNameError(
            f"no column {', '.join(missing)}; the table has {', '.join(map(str, table.columns))}"
        )


def left_out(count: int, what: str) -> str:
    """Of a caption: how many smaller ones are not drawn, or nothing."""
    return f" {count:,} smaller {what} are not drawn." if count else ""


def sampled(table: pd.DataFrame, limit: int, seed: int) -> tuple[pd.DataFrame, str]:
    """At most `limit` rows, drawn with `seed` and kept in order, and a sentence for the caption."""
    if len(table) <= limit:
        return table, f"All {len(table):,} test rows are drawn."
    keep = np.sort(np.random.default_rng(seed).permutation(len(table))[:limit])
    return table.iloc[keep], f"{limit:,} of {len(table):,} test rows are drawn, sampled with seed {seed}."


def block_colours(blocks: pd.Series[Any]) -> tuple[dict[str, str], pd.Series[Any]]:
    """The largest blocks with a colour each, and the row-aligned legend group, `OTHER` beyond the palette."""
    names = label_series(blocks)
    top = [str(b) for b in names.value_counts(sort=True).index if b][: len(BLOCKS)]
    groups = names.where(names.isin(top), OTHER)
    colours: dict[str, str] = dict(zip(top, BLOCKS, strict=False))
    if (groups == OTHER).any():
        colours = {OTHER: FAINT, **colours}  # drawn first, so the named blocks lie on top
    return colours, groups


def label_series(values: pd.Series[Any]) -> pd.Series[Any]:
    """`values` as words: whole numbers without a decimal point, underscores as spaces, missing as nothing."""
    if pd.api.types.is_float_dtype(values) and bool((values.dropna() % 1 == 0).all()):
        values = values.astype("Int64")
    return values.astype("string").fillna("").str.replace("_", " ").astype(object)


def label(name: str) -> str:
    """A baseline's name for people."""
    return name.replace("_", " ").replace("tfidf", "TF-IDF")


def short(text: str, width: int = 22) -> str:
    """`text` cut to `width` characters with an ellipsis."""
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def short_labels(names: Iterable[object], width: int = 22) -> list[str]:
    """`short` of every name, but no two names alike: an axis of names would draw theirs on one line.

    Args:
        names: all names of an axis, each once.
        width: letters of a label.

    Returns:
        One label per name: where beginnings are the same, beginning and end; where these are too, a number.
    """
    whole = [str(name) for name in names]
    labels = [short(name, width) for name in whole]
    again = Counter(labels)
    tail = width // 2
    for k, name in enumerate(whole):
        if again[labels[k]] > 1 and len(name) > width:
            labels[k] = f"{name[: width - tail - 1].rstrip()}…{name[-tail:].lstrip()}"
    taken: set[str] = set()
    for k, written in enumerate(labels):
        count = 1
        while labels[k] in taken:
            count += 1
            labels[k] = f"{written} ({count})"
        taken.add(labels[k])
    return labels


def layer_axis(fig: Figure, layers: pd.Series[Any], title: str = "layer (block index)") -> None:
    """Let the horizontal axis of a styled figure be one of layers: a tick at layers alone, all marks inside.

    Args:
        fig: after `style`.
        layers: numbers of the layers drawn; where one is missing the axis is of names, and left alone.
        title: of the axis.
    """
    if not len(layers) or not bool(layers.notna().all()):
        return
    low, high = float(layers.min()) - 0.4, float(layers.max()) + 0.4
    fig.update_xaxes(
        title_text=title, showgrid=False, tickangle=0, tick0=0, dtick=layer_ticks(layers), range=[low, high]
    )
    layout: Any = fig.layout
    phone = {"xaxis.dtick": layer_ticks(layers, 5), **layout.meta["phone"]}
    fig.update_layout(meta={**layout.meta, "phone": phone})


def layer_ticks(layers: pd.Series[Any], most: int = 9) -> int:
    """The whole number of layers between ticks, so that about `most` are drawn and none is between layers."""
    return max(1, round(float(layers.max() - layers.min() + 1) / most))


def in_unit(words: str, unit: str | None) -> str:
    """`words` with the unit behind them in brackets, where there is one."""
    return f"{words} ({unit})" if unit else words


def axis_title(name: str, unit: str | None) -> str:
    """A target's name with its unit; latitudes and longitudes are in degrees."""
    return in_unit(name, "degrees" if unit in ("lat", "lon") else unit)


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Label positions in input order, moved apart to at least `gap` and kept in `low..high` where they fit.

    Least total movement: runs of labels that would touch are set around the mean of where they wanted to be.
    """
    order = np.argsort(np.asarray(positions, dtype=np.float64), kind="stable")
    runs: list[tuple[float, int]] = []  # (sum of wanted starts, labels); a run's members are `gap` apart
    for k in order:
        total, count = float(positions[k]), 1
        while runs and runs[-1][0] / runs[-1][1] + gap * runs[-1][1] > total / count:
            before, n = runs.pop()
            total, count = before + total - gap * n * count, count + n
        runs.append((total, count))
    placed = np.concatenate(
        [total / count + gap * np.arange(count) for total, count in runs] or [np.zeros(0)]
    )
    steps = gap * np.arange(len(placed))
    placed = np.minimum(placed, high - steps[::-1])
    placed = np.maximum(placed, low + steps)
    result = np.empty(len(placed))
    result[order] = placed
    return result.tolist()


def error_bars(
    middle: Any, low: Any, high: Any, colour: str, thickness: float | int | None = 1.5, width: int | None = 0
) -> dict[str, Any]:
    """plotly's bars from `low` to `high` about marks at `middle`, for `error_x` and `error_y`."""
    return {
        "type": "data",
        "symmetric": False,
        "array": high - middle,
        "arrayminus": middle - low,
        "color": colour,
        "thickness": thickness,
        "width": width,
    }


def depth_of(layers: pd.DataFrame) -> pd.Series[Any]:
    """Places of points on an axis of layers: numbers of the layers, or names if a point has no layer."""
    numbered = bool(layers["layer"].notna().all())
    return layers["layer"].astype(float) if numbered else layers["point"].astype(str)


_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;"}


class Markup(str):
    """A label with tags of ours (`<b>`, `<br>`); text from outside enters it through `plain`."""

    __slots__ = ()


def plain(value: object) -> str:
    """Text from outside as a part of a hover template or of `Markup`."""
    return escaped(value).replace("%{", "&#37;{")


def escaped(value: object) -> str:
    """Text from outside with what plotly would take for tags or formulas written out."""
    return "".join(_ESCAPES.get(letter, letter) for letter in visible(value, lines=True))
