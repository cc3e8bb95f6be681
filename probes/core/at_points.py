"""What findings say at each hook point: the probe there, and what it predicts of every row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from graticule.hooks.calls import renamed
from graticule.hooks.points import PointError, PointSpec, layer_of, name_of, resolve_names, several
from graticule.hooks.rows import PointKey
from graticule.probes.core.fit import Predictions, Problem, fit_points
from graticule.probes.core.inputs import Predicted, SweepInputs, predicted_rows
from graticule.probes.core.reread import target_values
from graticule.probes.core.verdict import Verdict
from graticule.probes.linear.ridge import RidgeProbe


class AtPoints:
    """The probes of `Findings`, which has these fields and explains them, by hook point."""

    table: str
    target_names: tuple[str, ...]
    units: tuple[str | None, ...]
    chosen_point: str
    predictions: pd.DataFrame
    verdict: Verdict
    probes: Mapping[str, RidgeProbe]
    point_predictions: Mapping[str, Predictions]
    swept: SweepInputs | None

    if TYPE_CHECKING:

        @property
        def inputs(self) -> SweepInputs: ...
        @property
        def problem(self) -> Problem: ...

    @property
    def chosen_layer(self) -> int | None:
        """The block of the chosen point; None outside the blocks."""
        return layer_of(self.chosen_point)

    @property
    def chosen_hook_name(self) -> str:
        """The full name of the hook point that was chosen on training rows."""
        return self.chosen_point

    @property
    def probe(self) -> RidgeProbe:
        """The probe at the chosen point."""
        return self.probes[self.chosen_point]

    @renamed(point="hook_name")
    def at(self, hook_name: PointKey | None = None) -> Predicted:
        """The probe of a point on the test rows, for `compare`; no activations are needed.

        Args:
            hook_name: by default the chosen one. A baseline's name, `"tfidf"`, is its predictions, where the
                findings have their inputs.

        Raises:
            PointError: There is no probe at `hook_name`.
            ValueError: These findings were saved before they held predictions, and lack their inputs.
        """
        baselines = {} if self.swept is None else self.swept.baseline_predictions
        if isinstance(hook_name, str) and hook_name in baselines and hook_name not in self.probes:
            own = baselines[hook_name]
            folds = own.out_of_fold if self.verdict.metric == "bits" else None
            return predicted_rows(hook_name, self.problem, self.units, own.test, folds)
        point = self.point_of(hook_name)
        if point in self.point_predictions or (self.swept is None and point == self.chosen_point):
            own = self.predictions_at(point)
            test, folds = own.test, own.out_of_fold if self.verdict.metric == "bits" else None
        else:
            test, folds = self.probes[point].predict(self.inputs.rows(point, self.problem.test)), None
        return predicted_rows(f"ridge at {point}", self.problem, self.units, test, folds)

    def predictions_at(self, hook_name: PointKey | None = None) -> Predictions:
        """What the probe of a point says of every row without having seen it.

        Findings that were saved before they held it are fitted again at the probe's own strength, but at the
        chosen point.

        Args:
            hook_name: by default the chosen one.

        Raises:
            KeyError: `hook_name` was not swept.
            ValueError: It has to be fitted again, and these findings lack their inputs.
        """
        point = self.point_of(hook_name)
        if point in self.point_predictions:
            return self.point_predictions[point]
        if point == self.chosen_point:
            problem, values = self.problem, target_values(self.predictions, self.target_names, "pred")
            return Predictions(values[problem.train], values[problem.test])
        one = self.inputs.activations.select(points=point)
        (fit,) = fit_points(one, self.problem, alphas=[self.probes[point].alpha], progress=False)
        return fit.predictions

    @renamed(point="hook_name")
    def point_of(self, hook_name: PointKey | None) -> str:
        """The full name of a point that has a probe.

        Args:
            hook_name: a full name, or `("resid_post", 3)`; None is the chosen one.

        Raises:
            PointError: It was not swept.
        """
        name = self.chosen_point if hook_name is None else name_of(hook_name)
        if name not in self.probes:
            raise PointError(
                f"no probe at {name!r}; there are probes at {', '.join(self.probes)}: it was not swept for "
                f"{self.table}"
            )
        return name

    def points_of(self, points: PointSpec | None) -> list[str]:
        """The full names of points that have a probe, each once.

        Args:
            points: one or several, as `capture` takes them: `"resid_post"` is every layer's; None is all.

        Raises:
            PointError: One of them was not swept.
        """
        if points is None:
            return list(self.probes)
        names: list[str] = []
        for point in several(points):
            short = isinstance(point, str) and point not in self.probes
            try:
                names += resolve_names(list(self.probes), point) if short else [self.point_of(point)]
            except PointError:
                self.point_of(point)
                raise
        if not names:
            raise PointError("points=[] selects nothing; leave points out for all of them")
        return list(dict.fromkeys(names))
