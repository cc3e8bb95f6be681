"""Scores of rows and blocks that were held out, and their intervals over blocks.

The block is what a hold-out generalises over, so intervals of figures over blocks resample blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from tqdm.auto import tqdm

from graticule.hooks.imports import load
from graticule.probes.core.inputs import SweepInputs
from graticule.probes.core.resample import defined_mean, resampled_interval
from graticule.probes.generalisation.blocks import Blocks, ProbeWithout, predicted_everywhere
from graticule.probes.papers.compat import compat_proximity_error
from graticule.probes.scores.geo import haversine_km, proximity_error, proximity_error_1d
from graticule.probes.scores.metrics import coordinate_columns

Draws = Float[np.ndarray, "draw block"]
Statistic = Callable[[Draws], Float[np.ndarray, " draw"]]
"""A figure over blocks, of how often each block is taken in a draw."""


def weighted_mean(weights: Draws, values: Float[np.ndarray, " block"]) -> Float[np.ndarray, " draw"]:
    """Mean over the blocks that have a value."""
    present = np.isfinite(values)
    number = weights[:, present].sum(axis=1)
    total = weights[:, present] @ values[present]
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def weighted_median(weights: Draws, values: Float[np.ndarray, " block"]) -> Float[np.ndarray, " draw"]:
    """Median over the blocks that have a value."""
    present = np.flatnonzero(np.isfinite(values))
    if not len(present):
        return np.full(len(weights), np.nan)
    order = present[np.argsort(values[present], kind="stable")]
    cumulated = np.cumsum(weights[:, order], axis=1)
    half = cumulated[:, -1:] / 2
    low = (cumulated >= half).argmax(axis=1)
    high = (cumulated > half).argmax(axis=1)
    return np.where(half[:, 0] > 0, (values[order][low] + values[order][high]) / 2, np.nan)


@dataclass(frozen=True)
class Squares:
    """Sums of squares by block and target, of which every pooled R² is made."""

    error: Float[np.ndarray, "block target"]
    """(y − ŷ)²."""
    from_mean: Float[np.ndarray, "block target"]
    """(y − m)², with m the mean that the block's fit was given: what no activations at all would do."""

    @classmethod
    def of(
        cls,
        y: Float[np.ndarray, "row target"],
        pred: Float[np.ndarray, "row target"],
        mean: Float[np.ndarray, "row target"],
        code: Int[np.ndarray, " row"],
        n_blocks: int,
    ) -> Squares:
        """`mean` is the training mean that belongs to each row."""
        return cls(_sums((y - pred) ** 2, code, n_blocks), _sums((y - mean) ** 2, code, n_blocks))

    def r2(self, weights: Draws | None = None) -> Float[np.ndarray, " draw"]:
        """Pooled R² against the training means, mean over targets: 0 for predicting those means."""
        weights = np.ones((1, len(self.error))) if weights is None else weights
        return 1 - defined_mean(_ratio(weights @ self.error, weights @ self.from_mean))

    def by_block(self) -> Float[np.ndarray, " block"]:
        """The same for each block by itself."""
        return 1 - defined_mean(_ratio(self.error, self.from_mean))


@dataclass(frozen=True)
class Centroids:
    """Where each block's centre is, and where it was put by a fit that never saw the block."""

    true: Float[np.ndarray, "block target"]
    """Mean of the block's true targets."""
    predicted: Float[np.ndarray, "block target"]
    """Mean of its predictions."""
    mean: Float[np.ndarray, "block target"]
    """Mean target of the rows that the block's fit was given."""

    @property
    def cosine(self) -> Float[np.ndarray, " block"]:
        """Cosine of the angle between c_true − m and c_pred − m; with one target the sign, −1 or 1."""
        a, b = self.true - self.mean, self.predicted - self.mean
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        return np.clip(_ratio((a * b).sum(axis=1), norms), -1.0, 1.0)

    @property
    def angle(self) -> Float[np.ndarray, " block"]:
        """That angle in degrees; 90 on average where the direction is chance."""
        return np.degrees(np.arccos(self.cosine))

    @property
    def ratio(self) -> Float[np.ndarray, " block"]:
        """|c_pred − m| / |c_true − m|: 0 stays at the training mean, 1 goes all the way."""
        a, b = (np.linalg.norm(c - self.mean, axis=1) for c in (self.true, self.predicted))
        return _ratio(b, a)


def centroids(
    y: Float[np.ndarray, "row target"],
    pred: Float[np.ndarray, "row target"],
    code: Int[np.ndarray, " row"],
    mean: Float[np.ndarray, "block target"],
) -> Centroids:
    """Centroids of rows whose block is `code`."""
    size = np.bincount(code, minlength=len(mean))[:, None]
    return Centroids(_sums(y, code, len(mean)) / size, _sums(pred, code, len(mean)) / size, mean)


def within_correlation(
    y: Float[np.ndarray, "row target"],
    pred: Float[np.ndarray, "row target"],
    code: Int[np.ndarray, " row"],
    n_blocks: int,
) -> Statistic:
    """Correlation of y and ŷ once every block's own means are taken off, mean over targets; 0 is chance."""
    middle = centroids(y, pred, code, np.zeros((n_blocks, y.shape[1])))
    a, b = y - middle.true[code], pred - middle.predicted[code]
    products = [_sums(v, code, n_blocks) for v in (a * b, a * a, b * b)]

    def statistic(weights: Draws) -> Float[np.ndarray, " draw"]:
        both, first, second = (weights @ p for p in products)
        return defined_mean(_ratio(both, np.sqrt(first) * np.sqrt(second)))

    return statistic


def sign_test(cosine: Float[np.ndarray, " block"]) -> float:
    """Two-sided p of as many blocks on the right side of the training mean, if each side had chance 1/2."""
    load("scipy.stats")
    from scipy.stats import binomtest

    sides = cosine[np.isfinite(cosine) & (cosine != 0)]
    return float(binomtest(int((sides > 0).sum()), len(sides)).pvalue) if len(sides) else float("nan")


def proximity(
    true: Float[np.ndarray, "row axis"],
    pred: Float[np.ndarray, "row axis"],
    among: Float[np.ndarray, "other axis"],
    paper_compat: bool = False,
) -> Float[np.ndarray, " row"]:
    """Combined proximity error; axes are (latitude, longitude), or one of any unit.

    With `paper_compat` as the paper's code has it: longitude read as latitude, and no ties.
    """
    if paper_compat:
        return compat_proximity_error(true, pred, among)
    if true.shape[1] == 1:
        return proximity_error_1d(true[:, 0], pred[:, 0], among[:, 0])
    return proximity_error(true, pred, among)


def means_by_block(
    values: Float[np.ndarray, " row"], code: Int[np.ndarray, " row"], n_blocks: int
) -> Float[np.ndarray, " block"]:
    """Mean over the rows of each block that have a value."""
    present = np.isfinite(values)
    number = np.bincount(code[present], minlength=n_blocks)
    return _ratio(np.bincount(code[present], values[present], minlength=n_blocks), number)


def mean_intervals(
    values: Float[np.ndarray, " row"],
    code: Int[np.ndarray, " row"],
    clusters: Int[np.ndarray, " row"],
    n_blocks: int,
    n_bootstrap: int,
    seed: int,
) -> Float[np.ndarray, "block 2"]:
    """95% interval of each block's mean, by a bootstrap over its clusters."""
    out = np.full((n_blocks, 2), np.nan)
    for block in range(n_blocks):
        rows = np.flatnonzero((code == block) & np.isfinite(values))
        if len(rows) < 2:
            continue
        _, label = np.unique(clusters[rows], return_inverse=True)
        total, size = np.bincount(label, values[rows]), np.bincount(label).astype(np.float64)

        def statistic(weights: Draws, total: np.ndarray = total, size: np.ndarray = size) -> np.ndarray:
            return (weights @ total) / (weights @ size)

        out[block] = resampled_interval(statistic, len(size), n_bootstrap, seed)
    return out


def _sums(values: Float[np.ndarray, "row target"], code: np.ndarray, n_blocks: int) -> np.ndarray:
    return np.stack([np.bincount(code, column, minlength=n_blocks) for column in values.T], axis=1)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)


# Scores of rows ------------------------------------------------------------------------------------
Line = Float[np.ndarray, " held"]


@dataclass(frozen=True)
class RowScores:
    """One entry per held-out row, block by block; NaN where a row has no such score."""

    measure: str
    """What a row is scored by: `proximity error`, `accuracy` or `absolute error`."""
    y: Float[np.ndarray, "held target"]
    """The truth."""
    code: Int[np.ndarray, " held"]
    """The block."""
    n_blocks: int
    test: Bool[np.ndarray, " held"]
    """Whether it is a test row of the table's own split: only these have nominal scores."""
    nominal_prediction: Float[np.ndarray, "held target"]
    """By the fit on the table's own training rows."""
    train_mean: Float[np.ndarray, " target"]
    """Mean target of those rows."""
    levels: Mapping[str, Line]
    """Scores with the block in training (`nominal`), without (`held_out`), of predicting the training mean
    (`mean`); ranked ones also of the prediction of another row of the block (`other_row`: what knowing the
    block alone would reach), and as the paper's code scores them (`nominal_paper_compat`,
    `held_out_paper_compat`)."""
    error: Mapping[str, Line]
    """`nominal`, `held_out`, `mean` → distance from the truth, where there is one unit."""
    error_unit: str
    """Its unit."""

    def by_block(self, level: str) -> Float[np.ndarray, " block"]:
        """Mean score of each block's rows."""
        return means_by_block(self.levels[level], self.code, self.n_blocks)

    def on_test_rows(self, values: Line) -> Float[np.ndarray, " block"]:
        """Mean of some values over each block's test rows."""
        return means_by_block(np.where(self.test, values, np.nan), self.code, self.n_blocks)

    def error_by_block(self, level: str) -> Float[np.ndarray, " block"]:
        """Median error of each block's rows."""
        median = pd.Series(self.error[level]).groupby(self.code).median()
        return median.reindex(range(self.n_blocks)).to_numpy()


def score_rows(
    swept: SweepInputs,
    point: str,
    blocks: Blocks,
    probe: ProbeWithout,
    paper_compat: bool,
    progress: bool | None,
) -> RowScores:
    """Every held-out row's scores.

    Proximity error where there are coordinates or one number, absolute error in standard deviations of the
    training targets for several numbers, accuracy for classes.
    """
    problem, table = swept.problem, swept.table
    every, code = blocks.every, blocks.code
    y, test = problem.y[every], problem.is_test[every]
    nominal = np.where(test[:, None], probe.nominal[every], np.nan)
    predictions = {"nominal": nominal, "held_out": probe.held_out, "mean": probe.fits.y_mean[code]}
    numeric = table.kind == "numeric"
    places = coordinate_columns(table.units) if numeric else None

    def each(score: Callable[[np.ndarray], np.ndarray]) -> dict[str, np.ndarray]:
        return {name: score(pred) for name, pred in predictions.items()}

    error: dict[str, np.ndarray] = {}
    unit = ""
    if places is not None:
        lat, lon = places
        unit = "km"
        error = each(lambda pred: haversine_km(y[:, lat], y[:, lon], pred[:, lat], pred[:, lon]))
    elif numeric and y.shape[1] == 1:
        unit = table.units[0] or table.target_names[0]
        error = each(lambda pred: np.abs(y - pred)[:, 0])
    if error:
        measure = "proximity error"
        levels = _ranked(swept, point, blocks, probe, list(places or [0]), paper_compat, progress)
    elif numeric:
        measure = "absolute error"
        spread = problem.y[problem.train].std(axis=0)
        spread = np.where(spread > 0, spread, 1.0)
        levels = each(lambda pred: (np.abs(y - pred) / spread).mean(axis=1))
    else:
        measure = "accuracy"
        levels = each(lambda pred: _correct(y, pred))
    train_mean = problem.y[problem.train].mean(axis=0)
    n = len(blocks.names)
    return RowScores(measure, y, code, n, test, nominal, train_mean, levels, error, unit)


def _correct(y: np.ndarray, pred: np.ndarray) -> np.ndarray:
    truth = y[:, 0] > 0.5 if y.shape[1] == 1 else y.argmax(axis=1)
    guess = pred[:, 0] > 0.5 if y.shape[1] == 1 else np.nan_to_num(pred).argmax(axis=1)
    return np.where(np.isfinite(pred).all(axis=1), truth == guess, np.nan)


def _ranked(
    swept: SweepInputs,
    point: str,
    blocks: Blocks,
    probe: ProbeWithout,
    columns: list[int],
    paper_compat: bool,
    progress: bool | None,
) -> dict[str, np.ndarray]:
    """Combined proximity errors of every held-out row, block by block."""
    problem = swept.problem
    y = problem.y[:, columns]
    nominal = np.ascontiguousarray(probe.nominal[:, columns])
    rules = {"": False, "_paper_compat": True} if paper_compat else {"": False}
    names = ["mean", "other_row", *(f"{level}{rule}" for level in ("nominal", "held_out") for rule in rules)]
    out = {name: np.full(len(blocks.every), np.nan) for name in names}
    rng = np.random.default_rng(swept.seed)
    ends = np.cumsum([len(rows) for rows in blocks.rows])
    quiet = progress is False or (progress is None and len(y) * len(blocks.every) < 10**8)
    fits = predicted_everywhere(swept, point, probe.fits)
    for i, predicted in tqdm(
        fits, desc="hold-outs", total=len(ends), unit="block", disable=quiet, leave=False
    ):
        rows = blocks.rows[i]
        place = np.arange(ends[i] - len(rows), ends[i])
        test = problem.is_test[rows]
        every = np.ascontiguousarray(predicted[:, columns])
        own = every[rows]
        # derangement by a step round a shuffled circle: never a row's own prediction
        order = rng.permutation(len(rows))
        other = np.empty_like(order)
        other[order] = np.roll(order, 1)
        flat = every.copy()
        flat[rows] = probe.fits.y_mean[i, columns]
        for rule, strict in rules.items():
            tested = rows[test]
            out[f"nominal{rule}"][place[test]] = proximity(y[tested], nominal[tested], nominal, strict)
            out[f"held_out{rule}"][place] = proximity(y[rows], own, every, strict)
        out["other_row"][place] = proximity(y[rows], own[other], every)
        out["mean"][place] = proximity(y[rows], flat[rows], flat)
    return out
