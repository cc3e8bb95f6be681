"""Scores of a hold-out: of every row with its block in, out and at chance, and the tables made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from tqdm.auto import tqdm

from graticule.hooks.points import layer_of
from graticule.probes.core.fit import Problem
from graticule.probes.core.inputs import SweepInputs
from graticule.probes.core.resample import cluster_sums, defined_mean, weighted_r2
from graticule.probes.generalisation.block_scores import (
    Centroids,
    Draws,
    Squares,
    Statistic,
    block_means,
    block_medians,
    centroids,
    proximity,
    resampled,
    weighted_mean,
    weighted_median,
    within_correlation,
)
from graticule.probes.generalisation.held_out import Blocks, ProbeWithout, predicted_everywhere
from graticule.probes.scores.geo import haversine_km
from graticule.probes.scores.metrics import auroc, coordinate_columns, mean, mean_r2

Line = Float[np.ndarray, " held"]
_NAN = float("nan")
_LAYER_COLUMNS = ["layer", "point", "alpha", "nominal_r2", "held_out_r2", "angle", "cosine", "refitted"]


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
        return block_means(self.levels[level], self.code, self.n_blocks)

    def on_test_rows(self, values: Line) -> Float[np.ndarray, " block"]:
        """Mean of some values over each block's test rows."""
        return block_means(np.where(self.test, values, np.nan), self.code, self.n_blocks)

    def error_by_block(self, level: str) -> Float[np.ndarray, " block"]:
        """Median error of each block's rows."""
        return block_medians(self.error[level], self.code, self.n_blocks)


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


# Tables ----------------------------------------------------------------------------------------------
def score_table(
    rows: RowScores,
    predicted: Float[np.ndarray, "held target"],
    squares: Squares,
    centres: Centroids,
    draws: int,
    seed: int,
) -> pd.DataFrame:
    """One row per figure, each with its interval over resampled blocks and its level of chance."""
    n, test, measure = rows.n_blocks, rows.test, rows.measure
    whole = np.ones((1, n))
    table: list[dict[str, Any]] = []

    def add(name: str, nominal: float, statistic: Statistic, chance: float, chance_is: str) -> None:
        low, high = resampled(statistic, n, draws, seed)
        held_out = float(statistic(whole)[0])
        table.append(
            {"measure": name, "nominal": nominal, "held_out": held_out, "low": low, "high": high,
             "chance": chance, "chance_is": chance_is}
        )  # fmt: skip

    def add_mean(name: str, nominal: float, values: np.ndarray, chance: float, chance_is: str) -> None:
        add(name, nominal, partial(weighted_mean, values=values), chance, chance_is)

    def add_median(name: str, values: np.ndarray, chance: float, chance_is: str) -> None:
        add(name, _NAN, partial(weighted_median, values=values), chance, chance_is)

    def level(name: str) -> float:
        return float(np.nanmean(rows.by_block(name)))

    if measure == "proximity error":
        others = f"({level('mean'):.3f} for the training mean, {level('other_row'):.3f} with another row of"
        chance_is = f"for shuffled predictions {others} the block)"
        add_mean(measure, level("nominal"), rows.by_block("held_out"), 0.5, chance_is)
        rise = rows.on_test_rows(rows.levels["held_out"] - rows.levels["nominal"])
        add_mean(f"{measure}, rise on the same test rows", _NAN, rise, 0.0, "for no loss")
    else:
        floor = level("mean")
        add_mean(measure, level("nominal"), rows.by_block("held_out"), floor, "for the training mean")
    if "held_out_paper_compat" in rows.levels:
        papers = rows.by_block("held_out_paper_compat")
        nominal = level("nominal_paper_compat")
        add_mean("paper_compat proximity error", nominal, papers, 0.5, "for shuffled predictions")
    add("R²", _nominal_r2(rows), squares.r2, 0.0, "for the training mean of each fit")
    add(
        "R² against the mean of the scored rows",
        mean_r2(rows.y[test], rows.nominal_prediction[test]),
        _grand_r2(rows, predicted),
        mean_r2(rows.y, centres.mean[rows.code]),
        "for the training mean of each fit",
    )
    if rows.error:
        median = {name: rows.error_by_block(name) for name in rows.error}
        nominal, floor = float(np.nanmean(median["nominal"])), float(np.nanmean(median["mean"]))
        name = f"median error ({rows.error_unit}), mean over blocks"
        add_mean(name, nominal, median["held_out"], floor, "for the training mean")
    if centres.true.shape[1] == 1:
        right = np.where(np.isfinite(centres.cosine), centres.cosine > 0, np.nan)
        add_mean("blocks on their side of the mean", _NAN, right, 0.5, "for a coin")
    else:
        add_median("centroid angle (°), median", centres.angle, 90.0, "by chance")
        add_mean("centroid cosine, mean", _NAN, centres.cosine, 0.0, "by chance")
    moved = "for the training mean, 1 all the way"
    add_median("centroid distance moved, median", centres.ratio, 0.0, moved)
    inside = within_correlation(rows.y, predicted, rows.code, n)
    before = within_correlation(rows.y[test], rows.nominal_prediction[test], rows.code[test], n)
    add("correlation within blocks", float(before(whole)[0]), inside, 0.0, "by chance")
    if measure == "accuracy":
        held_out = mean(auroc(rows.y, predicted))
        nominal = mean(auroc(rows.y[test], rows.nominal_prediction[test]))
        table.append(
            {"measure": "AUROC, pooled", "nominal": nominal, "held_out": held_out, "low": _NAN,
             "high": _NAN, "chance": 0.5, "chance_is": "by chance"}
        )  # fmt: skip
    return pd.DataFrame(table)


def _nominal_r2(rows: RowScores) -> float:
    """Pooled R² of the nominal fit on the blocks' test rows, against the mean of its training rows."""
    test = rows.test
    one_block = np.zeros(int(test.sum()), np.int64)
    mean_rows = np.tile(rows.train_mean, (len(one_block), 1))
    squares = Squares.of(rows.y[test], rows.nominal_prediction[test], mean_rows, one_block, 1)
    return float(squares.r2()[0])


def _grand_r2(rows: RowScores, predicted: np.ndarray) -> Statistic:
    """R² against the mean of the scored rows, as scikit-learn's; NaN where no target varies in a resample."""
    sums = cluster_sums(rows.y, {"probe": predicted}, rows.code)
    assert len(sums.n) == rows.n_blocks

    def statistic(weights: Draws) -> np.ndarray:
        return defined_mean(weighted_r2(sums, weights)[:, 0])

    return statistic


def block_table(
    blocks: Blocks,
    rows: RowScores,
    squares: Squares,
    centres: Centroids,
    intervals: Float[np.ndarray, "block 2"],
    target_names: Sequence[str],
) -> pd.DataFrame:
    """One row per block."""
    out = pd.DataFrame(
        {
            "block": list(blocks.names),
            "rows": [len(r) for r in blocks.rows],
            "test_rows": np.bincount(rows.code[rows.test], minlength=rows.n_blocks),
            "cluster_mates": [len(m) for m in blocks.mates],
            "nominal": rows.by_block("nominal"),
            "held_out": rows.by_block("held_out"),
            "held_out_low": intervals[:, 0],
            "held_out_high": intervals[:, 1],
            "held_out_on_test_rows": rows.on_test_rows(rows.levels["held_out"]),
            "mean_level": rows.by_block("mean"),
            "r2": squares.by_block(),
            "angle": centres.angle,
            "cosine": centres.cosine,
            "ratio": centres.ratio,
        }
    )
    for name in ("other_row", "nominal_paper_compat", "held_out_paper_compat"):
        if name in rows.levels:
            out[name] = rows.by_block(name)
    for name in rows.error:
        out[f"error_{name}"] = rows.error_by_block(name)
    for t, name in enumerate(target_names):
        out[f"true_{name}"], out[f"pred_{name}"] = centres.true[:, t], centres.predicted[:, t]
        out[f"mean_{name}"] = centres.mean[:, t]
    return out


def predictor_table(
    squares: Mapping[str, Squares], centres: Mapping[str, Centroids], draws: int, seed: int
) -> pd.DataFrame:
    """One row per predictor; the same resamples of blocks for all, so the differences are paired."""
    table: list[dict[str, Any]] = []
    probe, n = squares["probe"], len(squares["probe"].error)
    whole = np.ones((1, n))
    for name, own in squares.items():

        def adds(weights: Draws, own: Squares = own) -> np.ndarray:
            return probe.r2(weights) - own.r2(weights)

        low, high = resampled(own.r2, n, draws, seed)
        adds_low, adds_high = resampled(adds, n, draws, seed)
        table.append(
            {
                "predictor": name,
                "r2": float(own.r2()[0]),
                "low": low,
                "high": high,
                "probe_adds": float(adds(whole)[0]),
                "adds_low": adds_low,
                "adds_high": adds_high,
                "angle": float(weighted_median(whole, centres[name].angle)[0]),
                "cosine": float(weighted_mean(whole, centres[name].cosine)[0]),
                "ratio": float(weighted_median(whole, centres[name].ratio)[0]),
            }
        )
    return pd.DataFrame(table)


def layer_table(problem: Problem, blocks: Blocks, probes: Iterable[tuple[str, ProbeWithout]]) -> pd.DataFrame:
    """One row per layer: R² in and out, and the centroids."""
    y, code = problem.y[blocks.every], blocks.code
    test = problem.is_test[blocks.every]
    train_mean = np.tile(problem.y[problem.train].mean(axis=0), (test.sum(), 1))
    table: list[dict[str, Any]] = []
    for point, probe in probes:
        fit_mean, n = probe.fits.y_mean, len(blocks.names)
        centres = centroids(y, probe.held_out, code, fit_mean)
        nominal = Squares.of(y[test], probe.nominal[blocks.every][test], train_mean, code[test], n)
        table.append(
            {
                "layer": layer_of(point),
                "point": point,
                "alpha": probe.alpha,
                "nominal_r2": float(nominal.r2()[0]),
                "held_out_r2": float(Squares.of(y, probe.held_out, fit_mean[code], code, n).r2()[0]),
                "angle": float(np.nanmedian(centres.angle)),
                "cosine": float(np.nanmean(centres.cosine)),
                "refitted": probe.fits.refitted,
            }
        )
    return pd.DataFrame(table, columns=_LAYER_COLUMNS)
