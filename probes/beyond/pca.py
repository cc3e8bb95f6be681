"""How many principal components a probe needs: score against k."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from graticule.hooks.calls import renamed
from graticule.hooks.doors import FINDINGS, door
from graticule.hooks.messages import UnknownNameError, bar
from graticule.hooks.result import headed
from graticule.hooks.rows import PointKey
from graticule.hooks.saved import SavedResult
from graticule.probes.core.findings import Findings
from graticule.probes.core.resample import cluster_sums, interval, resampled_r2
from graticule.probes.linear.moments import Axes
from graticule.probes.linear.ridge_cv import RidgeFit, ridge_cv
from graticule.probes.plots.primitives import band_traces, line_trace, mark_trace, new_figure
from graticule.probes.plots.style import ACCENT, BLOCKS, INK, MUTED, log_axis, need_columns, style
from graticule.probes.scores.metrics import mean, mean_r2, r2, spearman

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

KS = (2, 4, 6, 8, 10, 15, 20, 30, 40, 50, 75, 100)
"""Numbers of components of Gurnee & Tegmark's figure 4; the full width is added."""

_CAPTION = "R² of the ridge on the first k principal components (fitted on training rows)"
_CAPTION_RHO = "Spearman correlation on the first k principal components"
_CAPTION_TABLE = "Score against the number of principal components"
_HEADINGS = {
    "k": "components",
    "explained": "variance held",
    "alpha": "alpha",
    "validation": "validation R²",
    "test_r2": "test R²",
    "low": "from",
    "high": "to",
    "spearman": "test Spearman",
}
_TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


@dataclass(frozen=True)
class PCAFit:
    """A ridge on the first `k` components."""

    k: int
    """How many."""
    fit: RidgeFit
    """In component coordinates, its strength chosen out of fold."""
    test: Float[np.ndarray, "test target"]
    """Predictions of the test rows, in target units."""


def components(X: Float[np.ndarray, "row width"]) -> Axes:
    """Components of `X` with variance in them: at most the smaller of rows − 1 and width.

    Raises:
        ValueError: No coordinate varies.
    """
    axes = Axes.of(X)
    if not len(axes.squares):
        raise ValueError("the activations are the same in every training row: there are no components")
    return axes


def pca_ridges(
    scores: Float[np.ndarray, "train component"],
    y: Float[np.ndarray, "train target"],
    test: Float[np.ndarray, "test component"],
    ks: Sequence[int],
    *,
    alphas: Sequence[float] | None = None,
    clusters: Int[np.ndarray, " train"] | None = None,
    names: Sequence[str] = (),
) -> list[PCAFit]:
    """A ridge on the first k columns of `scores` for every k, each with its own strength.

    The components have seen the rows that the out-of-fold error holds out, though not their targets.

    Raises:
        ValueError: A k below 1 or beyond the components, or as `ridge_cv` does.
    """
    done: list[PCAFit] = []
    for k in ks:
        if not 1 <= k <= scores.shape[1]:
            raise ValueError(f"k={k}: there are {scores.shape[1]} components")
        fit = ridge_cv(scores[:, :k], y, alphas=alphas, clusters=clusters, names=names)
        done.append(PCAFit(k, fit, fit.predict(test[:, :k])))
    return done


@dataclass(frozen=True)
class PCACurve(SavedResult):
    """Scores of ridges on the first k principal components of one point's activations."""

    KIND: ClassVar[str] = "pca"

    model: str
    table: str
    target_names: tuple[str, ...]
    """One name per target."""
    point: str
    """Where the activations come from."""
    curve: pd.DataFrame
    """One row per k: `k`, `explained` (share of the training rows' variance), `alpha`, `validation` (out-of-
    fold R² on training rows), `test_r2` with `low` and `high` (95%, clusters), `spearman`, and `r2_TARGET`,
    `spearman_TARGET` where there are several."""
    share: float
    """The share of the full score that is asked for."""
    needed: int | None
    """The smallest k that has `share` of the full width's out-of-fold score; None if that is not above 0."""
    provenance: Mapping[str, Any]
    """Model, table, settings and versions."""

    @property
    def title(self) -> str:
        """Model and table."""
        return f"Principal components: {self.model} on {self.table}"

    @property
    def full(self) -> Any:
        """The last row of the curve: all components."""
        return self.curve.iloc[-1]

    def at(self, k: int) -> Any:
        """The row of one k. Raises `KeyError` if it was not tried."""
        rows = self.curve[self.curve["k"] == k]
        if rows.empty:
            raise UnknownNameError(f"k={k} was not tried; the curve holds {list(self.curve['k'])}")
        return rows.iloc[0]

    def summary(self) -> str:
        """The k needed, its test score, and what it leaves out."""
        full = self.full
        if self.needed is None:
            return f"no number of components predicts anything: full validation R² {full['validation']:z.3f}"
        line = self.at(self.needed)
        return "\n".join(
            (
                f"{self.needed} of {int(full['k'])} principal components give {self.share:.0%} of the full "
                "score (chosen out of fold on training rows)",
                f"their test R² {line['test_r2']:z.3f} [{line['low']:z.3f}, {line['high']:z.3f}] against "
                f"{full['test_r2']:z.3f} of all; they hold {line['explained']:.1%} of the variance",
                f"at {self.point}",
            )
        )

    def figures(self) -> dict[str, Figure]:
        """R² and Spearman against k, log axis, the full width dashed."""
        names = self.target_names if len(self.target_names) in (2, 3) else ()
        return {
            _CAPTION: pca_figure(self.curve, "r2", names, self.needed),
            _CAPTION_RHO: pca_figure(self.curve, "spearman", names, self.needed),
        }

    def tables(self) -> dict[str, pd.DataFrame]:
        """The curve."""
        return {_CAPTION_TABLE: headed(self.curve, _HEADINGS)}


@renamed(point="hook_name")
@door(findings=FINDINGS)
def pca(
    findings: Findings,
    *,
    hook_name: PointKey | None = None,
    ks: int | Sequence[int] = KS,
    share: float = 0.9,
    progress: bool | None = None,
) -> PCACurve:
    """Ridges on the first k principal components at the chosen point, or at `hook_name`.

    Gurnee & Tegmark figures 4 and 13, with components fitted on training rows only and a strength for every
    k chosen out of fold. `share` of the full out-of-fold score decides how many components are needed, so
    that test rows choose nothing.

    Args:
        findings: Findings with their inputs, as a sweep or `with_inputs` returns them.
        hook_name: where the activations come from; the chosen point by default.
        ks: numbers of components; all of them are added.
        share: the share of the full score that is asked for.
        progress: whether a bar is drawn; by default where it takes long.

    Returns:
        The score of every k, and the k needed.

    Raises:
        ValueError: No inputs, a share outside (0, 1], or a k below 1.
    """
    swept = findings.inputs
    if not 0 < share <= 1:
        raise ValueError(f"share={share}: above 0, at most 1")
    ks = (ks,) if isinstance(ks, int) else tuple(ks)
    if min(ks, default=0) < 1:
        raise ValueError(f"ks={ks}: numbers of components, at least 1")
    where = findings.point_of(hook_name)
    problem = swept.problem
    X = swept.rows(where, problem.train)
    axes = components(X)
    most = axes.vectors.shape[1]
    tried = sorted({k for k in ks if k < most} | {most})
    with bar(1, "components", "fit", progress) as advance:
        fits = pca_ridges(
            axes.scores(X),
            problem.y[problem.train],
            axes.scores(swept.rows(where, problem.test)),
            tried,
            alphas=swept.alphas,
            clusters=problem.clusters[problem.train],
            names=problem.names,
        )
        advance.update()
    full = fits[-1].fit.score
    enough = [f.k for f in fits if f.fit.score >= share * full]
    return PCACurve(
        model=findings.model,
        table=findings.table,
        target_names=findings.target_names,
        point=where,
        curve=_curve(findings, fits, axes),
        share=share,
        needed=enough[0] if full > 0 else None,
        provenance=findings.provenance_of(point=where, ks=tuple(tried), share=share),
    )


def _curve(findings: Findings, fits: Sequence[PCAFit], axes: Axes) -> pd.DataFrame:
    swept = findings.inputs
    problem = swept.problem
    y = problem.y[problem.test]
    sums = cluster_sums(y, {str(f.k): f.test for f in fits}, problem.clusters[problem.test])
    drawn = resampled_r2(sums, swept.n_bootstrap, swept.seed)
    rows: list[dict[str, Any]] = []
    for fit, draws in zip(fits, drawn.T, strict=True):
        by_target, rho = r2(y, fit.test), spearman(y, fit.test)
        low, high = interval(np.ascontiguousarray(draws))
        row: dict[str, Any] = {
            "k": fit.k,
            "explained": float(axes.explained[fit.k - 1]),
            "alpha": fit.fit.alpha,
            "validation": fit.fit.score,
            "test_r2": mean_r2(y, fit.test),
            "low": low,
            "high": high,
            "spearman": mean(rho),
        }
        for name, one, other in zip(findings.target_names, by_target, rho, strict=True):
            row |= {f"r2_{name}": float(one), f"spearman_{name}": float(other)}
        rows.append(row)
    return pd.DataFrame(rows)


def pca_figure(
    curve: pd.DataFrame, score: str, targets: Sequence[str] = (), needed: int | None = None
) -> Figure:
    """A score against the number of components on a log axis, with all components as a dashed line.

    Args:
        curve: as `PCACurve.curve`, ascending.
        score: `r2` or `spearman`.
        targets: drawn as thinner lines.
        needed: the k to mark.
    """
    column = "test_r2" if score == "r2" else "spearman"
    need_columns(curve, "k", column)
    k = curve["k"]
    fig = new_figure()
    for name, colour in zip(targets, BLOCKS, strict=False):
        fig.add_trace(line_trace(k, curve[f"{score}_{name}"], f"{name}, test", colour, 1.5))
    if score == "r2":
        fig.add_traces(band_traces(k, curve["low"], curve["high"], "95% interval", "rgba(28,39,51,.12)"))
        name = "validation (train, out of fold)"
        fig.add_trace(line_trace(k, curve["validation"], name, MUTED, 1.5, dash="dot"))
    fig.add_trace(line_trace(k, curve[column], "test", INK, size=5))
    full, ends = float(curve[column].iloc[-1]), [float(k.iloc[0]), float(k.iloc[-1])]
    name = f"all {int(ends[1])} components: {full:z.3f}"
    fig.add_trace(line_trace(ends, [full, full], name, ACCENT, 1.5, dash="dash"))
    if needed is not None:
        at = curve[k == needed]
        fig.add_trace(mark_trace(at["k"], at[column], f"needed: {needed} (validation)"))
    most = int(k.max())
    ticks = sorted({tick for tick in _TICKS if k.min() <= tick <= 0.75 * most} | {most})
    across = log_axis(ticks, "principal components (log scale)", showgrid=False, tickangle=0)
    what = "R²" if score == "r2" else "Spearman ρ"
    return style(fig, height=420, x=across, y=f"{what} (mean over targets)")
