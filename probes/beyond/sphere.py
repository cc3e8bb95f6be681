"""Places as points on the unit sphere: a linear probe of x, y and z, to which the date line is no edge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from graticule.hooks.calls import renamed
from graticule.hooks.doors import FINDINGS, door
from graticule.hooks.messages import NotApplicable, bar
from graticule.hooks.rows import PointKey
from graticule.hooks.saved import SavedResult
from graticule.probes.core.findings import Findings
from graticule.probes.core.resample import Difference, mean_difference
from graticule.probes.linear.ridge_cv import ridge_cv
from graticule.probes.plots.primitives import line_trace, new_figure
from graticule.probes.plots.style import ACCENT, FAINT, SURFACE, need_columns, style
from graticule.probes.scores.geo import haversine_km, unit_sphere
from graticule.probes.scores.metrics import coordinate_columns, r2

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

AXES = ("x", "y", "z")
_BANDS = 12
_CAPTION = "Mean error by true longitude: a probe of latitude and longitude, and one of the unit sphere"
_CAPTION_MAP = "True places above, places predicted through the unit sphere below, test rows"
_CAPTION_TABLE = "Error on the globe, test rows"
_CAPTION_BANDS = "Mean error by true longitude"


@dataclass(frozen=True)
class Sphere(SavedResult):
    """Kilometres of a unit-sphere probe beside those of the latitude and longitude probe."""

    KIND: ClassVar[str] = "sphere"

    model: str
    table: str
    point: str
    """Where both probes read."""
    r2: Mapping[str, float]
    """Test R² of `x` (towards 0°N 0°E), `y` (0°N 90°E) and `z` (the north pole)."""
    validation: float
    """Out-of-fold R² on training rows, mean over the axes."""
    alpha: float
    """The chosen ridge strength."""
    length: float
    """Mean length of the predicted vectors: 1 where the probe is sure, near 0 where it says the mean."""
    scores: pd.DataFrame
    """One row per predictor: `predictor`, `mean_km`, `median_km`, `edge_mean_km`, `edge_median_km`."""
    bands: pd.DataFrame
    """One row per band of true longitude: `low`, `high` (degrees), `rows`, and means `sphere_km` and
    `degrees_km`."""
    edge: float
    """Degrees from the date line within which a row counts as near it."""
    edge_rows: int
    """Test rows near the date line."""
    difference: Difference
    """Mean km of the sphere probe minus that of the latitude and longitude probe, all test rows."""
    edge_difference: Difference | None
    """The same near the date line; None without rows there."""
    predictions: pd.DataFrame
    """One row per test row: `source`, `true_lat`, `true_lon`, `pred_lat`, `pred_lon`, `km`, `degrees_km`,
    `length`, and the first block of the table."""
    block: str | None
    """The column of `predictions` that colours the map."""
    provenance: Mapping[str, Any]
    """Model, table, settings and versions."""

    @property
    def title(self) -> str:
        """Model and table."""
        return f"On the unit sphere: {self.model} on {self.table}"

    def summary(self) -> str:
        """Both probes' kilometres, everywhere and near the date line."""
        low, high = self.difference.ci95
        than = "nearer than" if high < 0 else "farther off than" if low > 0 else "no nearer than"
        lines = [
            f"the unit-sphere probe is {than} the latitude and longitude probe: mean error "
            f"{self.difference.first:,.0f} km against {self.difference.second:,.0f} km, "
            f"difference {self.difference.text} km",
            f"test R² x {self.r2['x']:z.3f}, y {self.r2['y']:z.3f}, z {self.r2['z']:z.3f} at {self.point}",
        ]
        if self.edge_difference is not None:
            lines.append(
                f"{self.edge_rows} test rows within {self.edge:g}° of the date line: "
                f"{self.edge_difference.first:,.0f} km against {self.edge_difference.second:,.0f} km, "
                f"difference {self.edge_difference.text} km"
            )
        return "\n".join(lines)

    def figures(self) -> dict[str, Figure]:
        """Error by longitude, and the map."""
        from graticule.probes.plots import map_figure

        ends = {"lat": "latitude", "lon": "longitude"}.items()
        names = {f"{what}_{short}": f"{what}_{name}" for what in ("true", "pred") for short, name in ends}
        rows = self.predictions.rename(columns=names)
        return {
            _CAPTION: longitude_figure(self.bands, self.edge),
            _CAPTION_MAP: map_figure(rows, "latitude", "longitude", self.block),
        }

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every predictor, and the bands of longitude."""
        near = f"within {self.edge:g}° of the date line"
        names = {
            "predictor": "predictor",
            "mean_km": "mean km",
            "median_km": "median km",
            "edge_mean_km": f"mean km {near}",
            "edge_median_km": f"median km {near}",
        }
        bands = self.bands.rename(
            columns={"low": "from °E", "high": "to °E", "sphere_km": "sphere km", "degrees_km": "lat/lon km"}
        )
        return {_CAPTION_TABLE: self.scores.rename(columns=names), _CAPTION_BANDS: bands}


@renamed(point="hook_name")
@door(findings=FINDINGS)
def sphere(
    findings: Findings, *, hook_name: PointKey | None = None, edge: float = 30.0, progress: bool | None = None
) -> Sphere:
    """A ridge to unit vectors at the chosen point (or `hook_name`), beside the probe of two angles.

    The three targets are `scores.geo.unit_sphere`; a prediction is the place its vector points to, whatever
    its length. Both probes see the same rows and choose their strengths out of fold; the difference of their
    mean great-circle errors has a paired cluster interval. The surface stack and the best constant place
    stand beside them.

    Args:
        findings: Findings with their inputs, as a sweep or `with_inputs` returns them.
        hook_name: The hook point at which both probes read.
        edge: degrees from the date line within which a row counts as near it.
        progress: whether a bar is drawn; by default where it takes long.

    Returns:
        Errors in km of both probes, of the surface and of the best constant place.

    Raises:
        ValueError: No inputs, or the targets are not one latitude and one longitude.
    """
    swept = findings.inputs
    columns = coordinate_columns(findings.units)
    if findings.kind != "numeric" or columns is None:
        raise NotApplicable(
            f"{findings.table} has units {findings.units}: a sphere needs one lat and one lon"
        )
    if not 0 < edge < 180:
        raise ValueError(f"edge={edge}: degrees from the date line, between 0 and 180")
    lat, lon = columns
    problem, where = swept.problem, findings.point_of(hook_name)
    train, test = problem.train, problem.test
    vectors = unit_sphere(problem.y[:, lat], problem.y[:, lon])
    with bar(1, "sphere", "probe", progress) as advance:
        fit = ridge_cv(
            swept.rows(where, train),
            vectors[train],
            alphas=swept.alphas,
            clusters=problem.clusters[train],
            names=AXES,
        )
        advance.update()
    guess = fit.predict(swept.rows(where, test))
    truth = problem.y[test][:, [lat, lon]]
    plain = findings.at(where).predictions
    mean = vectors[train].mean(axis=0)
    km = {
        "unit-sphere probe": _km(truth, to_degrees(guess)),
        "latitude and longitude probe": _km(truth, plain[:, [lat, lon]]),
        "surface stack": _km(truth, swept.surface().test[:, [lat, lon]]),
        "middle of the training places": _km(truth, to_degrees(np.tile(mean, (len(test), 1)))),
    }
    near = np.abs(np.abs(truth[:, 1]) - 180) <= edge
    sphere_km, degrees_km = km["unit-sphere probe"], km["latitude and longitude probe"]
    clusters, n_bootstrap, seed = problem.clusters[test], swept.n_bootstrap, swept.seed
    near_by: Difference | None = None
    if near.any():
        near_by = mean_difference(
            "mean km", sphere_km[near], degrees_km[near], clusters[near], n_bootstrap, seed
        )
    return Sphere(
        model=findings.model,
        table=findings.table,
        point=where,
        r2={axis: float(v) for axis, v in zip(AXES, r2(vectors[test], guess), strict=True)},
        validation=fit.score,
        alpha=fit.alpha,
        length=float(np.linalg.norm(guess, axis=1).mean()),
        scores=pd.DataFrame([_score(name, values, near) for name, values in km.items()]),
        bands=_bands(truth[:, 1], sphere_km, degrees_km),
        edge=edge,
        edge_rows=int(near.sum()),
        difference=mean_difference("mean km", sphere_km, degrees_km, clusters, n_bootstrap, seed),
        edge_difference=near_by,
        predictions=_predictions(findings, truth, guess, sphere_km, degrees_km),
        block=next(iter(findings.block_names), None),
        provenance=findings.provenance_of(point=where, edge=edge),
    )


def to_degrees(vectors: Float[np.ndarray, "row 3"]) -> Float[np.ndarray, "row 2"]:
    """Latitude and longitude that vectors of any length point to; the zero vector points to 0°N 0°E."""
    x, y, z = vectors.T
    return np.degrees(np.stack([np.arctan2(z, np.hypot(x, y)), np.arctan2(y, x)], axis=1))


def _predictions(
    findings: Findings, truth: np.ndarray, guess: np.ndarray, sphere_km: np.ndarray, degrees_km: np.ndarray
) -> pd.DataFrame:
    swept = findings.inputs
    source, places = swept.problem.source[swept.problem.test], to_degrees(guess)
    out = pd.DataFrame(
        {
            "source": swept.table.source_rows[source],
            "true_lat": truth[:, 0],
            "true_lon": truth[:, 1],
            "pred_lat": places[:, 0],
            "pred_lon": places[:, 1],
            "km": sphere_km,
            "degrees_km": degrees_km,
            "length": np.linalg.norm(guess, axis=1),
        }
    )
    for name in findings.block_names[:1]:
        out[name] = swept.table.blocks[name].to_numpy()[source]
    return out


def _km(truth: Float[np.ndarray, "row 2"], places: Float[np.ndarray, "row 2"]) -> Float[np.ndarray, " row"]:
    return haversine_km(truth[:, 0], truth[:, 1], places[:, 0], places[:, 1])


def _score(name: str, km: Float[np.ndarray, " row"], near: Bool[np.ndarray, " row"]) -> dict[str, Any]:
    there = km[near] if near.any() else np.array([np.nan])
    return {
        "predictor": name,
        "mean_km": float(km.mean()),
        "median_km": float(np.median(km)),
        "edge_mean_km": float(there.mean()),
        "edge_median_km": float(np.median(there)),
    }


def _bands(longitude: np.ndarray, sphere_km: np.ndarray, degrees_km: np.ndarray) -> pd.DataFrame:
    ends = np.linspace(-180, 180, _BANDS + 1)
    which = np.clip(np.digitize(longitude, ends) - 1, 0, _BANDS - 1)
    rows = [
        {
            "low": ends[b],
            "high": ends[b + 1],
            "rows": int((which == b).sum()),
            "sphere_km": float(sphere_km[which == b].mean()),
            "degrees_km": float(degrees_km[which == b].mean()),
        }
        for b in np.unique(which)
    ]
    return pd.DataFrame(rows)


def longitude_figure(bands: pd.DataFrame, edge: float) -> Figure:
    """Mean error of both probes in bands of true longitude, shaded within `edge` degrees of the date line."""
    need_columns(bands, "low", "high", "rows", "sphere_km", "degrees_km")
    middle = (bands["low"] + bands["high"]) / 2
    fig = new_figure()
    for low, high in ((-180.0, -180 + edge), (180 - edge, 180.0)):
        fig.add_vrect(x0=low, x1=high, fillcolor=FAINT, opacity=0.25, line_width=0, layer="below")
    hover = "%{x:.0f}°E, %{customdata} rows<br>%{y:,.0f} km<extra></extra>"
    for column, name, colour in (
        ("degrees_km", "latitude and longitude probe", SURFACE),
        ("sphere_km", "unit-sphere probe", ACCENT),
    ):
        more: dict[str, Any] = {"size": 5, "hover": hover, "customdata": bands["rows"]}
        fig.add_trace(line_trace(middle, bands[column], name, colour, **more))
    across = {"title_text": "true longitude (°E)", "range": [-180, 180], "dtick": 60, "showgrid": False}
    up = {"title_text": "mean error (km)", "rangemode": "tozero", "tickformat": ",.0f"}
    return style(fig, height=380, note=f"Shaded: within {edge:g}° of the date line.", x=across, y=up)
