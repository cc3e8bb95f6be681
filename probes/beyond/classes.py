"""Classes read by a logistic probe and by a few coordinates, beside random ones and shuffled labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from graticule.hooks.calls import renamed
from graticule.hooks.doors import FINDINGS, door
from graticule.hooks.messages import NotApplicable, UnknownNameError
from graticule.hooks.rows import PointKey
from graticule.hooks.saved import SavedResult
from graticule.probes.beyond.reliability import (
    FEW,
    FEW_SHUFFLED,
    RANDOM,
    SCORES,
    class_scores,
    few_figure,
    reliability,
    reliability_figure,
    weighted_auroc,
)
from graticule.probes.core.findings import Findings
from graticule.probes.core.fit import Predictions
from graticule.probes.core.verdict import Verdict
from graticule.probes.linear.logistic import Select, best_coordinates, held_out, logistic_cv, rank_coordinates
from graticule.probes.scores.metrics import probabilities
from graticule.probes.tables.groups import group_folds

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

KS = (1, 2, 5, 10, 20, 50)
LOGISTIC, RIDGE, SHUFFLED = "logistic", "ridge", "logistic, shuffled labels"
_LEAST = 1e-6
_CAPTION_K = "AUROC against the number of coordinates, test rows"
_CAPTION_RELIABILITY = "Confidence against what came true, test rows"
_CAPTION_TABLE = (
    "Class scores on test rows (intervals over clusters; over draws for random and shuffled arms)"
)
_CAPTION_COORDINATES = "The coordinates, in the order in which they were chosen on training rows"
_HEADINGS = {"auroc": "AUROC", "accuracy": "accuracy", "ece": "calibration error", "log_loss": "log-loss"}


@dataclass(frozen=True)
class ClassProbes(SavedResult):
    """Logistic and k-sparse probes of classes at one point."""

    KIND: ClassVar[str] = "classes"

    model: str
    table: str
    classes: tuple[str, ...]
    """Class names; of two, the second is class 1."""
    point: str
    """Where the probes read."""
    alpha: float
    """The logistic probe's strength, chosen by out-of-fold log-loss on training rows."""
    select: str
    """How coordinates are ranked: `difference` or `omp`."""
    needed: int | None
    """The smallest k with 90% of the logistic probe's out-of-fold AUROC above one half; None if no k has."""
    verdict: Verdict
    """The logistic probe in the probe's place: the gain of its probabilities over the same surface, in bits
    or as R² of the class indicators (the Brier skill), as the findings are judged."""
    scores: pd.DataFrame
    """One row per arm and k (0 where it does not apply): `arm`, `k`, `validation` (out-of-fold AUROC; NaN for
    controls), and `auroc`, `accuracy`, `ece`, `log_loss`, each with `_low` and `_high`."""
    coordinates: pd.DataFrame
    """`rank` and `coordinate` of the chosen ones, and `mean_0` … by class on training rows."""
    reliability: pd.DataFrame
    """`arm` (`logistic`, `ridge`), `low`, `high`, `rows`, `confidence`, `frequency` of every bin."""
    probabilities: Float[np.ndarray, "test column"]
    """Of the logistic probe on test rows: P(class 1), or one column a class."""
    provenance: Mapping[str, Any]
    """Model, table, settings and versions."""

    @property
    def title(self) -> str:
        """Model and table."""
        return f"Class probes: {self.model} on {self.table}"

    @renamed(arm="name")
    def at(self, name: str, k: int = 0) -> Any:
        """The row of an arm, by its name. Raises `KeyError` if there is none."""
        rows = self.scores[(self.scores["arm"] == name) & (self.scores["k"] == k)]
        if rows.empty:
            raise UnknownNameError(f"no arm {name!r} with k={k}; arms are {sorted(set(self.scores['arm']))}")
        return rows.iloc[0]

    def summary(self) -> str:
        """The logistic probe, how few coordinates come near it, the controls and the verdict."""
        dense, ridge, shuffled = self.at(LOGISTIC), self.at(RIDGE), self.at(SHUFFLED)
        lines = [
            f"logistic probe at {self.point}: AUROC {_with_interval(dense, 'auroc')}, accuracy "
            f"{dense['accuracy']:z.3f}, calibration error {dense['ece']:z.3f} (the ridge's "
            f"{ridge['ece']:z.3f}); shuffled labels {shuffled['auroc']:z.3f}",
        ]
        if self.needed is None:
            lines.append("no number of coordinates tried comes within 90% of it")
        else:
            few, random = self.at(FEW, self.needed), self.at(RANDOM, self.needed)
            lines.append(
                f"{self.needed} coordinates come within 90% of it (chosen out of fold): AUROC "
                f"{_with_interval(few, 'auroc')}; as many at random {random['auroc']:z.3f}"
            )
        lines.append(f"in the probe's place: {self.verdict.summary().splitlines()[0]}")
        return "\n".join(lines)

    def figures(self) -> dict[str, Figure]:
        """AUROC against k, and reliability."""
        return {
            _CAPTION_K: few_figure(self.scores, float(self.at(LOGISTIC)["auroc"]), self.needed),
            _CAPTION_RELIABILITY: reliability_figure(
                self.reliability, self.classes[1] if len(self.classes) == 2 else None
            ),
        }

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every arm, and the coordinates."""
        scores = self.scores
        out = pd.DataFrame({"arm": scores["arm"], "k": scores["k"].replace(0, pd.NA)})
        for key, name in _HEADINGS.items():
            ends = zip(scores[f"{key}_low"], scores[f"{key}_high"], strict=True)
            out[name] = scores[key]
            out[f"{name}, 95%"] = [f"{low:z.3f} to {high:z.3f}" for low, high in ends]
        return {_CAPTION_TABLE: out, _CAPTION_COORDINATES: self.coordinates}


@renamed("ks", point="hook_name", draws="n_bootstrap")
@door(findings=FINDINGS)
def classes(
    findings: Findings,
    *,
    ks: int | Sequence[int] | None = None,
    hook_name: PointKey | None = None,
    select: Select = "difference",
    alphas: Sequence[float] | None = None,
    folds: int = 5,
    repeats: int = 5,
    n_bootstrap: int = 500,
    seed: int = 0,
    progress: bool | None = None,
) -> ClassProbes:
    """Logistic and k-sparse probes of a yes-or-no or categorical target, at the chosen point or `hook_name`.

    - **logistic**: all coordinates, L2 penalty, the strength chosen by the log-loss of `folds` of whole
      clusters of training rows.
    - **k coordinates**: the best k by `select` on training rows (`rank_coordinates`), standardised, and a
      logistic regression at strength 1 on them. For the out-of-fold score they are selected in every fold.
    - **controls**: k coordinates at random (`repeats` draws), and everything, selection too, with training
      labels shuffled (`repeats` times; once for the dense probe, at the chosen strength).

    Args:
        findings: Findings with their inputs, as a sweep or `with_inputs` returns them.
        ks: numbers of coordinates; by default `KS`, as far as there are so many that tell rows apart.
        hook_name: where the probes read; the chosen point by default.
        select: how coordinates are ranked.
        alphas: strengths of the logistic probe.
        folds: of whole clusters of training rows.
        repeats: draws of random coordinates and of shuffled labels.
        n_bootstrap: resamples of the clusters for intervals.
        seed: The seed of folds, draws and resamples.
        progress: whether a bar is drawn; by default where it takes long.

    Returns:
        Scores of every arm, the coordinates, and the verdict on the logistic probe.

    Raises:
        ValueError: No inputs, a numeric target, a k of `ks` above the number of coordinates, or a class
            that no training row is of.
        NotApplicable: No coordinate tells rows apart.
    """
    swept = findings.inputs
    if findings.kind == "numeric":
        raise NotApplicable(
            f"{findings.table} has numbers as targets; classes(...) is for yes-or-no and categories"
        )
    asked = (ks,) if isinstance(ks, int) else None if ks is None else tuple(ks)
    if asked == ():
        raise ValueError("ks=(): at least one number of coordinates, ks=(1, 5)")
    problem, where = swept.problem, findings.point_of(hook_name)
    parts = [(swept.rows(where, i), problem.y[i], problem.clusters[i]) for i in (problem.train, problem.test)]
    rows = _Rows(*parts[0], *parts[1], n_bootstrap, seed)
    tried = _tried(rows, asked, select, folds, seed, where)
    dense = logistic_cv(rows.X, rows.y, rows.clusters, alphas, folds=folds, seed=seed, progress=progress)
    predicted = dense.predict(rows.X_test)
    ridge = probabilities(findings.at(where).predictions)
    ridge = ridge[:, 1:] if rows.y.shape[1] == 1 else ridge
    order = rank_coordinates(rows.X, rows.y, tried[-1], select)
    shuffled = np.random.default_rng(seed).permutation(rows.y)
    shuffled_predicted = held_out(rows.X, shuffled, rows.X_test, [dense.alpha])[0]
    lines = [
        rows.scored(LOGISTIC, 0, predicted, _auroc(rows.y, dense.out_of_fold)),
        rows.scored(RIDGE, 0, ridge),
        rows.scored(SHUFFLED, 0, shuffled_predicted),
        *_few(rows, tried, order, select, folds),
        *_controls(rows, tried, select, repeats, progress),
    ]
    scores = pd.DataFrame(lines)
    bins = [reliability(rows.y_test, p).assign(arm=arm) for arm, p in ((LOGISTIC, predicted), (RIDGE, ridge))]
    return ClassProbes(
        model=findings.model,
        table=findings.table,
        classes=findings.classes,
        point=where,
        alpha=dense.alpha,
        select=select,
        needed=_needed(scores),
        verdict=swept.judge(_scores_of(dense.out_of_fold, predicted, swept.settings.score)),
        scores=scores,
        coordinates=_coordinates(rows, order, findings.classes),
        reliability=pd.concat(bins, ignore_index=True),
        probabilities=predicted,
        provenance=findings.provenance_of(
            point=where, ks=tuple(tried), select=select, folds=folds, seed=seed
        ),
    )


def _scores_of(out_of_fold: np.ndarray, test: np.ndarray, score: str) -> Predictions:
    """Probabilities as they are; in bits their log odds, of several classes up to a constant."""
    if score == "r2":
        return Predictions(out_of_fold, test)
    out_of_fold, test = (np.clip(p, _LEAST, 1 - _LEAST) for p in (out_of_fold, test))
    if test.shape[1] > 1:
        return Predictions(np.log(out_of_fold), np.log(test))
    return Predictions(np.log(out_of_fold / (1 - out_of_fold)), np.log(test / (1 - test)))


@dataclass(frozen=True)
class _Rows:
    """Training and test rows of one point."""

    X: Float[np.ndarray, "train width"]
    y: Float[np.ndarray, "train column"]
    clusters: Int[np.ndarray, " train"]
    X_test: Float[np.ndarray, "test width"]
    y_test: Float[np.ndarray, "test column"]
    clusters_test: Int[np.ndarray, " test"]
    n_bootstrap: int
    seed: int

    def scored(self, arm: str, k: int, p: np.ndarray, validation: float = float("nan")) -> dict[str, Any]:
        """Test scores of one arm with their cluster intervals."""
        out: dict[str, Any] = {"arm": arm, "k": k, "validation": validation}
        for name, (value, ends) in class_scores(
            self.y_test, p, self.clusters_test, self.n_bootstrap, self.seed
        ).items():
            out |= {name: value, f"{name}_low": ends[0], f"{name}_high": ends[1]}
        return out


def _tried(
    rows: _Rows, asked: tuple[int, ...] | None, select: Select, folds: int, seed: int, point: str
) -> list[int]:
    """Numbers of coordinates: those asked for, or the usual ones and, where they are too many, all there are.

    A coordinate is there if it tells rows apart in every part of the training rows that is chosen on.
    """
    fold = group_folds(rows.clusters, folds, seed)
    parts = [fold >= 0, *(fold != f for f in range(int(fold.max()) + 1))]
    wanted = max(asked or KS)
    there = min(len(best_coordinates(rows.X[part], rows.y[part], wanted, select)) for part in parts)
    if there == 0:
        raise NotApplicable(f"no coordinate at {point} varies over the training rows: nothing to choose from")
    if asked is None:
        return sorted({k for k in KS if k < there} | {min(there, KS[-1])})
    if more := [k for k in asked if k > there]:
        raise ValueError(
            f"ks={max(more)}: {point} has {there} coordinates to choose from (those that vary, and "
            f"with select='omp' add something, in every fold); write ks= of at most {there}"
        )
    return sorted(set(asked))


def _from_few(X: np.ndarray, y: np.ndarray, other: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Probabilities of other rows from a logistic regression on a few standardised coordinates."""
    few = X[:, chosen]
    mean, spread = few.mean(axis=0), few.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    return held_out((few - mean) / spread, y, (other[:, chosen] - mean) / spread, [1.0])[0]


def _few(
    rows: _Rows, ks: Sequence[int], order: np.ndarray, select: Select, folds: int
) -> list[dict[str, Any]]:
    fold = group_folds(rows.clusters, folds, rows.seed)
    out_of_fold = np.zeros((len(ks), *rows.y.shape))
    for f in range(int(fold.max()) + 1):
        out = fold == f
        X, y = rows.X[~out], rows.y[~out]
        inner = rank_coordinates(X, y, ks[-1], select)
        for i, k in enumerate(ks):
            out_of_fold[i, out] = _from_few(X, y, rows.X[out], inner[:k])
    lines: list[dict[str, Any]] = []
    for i, k in enumerate(ks):
        p = _from_few(rows.X, rows.y, rows.X_test, order[:k])
        lines.append(rows.scored(FEW, k, p, _auroc(rows.y, out_of_fold[i])))
    return lines


def _controls(
    rows: _Rows, ks: Sequence[int], select: Select, repeats: int, progress: bool | None
) -> list[dict[str, Any]]:
    """Means over repeats, and their range in place of an interval."""
    rng = np.random.default_rng(rows.seed)
    scores: dict[tuple[str, int], list[dict[str, float]]] = {}
    quiet = not (progress if progress is not None else rows.X.size * repeats > 20_000_000)
    for _ in tqdm(range(repeats), desc="class controls", unit="draw", disable=quiet, leave=False):
        random = rng.permutation(rows.X.shape[1])
        shuffled = rng.permutation(rows.y)
        ranked = rank_coordinates(rows.X, shuffled, ks[-1], select)
        for k in ks:
            for arm, y, chosen in ((RANDOM, rows.y, random[:k]), (FEW_SHUFFLED, shuffled, ranked[:k])):
                p = _from_few(rows.X, y, rows.X_test, chosen)
                values = class_scores(rows.y_test, p, rows.clusters_test, 1, 0)
                scores.setdefault((arm, k), []).append({name: values[name][0] for name in SCORES})
    lines: list[dict[str, Any]] = []
    for arm, k in sorted(scores):
        line: dict[str, Any] = {"arm": arm, "k": k, "validation": float("nan")}
        for name in SCORES:
            values = np.array([one[name] for one in scores[arm, k]])
            line |= {name: values.mean(), f"{name}_low": values.min(), f"{name}_high": values.max()}
        lines.append(line)
    return lines


def _auroc(y: np.ndarray, p: np.ndarray) -> float:
    return float(weighted_auroc(y, p, np.ones((1, len(y))))[0])


def _needed(scores: pd.DataFrame, share: float = 0.9) -> int | None:
    validation = scores[scores["arm"].isin((LOGISTIC, FEW))].set_index("k")["validation"]
    enough = validation.index[(validation - 0.5 >= share * (validation[0] - 0.5)) & (validation.index > 0)]
    return int(enough.min()) if len(enough) and validation[0] > 0.5 else None


def _coordinates(rows: _Rows, order: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    y = np.concatenate([1 - rows.y, rows.y], axis=1) if rows.y.shape[1] == 1 else rows.y
    means = (y.T @ rows.X[:, order]) / y.sum(axis=0)[:, None]
    out = pd.DataFrame({"rank": np.arange(1, len(order) + 1), "coordinate": order})
    labels = list(names) if len(names) == len(means) else [f"class {c}" for c in range(len(means))]
    for name, values in zip(labels[:8], means, strict=False):
        out[f"mean, {name}"] = values
    return out


def _with_interval(line: Any, name: str) -> str:
    return f"{line[name]:z.3f} [{line[f'{name}_low']:.3f}, {line[f'{name}_high']:.3f}]"
