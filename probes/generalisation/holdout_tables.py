"""Tables of a hold-out: scores with chance, a line a block, a line a baseline, a line a layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.hooks.points import layer_of
from graticule.probes.findings import Findings
from graticule.probes.generalisation.block_scores import (
    Centroids,
    Draws,
    Squares,
    block_means,
    centroids,
    resampled,
    weighted_mean,
    weighted_median,
    within_correlation,
)
from graticule.probes.generalisation.blocks import Blocks
from graticule.probes.generalisation.held_out import ProbeWithout
from graticule.probes.generalisation.row_scores import RowScores
from graticule.probes.scores.metrics import auroc, mean, mean_r2

_NAN = float("nan")


def score_table(
    rows: RowScores,
    predicted: Float[np.ndarray, "held target"],
    squares: Squares,
    centres: Centroids,
    measure: str,
    draws: int,
    seed: int,
) -> pd.DataFrame:
    """A line a figure, each with its interval over resampled blocks and its level of chance."""
    n = len(centres.mean)
    lines: list[dict[str, Any]] = []

    def means(values: np.ndarray) -> np.ndarray:
        return block_means(values, rows.code, n)

    def add(
        name: str,
        nominal: float,
        statistic: Callable[[Draws], np.ndarray],
        chance: float,
        chance_is: str,
    ) -> None:
        low, high = resampled(statistic, n, draws, seed)
        value = float(statistic(np.ones((1, n)))[0])
        lines.append(
            {"measure": name, "nominal": nominal, "held_out": value, "low": low, "high": high,
             "chance": chance, "chance_is": chance_is}
        )  # fmt: skip

    nominal, floor = float(np.nanmean(means(rows.nominal))), float(np.nanmean(means(rows.mean_level)))
    if measure == "proximity error":
        other = float(np.nanmean(means(_known(rows.other_row))))
        add(
            measure, nominal, _bound(weighted_mean, means(rows.held_out)), 0.5,
            f"for shuffled predictions ({floor:.3f} for the training mean, {other:.3f} with another row of "
            "the block)",
        )  # fmt: skip
        change = means(np.where(rows.test, rows.held_out - rows.nominal, np.nan))
        add(f"{measure}, rise on the same test rows", _NAN, _bound(weighted_mean, change), 0.0, "for no loss")
    else:
        add(measure, nominal, _bound(weighted_mean, means(rows.held_out)), floor, "for the training mean")
    if rows.paper is not None:
        paper = float(np.nanmean(means(rows.paper[0])))
        add(
            "paper_compat proximity error",
            paper,
            _bound(weighted_mean, means(rows.paper[1])),
            0.5,
            "for shuffled predictions",
        )
    add("R²", _nominal_r2(rows), squares.r2, 0.0, "for the training mean of each fit")
    grand = mean_r2(rows.y, centres.mean[rows.code])
    add(
        "R² against the mean of the scored rows",
        mean_r2(rows.y[rows.test], rows.nominal_prediction[rows.test]),
        _grand_r2(rows, predicted, n),
        grand,
        "for the training mean of each fit",
    )
    if rows.error:
        middle = {k: _medians(v, rows.code, n) for k, v in rows.error.items()}
        add(
            f"median error ({rows.error_unit}), mean over blocks", float(np.nanmean(middle["nominal"])),
            _bound(weighted_mean, middle["held_out"]), float(np.nanmean(middle["mean"])),
            "for the training mean",
        )  # fmt: skip
    one = centres.true.shape[1] == 1
    if one:
        right = np.where(np.isfinite(centres.cosine), centres.cosine > 0, np.nan)
        add("blocks on their side of the mean", _NAN, _bound(weighted_mean, right), 0.5, "for a coin")
    else:
        add("centroid angle (°), median", _NAN, _bound(weighted_median, centres.angle), 90.0, "by chance")
        add("centroid cosine, mean", _NAN, _bound(weighted_mean, centres.cosine), 0.0, "by chance")
    add(
        "centroid distance moved, median", _NAN, _bound(weighted_median, centres.ratio), 0.0,
        "for the training mean, 1 all the way",
    )  # fmt: skip
    inside = within_correlation(rows.y, predicted, rows.code, n)
    t = rows.test
    before = within_correlation(rows.y[t], rows.nominal_prediction[t], rows.code[t], n)(np.ones((1, n)))[0]
    add("correlation within blocks", float(before), inside, 0.0, "by chance")
    if measure == "accuracy":
        held = mean(auroc(rows.y, predicted))
        was = mean(auroc(rows.y[t], rows.nominal_prediction[t]))
        lines.append(
            {"measure": "AUROC, pooled", "nominal": was, "held_out": held, "low": _NAN, "high": _NAN,
             "chance": 0.5, "chance_is": "by chance"}
        )  # fmt: skip
    return pd.DataFrame(lines)


def block_table(
    blocks: Blocks,
    rows: RowScores,
    squares: Squares,
    centres: Centroids,
    intervals: Float[np.ndarray, "block 2"],
    target_names: Sequence[str],
) -> pd.DataFrame:
    """A line a block."""
    n = len(blocks.names)

    def means(values: np.ndarray) -> np.ndarray:
        return block_means(values, rows.code, n)

    out = pd.DataFrame(
        {
            "block": list(blocks.names),
            "rows": [len(r) for r in blocks.rows],
            "test_rows": np.bincount(rows.code[rows.test], minlength=n),
            "cluster_mates": [len(m) for m in blocks.mates],
            "nominal": means(rows.nominal),
            "held_out": means(rows.held_out),
            "held_out_low": intervals[:, 0],
            "held_out_high": intervals[:, 1],
            "held_out_on_test_rows": means(np.where(rows.test, rows.held_out, np.nan)),
            "mean_level": means(rows.mean_level),
            "r2": squares.by_block(),
            "angle": centres.angle,
            "cosine": centres.cosine,
            "ratio": centres.ratio,
        }
    )
    if rows.other_row is not None:
        out["other_row"] = means(rows.other_row)
    if rows.paper is not None:
        out["nominal_paper_compat"], out["held_out_paper_compat"] = (means(p) for p in rows.paper)
    for name, values in rows.error.items():
        out[f"error_{name}"] = _medians(values, rows.code, n)
    for t, name in enumerate(target_names):
        out[f"true_{name}"], out[f"pred_{name}"] = centres.true[:, t], centres.predicted[:, t]
        out[f"mean_{name}"] = centres.mean[:, t]
    return out


def rival_table(
    squares: Mapping[str, Squares], centres: Mapping[str, Centroids], draws: int, seed: int
) -> pd.DataFrame:
    """A line a predictor; the same resamples of blocks for all, so the differences are paired."""
    lines: list[dict[str, Any]] = []
    probe, n = squares["probe"], len(squares["probe"].error)
    whole = np.ones((1, n))
    for name, own in squares.items():
        low, high = resampled(own.r2, n, draws, seed)

        def adds(w: Draws, own: Squares = own) -> np.ndarray:
            return probe.r2(w) - own.r2(w)

        adds_low, adds_high = resampled(adds, n, draws, seed)
        c = centres[name]
        lines.append(
            {
                "predictor": name,
                "r2": float(own.r2()[0]),
                "low": low,
                "high": high,
                "probe_adds": float(adds(whole)[0]),
                "adds_low": adds_low,
                "adds_high": adds_high,
                "angle": float(weighted_median(whole, c.angle)[0]),
                "cosine": float(weighted_mean(whole, c.cosine)[0]),
                "ratio": float(weighted_median(whole, c.ratio)[0]),
            }
        )
    return pd.DataFrame(lines)


def layer_table(findings: Findings, blocks: Blocks, swept: Mapping[str, ProbeWithout]) -> pd.DataFrame:
    """A line a layer: R² in and out, and the centroids."""
    problem = findings.material.problem
    y, code = problem.y[blocks.every], blocks.code
    test = problem.is_test[blocks.every]
    train_mean = problem.y[problem.train].mean(axis=0)
    lines: list[dict[str, Any]] = []
    for point, probe in swept.items():
        m = probe.fits.y_mean
        squares = Squares.of(y, probe.held_out, m[code], code, len(m))
        nominal = Squares.of(
            y[test],
            probe.nominal[blocks.every][test],
            np.tile(train_mean, (test.sum(), 1)),
            code[test],
            len(m),
        )
        centres = centroids(y, probe.held_out, code, m)
        lines.append(
            {
                "layer": layer_of(point),
                "point": point,
                "alpha": probe.alpha,
                "nominal_r2": float(nominal.r2()[0]),
                "held_out_r2": float(squares.r2()[0]),
                "angle": float(np.nanmedian(centres.angle)),
                "cosine": float(np.nanmean(centres.cosine)),
                "refitted": probe.fits.refitted,
            }
        )
    columns = [
        "layer", "point", "alpha", "nominal_r2", "held_out_r2", "angle", "cosine", "refitted"
    ]  # fmt: skip
    return pd.DataFrame(lines, columns=columns)


def _nominal_r2(rows: RowScores) -> float:
    """Pooled R² of the nominal fit on the blocks' test rows, against the mean of its training rows."""
    t = rows.test
    zero = np.zeros(int(t.sum()), np.int64)
    mean_rows = np.tile(rows.train_mean, (len(zero), 1))
    return float(Squares.of(rows.y[t], rows.nominal_prediction[t], mean_rows, zero, 1).r2()[0])


def _grand_r2(
    rows: RowScores, predicted: np.ndarray, n: int
) -> Callable[[Draws], Float[np.ndarray, " draw"]]:
    """R² against the mean of the scored rows, as scikit-learn's, for any resample of blocks."""
    from graticule.probes.scores.bootstrap import cluster_sums, weighted_r2

    sums = cluster_sums(rows.y, {"probe": predicted}, rows.code)
    assert len(sums.n) == n

    def statistic(weights: Draws) -> np.ndarray:
        values = weighted_r2(sums, weights)[:, 0]
        known = np.isfinite(values)
        return np.where(known, values, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)

    return statistic


def _medians(values: np.ndarray, code: np.ndarray, n: int) -> Float[np.ndarray, " block"]:
    out = np.full(n, np.nan)
    for i in range(n):
        own = values[(code == i) & np.isfinite(values)]
        out[i] = np.median(own) if len(own) else np.nan
    return out


def _bound(
    statistic: Callable[[Draws, np.ndarray], np.ndarray], values: np.ndarray
) -> Callable[[Draws], np.ndarray]:
    return lambda weights: statistic(weights, values)


def _known(values: np.ndarray | None) -> np.ndarray:
    assert values is not None
    return values
