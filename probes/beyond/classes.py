"""Classes read by a logistic probe and by a few coordinates, beside random ones and shuffled labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from graticule.hooks.doors import FINDINGS, door
from graticule.hooks.messages import UnknownNameError
from graticule.hooks.saved import SavedResult
from graticule.probes.applicable import NotApplicable
from graticule.probes.beyond.given import made_of, point_of
from graticule.probes.beyond.reliability import SCORES, class_scores, reliability, weighted_auroc
from graticule.probes.estimators.ksparse import Select, best_coordinates, rank_coordinates
from graticule.probes.estimators.logistic import LogisticFit, held_out, logistic_cv
from graticule.probes.findings import Findings
from graticule.probes.scores.metrics import probabilities
from graticule.probes.scores.verdict import Predictions, Verdict
from graticule.probes.tables.groups import group_folds

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

KS = (1, 2, 5, 10, 20, 50)
LOGISTIC, RIDGE, SHUFFLED = "logistic", "ridge", "logistic, shuffled labels"
FEW, RANDOM, FEW_SHUFFLED = "k coordinates", "k random coordinates", "k coordinates, shuffled labels"
_CAPTION_K = "AUROC against the number of coordinates, test rows"
_CAPTION_RELIABILITY = "Confidence against what came true, test rows"
_CAPTION_TABLE = (
    "Class scores on test rows (intervals over clusters; over draws for random and shuffled arms)"
)
_CAPTION_COORDINATES = "The coordinates, in the order in which they were chosen on training rows"


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
    """The logistic probe in the probe's place: the gain of its probabilities over the same surface, as R² of
    the class indicators (the Brier skill)."""
    scores: pd.DataFrame
    """A line an arm and k (0 where it does not apply): `arm`, `k`, `validation` (out-of-fold AUROC; NaN for
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

    def at(self, arm: str, k: int = 0) -> Any:
        """The line of an arm. **Raises** `KeyError` if there is none."""
        lines = self.scores[(self.scores["arm"] == arm) & (self.scores["k"] == k)]
        if lines.empty:
            raise UnknownNameError(f"no arm {arm!r} with k={k}; arms are {sorted(set(self.scores['arm']))}")
        return lines.iloc[0]

    def summary(self) -> str:
        """The logistic probe, how few coordinates come near it, the controls and the verdict."""
        dense, ridge, shuffled = self.at(LOGISTIC), self.at(RIDGE), self.at(SHUFFLED)
        lines = [
            f"logistic probe at {self.point}: AUROC {_with_interval(dense, 'auroc')}, accuracy "
            f"{dense['accuracy']:.3f}, calibration error {dense['ece']:.3f} (the ridge's {ridge['ece']:.3f})"
            f"; shuffled labels {shuffled['auroc']:.3f}",
        ]
        if self.needed is None:
            lines.append("no number of coordinates tried comes within 90% of it")
        else:
            few, random = self.at(FEW, self.needed), self.at(RANDOM, self.needed)
            lines.append(
                f"{self.needed} coordinates come within 90% of it (chosen out of fold): AUROC "
                f"{_with_interval(few, 'auroc')}; as many at random {random['auroc']:.3f}"
            )
        lines.append(f"in the probe's place: {self.verdict.summary().splitlines()[0]}")
        return "\n".join(lines)

    def figures(self) -> dict[str, Figure]:
        """AUROC against k, and reliability."""
        from graticule.probes.plots.beyond import few_figure, reliability_figure

        arms = {FEW: FEW, RANDOM: RANDOM, FEW_SHUFFLED: FEW_SHUFFLED}
        return {
            _CAPTION_K: few_figure(self.scores, arms, float(self.at(LOGISTIC)["auroc"]), self.needed),
            _CAPTION_RELIABILITY: reliability_figure(self.reliability, len(self.classes) == 2),
        }

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every arm, and the coordinates."""
        names = {"auroc": "AUROC", "accuracy": "accuracy", "ece": "calibration error", "log_loss": "log-loss"}
        shown = pd.DataFrame({"arm": self.scores["arm"], "k": self.scores["k"].replace(0, pd.NA)})
        for key, name in names.items():
            shown[name] = self.scores[key]
            shown[f"{name}, 95%"] = [
                f"{low:.3f} to {high:.3f}"
                for low, high in zip(self.scores[f"{key}_low"], self.scores[f"{key}_high"], strict=True)
            ]
        return {_CAPTION_TABLE: shown, _CAPTION_COORDINATES: self.coordinates}


@door(findings=FINDINGS)
def classes(
    findings: Findings,
    ks: int | Sequence[int] | None = None,
    *,
    point: str | None = None,
    select: Select = "difference",
    alphas: Sequence[float] | None = None,
    folds: int = 5,
    repeats: int = 5,
    draws: int = 500,
    seed: int = 0,
    progress: bool | None = None,
) -> ClassProbes:
    """Logistic and k-sparse probes of a yes-or-no or categorical target, at the chosen point or at `point`.

    - **logistic**: all coordinates, L2 penalty, the strength chosen by the log-loss of `folds` of whole
      clusters of training rows.
    - **k coordinates**: the best k by `select` on training rows (`rank_coordinates`), standardised, and a
      logistic regression at strength 1 on them. For the out-of-fold score they are selected in every fold.
    - **controls**: k coordinates at random (`repeats` draws), and everything, selection too, with training
      labels shuffled (`repeats` times; once for the dense probe, at the chosen strength).

    `ks` are numbers of coordinates; by default `KS`, as far as there are so many that tell rows apart.

    **Raises** `ValueError` without material, for a numeric target, for a k of `ks` above the number of
    coordinates, or a class that no training row is of; `NotApplicable` where no coordinate tells rows apart.
    """
    material = findings.material
    if findings.kind == "numeric":
        raise NotApplicable(
            f"{findings.table} has numbers as targets; classes(...) is for yes-or-no and categories"
        )
    asked = (ks,) if isinstance(ks, int) else None if ks is None else tuple(ks)
    if asked == ():
        raise ValueError("ks=(): at least one number of coordinates, ks=(1, 5)")
    problem, where = material.problem, point_of(findings, point)
    rows = _Rows(
        material.rows(where, problem.train),
        problem.y[problem.train],
        problem.clusters[problem.train],
        material.rows(where, problem.test),
        problem.y[problem.test],
        problem.clusters[problem.test],
    )
    tried = _tried(rows, asked, select, folds, seed, where)
    dense = logistic_cv(rows.X, rows.y, rows.clusters, alphas, folds=folds, seed=seed, progress=progress)
    predicted = dense.predict(rows.X_test)
    ridge = probabilities(findings.at(where).predictions)
    ridge = ridge[:, 1:] if rows.y.shape[1] == 1 else ridge
    order = rank_coordinates(rows.X, rows.y, tried[-1], select)
    lines = [
        rows.line(LOGISTIC, 0, predicted, draws, seed, _auroc(rows.y, dense.out_of_fold)),
        rows.line(RIDGE, 0, ridge, draws, seed),
        _shuffled_dense(rows, dense, draws, seed),
        *_few(rows, tried, order, select, folds, draws, seed),
        *_controls(rows, tried, select, repeats, seed, progress),
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
        verdict=material.judge(Predictions(dense.out_of_fold, predicted)),
        scores=scores,
        coordinates=_coordinates(rows, order, findings.classes),
        reliability=pd.concat(bins, ignore_index=True),
        probabilities=predicted,
        provenance=made_of(findings, point=where, ks=tuple(tried), select=select, folds=folds, seed=seed),
    )


@dataclass(frozen=True)
class _Rows:
    """Training and test rows of one point."""

    X: Float[np.ndarray, "train width"]
    y: Float[np.ndarray, "train column"]
    clusters: Int[np.ndarray, " train"]
    X_test: Float[np.ndarray, "test width"]
    y_test: Float[np.ndarray, "test column"]
    clusters_test: Int[np.ndarray, " test"]

    def line(
        self, arm: str, k: int, p: np.ndarray, draws: int, seed: int, validation: float = float("nan")
    ) -> dict[str, Any]:
        """Test scores of one arm with their cluster intervals."""
        out: dict[str, Any] = {"arm": arm, "k": k, "validation": validation}
        for name, (value, ends) in class_scores(self.y_test, p, self.clusters_test, draws, seed).items():
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


def _on(X: np.ndarray, y: np.ndarray, other: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Probabilities of other rows from a logistic regression on a few standardised coordinates."""
    kept = X[:, chosen]
    mean, spread = kept.mean(axis=0), kept.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    return held_out((kept - mean) / spread, y, (other[:, chosen] - mean) / spread, [1.0])[0]


def _few(
    rows: _Rows, ks: Sequence[int], order: np.ndarray, select: Select, folds: int, draws: int, seed: int
) -> list[dict[str, Any]]:
    fold = group_folds(rows.clusters, folds, seed)
    held = np.zeros((len(ks), *rows.y.shape))
    for f in range(int(fold.max()) + 1):
        out = fold == f
        X, y = rows.X[~out], rows.y[~out]
        inner = rank_coordinates(X, y, ks[-1], select)
        for i, k in enumerate(ks):
            held[i, out] = _on(X, y, rows.X[out], inner[:k])
    return [
        rows.line(FEW, k, _on(rows.X, rows.y, rows.X_test, order[:k]), draws, seed, _auroc(rows.y, held[i]))
        for i, k in enumerate(ks)
    ]


def _shuffled_dense(rows: _Rows, dense: LogisticFit, draws: int, seed: int) -> dict[str, Any]:
    y = np.random.default_rng(seed).permutation(rows.y)
    return rows.line(SHUFFLED, 0, held_out(rows.X, y, rows.X_test, [dense.alpha])[0], draws, seed)


def _controls(
    rows: _Rows, ks: Sequence[int], select: Select, repeats: int, seed: int, progress: bool | None
) -> list[dict[str, Any]]:
    """Means over repeats, and their range in place of an interval."""
    rng = np.random.default_rng(seed)
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    quiet = not (progress if progress is not None else rows.X.size * repeats > 20_000_000)
    for _ in tqdm(range(repeats), desc="class controls", unit="draw", disable=quiet, leave=False):
        random = rng.permutation(rows.X.shape[1])
        shuffled = rng.permutation(rows.y)
        ranked = rank_coordinates(rows.X, shuffled, ks[-1], select)
        for k in ks:
            for arm, y, chosen in ((RANDOM, rows.y, random[:k]), (FEW_SHUFFLED, shuffled, ranked[:k])):
                p = _on(rows.X, y, rows.X_test, chosen)
                values = class_scores(rows.y_test, p, rows.clusters_test, draws=1)
                found.setdefault((arm, k), []).append({name: values[name][0] for name in SCORES})
    lines: list[dict[str, Any]] = []
    for arm, k in sorted(found):
        line: dict[str, Any] = {"arm": arm, "k": k, "validation": float("nan")}
        for name in SCORES:
            values = np.array([one[name] for one in found[arm, k]])
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
    held = pd.DataFrame({"rank": np.arange(1, len(order) + 1), "coordinate": order})
    labels = list(names) if len(names) == len(means) else [f"class {c}" for c in range(len(means))]
    for name, values in zip(labels[:8], means, strict=False):
        held[f"mean, {name}"] = values
    return held


def _with_interval(line: Any, name: str) -> str:
    return f"{line[name]:.3f} [{line[f'{name}_low']:.3f}, {line[f'{name}_high']:.3f}]"
