"""What a small network reads that a line does not: MLP probes at every layer, beside the ridge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from graticule.hooks.doors import FINDINGS, door
from graticule.hooks.points import PointSpec, layer_of
from graticule.hooks.result import headed
from graticule.hooks.saved import SavedResult
from graticule.probes.compare import compare
from graticule.probes.core.findings import Findings
from graticule.probes.core.fit import Predictions
from graticule.probes.core.resample import Difference
from graticule.probes.core.verdict import Verdict
from graticule.probes.mlp import DECAYS, MLPFit, MLPJob, MLPSettings, fit_mlps
from graticule.probes.plots.primitives import dots_trace, line_trace, mark_trace, new_figure
from graticule.probes.plots.style import (
    ACCENT,
    BLOCKS,
    INK,
    SURFACE,
    depth_of,
    layer_axis,
    need_columns,
    style,
)
from graticule.probes.scores.metrics import mean_r2
from graticule.probes.tables.groups import group_folds

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_CAPTION = "MLP and ridge against depth; test scores of layers that were not chosen are exploratory"
_CAPTION_LOSS = "Validation loss of the chosen layer's MLPs while they train"
_CAPTION_TABLE = "MLP and ridge at every layer (test scores exploratory but for each one's chosen layer)"
_CAPTION_SEEDS = "Other seeds of initial weights and row order"
_HEADINGS = {
    "layer": "layer",
    "decay": "decay",
    "epoch": "best epoch",
    "validation": "MLP validation R²",
    "ridge_validation": "ridge validation R²",
    "test_r2": "MLP test R²",
    "ridge_test_r2": "ridge test R²",
}


@dataclass(frozen=True)
class MLPFindings(SavedResult):
    """MLP probes at every point, the nonlinearity gain, and the MLP's own verdict."""

    KIND: ClassVar[str] = "mlp"

    model: str
    table: str
    target_names: tuple[str, ...]
    """One name per target."""
    settings: MLPSettings
    """How they were trained."""
    layers: pd.DataFrame
    """One row per point and seed: `point`, `layer`, `seed`, `decay`, `epoch`, `validation` and `test_r2`
    (mean R² over targets), `exploratory`, and `ridge_validation`, `ridge_test_r2`."""
    chosen_point: str
    """The point whose MLP has the best validation score (first seed)."""
    ridge_point: str
    """The ridge's chosen point, where the nonlinearity gain is taken."""
    nonlinearity: Difference
    """R² of the MLP minus that of the ridge on test rows at `ridge_point`."""
    verdict: Verdict
    """The MLP at its chosen point in the probe's place: its gain over the same surface."""
    losses: Float[np.ndarray, "decay epoch"]
    """Validation loss at the chosen point after each epoch; NaN once a member has stopped."""
    test: Float[np.ndarray, "test target"]
    """Predictions of the test rows at `chosen_point`, in target units."""
    ridge_point_test: Float[np.ndarray, "test target"]
    """Predictions of the test rows at `ridge_point`."""
    provenance: Mapping[str, Any]
    """Model, table, settings and versions."""

    def asked(self) -> dict[str, Any]:
        """At which points it was trained."""
        return {"trained_at": list(map(str, pd.unique(self.layers["point"])))}

    @property
    def title(self) -> str:
        """Model and table."""
        return f"MLP probes: {self.model} on {self.table}"

    @property
    def decay(self) -> float:
        """The weight decay chosen at the chosen point."""
        return float(self._chosen["decay"])

    @property
    def _chosen(self) -> Any:
        return self.layers[self.layers["point"] == self.chosen_point].iloc[0]

    @property
    def _first_seed(self) -> pd.DataFrame:
        return self.layers[self.layers["seed"] == self.layers["seed"].iloc[0]]

    def summary(self) -> str:
        """The nonlinearity gain, then the MLP's verdict."""
        low, high = self.nonlinearity.ci95
        what = "reads more than" if low > 0 else "reads less than" if high < 0 else "is no different from"
        at = self._chosen
        lines = [
            f"the MLP {what} the ridge at {self.ridge_point}: R² {self.nonlinearity.first:z.3f} against "
            f"{self.nonlinearity.second:z.3f}, difference {self.nonlinearity.text}",
            f"MLP at {self.chosen_point} (chosen on validation rows, decay {at['decay']:g}, best epoch "
            f"{self._epoch(int(at['epoch']))}): test R² {at['test_r2']:z.3f}",
            f"in the probe's place: {self.verdict.summary().splitlines()[0]}",
            "(that gain is of surface and MLP together over the surface: a weaker probe can gain more; "
            "it is judged on the ridge's own test rows, and is no independent look)",
        ]
        seeds = self.layers[self.layers["point"] == self.chosen_point]["test_r2"]
        if len(seeds) > 1:
            lines.append(f"over {len(seeds)} seeds there: test R² {seeds.min():z.3f} to {seeds.max():z.3f}")
        return "\n".join(lines)

    def _epoch(self, best: int) -> str:
        """The best epoch of those there were, and whether training ended at the limit."""
        last = self.settings.epochs
        return f"{best} of {last}" + (
            ": training stopped at the limit, epochs= goes on" if best == last else ""
        )

    def figures(self) -> dict[str, Figure]:
        """Scores against depth, and the validation losses of the chosen layer."""
        return {
            _CAPTION: mlp_depth_figure(self._first_seed, self.chosen_point, self.ridge_point),
            _CAPTION_LOSS: loss_figure(self.losses, self.settings.decays),
        }

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every layer, and every seed where there are several."""
        first = headed(self._first_seed, _HEADINGS)
        first["MLP − ridge"] = first["MLP test R²"] - first["ridge test R²"]
        if len(first) == len(self.layers):
            return {_CAPTION_TABLE: first}
        return {
            _CAPTION_TABLE: first,
            _CAPTION_SEEDS: self.layers[["layer", "seed", "validation", "test_r2"]],
        }


@door(findings=FINDINGS)
def mlp(
    findings: Findings,
    *,
    points: PointSpec | None = None,
    hidden: int = 256,
    decays: Sequence[float] = DECAYS,
    seeds: int = 1,
    epochs: int = 20,
    patience: int = 3,
    batch: int = 512,
    learning_rate: float = 1e-3,
    scale: Literal["point", "none"] = "point",
    dtype: Literal["float32", "bfloat16"] = "float32",
    folds: int = 5,
    seed: int = 0,
    device: torch.device | str = "cpu",
    at_once: int | None = None,
    progress: bool | None = None,
) -> MLPFindings:
    """MLP probes (Gurnee & Tegmark table 2) at every point of `findings`, or at `points`.

    A tenth of the training rows (whole clusters) stops the training and chooses decay and point; test rows
    are scored once. The **nonlinearity gain** is the MLP's test R² minus the ridge's at the *ridge's* chosen
    point, with a paired cluster interval. For the MLP's **verdict** it is cross-fitted in `folds` of whole
    clusters at its chosen point and decay, and stands in the probe's place against the same surface.

    Args:
        findings: with their inputs.
        points: where to fit; all points of the findings by default, and always their chosen one.
        hidden: units.
        decays: weight decays to choose from.
        seeds: fits everything again with other initial weights and row order (`seed`, `seed` + 1, …); the
            first seed chooses.
        epochs: at most.
        patience: epochs without a better score on the stopping rows.
        batch: rows of a step.
        learning_rate: of Adam.
        scale: `"point"` divides by the spread of each point's activations, `"none"` leaves them as they are.
        dtype: `bfloat16` does the products in bfloat16, faster where the processor has it.
        folds: of the verdict.
        seed: the first.
        device: where it is trained.
        at_once: networks trained side by side; by default as many as fit.
        progress: whether a bar is drawn; by default where it takes long.

    Returns:
        Scores at every point beside the ridge's, the nonlinearity gain and the MLP's verdict.

    Raises:
        ValueError: No inputs, or as `fit_mlps` does.
        KeyError: A point was not swept.
    """
    swept = findings.inputs
    settings = MLPSettings(
        hidden=hidden,
        decays=tuple(decays),
        learning_rate=learning_rate,
        batch=batch,
        epochs=epochs,
        patience=patience,
        scale=scale,
        dtype=dtype,
    )
    wanted = findings.points_of(points)
    if findings.chosen_point not in wanted:
        wanted.append(findings.chosen_point)
    problem = swept.problem
    jobs = [MLPJob(p, problem.train, seed + s) for p in wanted for s in range(seeds)]
    fit = partial(
        fit_mlps,
        swept.activations.__getitem__,
        problem.y,
        problem.clusters,
        names=problem.names,
        device=device,
        at_once=at_once,
        progress=progress,
    )
    fits = fit(jobs, settings)
    tests = {(f.point, f.seed): f.predict(swept.rows(f.point, problem.test)) for f in fits}
    firsts = [f for f in fits if f.seed == seed]
    best = max(firsts, key=lambda f: f.score)
    folded = group_folds(problem.clusters[problem.train], folds, seed)
    jobs = [MLPJob(best.point, problem.train[folded != k], seed) for k in range(int(folded.max()) + 1)]
    out_of_fold = np.empty((len(problem.train), problem.y.shape[1]))
    for k, one in enumerate(fit(jobs, replace(settings, decays=(best.decay,)))):
        out_of_fold[folded == k] = one.predict(swept.rows(best.point, problem.train[folded == k]))
    ridge_point = findings.chosen_point
    test, at_ridge = tests[best.point, seed], tests[ridge_point, seed]
    return MLPFindings(
        model=findings.model,
        table=findings.table,
        target_names=findings.target_names,
        settings=settings,
        layers=_layers(findings, fits, tests, best.point, seed),
        chosen_point=best.point,
        ridge_point=ridge_point,
        nonlinearity=_against_ridge(findings, at_ridge),
        verdict=swept.judge(Predictions(out_of_fold, test)),
        losses=best.losses,
        test=test,
        ridge_point_test=at_ridge,
        provenance=findings.provenance_of(**asdict(settings), seeds=seeds, seed=seed, folds=folds),
    )


def _against_ridge(findings: Findings, test: np.ndarray) -> Difference:
    swept = findings.inputs
    both = swept.predicted(f"MLP at {findings.chosen_point}", test), findings.at()
    pair = compare(*both, n_bootstrap=swept.n_bootstrap, seed=swept.seed)
    return Difference("R²", pair.score_a, pair.score_b, pair.difference, pair.ci95)


def _layers(
    findings: Findings,
    fits: Sequence[MLPFit],
    tests: Mapping[tuple[str, int], np.ndarray],
    chosen: str,
    first: int,
) -> pd.DataFrame:
    problem = findings.inputs.problem
    ridge = findings.layers.set_index("point")
    y = problem.y[problem.test]
    return pd.DataFrame(
        [
            {
                "point": f.point,
                "layer": layer_of(f.point),
                "seed": f.seed,
                "decay": f.decay,
                "epoch": f.epoch,
                "validation": f.score,
                "test_r2": mean_r2(y, tests[f.point, f.seed]),
                "exploratory": not (f.point == chosen and f.seed == first),
                "ridge_validation": ridge.loc[f.point, "validation"],
                "ridge_test_r2": ridge.loc[f.point, "test_r2"],
            }
            for f in fits
        ]
    )


# Figures ---------------------------------------------------------------------------------------------
def mlp_depth_figure(layers: pd.DataFrame, mlp_point: str, ridge_point: str) -> Figure:
    """Validation scores of MLP and ridge against depth, each one's test score at its chosen layer marked."""
    need_columns(layers, "point", "layer", "validation", "test_r2", "ridge_validation", "ridge_test_r2")
    x = depth_of(layers)
    fig = new_figure()
    kinds = (("MLP", "", mlp_point, ACCENT), ("ridge", "ridge_", ridge_point, SURFACE))
    for name, prefix, chosen, colour in kinds:
        at, test = layers["point"] == chosen, layers[f"{prefix}test_r2"]
        fig.add_trace(line_trace(x, layers[f"{prefix}validation"], f"{name}, validation", colour, size=5))
        look, label = {"line": {"color": colour, "width": 1.2}}, f"{name}, test (exploratory)"
        fig.add_trace(dots_trace(x[~at], test[~at], label, "white", 7, look=look))
        label = f"{name}, test at its chosen layer: {float(test[at].iloc[0]):z.3f}"
        fig.add_trace(mark_trace(x[at], test[at], label, colour, 13))
    style(fig, height=440, x={"showgrid": False}, y="R² (mean over targets)")
    layer_axis(fig, layers["layer"])
    return fig


def loss_figure(losses: Float[np.ndarray, "decay epoch"], decays: Sequence[float]) -> Figure:
    """Validation loss after each epoch, a line per weight decay, the best epoch marked."""
    fig = new_figure()
    for i, (decay, values) in enumerate(zip(decays, losses, strict=True)):
        trained = np.flatnonzero(~np.isnan(values))
        name, colour = f"weight decay {decay:g}", BLOCKS[i % len(BLOCKS)]
        fig.add_trace(line_trace(trained + 1, values[trained], name, colour, size=5))
        if len(trained):
            best, look = int(np.nanargmin(values)), {"symbol": "circle-open", "line": {"width": 2}}
            fig.add_trace(
                dots_trace([best + 1], [values[best]], "kept", INK, 13, look=look, showlegend=i == 0)
            )
    across = {"title_text": "epoch", "showgrid": False}
    return style(fig, height=360, x=across, y="validation loss (variances of the target)")
