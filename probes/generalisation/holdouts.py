"""Does the probe know blocks that it never saw? Countries, states, centuries, kinds of entity, any column."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from graticule.hooks.artifact import library_versions
from graticule.hooks.doors import BY, FINDINGS, door
from graticule.hooks.messages import UnknownNameError
from graticule.hooks.points import layer_of
from graticule.hooks.saved import SavedResult
from graticule.probes.applicable import NotApplicable
from graticule.probes.findings import Findings
from graticule.probes.generalisation.block_scores import (
    Centroids,
    Squares,
    centroids,
    mean_intervals,
    sign_test,
)
from graticule.probes.generalisation.blocks import Blocks, By, find_blocks
from graticule.probes.generalisation.held_out import (
    ProbeWithout,
    by_layer,
    probe_without,
    rivals_without,
)
from graticule.probes.generalisation.holdout_tables import (
    block_table,
    layer_table,
    rival_table,
    score_table,
)
from graticule.probes.generalisation.row_scores import score_rows
from graticule.probes.scores.in_words import FEW, signed, with_interval
from graticule.probes.scores.metrics import coordinate_columns

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_FEW = 10
_CAPTION_SCORES = "Known blocks and blocks never seen, each score beside its level of chance"
_CAPTION_RIVALS = "The same blocks predicted from baselines, refitted without each block too"


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
    """A name a target."""
    units: tuple[str | None, ...]
    """A unit a target."""
    point: str
    """Where the probe reads."""
    alpha: float
    """Ridge strength of all fits, in and out."""
    measure: str
    """What a row is scored by: `proximity error`, `accuracy` or `absolute error` (standard deviations)."""
    verdict: str
    """In words."""
    scores: pd.DataFrame
    """A line a figure: `measure`, `nominal`, `held_out`, `low`, `high` (95%, blocks resampled), `chance`,
    `chance_is`."""
    blocks: pd.DataFrame
    """A line a block: sizes, scores in and out with intervals, levels of chance, centroids."""
    rivals: pd.DataFrame
    """A line a predictor (`probe`, `surface`, each baseline): pooled `r2` with `low`, `high`, and the
    difference of the probe to it, `probe_adds`, with interval; `angle`, `cosine`, `ratio` of centroids."""
    layers: pd.DataFrame
    """A line a layer, exploratory, if asked for; else empty."""
    predictions: pd.DataFrame
    """A line a held-out row: `source`, `text`, `block`, `split`, and `true_`, `pred_`, `nominal_` for every
    target."""
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
        """The line of `scores` of a measure. **Raises** `KeyError` if there is none."""
        found = self.scores[self.scores["measure"] == measure]
        if found.empty:
            raise UnknownNameError(f"no measure {measure!r}; there are {', '.join(self.scores['measure'])}")
        return {str(k): v for k, v in found.iloc[0].to_dict().items()}

    def summary(self) -> str:
        """The answer in words, then every figure beside its level of chance."""
        lines = [self.verdict]
        for line in self.scores.to_dict("records"):
            before = (
                "" if line["nominal"] != line["nominal"] else f"{line['nominal']:.4g} with the block in, "
            )
            span = "" if line["low"] != line["low"] else f" [{line['low']:.4g}, {line['high']:.4g}]"
            lines.append(
                f"{line['measure']}: {before}{line['held_out']:.4g}{span} held out; "
                f"{line['chance']:.4g} {line['chance_is']}"
            )
        surface = self.rivals[self.rivals["predictor"] == "surface"]
        if len(surface):
            s = surface.iloc[0]
            lines.append(
                f"the baselines refitted likewise: R² {signed(s['r2'], FEW)}; the probe adds "
                f"{with_interval(s['probe_adds'], (s['adds_low'], s['adds_high']), FEW)}"
            )
        layer = layer_of(self.point)
        where = self.point if layer is None else f"layer {layer}"
        lines.append(
            f"{len(self.blocks)} blocks of {self.by} at {where}, strength {self.alpha:.3g}; {self.note}"
        )
        if len(self.blocks) < _FEW:
            lines.append(f"warning: {len(self.blocks)} blocks are few to resample: intervals are too narrow")
        if self.paper_compat:
            lines.append("paper_compat: scores so named read longitude as latitude and count no ties")
        return "\n".join(lines)

    def figures(self) -> dict[str, Figure]:
        """Nominal against held out by block; where the blocks were put; layers."""
        from graticule.probes.plots.holdouts import (
            dumbbell_figure,
            held_out_layers_figure,
            held_out_maps_figure,
            held_out_spans_figure,
        )

        out = {
            f"Each {self.by} with its rows in training, and held out": dumbbell_figure(
                self.blocks, self.measure, self.by
            )
        }
        if coordinate_columns(self.units) is not None and self.kind == "numeric":
            lat, lon = (self.target_names[i] for i in coordinate_columns(self.units) or (0, 1))
            out[f"Where a fit that never saw the {self.by} puts it: true, predicted, and training mean"] = (
                held_out_maps_figure(self.predictions, self.blocks, lat, lon)
            )
        elif len(self.target_names) == 1 and self.kind == "numeric":
            name, unit = self.target_names[0], self.units[0]
            out[f"{name} of each {self.by}, true and predicted by a fit that never saw it"] = (
                held_out_spans_figure(self.predictions, self.blocks, name, unit)
            )
        if len(self.layers):
            out["Held-out R² by layer (exploratory) beside the nominal one"] = held_out_layers_figure(
                self.layers, self.point
            )
        return out

    def tables(self) -> dict[str, pd.DataFrame]:
        """All figures with chance, baselines, blocks."""
        from graticule.probes.generalisation.holdout_words import readable

        return readable(self, _CAPTION_SCORES, _CAPTION_RIVALS)


@door(findings=FINDINGS, by=BY)
def holdouts(
    findings: Findings,
    by: By,
    *,
    values: Sequence[Any] | None = None,
    minimum: int = 10,
    point: str | None = None,
    layers: bool = False,
    alpha: float | None = None,
    skip_majority: bool = False,
    strings: bool | None = None,
    paper_compat: bool = False,
    draws: int = 2000,
    seed: int = 0,
    progress: bool | None = None,
) -> Holdouts:
    """Hold out each block in turn: train on every row outside it, test rows too, and predict it.

    As Gurnee & Tegmark, section 4 and appendix: *nominal* is the probe of the table's own split on the
    block's test rows, both are scored by the *combined* proximity error (rank among all predictions of the
    same fit, training ones in-sample), the mean over blocks unweighted. Proximity can look good where R² is
    far below 0, so beside it stand R² against the training mean, the error, the direction in which the
    block's centre was moved (θ = ∠(c_true − m, c_pred − m), m the mean training target) and how far, each
    with its level of chance. All refits come from one Gram matrix a layer, see `leave_blocks_out`. Rows that
    share a cluster with a block go out with it.

    **Arguments:**

    - `by`: a column of the table, or a label a table row. `values` names the blocks; otherwise all with
      `minimum` test rows are held out, without the largest if `skip_majority` (the paper's entity types).
    - `point`: the chosen one by default; `layers` adds every other, exploratory.
    - `alpha`: the strength of all fits, nominal too (the paper fixed 3000 and more); by default the one
      chosen on training rows.
    - `strings`: whether TF-IDF is refitted too, a sparse solve a block; by default where that is quick.
    - `paper_compat`: adds the paper's own scoring, so named.
    - `draws`, `seed`: of the bootstrap over blocks; the intervals of means over blocks take 1,000 at most.

    **Raises** `KeyError` for an unknown column or point, `ValueError` as `find_blocks`, for a target that is
    constant outside a block, and for findings without their material.
    """
    material, point = findings.material, point or findings.chosen_point
    if point not in findings.probes:
        raise UnknownNameError(f"no probe at {point!r}: {', '.join(findings.probes)}")
    table, problem = material.table, material.problem
    blocks = check_blocks(findings, by, values=values, minimum=minimum, skip_majority=skip_majority)
    probe = probe_without(findings, point, blocks, alpha)
    measure, held = score_rows(material, point, blocks, probe, paper_compat, progress)
    code, m = blocks.code, probe.fits.y_mean
    y = problem.y[blocks.every]
    found, left_out = rivals_without(findings, blocks, strings, progress)
    predictors = {"probe": probe.held_out, **dict(sorted(found.items(), key=lambda kv: kv[0] != "surface"))}
    squares = {n: Squares.of(y, p, m[code], code, len(m)) for n, p in predictors.items()}
    centres = {n: centroids(y, p, code, m) for n, p in predictors.items()}
    intervals = mean_intervals(
        held.held_out, code, problem.clusters[blocks.every], len(m), min(draws, 1000), seed
    )
    scores = score_table(held, probe.held_out, squares["probe"], centres["probe"], measure, draws, seed)
    swept = by_layer(findings, blocks, progress) if layers else {}
    note = blocks.note
    if left_out:
        note += f"; {', '.join(left_out)} was not refitted (pass strings=True)"
    if together := sum(len(x) for x in blocks.mates):
        note += f"; {together} rows outside went out with their cluster"
    return Holdouts(
        model=findings.model,
        table=findings.table,
        by=blocks.by,
        numeric=blocks.numeric,
        kind=table.kind,
        target_names=table.target_names,
        units=table.units,
        point=point,
        alpha=probe.alpha,
        measure=measure,
        verdict=_words(blocks, scores, centres["probe"]),
        scores=scores,
        blocks=block_table(blocks, held, squares["probe"], centres["probe"], intervals, table.target_names),
        rivals=rival_table(squares, centres, draws, seed),
        layers=layer_table(findings, blocks, swept),
        predictions=_rows(findings, blocks, probe),
        note=note,
        paper_compat=paper_compat,
        provenance={
            "findings": dict(findings.provenance),
            "settings": {
                "by": blocks.by, "values": None if values is None else [str(v) for v in values],
                "minimum": minimum, "point": point, "alpha": alpha, "skip_majority": skip_majority,
                "paper_compat": paper_compat, "draws": draws, "seed": seed,
            },
            "refitted_for_want_of_digits": probe.fits.refitted,
            "versions": library_versions(),
            "made_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        },
    )  # fmt: skip


def check_blocks(
    findings: Findings,
    by: By,
    *,
    values: Sequence[Any] | None = None,
    minimum: int = 10,
    skip_majority: bool = False,
) -> Blocks:
    """The blocks that `holdouts` of the same arguments holds out; it raises what this raises.

    Raises:
        NotApplicable: Fewer than two blocks, or a block without which there is nothing to learn.
    """
    material = findings.material
    table, problem = material.table, material.problem
    blocks = find_blocks(table, problem, by, values=values, minimum=minimum, skip_majority=skip_majority)
    _need_variation(blocks, material)
    return blocks


def _need_variation(blocks: Blocks, material: Any) -> None:
    y = material.problem.y
    for name, gone in zip(blocks.names, blocks.taken_out, strict=True):
        kept = np.delete(y, gone, axis=0)
        constant = np.ptp(kept, axis=0) == 0
        if constant.all():
            raise NotApplicable(
                f"without {blocks.by} {name!r} the target is constant ({', '.join(material.problem.names)}): "
                "there is nothing to learn; leave this block out with values="
            )


def _words(blocks: Blocks, scores: pd.DataFrame, centres: Centroids) -> str:
    """Does it know blocks that it never saw? By pooled R² against the training means."""
    line = scores[scores["measure"] == "R²"].iloc[0]
    figure = f"R² {with_interval(line['held_out'], (line['low'], line['high']), FEW)}"
    if line["low"] > 0:
        words = f"a {blocks.by} never seen is placed better than by the training mean"
    elif line["high"] < 0:
        words = f"a {blocks.by} never seen is placed worse than by the training mean"
    else:
        words = f"not decided whether a {blocks.by} never seen is placed better than by the training mean"
    if centres.true.shape[1] == 1:
        right, p = np.nanmean(centres.cosine > 0), sign_test(centres.cosine)
        side = f"{right:.0%} of the blocks on their side of the mean (chance 50%, p {p:.2g})"
    else:
        side = f"blocks moved at {np.nanmedian(centres.angle):.0f}° to where they lie (chance 90°)"
    return f"{words}: {figure}; {side}"


def _rows(findings: Findings, blocks: Blocks, probe: ProbeWithout) -> pd.DataFrame:
    material = findings.material
    problem, table, every = material.problem, material.table, blocks.every
    out = pd.DataFrame({"source": table.source_rows[problem.source[every]]})
    if table.texts is not None:
        out["text"] = [table.texts[i] for i in problem.source[every]]
    out["block"] = np.array(blocks.names, dtype=object)[blocks.code]
    out["split"] = np.where(problem.is_test[every], "test", "train")
    for t, name in enumerate(table.target_names):
        out[f"true_{name}"] = problem.y[every, t]
        out[f"pred_{name}"] = probe.held_out[:, t]
        out[f"nominal_{name}"] = np.where(problem.is_test[every], probe.nominal[every, t], np.nan)
    return out
