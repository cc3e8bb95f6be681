"""What a page says of findings under the verdict: lines, the figures that fit the target, tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from graticule.hooks.alignment import BY_PLACE
from graticule.hooks.points import layer_of
from graticule.probes.core.class_lines import class_columns, class_names, reading
from graticule.probes.core.detection import detection, power_curve
from graticule.probes.core.verdict import Verdict, score_unit
from graticule.probes.scores.metrics import coordinate_columns, count_of, number_text, signed, with_interval

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from graticule.probes.core.findings import Findings


ON_TRUST = "baselines_on_trust"
"""In the provenance where the activations say of no model, and baselines of a model stand against them."""
_CAPTION_LAYERS = "Every layer; test scores of layers that were not chosen are exploratory"
_CAPTION_BASELINES = "The baselines, each with its layer and strength chosen on training rows"
_CAPTION_CONFOUNDERS = "Confounders: by themselves, and the gain among rows alike in them"
_CAPTION_BALANCE = "Confounders by class: shares of the class's rows, means, or correlation with a number"
_CAPTION_WORST = "Test rows that the probe gets most wrong"


def count_of_test_rows(findings: Findings) -> str:
    """`16 test rows`."""
    return count_of(int((findings.predictions["split"] == "test").sum()), "test row")


def summary_lines(findings: Findings) -> list[str]:
    """The verdict, where it was found, what it stands against, and the checks."""
    point, layer = findings.chosen_point, findings.chosen_layer
    first, *rest = findings.verdict.summary().splitlines()  # the verdict is the first line everywhere
    of_classes = reading(findings)
    lines = [
        first,
        *part_of_table(findings),
        *(of_classes if findings.kind != "numeric" else ()),  # what a reader of labels asks first
        *rest,
        *carried(findings),
        *_confounders(findings),
        *_detection(findings),
        *([] if findings.retest is None else [findings.retest]),
        *_against_itself(findings),
        *_pairing(findings),
        *(of_classes if findings.kind == "numeric" else ()),
        f"at {point if layer is None else f'layer {layer}'} ({point}), chosen on training rows; "
        f"{findings.split_note}",
        *one_part(findings),
    ]
    why = count_of_test_rows(findings)
    for name, check in findings.checks.items():
        gain = with_interval(check.gain, check.ci95, why)
        lines.append(f"check, {name}: {check.label} (gain {gain})")
    if "shuffled" in findings.baselines:
        metric = findings.verdict.metric
        value = float(findings.baselines["shuffled"]["test"][metric])
        lines.append(f"check, shuffled targets: test {score_unit(metric)} {signed(value, why)}")
    return lines


def one_part(findings: Findings) -> list[str]:
    """The verdict on the one test part, which what goes on from here is judged on."""
    split = findings.split_verdict
    if split is None:
        return []
    gain = with_interval(split.gain, split.ci95, count_of_test_rows(findings))
    return [
        f"for comparison, that one held-out part alone: {split.label} (gain {gain}); figures and checks of "
        "test rows are of it"
    ]


def _detection(findings: Findings) -> list[str]:
    """The limit of detection and what an undecided gain would take."""
    limit, few = findings.limit_of_detection, count_of_test_rows(findings)
    return detection(findings.verdict, limit, findings.largest_gain_tried, few)


def carried(findings: Findings) -> list[str]:
    """Which member of the surface carries it: the one without which its test R² would fall most."""
    adds = {name: float(line["adds"]) for name, line in findings.baselines.items() if "adds" in line}
    name = max(adds, key=lambda one: adds[one], default="")
    if len(adds) < 2 or not findings.baselines[name]["without"] + adds[name] > 0.01:
        return []
    alone = f"alone {number_text(float(findings.baselines[name]['test']['r2']))}"
    unit = "R²" if findings.verdict.metric == "r2" else "Brier skill"
    figures = f"{alone}, without it {number_text(float(findings.baselines[name]['without']))} {unit}"
    if adds[name] < 0.01:
        return [f"no member of the surface carries it by itself, {name} most ({figures})"]
    return [f"the surface is carried by {name} ({figures})"]


def _confounders(findings: Findings) -> list[str]:
    """What is left of the gain among rows alike in a confounder, and of the target without them all."""
    unit, lines = score_unit(findings.verdict.metric), list[str]()
    declared = [line for line in findings.confounders if line.declared]
    for line in declared:
        why = f"{count_of(line.rows, 'test row')} in levels of several"
        gain = with_interval(line.gain, (line.low, line.high), why)
        lines.append(
            f"within {count_of(line.levels, 'level')} of {line.name}: gain {gain} {unit}; {line.name} alone "
            f"{number_text(line.alone)} out of fold, the probe {number_text(line.probe)}"
        )
    if (rest := findings.residualised) is not None:
        gain = with_interval(rest.gain, rest.ci95, count_of_test_rows(findings))
        names = ", ".join(line.name for line in declared)
        lines.append(
            f"of the target less what {names} predict{'s' * (len(declared) == 1)}, as numbers: gain {gain} R²"
        )
    return lines


def _against_itself(findings: Findings) -> list[str]:
    """A baseline that reads at the chosen point what the probe reads."""
    test = findings.predictions[findings.predictions["split"] == "test"]
    ours = test[[f"pred_{name}" for name in findings.target_names]].to_numpy(np.float64)
    return [
        f"the baseline {name} reads what the probe reads at {findings.chosen_point}: the gain is 0 by "
        "construction, since no later point was better on training rows"
        for name, one in findings.baseline_predictions.items()
        if one.test.shape == ours.shape
        and (np.abs(one.test - ours) <= 1e-6 * np.ptp(ours, axis=0)).all()
        and np.ptp(ours) > 0
    ]


def _pairing(findings: Findings) -> list[str]:
    lines: list[str] = []
    if findings.provenance.get("pairing") == BY_PLACE:
        lines.append(
            "rows were paired with the table by place: nothing says which texts the activations are of, "
            "and their order cannot be checked"
        )
    if findings.provenance.get(ON_TRUST):
        lines.append(
            "nothing says which model the activations are of: that the baselines are of it is on trust"
        )
    return lines


def part_of_table(findings: Findings) -> list[str]:
    """How many of the table's rows were used, where they were not all."""
    count, used = findings.provenance.get("table", {}).get("rows"), findings.predictions["source"].nunique()
    if count is None or used >= count:
        return []
    return [f"of {used} of the table's {count} rows alone: there are activations of no others"]


# Figures and tables ----------------------------------------------------------------------------------
def power_figures(verdict: Verdict) -> dict[str, Figure]:
    """Caption → figure: how many test rows it would take, where they are what is wanting."""
    curve = power_curve(verdict)
    if curve is None or verdict.rows is None:
        return {}
    from graticule.probes.plots.power import power_figure

    return {"How often a gain would be seen, by test rows": power_figure(curve, verdict.rows)}


def target_figures(findings: Findings) -> dict[str, Figure]:
    """Caption → figure: a map for coordinates, one scatter per number, scores or confusions for classes."""
    rows = findings.predictions
    block = findings.block_names[0] if findings.block_names else None
    if findings.kind != "numeric":
        return _class_figures(findings)
    places = coordinate_columns(findings.units)
    if places is not None:
        return _place_figures(findings, places, block)
    from graticule.probes.plots import block_error_figure, scatter_figure

    out: dict[str, Figure] = {}
    for name, unit in zip(findings.target_names[:6], findings.units, strict=False):
        true, pred = f"true_{name}", f"pred_{name}"
        out[f"Predicted against true {name}, test rows"] = scatter_figure(rows, true, pred, block, unit)
        if block is not None:
            caption = f"Error of {name} by {block}, test rows"
            out[caption] = block_error_figure(rows, block, true=true, pred=pred, unit=unit)
    return out


def _place_figures(findings: Findings, places: tuple[int, int], block: str | None) -> dict[str, Figure]:
    from graticule.probes.plots import block_error_figure, map_figure

    lat, lon = (findings.target_names[i] for i in places)
    caption = "True places above, predicted places below, test rows"
    out = {
        f"{caption}, coloured by {block}" if block else caption: map_figure(
            findings.predictions, lat, lon, block
        )
    }
    if block is not None:
        out[f"Error by {block}, test rows"] = block_error_figure(
            findings.predictions, block, error="error_km"
        )
    return out


def _class_figures(findings: Findings) -> dict[str, Figure]:
    from graticule.probes.plots import class_score_figure, confusion_figure

    rows = findings.predictions[findings.predictions["split"] == "test"]
    if findings.kind == "binary":
        name = findings.target_names[0]
        positive = rows[f"true_{name}"].to_numpy(np.float64) > 0.5
        names = findings.classes or ("no", "yes")
        figure = class_score_figure(rows[f"pred_{name}"].to_numpy(np.float64), positive, names)
        return {f"The probe's score for {names[-1]}, test rows": figure}
    true, pred = (class_names(findings)[class_columns(rows, findings, side)] for side in ("true", "pred"))
    return {"True and predicted classes, test rows": confusion_figure(true, pred, findings.classes)}


def worst_rows(findings: Findings, count: int = 20) -> pd.DataFrame:
    """The test rows with the largest error (kilometres, or the mean over targets in standard deviations); of
    classes, those alone that were taken for another."""
    rows = findings.predictions[findings.predictions["split"] == "test"]
    true = rows[[f"true_{n}" for n in findings.target_names]].to_numpy(np.float64)
    pred = rows[[f"pred_{n}" for n in findings.target_names]].to_numpy(np.float64)
    if "error_km" in rows:
        name, error = "error (km)", rows["error_km"].to_numpy(np.float64)
    else:
        spread = true.std(axis=0)
        error = (np.abs(true - pred) / np.where(spread > 0, spread, 1.0)).mean(axis=1)
        name = "error (standard deviations)"
    order = np.argsort(-error, kind="stable")
    was, taken = (class_columns(rows, findings, side) for side in ("true", "pred"))
    if findings.kind != "numeric":
        order = order[(taken != was)[order]]
    order = order[:count]
    worst = rows.iloc[order]
    places = ("source", "position", "token") if "position" in worst else ()
    out = worst[[c for c in ("text", *places) if c in worst]].copy()
    if findings.kind != "numeric":
        names = class_names(findings)
        out["true class"], out["predicted class"] = names[was[order]], names[taken[order]]
    if findings.kind == "categorical":
        out["score of the true class"] = pred[order, was[order]]
        out["score of the predicted class"] = pred[order, taken[order]]
    for i, target in enumerate(findings.target_names[:3] if findings.kind != "categorical" else ()):
        out[f"{target}, true"] = true[order, i]
        out[f"{target}, predicted"] = pred[order, i]
    out[name] = error[order]
    for block in findings.block_names:
        if block in worst:
            out[block] = worst[block]
    return out.reset_index(drop=True)


def layer_table(findings: Findings) -> pd.DataFrame:
    """Every layer's scores, those that are read first in front, the ridge strengths at the end."""
    layers = findings.layers.drop(columns=["point", "exploratory", "depth"])
    if layers["validation_gain"].isna().all():  # without baselines of the model, and in earlier findings
        layers = layers.drop(columns="validation_gain")
    of_bits = ["test_bits", "validation_bits"] if findings.verdict.metric == "bits" else []
    if len(findings.target_names) == 1:  # what the mean over one target says
        layers = layers.drop(columns=f"test_r2_{findings.target_names[0]}", errors="ignore")
    ends = ["alpha", "alpha_at_edge"]
    scores = ["test_r2", "validation"]
    first = ["layer", *of_bits, *(["validation_gain", *scores] if of_bits else [*scores, "validation_gain"])]
    columns = [c for c in layers.columns if c not in (*first, *ends)]
    return layers[[c for c in (*first, *columns, *ends) if c in layers]]


def scores_by_layer(findings: Findings) -> pd.DataFrame:
    """`Findings.layers`."""
    lines: list[dict[str, Any]] = []
    count = max((s["layer"] or 0 for s in findings.layer_scores), default=0) + 1
    for scores in findings.layer_scores:
        line = {k: v for k, v in scores.items() if k != "test"}
        gain = line.get("validation_gain")
        line["validation_gain"] = float("nan") if gain is None else gain
        line["depth"] = None if scores["layer"] is None else (scores["layer"] + 1) / count
        for name, value in scores["test"].items():
            key = f"test_{name}" if name in ("r2", "bits") else name
            if isinstance(value, Mapping):
                prefix = "test_r2" if name == "r2_by_target" else name
                line |= {f"{prefix}_{target}": v for target, v in value.items()}
            else:
                line[key] = value
        lines.append(line)
    return pd.DataFrame(lines)


def _in_bits(findings: Findings, line: Mapping[str, Any]) -> dict[str, float]:
    """Of a baseline, where the verdict is in bits."""
    if findings.verdict.metric != "bits":
        return {}
    return {"test bits": line["test"]["bits"], "validation bits": line["validation_bits"]}


def _confounder_tables(findings: Findings) -> dict[str, pd.DataFrame]:
    """Caption → table, where there are confounders: the gain beside each, and how each is shared out."""
    if not findings.confounders:
        return {}
    gains = [
        {
            "confounder": line.name,
            "in the surface": "yes" if line.declared else "no",
            "alone, out of fold": line.alone,
            "the probe": line.probe,
            "gain within levels": line.gain,
            "low": line.low,
            "high": line.high,
            "levels": line.levels,
            "test rows": line.rows,
        }
        for line in findings.confounders
    ]
    balance = [
        {"confounder": line.name, "level": level, **by_class}
        for line in findings.confounders
        for level, by_class in line.balance.items()
    ]
    return {_CAPTION_CONFOUNDERS: pd.DataFrame(gains), _CAPTION_BALANCE: pd.DataFrame(balance)}


def tables_of(findings: Findings) -> dict[str, pd.DataFrame]:
    """Caption → table: baselines, the rows that are most wrong, layers."""
    from graticule.probes.plots.style import label

    rows = [
        {
            "baseline": label(name),
            **_in_bits(findings, line),
            "test R²": line["test"]["r2"],
            "surface without it": line.get("without"),
            "validation R²": line["validation"],
            "layer": layer_of(line["point"]) if line["point"] else None,
            "alpha": line["alpha"],
        }
        for name, line in findings.baselines.items()
    ]
    worst = worst_rows(findings)
    return {
        _CAPTION_BASELINES: pd.DataFrame(rows),
        **_confounder_tables(findings),
        **({_CAPTION_WORST: worst} if len(worst) else {}),
        _CAPTION_LAYERS: layer_table(findings),
    }
