"""What every held-out row scores with its block in training, without it, and by chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from tqdm.auto import tqdm

from graticule.probes.generalisation.block_scores import proximity
from graticule.probes.generalisation.blocks import Blocks
from graticule.probes.generalisation.held_out import ProbeWithout, at_once, everywhere
from graticule.probes.material import Material
from graticule.probes.scores.geo import haversine_km
from graticule.probes.scores.metrics import coordinate_columns

Line = Float[np.ndarray, " held"]


@dataclass(frozen=True)
class RowScores:
    """One entry a held-out row, block by block; NaN where a row has no such score."""

    y: Float[np.ndarray, "held target"]
    """The truth."""
    code: Int[np.ndarray, " held"]
    """The block."""
    test: Bool[np.ndarray, " held"]
    """Whether it is a test row of the table's own split: only these have nominal scores."""
    nominal_prediction: Float[np.ndarray, "held target"]
    """By the fit on the table's own training rows."""
    train_mean: Float[np.ndarray, " target"]
    """Mean target of those rows."""
    nominal: Line
    """Score with the block in training."""
    held_out: Line
    """Score without."""
    mean_level: Line
    """Score of predicting the training mean instead."""
    other_row: Line | None
    """Score with the prediction of another row of the block: what knowing the block alone would reach."""
    error: Mapping[str, Line]
    """`nominal`, `held_out`, `mean` → distance from the truth, where there is one unit."""
    error_unit: str
    """Its unit."""
    paper: tuple[Line, Line] | None
    """Nominal and held out as the paper's code scores them."""


def score_rows(
    material: Material,
    point: str,
    blocks: Blocks,
    probe: ProbeWithout,
    paper_compat: bool,
    progress: bool | None,
) -> tuple[str, RowScores]:
    """The name of the measure, and every held-out row's scores with the block in, out, and at chance.

    Proximity error where there are coordinates or one number, absolute error in standard deviations of the
    training targets for several numbers, accuracy for classes.
    """
    problem, table = material.problem, material.table
    every, code = blocks.every, blocks.code
    y, test = problem.y[every], problem.is_test[every]
    mean, nominal = probe.fits.y_mean[code], np.where(test[:, None], probe.nominal[every], np.nan)
    train_mean = problem.y[problem.train].mean(axis=0)
    places = coordinate_columns(table.units) if table.kind == "numeric" else None
    ranked = table.kind == "numeric" and (places is not None or y.shape[1] == 1)
    error: dict[str, np.ndarray] = {}
    unit = ""
    if places is not None:
        unit = "km"
        for name, pred in (("nominal", nominal), ("held_out", probe.held_out), ("mean", mean)):
            error[name] = haversine_km(
                y[:, places[0]], y[:, places[1]], pred[:, places[0]], pred[:, places[1]]
            )
    elif table.kind == "numeric" and y.shape[1] == 1:
        unit = table.units[0] or table.target_names[0]
        for name, pred in (("nominal", nominal), ("held_out", probe.held_out), ("mean", mean)):
            error[name] = np.abs(y - pred)[:, 0]
    paper: tuple[np.ndarray, np.ndarray] | None = None
    if ranked:
        columns = [0] if places is None else list(places)
        levels, paper = _ranked(material, point, blocks, probe, columns, paper_compat, progress)
        measure = "proximity error"
    elif table.kind == "numeric":
        spread = problem.y[problem.train].std(axis=0)
        spread = np.where(spread > 0, spread, 1.0)
        levels = {
            name: (np.abs(y - pred) / spread).mean(axis=1)
            for name, pred in (("nominal", nominal), ("held_out", probe.held_out), ("mean", mean))
        }
        measure = "absolute error"
    else:
        levels = {
            name: _correct(y, pred)
            for name, pred in (("nominal", nominal), ("held_out", probe.held_out), ("mean", mean))
        }
        measure = "accuracy"
    held = RowScores(
        y=y,
        nominal_prediction=nominal,
        train_mean=train_mean,
        code=code,
        test=test,
        nominal=levels["nominal"],
        held_out=levels["held_out"],
        mean_level=levels["mean"],
        other_row=levels.get("other_row"),
        error=error,
        error_unit=unit,
        paper=paper,
    )
    return measure, held


def _correct(y: np.ndarray, pred: np.ndarray) -> np.ndarray:
    truth = y[:, 0] > 0.5 if y.shape[1] == 1 else y.argmax(axis=1)
    guess = pred[:, 0] > 0.5 if y.shape[1] == 1 else np.nan_to_num(pred).argmax(axis=1)
    return np.where(np.isfinite(pred).all(axis=1), truth == guess, np.nan)


def _ranked(
    material: Material,
    point: str,
    blocks: Blocks,
    probe: ProbeWithout,
    columns: list[int],
    paper_compat: bool,
    progress: bool | None,
) -> tuple[dict[str, np.ndarray], tuple[np.ndarray, np.ndarray] | None]:
    """Combined proximity errors of every held-out row, block by block."""
    problem = material.problem
    y = problem.y[:, columns]
    nominal = np.ascontiguousarray(probe.nominal[:, columns])
    out = {name: np.full(len(blocks.every), np.nan) for name in ("nominal", "held_out", "mean", "other_row")}
    paper = (out["nominal"].copy(), out["nominal"].copy())
    rng = np.random.default_rng(material.seed)
    step, end = at_once(*problem.y.shape), np.cumsum([len(r) for r in blocks.rows])
    quiet = progress is False or (progress is None and len(y) * len(blocks.every) < 10**8)
    with tqdm(total=len(end), desc="hold-outs", unit="block", disable=quiet, leave=False) as bar:
        for first in range(0, len(end), step):
            last = min(first + step, len(end))
            predicted = everywhere(material, point, probe.fits, first, last)[:, :, columns]
            for i in range(first, last):
                rows = blocks.rows[i]
                place = np.arange(end[i] - len(rows), end[i])
                tests = place[problem.is_test[rows]]
                tested = rows[problem.is_test[rows]]
                all_rows = np.ascontiguousarray(predicted[i - first])
                own = all_rows[rows]
                out["nominal"][tests] = proximity(y[tested], nominal[tested], nominal)
                out["held_out"][place] = proximity(y[rows], own, all_rows)
                # derangement by a step round a shuffled circle: never a row's own prediction
                order = rng.permutation(len(rows))
                other = np.empty_like(order)
                other[order] = np.roll(order, 1)
                out["other_row"][place] = proximity(y[rows], own[other], all_rows)
                if paper_compat:
                    paper[0][tests] = proximity(y[tested], nominal[tested], nominal, True)
                    paper[1][place] = proximity(y[rows], own, all_rows, True)
                flat = all_rows.copy()
                flat[rows] = probe.fits.y_mean[i, columns]
                out["mean"][place] = proximity(y[rows], flat[rows], flat)
                bar.update()
    return out, paper if paper_compat else None
