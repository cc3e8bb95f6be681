"""Inside blocks: what is left of a score once the block is taken out, and what the block alone gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from graticule.hooks.imports import load
from graticule.probes.controls.lines import Line, line, not_applicable
from graticule.probes.controls.scoring import Sampled
from graticule.probes.controls.setting import Setting
from graticule.probes.scores.bootstrap import resamples
from graticule.probes.scores.verdict import stack
from graticule.probes.tables.oracle import block_oracle_predictions

MINIMUM = 10
"""Test rows that a block needs to be scored within."""
SURFACE, PROBE, BASELINE = "surface", "probe", "best baseline"
REFITTED, BOTH = "surface, refitted within", "surface and probe, refitted within"


@dataclass(frozen=True)
class Within:
    """Scores inside blocks, pooled over blocks."""

    r: Mapping[str, Sampled]
    """Predictor → correlation of what is left after every block's mean is taken out of both sides."""
    r2: Mapping[str, Sampled]
    """Predictor → 1 − Σ(residual error)² / Σ(residual truth)², likewise."""


def within_scores(
    y: Float[np.ndarray, "row target"],
    predictions: Mapping[str, Float[np.ndarray, "row target"]],
    codes: Int[np.ndarray, " row"],
    clusters: Int[np.ndarray, " row"],
    draws: int,
    seed: int,
) -> Within:
    """Pooled scores of every predictor inside the blocks 0, 1, … that `codes` names, mean over targets.

    Blocks' means are those of the scored rows (of the resample, where it is one), weights being the number
    of rows. Targets that do not vary inside any block are left out of the mean.
    """
    _, cluster = np.unique(clusters, return_inverse=True)
    size, blocks = int(cluster.max()) + 1, int(codes.max()) + 1
    columns = [
        _Column(y[:, t] - y[:, t].mean(), {k: p[:, t] - p[:, t].mean() for k, p in predictions.items()})
        for t in range(y.shape[1])
    ]
    cell = _Cells(cluster, codes, size, blocks)
    point = _scores(columns, cell, np.ones((1, size)), list(predictions))
    if size > 1:
        parts = [_scores(columns, cell, w, list(predictions)) for w in resamples(size, draws, seed)]
        sampled = np.concatenate(parts, axis=2)
    else:
        sampled = np.full((2, len(predictions), draws), np.nan)
    made = [
        {name: Sampled(float(point[m, i, 0]), sampled[m, i]) for i, name in enumerate(predictions)}
        for m in range(2)
    ]
    return Within(*made)


@dataclass(frozen=True)
class _Column:
    """A target with everyone's prediction of it, each about its own mean so that no digits cancel."""

    y: np.ndarray
    predictions: dict[str, np.ndarray]


class _Cells:
    """Sums by (cluster, block), and their sums by block under any weights of the clusters."""

    def __init__(self, cluster: np.ndarray, codes: np.ndarray, size: int, blocks: int) -> None:
        self._place, self._shape = (cluster, codes), (size, blocks)

    def sums(self, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """[draw, block]."""
        load("scipy.sparse")
        from scipy.sparse import csr_array

        table = csr_array((values, self._place), shape=self._shape)
        return np.asarray(weights @ table)


def _scores(
    columns: list[_Column], cells: _Cells, weights: np.ndarray, names: list[str]
) -> Float[np.ndarray, "metric predictor draw"]:
    """r and R² of every predictor, mean over the targets that vary."""
    out = np.full((len(columns), 2, len(names), len(weights)), np.nan)
    count = np.maximum(cells.sums(np.ones(len(columns[0].y)), weights), 1e-300)
    for t, column in enumerate(columns):
        y, sum_y = column.y, cells.sums(column.y, weights)
        total_y = (cells.sums(y * y, weights) - sum_y**2 / count).sum(axis=1)
        floor = 1e-12 * max(float((y * y).sum()), 1e-300)
        for i, name in enumerate(names):
            p = column.predictions[name]
            sum_p = cells.sums(p, weights)
            total_p = (cells.sums(p * p, weights) - sum_p**2 / count).sum(axis=1)
            both = (cells.sums(y * p, weights) - sum_y * sum_p / count).sum(axis=1)
            defined = total_y > floor
            error = total_y - 2 * both + total_p
            out[t, 1, i] = np.where(defined, 1 - error / np.where(defined, total_y, 1.0), np.nan)
            varied = defined & (total_p > 1e-12 * max(float((p * p).sum()), 1e-300))
            scale = np.sqrt(np.where(varied, total_y, 1.0)) * np.sqrt(np.where(varied, total_p, 1.0))
            out[t, 0, i] = np.where(varied, both / scale, np.nan)
    known = ~np.isnan(out)
    number = known.sum(axis=0)
    return np.where(number > 0, np.where(known, out, 0.0).sum(axis=0) / np.maximum(number, 1), np.nan)


def scored_blocks(labels: pd.Series, minimum: int = MINIMUM) -> Int[np.ndarray, " row"]:
    """A code a row for its block; −1 where the block is missing or has fewer than `minimum` rows."""
    codes = pd.factorize(labels)[0]
    counts = np.bincount(codes[codes >= 0], minlength=codes.max(initial=-1) + 1)
    kept = (codes >= 0) & (np.concatenate([counts, [0]])[codes] >= minimum)
    out = np.full(len(codes), -1, np.int64)
    out[kept] = pd.factorize(codes[kept])[0]
    return out


def block_lines(setting: Setting) -> tuple[list[Line], pd.DataFrame]:
    """Within-block scores and the block oracle for every block column of the table.

    The second value has a line a block column and predictor: `block`, `predictor`, `r`, `r_low`, `r_high`,
    `r2`, `r2_low`, `r2_high`, `blocks`, `rows`.
    """
    table, problem = setting.material.table, setting.material.problem
    lines: list[Line] = []
    frames: list[dict[str, object]] = []
    if not table.blocks:
        why = "the table has no block columns: give blocks= when making it"
        lines.append(not_applicable("within blocks", "within blocks", _asks("block"), why))
        return [*lines, not_applicable("oracle", "block oracle", _oracle_asks("block"), why)], _empty()
    for name, labels in table.blocks.items():
        of_rows = labels.iloc[problem.source].reset_index(drop=True)
        lines += _within_lines(setting, name, of_rows, frames)
        lines += _oracle_lines(setting, name, of_rows)
    return lines, pd.DataFrame(frames) if frames else _empty()


def _within_lines(
    setting: Setting, block: str, labels: pd.Series, frames: list[dict[str, object]]
) -> list[Line]:
    name, problem = f"within {block}", setting.material.problem
    codes = scored_blocks(labels.iloc[problem.test])
    rows = np.flatnonzero(codes >= 0)
    if not len(rows):
        why = f"no {block} has {MINIMUM} test rows"
        return [not_applicable("within blocks", name, _asks(block), why)]
    y = setting.y_test[rows]
    of_train = scored_blocks(labels.iloc[problem.train], 2)
    if not (of_train >= 0).any():
        why = f"no {block} has two training rows"
        return [not_applicable("within blocks", name, _asks(block), why)]
    predictions = {k: p[rows] for k, p in _predictors(setting, of_train).items()}
    found = within_scores(
        y, predictions, codes[rows], setting.clusters_test[rows], setting.draws, setting.seed
    )
    if np.isnan(found.r2[PROBE].value):
        return [
            not_applicable("within blocks", name, _asks(block), f"the target is constant in every {block}")
        ]
    blocks = int(codes.max()) + 1
    for key, r in found.r.items():
        r2 = found.r2[key]
        ends = dict(zip(("r_low", "r_high", "r2_low", "r2_high"), (*r.ci95, *r2.ci95), strict=True))
        counts = {"blocks": blocks, "rows": len(rows)}
        frames.append({"block": block, "predictor": key, "r": r.value, "r2": r2.value, **ends, **counts})
    note = f"{blocks:,} blocks of {MINIMUM} test rows or more, pooled"
    ours, n = found.r[PROBE], len(rows)
    best = setting.findings.verdict.strongest_baseline
    lines = [
        line(
            "within blocks", f"{name}, the surface", _asks(block), found.r[SURFACE], ours, n,
            metric="r", note=note,
        )
    ]  # fmt: skip
    if best is not None:
        args = ("within blocks", f"{name}, {best}", _asks(block), found.r[BASELINE], ours, n)
        lines.append(line(*args, metric="r", note=note))
    gain = f"does the probe add to the surface once the {block} is known"
    args = ("within blocks", f"{name}, gain", gain, found.r2[REFITTED], found.r2[BOTH], n)
    return [*lines, line(*args, metric="gain", note=f"stacks refitted on what is left within; {note}")]


def _predictors(
    setting: Setting, codes: Int[np.ndarray, " train"]
) -> dict[str, Float[np.ndarray, "test target"]]:
    """Test predictions of probe, surface and strongest baseline, and of stacks refitted within blocks.

    A stack fitted across blocks has the spread of whole blocks, many times that inside one: its R² inside
    would say only that. So two more are fitted on training rows with every block's means taken out.
    """
    rivals, best = setting.material.rivals, setting.findings.verdict.strongest_baseline
    rows = np.flatnonzero(codes >= 0)
    left = {n: _residual(p.out_of_fold[rows], codes[rows]) for n, p in rivals.items()}
    tests = {n: p.test for n, p in rivals.items()}
    y, count = _residual(setting.y_train[rows], codes[rows]), len(setting.y_test)
    refitted = stack(left, y).predict(tests, count)
    left[PROBE] = _residual(setting.probe.out_of_fold[rows], codes[rows])
    both = stack(left, y).predict({**tests, PROBE: setting.probe.test}, count)
    out = {PROBE: setting.probe.test, SURFACE: setting.surface.test, REFITTED: refitted, BOTH: both}
    return out if best is None else {**out, BASELINE: rivals[best].test}


def _residual(
    values: Float[np.ndarray, "row target"], codes: Int[np.ndarray, " row"]
) -> Float[np.ndarray, "row target"]:
    """Values about the mean of their block."""
    counts = np.bincount(codes)
    means = np.stack([np.bincount(codes, weights=column) / counts for column in values.T], axis=1)
    return values - means[codes]


def _oracle_lines(setting: Setting, block: str, labels: pd.Series) -> list[Line]:
    name, problem = f"oracle: {block}", setting.material.problem
    train = labels.iloc[problem.train].dropna()
    if train.empty:
        return [not_applicable("oracle", name, _oracle_asks(block), f"no training row has a {block}")]
    predicted = block_oracle_predictions(problem.y, labels, problem.is_test)
    found = setting.scores(
        {"oracle": (setting.y_test, predicted), "probe": (setting.y_test, setting.probe.test)}
    )
    known = labels.iloc[problem.test].isin(train.unique())
    note = f"{train.nunique():,} training means; {int(known.sum()):,} of {len(known):,} test rows have one"
    args = ("oracle", name, _oracle_asks(block), found["oracle"], found["probe"], len(known))
    return [line(*args, note=note)]


def _asks(block: str) -> str:
    return f"how rows of one {block} are ordered, the mean of every {block} taken out"


def _oracle_asks(block: str) -> str:
    return f"what a predictor reaches that knows the {block} and nothing else"


def _empty() -> pd.DataFrame:
    columns = ("block", "predictor", "r", "r2", "r_low", "r_high", "r2_low", "r2_high", "blocks", "rows")
    return pd.DataFrame({c: pd.Series(dtype=object if c in columns[:2] else np.float64) for c in columns})
