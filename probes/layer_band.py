"""All layers at once: a band that holds every layer's true score together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.hooks.artifact import library_versions
from graticule.hooks.calls import renamed
from graticule.hooks.points import layer_of
from graticule.hooks.saved import SavedResult
from graticule.probes.compare import saved_baselines
from graticule.probes.core.findings import Findings
from graticule.probes.core.fit import with_and_without
from graticule.probes.core.intervals import mean_r2_estimate
from graticule.probes.core.resample import cluster_sums, resampled_r2
from graticule.probes.plots.primitives import band_traces, level, line_trace, mark_trace, new_figure
from graticule.probes.plots.style import FAINT, INK, depth_of, layer_axis, need_columns, style
from graticule.probes.scores.metrics import mean_r2
from graticule.probes.scores.significance import max_t_band, score_difference

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

What = Literal["score", "gain"]
_NAMES = {"score": "test R²", "gain": "gain over the surface (R²)"}


@dataclass(frozen=True)
class LayerBand(SavedResult):
    """The result of `layer_band`."""

    KIND: ClassVar[str] = "layer_band"

    model: str
    """The model's name."""
    table: str
    """The table's name."""
    what: str
    """`score`, test R²; or `gain`, what each layer adds to the surface."""
    chosen_point: str
    """The point chosen on training rows."""
    layers: pd.DataFrame
    """One row per point: `point`, `layer`, `estimate`, `low`, `high` (the band, all layers at once) and
    `low_alone`, `high_alone` (each layer's own 95% interval)."""
    level: float
    """The band holds every layer's own value with this probability."""
    provenance: Mapping[str, Any]
    """Draws, seed and versions."""

    @property
    def title(self) -> str:
        """What over which layers."""
        return f"{self.model} on {self.table}: {_NAMES[self.what]} of every layer, simultaneous band"

    def summary(self) -> str:
        """The chosen layer, and which layers are surely below it."""
        rows = self.layers.set_index("point")
        best: Any = rows.loc[self.chosen_point]
        above = rows.index[rows["low"] > 0]
        lines = [
            f"{_NAMES[self.what]} {best['estimate']:+z.3f} at {self.chosen_point}, {self.level:.0%} band "
            f"over {len(rows)} layers at once {best['low']:+z.3f} to {best['high']:+z.3f}",
            f"{len(above)} of {len(rows)} layers are above 0 together",
        ]
        apart = rows.index[rows["high"] < best["low"]]
        lines.append(f"{len(apart)} lie wholly below the chosen layer's band")
        return "\n".join(lines)

    def figures(self) -> dict[str, Figure]:
        """The band over depth."""
        caption = f"{_NAMES[self.what]} of every layer; the band holds all layers at once"
        return {caption: band_figure(self.layers, self.chosen_point, _NAMES[self.what])}

    def tables(self) -> dict[str, pd.DataFrame]:
        """One row per layer."""
        names = {
            "estimate": _NAMES[self.what],
            "low": "band from",
            "high": "band to",
            "low_alone": "alone from",
            "high_alone": "alone to",
        }
        return {"Layers": self.layers.drop(columns="point").rename(columns=names)}


@renamed(draws="n_bootstrap")
def layer_band(
    findings: Findings, what: What = "score", *, level: float = 0.95, n_bootstrap: int = 2000, seed: int = 0
) -> LayerBand:
    """A band for the score of all layers at once, or for the gain of each against the surface.

    One set of resamples of the test clusters serves all layers, and the band's width is set by the layer that
    strays most in each of them (max-T), in units of each layer's own interval, which is that of a verdict:
    reading any layer off the curve is then covered. Fits are held
    fixed: nothing is fitted again, and no activations are needed, but for findings that were saved before
    they held every layer's predictions.

    Raises:
        ValueError: For another `what`, and where such earlier findings lack their inputs.
    """
    if what not in _NAMES:
        raise ValueError(f"what={what!r}: expected 'score' or 'gain'")
    predictions = _scores(findings) if what == "score" else _stacks(findings)
    problem = findings.problem
    y = problem.y[problem.test]
    sums = cluster_sums(y, predictions, problem.clusters[problem.test])
    samples = resampled_r2(sums, n_bootstrap, seed)
    estimates = np.array([mean_r2(y, p) for p in predictions.values()])
    if what == "gain":
        samples = score_difference(samples[:, 1:], samples[:, :1])
        estimates = score_difference(estimates[1:], estimates[:1])
    points = [name for name in predictions if name != "surface"]
    surface = "surface" if what == "gain" else None
    reach = np.array([float(mean_r2_estimate(sums, point, surface).reach(level)) for point in points])
    farther = _farther(max_t_band(estimates, samples, level)[1] - estimates, samples, level)
    low, high = estimates - farther * reach, estimates + farther * reach
    layers = pd.DataFrame(
        {
            "point": points,
            "layer": [layer_of(point) for point in points],
            "estimate": estimates,
            "low": low,
            "high": high,
            "low_alone": estimates - reach,
            "high_alone": estimates + reach,
        }
    )
    return LayerBand(
        model=findings.model,
        table=findings.table,
        what=what,
        chosen_point=findings.chosen_point,
        layers=layers,
        level=level,
        provenance={
            "draws": n_bootstrap,
            "seed": seed,
            "findings": dict(findings.provenance),
            "versions": library_versions(),
        },
    )


def _farther(
    band: Float[np.ndarray, " point"], samples: Float[np.ndarray, "draw point"], level: float
) -> Float[np.ndarray, " point"]:
    """How many times as wide as one layer's own interval a band of all layers is, by one set of resamples."""
    spread = np.nanstd(samples, axis=0)
    one = NormalDist().inv_cdf((1 + level) / 2) * np.where(spread > 0, spread, 1.0)
    return np.where(spread > 0, np.maximum(1.0, band / one), 1.0)


def _scores(findings: Findings) -> dict[str, Float[np.ndarray, "test target"]]:
    return {point: findings.at(point).predictions for point in findings.probes}


def _stacks(findings: Findings) -> dict[str, Float[np.ndarray, "test target"]]:
    """The surface, and for each point the stack of the baselines with the probe there."""
    y, beside = findings.problem.y[findings.problem.train], saved_baselines(findings)
    out: dict[str, np.ndarray] = {}
    for point in findings.probes:
        out["surface"], out[point] = with_and_without(beside, findings.predictions_at(point), y)
    return out


def band_figure(layers: pd.DataFrame, chosen_point: str, name: str) -> Figure:
    """A simultaneous band over depth, each layer's own interval inside it, the chosen layer marked."""
    need_columns(layers, "point", "layer", "estimate", "low", "high", "low_alone", "high_alone")
    x = depth_of(layers)
    fig = new_figure()
    for end, colour, legend in (
        ("", "rgba(0,99,156,0.15)", "all layers at once"),
        ("_alone", "rgba(0,99,156,0.3)", "each layer alone"),
    ):
        fig.add_traces(band_traces(x, layers[f"low{end}"], layers[f"high{end}"], legend, colour))
    fig.add_trace(line_trace(x, layers["estimate"], None, INK, 2, size=6))
    at = (layers["point"] == chosen_point).to_numpy()
    fig.add_trace(mark_trace(x[at], layers["estimate"][at], "chosen on training rows"))
    style(fig, height=380, x="hook point", y=name)
    level(fig, y=0, colour=FAINT, dash=None)
    layer_axis(fig, layers["layer"])
    return fig
