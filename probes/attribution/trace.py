"""`trace`: a probe's reading at every token of a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.hooks.artifact import library_versions
from graticule.hooks.capture import capture
from graticule.hooks.doors import FINDINGS_OR_PROBE, MODEL, TEXT, door
from graticule.hooks.identity import model_identity
from graticule.hooks.points import layer_of
from graticule.hooks.protocols import HookedModel
from graticule.hooks.saved import SavedResult
from graticule.hooks.tokens import tokenize
from graticule.probes.attribution.again import asked, columns, probe_of
from graticule.probes.estimators.ridge import RidgeProbe
from graticule.probes.findings import Findings

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_SHOWN = 4


@dataclass(frozen=True)
class Trace(SavedResult):
    """A probe's reading at every token."""

    KIND: ClassVar[str] = "trace"

    model: str
    """The model's name."""
    text: str
    """What was read."""
    tokens: tuple[str, ...]
    """Every token as a string, BOS included."""
    n_special: int
    """Leading special tokens: readings there mean nothing and are left out of colour scales."""
    points: tuple[str, ...]
    """Where probes read, in model order."""
    chosen: str
    """The point that was asked for, or that the sweep chose."""
    target_names: tuple[str, ...]
    """A name a target."""
    units: tuple[str | None, ...]
    """A unit a target."""
    readings: Float[np.ndarray, "point token target"]
    """In target units."""
    mean: tuple[float, ...]
    """Of each target over the training rows, for comparison."""
    scale: tuple[float, ...]
    """Standard deviation of each target over the training rows."""
    provenance: Mapping[str, Any]
    """Model, settings and versions."""

    @property
    def title(self) -> str:
        """Model, target and text."""
        text = self.text if len(self.text) <= 60 else self.text[:59] + "…"
        return f"{self.model}: {', '.join(self.target_names[:3])} over “{text}”"

    @property
    def table(self) -> pd.DataFrame:
        """A line a token: `token`, and for every target the reading at the chosen point."""
        at = self.points.index(self.chosen)
        columns = {n: self.readings[at, :, t] for t, n in enumerate(self.target_names)}
        return pd.DataFrame({"token": list(self.tokens), **columns})

    def summary(self) -> str:
        """Each target's last reading, and where it was highest and lowest."""
        where = layer_of(self.chosen)
        place = self.chosen if where is None else f"layer {where}"
        at, lines = self.points.index(self.chosen), list[str]()
        for t, name in enumerate(self.target_names[:_SHOWN]):
            line = self.readings[at, self.n_special :, t]
            high, low = int(line.argmax()), int(line.argmin())
            words = [self.tokens[self.n_special + i] for i in (high, low)]
            lines.append(
                f"{name} at {place}: {line[-1]:.4g} at the last token; highest {line[high]:.4g} at "
                f"{words[0]!r}, lowest {line[low]:.4g} at {words[1]!r} (training rows: "
                f"{self.mean[t]:.4g} ± {self.scale[t]:.3g})"
            )
        lines.append(
            "a probe is fitted at one position: readings elsewhere are what it says, not what it knows"
        )
        return "\n".join(lines)

    def figures(self) -> dict[str, Figure]:
        """The reading over the text; with several layers, layers × tokens."""
        from graticule.probes.plots.attribution import trace_figure, trace_map

        out: dict[str, Figure] = {}
        for t, (name, unit) in enumerate(zip(self.target_names, self.units, strict=True)):
            if t == _SHOWN:
                break
            at = self.points.index(self.chosen)
            out[f"{name}: the reading at every token"] = trace_figure(
                self.tokens, self.readings[at, :, t], self.n_special, name, unit, self.mean[t], self.scale[t]
            )
            if len(self.points) > 1:
                out[f"{name}: the reading at every token and layer"] = trace_map(
                    self.tokens,
                    [self._label(p) for p in self.points],
                    self.readings[:, :, t],
                    self.n_special,
                    name,
                    unit,
                    self.mean[t],
                    self.scale[t],
                )
        return out

    @staticmethod
    def _label(point: str) -> str:
        layer = layer_of(point)
        return point if layer is None else str(layer)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Readings at the chosen point, token by token."""
        return {"The reading at every token": self.table}


@door(model=MODEL, findings=FINDINGS_OR_PROBE, text=TEXT)
def trace(
    model: HookedModel,
    findings: Findings | RidgeProbe,
    text: str,
    *,
    target: str | int | None = None,
    point: str | None = None,
    layers: Literal["chosen", "all"] = "all",
    prepend_bos: bool | None = None,
) -> Trace:
    """Read `text` with the probe at every token.

    **Arguments:** `layers="all"` reads with every probe of the findings, `"chosen"` with one; `point` is
    that one (the findings' choice by default). A lone `RidgeProbe` reads at its `hook_name`.
    `prepend_bos` is by default that of the findings' capture.

    **Raises** `ValueError` for an empty text or a probe without `hook_name`, `KeyError` for another target or
    point.
    """
    if layers not in ("chosen", "all"):
        raise ValueError(f"layers={layers!r}: expected 'chosen' or 'all'")
    probe, chosen = probe_of(findings, point)
    probes: dict[str, RidgeProbe] = {chosen: probe}
    if isinstance(findings, Findings) and layers == "all":
        probes = dict(findings.probes)
    picked = columns(probe, target)
    if prepend_bos is None and isinstance(findings, Findings):
        prepend_bos = asked(findings).prepend_bos
    rows = tokenize(model, [text], "", prepend_bos)
    held = capture(model, [text], points=list(probes), pos="all", prepend_bos=prepend_bos, progress=False)
    points = tuple(p for p in held.points if p in probes)
    readings = np.stack([probes[p].predict(held[p])[:, picked] for p in points])
    identity = model_identity(model)
    return Trace(
        model=str(identity["name"]),
        text=text,
        tokens=_strings(model, rows.ids[0]),
        n_special=rows.n_special,
        points=points,
        chosen=chosen,
        target_names=tuple(probe.target_names[i] for i in picked),
        units=tuple(probe.units[i] for i in picked),
        readings=readings,
        mean=tuple(float(probe.weights.y_mean[i]) for i in picked),
        scale=tuple(float(probe.weights.y_scale[i]) for i in picked),
        provenance={"model": identity, "layers": layers, "versions": library_versions()},
    )


def _strings(model: HookedModel, ids: np.ndarray) -> tuple[str, ...]:
    tokenizer: Any = getattr(model, "tokenizer", None)
    return tuple(str(tokenizer.decode([int(i)])) for i in ids)
