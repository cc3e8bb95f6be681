"""Two predictors, or the verdicts of several findings, compared: paired differences, adjusted p-values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from graticule.hooks.artifact import library_versions
from graticule.hooks.calls import renamed, renamed_fields
from graticule.hooks.doors import COMPARED, door
from graticule.hooks.messages import bar
from graticule.hooks.result import contents_digest
from graticule.hooks.saved import SavedResult
from graticule.probes.core.bits import row_gains
from graticule.probes.core.findings import Findings
from graticule.probes.core.fit import Predictions, with_and_without
from graticule.probes.core.inputs import Predicted
from graticule.probes.core.intervals import Estimates, mean_of, mean_r2_estimate, r2_estimates, ratio
from graticule.probes.core.resample import ClusterSums, cluster_sums, resampled_r2, resampled_sums
from graticule.probes.core.verdict import score_unit
from graticule.probes.plots.primitives import dots_trace, level, new_figure
from graticule.probes.plots.style import FAINT, INK, error_bars, need_columns, short_labels, style
from graticule.probes.scores.metrics import count_of, mean, r2, with_interval
from graticule.probes.scores.significance import adjusted_table, holm, score_difference

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


FIRST, SECOND, NEITHER = "the first is better", "the second is better", "no difference seen"


@renamed_fields(words="label")
@dataclass(frozen=True)
class Comparison(SavedResult):
    """The result of `graticule.compare`."""

    KIND: ClassVar[str] = "comparison"

    a: str
    """The first predictor."""
    b: str
    """The second predictor."""
    score_a: float
    """Test score of the first: R², mean over targets, or bits a row."""
    score_b: float
    """Test score of the second."""
    difference: float
    """`score_a − score_b`."""
    ci95: tuple[float, float]
    """Of the difference on the same rows, over clusters of them with both fits held fixed."""
    p: float
    """Two-sided, that there is no difference."""
    label: str = field(metadata={"saved_as": "words"})
    """The answer: the interval decides."""
    by_target: pd.DataFrame
    """One row per target: `target`, `a`, `b`, `difference`, `low`, `high`, `p`, `p_holm`."""
    rows: int
    """Test rows."""
    clusters: int
    """Clusters of dependent rows among them."""
    provenance: Mapping[str, Any]
    """Draws, seed and versions."""
    metric: str = "r2"
    """What scores are in: `r2`, or `bits` where both are of classes judged in bits."""

    @property
    def title(self) -> str:
        """Both names."""
        return f"{self.a} against {self.b}"

    def summary(self) -> str:
        """Which is better and by how much."""
        low, high = self.ci95
        why = count_of(self.rows, "test row")
        difference = f"{self.difference:+z.3f}, 95% interval {low:+z.3f} to {high:+z.3f}, p {self.p:.3g}"
        if np.isnan([self.difference, low, high]).any():
            difference = with_interval(self.difference, self.ci95, why)
        lines = [
            f"{self.label}: {score_unit(self.metric)} {difference}",
            f"{self.a}: {self.score_a:z.3f}; {self.b}: {self.score_b:z.3f}",
            f"{self.rows} test rows in {self.clusters} clusters",
        ]
        if len(self.by_target) > 1:
            rows: Any = self.by_target.head(6).itertuples()
            for row in rows:
                lines.append(
                    f"{row.target}: {with_interval(row.difference, (row.low, row.high), why)}"
                    + ("" if row.p != row.p else f", p {row.p:.3g} ({row.p_holm:.3g} adjusted)")
                )
        return "\n".join(lines)

    def figures(self) -> dict[str, Figure]:
        """The difference of every target, and of their mean."""
        whole = {"target": "mean", "difference": self.difference, "low": self.ci95[0], "high": self.ci95[1]}
        lines = self.by_target if len(self.by_target) > 1 else self.by_target.head(0)
        drawn = pd.concat([lines[list(whole)], pd.DataFrame([whole])], ignore_index=True)
        unit = score_unit(self.metric)
        caption = f"Difference of {unit} on the same test rows, 95% intervals"
        return {caption: difference_figure(drawn, unit)}

    def tables(self) -> dict[str, pd.DataFrame]:
        """By target."""
        unit = score_unit(self.metric)
        names = {"a": f"{unit}, first", "b": f"{unit}, second", "low": "95% from", "high": "95% to"}
        table = self.by_target.rename(columns={**names, "p_holm": "p, adjusted (Holm)"})
        return {"By target": table}


@renamed(draws="n_bootstrap")
@door(a=COMPARED, b=COMPARED)
def compare(
    a: Predicted | Findings,
    b: Predicted | Findings,
    *,
    n_bootstrap: int = 2000,
    seed: int = 0,
    progress: bool | None = None,
) -> Comparison:
    """Does `a` predict the test rows better than `b`? Layers, prompts, models, checkpoints, baselines.

    Both are scored on the same rows (paired), with their fits held fixed: the answer is about these fitted
    predictors on new rows, and its interval is that of a verdict. Rows are clustered together that either of
    the two clusters. `Findings` stand for the probe at their chosen point; other points are
    `findings.at(point)`, baselines `findings.at("tfidf")`. Classes whose findings are judged in bits are
    compared in bits, on all rows and on those of each class. The p-value inverts the interval; targets are
    adjusted after Holm.

    Args:
        a: Findings, or one predictor of them.
        b: What it is compared with, likewise.
        n_bootstrap: Recorded; the intervals need no resamples.
        seed: Recorded.
        progress: whether a bar is drawn; by default where it takes long.

    Raises:
        ValueError: Targets, test rows or true values differ, naming how.
    """
    first, second = _predicted(a), _predicted(b)
    order = _aligned(first, second)
    clusters = _linked(first.clusters, second.clusters[order])
    with bar(1, "comparing", "interval", progress) as advance:
        scores, whole, each = _scored(first, second, order, clusters)
        advance.update()
    apart = score_difference(*scores)
    ci95 = whole.ci95
    table = pd.DataFrame(
        {
            "target": list(first.target_names),
            "a": scores[0],
            "b": scores[1],
            "difference": apart,
            "low": each.low,
            "high": each.high,
            "p": each.p(),
        }
    )
    ours, theirs = mean(scores[0]), mean(scores[1])
    metric = "r2"
    if first.bits is not None and second.bits is not None:
        ours, theirs, metric = float(first.bits.mean()), float(second.bits.mean()), "bits"
    return Comparison(
        a=first.name,
        b=second.name,
        score_a=ours,
        score_b=theirs,
        difference=float(whole.value),
        ci95=ci95,
        p=float(whole.p()),
        label=FIRST if ci95[0] > 0 else SECOND if ci95[1] < 0 else NEITHER,
        by_target=table.assign(p_holm=holm(table["p"].to_numpy(np.float64))),
        rows=len(first.y),
        clusters=len(np.unique(clusters)),
        metric=metric,
        provenance={
            "inputs": contents_digest([first.target_names, first.source, first.y]),
            "draws": n_bootstrap,
            "seed": seed,
            "versions": library_versions(),
        },
    )


def _scored(
    first: Predicted, second: Predicted, order: np.ndarray, clusters: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], Estimates, Estimates]:
    """Both scores of every target, and the difference over all and of each; of classes in bits, by class."""
    y, several = first.y, first.y.shape[1] > 1
    if first.bits is None or second.bits is None:
        predictions = {"a": first.predictions, "b": second.predictions[order]}
        sums = cluster_sums(y, predictions, clusters)
        scores = r2(y, predictions["a"]), r2(y, predictions["b"])
        return scores, mean_r2_estimate(sums, "a", "b"), r2_estimates(sums, "a", "b")
    ours, theirs = first.bits, second.bits[order]
    apart, of = score_difference(ours, theirs), y if several else np.ones_like(y)
    counts = np.where(of.sum(axis=0) > 0, of.sum(axis=0), np.nan)
    each = ratio(apart[:, None] * of, of, clusters)
    return (ours @ of / counts, theirs @ of / counts), mean_of(apart, clusters), each


def _predicted(given: Predicted | Findings) -> Predicted:
    if not isinstance(given, Findings):
        return given
    best = given.at()
    return Predicted(f"{given.model}, {best.name}", *(getattr(best, f) for f in _REST))


_REST = ("target_names", "units", "source", "clusters", "y", "predictions", "bits")


def _aligned(a: Predicted, b: Predicted) -> np.ndarray:
    """Where each of `a`'s rows is in `b`."""
    if a.target_names != b.target_names:
        raise ValueError(f"{a.name} is of targets {a.target_names}, {b.name} of {b.target_names}")
    if not np.array_equal(np.sort(a.source), np.sort(b.source)):
        ours, theirs = set(a.source.tolist()), set(b.source.tolist())
        only = (
            f"{len(ours - theirs)} table rows are tested in {a.name} alone, {len(theirs - ours)} in {b.name} "
            f"alone ({len(a.source)} and {len(b.source)} test rows)"
        )
        raise ValueError(f"the test rows differ: {only}; use one table, split and set of positions")
    order = np.empty(len(a.source), np.int64)
    order[np.argsort(a.source, kind="stable")] = np.argsort(b.source, kind="stable")
    if not np.allclose(a.y, b.y[order], rtol=1e-9, equal_nan=True):
        row = int(np.argwhere(~np.isclose(a.y, b.y[order], rtol=1e-9))[0][0])
        raise ValueError(
            f"the true values differ: table row {a.source[row]} is {a.y[row].tolist()} in {a.name} and "
            f"{b.y[order][row].tolist()} in {b.name}"
        )
    return order


def _linked(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Clusters of rows that share a label in either."""
    from graticule.probes.tables.groups import link_clusters

    return link_clusters([pd.Series(a), pd.Series(b)], len(a))


def difference_figure(differences: pd.DataFrame, unit: str = "R²") -> Figure:
    """Differences of scores with their intervals, a line for each."""
    need_columns(differences, "target", "difference", "low", "high")
    middle, low, high = (differences[name].to_numpy(np.float64) for name in ("difference", "low", "high"))
    names, bars = short_labels(differences["target"]), error_bars(middle, low, high, INK, width=4)
    fig = new_figure(dots_trace(middle, names, None, INK, error_x=bars))
    across, up = (
        f"difference of test {unit}, first less second",
        {"autorange": "reversed", "type": "category"},
    )
    style(fig, height=120 + 28 * len(differences), x=across, y=up)
    level(fig, x=0, colour=FAINT, width=1.5, dash=None)
    return fig


@renamed(draws="n_bootstrap")
def gain_samples(
    findings: Findings, n_bootstrap: int | None = None, seed: int | None = None
) -> Float[np.ndarray, " draw"]:
    """The gain on the findings' test part in resamples of the clusters of its rows.

    Nothing is refitted and no activations are needed: the findings hold all predictions. `n_bootstrap` and
    `seed` are the findings' own unless others are given.

    Raises:
        ValueError: For findings saved before they held the baselines' predictions.
    """
    if n_bootstrap is None or seed is None:
        judged_by = findings.judged_by
        n_bootstrap = judged_by.n_bootstrap if n_bootstrap is None else n_bootstrap
        seed = judged_by.seed if seed is None else seed
    if findings.verdict.metric == "bits":
        saved, clusters = _saved_bits(findings)
        columns = np.column_stack([saved, np.ones(len(saved))])
        total, size = resampled_sums(columns, clusters, n_bootstrap, seed).T
        return total / size
    samples = resampled_r2(_gain_sums(findings), n_bootstrap, seed)
    return score_difference(samples[:, 1], samples[:, 0])


def gain_estimate(findings: Findings) -> Estimates:
    """The gain of the findings' verdict with its standard error: that of its interval.

    Args:
        findings: No activations are needed, they hold all predictions.

    Returns:
        A single estimate.

    Raises:
        ValueError: For findings saved before they held the baselines' predictions.
    """
    verdict = findings.verdict
    if verdict.dealing is not None:  # of all rows
        se = np.nan if verdict.se is None else verdict.se
        return Estimates(np.asarray(verdict.gain), np.asarray(se), np.asarray(verdict.df))
    if verdict.metric == "bits":
        return mean_of(*_saved_bits(findings))
    return mean_r2_estimate(_gain_sums(findings), "full", "surface")


def _saved_bits(findings: Findings) -> tuple[Float[np.ndarray, " test"], Int[np.ndarray, " test"]]:
    """What the probe saves on every test row, and the rows' clusters."""
    problem = findings.problem
    saved = row_gains(problem, findings.predictions_at(), saved_baselines(findings))
    return saved, problem.clusters[problem.test]


def _gain_sums(findings: Findings) -> ClusterSums:
    problem, beside = findings.problem, saved_baselines(findings)
    train, test = problem.train, problem.test
    surface, full = with_and_without(beside, findings.predictions_at(), problem.y[train])
    return cluster_sums(problem.y[test], {"surface": surface, "full": full}, problem.clusters[test])


def saved_baselines(findings: Findings) -> Mapping[str, Predictions]:
    """The predictions of all baselines of findings.

    Raises:
        ValueError: For findings saved before they held them.
    """
    if findings.baselines.keys() - {"shuffled"} - findings.baseline_predictions.keys():
        raise ValueError("these findings hold no predictions of their baselines: run the sweep again")
    return findings.baseline_predictions


@renamed(draws="n_bootstrap")
def gain_p(findings: Findings, n_bootstrap: int | None = None, seed: int | None = None) -> float:
    """One-sided p-value that the probe adds nothing to the baselines, by the interval of the verdict.

    `n_bootstrap` and `seed` are not needed any more.
    """
    del n_bootstrap, seed
    return float(gain_estimate(findings).p(two_sided=False))


@renamed(draws="n_bootstrap")
def holm_verdicts(
    verdicts: Mapping[str, Findings | float], n_bootstrap: int | None = None, seed: int | None = None
) -> pd.DataFrame:
    """The verdicts of a study together: `name`, raw `p`, `holm`, `benjamini_hochberg`, and for findings their
    `gain` and `words`; the smallest p first.

    Args:
        verdicts: Name → findings, or a p-value where it is known already.
        n_bootstrap: Not needed any more.
        seed: Not needed any more.

    Raises:
        ValueError: There are none, or p-values are outside [0, 1].
    """
    if not verdicts:
        raise ValueError("no verdicts to adjust")
    p = {
        n: gain_p(v, n_bootstrap, seed) if isinstance(v, Findings) else float(v) for n, v in verdicts.items()
    }
    table = adjusted_table(p)
    of_findings = {n: v.verdict for n, v in verdicts.items() if isinstance(v, Findings)}
    if of_findings:
        table["gain"] = [of_findings[n].gain if n in of_findings else float("nan") for n in table["name"]]
        table["words"] = [of_findings[n].label if n in of_findings else "" for n in table["name"]]
    return table
