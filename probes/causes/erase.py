"""Erase a concept at every layer and probe again: what linear trace is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from graticule.hooks.artifact import library_versions
from graticule.hooks.calls import renamed
from graticule.hooks.doors import FINDINGS, MODEL, door
from graticule.hooks.messages import bar
from graticule.hooks.points import PointSpec, layer_of
from graticule.hooks.protocols import HookedModel
from graticule.hooks.result import captured_as
from graticule.hooks.rows import PointKey
from graticule.hooks.saved import SavedResult
from graticule.probes.causes.experiment import asked_targets
from graticule.probes.causes.reprobe import FreshProbes, reprobe_later
from graticule.probes.core.findings import Findings
from graticule.probes.core.verdict import NO_BETTER, STRUCTURE
from graticule.probes.plots.primitives import legend_line, level, line_trace, new_figure
from graticule.probes.plots.style import (
    ACCENT,
    FAINT,
    INK,
    MUTED,
    SURFACE,
    depth_of,
    layer_axis,
    need_columns,
    plain,
    style,
)
from graticule.probes.scores.metrics import r2

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_LAYERS = "Re-probing after erasure, layer by layer"
_LATER = "Erased at one layer, probed again at the later ones"


@dataclass(frozen=True)
class Erasure(SavedResult):
    """The result of `graticule.erase`."""

    KIND: ClassVar[str] = "erasure"

    model: str
    """The model's name."""
    table: str
    """The table's name."""
    target_names: tuple[str, ...]
    """All targets."""
    erased: tuple[str, ...]
    """Those that were erased."""
    surface: Mapping[str, float]
    """Target → test R² of the stacked baselines."""
    layers: pd.DataFrame
    """One row per point: `layer`, `point`, `rank`, `removed` (share of the activations' variance); test R²
    of ridge probes by target: `before_` (fitted on half of the training rows), `after_` (eraser from one
    half, probe from the other: fresh rows), `same_` (eraser and probe from all training rows), `control_`
    (fresh rows, an eraser of a random linear feature of equal rank and removed variance); and the gain over
    the surface, mean of the erased targets, `gain_before`, `gain_after`, each with `_low`, `_high` and
    `words`."""
    later: pd.DataFrame
    """One row per later point of a run with the eraser in the model: `layer`, `point`, `before_`, `after_` by
    target (test R²); empty where no model was given."""
    point: str | None
    """Where the eraser was put into the model."""
    min_gain: float
    """The smallest gain called structure."""
    provenance: Mapping[str, Any]
    """Model, table, seeds and versions."""
    metric: str = "r2"
    """What gains are in, `r2` or `bits`; scores of single targets are R² (of classes, of 0 and 1)."""

    @property
    def title(self) -> str:
        """Model, table and what was erased."""
        return f"Erasing {' and '.join(self.erased)}: {self.model} on {self.table}"

    @property
    def at_surface(self) -> int:
        """At how many points the re-probed activations hold no structure beyond the baselines."""
        return int((self.layers["words_after"] != STRUCTURE).sum())

    def summary(self) -> str:
        """How many layers fall to the surface level, what is left, and what was removed for it."""
        rows, names = self.layers, self.erased
        worst = rows.iloc[int(rows["gain_after"].to_numpy().argmax())]
        same = max(float(rows[f"same_{n}"].max()) for n in names)
        lines = [
            f"{' and '.join(names)} erased by LEACE: {self._fallen()}",
            f"largest gain left on fresh rows {worst['gain_after']:+z.3f} [{worst['gain_after_low']:+z.3f}, "
            f"{worst['gain_after_high']:+z.3f}] at {worst['point']} (before "
            f"{rows['gain_before'].max():+z.3f} at best){' bits' if self.metric == 'bits' else ''}",
            f"probed on the eraser's own rows, test R² is at most {same:+z.4f}; removed variance "
            f"{rows['removed'].min():.2%} to {rows['removed'].max():.2%}",
        ]
        if len(self.later):
            best = self.later.iloc[-1]
            left = ", ".join(f"{n} {best[f'after_{n}']:.3f} (of {best[f'before_{n}']:.3f})" for n in names)
            read = f"at {best['point']} a probe's test R² is {left}"
            lines.append(f"erased inside the model at {self.point}: {read}")
        return "\n".join(lines)

    def _fallen(self) -> str:
        """At how many of the points that held structure none is left."""
        before, after = self.layers["words_before"], self.layers["words_after"]
        seen = before == STRUCTURE
        if not seen.any():
            return (
                f"none of {len(before)} points held structure beyond the baselines before: nothing can fall"
            )
        gone, left = int((after[seen] == NO_BETTER).sum()), int((after[seen] == STRUCTURE).sum())
        return (
            f"of {int(seen.sum())} points that held structure beyond the baselines (of {len(before)}), "
            f"re-probing on fresh rows is no better than they are at {gone}, still structure at {left}, not "
            f"decided at {int(seen.sum()) - gone - left}"
        )

    def figures(self) -> dict[str, Figure]:
        """Re-probing by layer, one figure per target; re-probing of later layers."""
        out: dict[str, Figure] = {}
        left_in = [n for n in self.target_names if n not in self.erased]
        for name in (*self.erased, *left_in):
            kind = "left in" if name in left_in else "erased"
            caption = f"{_LAYERS}: {name} ({kind}), test R²"
            out[caption] = erasure_figure(self.layers, name, self.surface[name])
        if len(self.later) and self.point is not None:
            for name in self.target_names:
                out[f"{_LATER}: {name}, test R²"] = later_figure(
                    self.later, name, layer_of(self.point), self.surface[name]
                )
        return out

    def tables(self) -> dict[str, pd.DataFrame]:
        """Layers; later layers."""
        table = _readable(self.layers.drop(columns=["point", "words_before", "words_after"]))
        if self.metric == "bits":
            table = table.rename(columns=lambda c: f"{c} (bits)" if c.startswith("gain ") else c)
        out = {_LAYERS: table}
        if len(self.later):
            out[_LATER] = _readable(self.later.drop(columns=["point"]))
        return out


@renamed(point="hook_name")
@door(findings=FINDINGS, model=MODEL)
def erase(
    findings: Findings,
    model: HookedModel | None = None,
    *,
    targets: str | Sequence[str] | None = None,
    points: PointSpec | None = None,
    hook_name: PointKey | None = None,
    rows: int = 1500,
    seed: int = 0,
    progress: bool | None = None,
) -> Erasure:
    """Erase the concept of `findings` with LEACE at every point, and probe again.

    Erasers and probes are fitted on training rows alone, and scored on test rows. On the very rows an eraser
    was fitted on no linear probe is better than a constant, by theorem; what counts is a probe on *fresh*
    rows, so training clusters are halved: eraser from one half, probe from the other. Its gain is judged
    against the sweep's own surface. With a `model`, one eraser is put into the model at the captured
    positions, and later layers are probed: does the concept come back from other tokens or by way of the
    blocks?

    Args:
        findings: Findings of a sweep.
        model: the model that they are of; left out, no eraser is run inside it.
        targets: to erase, by default all (`["longitude"]` leaves latitude in).
        points: to look at, by default all.
        hook_name: whose eraser is put into the model, by default the chosen one.
        rows: training rows at most behind that eraser, and a third as many test rows.
        seed: The seed of the halves, the controls and those rows.
        progress: whether bars are shown.

    Raises:
        KeyError: for an unknown target or point.
        ValueError: where the findings have no inputs, or no target is named.
    """
    inputs, names = findings.inputs, findings.target_names
    erased = [names.index(t) for t in asked_targets(findings, targets)]
    if not erased:
        raise ValueError(f"targets=[] erases nothing; expected some of {', '.join(names)}")
    chosen = findings.points_of(points)
    if hook_name is not None:
        findings.point_of(hook_name)
    probes = FreshProbes(findings, erased, seed)
    lines: list[dict[str, Any]] = []
    with bar(len(chosen), "erase", "layer", progress) as done:
        for place in chosen:
            lines.append(probes.line(place))
            done.update()
    later = pd.DataFrame()
    where = None
    if model is not None:
        where = findings.point_of(hook_name)
        later = reprobe_later(model, findings, where, erased, rows=rows, seed=seed, progress=progress)
    surface = r2(inputs.problem.y[inputs.problem.test], inputs.surface().test)
    return Erasure(
        model=findings.model,
        table=findings.table,
        target_names=names,
        erased=tuple(names[i] for i in erased),
        surface={n: float(v) for n, v in zip(names, surface, strict=True)},
        layers=pd.DataFrame(lines),
        later=later,
        point=where,
        min_gain=probes.min_gain,
        metric=probes.metric,
        provenance={
            "table": dict(findings.provenance.get("table", {})),
            **captured_as(findings.provenance),
            "rows": rows,
            "seed": seed,
            "versions": library_versions(),
        },
    )


def _readable(table: pd.DataFrame) -> pd.DataFrame:
    return table.round(4).rename(columns=lambda c: str(c).replace("_", " "))


# Figures ---------------------------------------------------------------------------------------------
_Curve = tuple[str, str, str | None, str | None]
"""Name, colour, dash and marker."""


def erasure_figure(layers: pd.DataFrame, target: str, surface: float) -> Figure:
    """Test R² of a target against layer: before erasure, after (fresh rows), and with a matched eraser."""

    curves: dict[str, _Curve] = {
        "before": ("before erasure", INK, None, "circle"),
        "control": ("a matched random feature erased", MUTED, "dot", "square"),
        "after": ("concept erased, probed on fresh rows", ACCENT, None, "diamond"),
    }
    return _by_layer(layers, target, surface, curves)


def later_figure(later: pd.DataFrame, target: str, layer: int | None, surface: float) -> Figure:
    """Test R² of a target at the layers after an eraser in the model, and without it."""

    curves: dict[str, _Curve] = {
        "before": ("the model as it is", INK, None, None),
        "after": (f"erased at layer {layer}", ACCENT, None, None),
    }
    return _by_layer(later, target, surface, curves)


def _by_layer(table: pd.DataFrame, target: str, surface: float, curves: dict[str, _Curve]) -> Figure:
    """Curves of the columns `{prefix}_{target}`, by prefix, and the surface's level.

    Raises:
        KeyError: if a column is missing.
    """
    columns = {f"{prefix}_{target}": curve for prefix, curve in curves.items()}
    need_columns(table, "layer", *columns)
    fig = new_figure()
    for column, (name, colour, dash, symbol) in columns.items():
        hover = f"%{{x}}: {plain(target)} %{{y:.3f}}<extra>{name}</extra>"
        x, y, width = depth_of(table), table[column], 2 if dash is None else 1.5
        marker = {"size": 7, "symbol": symbol}
        fig.add_trace(line_trace(x, y, name, colour, width, dash=dash, size=7, hover=hover, marker=marker))
    level(fig, y=surface, colour=SURFACE, width=1.5, dash="dash")
    fig.add_trace(legend_line(f"surface stack: {surface:z.3f}", SURFACE, 1.5, "dash"))
    values = np.concatenate([table[column].to_numpy(dtype=float) for column in columns])
    low, high = min(float(values.min()), surface, 0.0), max(float(values.max()), surface)
    pad = 0.06 * (high - low)
    zero: dict[str, Any] = {"zeroline": True, "zerolinecolor": FAINT, "range": [low - pad, high + pad]}
    style(fig, height=400, aspect=0.5, extra=90, y={"title_text": f"test R² of {target}", **zero})
    layer_axis(fig, table["layer"])
    return fig
