"""`trace`: a probe's reading at every token of a text; and rows and probes of findings, read again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from graticule.hooks.artifact import library_versions
from graticule.hooks.calls import renamed
from graticule.hooks.capture import capture
from graticule.hooks.doors import FINDINGS_OR_PROBE, MODEL, TEXT, door
from graticule.hooks.identity import model_identity
from graticule.hooks.messages import UnknownNameError
from graticule.hooks.points import layer_of, layer_text, name_of
from graticule.hooks.protocols import HookedModel
from graticule.hooks.result import captured_as
from graticule.hooks.rows import PointKey
from graticule.hooks.saved import SavedResult
from graticule.hooks.tokens import tokenize
from graticule.probes.core.findings import Findings
from graticule.probes.core.replay import replay_spec
from graticule.probes.linear.ridge import RidgeProbe
from graticule.probes.plots.primitives import heat_trace, level, line_trace, new_figure
from graticule.probes.plots.style import BLOCKS, DIVERGING, FAINT, axis, axis_title, short, style

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


_TARGETS = 4


@dataclass(frozen=True)
class TableRows:
    """Every row of a findings' table, as the sweep had it."""

    texts: list[str] | None
    """None where the table has none."""
    y: Float[np.ndarray, "row target"]
    """Targets."""
    clusters: Int[np.ndarray, " row"]
    """Dependent rows share one; those of the sweep, same token rows included."""
    train: Int[np.ndarray, " train"]
    """Training rows that the probe saw."""
    test: Int[np.ndarray, " test"]
    """Test rows."""
    is_test: Bool[np.ndarray, " row"]
    """The split."""

    @classmethod
    def of(cls, findings: Findings) -> TableRows:
        """Targets, clusters and split by table row.

        Raises:
            ValueError: Without inputs.
        """
        problem, table = findings.inputs.problem, findings.inputs.table
        clusters = table.clusters.copy()
        clusters[problem.source] = problem.clusters
        swept = np.zeros(len(table), bool)
        swept[problem.source] = True
        train, test = np.flatnonzero(swept & ~table.is_test), np.flatnonzero(swept & table.is_test)
        return cls(table.texts, table.y, clusters, train, test, table.is_test)

    def draw(self, index: Int[np.ndarray, " row"], limit: int | None, seed: int) -> Int[np.ndarray, " some"]:
        """At most `limit` of the rows `index`: whole clusters that fit, in a seeded order; sorted."""
        if limit is None or len(index) <= limit:
            return index
        codes = np.unique(self.clusters[index], return_inverse=True)[1].reshape(-1)
        sizes = np.bincount(codes)
        chosen, count = np.zeros(len(sizes), bool), 0
        for code in np.random.default_rng(seed).permutation(len(sizes)):
            if count + int(sizes[code]) <= limit:
                chosen[code], count = True, count + int(sizes[code])
        return index[chosen[codes]]


def probe_of(findings: Findings | RidgeProbe, point: PointKey | None = None) -> tuple[RidgeProbe, str]:
    """The probe that is meant and its hook name.

    Raises:
        ValueError: For a probe without `hook_name`.
        KeyError: For a point without a probe.
    """
    if isinstance(findings, Findings):
        name = findings.point_of(point)
        return findings.probes[name], name
    name = findings.hook_name if point is None else name_of(point)
    if name is None:
        raise ValueError(
            "this probe has no hook_name: pass hook_name=, the hook name of the activations it reads"
        )
    return findings, name


def columns(probe: RidgeProbe, target: str | int | None) -> list[int]:
    """Columns of the probe that `target` names; None is all of them.

    Raises:
        KeyError: Naming the targets there are.
    """
    names = probe.target_names or tuple(f"target {i}" for i in range(probe.coef.shape[1]))
    if target is None:
        return list(range(len(names)))
    if isinstance(target, int) and 0 <= target < len(names):
        return [target]
    if target in names:
        return [names.index(str(target))]
    raise UnknownNameError(f"no target {target!r}; this probe has {', '.join(names)}")


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
    """One name per target."""
    units: tuple[str | None, ...]
    """One unit per target."""
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
    def _at_chosen(self) -> Float[np.ndarray, "token target"]:
        return self.readings[self.points.index(self.chosen)]

    @property
    def table(self) -> pd.DataFrame:
        """One row per token: `token`, and for every target the reading at the chosen point."""
        by_target = dict(zip(self.target_names, self._at_chosen.T, strict=True))
        return pd.DataFrame({"token": list(self.tokens), **by_target})

    def summary(self) -> str:
        """Each target's last reading, and where it was highest and lowest."""
        lines: list[str] = []
        own = self.tokens[self.n_special :]
        for t, name in enumerate(self.target_names[:_TARGETS]):
            reading = self._at_chosen[self.n_special :, t]
            high, low = int(reading.argmax()), int(reading.argmin())
            lines.append(
                f"{name} at {layer_text(self.chosen)}: {reading[-1]:.4g} at the last token; highest "
                f"{reading[high]:.4g} at {own[high]!r}, lowest {reading[low]:.4g} at {own[low]!r} "
                f"(training rows: {self.mean[t]:.4g} ± {self.scale[t]:.3g})"
            )
        lines.append(
            "a probe is fitted at one position: readings elsewhere are what it says, not what it knows"
        )
        return "\n".join(lines)

    def figures(self) -> dict[str, Figure]:
        """The reading over the text; with several layers, layers × tokens."""
        out: dict[str, Figure] = {}
        for t, name in enumerate(self.target_names[:_TARGETS]):
            out[f"{name}: the reading at every token"] = self._over_text(t)
            if len(self.points) > 1:
                out[f"{name}: the reading at every token and layer"] = self._over_layers(t)
        return out

    def tables(self) -> dict[str, pd.DataFrame]:
        """Readings at the chosen point, token by token."""
        return {"The reading at every token": self.table}

    def _over_text(self, target: int) -> Figure:
        """A target's reading by token, and the training rows' mean and spread as a band."""
        unit, labels = self.units[target], _token_labels(self.tokens[self.n_special :])
        mean, scale = self.mean[target], self.scale[target]
        y = self._at_chosen[self.n_special :, target]
        more: dict[str, Any] = {"size": 7, "hover": "%{text}: %{y:.4~g}<extra></extra>", "text": labels}
        fig = new_figure(line_trace(np.arange(len(labels)), y, None, BLOCKS[0], 2, **more))
        band: Any = {"fillcolor": FAINT, "opacity": 0.25, "line_width": 0, "layer": "below"}
        fig.add_hrect(y0=mean - scale, y1=mean + scale, **band)
        level(fig, y=mean)
        note = "Band: mean of the training rows and one standard deviation."
        across = _token_axis(labels) | {"range": [-0.5, len(labels) - 0.5]}
        up = axis(self.target_names[target], unit)
        return style(fig, height=340, aspect=0.38, extra=60, note=note, x=across, y=up)

    def _over_layers(self, target: int) -> Figure:
        """A target's readings by layer and token, in the colours of two standard deviations."""
        readings, labels = (
            self.readings[:, self.n_special :, target],
            _token_labels(self.tokens[self.n_special :]),
        )
        mean, scale = self.mean[target], self.scale[target]
        span = 2 * scale if scale else float(np.abs(readings - mean).max()) or 1.0
        title = axis_title(self.target_names[target], self.units[target])
        layers = [layer_of(point) for point in self.points]
        names = [point if n is None else str(n) for n, point in zip(layers, self.points, strict=True)]
        hover = "layer %{y}, %{text}: %{z:.4~g}<extra></extra>"
        more: dict[str, Any] = {"gap": 1, "zmid": mean, "colorbar_title_side": "right"}
        more |= {"text": [labels] * len(layers)}
        ends = (mean - span, mean + span)
        fig = new_figure(
            heat_trace(readings, np.arange(len(labels)), names, DIVERGING, ends, hover, bar=title, **more)
        )
        note = "Colours end two standard deviations from the training rows' mean." if scale else None
        size: dict[str, Any] = {"height": max(280, 18 * len(layers) + 130), "aspect": 0.45, "extra": 60}
        up = {"title_text": "layer", "type": "category", "showgrid": False}
        return style(fig, **size, note=note, x=_token_axis(labels), y=up)


def _token_labels(tokens: Sequence[str]) -> list[str]:

    return [short(t.replace("\n", "⏎").replace(" ", "·") if not t.strip() else t.strip(), 14) for t in tokens]


def _token_axis(labels: list[str]) -> dict[str, Any]:
    return {
        "tickvals": np.arange(len(labels)),
        "ticktext": labels,
        "tickangle": -60 if len(labels) > 8 else 0,
        "showgrid": False,
        "title_text": "token",
    }


@renamed(point="hook_name")
@door(model=MODEL, findings=FINDINGS_OR_PROBE, text=TEXT)
def trace(
    findings: Findings | RidgeProbe,
    model: HookedModel,
    text: str,
    *,
    target: str | int | None = None,
    hook_name: PointKey | None = None,
    layers: Literal["chosen", "all"] = "all",
    prepend_bos: bool | None = None,
    progress: bool | None = None,
) -> Trace:
    """Read `text` with the probe at every token.

    Args:
        findings: A sweep's findings, or a fitted `RidgeProbe`, which reads at its `hook_name`.
        model: What reads.
        text: What to read.
        target: One target; all by default.
        hook_name: Where the probe reads; the findings' choice by default.
        layers: `"all"` reads with every probe of the findings, `"chosen"` with the one at `hook_name`.
        prepend_bos: By default that of the findings' capture.
        progress: Whether a bar is drawn.

    Returns:
        A reading per point, token and target.

    Raises:
        ValueError: For an empty text or a probe without `hook_name`; or, unless `prepend_bos` is given, where
            the findings' activations are of other tokens than their texts give here.
        KeyError: For another target or point.
    """
    if layers not in ("chosen", "all"):
        raise ValueError(f"layers={layers!r}: expected 'chosen' or 'all'")
    probe, chosen = probe_of(findings, hook_name)
    probes: dict[str, RidgeProbe] = {chosen: probe}
    if isinstance(findings, Findings) and layers == "all":
        probes = dict(findings.probes)
    picked = columns(probe, target)
    if prepend_bos is None and isinstance(findings, Findings):
        prepend_bos = replay_spec(findings, model).prepend_bos
    rows = tokenize(model, [text], "", prepend_bos)
    captured = capture(
        model, [text], points=list(probes), pos="all", prepend_bos=prepend_bos, progress=progress
    )
    points = tuple(p for p in captured.points if p in probes)
    tokenizer: Any = getattr(model, "tokenizer", None)
    identity = model_identity(model)
    of = findings.provenance if isinstance(findings, Findings) else None
    return Trace(
        model=str(identity["name"]),
        text=text,
        tokens=tuple(str(tokenizer.decode([int(i)])) for i in rows.ids[0]),
        n_special=rows.n_special,
        points=points,
        chosen=chosen,
        target_names=tuple(probe.target_names[i] for i in picked),
        units=tuple(probe.units[i] for i in picked),
        readings=np.stack([probes[p].predict(captured[p])[:, picked] for p in points]),
        mean=tuple(float(probe.weights.y_mean[i]) for i in picked),
        scale=tuple(float(probe.weights.y_scale[i]) for i in picked),
        provenance={
            "model": identity,
            **({} if of is None else {"table": dict(of.get("table", {})), **captured_as(of)}),
            "layers": layers,
            "versions": library_versions(),
        },
    )
