"""The space-and-time paper's own scoring, bugs included, so that its published tables can be compared.

Off everywhere by default, and named `paper_compat` wherever it appears. Gurnee & Tegmark (2310.02207)

- read longitude as latitude wherever a distance on the globe is taken (targets are (lon, lat), their
  haversine takes (lat, lon)), which distorts Tables 3 and 4: where longitudes lie about −90, that is a pole;
- count a prediction as closer only if it is strictly so, without a share for ties: a constant scores 0.

Use it to compare with the paper, never to say how good a probe is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.hooks.artifact import library_versions
from graticule.hooks.messages import NotApplicable
from graticule.hooks.saved import SavedResult
from graticule.probes.core.inputs import Predicted
from graticule.probes.scores.geo import (
    haversine_km,
    proximity_counts,
    proximity_counts_1d,
    proximity_error,
    proximity_error_1d,
)
from graticule.probes.scores.metrics import coordinate_columns

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PAPER_ALPHAS: Mapping[str, float] = {"7B": 3000.0, "13B": 6000.0, "70B": 18000.0}
"""Ridge strengths that the paper fixed for its hold-outs, by size of Llama-2; for `holdouts(alpha=…)`.

They suit those models' activations: on others of another scale they shrink nothing, or everything."""


def compat_proximity_error(
    true: Float[np.ndarray, "row axis"],
    pred: Float[np.ndarray, "row axis"],
    among: Float[np.ndarray, "other axis"] | None = None,
) -> Float[np.ndarray, " row"]:
    """Proximity error as the paper's code has it; axes are latitude, longitude (read swapped), or one time.

    **Raises** ValueError as `proximity_error`.
    """
    n = len(pred if among is None else among)
    if true.shape[1] == 1:
        others = None if among is None else among[:, 0]
        return proximity_counts_1d(true[:, 0], pred[:, 0], others)[0] / n
    swapped = [None if a is None else np.ascontiguousarray(a[:, ::-1]) for a in (true, pred, among)]
    assert swapped[0] is not None and swapped[1] is not None
    return proximity_counts(swapped[0], swapped[1], swapped[2])[0] / n


@dataclass(frozen=True)
class PaperCompat(SavedResult):
    """The result of `score_paper_compat`."""

    KIND: ClassVar[str] = "paper_compat"

    name: str
    """The predictor."""
    rows: int
    """Test rows."""
    scores: pd.DataFrame
    """A line a score: `score`, `graticule`, `paper_compat`."""
    provenance: Mapping[str, Any]
    """Versions."""

    @property
    def title(self) -> str:
        """What was scored."""
        return f"{self.name}: scored as the paper's code does (paper_compat)"

    def summary(self) -> str:
        """Every score both ways."""
        lines = [
            "paper_compat: longitude read as latitude, ties not counted; for comparison with the paper only"
        ]
        for line in self.scores.to_dict("records"):
            lines.append(f"{line['score']}: {line['paper_compat']:.4g} (rightly {line['graticule']:.4g})")
        return "\n".join(lines)

    def figures(self) -> dict[str, Figure]:
        """None."""
        return {}

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every score both ways."""
        renamed = self.scores.rename(
            columns={"graticule": "as it should be", "paper_compat": "as in the paper"}
        )
        return {"paper_compat: the paper's own scoring beside the right one, test rows": renamed}


def score_paper_compat(predicted: Predicted) -> PaperCompat:
    """Scores of some predictions of test rows (`findings.at()`) as the paper's tables have them.

    **Raises** ValueError unless the target is a pair of coordinates or one number.
    """
    columns = coordinate_columns(predicted.units)
    y, pred = predicted.y, predicted.predictions
    if columns is None and y.shape[1] != 1:
        raise NotApplicable(
            f"paper_compat scores coordinates or one number; units are {predicted.units} for "
            f"{', '.join(predicted.target_names)}"
        )
    lines: list[dict[str, Any]] = []
    if columns is None:
        right = proximity_error_1d(y[:, 0], pred[:, 0])
        theirs = compat_proximity_error(y, pred)
    else:
        order = list(columns)
        y, pred = np.ascontiguousarray(y[:, order]), np.ascontiguousarray(pred[:, order])
        right, theirs = proximity_error(y, pred), compat_proximity_error(y, pred)
        km = haversine_km(y[:, 0], y[:, 1], pred[:, 0], pred[:, 1])
        swapped = haversine_km(y[:, 1], y[:, 0], pred[:, 1], pred[:, 0])
        centre = np.broadcast_to(y.mean(axis=0), y.shape)
        spread = haversine_km(y[:, 0], y[:, 1], centre[:, 0], centre[:, 1])
        swapped_spread = haversine_km(y[:, 1], y[:, 0], centre[:, 1], centre[:, 0])
        for name, a, b in (
            ("haversine MAE (km)", km.mean(), swapped.mean()),
            ("haversine RMSE (km)", (km**2).mean() ** 0.5, (swapped**2).mean() ** 0.5),
            ("haversine R²", 1 - (km**2).sum() / (spread**2).sum(),
             1 - (swapped**2).sum() / (swapped_spread**2).sum()),
        ):  # fmt: skip
            lines.append({"score": name, "graticule": float(a), "paper_compat": float(b)})
    first = {"score": "proximity error", "graticule": right.mean(), "paper_compat": theirs.mean()}
    return PaperCompat(
        predicted.name, len(y), pd.DataFrame([first, *lines]), {"versions": library_versions()}
    )
