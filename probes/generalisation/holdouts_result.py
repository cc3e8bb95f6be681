"""The result of `holdouts`: its tables, and the answer in words and figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.hooks.calls import renamed_fields
from graticule.hooks.messages import UnknownNameError
from graticule.hooks.points import layer_of, layer_text
from graticule.hooks.result import headed
from graticule.hooks.saved import SavedResult
from graticule.probes.core.class_lines import IN_R2
from graticule.probes.core.fit import Problem
from graticule.probes.core.resample import resampled_interval
from graticule.probes.generalisation.blocks import Blocks, ProbeWithout
from graticule.probes.generalisation.holdout_scores import (
    Centroids,
    Draws,
    RowScores,
    Squares,
    centroids,
    weighted_mean,
    weighted_median,
)
from graticule.probes.scores.metrics import FEW, coordinate_columns, signed, with_interval

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_FEW = 10
_LAYER_COLUMNS = ["layer", "point", "alpha", "nominal_r2", "held_out_r2", "angle", "cosine", "refitted"]
_SCORES = {
    "measure": "figure",
    "nominal": "block in training",
    "held_out": "block held out",
    "span": "95% interval",
    "chance": "chance",
    "chance_is": "chance is",
}
_PREDICTORS = {
    "predictor": "predictor",
    "r2": "R² held out",
    "low": "95% from",
    "high": "to",
    "probe_adds": "the probe adds",
    "adds_low": "adds from",
    "adds_high": "adds to",
    "cosine": "centroid cosine",
    "ratio": "distance moved",
}
_BLOCKS = {
    "block": "block",
    "rows": "rows",
    "test_rows": "test rows",
    "nominal": "nominal",
    "held_out": "held out",
    "held_out_low": "95% from",
    "held_out_high": "to",
    "mean_level": "training mean",
    "r2": "R²",
    "cosine": "centroid cosine",
    "ratio": "distance moved",
}


@renamed_fields(rivals="predictors")
@dataclass(frozen=True)
class Holdouts(SavedResult):
    """The result of `holdouts`."""

    KIND: ClassVar[str] = "holdouts"

    model: str
    table: str
    by: str
    """What was held out, a block at a time."""
    numeric: bool
    """Whether the blocks are numbers, such as centuries."""
    kind: str
    """`numeric`, `binary` or `categorical`."""
    target_names: tuple[str, ...]
    """One name per target."""
    units: tuple[str | None, ...]
    """One unit per target."""
    point: str
    """Where the probe reads."""
    alpha: float
    """Ridge strength of all fits, in and out."""
    measure: str
    """What a row is scored by: `proximity error`, `accuracy` or `absolute error` (standard deviations)."""
    verdict: str
    """In words."""
    scores: pd.DataFrame
    """One row per figure: `measure`, `nominal`, `held_out`, `low`, `high` (95%, blocks resampled), `chance`,
    `chance_is`."""
    blocks: pd.DataFrame
    """One row per block: sizes, scores in and out with intervals, levels of chance, centroids."""
    predictors: pd.DataFrame = field(metadata={"saved_as": "rivals"})
    """One row per predictor (`probe`, `surface`, each baseline): pooled `r2` with `low`, `high`, and the
    difference of the probe to it, `probe_adds`, with interval; `angle`, `cosine`, `ratio` of centroids."""
    layers: pd.DataFrame
    """One row per layer, exploratory, if asked for; else empty."""
    predictions: pd.DataFrame
    """One row per held-out row: `source`, `text`, `block`, `split`, and `true_`, `pred_`, `nominal_` for
    every target."""
    note: str
    """Blocks left out, rows without a label, and baselines that were not refitted."""
    paper_compat: bool
    """Whether `blocks` and `scores` hold the paper's own scoring too (axes swapped, ties strict)."""
    provenance: Mapping[str, Any]
    """Model, table, settings and versions."""

    @property
    def title(self) -> str:
        """Model, table and what was held out."""
        return f"{self.model} on {self.table}: each {self.by} held out"

    def score(self, measure: str) -> Mapping[str, Any]:
        """The row of `scores` of a measure. Raises `KeyError` if there is none."""
        rows = self.scores[self.scores["measure"] == measure]
        if rows.empty:
            raise UnknownNameError(f"no measure {measure!r}; there are {', '.join(self.scores['measure'])}")
        return {str(k): v for k, v in rows.iloc[0].to_dict().items()}

    def summary(self) -> str:
        """The answer in words, then every figure beside its level of chance."""
        lines = [self.verdict]
        for row in self.scores.to_dict("records"):
            before = "" if pd.isna(row["nominal"]) else f"{row['nominal']:.4g} with the block in, "
            span = "" if pd.isna(row["low"]) else f" [{row['low']:.4g}, {row['high']:.4g}]"
            lines.append(
                f"{row['measure']}: {before}{row['held_out']:.4g}{span} held out; "
                f"{row['chance']:.4g} {row['chance_is']}"
            )
        surface = self.predictors[self.predictors["predictor"] == "surface"]
        if len(surface):
            s = surface.iloc[0]
            lines.append(
                f"the baselines refitted likewise: R² {signed(s['r2'], FEW)}; the probe adds "
                f"{with_interval(s['probe_adds'], (s['adds_low'], s['adds_high']), FEW)}"
            )
        where = layer_text(self.point)
        lines.append(
            f"{len(self.blocks)} blocks of {self.by} at {where}, strength {self.alpha:.3g}; {self.note}"
        )
        if len(self.blocks) < _FEW:
            lines.append(f"warning: {len(self.blocks)} blocks are few to resample: intervals are too narrow")
        if self.provenance.get("judged_in") == "bits":
            lines.append(IN_R2)
        if self.paper_compat:
            lines.append("paper_compat: scores so named read longitude as latitude and count no ties")
        return "\n".join(lines)

    def figures(self) -> dict[str, Figure]:
        """Nominal against held out by block; where the blocks were put; layers."""
        from graticule.probes.plots import holdouts as plots

        by, names = self.by, self.target_names
        caption = f"Each {by} with its rows in training, and held out"
        out = {caption: plots.dumbbell_figure(self.blocks, self.measure, by)}
        places = coordinate_columns(self.units) if self.kind == "numeric" else None
        if places is not None:
            caption = f"Where a fit that never saw the {by} puts it: true, predicted, and training mean"
            lat, lon = (names[i] for i in places)
            out[caption] = plots.held_out_maps_figure(self.predictions, self.blocks, lat, lon)
        elif len(names) == 1 and self.kind == "numeric":
            caption = f"{names[0]} of each {by}, true and predicted by a fit that never saw it"
            data = self.predictions, self.blocks
            out[caption] = plots.held_out_spans_figure(*data, names[0], self.units[0])
        if len(self.layers):
            caption = "Held-out R² by layer (exploratory) beside the nominal one"
            out[caption] = plots.held_out_layers_figure(self.layers, self.point)
        return out

    def tables(self) -> dict[str, pd.DataFrame]:
        """All figures with chance, baselines, blocks."""
        from graticule.probes.plots.style import label

        # words, as kilometres and shares in one column would share their decimals
        scores = self.scores.assign(
            **{name: [_number(v) for v in self.scores[name]] for name in ("nominal", "held_out", "chance")},
            span=[
                "" if pd.isna(low) else f"{_number(low)} to {_number(high)}"
                for low, high in zip(self.scores["low"], self.scores["high"], strict=True)
            ],
        )
        against = self.predictors.assign(predictor=[label(p) for p in self.predictors["predictor"]])
        columns = {"block": self.by, "nominal": f"{self.measure}, in"}
        headings = {name: columns.get(name, heading) for name, heading in _BLOCKS.items()}
        if "error_held_out" in self.blocks:
            headings |= {"error_nominal": "median error, in", "error_held_out": "held out (error)"}
        out = {
            "Known blocks and blocks never seen, each score beside its level of chance": headed(
                scores, _SCORES
            ),
            "The same blocks predicted from baselines, refitted without each block too": headed(
                against, _PREDICTORS
            ),
            f"Every {self.by} that was held out": headed(self.blocks, headings),
        }
        if len(self.layers):
            out["Every layer; exploratory but for the chosen one"] = self.layers.drop(columns=["point"])
        return out


def _number(value: float) -> str:
    return "" if pd.isna(value) else f"{value:,.0f}" if abs(value) >= 100 else f"{value:z.3f}"


# How its tables are made ----------------------------------------------------------------------------
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
    squares: Mapping[str, Squares], centres: Mapping[str, Centroids], n_bootstrap: int, seed: int
) -> pd.DataFrame:
    """One row per predictor; the same resamples of blocks for all, so the differences are paired."""
    table: list[dict[str, Any]] = []
    probe, n = squares["probe"], len(squares["probe"].error)
    whole = np.ones((1, n))
    for name, own in squares.items():

        def adds(weights: Draws, own: Squares = own) -> np.ndarray:
            return probe.r2(weights) - own.r2(weights)

        low, high = resampled_interval(own.r2, n, n_bootstrap, seed)
        adds_low, adds_high = resampled_interval(adds, n, n_bootstrap, seed)
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


def held_out_layer_table(
    problem: Problem, blocks: Blocks, probes: Iterable[tuple[str, ProbeWithout]]
) -> pd.DataFrame:
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
